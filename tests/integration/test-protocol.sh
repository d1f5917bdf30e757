#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The rules of the NBD protocol, by a client that checks every byte, over the Unix socket and
# TCP: tests/protocol/test_*.py against one daemon.
. "$(dirname "$0")/lib.sh"

FAULT=$BUILDDIR/tests/handlers/.libs/libfault_handler.so
[ -e "$FAULT" ] || { echo "skip: the test handlers are not built (make check)"; exit 77; }
mkdir "$T/handlers"
ln -s "$HANDLERS"/lib*_handler.so "$FAULT" "$T/handlers"
HANDLERS=$T/handlers
PROTOCOL=$SRCDIR/tests/protocol

image() { # NAME SIZE [ARG...]: a sparse file and its export
    local name=$1 size=$2
    shift 2
    truncate -s "$size" "$D/images/$name" && cli export add file "$name" name "$name" "$@"
}
mkdir -p "$D/images"
need_daemon
head -c 64M /dev/urandom >"$D/images/disk"
cp "$D/images/disk" "$D/images/readonly"
{
    image disk 64M description "the disk of the tests – with a dash" &&
        image readonly 64M readonly && image large 192M && image sparse 96M &&
        image huge 2T && image scene 109521666048 &&
        image size-1 1 && image size-511 511 && image size-2147483649 2147483649 &&
        truncate -s 1M "$D/images/words" && cli export add file words name "größe/Ω"
} >"$T/out" 2>&1 || fail "the exports are made" "$T/out"
for error in EIO EPERM ENOMEM EINVAL ENOSPC EOVERFLOW ENOENT ENOTSUP; do
    cli export add fault $error name fails-$error opt size=1M opt error=$error >"$T/out" 2>&1 ||
        fail "an export that fails with $error is made" "$T/out"
done

port=$(port_of nbd)
for test in options contexts extended commands status; do
    "$PYTHON" "$PROTOCOL/test_$test.py" "images=$D/images" "unix:$D/nbd.sock" "127.0.0.1:$port" ||
        failures=$((failures + 1))
done
check "the daemon still answers" cli status
check "the daemon ends with 0" stop_daemon
