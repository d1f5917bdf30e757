#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A file on a gluster volume of three replicas as /dev/nbdN, with a file system, while a brick
# dies and comes back.
. "$(dirname "$0")/map.sh"
. "$CLUSTERS/gluster.sh"
requires glusterd gluster
[ -e "$HANDLERS/libgluster_handler.so" ] || { echo "skip: the gluster handler is not built"; exit 77; }

# It stays away for a while.
lose_a_brick() { brick_signal KILL vol 1 && sleep 1 && volume_revive vol; }

glusterd_start || { fail "glusterd starts" "$G/log/glusterd.log"; exit 1; }
volume_make vol >"$T/out" 2>&1 || { fail "the volume starts" "$T/out"; exit 1; }
reachable_daemon --ghost "$GHOST"
check "create" cli gluster create vol/disk size 64M
map_in_guest gluster vol/disk lose_a_brick
holds_files gluster/vol/disk
check "the brick heals" await 120 is_healed vol
same "all replicas are equal" 1 "$(sha256sum "$G/vol"-{0,1,2}/disk | cut -d' ' -f1 | sort -u | wc -l)"
same "delete says so" "Delete succeeded!" "$(cli gluster delete vol/disk)"
cycles_in_guest gluster vol/cycle 20
check "the daemon ends with 0" stop_daemon
