#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Mapped devices grow under verified I/O: with the resize on the same host, by the monitor when
# the export was changed elsewhere, and by restore. Runs as root where the driver is.
. "$(dirname "$0")/../integration/lib.sh"
requires_root
requires blockdev mkfs.ext4 resize2fs e2fsck

has_bytes() { [ "$(blockdev --getsize64 "/dev/$1")" = "$2" ]; }
need_daemon
cli file create disk size 4M >/dev/null
cli file create fs size 16M >/dev/null
check "map, without a monitor" cli file map disk nbd1 timeout 3 nomonitor
"$PYTHON" "$SRCDIR/tests/kernel/hammer.py" /dev/nbd1 "$D/images/disk" "$T/stop" "$T/grown" \
    >"$T/hammer" 2>&1 &
hammer=$!
stop_at_end+=($hammer)
check "verified I/O" await 20 test -s "$T/stop.alive"
cli file resize disk size 6M >"$T/resize" 2>&1
check "resize says that the device has grown" grep -qx 'Resized /dev/nbd1' "$T/resize"
check "it has" has_bytes nbd1 6291456
touch "$T/grown"
refuses "it cannot shrink" 1 "mapped 1 time" cli file resize disk size 1M shrink
check "its size is as before" has_bytes nbd1 6291456

truncate -s 7M "$D/images/disk"
check "restore finds what has grown elsewhere" \
    await 20 bash -c '"$0" --dir "$1" restore && [ $(cat /sys/block/nbd1/size) = 14336 ]' \
    "$BUILDDIR/nbd-cli" "$D"
"$BUILDDIR/nbd-cli" monitor interval 1 >"$T/monitor" 2>&1 &
monitor=$!
stop_at_end+=($monitor)
truncate -s 8M "$D/images/disk"
check "so does the monitor" await 30 has_bytes nbd1 8388608
check "it says so" await 10 grep -q 'nbd1: has 8388608 bytes' "$T/monitor"
kill_daemon
truncate -s 9M "$D/images/disk"
need_daemon
check "also while the daemon is away" await 30 has_bytes nbd1 9437184
before=$(cat "$T/stop.alive")
check "I/O goes on" await 30 bash -c '[ "$(cat "$0" 2>/dev/null || echo 0)" -gt "$1" ]' "$T/stop.alive" "$before"
touch "$T/stop"
finish 60 $hammer
same "not one error, and every byte is right" 0 $?
sed 's/^/# /' "$T/hammer"

check "a file system" bash -c 'exec "$0" --dir "$1" file map fs nbd2' "$BUILDDIR/nbd-cli" "$D"
check "mkfs" mkfs.ext4 -q /dev/nbd2
mkdir "$T/mnt"
check "mount" mount /dev/nbd2 "$T/mnt"
unmount_at_end+=("$T/mnt")
check "grow it, mounted" cli file resize fs size 32M
check "and the file system in it" resize2fs /dev/nbd2
check "it is larger" bash -c '[ "$(df -k --output=size "$0" | tail -1)" -gt 20000 ]' "$T/mnt"
check "umount" umount "$T/mnt"
check "it is whole" e2fsck -fn /dev/nbd2
check "unmap" cli file unmap nbd1
check "unmap" cli file unmap nbd2
kill -TERM $monitor
finish 20 $monitor
same "the monitor ends with 0" 0 $?
sed 's/^/# /' "$T/monitor"
check "the daemon ends with 0" stop_daemon
