#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A device that never goes away: verified I/O on mapped devices goes on without one error while
# the daemon is stopped, killed, away for a while, its connections are cut, and the monitor is
# killed. Runs as root where the driver is.
. "$(dirname "$0")/../integration/lib.sh"
requires_root
requires "$PYTHON"
HAMMER=$SRCDIR/tests/kernel/hammer.py
MONLOG=$T/monitor.log
monitor=

row() { cli file list --json | json '[r for r in j["rows"] if r["device"] == "/dev/'"$1"'"][0]'"$2"; }
is_live() { # DEVICE CONNECTIONS
    [ "$(row "$1" '["mapping"]["state"]' 2>/dev/null)" = live ] &&
        [ "$(row "$1" '["mapping"]["connected"]')" = "$2" ]
}
start_monitor() {
    "$BUILDDIR/nbd-cli" monitor interval 2 "$@" >>"$MONLOG" 2>&1 &
    monitor=$!
    stop_at_end+=("$monitor")
    await 10 grep -q watching "$MONLOG"
}
kill_monitor() {
    kill -KILL "$monitor"
    wait "$monitor" 2>/dev/null
}
writes() { cat "$1.alive" 2>/dev/null || echo 0; }
goes_on() { # STOPFILE: a write after now has been answered
    local before
    before=$(writes "$1")
    await 40 bash -c '[ "$(cat "$0.alive" 2>/dev/null || echo 0)" -gt "$1" ]' "$1" "$before"
}
declare -A hammers=()
hammer() { # DEVICE IMAGE
    "$PYTHON" "$HAMMER" "/dev/$1" "$D/images/$2" "$T/stop-$1" >"$T/hammer-$1" 2>&1 &
    hammers[$1]=$!
    stop_at_end+=("$!")
    goes_on "$T/stop-$1"
}
end_hammer() { # DEVICE
    touch "$T/stop-$1"
    finish 60 "${hammers[$1]}"
    same "$1: not one error, and every byte is right" 0 $?
    sed 's/^/# /' "$T/hammer-$1"
}
survives() { # NAME
    check "$1: I/O goes on on nbd1" goes_on "$T/stop-nbd1"
    check "$1: I/O goes on on nbd2" goes_on "$T/stop-nbd2"
    check "$1: nbd1 is live" await 10 is_live nbd1 1
    check "$1: nbd2 has both connections" await 20 is_live nbd2 2
}
cut_one() { # EXPORT: the first of its connections
    cli kick "$(cli clients "$1" --json | json 'j["clients"][0]["id"]')"
}

start_monitor
refuses "a second monitor is refused" 1 "$monitor" "$BUILDDIR/nbd-cli" monitor
need_daemon
cli file create one size 4M >/dev/null
cli file create two size 4M >/dev/null
check "map" cli file map one nbd1 timeout 3
check "map with two connections" cli file map two nbd2 timeout 3 connections 2
same "a dead device waits for ten minutes" 600 "$(row nbd1 '["mapping"]["dead_timeout_s"]')"
check "verified I/O on one" hammer nbd1 one
check "verified I/O on the other" hammer nbd2 two

for i in 1 2; do
    stop_daemon
    need_daemon
    survives "restart $i"
    kill_daemon
    need_daemon
    survives "kill -9 $i"
    check "cut $i" cut_one file/one
    check "cut of one of two $i" cut_one file/two
    survives "cut $i"
done
kill_monitor
kill_daemon
sleep 5 # longer than the kernel waits for an answer
need_daemon
start_monitor
survives "monitor and daemon killed, away for a while"
kill_monitor
same "without a monitor" live "$(row nbd1 '["mapping"]["state"]')"
check "cut without a monitor" cut_one file/one
start_monitor
survives "a monitor that starts later"

end_hammer nbd1
end_hammer nbd2
same "the numbers of the devices have not changed" "nbd1 nbd2" \
    "$(cd /sys/block && for d in nbd*; do [ ! -e "$d/pid" ] || echo "$d"; done | xargs)"
check "no failure was told" bash -c '! grep -E "not connected|requests fail" "$0"' "$MONLOG"

# ---- unmap with the monitor about ----
check "unmap" cli file unmap nbd1
for i in 1 2 3; do
    check "map again $i" cli file map one nbd1 timeout 3
    check "its connection is cut $i" cut_one file/one
    check "... and it is unmapped at once $i" cli file unmap nbd1
done
# The monitor looks every two seconds, and must not do anything now.
same "an unmapped device stays so" "" "$(sleep 3; cat /sys/block/nbd1/backend 2>/dev/null)"
exec 7</dev/nbd2
kill_daemon
refuses "unmap without the daemon wants force" 3 "force" cli file unmap nbd2
timeout 60 "$BUILDDIR/nbd-cli" --dir "$D" file unmap nbd2 force >"$T/forced" 2>&1
same "force detaches a device that is open, and says that it stays occupied" 1 $?
check "... it says so" grep -q "has it open" "$T/forced"
need_daemon 7<&-
sleep 5 # the monitor looks every two seconds
same "the monitor does not take it up again" dead "$(row nbd2 '["mapping"]["state"]')"
exec 7<&-
await 10 test ! -e /sys/block/nbd2/pid
check "it is free when it is closed" test ! -e /sys/block/nbd2/pid
check "the daemon is told afterwards" cli file unmap two
kill -TERM "$monitor"
finish 20 "$monitor"
same "the monitor ends with 0" 0 $?
sed 's/^/# /' "$MONLOG"
check "the daemon ends with 0" stop_daemon
