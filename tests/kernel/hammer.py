#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Continuous verified I/O on a block device, past its caches: hammer.py DEVICE IMAGE STOP [GROW]
#
# Writes blocks with contents of their own, syncs, reads others back and compares, until the
# file STOP exists; then compares all of the device and of IMAGE. When the file GROW appears,
# goes on in the larger device. Prints how many writes were made; any error, and any byte that
# is not what was written, ends it with status 1.
import mmap
import os
import random
import struct
import sys
import time

BLOCK = 4096
device, image, stop = sys.argv[1:4]
grow = sys.argv[4] if len(sys.argv) > 4 else None
fd = os.open(device, os.O_RDWR | os.O_DIRECT)
blocks = os.lseek(fd, 0, os.SEEK_END) // BLOCK
buffer = mmap.mmap(-1, BLOCK)
stamps = {}
writes = 0
longest = 0.0
random.seed(1)


def content(block, stamp):
    return struct.pack("<QQ", block, stamp) * (BLOCK // 16)


def check(block, data, where):
    expected = content(block, stamps[block]) if block in stamps else bytes(BLOCK)
    if data != expected:
        print("block %d of %s is not what was written: %r" % (block, where, data[:16]))
        sys.exit(1)


def read_back(block):
    os.preadv(fd, [buffer], block * BLOCK)
    check(block, buffer[:], device)


try:
    while not os.path.exists(stop):
        started = time.monotonic()
        for _ in range(8):
            block = random.randrange(blocks)
            writes += 1
            stamps[block] = writes
            buffer[:] = content(block, writes)
            os.pwritev(fd, [buffer], block * BLOCK)
        os.fsync(fd)
        read_back(random.choice(list(stamps)))
        longest = max(longest, time.monotonic() - started)
        if grow and os.path.exists(grow):
            blocks = os.lseek(fd, 0, os.SEEK_END) // BLOCK
        # whole at every moment: a reader never finds an empty file
        with open(stop + ".alive.new", "w") as f:
            f.write(str(writes))
        os.rename(stop + ".alive.new", stop + ".alive")
    os.fsync(fd)
    for block in stamps:
        read_back(block)
except OSError as e:
    print("after %d writes: %s" % (writes, e))
    sys.exit(1)
with open(image, "rb") as f:
    for block in stamps:
        f.seek(block * BLOCK)
        check(block, f.read(BLOCK), image)
print("%d writes, the longest pause %.1f s" % (writes, longest))
