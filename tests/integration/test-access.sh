#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Who may connect, and to what: nbd_allow of the daemon, and the access lists, hidden names and
# limits that exports have in the state file.
. "$(dirname "$0")/lib.sh"
PROTOCOL=$SRCDIR/tests/protocol

mkdir -p "$D"
need_daemon
for name in open guarded closed hidden few; do
    cli export add mem $name name $name opt size=1M >"$T/out" 2>&1 ||
        fail "the export $name is made" "$T/out"
done
check "the daemon ends with 0" stop_daemon
"$PYTHON" - "$D/saveconfig.json" <<'EOF'
import json, sys
state = json.load(open(sys.argv[1]))
export = {x["name"]: x for x in state["exports"].values()}
export["guarded"]["acl"] = {"entries": ["127.0.0.2", "192.0.2.0/24"], "default_deny": False}
export["closed"]["acl"] = {"entries": [], "default_deny": True}
export["hidden"]["hidden"] = True
export["few"]["max_connections"] = 1
json.dump(state, open(sys.argv[1], "w"))
EOF

need_daemon
"$PYTHON" "$PROTOCOL/test_access.py" "port=$(port_of nbd)" "unix:$D/nbd.sock" ||
    failures=$((failures + 1))
same "the limit is shown" 1 "$(cli --json export show few | json 'j["export"]["max_connections"]')"
check "something is saved again" cli export add mem other name other opt size=1M
check "the daemon ends with 0" stop_daemon
same "the state file keeps the list" "['127.0.0.2', '192.0.2.0/24']" \
    "$(json '[x for x in j["exports"].values() if x["name"] == "guarded"][0]["acl"]["entries"]' \
        <"$D/saveconfig.json")"

# ---- the whole daemon ----
need_daemon --nbd-allow 127.0.0.2 --nbd-allow 192.0.2.0/24
"$PYTHON" "$PROTOCOL/test_nbd_allow.py" "port=$(port_of nbd)" "log=$LOG" "unix:$D/nbd.sock" ||
    failures=$((failures + 1))
check "the daemon ends with 0" stop_daemon
refuses "a network that is none is refused" 2 "127.0.0.0/33" \
    "$BUILDDIR/nbd-runner" --dir "$D" --nbd-allow 127.0.0.0/33
