# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# What the tests of packages and of the service share, on top of the integration tests' lib.sh.
# Both of these are made when they are not there yet:
#
#   NR_DEBS   folder with the Debian packages
#   NR_ROOT   folder with a small Debian
. "$(dirname "${BASH_SOURCE[0]}")/../integration/lib.sh"
PACKAGES=$SRCDIR/tests/packages
: "${NR_DEBS:=$T/debs}" "${NR_ROOT:=$T/root}"

need_debs() {
    ls "$NR_DEBS"/*.changes >/dev/null 2>&1 && return
    requires dpkg-buildpackage dh
    check "packages are built from the tarball" "$PACKAGES/build-debs" "$NR_DEBS"
    [ $failures = 0 ] || exit 1
}
need_root() {
    [ -x "$NR_ROOT/sbin/init" ] && return
    requires debootstrap
    requires_root
    check "a small Debian is made" "$PACKAGES/make-root" "$NR_ROOT"
    [ $failures = 0 ] || exit 1
}
# A copy of that Debian, to be changed.
copy_root() { # DIR
    need_root
    cp -a --reflink=auto "$NR_ROOT" "$1"
}
inside() { # ROOT COMMAND...: with a /proc and a /dev/null, and without services
    local root=$1
    shift
    DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        unshare --mount --pid --fork --kill-child bash -c '
            mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" &&
            exec timeout 300 chroot "$0" "$@"' "$root" "$@" </dev/null
}
deb() { # PACKAGE: its file
    ls "$NR_DEBS/$1"_*.deb
}

# ---- what is there after the packages were installed, whichever kind they are of ----
is_set_up() { # ROOT
    local wants=$1/etc/systemd/system
    check "the user is there" inside "$1" id nbd-runner
    same "the daemon may make files in its configuration, not replace those of others" \
        "1775 root nbd-runner" "$(inside "$1" stat -c '%a %U %G' /etc/nbd-runner)"
    same "the images are its own" "750 nbd-runner" \
        "$(inside "$1" stat -c '%a %U' /var/lib/nbd-runner/images)"
    check "the service is enabled" test -L "$wants/multi-user.target.wants/nbd-runner.service"
    check "the sockets are not" \
        bash -c '! ls "$0"/sockets.target.wants 2>/dev/null | grep nbd-runner' "$wants"
}
