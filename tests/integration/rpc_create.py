#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Creates images through the control port, one after the other over one connection, each until
# its job has ended, and prints the median time in milliseconds. Arguments: control socket,
# number of images, prefix of their names.
import socket
import statistics
import struct
import sys
import time

PROGRAM = 0x3f0a37eb
CREATE, JOB_GET = 2, 22
DONE = 4


def text(s):
    data = s.encode()
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def receive(s, n):
    data = b""
    while len(data) < n:
        piece = s.recv(n - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def call(s, xid, procedure, body):
    record = struct.pack(">10I", xid, 0, 2, PROGRAM, 2, procedure, 0, 0, 0, 0) + body
    s.sendall(struct.pack(">I", 1 << 31 | len(record)) + record)
    mark, = struct.unpack(">I", receive(s, 4))
    reply = receive(s, mark & ~(1 << 31))
    assert struct.unpack(">6I", reply[:24]) == (xid, 1, 0, 0, 0, 0), reply[:24]
    code, = struct.unpack(">I", reply[24:28])
    assert code == 0, reply[28:]
    # a job: its id is 36 characters, then kind and state
    return reply[32:68].decode(), struct.unpack(">I", reply[72:76])[0]


def create(s, name):
    start = time.monotonic()
    body = text("") + text("") + text("") + text("file") + text(name) + struct.pack(">I", 0)
    job, state = call(s, 1, CREATE, body + struct.pack(">QIII", 1 << 20, 0, 0, 0))
    while state < DONE:
        job, state = call(s, 2, JOB_GET, text(job) + struct.pack(">I", 30000))
    assert state == DONE, "the create failed: state %d" % state
    return (time.monotonic() - start) * 1000


s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
s.connect(sys.argv[1])
times = [create(s, "%s%d.img" % (sys.argv[3], i)) for i in range(int(sys.argv[2]))]
print("median %.1f longest %.1f" % (statistics.median(times), max(times)))
