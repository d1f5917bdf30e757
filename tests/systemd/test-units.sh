#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The units as they would be installed: valid, and as closed as they are meant to be. No systemd
# needs to run for that.
. "$(dirname "$0")/../integration/lib.sh"
requires systemd-analyze make

check "make install" make -C "$BUILDDIR" install DESTDIR="$T/root"
units=$(dirname "$(find "$T/root" -name nbd-runner.service)")
mkdir "$T/units"
cp "$units"/nbd-* "$T/units"
# Programs are looked for where they will be; here they are below DESTDIR.
sed -i "s,^\(Exec[A-Za-z]*=\)\([-+!:@]*\)\(/.*\),\1\2$T/root\3," "$T/units"/*.service
for unit in "$T"/units/*; do
    name=${unit##*/}
    systemd-analyze verify --man=no --recursive-errors=no "$unit" >"$T/out" 2>&1
    code=$?
    if [ $code = 0 ] && ! grep -q "$name" "$T/out"; then pass "$name is valid"; else fail "$name is valid" "$T/out"; fi
done
exposure=$(systemd-analyze security --offline=true --no-pager "$T/units/nbd-runner.service" |
    sed -n 's/.*Overall exposure level.*: \([0-9.]*\) .*/\1/p')
check "the service's exposure, ${exposure:-unknown}, is at most 2.0" \
    awk -v e="${exposure:-99}" 'BEGIN { exit !(e <= 2.0) }'
check "the user is well-formed" systemd-sysusers --root="$T/root" --dry-run "$(find "$T/root" -path '*sysusers.d*' -name nbd-runner.conf)"
mkdir -p "$T/root/etc"
systemd-sysusers --root="$T/root" "$(find "$T/root" -path '*sysusers.d*' -name nbd-runner.conf)" >/dev/null 2>&1
check "it is made" grep -q ^nbd-runner: "$T/root/etc/passwd"
if [ "$(id -u)" = 0 ]; then
    check "directories and links are made" systemd-tmpfiles --root="$T/root" --create \
        "$(find "$T/root" -path '*tmpfiles.d*' -name nbd-runner.conf)"
    same "the pid file's documented place leads to where the daemon writes" nbd-runner/nbd-runner.pid \
        "$(readlink "$T/root/run/nbd-runner.pid")"
fi
for example in "$SRCDIR"/systemd/examples/*.conf; do
    mkdir -p "$T/units/nbd-runner.service.d"
    cp "$example" "$T/units/nbd-runner.service.d/"
    check "the example ${example##*/} is valid" bash -c \
        '! systemd-analyze verify --man=no --recursive-errors=no "$0" 2>&1 | grep nbd-runner.service' "$T/units/nbd-runner.service"
    rm -r "$T/units/nbd-runner.service.d"
done
rules=$(find "$T/root" -name 60-nbd-runner.rules)
check "the udev rules are there" test -s "$rules"

# ---- the configuration file that packages bring ----
mkdir "$T/none"
check "it can be used as it is" "$BUILDDIR/nbd-runner" -C "$SRCDIR/packaging/nbd-runner.conf" \
    --conf-dir "$T/none" --check-config
sed 's/^#\([a-z_]* = \)/\1/' "$SRCDIR/packaging/nbd-runner.conf" >"$T/all.conf"
check "each line that is commented out can be used" "$BUILDDIR/nbd-runner" -C "$T/all.conf" \
    --conf-dir "$T/none" --check-config
