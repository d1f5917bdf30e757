#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Exports of configuration files come, change and go while clients work: none of them notices.
. "$(dirname "$0")/lib.sh"
requires nbd-client qemu-io nbdinfo
requires_python nbd

C=$D/conf.d
mkdir -p "$C"
define() { # FILE NAME IMAGE [LINE...]: an export in conf.d, written and renamed
    local file=$1 name=$2 image=$3
    shift 3
    printf '%s\n' "[$name]" "exportname = $T/$image" "$@" >"$C/.new"
    mv "$C/.new" "$C/$file"
}
image() { truncate -s 4M "$T/$1"; }
names() { nbd-client -l -u "$D/nbd.sock" 2>/dev/null | grep -v '^Negotiation' |
    sed 's/:.*//' | sort | tr '\n' ' '; }
lists() { names | grep -qw -- "$1"; }
lists_not() { ! lists "$1"; }
answers() { qemu-io -f raw -r -c 'read 0 512' "$(uri "$1")"; }
is_refused() { # NAME TEXT COMMAND...
    local name=$1 text=$2
    shift 2
    if "$@" >"$T/refusal" 2>&1; then fail "$name" "$T/refusal"; else
        check "$name" grep -qiF -- "$text" "$T/refusal"
    fi
}
reload_says() { # NAME STATUS TEXT: what `nbd-cli reload` answers, in any line
    cli reload >"$T/reload" 2>&1
    local code=$?
    if [ $code = "$2" ] && grep -qF -- "$3" "$T/reload"; then pass "$1"; else
        echo "status $code, wanted $2 and '$3'" >>"$T/reload"
        fail "$1" "$T/reload"
    fi
}
hup() { kill -HUP "$DAEMON"; }
descriptors() { find "/proc/$DAEMON/fd" -mindepth 1 | wc -l; }
declare -a clients=()
attach() { # EXPORT NUMBER: a client that checks what it writes
    "$PYTHON" "$HERE/verify.py" "$(uri "$1")" "$T/stop$2" >"$T/client$2" 2>&1 &
    clients[$2]=$!
    stop_at_end+=($!)
    await 30 grep -q verifying "$T/client$2"
}
is_cut_off() { # NUMBER: before it wanted to leave
    finish 30 "${clients[$1]}"
    [ $? = 1 ]
}
detach() { # NUMBER: it ends well
    touch "$T/stop$1"
    finish 30 "${clients[$1]}"
}

for i in a b c d e; do image $i.img; done
define a.conf a a.img
define b.conf b b.img 'description = the second'
define c.conf c c.img
need_daemon

# ---- many reloads under load ----
same "exports of conf.d are listed at start" "a b c " "$(names)"
for i in 1 2 3; do attach "$(echo "a b c" | cut -d' ' -f$i)" $i; done
answers a >/dev/null 2>&1
before=$(descriptors)
reloads=100 seen=0
for ((i = 0; i < reloads; i++)); do
    define new.conf "new$i" d.img
    hup
    await 10 lists "new$i" || break
    seen=$((seen + 1))
done
same "a new file is listed after each of $reloads reloads" $reloads $seen
rm "$C/new.conf"
check "and the last one goes" cli reload
same "only the three are left" "a b c " "$(names)"
not_more() { [ "$(descriptors)" -le "$before" ]; }
check "no descriptor is left open" await 10 not_more
for i in 1 2 3; do check "client $i saw no error and no reconnect" detach $i; done

# ---- HUPs in quick succession are joined ----
from=$(($(log_lines) + 1))
for ((i = 0; i < 50; i++)); do hup; done
check "a reload after a burst of signals answers" cli reload
count=$(tail -n +$from "$LOG" | grep -c 'configuration: .* unchanged')
check "fewer reloads than signals ($count)" test "$count" -le 51

# ---- removed while in use ----
attach a 4
rm "$C/a.conf"
hup
check "a removed export is no longer listed" await 10 lists_not a
is_refused "nor can anybody connect to it" "no export" answers a
same "the export drains with its client" "draining 1" \
    "$(cli --json export list | json '[" ".join((e["state"], str(e["connections"]))) for e in j["exports"] if e["name"] == "a"][0]')"
check "and has a status" sh -c "$BUILDDIR/nbd-cli --dir $D status a | grep -q 'num_clients=1 .*state=draining'"
define a.conf a d.img
check "the same name comes with another path" cli reload
check "it is listed" lists a
is_refused "but is served to nobody while the old client is there" "still attached" answers a
check "the old client goes on until it leaves" detach 4
check "then the new one is served" await 10 answers a
check "and the old file is closed" await 10 is_logged 'is closed: its last client has left'
closed() { ! find "/proc/$DAEMON/fd" -lname "$T/a.img" | grep -q .; }
check "no descriptor of it is open" await 10 closed

# ---- removed, and back as it was ----
attach b 5
rm "$C/b.conf"
check "removed while in use" cli reload
define b.conf b b.img 'description = again'
check "back with the same storage" cli reload
check "new clients may come at once" answers b
check "the one that stayed did not notice" detach 5

# ---- changes ----
attach c 6
define c.conf c c.img 'description = now with text' 'max_connections = 1'
reload_says "text and limits change" 0 "changed c"
is_refused "the new limit holds at once" "most connections" answers c
check "without harm to who is attached" detach 6
define c.conf c c.img 'readonly = true'
reload_says "read-only is another export" 0 "changed c"
check "which clients are told" nbdinfo --is readonly "$(uri c)"
define c.conf c c.img 'hidden = true'
check "hidden" cli reload
check "is not listed" lists_not c
check "but served" answers c
define c.conf c c.img
check "and shown again" cli reload

# ---- drain_timeout ----
define e.conf e e.img 'drain_timeout = 1'
check "an export with a drain_timeout" cli reload
attach e 7
rm "$C/e.conf"
check "is removed" cli reload
check "its client is cut off when the time is over" is_cut_off 7

# ---- ended by hand ----
define g.conf g e.img
check "an export without one" cli reload
attach g 10
rm "$C/g.conf"
check "is removed, too" cli reload
check "and still shown" sh -c "$BUILDDIR/nbd-cli --dir $D export show g | grep -q draining"
refuses "its client is not ended in passing" 1 "1 client(s) go on until they leave" \
    cli export remove g
define g.conf g d.img
check "the name comes back with other storage" cli reload
is_refused "which waits for the client" "still attached" answers g
check "who is ended by force" cli export remove g force
check "at once" is_cut_off 10
check "then the new one is served" await 10 answers g
refuses "which only its file can remove" 5 "remove it there" cli export remove g force
rm "$C/g.conf"
check "without clients it is simply gone" cli reload

# ---- who is attached is cut off only when the list says so ----
port=$(port_of nbd)
"$PYTHON" "$HERE/verify.py" "nbd://127.0.0.1:$port/b" "$T/stop8" >"$T/client8" 2>&1 &
clients[8]=$!
stop_at_end+=($!)
check "a client over TCP" await 30 grep -q verifying "$T/client8"
define b.conf b b.img 'acl = 127.0.0.0/8'
check "an access list that allows it" cli reload
define b.conf b b.img 'acl = 127.0.0.0/8, 192.0.2.1'
check "and another one" cli reload
check "leaves it alone" kill -0 "${clients[8]}"
define b.conf b b.img 'acl = 192.0.2.1'
check "one that does not" cli reload
check "ends it" is_cut_off 8

# ---- across a restart ----
check "the daemon ends with 0" stop_daemon
check "nothing of conf.d is in the state file" sh -c "! grep -q '\"name\": \"[abc]\"' $D/saveconfig.json"
need_daemon
same "what the files define is there again" "a b c " "$(names)"
kill_daemon
need_daemon
same "also after a crash" "a b c " "$(names)"
check "the daemon ends with 0" stop_daemon
