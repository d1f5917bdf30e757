#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# conformance.sh gluster|ceph|nbd: the battery of NBD clients that the variable CONFORMANCE
# names, against an export of that handler. For nbd the server behind it is qemu-nbd.
kind=${1-}
. "$(dirname "$0")/lib.sh"
BYTES=$((128 << 20))
# The battery fails when one of these is not offered.
FEATURES=list,names,structured,extended,df,meta,allocation-depth,flush,fua,trim,zeroes,multi-conn,block-size

case $kind in
gluster)
    . "$CLUSTERS/gluster.sh"
    requires glusterd gluster
    glusterd_start || { fail "glusterd starts" "$G/log/glusterd.log"; exit 1; }
    volume_make vol >"$T/out" 2>&1 || { fail "the volume starts" "$T/out"; exit 1; }
    need_daemon --ghost "$GHOST"
    FEATURES=$FEATURES,fast-zero
    make() { cli gluster create "vol/$1" size $BYTES name "$1"; }
    add_readonly() { cli export remove "$1" && cli export add gluster "vol/$1" name "$1" readonly; }
    ;;
ceph)
    requires ceph ceph-osd ceph-mon rbd
    need_ceph
    need_daemon
    FEATURES=$FEATURES,fast-zero
    # RBD knows of holes as far as they are whole objects: those of the battery have 1 MiB.
    make() { cli ceph create "rbd/$1" size $BYTES name "$1" opt object_size=1M; }
    add_readonly() { cli export remove "$1" && cli export add ceph "rbd/$1" name "$1" readonly; }
    ;;
nbd)
    requires qemu-nbd
    need_daemon
    make() {
        truncate -s $BYTES "$T/$1"
        qemu-nbd -t -f raw -e 32 -x "$1" -k "$T/$1.sock" --discard=unmap "$T/$1" \
            >"$T/$1.log" 2>&1 </dev/null &
        stop_at_end+=($!)
        await 10 test -S "$T/$1.sock" && cli export add nbd "unix:$T/$1.sock:$1" name "$1"
    }
    add_readonly() {
        cli export remove "$1" && cli export add nbd "unix:$T/$1.sock:$1" name "$1" readonly
    }
    ;;
*) echo "usage: conformance.sh gluster|ceph|nbd" >&2; exit 2 ;;
esac

check "an export" make scratch
check "another one" make fixed
check "which is read-only" add_readonly fixed
timeout -k 10 "${CONFORMANCE_LIMIT_S:-540}" "${CONFORMANCE:?names no program}" --quiet-skips \
    --pid "$DAEMON" --size $BYTES --ro-uri "$(uri fixed)" --expect "$FEATURES" "$(uri scratch)" \
    >"$T/battery" 2>&1 </dev/null
code=$?
sed 's/^NOT ok/not ok/' "$T/battery"
[ $code = 0 ] || fail "the battery ends with 0, not $code" "$LOG"
check "the daemon ends with 0" stop_daemon
