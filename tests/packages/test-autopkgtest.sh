#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Debian's test of the installed packages, debian/tests, as Debian runs it: autopkgtest installs
# the packages in a small Debian with systemd, booted under User Mode Linux, and runs the test
# there. NR_DEBS, NR_ROOT: see lib.sh.
. "$(dirname "$0")/lib.sh"
requires linux.uml mke2fs depmod
requires_root

need_debs
copy_root "$T/guest"
G=$T/guest
mkdir -p "$G/root/debs" "$G/root/source/debian"
cp "$(deb nbd-runner)" "$(deb nbd-cli)" "$G/root/debs"
cp -r "$SRCDIR/debian/tests" "$G/root/source/debian" # enough, when nothing is to be built
# The guest has no network: what the packages need is there, they themselves are not.
check "apt installs autopkgtest, and what the packages depend on" inside "$G" bash -c \
    'cd /root/debs && apt-get install -y --no-install-recommends autopkgtest libnbd-bin ./*.deb &&
        apt-mark manual $(apt-mark showauto) && apt-get purge -y nbd-runner nbd-cli &&
        : >/etc/apt/sources.list && rm -rf /var/lib/apt/lists/*'
cat >"$T/guest.sh" <<'END'
autopkgtest --no-built-binaries --summary-file /root/summary /root/debs/*.deb /root/source -- null
code=$?
sed 's/^/summary: /' /root/summary
exit $code
END
"$SRCDIR/tests/systemd/boot" --timeout 280 "$G" "$T/guest.sh" >"$T/guest.log" 2>&1
same "autopkgtest ends well" 0 $?
check "the test smoke has passed" grep -q '^summary: smoke  *PASS' "$T/guest.log"
same "and is the only one" "$(sed -n 's/^Tests: //p' "$SRCDIR/debian/tests/control" | wc -w)" "$(grep -c '^summary: ' "$T/guest.log")"
[ $failures = 0 ] || tail -n 60 "$T/guest.log" | sed 's/^/# /'
