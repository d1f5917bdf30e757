#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# An RBD image in a cluster of three OSDs as /dev/nbdN, with a file system, while an OSD dies
# and comes back.
. "$(dirname "$0")/map.sh"
requires ceph ceph-osd ceph-mon rbd
[ -e "$HANDLERS/libceph_handler.so" ] || { echo "skip: the ceph handler is not built"; exit 77; }

# It stays away for a while.
lose_an_osd() { cluster signal KILL osd.1 && sleep 1 && cluster revive; }

need_ceph
reachable_daemon
check "create" cli ceph create rbd/disk size 64M
map_in_guest ceph rbd/disk lose_an_osd
holds_files ceph/rbd/disk
same "delete says so" "Delete succeeded!" "$(cli ceph delete rbd/disk)"
cycles_in_guest ceph rbd/cycle 20
check "the daemon ends with 0" stop_daemon
