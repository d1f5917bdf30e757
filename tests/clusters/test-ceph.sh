#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The ceph handler against a real cluster of three OSDs: images, snapshots, locks, extents, and
# what happens when OSDs die, hang, or the cluster shuts the daemon out. About two minutes.
. "$(dirname "$0")/lib.sh"
requires ceph ceph-osd ceph-mon rbd nbdinfo nbdcopy qemu-io qemu-img fio
requires_python nbd
[ -e "$HANDLERS/libceph_handler.so" ] || { echo "skip: the ceph handler is not built"; exit 77; }

need_ceph
rbdc() { timeout 30 rbd "$@"; }
io() { timeout 60 qemu-io -f raw "$(uri "$1")" "${@:2}"; } # EXPORT -c COMMAND...
copies() { # FILE EXPORT: the export begins with the file
    timeout 60 nbdcopy "$(uri "$2")" "$T/copy" && cmp -n "$(stat -c %s "$1")" "$1" "$T/copy"
}
lock_address() { rbdc lock ls "$1" --format json | json 'j[0]["address"]'; }
has_no_image() { ! rbdc info "$1" >/dev/null 2>&1; }

# ---- targets, options, refusals ----
need_daemon
check "an export without ceph, for comparison" cli file create local size 1M
same "create says so" "Create succeeded!" "$(cli ceph create rbd/a size 64M)"
same "the image has the size" 67108864 "$(rbdc info a --format json | json 'j["size"]')"
rbdc create other --size 64M
refuses "an image that exists is refused" 1 "exists already" cli ceph create rbd/other size 1M
refuses "an unknown pool is named" 1 "no pool 'nix'" cli ceph create nix/a size 1M
refuses "an unknown namespace is named" 1 "no namespace 'n1'" cli ceph create rbd/n1/a size 1M
refuses "an unknown image is named" 1 "no image 'b'" cli export add ceph rbd/b name b
refuses "an unknown snapshot is named" 1 "no snapshot 's'" cli export add ceph rbd/a@s name b readonly
refuses "a target without a pool is refused" 1 "POOL[/NAMESPACE]/IMAGE[@SNAP]" cli ceph create a size 1M
refuses "an empty part is refused" 1 "empty image name" cli ceph create rbd/@s size 1M
refuses "a snapshot is not made" 1 "is a snapshot" cli ceph create rbd/b@s size 1M
refuses "an unknown option is named" 1 "no option 'colour'" cli ceph create rbd/b size 1M opt colour=red
refuses "an unknown user is refused" 1 "client.nobody" cli ceph create rbd/b size 1M opt user=nobody
refuses "a configuration from elsewhere is refused" 1 "does not lie below" \
    cli ceph create rbd/b size 1M opt conf=/etc/passwd
refuses "object_size is checked" 1 "power of two" cli ceph create rbd/b size 1M opt object_size=5M
refuses "request_timeout is checked" 1 "seconds" cli ceph create rbd/b size 1M opt request_timeout=x
check "none of them left an image" has_no_image rbd/b
rbdc namespace create rbd/n1
check "user, keyring, object_size and a namespace" cli ceph create rbd/n1/o size 16M \
    opt conf="$C/ceph.conf" opt user=nbd opt keyring="$C/nbd.keyring" opt object_size=1M
same "the objects have the size" 20 "$(rbdc info rbd/n1/o --format json | json 'j["order"]')"
same "and are the preferred block" 1048576 "$(nbdinfo --json "$(uri ceph/rbd/n1/o)" |
    json 'j["exports"][0]["block_size_preferred"]')"
check "prealloc" cli ceph create rbd/full prealloc size 40M
same "it allocates" 40M "$(rbdc du full --format json | json 'str(j["images"][0]["used_size"] >> 20) + "M"')"
check "a long create starts" cli ceph create rbd/long prealloc size 8G nowait
job=$(cli --json job list | json '[k["id"] for k in j["jobs"] if k["export"] == "ceph/rbd/long"][0]')
check "and is canceled" cli job cancel "$job"
check "nothing is left of it" await 20 has_no_image rbd/long

# ---- data ----
head -c 40M /dev/urandom >"$T/data"
check "data is written" nbdcopy --flush "$T/data" "$(uri ceph/rbd/a)"
check "and read" copies "$T/data" ceph/rbd/a
check "zeroes and trims read back" io ceph/rbd/a -c 'write -P 5 48M 8M' -c 'write -z -u 49M 1000' \
    -c 'write -z 51M 12345' -c 'read -P 0 49M 1000' -c 'read -P 5 51392512 500' \
    -c 'read -P 0 51M 12345' -c 'discard 52M 4M' -c 'read -P 0 52M 4M' -c 'write -f -P 6 0 512'
extents=$(nbdinfo --map --json "$(uri ceph/rbd/a)")
same "extents tell data and holes" "0+41943040=0 41943040+8388608=3 50331648+4194304=0 54525952+12582912=3" \
    "$(json '" ".join("%d+%d=%d" % (e["offset"], e["length"], e["type"]) for e in j)' <<<"$extents")"
standard_clients ceph/rbd/a
nbdcopy --flush "$T/data" "$(uri ceph/rbd/a)"

check "an image grows" cli ceph resize rbd/n1/o size 24M
same "it has the size" 25165824 "$(rbdc info rbd/n1/o --format json | json 'j["size"]')"
check "the end is written" io ceph/rbd/n1/o -c 'write -P 8 20M 4M' -c 'read -P 8 20M 4M'
check "it shrinks when told so" cli ceph resize rbd/n1/o size 16M shrink
same "to that size" 16777216 "$(nbdinfo --size "$(uri ceph/rbd/n1/o)")"

# ---- snapshots ----
rbdc snap create a@s1 >/dev/null 2>&1
io ceph/rbd/a -c 'write -P 9 0 1M' >/dev/null
refuses "a snapshot is not written" 1 "read-only" cli export add ceph rbd/a@s1 name snap
check "a snapshot is exported" cli export add ceph rbd/a@s1 name snap readonly
check "it keeps what was there" copies "$T/data" snap
check "the image does not" io ceph/rbd/a -c 'read -P 9 0 1M'
cli export remove snap >/dev/null
refuses "an image with snapshots is not deleted" 1 "rbd snap purge rbd/a" cli ceph delete rbd/a
rbdc snap purge a >/dev/null 2>&1

# ---- others at the image ----
rbdc bench --io-type write --io-size 4096 --io-total 100G --io-threads 1 other >"$T/bench" 2>&1 &
bench=$!
stop_at_end+=($bench)
check "another writer has the lock" await 15 lock_address other
refuses "an image that is locked is not taken" 1 "is locked by 127.0.0.1" cli export add ceph rbd/other name other
check "but is read" cli export add ceph rbd/other name other readonly
check "the other one goes on" kill -0 $bench
refuses "nor is it deleted" 1 "in use" cli ceph delete rbd/other force
kill $bench
finish 20 $bench 2>/dev/null
cli export remove other >/dev/null

"$PYTHON" - "$(uri ceph/rbd/a)" "$T/connected" <<'END' &
import sys, time, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
open(sys.argv[2], "w").close()
time.sleep(1000)
END
client=$!
stop_at_end+=($client)
check "a client stays connected" await 10 test -e "$T/connected"
check "the image is locked by us" await 10 lock_address a
rbdc resize a --size 80M >/dev/null 2>&1
check "a change of size by others is noticed" await 10 is_logged "resized by somebody else"
kill_daemon
kill $client
finish 20 $client 2>/dev/null
need_daemon
start=$SECONDS
check "after kill -9 the export is there at once" io ceph/rbd/a -c 'write -P 9 0 1M'
check "without waiting for the old lock to end" test $((SECONDS - start)) -lt 10
same "with the new size" 83886080 "$(nbdinfo --size "$(uri ceph/rbd/a)")"

# ---- faults ----
beat_start file/local
before=$(written ceph/rbd/a)
timeout 120 nbdcopy --flush --requests=8 "$T/data" "$(uri ceph/rbd/a)" &
copy=$!
check "a client writes" await 20 has_written ceph/rbd/a "$before"
cluster signal KILL osd.1
check "the write survives the death of an OSD" finish 130 $copy
check "the OSD comes back" cluster revive
check "the data is right" copies "$T/data" ceph/rbd/a
head -c 40M /dev/urandom >"$T/data2"
# Small requests, so that it is not over before the OSDs stop.
before=$(written ceph/rbd/a)
timeout 120 nbdcopy --flush --requests=2 --request-size=8192 "$T/data2" "$(uri ceph/rbd/a)" &
copy=$!
check "a client writes again" await 20 has_written ceph/rbd/a "$before"
cluster signal STOP osd.0 osd.1 osd.2
check "while all OSDs hang the daemon answers" timeout 10 "$BUILDDIR/nbd-cli" --dir "$D" status
check "and serves others" timeout 10 nbdinfo --size "$(uri file/local)"
check "after half a minute the export is faulted" await 60 is_in_state ceph/rbd/a faulted
check "for a reason" bash -c 'grep -q "has not answered a request for .rbd/a." "$0"' "$LOG"
check "nothing has failed" kill -0 $copy
cluster signal CONT osd.0 osd.1 osd.2
check "the write ends when they go on" finish 130 $copy
check "the export is no longer faulted" await 30 is_in_state ceph/rbd/a ready
check "the data is right again" copies "$T/data2" ceph/rbd/a
beat_end "OSDs dead and stopped"

io ceph/rbd/a -c 'write -P 9 0 4k' >/dev/null
from=$(($(log_lines) + 1))
"$PYTHON" - "$(uri ceph/rbd/a)" "$T/phase" <<'END' >"$T/blocked" 2>&1 &
import os, sys, time, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.pwrite(b"x" * 4096, 0)
open(sys.argv[2], "w").close()
while os.path.exists(sys.argv[2]):
    time.sleep(0.05)
failed, end = False, time.time() + 50
while time.time() < end:
    try:
        h.pwrite(b"y" * 4096, 0)
        if failed:
            print("served again")
            break
    except nbd.Error as e:
        if not failed:
            print(e.errno)
        failed = True
        time.sleep(0.05)
END
client=$!
stop_at_end+=($client)
await 10 test -e "$T/phase"
timeout 20 ceph osd blocklist add "$(lock_address a)" >/dev/null 2>&1
rm "$T/phase"
# The OSDs hear of it a moment later: until then they take writes.
check "a blocklisted client gets answers" timeout 60 tail --pid=$client -f /dev/null
same "errors, until the image is open again" "EIO served again" "$(xargs <"$T/blocked")"
same "one line says why" 1 "$(tail -n +$from "$LOG" | grep -c 'has blocklisted')"
is_unlocked() { ! lock_address "$1"; }
check "some time after its last client it is closed" await 20 is_unlocked a
check "opened again it works" io ceph/rbd/a -c 'write -P 8 0 4k' -c 'read -P 8 0 4k'

check "an image with request_timeout" cli ceph create rbd/hasty size 8M opt request_timeout=3
"$PYTHON" - "$(uri ceph/rbd/hasty)" "$T/phase" <<'END' >"$T/hasty" 2>&1 &
import os, sys, time, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.pwrite(b"x" * 4096, 0)
open(sys.argv[2], "w").close()
while os.path.exists(sys.argv[2]):
    time.sleep(0.05)
start = time.time()
try:
    h.pwrite(b"y" * 4096, 4096)
    print("written")
except nbd.Error as e:
    print(e.errno, "in time" if 2 < time.time() - start < 8 else "late")
open(sys.argv[2], "w").close()
while os.path.exists(sys.argv[2]):
    time.sleep(0.05)
h.pwrite(b"z" * 4096, 4096)
print(h.pread(8192, 0) == b"x" * 4096 + b"z" * 4096)
END
client=$!
stop_at_end+=($client)
await 10 test -e "$T/phase"
cluster signal STOP osd.0 osd.1 osd.2
rm "$T/phase"
check "a request ends while OSDs hang" await 20 test -e "$T/phase"
cluster signal CONT osd.0 osd.1 osd.2
rm "$T/phase"
check "the client goes on" timeout 60 tail --pid=$client -f /dev/null
same "with an error once, then with data" "EIO in time True" "$(xargs <"$T/hasty")"

check "the daemon ends with 0" stop_daemon

# ---- no cluster, or one that hangs for good ----
rbdc create fresh --size 8M
cluster signal STOP mon.a
need_daemon
refuses "without a monitor an open fails" 1 "no monitor" cli export add ceph rbd/fresh name fresh
cluster signal CONT mon.a
refuses "a configuration that is not there is named" 1 "'$C/none.conf'" \
    cli export add ceph rbd/fresh name fresh opt conf="$C/none.conf"
check "an image for later" cli ceph create rbd/later size 8M
cluster signal STOP osd.0 osd.1 osd.2
refuses "an open is refused in the end" 1 "nbdinfo" timeout 40 nbdinfo --size "$(uri ceph/rbd/later)"
check "the daemon ends as well, with 0" stop_daemon
check "and says why it could not wait" await 10 is_logged "did not answer in 20 seconds"
cluster signal CONT osd.0 osd.1 osd.2
