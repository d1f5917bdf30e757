#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# `list` in each of its states, with a foreign device beside ours, and without the driver.
# Runs as root; under ./uml --no-nbd, for the module must not be there at first.
. "$(dirname "$0")/../integration/lib.sh"
requires_root
requires nbd-client

devices() { cli file list "$@" --json | json '" ".join(sorted(filter(None, (r.get("device") for r in j["rows"]))))'; }
exports() { cli file list "$@" --json | json '" ".join(sorted(r["export"]["name"] for r in j["rows"] if r["export"]))'; }
need_daemon
for name in created live dead; do cli file create $name size 1M >/dev/null; done
if [ ! -d /sys/module/nbd ]; then
    check "list works without the driver" cli file list
    same "and shows what is created" "file/created file/dead file/live" "$(exports create)"
    refuses "map says so when it may not load the driver" 1 "nbd" cli file map live no-modprobe
    check "map loads the driver" cli file map live nbd1 nomonitor
else
    check "map" cli file map live nbd1 nomonitor
fi
check "a second one" cli file map dead nbd2 dead-timeout 60 nomonitor
# The driver is loaded without devices; one that was used stays.
check "a third one" cli file map created nbd0 nomonitor
check "which is free again" cli file unmap nbd0
kill_daemon
need_daemon
check "only one is restored" cli restore nbd1
nbd-client -N file/created -unix "$D/nbd.sock" /dev/nbd7 >"$T/nbd-client" 2>&1 ||
    fail "a foreign client attaches" "$T/nbd-client"

same "list map" "/dev/nbd1 /dev/nbd2 /dev/nbd7" "$(devices map | tr ' ' '\n' | sort | tr '\n' ' ' | sed 's/ $//')"
same "list live" "/dev/nbd1" "$(devices live)"
same "list dead" "/dev/nbd2" "$(devices dead)"
same "list create" "file/created" "$(exports create)"
check "list unmap has the free devices" bash -c '[[ " $0 " == *" /dev/nbd0 "* && " $0 " != *" /dev/nbd1 "* ]]' "$(devices unmap)"
check "list all has every one" bash -c '[[ $0 == */dev/nbd0* && $0 == */dev/nbd1* && $0 == */dev/nbd7* ]]' "$(devices all)"
cli file list >"$T/table"
check "the table has its titles" bash -c 'head -n 1 "$0" | grep -q DEVICES' "$T/table"
check "unmap of the live one" cli file unmap nbd1
check "unmap of the dead one" cli file unmap nbd2
nbd-client -d /dev/nbd7 >/dev/null 2>&1
same "nothing is mapped" "" "$(devices map)"
check "the daemon ends with 0" stop_daemon
