#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Clients that announce large writes and then stall hold all memory for payloads: others wait
# for it, but not for ever.
. "$(dirname "$0")/lib.sh"

need_daemon
check "an export" cli file create disk size 128M
cat >"$T/stall.py" <<'EOF'
import json, socket, struct, subprocess, sys, time

def client(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(40)
    s.connect(path)
    name = b"file/disk"
    receive(s, 18)
    s.sendall(struct.pack(">I", 3) + b"IHAVEOPT" +
              struct.pack(">III", 7, 6 + len(name), len(name)) + name + struct.pack(">H", 0))
    while True:
        kind, length = struct.unpack(">12xII", receive(s, 20))
        receive(s, length)
        if kind == 1:
            return s

def receive(s, n):
    data = b""
    while len(data) < n:
        part = s.recv(n - len(data))
        if not part:
            sys.exit("the daemon closed the connection")
        data += part
    return data

def lent_bytes():
    done = subprocess.run([*sys.argv[2:], "--json", "status"], capture_output=True)
    return json.loads(done.stdout)["status"]["payload_bytes"]

def write(cookie, length, data):
    return struct.pack(">IHHQQI", 0x25609513, 0, 1, cookie, 0, length) + data

stalled = [client(sys.argv[1]) for i in range(6)]
for s in stalled:
    s.sendall(write(1, 64 << 20, b"x" * 1000))
# Three of them fill the share that an export has; the others wait.
end = time.monotonic() + 60
while lent_bytes() < 3 * (64 << 20):
    if time.monotonic() > end:
        sys.exit("the daemon does not lend them memory")
    time.sleep(0.05)
other = client(sys.argv[1])
start = time.monotonic()
other.sendall(write(2, 1 << 20, b"y" * (1 << 20)))
magic, error, cookie = struct.unpack(">IIQ", receive(other, 16))
print("ok" if (magic, error, cookie) == (0x67446698, 0, 2) else "wrong", time.monotonic() - start)
EOF
"$PYTHON" "$T/stall.py" "$D/nbd.sock" "$BUILDDIR/nbd-cli" --dir "$D" >"$T/stall" 2>&1
same "another client's write is done all the same" ok "$(cut -d' ' -f1 <"$T/stall")"
check "the log says who had to go" await 10 is_logged "held memory that others waited for"
check "the daemon ends with 0" stop_daemon
