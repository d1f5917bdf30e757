#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A disk that is far too slow for what is written to it: the kernel makes every buffered write
# wait (dirty throttling). The daemon's loop stays live all the same: a small read each
# millisecond from another export never waits long, and what was written is there.
# Runs as root where the driver is. The disk is an NBD device itself, of a daemon that answers
# late.
. "$(dirname "$0")/../integration/lib.sh"
requires_root
requires_python nbd
requires mkfs.ext4

FAULT=$BUILDDIR/tests/handlers/.libs/libfault_handler.so
[ -e "$FAULT" ] || { echo "skip: the test handlers are not built (make check)"; exit 77; }
mkdir "$T/handlers" "$T/mnt"
ln -s "$HANDLERS"/lib*_handler.so "$FAULT" "$T/handlers"
HANDLERS=$T/handlers

cat >"$T/write.py" <<'EOP'
# Writes 64 KiB blocks at depth 16 for so many seconds, then flushes. Prints how many, and the
# longest time of one. The first 8 bytes of a block number the last write to it.
import sys, time, nbd
uri, seconds = sys.argv[1], float(sys.argv[2])
h = nbd.NBD()
h.connect_uri(uri)
blocks, count, longest, flying, last = h.get_size() >> 16, 0, 0.0, {}, {}
end = time.monotonic() + seconds
while flying or time.monotonic() < end:
    while len(flying) < 16 and time.monotonic() < end:
        block = count * 7919 % blocks
        count += 1
        buffer = nbd.Buffer.from_bytearray(bytearray(count.to_bytes(8, "little") * 8192))
        flying[h.aio_pwrite(buffer, block << 16)] = time.monotonic()
        last[block] = count
    h.poll(1000)
    for cookie in [c for c in flying if h.aio_command_completed(c)]:
        longest = max(longest, time.monotonic() - flying.pop(cookie))
h.flush()
for block, number in last.items():
    if h.pread(65536, block << 16) != number.to_bytes(8, "little") * 8192:
        sys.exit("block %d is not what was written last" % block)
h.shutdown()
print("%d writes, longest %d ms" % (count, longest * 1000))
EOP
D=$T/disk
need_daemon
stop_at_end+=($DAEMON)
check "a device for the disk" cli export add fault disk name disk opt size=192M opt "delay_ms=50"
check "it is mapped" cli fault map disk nbd1
mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1 -J size=4 /dev/nbd1 &&
    mount /dev/nbd1 "$T/mnt" || fail "a file system on it"
unmount_at_end+=("$T/mnt")

# ---- two requests of 32 KiB at a time, 50 ms each; little may be dirty ----
echo 2 >/sys/block/nbd1/queue/nr_requests
echo 32 >/sys/block/nbd1/queue/max_sectors_kb
echo $((1 << 20)) >/proc/sys/vm/dirty_background_bytes
echo $((4 << 20)) >/proc/sys/vm/dirty_bytes
D=$T/d
mkdir -p "$D"
ln -s "$T/mnt" "$D/images"
need_daemon
truncate -s 64M "$T/mnt/image"
check "an export on the slow disk" cli export add file image name slow
check "another export" cli export add null beside name beside opt size=1M

"$PYTHON" "$HERE/heartbeat.py" "$(uri beside)" "$T/stop-heartbeat" >"$T/heartbeat" 2>&1 &
heartbeat=$!
stop_at_end+=($heartbeat)
check "the heartbeat runs" await 10 grep -q beating "$T/heartbeat"
check "a client writes more than the disk can take" timeout 200 \
    "$PYTHON" "$T/write.py" "$(uri slow)" 15
echo "# $(cat "$T/out")"
touch "$T/stop-heartbeat"
finish 20 $heartbeat
longest=$(sed -n 's/.*longest \([0-9]*\) ms/\1/p' "$T/out")
check "its writes were throttled (the longest took $longest ms)" test "${longest:-0}" -ge 200
gap=$(sed -n 's/^longest //p' "$T/heartbeat")
check "the longest gap of the heartbeat was $gap ms" test "${gap:-99999}" -le "${GAP_MS:-$((200 * SLOWNESS))}"
check "the daemon ends with 0" stop_daemon

# In this order, so that the guest has no device without a server when it ends.
umount "$T/mnt" || fail "umount"
D=$T/disk
check "unmap" cli fault unmap nbd1
