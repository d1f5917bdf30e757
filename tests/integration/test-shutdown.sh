#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# SIGTERM: what clients have in flight is answered, new ones are refused, the end is 0; idle
# clients do not hold it up.
. "$(dirname "$0")/lib.sh"
requires_python nbd

FAULT=$BUILDDIR/tests/handlers/.libs/libfault_handler.so
[ -e "$FAULT" ] || { echo "skip: the test handlers are not built (make check)"; exit 77; }
mkdir "$T/handlers"
cp "$HANDLERS"/lib*_handler.so "$FAULT" "$T/handlers"
HANDLERS=$T/handlers
need_daemon
check "an export that answers when a file is gone" \
    cli export add fault x name slow opt size=1M opt "hold=$T/hold" opt op=write
cat >"$T/writer.py" <<'EOF'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"x" * 65536)), 0)
while not h.aio_is_ready() and not h.aio_command_completed(cookie):
    h.poll(100)
open(sys.argv[2], "w").close()
while not h.aio_command_completed(cookie):
    h.poll(-1)
print("answered")
EOF
touch "$T/hold"
"$PYTHON" "$T/writer.py" "$(uri slow)" "$T/sent" >"$T/writer" 2>&1 &
writer=$!
"$PYTHON" -c '
import sys, time, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
open(sys.argv[2], "w").close()
time.sleep(1000)' "$(uri slow)" "$T/idle" &
stop_at_end+=($writer $!)
check "a write is in flight" await 10 test -e "$T/sent" -a -e "$T/idle"
in_flight() { [ "$(cli --json clients | json 'sum(c["in_flight"] for c in j["clients"])')" = 1 ]; }
check "the daemon knows it" await 10 in_flight
kill -TERM $DAEMON
refused() { ! "$PYTHON" -c 'import sys, nbd; nbd.NBD().connect_uri(sys.argv[1])' "$(uri slow)"; }
check "new clients are refused" await 10 refused
check "the daemon waits for the write" kill -0 $DAEMON
rm "$T/hold"
check "the write is answered" await 10 grep -q answered "$T/writer"
check "the daemon ends" await 20 is_gone $DAEMON
finish 1 $DAEMON
same "with 0" 0 $?
DAEMON=

need_daemon
touch "$T/hold"
rm -f "$T/sent"
"$PYTHON" "$T/writer.py" "$(uri slow)" "$T/sent" >"$T/writer" 2>&1 &
stop_at_end+=($!)
check "another write is in flight" await 10 test -e "$T/sent"
kill -TERM $DAEMON
check "TERM was seen" await 10 refused
kill -TERM $DAEMON
check "a second TERM ends it at once" await 10 is_gone $DAEMON
finish 1 $DAEMON
same "with 1" 1 $?
DAEMON=
