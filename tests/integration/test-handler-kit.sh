#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The handler of docs/handlers.md is built as that page says, outside the tree, with nothing but
# what is installed, and then serves.
. "$(dirname "$0")/lib.sh"
requires cc pkg-config make nbdinfo nbdcopy qemu-io

DEST=$T/dest
KIT=$T/kit
mkdir "$KIT"
PAGE=$SRCDIR/docs/handlers.md

blocks() { # LANGUAGE: what the page has in that language, in one piece
    awk -v start="\`\`\`$1" '
        $0 == "```" { inside = 0 }
        inside { print }
        $0 == start { inside = 1 }' "$PAGE"
}

# ---- what is installed ----
check "the kit is installed" make -C "$BUILDDIR" DESTDIR="$DEST" \
    install-nbdrunnerincludeHEADERS install-nodist_pkgconfigDATA install-dist_docDATA
pc=$(find "$DEST" -name nbd-runner.pc)
check "with a file for pkg-config" test -n "$pc"
export PKG_CONFIG_PATH=${pc%/*} PKG_CONFIG_SYSROOT_DIR=$DEST
check "with this page" test -n "$(find "$DEST" -name handlers.md)"
same "it knows the version" "$("$BUILDDIR/nbd-runner" --version | awk 'NR == 1 { print $NF }')" \
    "$(pkg-config --modversion nbd-runner)"
directory=$(pkg-config --variable=handlerdir nbd-runner)
check "and where handlers are" grep -qF "handlerdir=${directory#"$DEST"}" "$pc"

# ---- the page's words, one by one ----
blocks c >"$KIT/toy.c"
blocks sh >"$KIT/commands"
check "the page has code" grep -q handler_init "$KIT/toy.c"
check "the page builds its code" grep -q '^cc .*toy.c$' "$KIT/commands"
cd "$KIT" || exit 1
sed -i 's/-Wall/-Wall -Wextra -Werror/' commands
check "it is built as the page says, without a warning" sh -ec "$(grep '^cc ' commands)"
check "from what is installed" bash -c 'cc -M $(pkg-config --cflags nbd-runner) toy.c |
    grep -q "'"$DEST"'.*handler.h"'
HANDLERS=$KIT/handlers
mkdir "$HANDLERS"
check "it is installed as the page says" sh -ec "handlerdir() { echo '$HANDLERS'; }
    $(grep '^install ' commands | sed 's/\$(pkg-config[^)]*)/$(handlerdir)/')"

# ---- a project outside the tree, with the page's Makefile and test ----
OUT=$T/out-of-tree
mkdir "$OUT"
cp toy.c "$OUT"
blocks make >"$OUT/Makefile"
blocks bash >"$OUT/check.sh"
outside() { PATH=$BUILDDIR:$PATH make -s -C "$OUT" CFLAGS="-O2 -Wall -Wextra -Werror" "$@"; }
check "make check builds and tests it" outside check
same "and says so" "toy: all is well" "$(outside check | tail -n 1)"
check "make install puts it where the daemon looks" outside install DESTDIR="$T/installed"
check "namely there" test -e "$T/installed$(pkg-config --variable=handlerdir nbd-runner)/libtoy_handler.so"
sed -i 's/pwrite(fd, data/pwrite(fd, "broken" + 0 * *data/' "$OUT/toy.c"
check "make check finds a handler that is broken" bash -c '! "$@"' - env PATH="$BUILDDIR:$PATH" \
    make -s -C "$OUT" check
rm "$OUT/libtoy_handler.so"

# ---- and it serves ----
need_daemon
check "a store is made" cli toy create "$T/disk" size 20M name disk
same "it has the size" 20971520 "$(stat -c %s "$T/disk")"
head -c 20971520 /dev/urandom >"$T/original"
check "it is written" nbdcopy --flush "$T/original" "$(uri disk)"
check "the file is equal" cmp "$T/original" "$T/disk"
check "it is read" nbdcopy "$(uri disk)" "$T/copy"
check "the copy is equal" cmp "$T/original" "$T/copy"
check "FUA and zeroes are made up for" qemu-io -f raw -c 'write -f -P 5 4k 4k' \
    -c 'write -z 8k 64k' -c 'read -P 5 4k 4k' -c 'read -P 0 8k 64k' -c flush "$(uri disk)"
refuses "its sentences reach the operator" 1 "'disk' is not an absolute path" \
    cli toy create disk size 1M
refuses "its options too" 1 "the toy handler has no option 'colour'" \
    cli export add toy "$T/other" name other opt colour=red
check "the export is known after a restart" stop_daemon
need_daemon
check "with its contents" qemu-io -r -f raw -c 'read -P 5 4k 4k' "$(uri disk)"
check "it is deleted" cli toy delete "$T/disk"
check "with its file" test ! -e "$T/disk"
check "the daemon ends with 0" stop_daemon
