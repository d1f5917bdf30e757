#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# /metrics and /healthz of a daemon that works, that cannot save its state, and that stops;
# the dashboard and the alerts that are made of them.
. "$(dirname "$0")/lib.sh"
requires qemu-io nbdinfo promtool
DOCS=$SRCDIR/docs

need_daemon --metrics 127.0.0.1:0
PORT=$(cli --json status | json 'j["status"]["metrics_endpoints"][0].rsplit(":", 1)[1]')
page() { "$HERE/get-page.py" "$PORT" "$@"; } # PATH [ACCEPT]: status, type and largest chunk; content
scrape() { page /metrics >"$T/page" && sed 1d "$T/page" >"$T/scrape"; }
value() { "$HERE/metrics.py" value "$T/scrape" "$@"; }
is() { same "$1" "$2" "$(value "${@:3}")"; } # NAME WANTED SAMPLE [LABEL=VALUE...]

# ---- what was done is what is counted ----
check "exports are made" eval 'cli mem create disk1 size 1M && cli mem create "a\"b\\c" size 1M &&
    cli null create zeroes size 1G && truncate -s 1M "$D/images/plain" &&
    cli export add file plain name plain'
check "requests are made" qemu-io -f raw -c 'read 0 4k' -c 'read 4k 8k' -c 'write 0 64k' \
    -c 'write -z 0 16k' -c 'discard 64k 32k' -c flush "$(uri mem/disk1)"
qemu-io -f raw -c 'read 0 4k' "$(uri plain)" >/dev/null
/usr/bin/python3 -c '
import nbd, sys
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
try:
    h.pread(512, 1 << 20)
except nbd.Error:
    sys.exit(0)
sys.exit(1)' "$(uri mem/disk1)" || fail "a read past the end fails"
# What a client did in its last turn is counted when its connection has ended.
no_client() { [ "$(cli --json clients | json 'len(j["clients"])')" = 0 ]; }
check "the clients have left" await 20 no_client
check "there are metrics" scrape
same "they are OpenMetrics" "200 application/openmetrics-text; version=1.0.0; charset=utf-8" \
    "$(head -n 1 "$T/page" | sed 's/ [0-9]*$//')"
check "they are well formed" "$HERE/metrics.py" check "$T/scrape"
check "all of them are documented" "$HERE/metrics.py" documented "$T/scrape" "$DOCS/metrics.md"
for who in export=mem/disk1 handler=mem; do
    what=nbd_runner_${who%%=*}
    is "reads of $who" 3 ${what}_requests_total $who command=read
    is "writes of $who" 1 ${what}_requests_total $who command=write
    is "zeroes of $who" 1 ${what}_requests_total $who command=write_zeroes
    is "bytes that $who read" 12288 ${what}_bytes_total $who direction=read
    is "bytes that $who wrote" 65536 ${what}_bytes_total $who direction=written
    is "bytes that $who zeroed" 16384 ${what}_bytes_total $who direction=zeroed
    is "bytes that $who trimmed" 32768 ${what}_bytes_total $who direction=trimmed
    is "errors of $who" 1 ${what}_errors_total $who error=EINVAL
    is "times of reads of $who" 2 ${what}_request_duration_seconds_count $who class=read
    is "times of zeroes and trims of $who" 2 ${what}_request_duration_seconds_count $who class=zero
done
is "a name with quotes" 1 nbd_runner_export_up 'export=mem/a\"b\\c'
is "exports" 4 nbd_runner_exports state=ready
is "size" 1073741824 nbd_runner_export_size_bytes export=null/zeroes
is "jobs" 4 nbd_runner_jobs kind=create state=done
is "nothing is in flight" 0 nbd_runner_requests_in_flight
is "no memory is lent" 0 nbd_runner_payload_bytes
same "status has the same total" 3 "$(cli --json status | json 'j["status"]["counters"]["requests"]["read"] - 1')"
same "export show has the same numbers" 65536 \
    "$(cli --json export show mem/disk1 | json 'j["counters"]["bytes"]["written"]')"

# ---- clients that are there ----
/usr/bin/python3 -c 'import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
sys.stdin.read()' "$(uri mem/disk1)" < <(sleep 60) &
CLIENT=$!
stop_at_end+=($CLIENT)
connected() { scrape && [ "$(value nbd_runner_export_connections export=mem/disk1)" = 1 ]; }
check "a connection shows" await 20 connected
is "with its phase" 1 nbd_runner_connections phase=transmission
kill $CLIENT
await 20 no_client

# ---- an export that is removed leaves its counts with the handler ----
check "an export is removed" cli export remove mem/disk1
scrape
is "its series are gone" none nbd_runner_export_requests_total export=mem/disk1
is "the handler's are not" 3 nbd_runner_handler_requests_total handler=mem command=read

# ---- formats, methods ----
page /metrics text/plain >"$T/page"
same "Prometheus' older format" "200 text/plain; version=0.0.4; charset=utf-8" \
    "$(head -n 1 "$T/page" | sed 's/ [0-9]*$//')"
sed 1d "$T/page" >"$T/old"
check "promtool finds nothing wrong with it" sh -c "promtool check metrics <$T/old"
same "there is no other page" "404" "$(page /other | sed -n '1s, .*,,p')"

# ---- dashboard and alerts ----
check "the dashboard is JSON" "$PYTHON" -m json.tool "$DOCS/grafana-dashboard.json"
check "what dashboard and alerts name is there" "$HERE/metrics.py" named "$T/scrape" \
    "$DOCS/grafana-dashboard.json" "$DOCS/prometheus-alerts.yml"
check "promtool takes the alerts" promtool check rules "$DOCS/prometheus-alerts.yml"
# Their sentences are not what is tested.
awk '/^ *- alert:/ { skip = 0 } /^ *annotations:/ { skip = 1 } !skip' \
    "$DOCS/prometheus-alerts.yml" >"$T/prometheus-alerts.yml"
cp "$SRCDIR/tests/prometheus-alerts-test.yml" "$T"
check "each alert fires when it should" promtool test rules "$T/prometheus-alerts-test.yml"
untested=$(sed -n 's/^ *- alert: //p' "$DOCS/prometheus-alerts.yml" | while read -r alert; do
    [ "$(grep -c "alertname: $alert" "$T/prometheus-alerts-test.yml")" -ge 2 ] || echo "$alert"
done)
same "each alert is tested both ways" "" "$untested"

# ---- health ----
health() { page /healthz | tr '\n' ' '; }
same "health is ok" "200 text/plain; charset=utf-8 0 ok " "$(health)"
rm "$D/saveconfig.json" && mkdir "$D/saveconfig.json"
cli mem create more size 1M >/dev/null 2>&1
is_sick() { health | grep -q "^503 .*$1"; }
check "a state that cannot be saved is sick" await 20 is_sick 'the state is not saved'
scrape
is "and shows in the metrics" 1 nbd_runner_state_unsaved
rmdir "$D/saveconfig.json"
is_well() { health | grep -q ^200; }
check "until it can be saved again" await 60 is_well
stop_daemon

# ---- a daemon that stops while the storage still has a request ----
FAULT=$BUILDDIR/tests/handlers/.libs/libfault_handler.so
[ -e "$FAULT" ] || { echo "skip: the test handlers are not built (make check TESTS=)"; exit 77; }
mkdir "$T/handlers"
ln -s "$FAULT" "$T/handlers/"
HANDLERS=$T/handlers
rm -rf "$D"
need_daemon --metrics 127.0.0.1:0
PORT=$(cli --json status | json 'j["status"]["metrics_endpoints"][0].rsplit(":", 1)[1]')
check "an export whose storage hangs" \
    cli export add fault x name slow opt size=1M opt "hold=$T/hold" opt op=write
touch "$T/hold"
qemu-io -f raw -c 'write 0 4k' "$(uri slow)" >/dev/null 2>&1 &
stop_at_end+=($!)
in_flight() { scrape && [ "$(value nbd_runner_export_requests_in_flight export=slow)" = 1 ]; }
check "a request that hangs is in flight" await 20 in_flight
kill -TERM "$DAEMON"
check "the end shows in the health" await 20 is_sick 'the daemon is stopping'
scrape
is "and in the metrics" 1 nbd_runner_stopping
rm "$T/hold"
finish 30 "$DAEMON"
same "the daemon ends well" 0 $?
DAEMON=
