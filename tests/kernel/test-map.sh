#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Maps exports to /dev/nbdN of the real driver: file systems on them, read-only, two at a time,
# and what must be refused. Runs as root where the driver is, for example under ./uml.
. "$(dirname "$0")/../integration/lib.sh"
requires_root
requires mkfs.ext4 e2fsck blkid

sys() { cat "/sys/block/${device#/dev/}/$1"; }
mapped_device() { sed -n 's/^Connected //p' "$T/map"; }
map() { cli file map "$@" >"$T/map" 2>&1; }

need_daemon
cli file create disk1 size 32M >/dev/null
cli file create disk2 size 8M >/dev/null
cli file create disk3 size 1M >/dev/null

check "an export is mapped" map disk1
device=$(mapped_device)
check "the kernel chose $device" test -b "$device"
check "it says so" grep -qx 'Map succeeded!' "$T/map"
same "the size is right" 65536 "$(sys size)"
same "it is writable" 0 "$(sys ro)"
same "it has a write cache" "write back" "$(sys queue/write_cache)"
same "it takes FUA" 1 "$(sys queue/fua)"
check "it takes discards" test "$(sys queue/discard_max_bytes)" -gt 0
same "sectors are of 512 bytes" 512 "$(sys queue/logical_block_size)"
check "the kernel knows whose it is" grep -q '^nbd-runner:' "/sys/block/${device#/dev/}/backend"

check "mkfs.ext4" mkfs.ext4 -q "$device"
mkdir "$T/mnt"
check "mount" mount "$device" "$T/mnt"
for i in 1 2 3 4 5 6; do head -c ${i}00000 /dev/urandom >"$T/mnt/file$i"; done
(cd "$T/mnt" && sha256sum file*) >"$T/sums"
refuses "unmap is refused while it is mounted" 1 "$T/mnt" cli file unmap "$device"
check "... and it is still there" test "$(sys size)" = 65536
refuses "delete is refused while it is mapped" 1 "mapped" cli file delete disk1
refuses "a second map of it is refused" 1 "mapped" cli file map disk1
check "umount" umount "$T/mnt"
check "e2fsck finds no fault" e2fsck -fn "$device"
same "unmap says so" "Unmap succeeded!" "$(cli file unmap "$device")"
check "the kernel let it go" test ! -e "/sys/block/${device#/dev/}/pid"

check "it is mapped again, read-only, to nbd5" map disk1 /dev/nbd5 readonly
device=/dev/nbd5
same "to the one that was asked for" $device "$(mapped_device)"
same "the kernel has it read-only" 1 "$(sys ro)"
check "a write fails" bash -c '! dd if=/dev/zero of=/dev/nbd5 bs=4k count=1 conv=fsync 2>/dev/null'
check "it is mounted" mount -o ro $device "$T/mnt"
check "the files are the same" bash -c 'cd "$0" && sha256sum -c --quiet "$1"' "$T/mnt" "$T/sums"
check "umount" umount "$T/mnt"

check "another export is mapped to nbd3" map disk2 nbd3
refuses "a device that is in use is refused" 1 "nbd5" cli file map disk3 nbd5
head -c 8M /dev/urandom >"$T/data"
check "it is written" dd if="$T/data" of=/dev/nbd3 bs=1M conv=fsync status=none
check "the image has the bytes" cmp "$T/data" "$D/images/disk2"
blockdev --flushbufs /dev/nbd3
check "and so has the device" cmp "$T/data" /dev/nbd3
if command -v blkdiscard >/dev/null; then
    check "a discard arrives" blkdiscard -o 1M -l 1M /dev/nbd3
    check "the range reads as zeroes" cmp -n 1048576 -i 1048576:0 "$D/images/disk2" /dev/zero
fi
check "the first one is as before" e2fsck -fn /dev/nbd5
check "unmap by target" cli file unmap disk1
check "unmap by device" cli file unmap nbd3
same "no mapping is left" 0 "$(cli --json status | json 'j["status"]["mappings"]')"
refuses "a device that is not mapped is not unmapped" 1 "nbd3" cli file unmap nbd3
refuses "an export that is not there is not mapped" 1 "nosuch" cli file map nosuch
refuses "nor to a device of an impossible name" 2 "" cli file map disk1 /dev/sda
check "what was mapped can be deleted" cli file delete disk2
check "the daemon ends with 0" stop_daemon
