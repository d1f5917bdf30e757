#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Ten thousand exports, in files and by the control port: what is done with them takes no
# longer than a moment, and a client beside them does not notice. The limits are far above
# what was measured (docs/performance.md): they catch what grows with the square of the number.
. "$(dirname "$0")/lib.sh"
requires nbd-client
requires_python nbd

N=${N:-10000}
LIMIT_MS=${LIMIT_MS:-$((20000 * SLOWNESS))}
C=$D/conf.d
mkdir -p "$C"
truncate -s 1M "$T/beat.img" "$T/one.img"
write_files() { # DESCRIPTION
    "$PYTHON" - "$C" "$N" "$T/one.img" "$1" <<'END'
import sys
directory, n, image, description = sys.argv[1:]
for i in range(int(n)):
    with open("%s/e%05d.conf" % (directory, i), "w") as f:
        f.write("[migration-vol-%05d]\nexportname = %s\nreadonly = true\n"
                "description = %s\n" % (i, image, description))
END
}
timed() { # NAME COMMAND...: succeeds, within the limit
    local name=$1 start ms
    shift
    start=$(date +%s%N)
    "$@" >"$T/timed" 2>&1 || { fail "$name" "$T/timed"; return; }
    ms=$((($(date +%s%N) - start) / 1000000))
    if [ $ms -le "$LIMIT_MS" ]; then pass "$name"; else
        echo "it took $ms ms" >"$T/timed"
        fail "$name" "$T/timed"
    fi
    echo "# $name: $ms ms"
}

write_files one
printf '[beat]\nexportname = %s\n' "$T/beat.img" >"$D/nbd-runner.conf"
timed "start with $N exports in files" start_daemon
"$PYTHON" "$HERE/heartbeat.py" "$(uri beat)" "$T/stop" >"$T/beat" 2>&1 &
beat=$!
stop_at_end+=($beat)
await 30 grep -q beating "$T/beat"
timed "list them over NBD" nbd-client -l -u "$D/nbd.sock"
same "all of them" $((N + 1)) "$(nbd-client -l -u "$D/nbd.sock" 2>/dev/null | grep -vc Negotiation)"
timed "list them by the control port" cli export list
timed "reload without a change" cli reload
write_files two
timed "reload with $N changes" cli reload
check "each is made" grep -q "^0 added, $N changed, 0 removed" "$T/timed"
find "$C" -name '*.conf' -delete
timed "remove them" cli reload
write_files three
timed "add them" cli reload
touch "$T/stop"
check "the client beside them saw no error" finish 20 $beat
longest=$(sed -n 's/^longest //p' "$T/beat")
echo "# longest wait of a client beside them: $longest ms"
check "nor waited for long" test "${longest:-99999}" -le $((LIMIT_MS / 20))
check "the daemon ends with 0" stop_daemon

# ---- by the control port ----
rm -rf "$C"
"$PYTHON" - "$D/saveconfig.json" "$N" <<'END'
import json, sys, uuid
exports = {str(uuid.UUID(int=i + 1)): {
    "name": "vol-%05d" % i, "handler": "null", "target": "t%d" % i, "opts": {"size": "1M"},
    "size": 1 << 20} for i in range(int(sys.argv[2]))}
json.dump({"format": "nbd-runner-state", "version": 2, "generation": 1, "exports": exports},
          open(sys.argv[1], "w"))
END
timed "start with $N saved exports" start_daemon
create() { "$PYTHON" "$HERE/rpc_create.py" "$D/control.sock" 50 n >"$T/created"; }
timed "create 50 images beside them" create
echo "# a create: $(cat "$T/created")"
kill_daemon
timed "start again after a crash" start_daemon
same "each create that was answered is there" 50 \
    "$(cli --json export list | json 'sum(e["name"].startswith("file/n") for e in j["exports"])')"
check "the daemon ends with 0" stop_daemon
