#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The whole daemon with this script in the place of systemd: what it is told from the start to
# the end, the watchdog of a loop that stands still, the pid file, sockets that are handed over.
. "$(dirname "$0")/lib.sh"
ldd "$BUILDDIR/nbd-runner" "$BUILDDIR/.libs/nbd-runner" 2>/dev/null | grep -q libsystemd ||
    { echo "skip: this build has no libsystemd"; exit 77; }

FAULT=$BUILDDIR/tests/handlers/.libs/libfault_handler.so
[ -e "$FAULT" ] || { echo "skip: the test handlers are not built (make check)"; exit 77; }
requires_python nbd
requires nbdinfo
mkdir "$T/handlers"
cp "$HANDLERS"/lib*_handler.so "$FAULT" "$T/handlers"
HANDLERS=$T/handlers

# A line "MILLISECONDS MESSAGE" for each message; line breaks in it become |.
cat >"$T/manager.py" <<'PY'
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
while True:
    text = s.recv(4096).decode().replace("\n", "|")
    print(int(time.monotonic() * 1000), text, flush=True)
PY
# Opens the named sockets as systemd would, and becomes the daemon: NAME=ADDRESS... -- COMMAND
cat >"$T/activate.py" <<'PY'
import os, socket, sys
at = sys.argv.index("--")
socks = []
for word in sys.argv[1:at]:
    name, address = word.split("=", 1)
    s = socket.socket(socket.AF_UNIX if address.startswith("/") else socket.AF_INET)
    s.bind(address if address.startswith("/") else ("127.0.0.1", int(address)))
    s.listen()
    if not address.startswith("/"):
        print(name, s.getsockname()[1], file=open(os.environ["PORTS"], "a"))
    socks.append((name, s))
spare = [os.dup(s.fileno()) for _, s in socks]
spare = [fd if fd > 40 else os.dup2(fd, 40 + i) for i, fd in enumerate(spare)]
for i, fd in enumerate(spare):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(socks)), LISTEN_PID=str(os.getpid()),
                  LISTEN_FDNAMES=":".join(name for name, _ in socks))
os.execv(sys.argv[at + 1], sys.argv[at + 1:])
PY

"$PYTHON" "$T/manager.py" "$T/notify" >"$T/told" &
stop_at_end+=($!)
await 10 test -S "$T/notify"
export NOTIFY_SOCKET=$T/notify
told() { # PATTERN: is there such a message, since `from`?
    tail -n "+$((from + 1))" "$T/told" | cut -d' ' -f2- | grep -q -- "$1"
}
mark() { from=$(wc -l <"$T/told"); }
is_pid_file_right() { [ "$(cat "$D/nbd-runner.pid")" = "$DAEMON" ]; }

# ---- from the start to the end ----
mark
need_daemon
check "READY comes, with a status" await 10 told '^READY=1|STATUS=serving 0 exports'
check "by then the pid file has the pid" is_pid_file_right
check "... and the control port answers" cli status
same "READY comes once" 1 "$(grep -c READY=1 "$T/told")"
same "no watchdog unless the unit has one" 0 "$(grep -c WATCHDOG "$T/told")"
cli file create disk size 1M >/dev/null

# ---- reload: whatever comes of it, RELOADING is followed by READY ----
mark
check "a reload succeeds" cli reload
check "RELOADING comes, with the time" await 10 told '^RELOADING=1|MONOTONIC_USEC=[0-9]*|'
check "... and READY" await 10 told '^READY=1|STATUS=serving 1 exports'
mkdir -p "$D/conf.d"
echo "no configuration" >"$D/conf.d/broken.conf"
mark
check "a broken file is no success" bash -c '"$@" reload; [ $? = 1 ]' - "$BUILDDIR/nbd-cli" --dir "$D"
check "... but READY again, with a word about it" await 10 told '^READY=1|STATUS=serving 1 exports; mistakes in the configuration: 1'
rm "$D/conf.d/broken.conf"
mark
kill -HUP "$DAEMON"
check "SIGHUP does the same: RELOADING" await 10 told '^RELOADING=1|'
check "... and READY" await 10 told '^READY=1|STATUS=serving 1 exports'
same "in this order" "RELOADING READY" \
    "$(tail -n "+$((from + 1))" "$T/told" | sed 's/^[0-9]* \([A-Z]*\)=.*/\1/' | xargs)"
mark
check "the daemon ends with 0" stop_daemon
check "STOPPING comes" await 10 told '^STOPPING=1|STATUS='
check "the pid file is gone" test ! -e "$D/nbd-runner.pid"

# A request that does not end: more time is asked for, again and again, until it does.
mark
need_daemon
check "READY tells the number of exports" await 10 told 'READY=1|STATUS=serving 1 exports'
check "an export that waits for a file to go" \
    cli export add fault x name held opt size=1M opt "hold=$T/hold"
touch "$T/hold"
"$PYTHON" -c "
import nbd
h = nbd.NBD()
h.connect_uri('$(uri held)')
h.pread(512, 0)" >"$T/reader" 2>&1 &
stop_at_end+=($!)
in_flight() { [ "$(cli --json clients | json 'sum(c["in_flight"] for c in j["clients"])')" = 1 ]; }
check "a request is in flight" await 20 in_flight
mark
kill -TERM "$DAEMON"
check "with a request in flight more time is asked for" await 10 told '^EXTEND_TIMEOUT_USEC=15000000|STATUS=stopping: 1 connections'
asked() { tail -n "+$((from + 1))" "$T/told" | grep -c EXTEND_TIMEOUT; }
asked_again() { [ "$(asked)" -ge 2 ]; }
check "... and again" await 20 asked_again
rm "$T/hold"
check "it ends when the request has ended" await 20 is_gone "$DAEMON"
finish 1 "$DAEMON"
same "... with 0" 0 $?
DAEMON=

# ---- watchdog ----
mark
WATCHDOG_USEC=400000 need_daemon
check "WATCHDOG comes" await 10 told '^WATCHDOG=1'
kill -STOP "$DAEMON"
is_stopped() { grep -q '^State:.*T' "/proc/$DAEMON/status"; }
check "it is stopped" await 10 is_stopped
# What it sent before is told before this.
"$PYTHON" -c 'import socket, sys
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"MARK", sys.argv[1])' "$T/notify"
check "what it sent until then is told" await 10 told '^MARK'
before=$(wc -l <"$T/told")
sleep 1 # more than two of its times
same "a process that stands still does not feed it" "$before" "$(wc -l <"$T/told")"
kill -CONT "$DAEMON"
mark
check "one that goes on does" await 10 told '^WATCHDOG=1'
check "the daemon ends with 0" stop_daemon

# ---- sockets that are handed over ----
export PORTS=$T/ports
activate() { # NAME=ADDRESS...
    "$PYTHON" "$T/activate.py" "$@" -- "$BUILDDIR/nbd-runner" --dir "$D" --handler-dir "$HANDLERS" \
        >>"$LOG" 2>&1 </dev/null &
    DAEMON=$!
}
mark
activate nbd=0 nbd-unix="$T/n" control-unix="$D/control.sock"
check "with sockets handed over it starts" await 20 told '^READY=1'
port=$(sed -n 's/^nbd //p' "$T/ports")
same "it listens on the TCP port" "$port" "$(port_of nbd)"
check "a client reads through it" nbdinfo "nbd://127.0.0.1:$port/file/disk"
check "... and through the Unix socket" nbdinfo "nbd+unix:///file/disk?socket=$T/n"
same "the control port, which was not handed over, is its own" 1 \
    "$(cli --json status | json 'len([e for e in j["status"]["rpc_endpoints"] if "127.0.0.1" in e])')"
check "the daemon ends with 0" stop_daemon
check "the files of the sockets are left" test -S "$T/n" -a -S "$D/control.sock"

handed_over() { # NAME=ADDRESS...: must end by itself
    timeout 20 "$PYTHON" "$T/activate.py" "$@" -- "$BUILDDIR/nbd-runner" --dir "$D" \
        --handler-dir "$HANDLERS"
}
rm -f "$D/control.sock" "$T/n"
refuses "an unknown name" 5 'named "metrics"' handed_over metrics=0
refuses "a TCP socket called nbd-unix" 5 "nbd-unix is no listening Unix socket" handed_over nbd-unix=0
