#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Mappings that come back when the host boots: what `persist` keeps is mapped by `map all` after
# the devices are gone, also when the daemon comes later, and unmapped by `unmap all`. Runs as
# root where the driver is.
. "$(dirname "$0")/../integration/lib.sh"
requires_root
requires nbd-client

tab=$T/nbdtab
all() { timeout 60 "$BUILDDIR/nbd-cli" "$@" tab "$tab"; }
backend() { cat "/sys/block/$1/backend" 2>/dev/null; }
mapped() { (cd /sys/block && for d in nbd*; do [ ! -e "$d/pid" ] || echo "$d"; done | xargs); }
# What a reboot does to the devices: they are gone, and nobody has told the daemon.
lose_devices() {
    local device
    for device in $(mapped); do
        nbd-client -d "/dev/$device" >/dev/null
    done
    await 10 bash -c 'for d in /sys/block/nbd*/pid; do [ ! -e "$d" ] || exit 1; done'
}

need_daemon
cli file create one size 1M >/dev/null
cli file create "my disk" size 2M >/dev/null
cli file create other size 1M >/dev/null
check "map, to be kept" cli file map one nbd3 timeout 30 persist tab "$tab" nomonitor
check "another one, to any device" cli file map "my disk" persist tab "$tab" nomonitor readonly
check "and one that is not kept" cli file map other nomonitor
sed 's/^/# /' "$tab"
same "the lines" "nbd3 file one timeout 30 nomonitor host unix:$D/control.sock
- file 'my disk' readonly nomonitor host unix:$D/control.sock" "$(cat "$tab")"
all map all >"$T/again" 2>&1
same "what is mapped already is no failure" 0 $?
same "... and is told" 2 "$(grep -c 'mapped already' "$T/again")"

check "the devices are gone" lose_devices
all map all >"$T/all" 2>&1
same "map all" 0 $?
same "... says what it did" 2 "$(grep -c '^Map succeeded' "$T/all")"
same "... on the device of the line" "$(cli file list --json | json '[r["mapping"]["cookie"] for r in j["rows"] if r["device"] == "/dev/nbd3"][0]')" \
    "$(backend nbd3 | sed 's/nbd-runner:\(.*\)@.*/\1/')"
same "two are mapped" 2 "$(mapped | wc -w)"
same "with the words of the line" 1 "$(for d in $(mapped); do cat /sys/block/$d/ro; done | grep -c 1)"
check "unmap all" all unmap all
same "nothing is mapped" "" "$(mapped)"
check "again" all unmap all

stop_daemon
refuses "without the daemon" 3 "2 of 2" bash -c 'exec "$@" 2>&1 | tail -n 1; exit ${PIPESTATUS[0]}' - \
    "$BUILDDIR/nbd-cli" map all tab "$tab"
all map all wait 50 >"$T/all" 2>&1 &
waiting=$!
need_daemon
finish 60 $waiting
same "it waits for the daemon" 0 $?
same "two are mapped again" 2 "$(mapped | wc -w)"

echo "nbd6 file nosuch host unix:$D/control.sock" >>"$tab"
all unmap all
all map all >"$T/all" 2>&1
same "a line that fails is a failure" 1 $?
check "... it is named" grep -q 'line 3, file nosuch' "$T/all"
same "the others are mapped" 2 "$(mapped | wc -w)"
check "unmap and forget" cli file unmap one forget tab "$tab"
check "the line is gone" bash -c '! grep -q " one " "$0"' "$tab"
echo "oops" >>"$tab"
refuses "a bad line is named" 1 "$tab:3" "$BUILDDIR/nbd-cli" map all tab "$tab"
refuses "map without a backstore" 2 "all" "$BUILDDIR/nbd-cli" map
check "unmap by target" cli file unmap "my disk"
check "the daemon ends with 0" stop_daemon
