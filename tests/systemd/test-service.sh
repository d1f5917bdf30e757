#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The service under a real systemd: a small Debian gets our packages by apt, boots under User Mode
# Linux, and guest-service.sh tests there. NR_DEBS, NR_ROOT: see ../packages/lib.sh.
. "$(dirname "$0")/../packages/lib.sh"
requires linux.uml mke2fs depmod
requires_root

need_debs
copy_root "$T/guest"
cp "$(deb nbd-runner)" "$(deb nbd-cli)" "$T/guest/root"
check "apt installs the packages, as README.md says" inside "$T/guest" bash -c \
    'cd /root && apt-get install -y --no-install-recommends ./nbd-runner_*.deb ./nbd-cli_*.deb'
"$SRCDIR/tests/systemd/boot" --timeout 280 "$T/guest" "$SRCDIR/tests/systemd/guest-service.sh" \
    >"$T/guest.log" 2>&1
code=$?
cat "$T/guest.log"
failures=$((failures + $(grep -c '^not ok' "$T/guest.log")))
grep -q '^not ok' "$T/guest.log" || same "the guest ended well" 0 $code
