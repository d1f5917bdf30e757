#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The examples do what they say, against a real daemon, and know the protocol of this version.
. "$(dirname "$0")/lib.sh"
requires jq
EXAMPLES=$SRCDIR/examples
export PATH=$BUILDDIR:$PATH NBD_RUNNER_DIR=$D

# ---- the numbers of the script are those of rpc_nbd.x ----
"$PYTHON" - "$EXAMPLES" "$SRCDIR/rpc/rpc_nbd.x" >"$T/numbers" <<'EOF'
import re, sys
sys.path.insert(0, sys.argv[1])
import nbd_runner_rpc as script
text = re.sub(r"/\*.*?\*/", "", open(sys.argv[2]).read(), flags=re.S)
numbers = dict((name, int(value, 0)) for name, value in
               re.findall(r"\b(NR_\w+)(?:\([^)]*\))?\s*=\s*(0x[0-9a-f]+|\d+)", text))
wrong = [name for name in dir(script)
         if name.startswith("NR_") and numbers.get(name) != getattr(script, name)]
def words(enum, prefix):
    body = re.search(r"enum %s \{(.*?)\}" % enum, text, re.S).group(1)
    pairs = re.findall(r"%s(\w+)\s*=\s*(\d+)" % prefix, body)
    return tuple(name for name, number in sorted(pairs, key=lambda pair: int(pair[1])))
def lower(names):
    return tuple(name.lower().replace("_", "-") for name in names)
if script.CODES != words("nr_code", "NR_"): wrong.append("CODES")
if script.JOB_STATES != lower(words("nr_job_state", "NR_J_")): wrong.append("JOB_STATES")
if script.EXPORT_STATES != lower(words("nr_export_state", "NR_X_")): wrong.append("EXPORT_STATES")
program = int(re.search(r"\} = (0x[0-9a-f]+);\s*$", text).group(1), 0)
version = int(re.search(r"\} = (\d+);\s*\} = 0x", text).group(1))
if (script.PROGRAM, script.VERSION) != (program, version): wrong.append("PROGRAM")
print(" ".join(wrong) or "equal")
EOF
same "the numbers of the example are those of rpc_nbd.x" equal "$(cat "$T/numbers")"

# ---- nbd_runner_rpc.py ----
need_daemon
rpc() { timeout 60 "$PYTHON" "$EXAMPLES/nbd_runner_rpc.py" "${WHERE[@]}" "$@"; }
for way in unix tcp; do
    if [ $way = unix ]; then WHERE=(--unix "$D/control.sock"); else WHERE=(--port "$(port_of rpc)"); fi
    same "$way: an export is made" "disk-$way" "$(rpc create file "disk-$way" 3M --name "disk-$way")"
    same "$way: of that size" 3145728 "$(stat -c %s "$D/images/disk-$way")"
    job=$(rpc create file "other-$way" 1M --prealloc --nowait)
    same "$way: its job is waited for" "done" "$(rpc wait "$job")"
    check "$way: it is listed" grep -qP "^disk-$way\tready\t3145728\tfile:disk-$way\$" <(rpc list)
    check "$way: so is its job" grep -qP "^$job\tdone\tfile/other-$way\$" <(rpc jobs)
    refuses "$way: a refusal has the daemon's sentence" 1 "there is an export named" \
        rpc create file "disk-$way" 1M --name "disk-$way"
    check "$way: it is deleted" rpc delete "disk-$way"
    check "$way: with its data" test ! -e "$D/images/disk-$way"
    check "$way: or without" rpc delete "file/other-$way" --keep-data
    check "$way: which stay" test -e "$D/images/other-$way"
    refuses "$way: what is not there" 1 "there is no export named" rpc delete nothing
done
for i in $(seq 300); do echo "disk$i"; done >"$T/names"
"$PYTHON" - "$EXAMPLES" "$D/control.sock" "$T/names" >"$T/out" <<'EOF'
import sys
sys.path.insert(0, sys.argv[1])
from nbd_runner_rpc import Daemon
names = open(sys.argv[3]).read().split()
with Daemon(unix=sys.argv[2]) as daemon:
    for name in names:
        daemon.wait(daemon.create("null", name, size=1 << 20, name=name)["id"])
    print(len(list(daemon.exports())), daemon.export("disk300")["size"])
    left = 0
    for name in names:
        daemon.wait(daemon.delete(name)["id"])
        if name in names[-40:]:
            left += any(export["name"] == name for export in daemon.exports())
    print(left, len(list(daemon.exports())))
EOF
same "as a module, with many pages" "300 1048576 0 0" "$(tr '\n' ' ' <"$T/out" | sed 's/ $//')"
WHERE=(--port "$(port_of nbd)")
refuses "the wrong port is told" 1 "nbd_runner_rpc:" rpc list
WHERE=(--unix "$D/nothing")
refuses "so is no daemon" 1 "No such file" rpc list

# ---- orchestrate.sh ----
orchestrate() { timeout 60 "$EXAMPLES/orchestrate.sh" "$@" 2>"$T/stderr"; }
same "three disks" "vm/db1 ready 2097152 vm/web1 ready 2097152 vm/web2 ready 2097152" \
    "$(orchestrate 2M web1 web2 db1 | tr '\t\n' '  ' | sed 's/ $//')"
check "it says what it makes" grep -q "vm/web2 is made" "$T/stderr"
same "again, less one, plus one" "vm/db1 vm/web1 vm/web3" \
    "$(orchestrate 2M web1 web3 db1 | cut -f1 | tr '\n' ' ' | sed 's/ $//')"
check "it leaves what is there" grep -q "vm/web1 is there" "$T/stderr"
check "it deletes what is not wanted" grep -q "vm/web2 is deleted" "$T/stderr"
check "the file too" test ! -e "$D/images/vm-web2.img"
: >"$D/images/vm-taken.img"
orchestrate 2M web1 web3 db1 taken >"$T/table"
same "a failure is told" 1 $?
check "with the reason" grep -q "nbd-cli job wait: .*vm-taken.img" "$T/stderr"
same "what was there stays" 3 "$(wc -l <"$T/table")"
orchestrate 2M >"$T/table"
same "wrong usage is told too" 2 $?
check "the daemon ends with 0" stop_daemon

# ---- they are installed ----
check "they are installed" make -C "$BUILDDIR" DESTDIR="$T/dest" install-dist_examplesSCRIPTS
for file in nbd_runner_rpc.py orchestrate.sh; do
    check "$file" test -x "$(find "$T/dest" -path "*/examples/$file" -print -quit)"
done
