#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Reads 512 bytes each millisecond until a file appears, then prints the longest time that one
# read took, in milliseconds. Arguments: URI, path of the file.
import os
import sys
import time

import nbd

h = nbd.NBD()
h.connect_uri(sys.argv[1])
print("beating", flush=True)
longest = 0.0
while not os.path.exists(sys.argv[2]):
    start = time.monotonic()
    h.pread(512, 0)
    longest = max(longest, time.monotonic() - start)
    time.sleep(0.001)
h.shutdown()
print("longest %d" % (longest * 1000))
