#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Storage that is away when the daemon starts: what depends on it is faulted and says why, all
# the rest is served, and it comes back by itself.
. "$(dirname "$0")/lib.sh"
[ -e "$HANDLERS/libnbd_handler.so" ] || { echo "skip: there is no nbd handler"; exit 77; }

free_port() {
    "$PYTHON" -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])'
}
state_of() { cli --json export show "$1" | json 'j["export"]["state"]'; }
is_in_state() { [ "$(state_of "$1")" = "$2" ]; }
reads() { # NAME
    "$PYTHON" "$SRCDIR/tests/protocol/test_read.py" "export=$1" "unix:$D/nbd.sock"
}

# A server that accepts connections and says nothing.
"$PYTHON" -c 'import socket, sys, time
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen(64)
open(sys.argv[1], "w").write(str(s.getsockname()[1]))
time.sleep(600)' "$T/silent.tmp" &
stop_at_end+=($!)
await 10 test -s "$T/silent.tmp" || { fail "a silent server listens"; exit 1; }
silent=$(cat "$T/silent.tmp")
port=$(free_port)

mkdir -p "$D/images"
truncate -s 8M "$D/images/disk" "$T/remote.img"
need_daemon
check "an export" cli export add file disk name disk
check "the daemon ends with 0" stop_daemon
"$PYTHON" - "$D/saveconfig.json" "$port" "$silent" <<'EOF'
import copy, json, sys, uuid
path, refused, silent = sys.argv[1:]
state = json.load(open(path))
disk = next(iter(state["exports"].values()))
def add(name, handler, target):
    export = copy.deepcopy(disk)
    export.update(name=name, handler=handler, target=target)
    state["exports"][str(uuid.uuid4())] = export
add("refused", "nbd", "127.0.0.1:%s/disk" % refused)
for i in range(3):
    add("silent%d" % i, "nbd", "127.0.0.1:%s/disk%d" % (silent, i))
add("missing", "file", "no-such-file")
json.dump(state, open(path, "w"))
EOF

# ---- the start ----
need_daemon
check "what is not concerned is served at once" reads disk
check "who is refused is faulted" await 10 is_in_state refused faulted
check "a missing file is faulted" await 10 is_in_state missing faulted
check "storage that says nothing is faulted" await 30 is_in_state silent2 faulted
same "the others are ready" ready "$(state_of disk)"
cli --json export show refused | json 'j["export"]["fault"]["message"]' >"$T/why"
check "the reason names the target" grep -q "127.0.0.1:$port" "$T/why"
cli export list >"$T/list"
check "the table says faulted" grep -q "refused.*faulted\|faulted.*refused" "$T/list"
check "what is not concerned is served still" reads disk

# ---- a client that asks for it is told at once ----
"$PYTHON" "$SRCDIR/tests/protocol/test_faulted.py" "unix:$D/nbd.sock" "port=$port" ||
    failures=$((failures + 1))

# ---- the return ----
"$BUILDDIR/nbd-runner" serve --handler-dir "$HANDLERS" --file "$T/remote.img" --name disk \
    --addr 127.0.0.1 --port "$port" >"$T/remote.log" 2>&1 &
stop_at_end+=($!)
check "it comes back with nobody asking" await 90 is_in_state refused ready
check "and is served" reads refused
check "the daemon ends with 0" stop_daemon
