#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# One connection that writes, flushes and reads back, and compares with its own record, until a
# file appears. It never reconnects: any error ends it with 1. Arguments: URI, path of the file.
import os
import random
import sys
import time

import nbd

BLOCK = 4096
h = nbd.NBD()
h.connect_uri(sys.argv[1])
blocks = h.get_size() // BLOCK
record = {}
print("verifying", flush=True)
rounds = 0
while not os.path.exists(sys.argv[2]):
    for _ in range(16):
        block = random.randrange(blocks)
        data = os.urandom(BLOCK)
        h.pwrite(data, block * BLOCK)
        record[block] = data
    h.flush()
    for block in random.sample(sorted(record), min(16, len(record))):
        if bytes(h.pread(BLOCK, block * BLOCK)) != record[block]:
            sys.exit("block %d is not what was written" % block)
    rounds += 1
    time.sleep(0.001)
for block, data in record.items():
    if bytes(h.pread(BLOCK, block * BLOCK)) != data:
        sys.exit("block %d is not what was written, at the end" % block)
h.shutdown()
print("verified %d rounds" % rounds)
