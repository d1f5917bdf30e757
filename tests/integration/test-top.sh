#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# nbd-cli top: as text, as lines of JSON, and on a terminal that tmux plays.
. "$(dirname "$0")/lib.sh"
requires tmux
requires_python nbd

need_daemon
check "exports are made" eval 'cli mem create busy size 1M && cli mem create idle size 1M'
# One read a millisecond, about, until the file appears.
"$PYTHON" "$HERE/heartbeat.py" "$(uri mem/busy)" "$T/stop" >"$T/beat" &
HEART=$!
stop_at_end+=($HEART)
await 20 grep -q beating "$T/beat" || fail "a client reads all the time" "$T/beat"

# ---- text ----
check "text" cli top interval 1 count 2 batch
cp "$T/out" "$T/text"
same "as often as asked" 2 "$(grep -c '^nbd-runner .* 2 exports, 1 clients' "$T/text")"
check "the busy export stands first" \
    awk '/^EXPORT / { getline; if ($1 != "mem/busy" || $3 == "0") bad = 1 } END { exit bad }' "$T/text"
check "the client has its line" grep -Eq '^unix:[0-9]+ +mem/busy +[0-9.]+K? ' "$T/text"
check "it can be sorted by name" cli top interval 1 count 1 sort name rows 1
cp "$T/out" "$T/text"
check "which puts the busy one first, and alone" \
    eval 'grep -q ^mem/busy "$T/text" && ! grep -q ^mem/idle "$T/text"'
refuses "by nothing else" 2 "nothing to sort by" cli top sort colour
refuses "there is no interval of 0" 2 "interval" cli top interval 0

# ---- JSON ----
cli --json top --interval 1 --count 2 >"$T/lines"
same "a line of JSON a look" 2 "$(wc -l <"$T/lines")"
tail -n 1 "$T/lines" >"$T/line"
same "the busy export first" mem/busy "$(json 'j["exports"][0]["name"]' <"$T/line")"
same "it has rates" true "$(json '(j["exports"][0]["requests_per_s"] > 0 and
    j["exports"][0]["read_bytes_per_s"] >= 512 and j["exports"][0]["mean_time_us"] > 0)' <"$T/line")"
same "the idle one has none" true "$(json '(j["exports"][1]["requests_per_s"] == 0 and
    j["exports"][1]["mean_time_us"] is None)' <"$T/line")"
same "the daemon has the sum" true \
    "$(json 'abs(j["daemon"]["requests_per_s"] - j["exports"][0]["requests_per_s"]) < 1e-6' <"$T/line")"
same "the client is told" mem/busy "$(json 'j["clients"][0]["export"]' <"$T/line")"

# ---- a terminal ----
"$BUILDDIR/nbd-cli" top --help | grep -q batch || fail "top has help"
mux() { tmux -S "$T/tmux" -f /dev/null "$@"; }
shows() { mux capture-pane -p -t top | grep -Eq -- "$1"; }
end_tmux() { mux kill-server 2>/dev/null; }
trap 'status=$?; end_tmux; (exit $status); at_end' EXIT
mux new-session -d -s top -x 100 -y 20 \
    "env LC_ALL=C.UTF-8 '$BUILDDIR/nbd-cli' --dir '$D' top interval 1; echo status \$?; exec sleep 600"
if await 20 shows 'q quit'; then
    check "the busy export is on the screen with its rate" \
        await 20 shows '^mem/busy +[1-9][0-9.]*K? +[1-9][0-9.]*[KM]? .* 1 +0$'
    check "so is the idle one" await 20 shows '^mem/idle +0 +0 +0 +- +0 +0 +0$'
    check "and the client" await 20 shows '^unix:[0-9]+  mem/busy +[0-9.]+'
    check "sorted by requests" shows 'every 1 s, by requests'
    mux send-keys -t top s
    check "s sorts by something else" await 20 shows 'every 1 s, by read'
    mux send-keys -t top S S
    check "S goes back" await 20 shows 'by name'
    mux send-keys -t top +
    check "+ makes the interval longer" await 20 shows 'every 2 s'
    mux send-keys -t top - - -
    check "- shorter, to 1" await 20 shows 'every 1 s'
    mux resize-window -t top -x 70 -y 10
    check "a smaller terminal" await 20 shows '^mem/busy +[1-9][0-9.]*K? +[1-9][0-9.]*[KM]? .* 1 +0$'
    same "no line is longer than it" 0 "$(mux capture-pane -p -t top | awk 'length > 70' | wc -l)"
    mux resize-window -t top -x 120 -y 30
    check "a larger one" await 20 shows '^mem/busy +[1-9][0-9.]*K? +[1-9][0-9.]*[KM]? .* 1 +0$'

    # ---- the daemon goes and comes back ----
    touch "$T/stop"
    finish 20 "$HEART"
    kill_daemon
    check "a daemon that has gone is told" await 60 shows 'trying again'
    need_daemon
    check "and shown again when it is back" await 60 shows 'every 1 s'
    mux send-keys -t top q
    check "q ends it, with success" await 20 shows '^status 0'
elif shows EXPORT; then
    echo "# this nbd-cli has no ncurses"
else
    mux capture-pane -p -t top >"$T/pane"
    fail "top shows itself on a terminal" "$T/pane"
fi

# ---- without colours ----
mux kill-session -t top
mux new-session -d -s top -x 100 -y 20 \
    "env NO_COLOR=1 '$BUILDDIR/nbd-cli' --dir '$D' top interval 1"
await 20 shows mem/busy
same "NO_COLOR: no colour at all" 0 "$(mux capture-pane -p -e -t top | grep -Ec $'\e\\[[0-9;]*3[0-7]m')"
end_tmux
stop_daemon
same "the daemon ends well" 0 $?
