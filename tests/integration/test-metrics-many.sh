#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A scrape of ten thousand exports is made in slices: the loop goes on in between.
. "$(dirname "$0")/lib.sh"
requires_python nbd
N=10000

mkdir -p "$D/conf.d"
for ((i = 0; i < N; i++)); do
    printf '[vol-%05d]\nbackstore = null\ntarget = vol-%05d\nsize = 1M\n' $i $i
done >"$D/conf.d/many.conf"
need_daemon --metrics 127.0.0.1:0
PORT=$(cli --json status | json 'j["status"]["metrics_endpoints"][0].rsplit(":", 1)[1]')
"$PYTHON" "$HERE/heartbeat.py" "$(uri vol-00000)" "$T/stop" >"$T/beat" &
HEART=$!
stop_at_end+=($HEART)
await 20 grep -q beating "$T/beat" || fail "a client reads all the time" "$T/beat"
check "all are scraped" "$HERE/get-page.py" "$PORT" /metrics
cp "$T/out" "$T/page"
for _ in 1 2 3 4; do "$HERE/get-page.py" "$PORT" /metrics >"$T/page"; done
touch "$T/stop"
finish 20 $HEART
echo "# the client waited: $(tail -n 1 "$T/beat") ms at most"
sed 1d "$T/page" >"$T/scrape"
check "the scrape is whole" "$HERE/metrics.py" check "$T/scrape"
same "it has each export" $N "$("$HERE/metrics.py" value "$T/scrape" nbd_runner_export_up)"
largest=$(sed -n '1s/.* //p' "$T/page")
check "no part of it is larger than a slice" [ "$largest" -gt 0 -a "$largest" -le 131072 ]
echo "# $(wc -c <"$T/scrape") bytes, the largest part has $largest"
late=$("$HERE/metrics.py" value "$T/scrape" nbd_runner_loop_lateness_seconds_count)
in_time=$("$HERE/metrics.py" value "$T/scrape" nbd_runner_loop_lateness_seconds_bucket le=0.05)
echo "# the loop was more than 50 ms late $((late - in_time)) times of $late"
stop_daemon
same "the daemon ends well" 0 $?
