#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The size of an export changes: by command in both spellings, by others behind the daemon's
# back, with clients attached; and what must be refused.
. "$(dirname "$0")/lib.sh"
requires nbdinfo qemu-io
requires_python nbd

size_of() { nbdinfo --size "$(uri "$1")"; }
listed() { cli export show "$1" --json | json 'j["export"]["size_bytes"]'; }
need_daemon
cli file create disk size 1M >/dev/null
cli file create fixed size 1M readonly >/dev/null
cli mem create ram size 1M >/dev/null
head -c 1M /dev/urandom >"$T/data"
cli write file/disk from 0 size 1M <"$T/data" >/dev/null

same "it grows" "Resize succeeded!" "$(cli file resize disk size 4M)"
same "new clients see the new size" 4194304 "$(size_of file/disk)"
same "so does the list" 4194304 "$(listed file/disk)"
same "and the file" 4194304 "$(stat -c %s "$D/images/disk")"
check "what was there is there" cmp -n 1048576 "$T/data" "$D/images/disk"
check "what is new reads as zeroes" cmp -n 3145728 -i 1048576:0 "$D/images/disk" /dev/zero
same "the same by name" "Resize succeeded!" "$(cli export set file/disk size 5M)"
same "has the same effect" 5242880 "$(size_of file/disk)"
same "the answer names the job" resize "$(cli --json file resize disk size 6M | json 'j["job"]["kind"]')"

refuses "shrinking needs the word" 1 "shrink" cli file resize disk size 2M
refuses "also by name" 1 "shrink" cli export set file/disk size 2M
same "nothing has changed" 6291456 "$(size_of file/disk)"
check "with it, it shrinks" cli file resize disk size 2M shrink
same "new clients see that" 2097152 "$(size_of file/disk)"
check "what is left is there" cmp -n 1048576 "$T/data" "$D/images/disk"
refuses "an export that is not there" 1 "nosuch" cli file resize nosuch size 2M
refuses "a read-only one" 5 "read-only" cli file resize fixed size 2M
refuses "a backstore that cannot" 1 "mem" cli mem resize ram size 2M
refuses "no size" 2 "size" cli file resize disk
refuses "the word without a size" 2 "shrink" cli export set file/disk shrink

# ---- with a client ----
cat >"$T/attached.py" <<'P'
import errno, nbd, subprocess, sys

cli, uri = sys.argv[2:], sys.argv[1]
def run(*words):
    return subprocess.run(cli + list(words), capture_output=True, text=True)
def refused(call):
    try:
        call()
    except nbd.Error as e:
        return e.errno
    return None
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(uri)
old = h.get_size()
h.pwrite(b"a" * 4096, old - 4096)
assert run("file", "resize", "disk", "size", "8M").returncode == 0
assert h.get_size() == old
assert h.pread(4096, old - 4096) == b"a" * 4096
assert refused(lambda: h.pread(512, old)) == "EINVAL", "a read beyond"
assert refused(lambda: h.pwrite(b"b" * 512, old)) == "ENOSPC", "a write beyond"
assert refused(lambda: h.zero(512, old)) == "ENOSPC", "zeroes beyond"
assert h.pread(512, 0), "it goes on"
n = nbd.NBD()
n.connect_uri(uri)
assert n.get_size() == 8 << 20
n.pwrite(b"c" * 4096, (8 << 20) - 4096)
r = run("file", "resize", "disk", "size", "1M", "shrink")
assert r.returncode == 1 and "in use by 2 connection" in r.stderr, r
assert n.pread(4096, (8 << 20) - 4096) == b"c" * 4096
n.shutdown()
h.shutdown()
P
check "clients keep the size that they know; no shrinking under them" \
    "$PYTHON" "$T/attached.py" "$(uri file/disk)" "$BUILDDIR/nbd-cli" --dir "$D"

# ---- behind the daemon's back ----
truncate -s 3M "$D/images/disk"
same "the next client sees a change by others" 3145728 "$(size_of file/disk)"
coproc holder { qemu-io -f raw "$(uri file/disk)" 2>&1; }
stop_at_end+=("$holder_PID")
echo "read 0 512" >&"${holder[1]}"
read -r -t 20 line <&"${holder[0]}"
truncate -s 7M "$D/images/disk"
same "also while another one is connected" 7340032 "$(size_of file/disk)"
truncate -s 9M "$D/images/disk"
# Each look at the list makes the daemon look at the file, now and then.
check "the list notices it" await 30 bash -c '[ "$("$0" --dir "$1" export show file/disk --json |
    "$2" -c "import json,sys; print(json.load(sys.stdin)[\"export\"][\"size_bytes\"])")" = 9437184 ]' \
    "$BUILDDIR/nbd-cli" "$D" "$PYTHON"
echo quit >&"${holder[1]}"

# ---- over a restart ----
check "it grows again" cli file resize disk size 16M
check "the state file has the new size" grep -q 16777216 "$D/saveconfig.json"
kill_daemon
need_daemon
same "it is kept over kill -9" 16777216 "$(listed file/disk)"
check "the daemon ends with 0" stop_daemon
