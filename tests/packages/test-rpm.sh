#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The rpm packages, as far as a Debian can tell: built from the tarball to the end; the same
# files as in the Debian packages; installed, upgraded and removed in a small Debian, for what
# the scriptlets do. NR_DEBS, NR_ROOT: see lib.sh.
. "$(dirname "$0")/lib.sh"
requires rpmbuild rpmspec rpmlint rpm rpm2cpio cpio dpkg-deb
requires_root
PARTS="nbd-runner nbd-cli nbd-runner-gluster nbd-runner-ceph nbd-runner-devel"

# ---- the spec ----
check "the spec is well-formed" rpmspec -P "$SRCDIR/packaging/nbd-runner.spec"
version=$(sed -n 's/^AC_INIT(\[nbd-runner\], \[\(.*\)\])/\1/p' "$SRCDIR/configure.ac")
same "its version is ours" "$version" \
    "$(rpmspec -q --srpm --qf '%{version}' "$SRCDIR/packaging/nbd-runner.spec")"
rpmlint "$SRCDIR/packaging/nbd-runner.spec" >"$T/rpmlint" 2>&1
check "rpmlint finds no error" grep -q ' 0 errors' "$T/rpmlint"
same "nothing is asked for twice" "" "$(sed -n 's/^BuildRequires: *//p' "$SRCDIR/packaging/nbd-runner.spec" | sort | uniq -d)"

# ---- the packages ----
check "packages are built from the tarball, with every file that is installed" \
    "$PACKAGES/build-rpms" "$T/rpms"
[ $failures = 0 ] || exit 1
rpm_of() { echo "$T/rpms/$1-$version"-*.x86_64.rpm; } # PACKAGE: its file
same "rpmbuild has nothing to say" "" "$(grep -A5 -E '^(warning|error):|^RPM build' "$T/rpms/build.log")"
for part in $PARTS; do
    rpm -qp --qf "[%{FILEMODES:perms} %{FILENAMES}\n]" "$(rpm_of $part)" | grep -v '/usr/lib/.build-id' >"$T/$part.list"
    check "there is a package $part" test -s "$T/$part.list"
done
files() { sed -n 's/^[-l][^ ]* //p' "$@" | sort; } # without directories
same "no file is in two packages" "" "$(files "$T"/nbd-*.list | uniq -d)"
for part in $PARTS; do
    same "$part owns its directories" "" "$(files "$T/$part.list" | xargs -n1 dirname | grep -E '/nbd-(runner|cli)' |
        sort -u | while read -r dir; do
            grep -qx "d[^ ]* $dir" "$T/$part.list" || { [ $part != nbd-runner-devel ] && grep -qx "d[^ ]* $dir" "$T/nbd-runner.list"; } ||
                echo "$dir"
        done)"
done
need_debs
for part in nbd-runner nbd-cli nbd-runner-gluster nbd-runner-ceph nbd-runner-dev; do
    dpkg-deb -c "$(deb $part)" | sed -n 's,^-.* \./,/,p'
done | sed 's,^/lib/,/usr/lib/,; s,/usr/lib/[^/]*-linux-gnu[^/]*/,/usr/lib64/,; s,\.gz$,,' | grep -v ^/usr/share/doc/ | sort >"$T/debian"
files "$T"/nbd-*.list | grep -Ev '^/usr/share/(doc|licenses)/' |
    sed 's,/zsh/site-functions/,/zsh/vendor-completions/,' >"$T/fedora"
same "these are the files that Debian gets" "" "$(diff "$T/debian" "$T/fedora")"

# ---- what is in them runs ----
mkdir "$T/files"
for part in $PARTS; do rpm2cpio "$(rpm_of $part)" | (cd "$T/files" && cpio -idm --quiet); done
"$T/files/usr/sbin/nbd-runner" --dir "$D" --handler-dir "$T/files/usr/lib64/nbd-runner" >"$LOG" 2>&1 </dev/null &
DAEMON=$!
check "the daemon starts" await 20 "$T/files/usr/bin/nbd-cli" --dir "$D" status
"$T/files/usr/bin/nbd-cli" --dir "$D" status >"$T/status"
check "with all its handlers" grep -q "handlers=ceph,file,gluster,mem,nbd,null" "$T/status"
check "and ends" stop_daemon
check "without our help it looks for them in lib64" grep -qa '^/usr/lib64/nbd-runner$' <(strings -a "$T/files/usr/sbin/nbd-runner")

# ---- life in a system ----
copy_root "$T/system"
S=$T/system
of_root() { # rpm's own ARG...: scriptlets run inside
    unshare --mount --pid --fork --kill-child bash -c '
        mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" &&
        exec timeout 120 rpm --root "$0" --dbpath /var/lib/rpm --force-debian --nodeps "$@"' "$S" "$@" </dev/null
}
all=()
for part in $PARTS; do all+=("$(rpm_of $part)"); done
check "rpm installs them" of_root -i "${all[@]}"
is_set_up "$S"
same "rpm finds nothing changed" "" "$(of_root -V nbd-runner nbd-cli nbd-runner-gluster nbd-runner-ceph nbd-runner-devel)"
echo precious >"$S/var/lib/nbd-runner/images/disk"
echo '{}' >"$S/etc/nbd-runner/saveconfig.json"
echo '# ours' >>"$S/etc/nbd-runner/nbd-runner.conf"
check "rpm upgrades" of_root -U --force "${all[@]}"
check "the configuration is kept" grep -q '^# ours' "$S/etc/nbd-runner/nbd-runner.conf"
check "the service stays enabled" test -L "$S/etc/systemd/system/multi-user.target.wants/nbd-runner.service"
check "rpm removes" of_root -e $PARTS
check "no program is left" test ! -e "$S/usr/sbin/nbd-runner" -a ! -e "$S/usr/bin/nbd-cli"
check "the service is not enabled any more" test ! -L "$S/etc/systemd/system/multi-user.target.wants/nbd-runner.service"
check "images, state and configuration are left" test -s "$S/var/lib/nbd-runner/images/disk" \
    -a -s "$S/etc/nbd-runner/saveconfig.json" -a -s "$S/etc/nbd-runner/nbd-runner.conf.rpmsave"
