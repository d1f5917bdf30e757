#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# What map.sh's cycles_in_guest() does in the guest: an export is made on another machine, mapped, written,
# unmapped and deleted, again and again.
# Arguments: HANDLER TARGET DAEMON COUNT.
. "$(dirname "$0")/../integration/lib.sh"
handler=$1 target=$2 daemon=$3
remote() { timeout 60 "$BUILDDIR/nbd-cli" "$@" host "$daemon" >>"$T/log" 2>&1; }
cycle() {
    remote "$handler" create "$target" size 1M &&
        remote "$handler" map "$target" /dev/nbd0 &&
        echo "of cycle $1" | dd of=/dev/nbd0 bs=512 conv=sync,fsync,nocreat status=none &&
        remote "$handler" unmap /dev/nbd0 &&
        remote "$handler" delete "$target"
}
cycles() {
    local i
    for ((i = 1; i <= $1; i++)); do cycle $i || { tail -n 5 "$T/log"; return 1; }; done
}
check "$4 times: create, map, write, unmap, delete" cycles "$4"
