#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Peers that misbehave on the control port and in the NBD handshake, while another client does
# a small read each millisecond and must never wait longer than 200 ms.
. "$(dirname "$0")/lib.sh"
requires_python nbd

printf '[generic]\nnegotiation_timeout = 2\n' >"$T/conf"
mkdir -p "$D" && cp "$T/conf" "$D/nbd-runner.conf"
need_daemon
check "an export" cli file create disk size 1M
GAP_MS=${GAP_MS:-$((200 * SLOWNESS))}
"$PYTHON" "$HERE/heartbeat.py" "$(uri file/disk)" "$T/stop-heartbeat" >"$T/heartbeat" 2>&1 &
heartbeat=$!
stop_at_end+=($heartbeat)
check "the heartbeat runs" await 10 grep -q beating "$T/heartbeat"

for attack in $("$PYTHON" "$HERE/abuse.py" list); do
    check "$attack" timeout 60 "$PYTHON" "$HERE/abuse.py" "$attack" "$(port_of rpc)" "$(port_of nbd)"
done
check "the daemon still answers" cli status
touch "$T/stop-heartbeat"
finish 20 $heartbeat
gap=$(sed -n 's/^longest //p' "$T/heartbeat")
check "the longest gap of the heartbeat was $gap ms" test "${gap:-99999}" -le "$GAP_MS"
check "the daemon ends with 0" stop_daemon
