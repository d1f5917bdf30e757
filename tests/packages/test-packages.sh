#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The Debian packages: built from the tarball, without complaints of lintian; installed,
# upgraded, removed and purged in a small Debian without running services. NR_DEBS, NR_ROOT: see
# lib.sh.
. "$(dirname "$0")/lib.sh"
requires lintian dpkg-deb
requires_root

need_debs
# That this is not meant for Debian's archive is no fault of a package.
check "lintian has nothing to say" lintian --allow-root --fail-on error,warning \
    --suppress-tags initial-upload-closes-no-bugs "$NR_DEBS"/*.changes
same "every file that is installed is in a package" "" \
    "$(sed -n 's/^dh_missing: warning: \(.*\) exists in debian.*/\1/p' "$NR_DEBS/build.log" | xargs)"
for package in nbd-runner nbd-cli nbd-runner-gluster nbd-runner-ceph nbd-runner-dev; do
    dpkg-deb -c "$(deb $package)" >"$T/$package.list" 2>&1
    check "there is a package $package" test -s "$T/$package.list"
done
same "each handler is in one package" "ceph:nbd-runner-ceph file:nbd-runner gluster:nbd-runner-gluster mem:nbd-runner nbd:nbd-runner null:nbd-runner" \
    "$(cd "$T" && grep -o 'lib[a-z]*_handler.so$' nbd-*.list | sed 's/\(.*\).list:lib\(.*\)_handler.so/\2:\1/' | sort | xargs)"

# ---- life in a system ----
copy_root "$T/system"
S=$T/system
version=$(dpkg-deb -f "$(deb nbd-runner)" Version)
mkdir "$S/root/debs" "$S/root/newer"
for package in nbd-runner nbd-cli nbd-runner-gluster nbd-runner-ceph nbd-runner-dev; do
    cp "$(deb $package)" "$S/root/debs/$package.deb"
    rm -rf "$T/repack"
    dpkg-deb -R "$(deb $package)" "$T/repack"
    sed -i "s/$version/$version+newer/" "$T/repack/DEBIAN/control"
    dpkg-deb --root-owner-group -Zgzip -b "$T/repack" "$S/root/newer/$package.deb" >/dev/null
done
state_of() { inside "$S" dpkg-query -W -f '${db:Status-Status} ${Version}' "$1" 2>/dev/null; }
apt() { inside "$S" apt-get -y --no-install-recommends "$@"; }
check "apt installs the packages and what they depend on" \
    apt install /root/debs/{nbd-runner,nbd-cli,nbd-runner-gluster,nbd-runner-ceph,nbd-runner-dev}.deb
same "it is installed" "installed $version" "$(state_of nbd-runner)"
is_set_up "$S"
check "the daemon starts and finds all its handlers" inside "$S" bash -c '
    nbd-runner --dir /tmp/d --handler-dir "$(dirname "$(ls /usr/lib/*/nbd-runner/libfile_handler.so)")" \
        >/tmp/log 2>&1 & pid=$!
    for i in {1..200}; do nbd-cli --dir /tmp/d status >/tmp/status 2>&1 && break; sleep 0.1; done
    cat /tmp/log /tmp/status
    grep -q "handlers=ceph,file,gluster,mem,nbd,null" /tmp/status && nbd-cli --dir /tmp/d file create x size 1M &&
        kill $pid && wait $pid'
check "shells find the completion" test -s "$S/usr/share/bash-completion/completions/nbd-cli"

echo precious >"$S/var/lib/nbd-runner/images/disk"
echo '{}' >"$S/etc/nbd-runner/saveconfig.json"
echo '[generic]' >"$S/etc/nbd-runner/nbd-runner.conf"
check "apt upgrades" apt install /root/newer/{nbd-runner,nbd-cli,nbd-runner-gluster,nbd-runner-ceph,nbd-runner-dev}.deb
same "the newer version is there" "installed $version+newer" "$(state_of nbd-runner)"
check "images, state and configuration are left" test -s "$S/var/lib/nbd-runner/images/disk" \
    -a -s "$S/etc/nbd-runner/saveconfig.json" -a -s "$S/etc/nbd-runner/nbd-runner.conf"
check "apt removes" apt remove nbd-runner nbd-cli nbd-runner-gluster nbd-runner-ceph nbd-runner-dev
check "no program is left" test ! -e "$S/usr/sbin/nbd-runner" -a ! -e "$S/usr/bin/nbd-cli"
check "images, state and configuration are left" test -s "$S/var/lib/nbd-runner/images/disk" \
    -a -s "$S/etc/nbd-runner/saveconfig.json" -a -s "$S/etc/nbd-runner/nbd-runner.conf"
check "apt purges what has left something" apt purge nbd-runner
check "the state is gone" test ! -e "$S/etc/nbd-runner/saveconfig.json"
check "images are left all the same" grep -q precious "$S/var/lib/nbd-runner/images/disk"
same "dpkg knows nothing of it" "" "$(state_of nbd-runner | sed 's,^not-installed *,,')"
