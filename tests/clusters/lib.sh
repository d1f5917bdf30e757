# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# What the tests with clusters share, beside integration/lib.sh, which it sources: clusters that
# go away with their test, however that ends; checks that are the same for each kind of export.
# To be sourced by bash; knows no test.
. "$(dirname "${BASH_SOURCE[0]}")/../integration/lib.sh"
CLUSTERS=$SRCDIR/tests/clusters

# Daemons of a cluster leave the test's process group, so SIGKILL to that group, which no trap
# sees, would leave them running. This guard is outside of the group as well, and outlives it.
clean_up_after_death() { # COMMAND...: it finds nothing to do when the test has cleaned up
    set -m
    {
        trap - EXIT INT TERM HUP
        tail --pid=$$ -f /dev/null
        "$@"
        rm -rf "$T"
    } </dev/null >/dev/null 2>&1 &
    set +m
    disown
}

# ---- clients that beat on another export while things go wrong ----
# A machine with a cluster on it is busy at times: the same client at a daemon that does nothing
# else tells how long anybody had to wait for a processor, and only what is beyond that counts.
GAP_MS=200
beat() { # NAME URI: its pid is in $beater
    rm -f "$T/beat-stop"
    "$PYTHON" "$SRCDIR/tests/integration/heartbeat.py" "$2" "$T/beat-stop" >"$T/beat-$1" 2>&1 &
    beater=$!
    stop_at_end+=($beater)
    await 10 grep -q beating "$T/beat-$1"
}
longest_gap() { sed -n 's/^longest //p' "$T/beat-$1"; } # NAME
beat_start() { # EXPORT
    "$BUILDDIR/nbd-runner" serve -q --handler-dir "$HANDLERS" --handler null --file x --opt size=1M \
        --unix "$T/idle.sock" >"$T/idle.log" 2>&1 </dev/null &
    idle_daemon=$!
    stop_at_end+=($idle_daemon)
    await 10 test -S "$T/idle.sock"
    beat idle "nbd+unix:///?socket=$T/idle.sock" && idle_beater=$beater
    check "a heartbeat on '$1' runs" beat busy "$(uri "$1")"
}
beat_end() { # WHAT-WENT-WRONG
    local gap idle
    touch "$T/beat-stop"
    finish 20 $beater
    finish 20 $idle_beater
    kill $idle_daemon
    gap=$(longest_gap busy) idle=$(longest_gap idle)
    check "$1: the heartbeat's longest gap was $gap ms (an idle daemon's $idle ms)" \
        test "${gap:-99999}" -le $((GAP_MS + ${idle:-0}))
}

# ---- what standard clients see ----
# The same for each kind of export: qemu's and libnbd's tools and fio, with the bytes compared.
standard_clients() { # EXPORT: of 64 MiB; its content is lost
    local uri
    uri=$(uri "$1")
    head -c 64M /dev/urandom >"$T/std"
    check "nbdinfo reads its size" test "$(nbdinfo --size "$uri")" = 67108864
    check "nbdinfo reads its list" bash -c 'nbdinfo --list "$0" | grep -qF "export=\"$1\""' \
        "$(uri)" "$1"
    check "nbdcopy writes to it" nbdcopy --flush "$T/std" "$uri"
    check "qemu-img finds the bytes" qemu-img compare -f raw -F raw "$T/std" "$uri"
    tac "$T/std" | head -c 64M >"$T/std2" && truncate -s 64M "$T/std2"
    check "qemu-img converts to it" qemu-img convert -n -f raw -O raw "$T/std2" "$uri"
    rm -f "$T/back"
    check "nbdcopy reads it" nbdcopy "$uri" "$T/back"
    check "the bytes are the same" cmp "$T/std2" "$T/back"
    rm -f "$T/std" "$T/std2" "$T/back"
    check "fio writes in random places and verifies" fio_verifies "$uri"
}
fio_verifies() { # URI
    (cd "$T" && timeout 120 fio --name=v --ioengine=nbd --uri="$1" --rw=randwrite --bs=4k \
        --size=16M --iodepth=32 --fsync=64 --verify=crc32c --verify_fatal=1 --output="$T/fio")
}

# ---- Ceph ----
need_ceph() { # [OSDS]: sets C, CEPH_CONF and the function cluster; the test ends without it
    C=$T/c
    export CEPH_CONF=$C/ceph.conf
    clean_up_after_death "$CLUSTERS/ceph.sh" down "$C"
    trap end_ceph EXIT
    "$CLUSTERS/ceph.sh" up "$C" "${1-3}" >"$T/out" 2>&1
    case $? in
    0) pass "a cluster of OSDs comes up" ;;
    77) cat "$T/out"; exit 77 ;;
    *) fail "a cluster of OSDs comes up" "$T/out"; exit 1 ;;
    esac
}
cluster() { "$CLUSTERS/ceph.sh" "$1" "$C" "${@:2}"; } # VERB [ARG]...
end_ceph() {
    local code=$?
    [ -z "$DAEMON" ] || kill_daemon
    "$CLUSTERS/ceph.sh" down "$C"
    ! declare -F gluster_stop >/dev/null || gluster_stop # this trap has taken the place of its
    (exit $code)
    at_end
}

# ---- an export in use ----
written() { cli --json export show "$1" | json 'j["counters"]["bytes"]["written"]'; } # EXPORT
has_written() { [ "$(written "$1")" -gt "$2" ]; } # EXPORT BYTES
goes_on() { # EXPORT: something is written from now on
    local before
    before=$(written "$1") && await 20 has_written "$1" "$before"
}
is_in_state() { # EXPORT STATE
    [ "$(cli --json export show "$1" | json 'j["export"]["state"]')" = "$2" ]
}
