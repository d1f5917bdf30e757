#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Keeps 64 requests of mixed sizes in flight on one connection and checks every byte that comes
# back, whatever the order. Argument: a URI of a writable export of at least 16 MiB.
import random
import sys

import nbd

AREA = 16 << 20
rng = random.Random(7)
model = bytearray(AREA)
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.pwrite(bytes(1 << 20), 0)
for at in range(0, AREA, 1 << 20):
    h.pwrite(bytes(1 << 20), at)

pending = {}
busy = set()


def blocks(offset, length):
    return range(offset // 4096, (offset + length - 1) // 4096 + 1)


def submit():
    length = rng.choice([1, 511, 4096, 65536, 300001])
    offset = rng.randrange(AREA - length)
    mine = set(blocks(offset, length))
    if mine & busy:
        return
    if rng.random() < 0.5:
        data = rng.randbytes(length)
        cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(
            bytearray(data)), offset)
        model[offset:offset + length] = data
        pending[cookie] = (None, offset, length, mine)
    else:
        buffer = nbd.Buffer(length)
        cookie = h.aio_pread(buffer, offset)
        pending[cookie] = (buffer, offset, length, mine)
    busy.update(mine)


def reap():
    for cookie in list(pending):
        if not h.aio_command_completed(cookie):
            continue
        buffer, offset, length, mine = pending.pop(cookie)
        busy.difference_update(mine)
        if buffer is not None and buffer.to_bytearray() != model[offset:offset + length]:
            sys.exit("wrong bytes at %d, %d long" % (offset, length))


for _ in range(4000):
    if len(pending) < 64:
        submit()
    h.poll(0)
    reap()
while pending:
    h.poll(-1)
    reap()
if h.pread(AREA, 0) != model:
    sys.exit("the whole area differs at the end")
h.shutdown()
