#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# What map.sh has done in the guest: an export of a daemon on another machine becomes a device,
# gets a file system, and is written to while something happens there. Leaves the file system
# with six files in it, and their checksums in SHARE/sums.
# Arguments: HANDLER TARGET DAEMON SHARE (a directory that both sides see).
. "$(dirname "$0")/../integration/lib.sh"
handler=$1 target=$2 daemon=$3 share=$4
remote() { timeout 60 "$BUILDDIR/nbd-cli" "$@" host "$daemon"; }
map() {
    remote "$handler" map "$target" "$@" >"$T/map" 2>&1 || { cat "$T/map"; return 1; }
    device=$(sed -n 's/^Connected //p' "$T/map")
}
write_files() {
    local i
    for i in 1 2 3 4 5 6; do
        head -c ${i}00000 /dev/urandom >"$T/mnt/file$i" && sync -f "$T/mnt/file$i" || return 1
        [ $i != 2 ] || touch "$share/writing"   # from now on something happens
    done
    until [ -e "$share/go-on" ]; do
        dd if=/dev/urandom of="$T/mnt/busy" bs=64k count=8 conv=fsync status=none || return 1
    done
    (cd "$T/mnt" && sha256sum file* >"$share/sums")
}

mkdir "$T/mnt"
check "map over the network" map
check "the device is there" test -b "${device:=/dev/none}"
check "mkfs.ext4" mkfs.ext4 -q "$device"
check "mount" mount "$device" "$T/mnt"
check "files are written and synced" write_files
check "umount" umount "$T/mnt"
check "e2fsck finds no fault" e2fsck -fn "$device"
same "the list shows where it is" 1 "$(remote "$handler" list map | grep -c "$device")"
same "unmap says so" "Unmap succeeded!" "$(remote "$handler" unmap "$device")"
check "map again, read-only" map readonly
check "mount" mount -o ro "$device" "$T/mnt"
check "the files are the same" bash -c 'cd "$0" && sha256sum -c --quiet "$1"' "$T/mnt" "$share/sums"
check "umount" umount "$T/mnt"
same "unmap by target" "Unmap succeeded!" "$(remote "$handler" unmap "$target")"
