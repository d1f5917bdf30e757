#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# What the log says, to the journal with fields and to a stream; its level and its files at run
# time; a reader that reads nothing.
. "$(dirname "$0")/lib.sh"
requires nbdinfo qemu-io

# ---- the journal, of which we are the other end ----
mkfifo "$T/hold"
"$HERE/journal.py" "$T/journal" "$T/entries" <"$T/hold" &
stop_at_end+=($!)
exec 9>"$T/hold"
await 10 test -S "$T/journal" || { fail "the journal's stand-in starts"; exit 1; }
: >"$LOG"
entry() { # PYTHON-EXPRESSION over e: is there such an entry?
    "$PYTHON" -c 'import json, sys
sys.exit(not any(eval(sys.argv[2]) for e in map(json.loads, open(sys.argv[1]))))' "$T/entries" "$1"
}
entered() { # NAME EXPRESSION
    if await 20 entry "$2"; then pass "$1"; else fail "$1" "$T/entries"; fi
}
mkdir "$D"
"$BUILDDIR/nbd-runner" --dir "$D" --handler-dir "$HANDLERS" --log-target "journal:$T/journal" \
    >>"$LOG" 2>&1 </dev/null &
DAEMON=$!
entered "the start is in the journal" \
    '" is ready" in e["MESSAGE"] and e["PRIORITY"] == "6" and e["SYSLOG_IDENTIFIER"] == "nbd-runner"'
check "an export is made" cli mem create disk1 size 1M
entered "a new export is an entry with its name" \
    'e.get("EXPORT") == "mem/disk1" and "is created" in e["MESSAGE"]'
check "a client comes and goes" qemu-io -f raw -c 'read 0 4k' -c 'write 0 8k' "$(uri mem/disk1)"
entered "its coming has the client and the export" \
    'e.get("EXPORT") == "mem/disk1" and e.get("CLIENT", "").startswith("unix:") and "connected" in e["MESSAGE"]'
entered "its going tells bytes and reason" \
    'e.get("EXPORT") == "mem/disk1" and "CLIENT" in e and "disconnected: the client" in e["MESSAGE"] and "8192 written" in e["MESSAGE"]'
nbdinfo "$(uri no%0Asuch)" >/dev/null 2>&1
entered "a refusal is an entry, and what the client sent is quoted" \
    '"CLIENT" in e and "refused: there is no export \"no\\x0asuch\"" in e["MESSAGE"]'
refuses "a control call can be refused" 1 "no export" cli export show nothing
entered "that is an entry with the caller" \
    '"CLIENT" in e and "refused: there is no export named" in e["MESSAGE"]'
same "no request is logged" 0 "$(grep -c 'read of\|write of' "$T/entries")"
check "an export is removed" cli export remove mem/disk1
entered "so is its removal" 'e.get("EXPORT") == "mem/disk1" and "is deleted" in e["MESSAGE"]'
check "the level can be changed" cli log-level debug
nbdinfo "$(uri)" >/dev/null 2>&1
entered "then there is more" 'e["PRIORITY"] == "7" and "CLIENT" in e'
check "and changed back" cli log-level info

# ---- SIGUSR2 ----
check "two exports are made" eval 'cli mem create a size 1M && cli mem create b size 2M'
kill -USR2 "$DAEMON"
entered "SIGUSR2 dumps the exports" \
    'e.get("EXPORT") == "mem/b" and e["MESSAGE"].startswith("dump: ") and "2097152 bytes" in e["MESSAGE"]'
entered "and says when that is all" 'e["MESSAGE"] == "dump: that is all"'
stop_daemon
same "the daemon ends well" 0 $?
entered "the end is in the journal" 'e["MESSAGE"] == "stopped"'
exec 9>&-

# ---- a log file that is rotated ----
LOG=$T/rotated.log
"$BUILDDIR/nbd-runner" --dir "$D" --handler-dir "$HANDLERS" --log-target "file:$LOG" \
    >>"$T/stderr" 2>&1 </dev/null &
DAEMON=$!
await 20 is_logged ' is ready' || fail "the daemon logs to a file" "$T/stderr"
mv "$LOG" "$LOG.1"
kill -USR1 "$DAEMON"
check "SIGUSR1 opens the file again" await 20 test -e "$LOG"
nbdinfo "$(uri no-such)" >/dev/null 2>&1
check "and new lines are in the new file" await 20 is_logged 'no-such'
stop_daemon
same "nothing went to stderr" "" "$(cat "$T/stderr")"

# ---- stderr is a pipe that nobody empties ----
LOG=$T/piped.log
mkfifo "$T/pipe"
exec 8<>"$T/pipe"
"$BUILDDIR/nbd-runner" --dir "$D" --handler-dir "$HANDLERS" --log-level debug --log-target stderr \
    >/dev/null 2>&8 </dev/null &
DAEMON=$!
await 20 cli status || fail "the daemon starts with its log on a pipe"
answers() { for _ in {1..400}; do nbdinfo "$(uri mem/a)" >/dev/null || return 1; done; }
check "a full pipe stops nobody" timeout 120 "$(command -v bash)" -c "$(declare -f answers uri)
    D=$D answers"
cat <&8 >"$LOG" &
stop_at_end+=($!)
nbdinfo "$(uri mem/a)" >/dev/null
check "lost lines are mentioned when there is room again" await 20 is_logged 'lines of this log are missing here'
stop_daemon
same "the daemon ends well, too" 0 $?
exec 8>&-
