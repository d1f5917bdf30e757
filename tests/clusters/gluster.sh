# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A private GlusterFS on one host, for tests: a glusterd on a loopback address of its own, and
# volumes of three replicas, all below $T/g. To be sourced by bash after lib.sh, whose
# at_end() it extends; knows no test. Needs root: bricks have trusted.* attributes.

G=$T/g
# glusterd listens on a fixed port, and its tools refuse 127.0.0.1.
GHOST=127.$((RANDOM % 200 + 10)).$((RANDOM % 250 + 1)).$((RANDOM % 250 + 1))
GLUSTERD=                           # its pid
# What glfs_fini() leaves behind is not ours.
printf 'leak:%s\n' libglusterfs libgfapi libgfrpc /glusterfs/ >"$T/leaks"
export LSAN_OPTIONS=suppressions=$T/leaks:print_suppressions=0

gluster_cli() { timeout 60 gluster --mode=script --glusterd-sock="$G/run/gd.sock" \
    --log-file="$G/log/cli.log" "$@"; }

glusterd_start() {
    mkdir -p "$G"/{work,run,log/bricks}
    cat >"$G/glusterd.vol" <<EOV
volume management
    type mgmt/glusterd
    option working-directory $G/work
    option run-directory $G/run
    option logging-directory $G/log
    option glusterd-sockfile $G/run/gd.sock
    option transport-type socket
    option transport.address-family inet
    option transport.socket.bind-address $GHOST
    option transport.socket.listen-port 24007
    option transport.socket.read-fail-log off
    option rpc-auth-allow-insecure on
    option ping-timeout 0
    option event-threads 1
end-volume
EOV
    glusterd -N -f "$G/glusterd.vol" -p "$G/run/glusterd.pid" -l "$G/log/glusterd.log" \
        >"$G/log/glusterd.out" 2>&1 </dev/null &
    GLUSTERD=$!
    stop_at_end+=($GLUSTERD)
    await 30 gluster_cli volume list
}

# The volume's bricks are $G/NAME-0 ... $G/NAME-2.
volume_make() { # NAME [KEY VALUE]...
    local name=$1
    shift
    mkdir -p "$G/$name"-{0,1,2} &&
        gluster_cli volume create "$name" replica 3 "$GHOST:$G/$name"-{0,1,2} force &&
        gluster_cli volume set "$name" network.ping-timeout 5 "$@" &&
        gluster_cli volume start "$name" && await 30 volume_is_up "$name"
}
volume_is_up() { # NAME: all bricks, and the self-heal daemon
    gluster_cli volume status "$1" --xml | "$PYTHON" -c '
import sys, xml.etree.ElementTree as tree
nodes = [n for n in tree.parse(sys.stdin).iter("node") if n.find("node") is None]
up = [n for n in nodes if n.findtext("status") == "1"]
sys.exit(not (len(nodes) >= 4 and len(up) == len(nodes)))'
}
volume_revive() { # NAME: start the bricks that died
    local file pid
    # glusterd takes a zombie, which a container may keep for long, for a brick that runs.
    for file in "$G/run/vols/$1"/*.pid; do
        pid=$(cat "$file" 2>/dev/null)
        [ -n "$pid" ] && [ -n "$(tr -d '\0' 2>/dev/null </proc/"$pid"/cmdline)" ] || rm -f "$file"
    done
    gluster_cli volume start "$1" force >/dev/null && await 60 volume_is_up "$1"
}

brick_pid() { # VOLUME NUMBER
    cat "$G/run/vols/$1"/*"-$1-$2.pid"
}
brick_signal() { # SIGNAL VOLUME NUMBER...
    local signal=$1 volume=$2 n
    shift 2
    for n; do kill "-$signal" "$(brick_pid "$volume" "$n")" || return; done
}

bricks_are_dead() { # VOLUME NUMBER...: a zombie has no command line
    local volume=$1 n
    shift
    for n; do
        [ -z "$(tr -d '\0' 2>/dev/null <"/proc/$(brick_pid "$volume" "$n")/cmdline")" ] || return
    done
}

entries_to_heal() { # VOLUME: their number, or nothing while it is not known
    gluster_cli volume heal "$1" statistics heal-count 2>/dev/null | awk '
        /^Brick / { bricks++ }
        /^Number of entries:/ { known++; sum += $4 }
        END { if (bricks > 0 && bricks == known) print sum }'
}
is_healed() { # VOLUME
    [ "$(entries_to_heal "$1")" = 0 ] && return
    gluster_cli volume heal "$1" >/dev/null 2>&1
    sleep 0.5
    return 1
}

# Bricks and the self-heal daemon leave glusterd's process group; each has a pid file. Their
# sockets lie in a directory that is compiled in.
gluster_stop() {
    local file pid words socket
    if [ -n "$GLUSTERD" ]; then
        kill -KILL "$GLUSTERD"
        wait "$GLUSTERD"
        GLUSTERD=
    fi 2>/dev/null
    while read -r file; do
        pid=$(tr -cd 0-9 <"$file")
        [ -n "$pid" ] || continue
        words=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || continue
        case $words in *"$G/"*) ;; *) continue ;; esac
        kill -KILL "$pid" 2>/dev/null
        socket=$(sed -n 's/.* -S \([^ ]*\.socket\) .*/\1/p' <<<"$words")
        case $socket in /*/gluster/*.socket) rm -f "$socket" ;; esac
    done < <(find "$G/run" -name '*.pid' 2>/dev/null)
}
trap 'code=$?; gluster_stop; (exit $code); at_end' EXIT
clean_up_after_death gluster_stop
