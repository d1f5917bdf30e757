#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The gluster handler on a real volume of three replicas: what clients write is there, while
# bricks die, stop and come back; what hangs holds up nobody else.
. "$(dirname "$0")/lib.sh"
. "$CLUSTERS/gluster.sh"
requires glusterd gluster nbdcopy nbdinfo qemu-io qemu-img fio
requires_python nbd
requires_root
[ -e "$HANDLERS/libgluster_handler.so" ] || { echo "skip: the gluster handler is not built"; exit 77; }

glusterd_start || { fail "glusterd starts" "$G/log/glusterd.log"; exit 1; }
for volume in vol other; do
    volume_make $volume >"$T/out" 2>&1 || { fail "volume $volume starts" "$T/out"; exit 1; }
done
need_daemon --ghost "$GHOST"
cli file create local size 1M >/dev/null    # what must go on, whatever the volumes do
MiB=1048576

# Writes blocks of 64 KiB, one after the other and again and again, flushes now and then, and
# remembers what it wrote: FILE is what the disk must hold. It ends when STOP exists and prints
# the number of writes, then of errors.
write_for_long() { # URI FILE STOP
    "$PYTHON" - "$@" <<'EOP'
import os, sys, nbd
uri, path, stop = sys.argv[1:]
h = nbd.NBD()
h.connect_uri(uri)
size, block = h.get_size(), 65536
image, n, errors = bytearray(size), 0, 0
while not os.path.exists(stop) or n < size // block:
    at = n * block % size
    data = os.urandom(64) * (block // 64)
    try:
        h.pwrite(data, at, nbd.CMD_FLAG_FUA if n % 7 == 3 else 0)
        image[at:at + block] = data
        if n % 16 == 15:
            h.flush()
    except nbd.Error as error:
        print(error, file=sys.stderr)
        errors += 1
    n += 1
h.flush()
h.shutdown()
open(path, "wb").write(image)
print(n, errors)
EOP
}
holds() { # NAME EXPORT FILE
    rm -f "$T/back"
    check "$1" bash -c 'timeout 120 nbdcopy "$0" "$1" && cmp "$1" "$2"' "$(uri "$2")" "$T/back" "$3"
}
replicas_agree() { # VOLUME FILE
    [ "$(sha256sum "$G/$1"-{0,1,2}/"$2" | cut -d' ' -f1 | sort -u | wc -l)" = 1 ]
}

# ---- targets and options ----
refuses "an empty part is refused" 1 "empty part" cli gluster create vol/a//b size 1M
refuses "a slash at the end is refused" 1 "empty part" cli gluster create vol/a/ size 1M
refuses "'..' is refused" 1 "without" cli gluster create vol/a/../b size 1M name x
refuses "a volume alone is refused" 1 "no file" cli gluster create vol size 1M
refuses "a strange volume name is refused" 1 "no name of a gluster volume" \
    cli gluster create 'v*l/a' size 1M
refuses "an unknown volume is refused" 1 "has no volume 'nosuch'" cli gluster create nosuch/a size 1M
refuses "a missing directory is refused" 1 "no directory 'no/such'" \
    cli gluster create vol/no/such/a size 1M
refuses "a host without glusterd is refused" 1 "no glusterd answers on host '127.0.0.77'" \
    cli gluster create vol/a size 1M opt host=127.0.0.77
refuses "an unknown option is refused" 1 "has no option 'colour'" \
    cli gluster create vol/a size 1M opt colour=red
refuses "a log file at a client's wish is refused" 1 "log_file is for exports in the config" \
    cli gluster create vol/a size 1M opt log_file=/tmp/x
refuses "a bad time is refused" 1 "request_timeout is a number" \
    cli gluster create vol/a size 1M opt request_timeout=soon
same "nothing was made" file/local "$(export_names)$(ls "$G/vol-0")"

# ---- making and removing ----
same "create says so" "Create succeeded!" "$(cli gluster create vol/disk size 64M)"
same "leading slashes of the path are dropped" "Create succeeded!" \
    "$(cli gluster create vol///two size 1M name two)"
same "the files have their sizes" "$((64 * MiB)) $MiB" \
    "$(stat -c %s "$G/vol-1/disk" "$G/vol-1/two" | tr '\n' ' ' | sed 's/ $//')"
check "create with prealloc" cli gluster create vol/full prealloc size 20M
same "prealloc allocates on each brick" 1 \
    $(($(stat -c '%b * %B >= 20971520 &&' "$G/vol"-{0,1,2}/full | tr '\n' ' ') 1))
refuses "more prealloc than there is space is refused" 1 "no space" \
    cli gluster create vol/huge prealloc size 900T
check "nothing is left of it" test ! -e "$G/vol-0/huge"
echo precious >"$T/precious"
check "a file of others" cp "$T/precious" "$G/vol-0/full.txt"
refuses "the same target again is refused" 1 "already" cli gluster create vol/disk size 1M
cli export remove gluster/vol/full >/dev/null
refuses "a file that exists is not made anew" 1 "'vol/full' exists already" \
    cli gluster create vol/full size 1M
check "but exported" cli export add gluster vol/full name gluster/vol/full
check "the list shows it" bash -c '"$0" --dir "$1" gluster list | grep -q "vol/disk .*64M"' \
    "$BUILDDIR/nbd-cli" "$D"
same "delete says so" "Delete succeeded!" "$(cli gluster delete vol/full)"
check "the file is gone" test ! -e "$G/vol-0/full" -a ! -e "$G/vol-2/full"
same "a delete that is repeated finds nothing to do" "Delete succeeded!" \
    "$(cli gluster delete vol/full)"

# ---- bytes ----
disk=$(uri gluster/vol/disk)
head -c 64M /dev/urandom >"$T/data"
check "data is written" nbdcopy "$T/data" "$disk"
holds "and read" gluster/vol/disk "$T/data"
check "parts of blocks, zeroes, holes and FUA" qemu-io -f raw -c 'write -P 0x55 4097 300001' \
    -c 'write -z 5000 10000' -c 'write -z -u 30001 70000' -c 'discard 200000 50000' \
    -c 'write -f -P 0x66 299000 100' -c flush -c 'read -P 0x55 4097 903' -c 'read -P 0 5000 10000' \
    -c 'read -P 0x55 15000 15001' -c 'read -P 0 30001 70000' -c 'read -P 0x55 100001 99999' \
    -c 'read -P 0 200000 50000' -c 'read -P 0x55 250000 49000' -c 'read -P 0x66 299000 100' \
    -c 'read -P 0x55 299100 4998' "$disk"
check "zeroes over all" qemu-io -f raw -c 'write -z -u 0 64M' -c 'read -P 0 0 64M' "$disk"
check "free the blocks" test "$(stat -c %b "$G/vol-0/disk")" -lt 2000
check "one write in the middle" qemu-io -f raw -c 'write -P 1 32M 64k' "$disk"
same "holes are told" "33554432 3 65536 0 33488896 3" \
    "$(nbdinfo --json --map "$disk" | json '" ".join("%d %d" % (e["length"], e["type"]) for e in j)')"
"$PYTHON" - "$disk" >"$T/out" 2>&1 <<'EOP'
import os, random, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
random.seed(1)
size = 4 << 20
model = bytearray(size)
h.zero(size, 0)
flags = [0, nbd.CMD_FLAG_FUA]
for i in range(1500):
    at = random.randrange(size)
    n = random.randint(1, min(size - at, random.choice([1, 512, 5000, 200000])))
    what = random.randrange(6)
    if what < 3:
        data = os.urandom(n)
        h.pwrite(data, at, random.choice(flags))
        model[at:at + n] = data
    elif what == 3:
        h.zero(n, at, random.choice(flags + [nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO]))
        model[at:at + n] = bytes(n)
    elif what == 4:
        h.trim(n, at, random.choice(flags))
        assert h.pread(n, at) in (bytes(n), bytes(model[at:at + n])), "trim"
        model[at:at + n] = h.pread(n, at)
    else:
        assert h.pread(n, at) == model[at:at + n], i
assert h.pread(size, 0) == model
EOP
same "1500 random commands leave what they should" 0 $?

check "an export of 1 MiB" cli gluster create vol/grow size 1M name grow
check "is used" qemu-io -f raw -c "read 0 512" "$(uri grow)"
check "it grows" cli gluster resize vol/grow size 3M
same "the file has the size" $((3 * MiB)) "$(stat -c %s "$G/vol-2/grow")"
same "and new clients see it" $((3 * MiB)) "$(nbdinfo --size "$(uri grow)")"
check "the end is written" qemu-io -f raw -c 'write -P 8 2M 1M' -c 'read -P 8 2M 1M' "$(uri grow)"
check "it shrinks when told so" cli gluster resize vol/grow size 1M shrink

check "an export with durable=true" cli gluster create vol/safe size 1M name safe opt durable=true
check "is written and read" qemu-io -f raw -c 'write -P 9 0 1M' -c 'write -z 0 4k' -c flush \
    -c 'read -P 0 0 4k' -c 'read -P 9 4k 1020k' "$(uri safe)"
cli export remove safe >/dev/null
check "a read-only export" cli export add gluster vol/safe name fixed readonly
check "is read" qemu-io -r -f raw -c 'read -P 9 4k 1020k' "$(uri fixed)"
refuses "and not written" 1 "" qemu-io -f raw -c 'write 0 4k' "$(uri fixed)"

standard_clients gluster/vol/disk

# ---- bricks that die and stop ----
beat_start file/local
run_writer() { # runs in the background; its output goes to $T/writer
    rm -f "$T/stop"
    write_for_long "$(uri "$1")" "$T/image" "$T/stop" >"$T/writer" 2>"$T/writer.err" &
    writer=$!
    stop_at_end+=($writer)
    check "a client writes" goes_on "$1"
}
end_writer() { # NAME
    touch "$T/stop"
    check "$1: the client ends" await 120 is_gone $writer
    read -r writes errors <"$T/writer" || writes=0 errors=all
    same "$1: no request fails" 0 "$errors"
    [ "$errors" = 0 ] || sed 's/^/# /' "$T/writer.err" | head -n 5
}
run_writer gluster/vol/disk
check "one brick dies under it" brick_signal KILL vol 1
check "it goes on" goes_on gluster/vol/disk
end_writer "one brick dead"
holds "the disk holds what was written without the brick" gluster/vol/disk "$T/image"
check "the brick comes back" volume_revive vol
check "and heals" await 120 is_healed vol
check "all replicas are equal" replicas_agree vol disk
holds "and right" gluster/vol/disk "$T/image"

run_writer gluster/vol/disk
brick_signal STOP vol 0 1 2
check "after the ping timeout requests wait" await 40 is_logged "its requests wait for"
check "the export is faulted" await 10 is_in_state gluster/vol/disk faulted
check "and says why" bash -c '"$0" --dir "$1" export show gluster/vol/disk | grep -q "bricks of volume"' \
    "$BUILDDIR/nbd-cli" "$D"
brick_signal CONT vol 0 1 2
end_writer "all bricks stopped for a while"
check "it says so" await 10 is_logged "is back; the requests that waited go on"
check "the export is no longer faulted" await 10 is_in_state gluster/vol/disk ready
holds "the disk holds what was written" gluster/vol/disk "$T/image"
check "it heals" await 120 is_healed vol
check "all replicas are equal" replicas_agree vol disk

run_writer gluster/vol/disk
brick_signal KILL vol 0 2
sleep 2 # they stay away for a while
check "two bricks die and come back" volume_revive vol
end_writer "two of three bricks dead for a while"
holds "the disk holds what was written" gluster/vol/disk "$T/image"
check "it heals" await 120 is_healed vol
check "all replicas are equal" replicas_agree vol disk
beat_end "bricks dead and stopped"

# ---- an impatient export ----
check "an export with a short time limit" cli gluster create other/x size 1M opt request_timeout=2
x=$(uri gluster/other/x)
check "is written" qemu-io -f raw -c 'write -P 7 0 1M' -c flush "$x"
"$PYTHON" - "$x" "$T/go" >"$T/impatient" 2>&1 <<'EOP' &
import os, sys, time, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
start = time.time()
for call in (lambda: h.pwrite(b"a" * 512, 0), h.flush, lambda: h.pread(512, 4096)):
    try:
        call()
        sys.exit("it succeeded")
    except nbd.Error as error:
        assert error.errno == "EIO", error
assert 2 <= time.time() - start < 20, time.time() - start
print("failed as it should")
sys.stdout.flush()
for i in range(600):
    try:
        assert h.pread(512, 4096) == b"\7" * 512
        h.pwrite(b"b" * 512, 0)
        h.flush()
        sys.exit(0)
    except nbd.Error:
        time.sleep(0.1)
sys.exit("it did not come back")
EOP
impatient=$!
stop_at_end+=($impatient)
brick_signal KILL other 0 1 2
check "its bricks are dead" await 10 bricks_are_dead other 0 1 2
touch "$T/go"
check "requests end with EIO" await 40 grep -q 'failed as it should' "$T/impatient"
check "the export is faulted" is_in_state gluster/other/x faulted
refuses "an export cannot be opened meanwhile" 1 "" \
    timeout 60 nbdinfo --size "$(uri nosuch)"
volume_revive other
check "and go well when the bricks are back" await 90 is_gone $impatient
finish 90 $impatient
same "on the same connection" 0 $?
check "with the right bytes" qemu-io -f raw -c 'read -P 98 0 512' -c 'read -P 7 512 1000k' "$x"

# ---- a management host that hangs ----
kill -STOP $GLUSTERD
cli gluster create third/y size 1M >"$T/hung" 2>&1 &
stop_at_end+=($!)
start=$SECONDS
check "a volume that does not open does not keep others from being read" timeout 15 qemu-io -f raw -c 'read -P 7 8192 4096' "$x"
check "nor opened" timeout 15 nbdinfo --size "$(uri two)"
check "and is given up with the cause" await 40 grep -q "has not opened volume 'third' for 20 seconds" "$T/hung"
same "in time" 1 $((SECONDS - start < 60))
kill -CONT $GLUSTERD

# ---- a volume that is made anew under its old name ----
cli gluster delete other/x >/dev/null
gluster_cli volume stop other force >/dev/null
gluster_cli volume delete other >/dev/null
rm -rf "$G/other"-?
check "the volume is made anew" volume_make other
check "and used" cli gluster create other/z size 1M
check "and written" qemu-io -f raw -c 'write -P 4 0 1M' -c flush -c 'read -P 4 0 1M' \
    "$(uri gluster/other/z)"

# ---- the end and a new start ----
check "no password is in the log" bash -c '! grep -q password "$0"' "$LOG"
start=$SECONDS
check "the daemon ends with 0" stop_daemon
same "soon" 1 $((SECONDS - start < 20))
need_daemon --ghost "$GHOST"
holds "after a restart the data is there" gluster/vol/disk "$T/image"
check "the daemon ends with 0 again" stop_daemon
