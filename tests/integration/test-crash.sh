#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# kill -9 at any moment of creates and deletes: the state file is whole and holds every change
# that was answered.
. "$(dirname "$0")/lib.sh"

ROUNDS=${ROUNDS:-40}
need_daemon
: >"$T/there"   # exports whose create was answered, and whose delete was not even asked for
change() { # creates and deletes until the daemon is gone, and records what was answered
    local i name
    for ((i = 0; ; i++)); do
        name=r$1-$i
        echo "$name" >>"$T/maybe"
        cli file create "$name" size 4K >/dev/null 2>&1 || return
        echo "$name" >>"$T/answered"
        ((i % 2)) || continue
        echo "$name" >>"$T/maybe-gone"
        cli file delete "$name" >/dev/null 2>&1 || return
        echo "$name" >>"$T/gone"
    done
}
whole=0 lost=0 back=0
for ((round = 0; round < ROUNDS; round++)); do
    for f in maybe answered maybe-gone gone; do : >"$T/$f"; done
    change $round &
    worker=$!
    sleep "0.$(printf '%03d' $((RANDOM % 300)))"   # the random moment
    kill_daemon
    finish 60 $worker
    if "$PYTHON" -m json.tool "$D/saveconfig.json" >/dev/null 2>&1; then
        whole=$((whole + 1))
    elif [ ! -s "$T/answered" ] && [ ! -e "$D/saveconfig.json" ]; then
        whole=$((whole + 1))   # killed before the first change
    fi
    need_daemon
    export_names | tr ' ' '\n' >"$T/now"
    while read -r name; do
        grep -qx "$name" "$T/maybe-gone" || grep -qx "file/$name" "$T/now" || lost=$((lost + 1))
    done <"$T/answered"
    while read -r name; do
        ! grep -qx "file/$name" "$T/now" || back=$((back + 1))
    done <"$T/gone"
    for name in $(grep . "$T/now"); do cli file delete "${name#file/}" >/dev/null 2>&1; done
done
same "the state file was whole each time" "$ROUNDS" $whole
same "no answered create was lost" 0 $lost
same "no answered delete came back" 0 $back
check "the daemon ends with 0" stop_daemon
