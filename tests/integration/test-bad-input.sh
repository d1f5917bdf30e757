#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Sizes, names and targets that make no sense are refused in one clear line and change nothing.
. "$(dirname "$0")/lib.sh"

need_daemon
check "an ordinary one works" cli file create good size 1M
mkdir "$T/outside"
ln -s "$T/outside" "$D/images/way-out"
ln -s "$T/outside/file" "$D/images/link"
: >"$T/outside/file"

for size in 1X -1 0 9223372036854775808 1.0001K 99Y "" 1G1; do
    refuses "size '$size' is wrong usage" 2 "size" cli file create bad size "$size"
done
refuses "create without a size is wrong usage" 2 "size" cli file create bad
for size in 1G 1GiB 1g 1024M 1073741824; do
    name=size-$size
    check "size $size" cli file create "$name" size "$size"
    same "... is a GiB" 1073741824 "$(stat -c %s "$D/images/$name")"
    cli file delete "$name" >/dev/null
done

long=$(printf '%300s' | tr ' ' n)
refuses "an empty target is refused" 2 "TARGET" cli file create "" size 1M
refuses "an empty name is refused" 2 "name" cli file create bad size 1M name ""
refuses "a name of 300 bytes is refused" 2 "255" cli file create bad size 1M name "$long"
refuses "a file name of 300 bytes is refused" 1 "" cli file create "$long" size 1M
refuses ".. is refused" 1 ".." cli file create ../outside/x size 1M
refuses ".. in the middle is refused" 1 ".." cli file create a/../../outside/x size 1M
refuses "an absolute path elsewhere is refused" 1 "$T/outside" cli file create "$T/outside/x" size 1M
refuses "a directory link that leads out is refused" 1 "" cli file create way-out/x size 1M
refuses "a link that leads out is not exported" 1 "" cli export add file link name leak
refuses "a directory is not exported" 1 "" cli export add file . name dir
refuses "a file that is not there is not exported" 1 "none" cli export add file none name none
refuses "an unknown handler is refused" 1 "nosuch" cli export add nosuch x name x
refuses "an unknown command is wrong usage" 2 "frobnicate" cli file frobnicate
refuses "an unknown word is wrong usage" 2 "sze" cli file create bad sze 1M
refuses "a repeated word is wrong usage" 2 "size" cli file create bad size 1M size 2M

same "nothing was made outside" file "$(ls "$T/outside")"
same "nothing was made inside" "good link way-out" "$(ls "$D/images" | tr '\n' ' ' | sed 's/ $//')"
same "one export is there" "file/good" "$(export_names)"
check "a failure as JSON has code and message" bash -c '"$0" --dir "$1" --json export remove none 2>/dev/null |
    /usr/bin/python3 -c "
import json, sys
e = json.load(sys.stdin)[\"error\"]
assert e[\"code\"] == \"ENOENT\" and e[\"message\"], e"' "$BUILDDIR/nbd-cli" "$D"
check "the daemon ends with 0" stop_daemon

refuses "the daemon refuses unknown words" 2 "frobnicate" timeout 20 "$BUILDDIR/nbd-runner" frobnicate
refuses "... and a port that is none" 2 "70000" timeout 20 "$BUILDDIR/nbd-runner" --ioport 70000
echo 'nonsense' >"$D/nbd-runner.conf"
start_daemon
same "a broken configuration ends with 3" 3 $?
check "... naming the file" await 10 is_logged nbd-runner.conf
