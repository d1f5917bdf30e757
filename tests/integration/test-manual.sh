#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The manual pages are well formed, say what nbd-cli's help says, and their example works.
. "$(dirname "$0")/lib.sh"
requires groff mandoc cc nbdinfo
requires_python nbd

# ---- form ----
make -s -C "$BUILDDIR" --no-print-directory -pn >"$T/rules" 2>/dev/null
for page in "$SRCDIR"/docs/*.[1-9]; do
    name=${page##*/}
    groff -man -ww -z "$page" >"$T/out" 2>&1
    same "$name: groff has no warning" "" "$(cat "$T/out")"
    mandoc -T lint -W warning "$page" >"$T/out" 2>&1
    same "$name: nor has mandoc" "" "$(cat "$T/out")"
    check "$name: it is installed" grep -qE "^dist_man[0-9]*_MANS :?= .*docs/${name//./\\.}" "$T/rules"
done

# ---- words ----
"$PYTHON" "$HERE/help-words.py" "$BUILDDIR/nbd-cli" "$SRCDIR/docs/nbd-cli.8" >"$T/words" 2>&1
cat "$T/words"
failures=$((failures + $(grep -c '^not ok' "$T/words")))
same "all commands were compared" "$(cli help | grep -c '^  nbd-cli ')" \
    "$(($(grep -c 'ok ' "$T/words") + 1))"
for word in help --help -h; do
    for command in "file create" "export set" "job wait" status global file; do
        # shellcheck disable=SC2086
        check "$command $word" bash -c '"$@" | grep -q ^usage:' - "$BUILDDIR/nbd-cli" $command $word
    done
done

"$BUILDDIR/nbd-cli" help 2>"$T/err" | true
same "nobody is told that who read has seen enough" "" "$(cat "$T/err")"

# ---- the daemon's options: the help and the page ----
options() { grep -oE -- '(^|[ ,|"(])-(-[a-z-]+|[a-zA-Z])\b' | tr -d ' ,|"(' | sort -u; }
{ "$BUILDDIR/nbd-runner" help; "$BUILDDIR/nbd-runner" serve --help; } | options >"$T/help"
sed 's/\\f[A-Z]//g; s/\\-/-/g' "$SRCDIR/docs/nbd-runner.8" | sed "s/systemctl.*//" | options >"$T/page"
check "there are some" test "$(wc -l <"$T/help")" -gt 30
same "options that are in the help or on the page only" "" "$(comm -3 "$T/help" "$T/page" | xargs)"

# ---- options of handlers: the help, the page, and what the handler itself says ----
of_help() { cli "$1" help | sed -n 's/^    \([a-z_]*\)=.*/\1/p' | sort | xargs; }
of_handler() { # KIND TARGET
    cli export add "$1" "$2" name none opt colour=red 2>&1 |
        sed -n 's/.*; it has //p' | sed 's/ and /, /; s/, /\n/g' | sort | xargs
}
need_daemon
for library in "$HANDLERS"/lib*_handler.so; do
    kind=${library##*/lib} kind=${kind%_handler.so}
    target=a/b
    [ "$kind" != nbd ] || target=localhost/b
    same "$kind: the help has the handler's options" "$(of_handler "$kind" $target)" "$(of_help "$kind")"
    for option in $(of_help "$kind"); do
        check "$kind: the page has $option" grep -q "$option=.*$kind" "$SRCDIR/docs/nbd-cli.8"
    done
done
check "the daemon ends with 0" stop_daemon

# ---- the example of nbd-handler(3) ----
sed -n '/^\.EX/,/^\.EE/p' "$SRCDIR/docs/nbd-handler.3" | sed -e '/^\.E[XE]/d' -e 's/^\\&$//' -e 's/\\-/-/g' \
    >"$T/zeroes.c"
mkdir "$T/handlers"
check "it compiles" cc -Wall -Wextra -Werror -shared -fPIC -I"$SRCDIR/include" \
    -o "$T/handlers/libzeroes_handler.so" "$T/zeroes.c"
HANDLERS=$T/handlers
need_daemon
check "it is loaded" cli export add zeroes nothing name z
same "it serves" 1048576 "$(nbdinfo --size "$(uri z)")"
check "it reads as it says" bash -c 'cmp "$0" <(head -c 1048576 /dev/zero)' \
    <(cli read z from 0 size 1M)
check "the daemon ends with 0" stop_daemon
