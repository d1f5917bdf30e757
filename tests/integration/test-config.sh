#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Configuration files with mistakes: each is said with file and line, none does more than it
# must. And files that were written for nbd-server.
. "$(dirname "$0")/lib.sh"
requires nbd-client qemu-io

C=$D/conf.d
mkdir -p "$C"
define() { # FILE LINE...
    local file=$1
    shift
    printf '%s\n' "$@" >"$C/.new"
    mv "$C/.new" "$C/$file"
}
truncate -s 1M "$T/x.img"
good() { define "$1.conf" "[$1]" "exportname = $T/x.img" 'readonly = true' "description = $2"; }
names() { export_names; }
check_config() { "$BUILDDIR/nbd-runner" --dir "$D" --handler-dir "$HANDLERS" --check-config "$@"; }
config_says() { # NAME STATUS TEXT...: --check-config, all of the texts
    local name=$1 status=$2 code text missing=
    shift 2
    check_config >"$T/said" 2>&1
    code=$?
    for text; do grep -qF -- "$text" "$T/said" || missing+=" '$text'"; done
    if [ $code = "$status" ] && [ -z "$missing" ]; then pass "$name"; else
        echo "status $code, wanted $status and$missing" >>"$T/said"
        fail "$name" "$T/said"
    fi
}
reload_says() { # NAME STATUS TEXT...
    local name=$1 status=$2 code text missing=
    shift 2
    cli reload >"$T/said" 2>&1
    code=$?
    for text; do grep -qF -- "$text" "$T/said" || missing+=" '$text'"; done
    if [ $code = "$status" ] && [ -z "$missing" ]; then pass "$name"; else
        echo "status $code, wanted $status and$missing" >>"$T/said"
        fail "$name" "$T/said"
    fi
}

# ---- files with mistakes among good ones ----
for i in 0 1 2 3 4 5 6 7 8; do good "g$i" one; done
define broken.conf '[broken]' "exportname = $T/x.img" 'readonly = true' 'description = kept'
config_says "all is well" 0 "10 exports in 10 files"
need_daemon
same "ten are served" "broken g0 g1 g2 g3 g4 g5 g6 g7 g8" "$(names)"

mistake() { # NAME TEXT LINE...: broken.conf holds the lines, the others have changed
    local name=$1 text=$2 i from
    shift 2
    if [ $# -gt 0 ]; then define broken.conf "$@"; fi
    for i in 0 1 2 3 4 5 6 7 8; do good "g$i" "$name"; done
    from=$(($(log_lines) + 1))
    reload_says "$name" 1 "9 changed" "1 rejected" "$text"
    check "$name: the log has it" await 10 is_logged "$text" "$from"
    same "$name: the broken one is kept" "kept" \
        "$(cli --json export show broken | json 'j["export"]["description"]')"
}
B=$C/broken.conf
mistake "syntax" "$B line 2: 'what is this' is neither" '[broken]' 'what is this'
mistake "unknown key" "$B line 2: unknown key 'readonyl': did you mean 'readonly'" \
    '[broken]' 'readonyl = true'
mistake "missing path" "there is no file '$T/none.img'" '[broken]' "exportname = $T/none.img"
mistake "half written" "$B line 1: '[brok' is not a section header" '[brok'
: >"$B"
mistake "empty" "$B: the file is empty"
rm "$B"; ln -s "$T/nowhere" "$B"
mistake "unreadable" "cannot read $B"
rm "$B"
mistake "a key twice" "$B line 3: 'readonly' sets again what 'readonly' in line 2 has set" \
    '[broken]' 'readonly = true' 'readonly = false'
mistake "a section twice" "$B line 3: section [broken] is there already, in line 1" \
    '[broken]' "exportname = $T/x.img" '[broken]'
mistake "a name that another file has" \
    "export \"g3\" in $B line 4 is already defined in $C/g3.conf line 1" \
    '[broken]' "exportname = $T/x.img" 'readonly = true' '[g3]' "exportname = $T/x.img"
mistake "settings" "$B line 1: section [generic] belongs into" '[generic]' 'threads = 2'
mistake "not there yet" "$B line 3: killswitch: not supported by this version" \
    '[broken]' "exportname = $T/x.img" 'killswitch = true'
mistake "no such backstore" 'there is no handler "fiel"' '[broken]' 'backstore = fiel' \
    'target = x'
mistake "too small" "has 1048576 bytes, less than the size 2097152" '[broken]' \
    "exportname = $T/x.img" 'size = 2M'
define broken.conf '[broken]' "exportname = $T/x.img" 'readonly = true' 'description = kept'
cp "$C/g0.conf" "$C/.hidden.conf"; cp "$C/g0.conf" "$C/g0.conf~"; cp "$C/g0.conf" "$C/x.conf.bak"
reload_says "what editors leave is not read" 0 "0 added, 0 changed, 0 removed, 10 unchanged"
rm "$C/.hidden.conf" "$C/g0.conf~" "$C/x.conf.bak"

# ---- the configuration file itself ----
printf '[generic]\nnegotiation_timeout = 5\nthread = 1\n' >"$D/nbd-runner.conf"
good g9 new
reload_says "a mistake in the configuration file rejects all" 1 \
    "nbd-runner.conf line 3: unknown key 'thread': did you mean 'threads'" "nothing was changed"
same "nothing has changed" "broken g0 g1 g2 g3 g4 g5 g6 g7 g8" "$(names)"
rm "$C/g9.conf"
printf '[generic]\nnegotiation_timeout = 5\nthreads = 3\nlog_level = debug\n' >"$D/nbd-runner.conf"
reload_says "settings that can change do, others are named" 0 \
    "threads has changed, which needs a restart"
check "the log level is new" sh -c "$BUILDDIR/nbd-cli --dir $D status | grep -q log_level=7"
mv "$D/nbd-runner.conf" "$T/away"
reload_says "a configuration file that is gone changes nothing" 1 "nbd-runner.conf is gone"
mv "$T/away" "$D/nbd-runner.conf"
mv "$C" "$T/away"
reload_says "a directory that is gone removes nothing" 1 "is gone: its 10 export(s) stay"
mv "$T/away" "$C"

# ---- against exports of the control port ----
check "an export by the control port" cli file create rpc.img size 1M
define rpc.conf '[file/rpc.img]' "exportname = $T/x.img"
reload_says "its name is taken" 1 \
    "export \"file/rpc.img\" in $C/rpc.conf line 1 is already defined by a create through"
rm "$C/rpc.conf"
refuses "an export of a file cannot be deleted there" 5 "$C/g0.conf" \
    cli export remove g0
refuses "nor made again" 1 "$C/g0.conf" cli export add file rpc2.img name g0
define twice.conf '[twice]' "exportname = $T/x.img"
reload_says "one storage under two names with a writer is a warning" 0 "note: export \"twice\""
rm "$C/twice.conf"

# ---- made at load ----
define made.conf '[made]' "exportname = $T/made.img" 'create = true' 'size = 3M'
reload_says "create = true makes the file" 0 "added made"
same "of that size" 3145728 "$(stat -c %s "$T/made.img")"
rm "$T/made.img"
config_says "--check-config makes nothing" 0 "The configuration is good"
check "indeed" test ! -e "$T/made.img"
check "the daemon ends with 0" stop_daemon

# ---- making takes long ----
mkdir "$T/handlers"
ln -s "$HANDLERS"/*.so "$BUILDDIR/tests/handlers/.libs/libfault_handler.so" "$T/handlers"
touch "$T/hold"
need_daemon --handler-dir "$T/handlers"
define slow.conf '[slow]' 'backstore = fault' 'target = t' "opt.create_hold = $T/hold" \
    'create = true' 'size = 1M'
cli reload >"$T/slow" 2>&1 &
reload=$!
check "a reload that makes something slowly holds up nobody" cli export list
check "it still runs" kill -0 $reload
rm "$T/hold"
check "until that is made" finish 20 $reload
check "and served" grep -q "added slow" "$T/slow"
touch "$T/hold"
define slower.conf '[slower]' 'backstore = fault' 'target = t2' "opt.create_hold = $T/hold" \
    'create = true' 'size = 1M'
from=$(($(log_lines) + 1))
kill -HUP "$DAEMON"
cli reload >/dev/null 2>&1 &
reload=$!
await 10 is_logged 'reload' "$from"
check "the end of the daemon cancels it" stop_daemon
finish 20 $reload
rm "$C/slow.conf" "$C/slower.conf" "$T/hold"

# ---- at start ----
define broken.conf '[broken]' 'x = 1'
define other.conf '[o]' "exportname = $T/none.img" 'y = 1'
config_says "all mistakes are said at once" 3 "$B line 2: unknown key 'x'" \
    "$C/other.conf line 3: unknown key 'y'"
need_daemon
same "a broken file is left out" "file/rpc.img g0 g1 g2 g3 g4 g5 g6 g7 g8 made" "$(names)"
check "the daemon ends with 0" stop_daemon
printf '[generic]\nthreads = 1\nthreads = 2\nrhst = x\n' >"$D/nbd-runner.conf"
start_daemon
same "a broken configuration file ends the start with 3" 3 $?
config_says "and is said whole" 3 "line 3: 'threads' sets again what 'threads' in line 2 has set" \
    "$B line 2: unknown key 'x'"

# ---- nbd-server's configuration ----
name50=migration-vol-0123456789-0123456789-0123456789-012
name255=$(printf 'n%.0s' $(seq 255))
S=$T/stock
mkdir -p "$S/conf.d"
stock() { # LINE...: of [generic]
    printf '%s\n' '[generic]' "$@" "	includedir = $S/conf.d" '[first]' \
        "	exportname = $T/x.img" '	copyonwrite = false' '	multifile = false' \
        '	timeout = 30' '	virtstyle = ipliteral' '	readonly = true' '	sparse_cow = false' \
        '	tlsonly = false' '	listenaddr = 127.0.0.1' '	sync = true' >"$S/config"
}
printf '[%s]\nexportname = %s\n' "$name50" "$T/made.img" >"$S/conf.d/a.conf"
printf '[%s]\nexportname = %s\nreadonly = true\n' "$name255" "$T/x.img" >"$S/conf.d/b.conf"
truncate -s 1M "$T/made.img"
run_stock() { start_daemon -C "$S/config" --conf-dir "$S/conf.d" --state "$T/stock.json"; }
stock 'port = 0' 'allowlist = true' 'max_threads = 4' 'splice = true' 'tlsonly = false'
check "a configuration of nbd-server works" run_stock
port=$(cli --json status | json '[e.rsplit(":", 1)[1] for e in j["status"]["nbd_endpoints"] if not e.startswith("unix:")][1]')
same "with its names, on its port" "first $name50 $name255" \
    "$(nbd-client -l 127.0.0.1 "$port" 2>/dev/null | grep -v Negotiation | tr '\n' ' ' | sed 's/ *$//')"
check "which are served" qemu-io -f raw -c 'write -P 7 0 512' "nbd://127.0.0.1:$port/$name50"
check "all of them" qemu-io -f raw -r -c 'read 0 512' "nbd://127.0.0.1:$port/$name255"
check "keys without meaning are named once" await 10 is_logged "ignored: max_threads in line 4, splice in line 5, timeout in line"
stop_daemon
stock 'port = 0' 'allowlist = false'
run_stock
is_refused() { ! nbd-client -l 127.0.0.1 "$(port_of nbd)"; }
check "allowlist = false" is_refused
stop_daemon
stock 'certfile = /etc/x.pem'
run_stock
same "TLS keys make it refuse" 3 $?
check "with a sentence" await 10 is_logged "TLS is not supported by this version"
stock 'oldstyle = true'
run_stock
same "and so does oldstyle" 3 $?

# ---- nbd-server's own port, where nobody else can have it ----
own_network() { unshare -rn sh -c 'ip link set lo up && exec "$@"' sh "$@"; }
if command -v ip >/dev/null && own_network true 2>/dev/null; then
    printf '%s\n' '[generic]' "includedir = $S/conf.d" >"$S/config"
    cat >"$T/inside" <<END
"$BUILDDIR/nbd-runner" --dir "$D" --handler-dir "$HANDLERS" -C "$S/config" \\
    --conf-dir "$S/conf.d" --state "$T/stock.json" >>"$LOG" 2>&1 &
pid=\$!
for i in \$(seq 500); do nbd-client -l localhost >"$T/listed" 2>/dev/null && break; sleep 0.02; done
kill \$pid; finish 30 \$pid
END
    export -f await finish is_gone
    own_network bash "$T/inside"
    same "without a port in the file it is 10809" "$name50 $name255" \
        "$(grep -v Negotiation "$T/listed" | tr '\n' ' ' | sed 's/ *$//')"
else
    echo "# no network of its own here: port 10809 is not tried"
fi
