#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The usual clients against a file export of a running daemon: they see it, copy to and from
# it, verify what they wrote, over the Unix socket and TCP.
. "$(dirname "$0")/lib.sh"
requires nbdinfo nbdcopy qemu-io qemu-img fio
requires_python nbd

need_daemon
check "an export is created" cli file create disk size 64M
check "a second one is created" cli file create other size 8M name second
tcp=nbd://127.0.0.1:$(port_of nbd)
head -c 64M /dev/urandom >"$T/source"

same "nbdinfo reads the size over the Unix socket" 67108864 "$(nbdinfo --size "$(uri file/disk)")"
same "nbdinfo reads the size over TCP" 67108864 "$(nbdinfo --size "$tcp/file/disk")"
nbdinfo --json --list "$tcp" >"$T/list"
same "the exports are listed" "file/disk second" \
    "$(json '" ".join(sorted(e["export-name"] for e in j["exports"]))' <"$T/list")"
refuses "an unknown export is refused" 1 "nosuch" nbdinfo --size "$(uri nosuch)"
for can in flush fua trim zero cache "multi-conn" df; do
    check "the export can $can" nbdinfo --can $can "$(uri file/disk)"
done
check "the export is not read-only" bash -c '! nbdinfo --is readonly "$0"' "$(uri file/disk)"

check "nbdcopy writes it" nbdcopy "$T/source" "$(uri file/disk)"
check "nbdcopy reads it over TCP with four connections" \
    nbdcopy --connections=4 "$tcp/file/disk" "$T/copy"
check "the copy is equal" cmp "$T/source" "$T/copy"
check "the image is equal" cmp "$T/source" "$D/images/disk"
check "qemu-img compares equal" qemu-img compare -f raw -F raw "$T/source" "$(uri file/disk)"

qemu-io -f raw -c 'write -P 0xa5 12345 67890' -c 'flush' -c 'write -f -P 0x5a 1M 64k' \
    -c 'write -z 2M 1M' -c 'discard 4M 1M' "$(uri file/disk)" >"$T/out" 2>&1
check "qemu-io reads its patterns back" qemu-io -f raw -r -c 'read -P 0xa5 12345 67890' \
    -c 'read -P 0x5a 1M 64k' -c 'read -P 0 2M 1M' "$tcp/file/disk"
check "... and found no other bytes" bash -c '! grep -q -i fail "$0"' "$T/out"
refuses "a read beyond the end fails" 1 "" qemu-io -f raw -r -c 'read 64M 512' "$(uri file/disk)"

check "fio verifies random writes" fio --name=v --ioengine=nbd --uri="$(uri file/disk)" \
    --rw=randwrite --bsrange=512-128k --blockalign=512 --size=64M --io_size=32M --iodepth=16 \
    --verify=crc32c --do_verify=1 --verify_fatal=1 --randseed=1 --output="$T/fio"

for ((i = 0; i < 50; i++)); do cli export add mem "$i" name "many$i" opt size=64K; done >"$T/out" 2>&1
same "nbdinfo asks about each of many exports" 52 "$(nbdinfo --no-content --list "$(uri)" | grep -c '^export=')"
if command -v qemu-nbd >/dev/null; then
    same "qemu-nbd does so in one session" 52 "$(qemu-nbd -L -k "$D/nbd.sock" | grep -c "export:")"
fi

"$PYTHON" -c 'import nbd, sys, time
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.pread(512, 0)
open(sys.argv[2], "w").close()
time.sleep(600)' "$(uri many1)" "$T/attached" &
stop_at_end+=($!)
await 10 test -e "$T/attached"
cli clients >"$T/table"
check "the table of clients tells their last activity" \
    awk 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "ACTIVE") at = i }
        $2 == "many1" { found = at > 0 && $at ~ /^20[0-9-]+T/ } END { exit !found }' "$T/table"

check "libnbd takes answers in any order" "$PYTHON" "$HERE/aio.py" "$tcp/file/disk"
check "the daemon ends with 0" stop_daemon
