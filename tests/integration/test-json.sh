#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Every answer of nbd-cli --json is what docs/nbd-cli.schema.json says it is, and has nothing
# that is not in there.
. "$(dirname "$0")/lib.sh"
requires_python jsonschema
requires_python nbd
SCHEMA=$SRCDIR/docs/nbd-cli.schema.json
declare -A seen=()

conforms() { # COMMAND < ANSWER
    "$PYTHON" "$HERE/json-schema.py" "$SCHEMA" "$1"
}
answers() { # COMMAND-IN-THE-SCHEMA WORD...: the answer conforms
    local command=$1
    shift
    seen[$command]=yes
    cli --json "$@" >"$T/answer" 2>"$T/stderr" </dev/null
    if conforms "$command" <"$T/answer" >"$T/out" 2>&1; then pass "$*"; else
        cat "$T/stderr" "$T/answer" >>"$T/out"
        fail "$*" "$T/out"
    fi
}

# ---- the schema itself ----
check "the schema is one of JSON Schema 2020-12" "$PYTHON" "$HERE/json-schema.py" "$SCHEMA" --list
echo '{"export": "x", "acl": {"default_deny": false, "entries": [], "colour": 1}}' >"$T/more"
check "members that it does not know are found" bash -c '! "$0" "$1" "$2" acl <"$3"' \
    "$PYTHON" "$HERE/json-schema.py" "$SCHEMA" "$T/more"

# ---- without a daemon ----
answers error file list
answers error nonsense
answers error file create x size 1X
answers doctor doctor
answers version version

# ---- with one ----
need_daemon
answers "BACKSTORE create" file create disk size 1M name disk description "some words"
answers "BACKSTORE create" file create pre prealloc size 1M nowait
answers "job wait" job wait "$(json 'j["job"]["id"]' <"$T/answer")"
answers error file create disk size 1M
cp "$D/images/disk" "$D/images/other"
answers "export add" export add file other name other opt detect-zeroes=on readonly
answers "export list" export list
answers "export show" export show other
answers "export set" export set disk hidden no max-connections 5
answers "export set" export set disk size 2M
answers "BACKSTORE resize" file resize disk size 3M
answers "export sync" export sync disk
answers acl acl disk add 127.0.0.1 ::1
answers acl acl disk
answers status status
answers status status disk
answers info info disk
answers info info disk --map
head -c 4096 /dev/zero >"$T/zeroes"
seen[write]=yes
check "write" bash -c '"$1" --dir "$2" --json write disk from 0 size 4096 <"$3" | "$0" "$4" "$5" write' \
    "$PYTHON" "$BUILDDIR/nbd-cli" "$D" "$T/zeroes" "$HERE/json-schema.py" "$SCHEMA"
"$PYTHON" -c 'import nbd, sys, time
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print("connected", flush=True)
time.sleep(120)' "$(uri disk)" >"$T/client" &
stop_at_end+=($!)
check "a client connects" await 20 grep -q connected "$T/client"
answers top top interval 1 count 1
answers clients clients
answers kick kick "$(json 'j["clients"][0]["id"]' <"$T/answer")"
answers error kick 999999
answers "BACKSTORE list" file list
answers "BACKSTORE list" mem list
answers "global list" global list
answers "job list" job list
id=$(json 'j["jobs"][0]["id"]' <"$T/answer")
answers "job show" job show "$id"
answers "job wait" job wait "$id"
answers error job cancel "$id"
answers restore restore
echo "# nothing" >"$T/nbdtab"
answers map map all tab "$T/nbdtab"
answers unmap unmap all tab "$T/nbdtab"
answers log-level log-level debug
answers reload reload
answers doctor doctor
answers error file map disk no-modprobe
answers error export set disk readonly perhaps
answers "export remove" export remove other
answers "BACKSTORE delete" file delete pre
answers "BACKSTORE delete" file delete disk nowait
answers "export list" export list

# ---- what a daemon cannot be brought to here: the kernel tests map, a job must run long ----
seen["BACKSTORE map"]=elsewhere seen["BACKSTORE unmap"]=elsewhere seen["job cancel"]=elsewhere

# ---- all of them ----
"$PYTHON" "$HERE/json-schema.py" "$SCHEMA" --list | grep -v '^error$' | sort >"$T/described"
cli help | sed -n 's/^  nbd-cli \([a-zA-Z-]* *[a-z-]*\).*/\1/p' | sed 's/ $//' | sort >"$T/help"
while read -r command; do
    check "tested: $command" test -n "${seen[$command]-}"
done <"$T/described"
# read prints the data, monitor runs until it is stopped
grep -vxE 'help|read|monitor' "$T/help" | while read -r line; do
    grep -qxF -e "$line" -e "${line%% *}" "$T/described" || echo "$line"
done >"$T/undescribed"
same "every command has a schema" "" "$(cat "$T/undescribed")"
check "the daemon ends with 0" stop_daemon
