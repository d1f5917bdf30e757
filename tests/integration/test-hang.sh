#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# No NBD client is left hanging or holds another: storage that does not open or answer, limits,
# clients that are silent, do not read or vanish, and a server that is told to end.
. "$(dirname "$0")/lib.sh"

FAULT=$BUILDDIR/tests/handlers/.libs/libfault_handler.so
[ -e "$FAULT" ] || { echo "skip: the test handlers are not built (make check)"; exit 77; }
mkdir "$T/handlers"
ln -s "$HANDLERS"/lib*_handler.so "$FAULT" "$T/handlers"
HANDLERS=$T/handlers
PROTOCOL=$SRCDIR/tests/protocol

mkdir -p "$D/images"
cat >"$D/nbd-runner.conf" <<'EOC'
[generic]
max_connections = 20
negotiation_timeout = 2
EOC
need_daemon
truncate -s 64M "$D/images/disk"
{
    cli export add file disk name disk &&
        cli export add fault a name hangs opt size=1M opt "open_hold=$T/open-hold" &&
        cli export add fault b name held opt size=1M opt "hold=$T/hold" &&
        cli export add fault c name late opt size=1M opt delay_ms=1
} >"$T/out" 2>&1 || fail "the exports are made" "$T/out"
stop_daemon             # which closes them
touch "$T/open-hold"
need_daemon

addresses() { echo "unix:$D/nbd.sock 127.0.0.1:$(port_of nbd)"; }
"$PYTHON" "$PROTOCOL/test_hang.py" "pid=$DAEMON" "cli=$BUILDDIR/nbd-cli" "dir=$D" "log=$LOG" \
    "hold=$T/hold" "open_hold=$T/open-hold" $(addresses) || failures=$((failures + 1))
check "the daemon ends with 0" stop_daemon

# ---- a server that is told to end ----
need_daemon
"$PYTHON" "$PROTOCOL/test_shutdown.py" "pid=$DAEMON" "hold=$T/hold" $(addresses) ||
    failures=$((failures + 1))
check "the daemon ends when the last client has its answer" await 10 is_gone "$DAEMON"
finish 1 "$DAEMON"
same "with 0" 0 $?
DAEMON=

# ---- storage that never answers ----
echo 'drain_timeout = 1' >>"$D/nbd-runner.conf"
need_daemon
touch "$T/hold"
"$PYTHON" -c '
import sys
sys.path.insert(0, sys.argv[1])
from tap import STRUCTURED, Server
client = Server(sys.argv[2], {}).open("held", STRUCTURED)
client.submit(0, 0, 512)
open(sys.argv[3], "w").close()
client.must_close(20)' "$PROTOCOL" "unix:$D/nbd.sock" "$T/in-flight" >"$T/waiter" 2>&1 &
waiter=$!
stop_at_end+=($waiter)
check "a read is in flight" await 10 test -e "$T/in-flight"
kill -TERM $DAEMON
check "the daemon ends when its drain_timeout is over" await 10 is_gone $DAEMON
finish 1 $DAEMON
DAEMON=
check "the client is not left waiting" await 10 is_gone $waiter
finish 1 $waiter && pass "its connection was closed" || fail "its connection was closed" "$T/waiter"
