#!/bin/bash
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# A backup of a sparse disk of 102 GiB: several clients at once, its map in a moment, a copy
# that costs what its data costs. And the map of a very fragmented file, next to other servers.
. "$(dirname "$0")/lib.sh"
requires nbdinfo nbdcopy
requires_python nbd

SCENE_BYTES=109521666048
mkdir -p "$D/images"
# Where each freed piece of a file is discarded, removing one of 50000 pieces takes minutes.
PIECES=$D/images
if findmnt -no OPTIONS -T "$T" | grep -qw discard && [ -w /dev/shm ]; then
    PIECES=$(mktemp -d /dev/shm/nr-test.XXXXXX)
    trap 'code=$?; rm -rf "$PIECES"; (exit $code); at_end' EXIT
fi
printf '[generic]\nfile_roots = %s; %s\n' "$D/images" "$PIECES" >"$D/nbd-runner.conf"
need_daemon
cat >"$T/fill.py" <<'EOP'
import os, random, sys
size, pieces, rng = int(sys.argv[2]), 200, random.Random(1)
with open(sys.argv[1], "wb") as file:
    file.truncate(size)
    for at in [0, size - 4096] + [rng.randrange(size // 4096) * 4096 for _ in range(pieces)]:
        file.seek(at)
        file.write(rng.randbytes(4096))
EOP
check "a sparse image of 102 GiB is made" "$PYTHON" "$T/fill.py" "$D/images/disk" $SCENE_BYTES
check "it is exported" cli export add file disk name disk
check "so is the target of the copy" cli file create target size $SCENE_BYTES name target

# ---- the clients of a backup, all at once ----
cat >"$T/scene.py" <<'EOP'
import os, sys, time, nbd
uri, size, soon = sys.argv[1], int(sys.argv[2]), float(os.environ["SLOWNESS"])
holder = nbd.NBD()
holder.connect_uri(uri)
start = time.monotonic()
mapper = nbd.NBD()
mapper.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
mapper.connect_uri(uri)
workers = [nbd.NBD() for _ in range(3)]
for worker in workers:
    worker.connect_uri(uri)
for h in [holder, mapper] + workers:
    if not h.aio_is_ready() or h.get_size() != size:
        sys.exit("a client is not in transmission")
took = time.monotonic() - start
if took > soon:
    sys.exit("that took %.2f s" % took)
if not mapper.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION):
    sys.exit("no base:allocation")
for h in workers + [holder]:
    if h.pread(4096, size - 4096) == bytes(4096) or h.pread(4096, 0) == bytes(4096):
        sys.exit("wrong bytes")
data, at = [0], 0
def extent(context, offset, entries, error):
    for length, flags in zip(entries[::2], entries[1::2]):
        data[0] += 0 if flags else length
        position[0] += length
start, position = time.monotonic(), [0]
while position[0] < size:
    mapper.block_status(min(size - position[0], (1 << 32) - 4096), position[0], extent)
took = time.monotonic() - start
if took > soon:
    sys.exit("the map took %.2f s" % took)
if not 100 * 4096 < data[0] < 300 * 65536:
    sys.exit("%d bytes of data" % data[0])
for h in workers + [mapper, holder]:
    h.shutdown()
EOP
tcp=nbd://127.0.0.1:$(port_of nbd)
check "five clients are soon in transmission, and soon have the map" \
    "$PYTHON" "$T/scene.py" "$(uri disk)" $SCENE_BYTES
check "the same over TCP" "$PYTHON" "$T/scene.py" "$tcp/disk" $SCENE_BYTES

# ---- the copy ----
check "nbdcopy copies it soon" timeout 60 nbdcopy "$(uri disk)" "$(uri target)"
check "the copy has few blocks" test "$(stat -c %b "$D/images/target")" -le \
    $((2 * $(stat -c %b "$D/images/disk") + 2048))
cat >"$T/equal.py" <<'EOP'
import errno, os, sys
def data_of(path):
    fd, at, found = os.open(path, os.O_RDONLY), 0, {}
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return found, os.fstat(fd).st_size
            raise
        end = os.lseek(fd, at, os.SEEK_HOLE)
        for block in range(at // 4096, (end + 4095) // 4096):
            piece = os.pread(fd, 4096, block * 4096)
            if piece.strip(b"\0"):
                found[block] = piece
        at = end
if data_of(sys.argv[1]) != data_of(sys.argv[2]):
    sys.exit("they differ")
EOP
check "its content is equal" "$PYTHON" "$T/equal.py" "$D/images/disk" "$D/images/target"
map_of() { nbdinfo --map "$1" >"$2"; }
check "the map of the source" map_of "$(uri disk)" "$T/map-source"
check "the map of the copy" map_of "$(uri target)" "$T/map-target"
check "the maps are equal" cmp "$T/map-source" "$T/map-target"

# ---- the map of 100000 extents, by three servers ----
EXTENTS=100000 FRAGMENTED_BYTES=$((16 << 30))
cat >"$T/fragment.py" <<'EOP'
import os, sys
size, pieces = int(sys.argv[2]), int(sys.argv[3]) // 2
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
os.ftruncate(fd, size)
for i in range(pieces):
    os.pwrite(fd, b"\1" * 4096, i * (size // pieces) // 4096 * 4096)
os.fsync(fd)
EOP
milliseconds() { # COMMAND...: the best of three runs
    local best=999999 i start took
    for i in 1 2 3; do
        start=$(date +%s%N)
        "$@" || return 1
        took=$((($(date +%s%N) - start) / 1000000))
        [ $took -ge $best ] || best=$took
    done
    echo $best
}
# Servers split extents where their replies end: neighbours of one kind are one.
merge_map() {
    awk '{ if (NR > 1 && $3 == kind) length_ += $2; else { if (NR > 1) print start, length_, kind
           start = $1; length_ = $2; kind = $3 } } END { print start, length_, kind }' "$1"
}
compare_with() { # NAME URI LOG
    local took
    took=$(milliseconds map_of "$2" "$T/map-other") || { fail "$1 tells the map" "$3"; return; }
    merge_map "$T/map-other" >"$T/map-other.merged"
    check "the map is the one of $1" cmp "$T/map-ours.merged" "$T/map-other.merged"
    echo "# the map of $EXTENTS extents: ours $ours ms, $1 $took ms," \
        "ratio $(awk "BEGIN { printf \"%.2f\", $ours / ($took ? $took : 1) }")"
}
check "a file of $EXTENTS extents is made" \
    "$PYTHON" "$T/fragment.py" "$PIECES/fragments" $FRAGMENTED_BYTES $EXTENTS
check "it is exported" cli export add file "$PIECES/fragments" name fragments
ours=$(milliseconds map_of "$(uri fragments)" "$T/map-ours") || fail "we tell the map"
merge_map "$T/map-ours" >"$T/map-ours.merged"
same "the extents" $EXTENTS "$(wc -l <"$T/map-ours.merged")"
if command -v nbdkit >/dev/null; then
    nbdkit -f -r -U "$T/nbdkit.sock" file "$PIECES/fragments" 2>"$T/nbdkit.log" &
    stop_at_end+=($!)
    await 10 nbdinfo --size "nbd+unix:///?socket=$T/nbdkit.sock"
    compare_with "nbdkit file" "nbd+unix:///?socket=$T/nbdkit.sock" "$T/nbdkit.log"
fi
if command -v qemu-nbd >/dev/null; then
    qemu-nbd -r --image-opts -t -e 4 -k "$T/qemu.sock" \
        "driver=raw,file.driver=file,file.locking=off,file.filename=$PIECES/fragments" \
        2>"$T/qemu.log" &
    stop_at_end+=($!)
    await 10 nbdinfo --size "nbd+unix:///?socket=$T/qemu.sock"
    compare_with "qemu-nbd" "nbd+unix:///?socket=$T/qemu.sock" "$T/qemu.log"
fi
check "the daemon ends with 0" stop_daemon
