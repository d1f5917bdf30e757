#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A full disk: create with prealloc, and saving the state, fail with "no space left", leave
# nothing behind, disturb nobody, and work again when there is room.
. "$(dirname "$0")/lib.sh"
requires_root
requires nbdinfo qemu-io

mkdir "$D" "$D.images"
mount -t tmpfs -o size=4M tmpfs "$D.images" || { echo "skip: tmpfs cannot be mounted here"; exit 77; }
unmount_at_end+=("$D.images")
ln -s "$D.images" "$D/images"
need_daemon --file-root "$D.images"
check "an export that fits" cli file create fits prealloc size 1M
refuses "prealloc of more than there is fails" 1 "no space" cli file create big prealloc size 16M
same "no file is left" fits "$(ls "$D.images")"
same "no export is left" file/fits "$(export_names)"
check "the one that fits goes on" qemu-io -f raw -c 'write -P 3 0 1M' -c 'read -P 3 0 1M' "$(uri file/fits)"
check "what is sparse is created" cli file create sparse size 16M
check "writing too much of it fails" bash -c '! qemu-io -f raw -c "write 0 16M" "$0"' "$(uri file/sparse)"
check "deleting makes room" cli file delete sparse
check "then there is room again" cli file create second prealloc size 1M
check "the daemon ends with 0" stop_daemon

# ---- the state file ----
rm -rf "$D/saveconfig.json"*
mkdir "$T/state"
mount -t tmpfs -o size=256K tmpfs "$T/state" || exit 77
unmount_at_end+=("$T/state")
need_daemon --file-root "$D.images" --state "$T/state/saveconfig.json"
check "an export is saved" cli export add file fits name kept
head -c 1M /dev/zero >"$T/state/filler" 2>/dev/null
refuses "a change that cannot be saved fails" 1 "no space" cli export add file second name unsaved
same "it is not kept in memory either" kept "$(export_names)"
check "the saved one is served" nbdinfo --size "$(uri kept)"
refuses "a create that cannot be saved fails" 1 "no space" cli file create unsaved size 4K
check "its file is removed" test ! -e "$D.images/unsaved"
rm "$T/state/filler"
check "with room it works again" cli export add file second name saved
stop_daemon
need_daemon --file-root "$D.images" --state "$T/state/saveconfig.json"
same "and both are saved" "kept saved" "$(export_names)"
check "the daemon ends with 0" stop_daemon
