#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# kill -9 of the daemon under a mapped device: `list` shows it dead, `restore` brings it back,
# a writer notices nothing, and no byte is lost. Runs as root where the driver is.
. "$(dirname "$0")/../integration/lib.sh"
requires_root

rows() { cli file list "$1" --json | json '" ".join(sorted(filter(None, (r.get("device") for r in j["rows"]))))'; }
need_daemon
cli file create disk size 16M >/dev/null
cli file create idle size 1M >/dev/null
check "an export is mapped" cli file map disk nbd2 timeout 3 dead-timeout 60 nomonitor
same "it is live" /dev/nbd2 "$(rows live)"
head -c 16M /dev/urandom >"$T/data"
check "the first half is written" dd if="$T/data" of=/dev/nbd2 bs=64k count=128 oflag=direct status=none

kill_daemon
need_daemon
same "after kill -9 and a restart it is dead" /dev/nbd2 "$(rows dead)"
same "... and not live" "" "$(rows live)"
dd if="$T/data" of=/dev/nbd2 bs=64k skip=128 seek=128 count=128 oflag=direct conv=notrunc \
    status=none 2>"$T/dd" &
writer=$!
check "restore succeeds" cli restore
same "it is live again" /dev/nbd2 "$(rows live)"
finish 60 $writer
same "a writer that started meanwhile saw no error" 0 $?
sync
check "the image is equal" cmp "$T/data" "$D/images/disk"

dd if="$T/data" of=/dev/nbd2 bs=16k oflag=direct conv=notrunc status=none 2>"$T/dd" &
writer=$!
await 10 test -s "/sys/block/nbd2/stat"
kill_daemon
need_daemon
check "restore of that device under a writer" cli restore nbd2
finish 60 $writer
same "the writer saw no error" 0 $?
blockdev --flushbufs /dev/nbd2
check "the device is equal" cmp "$T/data" /dev/nbd2
check "restore with nothing to do" cli restore

stop_daemon
need_daemon
same "an orderly restart leaves it dead as well" /dev/nbd2 "$(rows dead)"
check "restore" cli restore
check "unmap" cli file unmap nbd2
same "nothing is mapped" "" "$(rows map)"
check "the daemon ends with 0" stop_daemon
