#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# nbd-cli doctor finds what is wrong: each situation is a real one.
. "$(dirname "$0")/lib.sh"

finds() { # NAME ABOUT FINDING TEXT [ARG...]: the report has it
    local name=$1 about=$2 finding=$3 text=$4
    shift 4
    cli --json doctor "$@" >"$T/report" 2>"$T/stderr"
    if json 'any(f["about"] == "'"$about"'" and f["finding"] == "'"$finding"'" and
             """'"$text"'""" in f["message"] for f in j["findings"])' <"$T/report" | grep -qx true; then
        pass "$name"
    else
        fail "$name" "$T/report"
    fi
}
exits() { # NAME STATUS ARG...
    local name=$1 status=$2
    shift 2
    cli doctor "$@" >"$T/report" 2>&1
    same "$name" "$status" $?
}

# ---- no daemon ----
exits "without a daemon it is a problem" 1
check "that is said with a remedy" grep -qF -- "-> start it" "$T/report"
finds "the daemon is what is missing" daemon problem "cannot connect"
same "nothing else is said" "" "$(cat "$T/stderr")"

# ---- all is well ----
need_daemon
check "an export" cli file create disk size 1M name disk
exits "with one all is in order" 0
finds "its version" daemon ok "nbd-runner"
finds "its port" ports ok "NBD answers at 127.0.0.1:$(port_of nbd)"
finds "its socket" ports ok "$D/nbd.sock"
finds "its state" state ok "$D/saveconfig.json"
finds "its handlers" handlers ok "file (libfile_handler.so)"
finds "its exports" exports ok "1, none is faulted"
same "the numbers are told" "0" "$(json 'j["problems"]' <"$T/report")"
cli doctor >"$T/report"
check "no colours in a file" bash -c '! grep -q "$(printf "\033")" "$0"' "$T/report"
export TERM=xterm
check "colours on a terminal" bash -c 'script -qec "$0 --dir $1 doctor" /dev/null | grep -q "$(printf "\033\\[32m")"' \
    "$BUILDDIR/nbd-cli" "$D"
check "none with NO_COLOR" bash -c '! NO_COLOR=1 script -qec "$0 --dir $1 doctor" /dev/null | grep -q "$(printf "\033")"' \
    "$BUILDDIR/nbd-cli" "$D"

# ---- the wrong port ----
timeout 30 "$BUILDDIR/nbd-cli" --json doctor host "127.0.0.1:$(port_of nbd)" >"$T/report"
same "the NBD port is no control port" 1 $?
check "which is said" grep -q "ONC-RPC" "$T/report"
timeout 30 "$BUILDDIR/nbd-cli" --json doctor host 127.0.0.1:1 >"$T/report"
same "a port where nobody listens" 1 $?

# ---- somebody who may not ----
if [ "$(id -u)" = 0 ]; then
    chmod 755 "$T" "$D"
    setpriv --reuid 65534 --regid 65534 --clear-groups "$BUILDDIR/nbd-cli" --dir "$D" doctor >"$T/report" 2>&1
    check "other users are told so" grep -q "^warning permission" "$T/report"
    check "the socket is closed to them" grep -q "^problem daemon" "$T/report"
fi

# ---- an export whose backing store is gone ----
mv "$D/images/disk" "$T/away"
check "the daemon lets go of it" await 20 bash -c '! "$0" --dir "$1" info disk' "$BUILDDIR/nbd-cli" "$D"
finds "a faulted export" exports problem 'export \"disk\" (file disk) is faulted'
mv "$T/away" "$D/images/disk"

# ---- a state file that cannot be written ----
mv "$D/saveconfig.json" "$T/saved"
mkdir -p "$D/saveconfig.json/in-the-way"
cli file create disk2 size 1M >/dev/null 2>&1
finds "the state is not saved" state problem "is not up to date"
exits "that is a problem" 1
rm -r "$D/saveconfig.json"
mv "$T/saved" "$D/saveconfig.json"
stop_daemon >/dev/null

# ---- damaged state files ----
echo '{' >"$D/saveconfig.json"
rm -f "$D"/saveconfig.json.*
need_daemon
finds "the saved state is damaged" state problem "could not be read"
stop_daemon >/dev/null

# ---- handlers that are not right ----
BAD=$T/handlers
mkdir "$BAD"
cp "$HANDLERS/libmem_handler.so" "$BUILDDIR"/tests/handlers/.libs/lib{badabi,crash,undef}_handler.so "$BAD"
echo "no library" >"$BAD/libtext_handler.so"
rm -f "$D"/saveconfig.json*
HANDLERS=$BAD
need_daemon
finds "the good one" handlers ok "mem (libmem_handler.so)"
finds "one with another ABI" handlers problem "libbadabi_handler.so is not loaded: it was built for ABI 999"
finds "one that crashes" handlers problem "libcrash_handler.so is not loaded: it crashed"
finds "one that lacks a function" handlers problem "a_function_that_nobody_has"
finds "one that is no library" handlers problem "libtext_handler.so is not loaded"
check "the daemon lives" cli mem create x size 1M
stop_daemon >/dev/null
rm -f "$BAD"/*
need_daemon
finds "an export whose handler is missing" exports problem "its handler \\\"mem\\\" is not loaded"
finds "no handler at all" handlers problem "no handler at all"
check "the daemon ends with 0" stop_daemon

# ---- a port that something else has ----
"$PYTHON" -c 'import socket, time
try:
    s = socket.create_server(("127.0.0.1", 24111))
except OSError:
    pass
print("listening", flush=True)
time.sleep(120)' >"$T/other" &
stop_at_end+=($!)
check "somebody has port 24111" await 20 grep -q listening "$T/other"
finds "the port is taken" ports warning "port 24111"
