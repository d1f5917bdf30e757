#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# nbd-cli status as a health check: exit status 0 means that the control port and the NBD ports
# answer. In networks of its own ports are dead that belong to a daemon that lives.
. "$(dirname "$0")/lib.sh"

answers() { json '" ".join(a["answer"] for a in j["status"]["nbd_answers"])'; }
turned_away() {
    "$PYTHON" "$HERE/get-page.py" "$(cli --json status | json 'j["status"]["metrics_endpoints"][0].rsplit(":", 1)[1]')" \
        /metrics | sed -n 's/^nbd_runner_connections_turned_away_total //p'
}

# ---- all is well ----
need_daemon --metrics 127.0.0.1:0
from=$(($(log_lines) + 1))
check "it succeeds" cli status
same "each address is told" "yes,yes" "$(cli status | sed -n 's/.* nbd_answers=\([^ ]*\).*/\1/p')"
cli --json status >"$T/answer"
same "in JSON, too" "yes yes" "$(answers <"$T/answer")"
same "in the order of the addresses" true \
    "$(json '[a["address"] for a in j["status"]["nbd_answers"]] == j["status"]["nbd_endpoints"]' <"$T/answer")"
same "no reason is given" true "$(json 'all(a["message"] is None for a in j["status"]["nbd_answers"])' <"$T/answer")"
same "the daemon's log has nothing of it" "" "$(tail -n "+$from" "$LOG")"
same "nobody was turned away" 0 "$(turned_away)"
refuses "an export's status does not ask" 1 "there is no export" cli status nothing
check "a client that leaves after a word is in the log, all the same" bash -c 'printf "\0\0\0\1" >"/dev/tcp/127.0.0.1/$0"' "$(port_of nbd)"
check "... with its reason" await 20 is_logged "disconnected: " "$from"
stop_daemon >/dev/null

# ---- nbd_allow ----
need_daemon --metrics 127.0.0.1:0 --nbd-allow 10.0.0.0/8
from=$(($(log_lines) + 1))
cli --json status >"$T/answer"
same "one that nbd_allow forbids is no failure beside one that answers" 0 $?
same "it is told" "not-admitted yes" "$(answers <"$T/answer")"
check "with the reason" grep -q "nbd_allow does not let 127.0.0.1 in" "$T/answer"
same "it is not tried" "" "$(tail -n "+$from" "$LOG")"
same "nobody was turned away" 0 "$(turned_away)"
refuses "when all are forbidden, that is a failure" 1 "nbd_allow does not let 127.0.0.1 in" \
    bash -c '"$0" --host "127.0.0.1:$1" status >/dev/null' "$BUILDDIR/nbd-cli" "$(port_of rpc)"
check "doctor warns of it" bash -c '"$0" --dir "$1" doctor | grep -q "^warning ports .*nbd_allow"' "$BUILDDIR/nbd-cli" "$D"
stop_daemon >/dev/null

# ---- no more clients fit ----
printf '[generic]\nmax_connections = 1\n' >"$D/nbd-runner.conf"
need_daemon
cat >"$T/fill.py" <<'END'
import resource, socket, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
clients = []
while True:
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    clients.append(client)
    if not client.recv(18):
        break
print("full", flush=True)
time.sleep(120)
END
"$PYTHON" "$T/fill.py" "$D/nbd.sock" >"$T/fill" &
fill=$!
stop_at_end+=($fill)
check "the daemon takes no more clients" await 30 grep -q full "$T/fill"
refuses "that is a failure" 1 "far beyond max_connections" bash -c '"$0" --dir "$1" status >/dev/null' "$BUILDDIR/nbd-cli" "$D"
kill $fill
check "which ends with them" await 20 cli status
stop_daemon >/dev/null
rm "$D/nbd-runner.conf"

# ---- ports that are dead ----
if ! unshare -rn ip link show lo >/dev/null 2>&1; then
    echo "# no networks of their own here: dead ports and other hosts are not tried"
    exit 0
fi
cat >"$T/dead" <<'END'
ip link set lo up
"$BUILDDIR/nbd-runner" --dir "$D" --handler-dir "$HANDLERS" >>"$LOG" 2>&1 </dev/null &
pid=$!
for i in {1..500}; do "$BUILDDIR/nbd-cli" --dir "$D" status >"$T/alive" 2>&1 && break; sleep 0.02; done
ip link set lo down
"$BUILDDIR/nbd-cli" --dir "$D" version >"$T/rpc" 2>&1
"$BUILDDIR/nbd-cli" --dir "$D" status >"$T/text" 2>"$T/stderr"
echo $? >"$T/code"
"$BUILDDIR/nbd-cli" --dir "$D" --json status >"$T/answer" 2>/dev/null
"$BUILDDIR/nbd-cli" --dir "$D" doctor >"$T/doctor"
kill $pid
finish 30 $pid
END
export BUILDDIR D HANDLERS LOG T
export -f await finish is_gone
unshare -rn bash "$T/dead"
check "while its network is up it is well" grep -q "nbd_answers=yes,yes" "$T/alive"
same "when that is down, it is a failure" 1 "$(cat "$T/code")"
same "in one line" 1 "$(wc -l <"$T/stderr")"
check "with the address and the reason" grep -q "NBD does not answer at 127.0.0.1:.*no answer in time" "$T/stderr"
check "the text is there all the same" grep -q " nbd_answers=no,yes" "$T/text"
same "and the JSON" "no yes" "$(answers <"$T/answer")"
check "with the error" grep -q '"message": "the daemon runs, but NBD does not answer' "$T/answer"
check "doctor says so, too" grep -q "^problem ports" "$T/doctor"

# ---- another host: two networks and a cable ----
cat >"$T/server" <<'END'
ip link set lo up
ip link add name veth-a type veth peer name veth-b || exit
ip link set veth-a up
ip addr add 10.9.0.1/24 dev veth-a
unshare -n sleep 120 &
host=$!
has_own_network() { ! [ /proc/$host/ns/net -ef /proc/$$/ns/net ]; }
await 10 has_own_network || exit
ip link set veth-b netns $host
nsenter -t $host -n sh -c 'ip link set veth-b up && ip addr add 10.9.0.2/24 dev veth-b'
there() { nsenter -t $host -n "$BUILDDIR/nbd-cli" --host 10.9.0.1:7000 "$@"; }
try() { # NAME ADDRESS-FOR-NBD ARG...
    local name=$1 at=$2 pid
    shift 2
    "$BUILDDIR/nbd-runner" --dir "$D" --handler-dir "$HANDLERS" --rpchost 10.9.0.1 --rpcport 7000 \
        --iohost "$at" --ioport 7001 --rpc-allow 10.9.0.0/24 "$@" >>"$LOG" 2>&1 </dev/null &
    pid=$!
    for i in {1..100}; do there --timeout 2 clients >/dev/null 2>&1 && break; sleep 0.02; done
    there --json status >"$T/$name.answer" 2>"$T/$name.stderr"
    echo $? >"$T/$name.code"
    kill $pid
    finish 30 $pid
}
try all 0.0.0.0
try same 10.9.0.1
try loopback 127.0.0.1
try forbidden 10.9.0.1 --nbd-allow 10.9.0.1
kill $host
END
unshare -rn bash "$T/server" >"$T/cable" 2>&1
if ! grep -q '"pid"' "$T/all.answer" 2>/dev/null; then
    echo "# no cable between networks here: other hosts are not tried"
    exit 0
fi
found() { echo "$(cat "$T/$1.code") $(answers <"$T/$1.answer")"; }
same "the NBD port is looked for on the daemon's host" "0 yes not-reachable" "$(found all)"
same "at the address that it has" "0 yes not-reachable" "$(found same)"
same "what only that host can reach is not tried here" "1 not-reachable not-reachable" "$(found loopback)"
check "which is said" grep -q "can only be seen on its own host" "$T/loopback.stderr"
same "nbd_allow goes by our address there" "1 not-admitted not-reachable" "$(found forbidden)"
check "which is said" grep -q "nbd_allow does not let 10.9.0.2 in" "$T/forbidden.stderr"
