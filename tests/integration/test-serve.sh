#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# nbd-runner serve: one file, one export, in the foreground, without control port or state.
# Every failure of it ends with 1.
. "$(dirname "$0")/lib.sh"
requires nbdinfo nbdcopy qemu-io

SOCK=$T/serve.sock
URI="nbd+unix:///?socket=$SOCK"
start_serve() { # ARG...
    local from=$(($(log_lines) + 1))
    "$BUILDDIR/nbd-runner" serve --handler-dir "$HANDLERS" "$@" >>"$LOG" 2>&1 </dev/null &
    DAEMON=$!
    says_or_ends 'serving ' $from
}

head -c 20000000 /dev/urandom >"$T/file"
cp "$T/file" "$T/original"
start_serve --file "$T/file" --unix "$SOCK" || { fail "serve starts" "$LOG"; exit 1; }
pass "serve starts"
same "the size is the file's" 20000000 "$(nbdinfo --size "$URI")"
check "it is copied" nbdcopy "$URI" "$T/copy"
check "the copy is equal" cmp "$T/original" "$T/copy"
check "it is written" qemu-io -f raw -c 'write -P 7 0 1M' -c flush "$URI"
same "the file has the bytes" 7 "$(od -An -tu1 -j 1000 -N 1 "$T/file" | tr -d ' ')"
check "SIGTERM ends it with 0" stop_daemon

cp "$T/original" "$T/file"
start_serve --file "$T/file" --unix "$SOCK" --readonly --name some/name ||
    fail "serve --readonly starts" "$LOG"
named="nbd+unix:///some/name?socket=$SOCK"
check "the export is read-only" nbdinfo --is readonly "$named"
check "a write is refused" bash -c '! qemu-io -f raw -c "write 0 4k" "$0"' "$named"
check "reading works" nbdcopy "$named" "$T/copy"
check "the file is as before" cmp "$T/original" "$T/file"
check "it ends with 0" stop_daemon

start_serve --file "$T/file" --addr 127.0.0.1 --port 0 || fail "serve on TCP starts" "$LOG"
port=$(sed -n 's/.*serving .*nbd:\/\/127\.0\.0\.1:\([0-9]*\).*/\1/p' "$LOG" | tail -n 1)
same "it serves on the port that its line names" 20000000 \
    "$(nbdinfo --size "nbd://127.0.0.1:$port")"
refuses "a busy port ends with 1" 1 "$port" timeout 20 "$BUILDDIR/nbd-runner" serve \
    --handler-dir "$HANDLERS" --file "$T/original" --addr 127.0.0.1 --port "$port"
check "it ends with 0" stop_daemon

# Writes of zeroes leave holes where that was asked for, and only there.
used=()
for value in on off; do
    head -c 8M /dev/urandom >"$T/zeroed"
    start_serve --file "$T/zeroed" --unix "$SOCK" --opt detect-zeroes=$value ||
        fail "serve with detect-zeroes=$value starts" "$LOG"
    check "zeroes are written, detect-zeroes=$value" qemu-io -f raw -c "write -P 0 0 4M" \
        -c "write -P 0 5M 64k" -c "read -P 0 0 4M" -c "read -P 0 5M 64k" \
        "nbd+unix:///?socket=$SOCK"
    check "it ends with 0" stop_daemon
    used[${#used[@]}]=$(stat -c %b "$T/zeroed")
done
check "detected zeroes are holes (${used[0]} blocks)" test "${used[0]}" -lt 9000
check "others are not (${used[1]} blocks)" test "${used[1]}" -ge 16384
refuses "another value is refused" 1 "detect-zeroes" timeout 20 "$BUILDDIR/nbd-runner" serve \
    --handler-dir "$HANDLERS" --file "$T/zeroed" --unix "$SOCK" --opt detect-zeroes=maybe

serve_fails() { timeout 20 "$BUILDDIR/nbd-runner" serve --handler-dir "$HANDLERS" "$@"; }
refuses "a file that is not there ends with 1" 1 "$T/none" serve_fails --file "$T/none" --unix "$SOCK"
refuses "serve without a file ends with 1" 1 "file" serve_fails --unix "$SOCK"
refuses "an unknown option ends with 1" 1 "nbd-runner serve: unrecognized option" serve_fails --nonsense
