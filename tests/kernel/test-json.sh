#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# What nbd-cli says about devices of the real driver: JSON as in docs/nbd-cli.schema.json,
# doctor's findings, devices in completions.
. "$(dirname "$0")/../integration/lib.sh"
requires_root
requires_python jsonschema

answers() { # COMMAND-IN-THE-SCHEMA WORD...
    local command=$1
    shift
    cli --json "$@" >"$T/answer" 2>"$T/stderr"
    if "$PYTHON" "$HERE/json-schema.py" "$SRCDIR/docs/nbd-cli.schema.json" "$command" \
        <"$T/answer" >"$T/out" 2>&1; then pass "$*"; else
        cat "$T/stderr" "$T/answer" >>"$T/out"
        fail "$*" "$T/out"
    fi
}
finds() { # NAME ABOUT FINDING TEXT
    answers doctor doctor
    same "$1" true "$(json 'any(f["about"] == "'"$2"'" and f["finding"] == "'"$3"'" and "'"$4"'" in
        f["message"] for f in j["findings"])' <"$T/answer")"
}

need_daemon
check "two exports" bash -c 'for d in one two; do "$0" --dir "$1" file create $d size 1M; done' \
    "$BUILDDIR/nbd-cli" "$D"
answers "BACKSTORE map" file map one nomonitor
device=$(json 'j["device"]' <"$T/answer")
check "$device is there" test -b "$device"
same "devices are completed" "$device" "$(cli complete file unmap "$device" | cut -f1)"
finds "the driver is there" driver ok "has the nbd driver"
finds "no mapping is dead" mappings ok "none is dead"
answers "BACKSTORE list" file list
same "the row is live" Live \
    "$(json '[r["backstore_state"] for r in j["rows"] if r["device"] == "'"$device"'"][0]' <"$T/answer")"
answers "export show" export show file/one
refuses "a mapped export stays writable" 1 "is mapped" cli export set file/one readonly yes
check "it is synced while it is mapped" cli export sync file/one

kill_daemon
need_daemon
finds "the mapping is dead" mappings problem "$device on host"
answers restore restore
same "it is restored" "$device" "$(json 'j["restored"][0]' <"$T/answer")"
finds "it is dead no longer" mappings ok "none is dead"

answers "BACKSTORE unmap" file unmap "$device"
same "that one" "$device" "$(json 'j["device"]' <"$T/answer")"
check "now it can be read-only" cli export set file/one readonly yes
answers "BACKSTORE map" file map one nomonitor
same "and so is its device" 1 "$(cat "/sys/block/$(basename "$(json 'j["device"]' <"$T/answer")")/ro")"

# ---- a device that this daemon does not know ----
stop_daemon >/dev/null
rm -f "$D"/saveconfig.json*
need_daemon
finds "a device of a forgotten mapping" mappings warning "was mapped by nbd-cli"
check "is unmapped by force" cli file unmap "$device" force
check "the daemon ends with 0" stop_daemon
