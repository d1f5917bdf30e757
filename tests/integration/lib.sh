# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# What the integration and kernel tests share: a directory of their own, a daemon in it, checks
# that are counted, and an end that leaves nothing behind. To be sourced by bash; knows no test.
#
# A test prints "ok NAME" or "not ok NAME" for each check and exits with 0, 1, or 77 when a
# tool that it needs is absent.

set -u
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin

: "${BUILDDIR:=$PWD}"
: "${SRCDIR:=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")}"
if [ ! -x "$BUILDDIR/nbd-runner" ]; then
    echo "there is no nbd-runner in $BUILDDIR; set BUILDDIR to the build folder" >&2
    exit 1
fi
SRCDIR=$(realpath "$SRCDIR") BUILDDIR=$(realpath "$BUILDDIR")
HERE=$SRCDIR/tests/integration
PYTHON=/usr/bin/python3             # the one that Debian's python3-libnbd belongs to
HANDLERS=$BUILDDIR/handlers/.libs
export PYTHONDONTWRITEBYTECODE=1
export ASAN_OPTIONS=${ASAN_OPTIONS-detect_leaks=1:exitcode=99}
export UBSAN_OPTIONS=${UBSAN_OPTIONS-print_stacktrace=1:exitcode=99}

T=$(mktemp -d /tmp/nr-test.XXXXXX) || exit 1   # short: socket paths lie below it
cd "$T" || exit 1                              # fio and others leave files where they are
D=$T/d                                         # the daemon's directory
LOG=$T/daemon.log
DAEMON=                                        # its pid
failures=0
declare -a stop_at_end=() unmount_at_end=()

requires() { # TOOL...
    local tool
    for tool; do
        command -v "$tool" >/dev/null || { echo "skip: $tool is not installed"; exit 77; }
    done
}
requires_python() { # MODULE
    "$PYTHON" -c "import $1" 2>/dev/null || { echo "skip: python3 has no module $1"; exit 77; }
}
requires_root() {
    [ "$(id -u)" = 0 ] || { echo "skip: this needs root"; exit 77; }
}

# ---- checks ----
pass() { echo "ok $1"; }
fail() { # NAME [FILE-WITH-DETAILS]
    failures=$((failures + 1))
    echo "not ok $1"
    [ $# -lt 2 ] || tail -n 15 "$2" | sed 's/^/# /'
}
check() { # NAME COMMAND...: the command succeeds
    local name=$1
    shift
    if "$@" >"$T/out" 2>&1; then pass "$name"; else
        echo "status $?: $*" >>"$T/out"
        fail "$name" "$T/out"
    fi
}
refuses() { # NAME STATUS TEXT COMMAND...: it ends with STATUS and says TEXT, in one line
    local name=$1 status=$2 text=$3 code
    shift 3
    "$@" >"$T/out" 2>&1
    code=$?
    if [ $code = "$status" ] && grep -qiF -- "$text" "$T/out" && [ "$(wc -l <"$T/out")" -le 1 ]; then
        pass "$name"
    else
        echo "status $code, wanted $status and one line with '$text': $*" >>"$T/out"
        fail "$name" "$T/out"
    fi
}
same() { # NAME WANTED FOUND
    if [ "$2" = "$3" ]; then pass "$1"; else
        printf "wanted '%s'\nfound '%s'\n" "$2" "$3" >"$T/out"
        fail "$1" "$T/out"
    fi
}
# The seconds that tests name are for a machine that has nothing else to do. One that has gets so
# many times more: only a test that fails waits that long.
export SLOWNESS=${SLOWNESS:-3}
await() { # SECONDS COMMAND...: until it succeeds
    local end=$(($(date +%s%N) + $1 * SLOWNESS * 1000000000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s%N)" -lt $end ] || return 1
        sleep 0.02
    done
}
is_gone() { ! kill -0 "$1" 2>/dev/null; }
finish() { # SECONDS PID: waits for the end of that child; its status, or 124 when it was killed
    if ! await "$1" is_gone "$2"; then
        kill -KILL "$2" 2>/dev/null
        ! await 5 is_gone "$2" || wait "$2" 2>/dev/null
        return 124
    fi
    wait "$2"
}
is_logged() { # TEXT [FROM-LINE]
    tail -n "+${2:-1}" "$LOG" 2>/dev/null | grep -qF -- "$1"
}

# ---- the daemon ----
log_lines() { cat "$LOG" 2>/dev/null | wc -l; }

# Starts `nbd-runner --dir $D ARG...` and returns 0 when it is ready, or its exit status.
start_daemon() {
    local from=$(($(log_lines) + 1))
    "$BUILDDIR/nbd-runner" --dir "$D" --handler-dir "$HANDLERS" "$@" >>"$LOG" 2>&1 </dev/null &
    DAEMON=$!
    says_or_ends ' is ready' $from
}
says_or_ends() { # TEXT FROM-LINE: 0 when the daemon has logged that; else how it has ended
    is_said_or_over() { is_logged "$1" "$2" || is_gone "$DAEMON"; }
    await 30 is_said_or_over "$@"
    ! is_logged "$@" || return 0
    if is_gone "$DAEMON"; then wait "$DAEMON"; return; fi
    echo "the daemon has not logged '$1' in time" >>"$LOG"
    return 1
}
need_daemon() { # ARG...: the test makes no sense without it
    start_daemon "$@" && return
    fail "the daemon starts" "$LOG"
    exit 1
}
# SIGTERM; the exit status, or 124 when it does not end.
stop_daemon() {
    local pid=$DAEMON
    DAEMON=
    kill -TERM "$pid" 2>/dev/null
    finish 30 "$pid"
}
kill_daemon() { # the hard way
    kill -KILL "$DAEMON" 2>/dev/null
    wait "$DAEMON" 2>/dev/null
    DAEMON=
}

cli() { timeout 60 "$BUILDDIR/nbd-cli" --dir "$D" "$@"; }
uri() { echo "nbd+unix:///${1-}?socket=$D/nbd.sock"; }
port_of() { # rpc|nbd: the TCP port that the kernel chose
    cli --json status | "$PYTHON" -c '
import json, sys
ends = json.load(sys.stdin)["status"]["'"$1"'_endpoints"]
print([e.rsplit(":", 1)[1] for e in ends if not e.startswith("unix:")][0])'
}
json() { # EXPRESSION: of the JSON text on stdin, which is called j
    "$PYTHON" -c 'import json, sys
j = json.load(sys.stdin)
r = eval(sys.argv[1])
print(r if not isinstance(r, bool) else str(r).lower())' "$1"
}
export_names() { cli --json export list | json '" ".join(sorted(e["name"] for e in j["exports"]))'; }

# ---- the end ----
sanitizer_reports() {
    [ -e "$LOG" ] && grep -E 'ERROR: (Address|Leak)Sanitizer|runtime error:' "$LOG"
}
at_end() {
    local code=$? pid place
    trap '' INT TERM HUP
    trap - EXIT
    for pid in "${stop_at_end[@]}" ${DAEMON:+"$DAEMON"}; do
        kill -KILL "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
    done
    for place in "${unmount_at_end[@]}"; do umount -l "$place" 2>/dev/null; done
    if sanitizer_reports >"$T/reports"; then
        fail "no sanitizer complains" "$T/reports"
    fi
    if [ $failures -gt 0 ] && [ -e "$LOG" ]; then
        echo "# the daemon's log ends with:"
        tail -n 30 "$LOG" | sed 's/^/# /'
    fi
    cd /
    rm -rf "$T"
    [ $failures = 0 ] || exit 1
    exit $code
}
trap at_end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
