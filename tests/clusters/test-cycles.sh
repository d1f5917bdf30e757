#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Exports of each kind are made, used by a client and deleted 200 times: the daemon has then as
# many descriptors and threads as before, and hardly more memory.
. "$(dirname "$0")/lib.sh"
. "$CLUSTERS/gluster.sh"
requires glusterd gluster ceph ceph-osd ceph-mon rbd nbdkit
requires_python nbd
requires_root
COUNT=200 WARM_UP=20
# The daemon remembers its last 1000 jobs, of which a cycle has two, with up to 2 KiB each; the
# storage's libraries keep some 2 KiB for each connection to it.
KIB_A_CYCLE=14

usage() { # of the daemon: resident KiB, threads, descriptors
    awk '/^VmRSS/ {r = $2} /^Threads/ {t = $2} END {print r, t}' "/proc/$DAEMON/status"
    ls "/proc/$DAEMON/fd" | wc -l
}
cycles() { # HANDLER TARGET COUNT
    timeout 300 "$PYTHON" "$CLUSTERS/cycles.py" "$BUILDDIR/nbd-cli" "$D" "$@"
}
grows_little() { # HANDLER TARGET THREADS [DAEMON-ARG]...
    local before after
    # One arena: with many, what the C library has left over in each looks like growth.
    export MALLOC_ARENA_MAX=1
    need_daemon "${@:4}"
    check "$1: $WARM_UP times to warm up" cycles "$1" "$2" $WARM_UP
    before=($(usage))
    check "$1: $COUNT times" cycles "$1" "$2" $COUNT
    after=($(usage))
    echo "# $1: KiB, threads, descriptors: ${before[*]}, then ${after[*]}"
    if ldd "$BUILDDIR/nbd-runner" | grep -q libasan; then
        echo "# memory is not compared: AddressSanitizer keeps what is freed"
    else
        check "$1: memory grows by less than $((COUNT * KIB_A_CYCLE)) KiB" \
            test $((after[0] - before[0])) -lt $((COUNT * KIB_A_CYCLE))
    fi
    check "$1: threads by no more than $3" test $((after[1] - before[1])) -le "$3"
    check "$1: descriptors by no more than 3" test $((after[2] - before[2])) -le 3
    check "$1: the daemon ends with 0" stop_daemon
    rm -rf "$D"
}

grows_little file cycle 4                  # workers that were not needed before
grows_little mem cycle 4

nbdkit -f -U "$T/kit.sock" memory 1M >"$T/kit.log" 2>&1 </dev/null &
stop_at_end+=($!)
await 10 test -S "$T/kit.sock"
grows_little nbd "unix:$T/kit.sock:" 4

glusterd_start || { fail "glusterd starts" "$G/log/glusterd.log"; exit 1; }
volume_make vol >"$T/out" 2>&1 || { fail "the volume starts" "$T/out"; exit 1; }
grows_little gluster vol/cycle 20 --ghost "$GHOST"     # and up to 16 of gluster's own pool
gluster_stop

need_ceph 1
grows_little ceph rbd/cycle 4
