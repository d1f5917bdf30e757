#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# What changes on an export while it is in use: its settings, who may connect, its data made
# stable. All of it survives a restart, and is refused where it cannot be saved.
. "$(dirname "$0")/lib.sh"
requires nbdinfo
requires_python nbd

settings() { cli --json export show "$1" | json "j['settings']['$2']"; }
acl() { cli --json acl "$1" | json '"%s %s" % (j["acl"]["default_deny"], ",".join(j["acl"]["entries"]))'; }
tcp() { echo "nbd://127.0.0.1:$PORT/$1"; }
client() { # URI: connects and stays until it is disconnected
    "$PYTHON" - "$1" <<'EOF'
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print("connected", flush=True)
try:
    while h.aio_is_ready():
        h.poll(1000)
except nbd.Error:
    pass
print("disconnected", flush=True)
EOF
}

mkdir -p "$D/conf.d"
truncate -s 1M "$T/image"
printf '[fixed]\nexportname = %s\n' "$T/image" >"$D/conf.d/fixed.conf"
need_daemon
PORT=$(port_of nbd)
check "an export" cli file create disk size 1M name disk
check "another" cli file create other size 1M name other

# ---- settings ----
check "several are set at once" cli export set disk description "my disk" hidden yes max-connections 2
same "the description" "my disk" "$(settings disk description)"
check "clients see it" bash -c "nbdinfo --json '$(uri disk)' | grep -q 'my disk'"
check "a hidden export is in no list" bash -c "! nbdinfo --list '$(uri)' | grep -q '\"disk\"'"
check "the other one is" bash -c "nbdinfo --list '$(uri)' | grep -q '\"other\"'"
check "it is shown again" cli export set disk hidden no
check "the list has it" bash -c "nbdinfo --list '$(uri)' | grep -q '\"disk\"'"
refuses "an unknown setting" 2 "did you mean 'hidden'" cli export set disk hiden yes
refuses "no setting" 2 "nothing to set" cli export set disk
refuses "a value that makes no sense" 2 "hidden" cli export set disk hidden perhaps
refuses "a number that is too large" 2 "max-connections" cli export set disk max-connections 99999999
refuses "an export that is not there" 1 "did you mean 'disk'?" cli export set dsk hidden yes
same "it is written before the answer" "my disk" \
    "$("$PYTHON" -c 'import json, sys
print([e["description"] for e in json.load(open(sys.argv[1]))["exports"].values() if e["name"] == "disk"][0])' "$D/saveconfig.json")"

# ---- read-only ----
client "$(uri disk)" >"$T/client" &
stop_at_end+=($!)
check "a client is there" await 20 grep -q '^connected' "$T/client"
refuses "read-only is not changed under it" 1 "in use" cli export set disk readonly yes
id=$(cli --json clients disk | json 'j["clients"][0]["id"]')
check "it is sent away" cli kick "$id"
check "it has left" await 20 grep -q '^disconnected' "$T/client"
check "then it is changed" await 20 cli export set disk readonly yes
check "clients are told" bash -c "nbdinfo --json '$(uri disk)' | grep -q '\"is_read_only\": true'"
check "and back" await 20 cli export set disk readonly no
check "clients are told again" bash -c "nbdinfo --json '$(uri disk)' | grep -q '\"is_read_only\": false'"

# ---- who may connect ----
same "everybody at first" "False " "$(acl disk)"
client "$(tcp disk)" >"$T/tcp-client" &
stop_at_end+=($!)
check "a client by TCP" await 20 grep -q '^connected' "$T/tcp-client"
check "others only" cli acl disk set 192.0.2.0/24 2001:db8::1
check "the client is sent away" await 20 grep -q '^disconnected' "$T/tcp-client"
refuses "and not let in again" 1 "" nbdinfo --size "$(tcp disk)"
check "the loopback as well" cli acl disk add 127.0.0.1 192.0.2.0/24
same "nothing is there twice" "False 192.0.2.0/24,2001:db8::1,127.0.0.1" "$(acl disk)"
same "it is let in" 1048576 "$(nbdinfo --size "$(tcp disk)")"
check "no longer" cli acl disk del 127.0.0.1
refuses "it is not let in" 1 "" nbdinfo --size "$(tcp disk)"
check "nobody at all" cli acl disk set
check "..." cli acl disk default-deny on
same "nobody at all, it says" "True " "$(acl disk)"
refuses "no client" 1 "" nbdinfo --size "$(tcp disk)"
refuses "a wrong entry is named" 1 '"10.0.0.0/33"' cli acl disk add 10.0.0.1 10.0.0.0/33
refuses "an entry that is not there" 1 '"10.0.0.1"' cli acl disk del 10.0.0.1
same "and nothing is changed" "True " "$(acl disk)"
refuses "entries without a verb" 2 "'set', 'add' or 'del'" cli acl disk 10.0.0.1
refuses "two verbs" 2 "exclude each other" cli acl disk add del 10.0.0.1
refuses "a verb without entries" 2 "needs an entry" cli acl disk add

# ---- stable ----
check "sync" cli export sync disk
same "its job" "sync done" "$(cli --json export sync other | json 'j["job"]["kind"] + " " + j["job"]["state"]')"
job=$(cli export sync disk nowait)
check "sync without waiting" cli job wait "$job"
refuses "of nothing" 1 "there is no export" cli export sync nothing

# ---- exports of a file ----
refuses "an export of a file is changed there" 5 "fixed.conf" cli export set fixed hidden yes
refuses "also its list" 5 "fixed.conf" cli acl fixed add 127.0.0.1
check "it can be synced" cli export sync fixed
check "and looked at" cli acl fixed

# ---- deleted by force: clients get the drain-timeout ----
for removal in "file delete drained" "export remove drained"; do
    cli export add file drained name drained >/dev/null 2>&1 ||
        cli file create drained size 1M name drained >/dev/null
    check "a time to leave" cli export set drained drain-timeout 600
    client "$(uri drained)" >"$T/leaving" &
    stop_at_end+=($!)
    check "a client is there" await 20 grep -q '^connected' "$T/leaving"
    check "$removal" cli $removal force nowait
    refuses "nobody else is let in" 1 "" timeout 60 nbdinfo --size "$(uri drained)"
    check "the client goes on" bash -c '! grep -q "^disconnected" "$0"' "$T/leaving"
    same "it is counted" 1 "$(cli --json clients drained | json 'len(j["clients"])')"
    cli kick "$(cli --json clients drained | json 'j["clients"][0]["id"]')" >/dev/null
    check "when it has left the export is gone" await 20 bash -c '! "$@" export show drained' - \
        "$BUILDDIR/nbd-cli" --dir "$D"
done
cli export add file drained name drained >/dev/null # it was only forgotten
check "a short time to leave" cli export set drained drain-timeout 1
client "$(uri drained)" >"$T/leaving" &
stop_at_end+=($!)
check "a client is there" await 20 grep -q '^connected' "$T/leaving"
check "the export is deleted when the time is over" cli file delete drained force
check "the client is sent away" await 20 grep -q '^disconnected' "$T/leaving"
check "for that reason" await 10 is_logged "its drain_timeout is over"

# ---- at the same time, and after a restart ----
for i in 1 2 3 4 5 6 7 8 9; do cli acl other add "10.0.0.$i" >/dev/null & done
wait $(jobs -p | grep -vxF "$DAEMON")
same "no change is lost" 9 "$(cli --json acl other | json 'len(j["acl"]["entries"])')"
kill_daemon
need_daemon
same "the list survives kill -9" "True " "$(acl disk)"
same "the other one too" 9 "$(cli --json acl other | json 'len(j["acl"]["entries"])')"
same "the settings too" "my disk" "$(settings disk description)"

# ---- what cannot be saved is not done ----
rm "$D/saveconfig.json"
mkdir -p "$D/saveconfig.json/in-the-way"
refuses "a change that cannot be saved" 1 "cannot be saved" cli export set disk description new
refuses "also of the list" 1 "cannot be saved" cli acl disk default-deny off
same "is not done" "my disk" "$(settings disk description)"
same "neither of them" "True " "$(acl disk)"
