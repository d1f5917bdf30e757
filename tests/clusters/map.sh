# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# For tests that map an export of a cluster to /dev/nbdN: the cluster and the daemon run on this
# machine, the kernel with the driver is a User Mode Linux, as another host would be: it has the
# daemon's control and NBD ports over a network. To be sourced first of all by bash, as root: it
# starts the script anew in a network namespace, which holds the link and hides the cluster.
[ "$(id -u)" = 0 ] || { echo "skip: this needs root"; exit 77; }
[ "${1-}" = in-namespace ] || exec unshare --net "$0" in-namespace
. "$(dirname "$0")/lib.sh"
requires linux.uml ip mkfs.ext4 e2fsck debugfs nbdcopy
HOST_IP=198.18.0.1 GUEST_IP=198.18.0.2 TAP=tap0
ip link set lo up && ip tuntap add dev $TAP mode tap && ip addr add $HOST_IP/30 dev $TAP &&
    ip link set $TAP up || { fail "a link for the guest"; exit 1; }

reachable_daemon() { # ARG...: from the guest as well
    need_daemon --rpchost $HOST_IP --iohost $HOST_IP --rpc-allow $GUEST_IP "$@"
}

# The guest maps the export, makes a file system, and writes while COMMAND is done here.
map_in_guest() { # HANDLER TARGET COMMAND...
    local handler=$1 target=$2 guest
    shift 2
    mkdir "$T/share"
    "$SRCDIR/tests/kernel/uml" --timeout 400 --show "$SRCDIR" --show "$BUILDDIR" \
        --share "$T/share" --tap $TAP "$CLUSTERS/map-guest.sh" \
        "$handler" "$target" "$HOST_IP:$(port_of rpc)" "$T/share" >"$T/guest" 2>&1 &
    guest=$!
    stop_at_end+=($guest)
    if await 120 test -e "$T/share/writing"; then
        "$@" >"$T/out" 2>&1 && pass "while the guest writes: $*" || fail "while the guest writes: $*" "$T/out"
    else
        fail "the guest writes"
    fi
    touch "$T/share/go-on"
    finish 420 $guest
    same "the guest ends with 0" 0 $?
    cat "$T/guest"
}

# What the guest wrote is there for clients as well.
holds_files() { # EXPORT
    local i
    check "nbdcopy reads the file system" nbdcopy "$(uri "$1")" "$T/fs"
    check "e2fsck finds no fault in the copy" e2fsck -fn "$T/fs"
    for i in 1 2 3 4 5 6; do debugfs -R "dump file$i $T/share/file$i" "$T/fs" 2>/dev/null; done
    check "the files are those of the guest" bash -c 'cd "$0" && sha256sum -c --quiet sums' "$T/share"
}

# Again and again in the guest: make an export, map it, write, unmap and delete it.
cycles_in_guest() { # HANDLER TARGET COUNT
    "$SRCDIR/tests/kernel/uml" --timeout 400 --show "$SRCDIR" --show "$BUILDDIR" --tap $TAP \
        "$CLUSTERS/cycles-guest.sh" "$1" "$2" "$HOST_IP:$(port_of rpc)" "$3" >"$T/guest" 2>&1
    same "the guest ends with 0" 0 $?
    cat "$T/guest"
}
