#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A real Ceph cluster of one monitor and some OSDs, for tests: all of it lies in one directory,
# listens on 127.0.0.1 only and is stopped by the pids that it wrote there. No manager: images
# need none. The OSDs are bluestores on sparse files and survive SIGKILL.
#
#   ceph.sh up DIR [OSDS]         make a cluster (3 OSDs) with a pool "rbd", and wait for it
#   ceph.sh signal DIR SIG NAME.. send SIG to osd.0, osd.1, ..., mon.a
#   ceph.sh revive DIR            start the daemons that are dead, and wait until I/O is served
#   ceph.sh down DIR              stop everything and remove DIR
#
# DIR must be short (Unix sockets lie in it). Clients take CEPH_CONF=DIR/ceph.conf.
# Exits with 77 when Ceph is not installed.
set -u
export LC_ALL=C.UTF-8
OSD_GIB=4
WAIT_S=60

say() { echo "ceph.sh: $*" >&2; }
die() {
    say "$1"
    [ $# -lt 2 ] || tail -n 15 "${@:2}" >&2
    exit 1
}
usage() {
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}
until_ok() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}
admin() { timeout 20 ceph -c "$conf" --connect-timeout 15 "$@"; }

# ---- daemons ----
# Their command lines hold the path of the configuration, so a pid that another process has got
# meanwhile is not taken for one of them.
pid_of() { # NAME
    local pid
    pid=$(cat "$dir/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$conf" && echo "$pid"
}
is_dead() { ! pid_of "$1" >/dev/null; }
launch() { # NAME
    is_dead "$1" || return 0
    setsid "ceph-${1%%.*}" -i "${1#*.}" -c "$conf" -f </dev/null >>"$dir/log/$1.out" 2>&1 &
    echo $! >"$dir/$1.pid"
}
osds() { (cd "$dir" && printf '%s\n' osd.*/ | tr -d /); }
counts_as_up() { # OSD: the monitor knows this very process, whose number is in its address
    local pid
    pid=$(pid_of "$1") && admin osd dump 2>/dev/null | grep -q "^$1 up .*/${pid}[],]"
}
await_osds() {
    local osd
    for osd in $(osds); do
        until_ok $WAIT_S counts_as_up "$osd" || die "$osd does not come up" "$dir/log/$osd.log"
    done
}
await_pool() { # a listing asks each placement group
    timeout $WAIT_S rados -c "$conf" -p rbd ls >/dev/null 2>&1 ||
        die "the pool does not serve requests" "$dir"/log/osd.*.log
}

# ---- making one ----
free_ports() { # prints a port that is free, as is the next one
    local port
    for ((port = 21000 + $$ % 5000 * 2; port < 32766; port += 2)); do
        ss -Htan "( sport = :$port or sport = :$((port + 1)) )" | grep -q . || break
    done
    echo $port
}
write_conf() { # OSDS
    local port copies=$(($1 < 3 ? $1 : 3))
    port=$(free_ports)
    address="[v2:127.0.0.1:$port/0,v1:127.0.0.1:$((port + 1))/0]"
    cat >"$conf" <<END
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_host = $address
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_allow_insecure_global_id_reclaim = false
run_dir = $dir
crash_dir = $dir/crash
log_file = $dir/log/\$name.log
osd_pool_default_size = $copies
osd_pool_default_min_size = $(((copies + 1) / 2))
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_heartbeat_interval = 2
osd_heartbeat_grace = 8
[mon]
keyring = $dir/keyring
mon_data = $dir/mon
mon_initial_members = a
admin_socket = $dir/\$name.asok
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_data_avail_warn = 2
mon_data_avail_crit = 1
mon_osd_reporter_subtree_level = osd
mon_osd_adjust_heartbeat_grace = false
mon_osd_down_out_interval = 86400
paxos_propose_interval = 0.1
[osd]
keyring = $dir/osd.\$id/keyring
osd_data = $dir/osd.\$id
osd_objectstore = bluestore
admin_socket = $dir/\$name.asok
bluestore_block_size = $((OSD_GIB << 30))
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
[client]
keyring = $dir/keyring
log_file =
END
}
make_keys() {
    ceph-authtool -C "$dir/keyring" --gen-key -n mon. --cap mon 'allow *' &&
        ceph-authtool "$dir/keyring" --gen-key -n client.admin --cap mon 'allow *' \
            --cap osd 'allow *' --cap mgr 'allow *' &&
        ceph-authtool -C "$dir/nbd.keyring" --gen-key -n client.nbd --cap mon 'profile rbd' \
            --cap osd 'profile rbd'
}
make_mon() {
    local fsid
    fsid=$(sed -n 's/^fsid = //p' "$conf")
    make_keys &&
        monmaptool --create --clobber --fsid "$fsid" --addv a "${address//\/0/}" \
            "$dir/monmap" &&
        ceph-mon -i a -c "$conf" --mkfs --monmap "$dir/monmap" --keyring "$dir/keyring"
}
make_osd() { # NUMBER
    local uuid key
    uuid=$(cat /proc/sys/kernel/random/uuid)
    mkdir -p "$dir/osd.$1"
    key=$(ceph-authtool --gen-print-key) &&
        admin osd new "$uuid" "$1" -i - <<<"{\"cephx_secret\":\"$key\"}" &&
        ceph-authtool -C "$dir/osd.$1/keyring" -n "osd.$1" --add-key "$key" &&
        ceph-osd -i "$1" -c "$conf" --mkfs --osd-uuid "$uuid"
}
up() { # OSDS
    local i tool
    for tool in ceph ceph-mon ceph-osd rbd rados ceph-authtool monmaptool ss; do
        command -v "$tool" >/dev/null || { echo "skip: $tool is not installed"; exit 77; }
    done
    [ ! -e "$conf" ] || die "$dir holds a cluster already"
    mkdir -p "$dir/log" "$dir/crash" "$dir/mon" || die "$dir cannot be made"
    write_conf "$1"
    make_mon >"$dir/log/make" 2>&1 || die "the monitor cannot be made" "$dir/log/make"
    launch mon.a
    admin auth import -i "$dir/nbd.keyring" >>"$dir/log/make" 2>&1 ||
        die "the monitor does not answer" "$dir/log/make" "$dir/log/mon.a.log"
    for ((i = 0; i < $1; i++)); do
        make_osd $i >>"$dir/log/make" 2>&1 || die "osd.$i cannot be made" "$dir/log/make"
        launch osd.$i
    done
    await_osds
    {
        admin osd pool create rbd 8 8 replicated && timeout $WAIT_S rbd -c "$conf" pool init rbd
    } >>"$dir/log/make" 2>&1 || die "the pool cannot be made" "$dir/log/make"
}

# ---- faults, and the end ----
signal() { # SIG NAME...
    local name pid sig=$1
    shift
    for name; do
        pid=$(pid_of "$name") || die "$name is not running"
        kill "-$sig" "$pid"
        [ "$sig" != KILL ] || until_ok 10 is_dead "$name" || die "$name does not die"
    done
}
revive() {
    local name
    for name in mon.a $(osds); do launch "$name"; done
    await_osds
    await_pool
}
down() {
    local file pid
    [ -e "$conf" ] || return 0
    for file in "$dir"/*.pid; do
        pid=$(pid_of "$(basename "$file" .pid)") && kill -KILL "$pid"
    done
    for file in "$dir"/*.pid; do
        until_ok 10 is_dead "$(basename "$file" .pid)" || die "$file names one that does not die"
    done
    rm -rf "$dir"
}

[ $# -ge 2 ] || usage
dir=$2 conf=$2/ceph.conf
case $dir in /*) ;; *) die "the directory '$dir' is no absolute path" ;; esac
case $1 in
up) up "${3:-3}" ;;
signal) [ $# -ge 4 ] || usage; signal "${@:3}" ;;
revive) revive ;;
down) down ;;
*) usage ;;
esac
