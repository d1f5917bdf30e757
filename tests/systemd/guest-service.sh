#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Runs as root inside a Debian with systemd in which our packages were just installed and which
# was then booted: see test-service.sh. What a service has to do, in the hands of a real systemd.
export LC_ALL=C.UTF-8
T=$(mktemp -d)
failures=0
pass() { echo "ok $1"; }
fail() { # NAME FILE-WITH-DETAILS
    failures=$((failures + 1))
    echo "not ok $1"
    tail -n 15 "$2" | sed 's/^/# /'
}
check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@" >"$T/out" 2>&1; then pass "$name"; else
        echo "status $?: $*" >>"$T/out"
        fail "$name" "$T/out"
    fi
}
same() { # NAME WANTED FOUND
    [ "$2" = "$3" ] && { pass "$1"; return; }
    printf "wanted '%s'\nfound '%s'\n" "$2" "$3" >"$T/out"
    fail "$1" "$T/out"
}
await() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}
show() { systemctl show -p "$1" --value "${2-nbd-runner}"; }
pid() { show MainPID; }
is_active() { [ "$(systemctl is-active "${1-nbd-runner}")" = active ]; }
# OLD-PID: another process is ready. Asked at once: the state may change between two questions.
is_restarted() {
    local MainPID ActiveState
    eval "$(systemctl show -p MainPID -p ActiveState nbd-runner)"
    [ "$ActiveState" = active ] && [ "$MainPID" != "$1" ] && [ "$MainPID" != 0 ]
}
names() { nbd-cli --json export list | sed -n 's/^ *"name": *"\(.*\)",*$/\1/p' | sort | tr '\n' ' '; }
journal_says() { journalctl --sync; journalctl -q -u nbd-runner -o cat | grep -qF -- "$1"; }
uri=nbd://localhost:24111/file/disk1

# ---- as README.md has it ----
check "it was enabled by the package and runs after the boot" await 60 is_active
same "systemd waits for its word" notify "$(show Type)"
same "... which came, with a status" "serving 0 exports" "$(show StatusText)"
check "make a disk" nbd-cli file create disk1 size 1G
check "a client finds it" nbdinfo "$uri"
head -c 3000000 /dev/urandom >"$T/data"
truncate -s 1G "$T/data"
check "a client writes it" nbdcopy "$T/data" "$uri"
echo changed | dd of="$T/data" seek=700000 bs=1 conv=notrunc status=none
check "nbd-cli writes to it" bash -c 'echo changed | nbd-cli write file/disk1 from 700000 size 8 flush'
check "a client reads it" nbdcopy --flush "$uri" "$T/copy"
check "... and finds what was written" cmp "$T/data" "$T/copy"
rm -f "$T/copy" "$T/data"

# ---- who it is, and what it may do ----
same "it runs as nbd-runner" nbd-runner "$(stat -c %U "/proc/$(pid)")"
same "... without capabilities" "0000000000000000" \
    "$(sed -n 's/^CapEff:\t//p' "/proc/$(pid)/status")"
same "... with a filter of system calls" 2 "$(sed -n 's/^Seccomp:\t//p' "/proc/$(pid)/status")"
same "its image belongs to it alone" "nbd-runner 600" "$(stat -c '%U %a' /var/lib/nbd-runner/images/disk1)"
same "its state, too" "nbd-runner 600" "$(stat -c '%U %a' /etc/nbd-runner/saveconfig.json)"
check "it cannot write what root has put beside it" bash -c \
    '! setpriv --reuid nbd-runner --regid nbd-runner --clear-groups bash -c "rm -f /etc/nbd-runner/nbd-runner.conf || echo >>/etc/nbd-runner/nbd-runner.conf"'
same "the pid file has its pid" "$(pid)" "$(cat /run/nbd-runner.pid)"
/usr/sbin/nbd-runner >"$T/second" 2>&1
same "a second one ends with 4" 4 $?
check "... and names the first" grep -qF "pid $(pid)" "$T/second"
check "the journal has it" journal_says "nbd-runner $(nbd-runner version | sed -n 's/nbd-runner //p' | head -n 1) is ready"
check "... with a priority and a name" bash -c \
    'journalctl -q -u nbd-runner -p info -o json | grep -q "\"SYSLOG_IDENTIFIER\":\"nbd-runner\""'
has_field() { # FIELD=VALUE: some line of the daemon has it
    journalctl --sync
    journalctl -q -u nbd-runner "$1" -o cat | grep -q .
}
check "lines name their export in a field" has_field EXPORT=file/disk1
has_client() {
    journalctl -q -u nbd-runner EXPORT=file/disk1 -o json | grep -q '"CLIENT":"'
}
check "and their client" has_client

# ---- reload ----
if nbd-cli reload help >/dev/null 2>&1; then
    before=$(pid)
    truncate -s 8M /var/lib/nbd-runner/images/by-file
    chown nbd-runner: /var/lib/nbd-runner/images/by-file
    printf '[by-file]\nexportname = /var/lib/nbd-runner/images/by-file\n' >/etc/nbd-runner/conf.d/by-file.conf
    check "reload succeeds" systemctl reload nbd-runner
    same "a new file adds an export" "by-file file/disk1 " "$(names)"
    same "the process is the same" "$before" "$(pid)"
    check "systemd saw it reload and be ready again" bash -c \
        '[ "$(systemctl show -p StatusText --value nbd-runner)" = "serving 2 exports" ]'
    echo "not a configuration" >/etc/nbd-runner/conf.d/broken.conf
    check "with a broken file nbd-cli reload ends with 1" bash -c 'nbd-cli reload; [ $? = 1 ]'
    check "... and so systemctl fails" bash -c '! systemctl reload nbd-runner'
    check "... the service runs on" is_active
    same "... with the same exports" "by-file file/disk1 " "$(names)"
    check "... and the journal names the file" journal_says broken.conf
    rm /etc/nbd-runner/conf.d/*.conf
    kill -HUP "$(cat /run/nbd-runner.pid)"
    only_disk1() { [ "$(names)" = "file/disk1 " ]; }
    check "SIGHUP to the pid of the pid file reloads as well" await 20 only_disk1
fi

# ---- crash and hang ----
mkdir -p /etc/systemd/system/nbd-runner.service.d
printf '[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=100ms\nWatchdogSec=4\nTimeoutAbortSec=1\n' \
    >/etc/systemd/system/nbd-runner.service.d/test.conf
systemctl daemon-reload
before=$(pid)
check "restart" systemctl restart nbd-runner
check "... is another process" is_restarted "$before"
same "... with the same exports" "file/disk1 " "$(names)"
before=$(pid)
kill -KILL "$before"
check "after kill -9 systemd starts it again" await 60 is_restarted "$before"
same "... with the same exports" "file/disk1 " "$(names)"
same "... and the pid file follows" "$(pid)" "$(cat /run/nbd-runner.pid)"
sleep 6 # longer than WatchdogSec
same "a daemon that lives is left alone by the watchdog" 1 "$(show NRestarts)"
before=$(pid)
kill -STOP "$before"
check "one that stands still is ended by the watchdog and started again" await 90 is_restarted "$before"
check "... for that reason" journal_says "Watchdog timeout"
check "... and serves" nbdinfo "$uri"

# ---- a client is attached: a kernel's device ----
check "the monitor of devices runs" is_active nbd-monitor
check "nbd-cli maps the disk" nbd-cli file map disk1 nbd0
udevadm settle
is_watched() { ls -l /run/udev/watch | grep -q "$1"; } # b43:0: major and minor number
check "udev does not watch the device" bash -c '! ls -l /run/udev/watch | grep -q b43:0'
head -c 1M /dev/urandom >"$T/block"
check "the device is written" dd if="$T/block" of=/dev/nbd0 bs=64k oflag=direct status=none
start=$SECONDS
check "with a client attached it stops" systemctl stop nbd-runner
check "... within the unit's limit" test $((SECONDS - start)) -lt 30
same "... in order" "success 0 inactive" "$(show Result) $(show ExecMainStatus) $(show ActiveState)"
check "... and the pid file is gone" test ! -e /run/nbd-runner.pid
check "start" systemctl start nbd-runner
live() { nbd-cli file list live | grep -q nbd0; }
check "the monitor, a service as well, brings the device back" await 60 live
check "... and leaves nothing for nbd-cli restore" nbd-cli restore
check "the device has what was written" cmp -n 1048576 "$T/block" /dev/nbd0
check "nbd-cli unmaps it" nbd-cli file unmap nbd0

# ---- devices that are mapped at boot ----
has_device() { [ -e /sys/block/nbd1/pid ]; }
check "a mapping is kept" nbd-cli file map disk1 nbd1 persist
check "the service of kept mappings starts" systemctl start nbd-map
check "... and stops" systemctl stop nbd-map
check "... which unmaps" bash -c '[ ! -e /sys/block/nbd1/pid ]'
systemctl stop nbd-runner
systemctl start --no-block nbd-map
sleep 2 # that is: it has tried, and tries again
check "while the daemon is not there it waits" bash -c '[ "$(systemctl is-active nbd-map)" = activating ]'
check "the daemon comes" systemctl start nbd-runner
check "the device comes with it" await 60 has_device
check "... and has what was written" cmp -n 1048576 "$T/block" /dev/nbd1
check "so the service is up" await 20 is_active nbd-map
check "nbd-cli unmaps and forgets it" nbd-cli file unmap disk1 forget
check "no line is left" bash -c '! grep -q disk1 /etc/nbd-runner/nbdtab'
systemctl stop nbd-map

# ---- block devices, as the example says ----
truncate -s 16M "$T/backing"
modprobe loop
loop=$(losetup -f --show "$T/backing")
check "udev watches other devices" await 20 is_watched "b7:${loop#/dev/loop}"
printf '[generic]\nfile_roots = /var/lib/nbd-runner/images, /dev\n' >/etc/nbd-runner/nbd-runner.conf
systemctl restart nbd-runner
nbd-cli export add file "$loop" name block >"$T/out" 2>&1
nbdinfo nbd://localhost:24111/block >>"$T/out" 2>&1
same "a block device is closed to it" 1 $?
nbd-cli export remove block >/dev/null 2>&1
cp /usr/share/doc/nbd-runner/examples/block-devices.conf /etc/systemd/system/nbd-runner.service.d/
systemctl daemon-reload
check "with the example for block devices it starts" systemctl restart nbd-runner
nbd-cli export add file "$loop" name block >"$T/out" 2>&1
check "a block device is served then" nbdcopy "$T/block" nbd://localhost:24111/block
check "... and written" cmp -n 1048576 "$T/block" "$loop"
nbd-cli export remove block >/dev/null 2>&1
losetup -d "$loop"
rm /etc/systemd/system/nbd-runner.service.d/block-devices.conf
echo "[generic]" >/etc/nbd-runner/nbd-runner.conf

# ---- sockets ----
systemctl daemon-reload
systemctl stop nbd-runner
check "systemd opens the ports" systemctl enable --now nbd-runner.socket
same "the service does not run yet" inactive "$(systemctl is-active nbd-runner)"
check "the first client starts it" nbdinfo "$uri"
check "... so that it runs" is_active
same "the control socket is its own" "nbd-runner 660" "$(stat -c '%U %a' /run/nbd-runner/control.sock)"
same "the NBD socket is open to all" 666 "$(stat -c %a /run/nbd-runner/nbd.sock)"
check "nbd-cli finds it" nbd-cli status
before=$(pid)
check "restart" systemctl restart nbd-runner
check "... with the same sockets: nobody was refused" nbdinfo "nbd+unix:///file/disk1?socket=/run/nbd-runner/nbd.sock"
check "stop all" systemctl stop nbd-runner.socket nbd-runner-unix.socket nbd-runner-control.socket \
    nbd-runner-control-unix.socket nbd-runner
same "nothing has failed" "" "$(systemctl --failed --plain --no-legend)"

[ $failures = 0 ]
