#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A device that is mapped to an export of a configuration file: the mapping outlives the daemon,
# a reload does not disturb it, and when the export is removed it goes on until it is unmapped.
# Runs as root where the driver is.
. "$(dirname "$0")/../integration/lib.sh"
requires_root

rows() { cli file list "$1" --json | json '" ".join(sorted(filter(None, (r.get("device") for r in j["rows"]))))'; }
mkdir -p "$D/conf.d"
truncate -s 16M "$T/vol.img"
define() { # LINE...
    printf '%s\n' '[vol]' "exportname = $T/vol.img" "$@" >"$D/conf.d/.new"
    mv "$D/conf.d/.new" "$D/conf.d/vol.conf"
}
define
need_daemon
check "an export of a file is mapped" cli file map "$T/vol.img" nbd2 timeout 5 dead-timeout 60 nomonitor
same "it is live" /dev/nbd2 "$(rows live)"
head -c 16M /dev/urandom >"$T/data"
dd if="$T/data" of=/dev/nbd2 bs=16k oflag=direct status=none 2>"$T/dd" &
writer=$!
for i in 1 2 3; do
    define "description = number $i"
    check "reload $i under a writer" cli reload
done
finish 60 $writer
same "the writer saw no error" 0 $?

kill_daemon
need_daemon
same "after kill -9 and a restart it is dead" /dev/nbd2 "$(rows dead)"
check "restore succeeds" cli restore
same "it is live again" /dev/nbd2 "$(rows live)"
check "the device is equal" cmp "$T/data" /dev/nbd2

rm "$D/conf.d/vol.conf"
check "the export is removed" cli reload
same "it drains" draining "$(cli --json export list | json 'j["exports"][0]["state"]')"
check "the device goes on" dd if="$T/data" of=/dev/nbd2 bs=64k oflag=direct status=none
same "its mapping is known" /dev/nbd2 "$(rows live)"
check "unmap" cli file unmap nbd2
gone() { [ -z "$(export_names)" ]; }
check "then the export is gone" await 10 gone
check "the image is equal" cmp "$T/data" "$T/vol.img"
check "the daemon ends with 0" stop_daemon
