#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The network between a mapped device and its daemon fails for a while, longer than the kernel
# waits for an answer; and many devices lose their daemon at the same time. Runs as root where
# the driver is.
. "$(dirname "$0")/../integration/lib.sh"
requires_root
requires tc

N=24
MONLOG=$T/monitor.log
live() { cli file list live --json | json 'len([r for r in j["rows"] if r["mapping"]["connected"] == r["mapping"]["connections"]])'; }
are_live() { [ "$(live)" = "$1" ]; }
alive() { cat "$T/stop.alive" 2>/dev/null || echo 0; }
goes_on() {
    local before
    before=$(alive)
    await "$1" bash -c '[ "$(cat "$0" 2>/dev/null || echo 0)" -gt "$1" ]' "$T/stop.alive" "$before"
}

need_daemon
"$BUILDDIR/nbd-cli" monitor interval 2 --json >"$MONLOG" 2>&1 &
monitor=$!
stop_at_end+=($monitor)
cli file create disk size 4M >/dev/null
check "map over TCP" "$BUILDDIR/nbd-cli" --host "127.0.0.1:$(port_of rpc)" file map disk nbd1 timeout 3
"$PYTHON" "$SRCDIR/tests/kernel/hammer.py" /dev/nbd1 "$D/images/disk" "$T/stop" >"$T/hammer" 2>&1 &
hammer=$!
stop_at_end+=($hammer)
check "verified I/O" goes_on 20
for i in 1 2; do
    tc qdisc add dev lo root netem loss 100% || fail "the network can be cut"
    sleep 9 # three times as long as the kernel waits for an answer
    before=$(alive)
    tc qdisc del dev lo root
    check "cut $i: I/O goes on" goes_on 40
    check "cut $i: the device is live" await 20 are_live 1
done
touch "$T/stop"
finish 60 $hammer
same "not one error, and every byte is right" 0 $?
sed 's/^/# /' "$T/hammer"

# Its TCP port would be another one after a restart of the daemon.
check "unmap, by the address that the kernel keeps" "$BUILDDIR/nbd-cli" file unmap nbd1
for ((i = 1; i <= N; i++)); do
    cli file create d$i size 64k >/dev/null
    cli file map d$i nbd$i timeout 3 >/dev/null
done
same "many devices are live" $N "$(live)"
kill_daemon
need_daemon
check "all of them are live again" await 60 are_live $N
check "each was told as restored, in JSON" \
    "$PYTHON" -c 'import json, sys
events = [json.loads(line) for line in open(sys.argv[1])]
back = {e["device"] for e in events if e["event"] == "restored"}
assert len(back) == int(sys.argv[2]), back
assert not [e for e in events if e["event"] == "failed"], events' "$MONLOG" $N
for ((i = 1; i <= N; i++)); do
    dd if=/dev/nbd$i of=/dev/null bs=4k count=1 iflag=direct status=none || fail "nbd$i can be read"
done
for ((i = 1; i <= N; i++)); do
    cli file unmap nbd$i >/dev/null || fail "nbd$i is unmapped"
done
kill -TERM $monitor
finish 20 $monitor
same "the monitor ends with 0" 0 $?
check "the daemon ends with 0" stop_daemon
