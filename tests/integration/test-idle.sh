#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A thousand idle clients cost little memory, and their going leaves nothing behind.
. "$(dirname "$0")/lib.sh"
requires_python nbd
ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -H -n)"

mkdir -p "$D"
printf '[generic]\nmax_connections = 2000\nmax_export_connections = 2000\n' >"$D/nbd-runner.conf"
need_daemon
check "an export" cli file create disk size 1M
rss_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$DAEMON/status"; }
fds() { ls "/proc/$DAEMON/fd" | wc -l; }
cat >"$T/idle.py" <<'EOF'
import sys, time, os, nbd
held = []
for i in range(1000):
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    h.pread(4096, 0)
    held.append(h)
open(sys.argv[2], "w").close()
while not os.path.exists(sys.argv[3]):
    time.sleep(0.02)
EOF
fds_before=$(fds) before=$(rss_kib)
"$PYTHON" "$T/idle.py" "$(uri file/disk)" "$T/all-there" "$T/end" >"$T/idle.out" 2>&1 &
client=$!
stop_at_end+=($client)
await 60 test -e "$T/all-there" && pass "1000 clients connect" || fail "1000 clients connect" "$T/idle.out"
grown=$(($(rss_kib) - before))
same "they are counted" 1000 "$(cli --json export show file/disk | json 'j["export"]["connections"]')"
if grep -q libasan "/proc/$DAEMON/maps"; then
    pass "(memory is not measured under AddressSanitizer)"
else
    check "they cost $grown KiB of memory, 16 MiB at most" test $grown -lt 16384
fi
touch "$T/end"
finish 60 $client
is_back() { [ "$(fds)" -le "$fds_before" ]; }
check "their descriptors are closed" await 10 is_back
check "the daemon ends with 0" stop_daemon
