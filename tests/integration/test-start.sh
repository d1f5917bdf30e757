#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# What can be in the way at the start: another instance, a busy port, damaged state, handlers
# that are none.
. "$(dirname "$0")/lib.sh"

need_daemon
first=$DAEMON
refuses "a second instance ends with 4 and names the first" 4 "$first" timeout 20 \
    "$BUILDDIR/nbd-runner" --dir "$D" --handler-dir "$HANDLERS"
DAEMON=$first
check "the first one still answers" cli status
busy=$(port_of nbd)
refuses "a busy NBD port ends with 5" 5 "$busy" timeout 20 "$BUILDDIR/nbd-runner" \
    --dir "$T/e" --handler-dir "$HANDLERS" --ioport "$busy"
busy=$(port_of rpc)
refuses "a busy control port ends with 5" 5 "$busy" timeout 20 "$BUILDDIR/nbd-runner" \
    --dir "$T/e" --handler-dir "$HANDLERS" --rpcport "$busy"
check "an export is made" cli file create disk size 1M
kill_daemon
check "sockets and pid file are left by kill -9" test -e "$D/control.sock" -a -e "$D/nbd-runner.pid"
check "they are not in the way" start_daemon
check "the daemon ends with 0" stop_daemon

# ---- state ----
check "the state is a whole JSON file" "$PYTHON" -m json.tool "$D/saveconfig.json"
same "only its owner may read it" 600 "$(stat -c %a "$D/saveconfig.json")"
need_daemon
check "a second export is made" cli file create disk2 size 1M
stop_daemon
echo '{ "half' >"$D/saveconfig.json"
check "a damaged state file is no obstacle" start_daemon
same "the former one is taken" "file/disk" "$(export_names | cut -d' ' -f1)"
check "the daemon says which file" await 10 is_logged saveconfig.json
stop_daemon
echo garbage >"$D/saveconfig.json"
echo garbage >"$D/saveconfig.json.bak"
check "with both damaged it starts as well" start_daemon
same "status says degraded" degraded "$(cli --json status | json 'j["status"]["state"]')"
check "the damaged files are kept" bash -c 'ls "$0"/*.corrupt-* | grep -q .' "$D"
check "it takes new exports" cli export add file disk name again
stop_daemon
need_daemon
same "and keeps them" again "$(export_names)"
stop_daemon

# ---- handlers ----
mkdir "$T/handlers"
cp "$HANDLERS"/libfile_handler.so "$T/handlers"
cp "$BUILDDIR"/tests/handlers/.libs/lib*_handler.so "$T/handlers" 2>/dev/null ||
    fail "the test handlers are built (make check)"
echo "not a library" >"$T/handlers/libtext_handler.so"
HANDLERS=$T/handlers
lines=$(log_lines)
check "broken handlers are no obstacle" start_daemon
for name in badabi noinit nullinit undef text; do
    same "$name is skipped with one line" 1 \
        "$(tail -n "+$((lines + 1))" "$LOG" | grep -c "lib${name}_handler")"
done
handlers=" $(cli --json status | json '" ".join(j["status"]["handlers"])') "
check "the good ones are there: $handlers" bash -c '[[ $0 == *" file "* && $0 == *" plain "* ]]' "$handlers"
check "the daemon ends with 0" stop_daemon
