#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# What nbd-cli does on a terminal and what it does not do elsewhere: bars of long work, colours
# of states; and what it says to mistyped words and to words that exclude each other.
. "$(dirname "$0")/lib.sh"
requires script
export TERM=xterm

on_terminal() { # WORD...: stdout and stderr are a terminal
    local line
    printf -v line '%q ' timeout 60 "$BUILDDIR/nbd-cli" --dir "$D" "$@"
    script -qec "$line" /dev/null </dev/null
}
need_daemon

# ---- bars ----
check "a disk" cli file create disk size 64M name disk
on_terminal file create pre prealloc size 64M >"$T/out1"
check "a bar while it is allocated" grep -q 'create \[#* *\].*%' "$T/out1"
check "and the end" grep -q "Create succeeded!" "$T/out1"
script -qec "$BUILDDIR/nbd-cli --dir $D read disk from 0 size 64M >/dev/null" /dev/null >"$T/out1" </dev/null
check "a bar while it is read" grep -q 'read \[##############################\] 100% of 64.0M' "$T/out1"
head -c 64M /dev/zero >"$T/zeroes"
script -qec "$BUILDDIR/nbd-cli --dir $D write disk from 0 size 64M <$T/zeroes" /dev/null >"$T/out1"
check "a bar while it is written" grep -q 'write \[##############################\] 100% of 64.0M' "$T/out1"
cli read disk from 0 size 64M 2>"$T/stderr" >/dev/null
same "no bar in a file" "" "$(cat "$T/stderr")"
job=$(cli file create other prealloc size 16M nowait)
on_terminal job wait "$job" >"$T/out1"
same "a job is waited for" 0 $?

# ---- colours ----
green=$(printf '\033[32m')
has_colour() { on_terminal "$@" >"$T/out1"; grep -qF -- "$green" "$T/out1"; }
check "states are coloured" has_colour export list
check "jobs too" has_colour job list
NO_COLOR=1 has_colour export list && fail "not with NO_COLOR" || pass "not with NO_COLOR"
TERM=dumb has_colour export list && fail "not on a dumb terminal" || pass "not on a dumb terminal"
cli export list >"$T/out1"
check "not in a file" bash -c '! grep -q "$(printf "\033")" "$0"' "$T/out1"
has_colour --json export list && fail "not in JSON" || pass "not in JSON"

# ---- mistyped words ----
means() { refuses "$1" 2 "did you mean '$2'" cli $1; }
# shellcheck disable=SC2086
{
    means "exprot list" export
    means "stauts" status
    means "fiel create x size 1M" file
    means "export lst" list
    means "file creat x size 1M" create
    means "file create x siez 1M" size
    means "file create x --siez 1M" --size
    means "file list daed" dead
    means "file delete x --froce" --force
    means "export set disk hiden yes" hidden
    means "job waitt x" wait
    means "--jsno export list" --json
    means "help exprot" export
}
refuses "an export" 1 "did you mean 'disk'" cli export show dsik
refuses "an export to be synced" 1 "did you mean 'disk'" cli export sync disc
refuses "a target" 1 "did you mean 'disk'" cli file delete dsk keep-data
refuses "nothing like it" 1 "shows those that exist" cli export show completely-different

# ---- wait and nowait ----
for command in "file create x size 1M" "file delete x" "export add file x name y" \
    "export remove x" "export sync x"; do
    # shellcheck disable=SC2086
    refuses "$command: wait and nowait" 2 "exclude each other" cli $command wait nowait
done
check "wait is what is done anyway" cli file create x size 1M wait
check "the daemon ends with 0" stop_daemon
