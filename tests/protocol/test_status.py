#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# BLOCK_STATUS against what the file system says. The server has the exports `disk`, `sparse`
# (96 MiB) and `scene` (109521666048 bytes, all hole); images=DIR is where their files are.
import errno
import os
import random
import time

from nbdwire import *
from tap import *

BASE, DEPTH = "base:allocation", "qemu:allocation-depth"
CHATTY = STRUCTURED, EXTENDED
MIB = 1 << 20
SPARSE_BYTES, SCENE_BYTES = 96 * MIB, 109521666048


def file_extents(path):
    """(length, flags) of a file, by SEEK_DATA and SEEK_HOLE."""
    extents, at = [], 0
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = size
            if data > at:
                extents.append((data - at, HOLE | ZERO))
            if data == size:
                break
            at = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            extents.append((at - data, 0))
    return extents


def merged(extents):
    out = []
    for length, flags in extents:
        if out and out[-1][1] == flags:
            out[-1] = out[-1][0] + length, flags
        else:
            out.append((length, flags))
    return out


def cut(extents, offset, length):
    """The part of a map that a range sees."""
    out, at = [], 0
    for size, flags in extents:
        start, end = max(at, offset), min(at + size, offset + length)
        if start < end:
            out.append((end - start, flags))
        at += size
    return merged(out)


def walk(client, name, offset, length, most=None, flags=0):
    """The map of a range, in as many requests as it takes."""
    out, end = [], offset + length
    while offset < end:
        step = min(end - offset, most or end)
        request = client.call(BLOCK_STATUS, offset, step, flags)
        same("the error of %s" % request, 0, request.error)
        extents = request.extents[name]
        out += extents
        offset += sum(size for size, _ in extents)
    return cut(merged(out), 0, length)


def stir(client, rng, size):
    """Writes, zeroings and trims at random; much of it becomes holes."""
    for _ in range(60):
        length = rng.choice([1, 4096, 65536, MIB])
        at = rng.randrange(size - length)
        if rng.random() < 0.6:
            request = client.call(WRITE, at, payload=rng.randbytes(length))
        else:
            length = min(size - at, 3 * MIB)
            request = client.call(rng.choice([TRIM, WRITE_ZEROES]), at, length,
                                  rng.choice([0, FUA]))
        same("the error of %s" % request, 0, request.error)
    same("the error of the flush", 0, client.call(FLUSH).error)


@test_in(*CHATTY)
def the_status_agrees_with_seek_data_and_seek_hole(server, mode):
    rng = random.Random(mode)
    path = os.path.join(server.facts["images"], "sparse")
    with server.open("sparse", mode, BASE, DEPTH) as client:
        for _ in range(4):
            stir(client, rng, SPARSE_BYTES)
            truth = merged(file_extents(path))
            ok(len(truth) > 4, "the file has only %d extents" % len(truth))
            same("the whole map", truth, walk(client, BASE, 0, SPARSE_BYTES))
            same("the map, 1 MiB a time", truth, walk(client, BASE, 0, SPARSE_BYTES, MIB))
            same("the map with REQ_ONE", truth,
                 walk(client, BASE, 0, SPARSE_BYTES, flags=REQ_ONE))
            depth = [(length, 0 if flags & HOLE else 1) for length, flags in truth]
            same("the depths", depth, walk(client, DEPTH, 0, SPARSE_BYTES))
            for _ in range(20):
                at = rng.randrange(SPARSE_BYTES // 512) * 512
                length = rng.randrange(1, SPARSE_BYTES - at + 1)
                same("the map of %d at %d" % (length, at), cut(truth, at, length),
                     walk(client, BASE, at, length))


@test_in(*CHATTY)
def what_is_just_written_is_data_on_every_connection(server, mode):
    rng = random.Random(11)
    with server.open("sparse", mode, BASE) as writer, \
            server.open("sparse", mode, BASE) as reader:
        same("the error of the trim", 0, writer.call(TRIM, 0, SPARSE_BYTES).error)
        for _ in range(50):
            at = rng.randrange(SPARSE_BYTES // 4096) * 4096
            reader.call(BLOCK_STATUS, 0, SPARSE_BYTES)
            same("the error of the write", 0, writer.call(WRITE, at, payload=b"d" * 4096).error)
            for client in reader, writer:
                status = client.call(BLOCK_STATUS, at, 4096)
                same("the status at %d" % at, [(4096, 0)], cut(status.extents[BASE], 0, 4096))


@test_in(*CHATTY)
def what_is_just_trimmed_or_zeroed_is_a_hole(server, mode):
    with server.open("sparse", mode, BASE) as client:
        for kind in TRIM, WRITE_ZEROES:
            for wanted, request in ((0, (WRITE, MIB, MIB, 0, b"d" * MIB)),
                                    (HOLE | ZERO, (kind, MIB, MIB))):
                same("the error", 0, client.call(*request).error)
                status = client.call(BLOCK_STATUS, MIB, MIB)
                same("the status after command %d" % request[0], [(MIB, wanted)],
                     cut(status.extents[BASE], 0, MIB))


@test_in(*CHATTY)
def a_hole_of_102_gib_is_told_within_a_second(server, mode):
    with server.open("scene", mode, BASE) as client:
        same("size", SCENE_BYTES, client.size)
        most = SCENE_BYTES if mode == EXTENDED else (1 << 32) - 512
        start = time.monotonic()
        found = walk(client, BASE, 0, SCENE_BYTES, most)
        seconds = time.monotonic() - start
        same("the map", [(SCENE_BYTES, HOLE | ZERO)], found)
        ok(seconds < 1, "it took %.2f s" % seconds)


@test_in(*CHATTY)
def extents_are_told_to_the_end_of_the_request_at_once(server, mode):
    with server.open("scene", mode, BASE) as client:
        for offset, length in (0, 1 << 30), (4096, (1 << 32) - 512), (SCENE_BYTES - 512, 512):
            status = client.call(BLOCK_STATUS, offset, length)
            ok(sum(size for size, _ in status.extents[BASE]) >= length, "the map is cut short")


@test_in(*CHATTY)
def a_status_out_of_range_or_of_no_length_is_invalid(server, mode):
    size = 64 * MIB
    with server.open("disk", mode, BASE) as client:
        for offset, length in ((size, 1), (size - 512, 1024), (size + 512, 512), (0, size + 1),
                               ((1 << 64) - 512, 512), ((1 << 64) - 512, 1024), (0, 0), (size, 0)):
            same("the error of %d at %d" % (length, offset), EINVAL,
                 client.call(BLOCK_STATUS, offset, length).error)
        same("the error of a right one", 0, client.call(BLOCK_STATUS, 0, size).error)


@test_in(*CHATTY)
def unknown_flags_of_a_status_are_invalid(server, mode):
    with server.open("disk", mode, BASE) as client:
        for flags in FUA, DF, NO_HOLE, FAST_ZERO, 1 << 8:
            same("the error of flags %d" % flags, EINVAL,
                 client.call(BLOCK_STATUS, 0, 4096, flags).error)


@test_in(*MODES)
def a_status_without_a_context_is_invalid(server, mode):
    with server.open("disk", mode) as client:
        for flags in 0, REQ_ONE:
            same("the error", EINVAL, client.call(BLOCK_STATUS, 0, 4096, flags).error)
        same("the error of a read", 0, client.call(READ, 0, 512).error)


@test_in(*CHATTY)
def many_statuses_in_flight_are_all_answered(server, mode):
    with server.open("sparse", mode, BASE) as client:
        asked = [client.request(BLOCK_STATUS, i * MIB, MIB) for i in range(96)]
        client.send(b"".join(data for _, data in asked))
        client.finish_all()
        for request, _ in asked:
            same("the error of %s" % request, 0, request.error)


main()
