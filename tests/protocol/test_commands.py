#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The commands of the transmission phase and their replies, in simple, structured and extended
# mode. The server has the exports `disk` (64 MiB), `readonly`, `large` (192 MiB, sparse),
# `size-1`, `size-511` and `size-2147483649`, and `fails-ERROR` whose reads, writes and so on
# fail; images=DIR is where the file of each export is.
import os
import random
import struct

from nbdwire import *
from tap import *

MIB = 1 << 20
DISK_BYTES, LARGE_BYTES = 64 * MIB, 192 * MIB
MOST = 64 * MIB             # bytes of a request
BEYOND = (1 << 64) - 512    # an offset that overflows with any length over 511


def serves(client):
    same("the error of a read", 0, client.call(READ, 0, 1).error)


def image(server, name):
    return os.path.join(server.facts["images"], name)


def succeed(client, *args, **named):
    request = client.call(*args, **named)
    same("the error of %s" % request, 0, request.error)
    return request


def fail(client, error, *args, **named):
    request = client.call(*args, **named)
    same("the error of %s" % request, error, request.error)
    serves(client)


# ---- READ and WRITE ----
@test_in(*MODES)
def random_reads_and_writes_agree_with_a_model_and_with_the_file(server, mode):
    rng = random.Random(mode)
    area = 3 * MIB
    with server.open("disk", mode) as client:
        start = rng.randrange(DISK_BYTES - area)
        model = bytearray(succeed(client, READ, start, area).data)
        for _ in range(150):
            length = rng.choice([1, 2, 511, 512, 513, 4095, 4096, 4097, 65536, 70001, 300001])
            at = rng.randrange(area - length)
            if rng.random() < 0.5:
                model[at:at + length] = data = rng.randbytes(length)
                succeed(client, WRITE, start + at, payload=data)
            else:
                same("%d bytes at %d" % (length, start + at), bytes(model[at:at + length]),
                     bytes(succeed(client, READ, start + at, length).data))
        same("all of it", model, succeed(client, READ, start, area).data)
        succeed(client, FLUSH)
    with open(image(server, "disk"), "rb") as file:
        file.seek(start)
        same("the file", bytes(model), file.read(area))


@test_in(*MODES)
def sixty_four_requests_in_flight_each_get_their_own_reply(server, mode):
    rng = random.Random(64)
    with server.open("disk", mode) as client:
        blocks = [rng.randbytes(rng.choice([512, 4096, 30000, 65536])) for _ in range(64)]
        for wave in range(3):
            out = b""
            for i, block in enumerate(blocks):
                out += client.request(WRITE, i * 65536, payload=block)[1]
            client.send(out)
            client.finish_all()
            reads = [client.request(READ, i * 65536, len(block)) for i, block in enumerate(blocks)]
            client.send(b"".join(data for _, data in reads))
            client.finish_all()
            for (read, _), block in zip(reads, blocks):
                same("the error of %s" % read, 0, read.error)
                same("the data of %s" % read, block, bytes(read.data))


@test_in(*MODES)
def reads_and_writes_of_32_and_64_mib_work(server, mode):
    with server.open("large", mode) as client:
        for length, at in (32 * MIB, 100 * MIB), (MOST, 4096):
            block = random.Random(length).randbytes(MIB) * (length // MIB)
            succeed(client, WRITE, at, payload=block)
            read = succeed(client, READ, at, length)
            ok(read.data == block, "other bytes came back")
        succeed(client, TRIM, 0, LARGE_BYTES)


@test_in(*MODES)
def a_read_over_64_mib_is_refused_and_the_session_lives(server, mode):
    wanted = {EINVAL} if mode == SIMPLE else {EINVAL, EOVERFLOW}
    with server.open("large", mode) as client:
        for length in MOST + 1, MOST + 4096, LARGE_BYTES:
            error = client.call(READ, 0, length).error
            ok(error in wanted, "error %d for %d bytes" % (error, length))
        serves(client)


@test_in(SIMPLE, STRUCTURED)
def a_write_over_64_mib_is_skipped_and_refused(server, mode):
    with server.open("large", mode) as client:
        error = client.call(WRITE, 0, payload=bytes(MOST + 1)).error
        ok(error in (EINVAL, EOVERFLOW), "error %d" % error)
        serves(client)


@test_in(*MODES)
def what_leaves_the_export_is_refused(server, mode):
    ends = (DISK_BYTES, 1), (DISK_BYTES - 1, 2), (DISK_BYTES - 512, 1024), (DISK_BYTES + 4096, 512)
    with server.open("disk", mode) as client:
        for offset, length in ends + ((BEYOND, 512), (BEYOND, 1024), ((1 << 64) - 1, 1),
                                      (1 << 63, 512)):
            fail(client, EINVAL, READ, offset, length)
            fail(client, EINVAL, TRIM, offset, length)
            fail(client, EINVAL, CACHE, offset, length)
            fail(client, ENOSPC, WRITE_ZEROES, offset, length)
            fail(client, ENOSPC, WRITE, offset, payload=b"w" * length)
        fail(client, ENOSPC, WRITE_ZEROES, 4096, (1 << 32) - 4096)
        fail(client, EINVAL, TRIM, 4096, (1 << 32) - 4096)


@test_in(*MODES)
def requests_of_length_0_are_answered(server, mode):
    with server.open("disk", mode) as client:
        for kind in READ, WRITE, TRIM, CACHE, WRITE_ZEROES:
            for offset in 0, 4096, DISK_BYTES:
                ok(client.call(kind, offset, 0).error in (0, EINVAL), "command %d" % kind)
        for kind in READ, WRITE, TRIM, WRITE_ZEROES:
            ok(client.call(kind, DISK_BYTES + 1, 0).error in (0, EINVAL, ENOSPC), "beyond")
        serves(client)


@test_in(*MODES)
def odd_sizes_are_served_to_the_last_byte(server, mode):
    for size in 1, 511, (1 << 31) + 1:
        with server.open("size-%d" % size, mode) as client:
            same("size", size, client.size)
            succeed(client, WRITE, size - 1, payload=b"\xa5")
            same("the last byte", b"\xa5", succeed(client, READ, size - 1, 1).data)
            length = min(size, 100000)
            read = succeed(client, READ, size - length, length)
            same("the end", b"\xa5", read.data[-1:])
            fail(client, EINVAL, READ, size - 1, 2)
            fail(client, ENOSPC, WRITE, size, payload=b"x")
            succeed(client, WRITE_ZEROES, size - 1, 1)
            same("the zeroed byte", b"\0", succeed(client, READ, size - 1, 1).data)
            succeed(client, TRIM, 0, size)
            same("the file", size, os.stat(image(server, "size-%d" % size)).st_size)


# ---- Holes ----
def quiet_hole(client, offset, length):
    """The extents become known."""
    same("the error of the status", 0, client.call(BLOCK_STATUS, offset, length).error)


def content(request):
    return sorted((offset, length, kind) for kind, offset, length in request.chunks)


@test_in(STRUCTURED, EXTENDED)
def a_read_of_a_hole_is_a_hole(server, mode):
    with server.open("large", mode, "base:allocation") as client:
        succeed(client, TRIM, 0, LARGE_BYTES)
        quiet_hole(client, 0, LARGE_BYTES)
        for offset, length in (0, LARGE_BYTES // 4), (12345, 100000), (8 * MIB, 512), (0, MOST):
            same("content", [(offset, length, OFFSET_HOLE)],
                 content(succeed(client, READ, offset, length)))


@test_in(STRUCTURED, EXTENDED)
def a_read_of_data_and_holes_has_several_chunks_and_the_right_bytes(server, mode):
    rng = random.Random(3)
    with server.open("large", mode, "base:allocation") as client:
        succeed(client, TRIM, 0, LARGE_BYTES)
        model = bytearray(8 * MIB)
        for at in range(MIB // 2, 8 * MIB, 2 * MIB):
            model[at:at + 65536] = data = rng.randbytes(65536)
            succeed(client, WRITE, at, payload=data)
        succeed(client, FLUSH)
        quiet_hole(client, 0, LARGE_BYTES)
        for offset, length in ((0, 8 * MIB), (1, 3 * MIB), (MIB // 2 + 100, 2 * MIB),
                               (MIB // 2 - 99999, 200000), (2 * MIB + 7, 6 * MIB - 7)):
            read = succeed(client, READ, offset, length)
            kinds = {kind for kind, _, _ in read.chunks}
            same("kinds of chunks", {OFFSET_DATA, OFFSET_HOLE}, kinds)
            ok(read.data == model[offset:offset + length], "other bytes at %d" % offset)
            whole = succeed(client, READ, offset, length, DF)
            same("chunks with DF", 1, len(whole.chunks))
            ok(whole.data == model[offset:offset + length], "other bytes with DF at %d" % offset)
        succeed(client, TRIM, 0, LARGE_BYTES)


@test_in(STRUCTURED, EXTENDED)
def what_was_just_written_is_never_read_as_a_hole(server, mode):
    rng = random.Random(5)
    with server.open("large", mode, "base:allocation") as client:
        succeed(client, TRIM, 0, LARGE_BYTES)
        for _ in range(100):
            at = rng.randrange(LARGE_BYTES - 70000)
            data = rng.randbytes(rng.choice([1, 512, 4096, 65536]))
            quiet_hole(client, at, 65536)
            write, first = client.request(WRITE, at, payload=data)
            client.send(first)
            client.finish(write)
            read = succeed(client, READ, at, len(data))
            same("the data", data, bytes(read.data))
        succeed(client, TRIM, 0, LARGE_BYTES)


@test_in(STRUCTURED, EXTENDED)
def df_up_to_64_kib_always_works(server, mode):
    with server.open("disk", mode) as client:
        for length in 1, 512, 65536:
            same("chunks", 1, len(succeed(client, READ, 4096, length, DF).chunks))


# ---- FLUSH, TRIM, WRITE_ZEROES, CACHE, flags ----
@test_in(*MODES)
def zeroed_and_trimmed_ranges_read_as_zeroes_and_their_neighbours_stay(server, mode):
    with server.open("disk", mode) as client:
        for flags in 0, FUA, NO_HOLE, NO_HOLE | FUA:
            for offset, length in (10000, 1), (4096, 4096), (4095, 70000), (8192, MIB):
                succeed(client, WRITE, 0, payload=b"\xee" * (2 * MIB))
                succeed(client, WRITE_ZEROES, offset, length, flags)
                data = succeed(client, READ, 0, 2 * MIB).data
                wanted = bytearray(b"\xee" * (2 * MIB))
                wanted[offset:offset + length] = bytes(length)
                ok(data == wanted,
                   "wrong bytes after %d at %d, flags %d" % (length, offset, flags))
        succeed(client, WRITE, 0, payload=b"\xee" * MIB)
        succeed(client, TRIM, 65536, 65536, FUA)
        data = succeed(client, READ, 0, MIB).data
        ok(data[:65536] == b"\xee" * 65536 == data[131072:196608], "a trim has hit its neighbours")
        ok(set(data[65536:131072]) <= {0, 0xee}, "a trim has made new bytes")


@test
def zeroing_frees_blocks_unless_no_hole(server):
    with server.open("large") as client:
        for flags, freed in (0, True), (NO_HOLE, False):
            succeed(client, WRITE, 0, payload=b"\xee" * (4 * MIB))
            succeed(client, FLUSH)
            before = os.stat(image(server, "large")).st_blocks
            succeed(client, WRITE_ZEROES, 0, 4 * MIB, flags)
            succeed(client, FLUSH)
            after = os.stat(image(server, "large")).st_blocks
            same("4 MiB are freed with flags %d" % flags, freed, after <= before - 8000)
        succeed(client, TRIM, 0, LARGE_BYTES)


@test_in(*MODES)
def fast_zero_is_fast_or_leaves_the_data(server, mode):
    with server.open("disk", mode) as client:
        succeed(client, WRITE, 0, payload=b"\xee" * MIB)
        for flags in FAST_ZERO, FAST_ZERO | NO_HOLE:
            before = succeed(client, READ, 0, MIB).data
            error = client.call(WRITE_ZEROES, 0, MIB, flags).error
            ok(error in (0, ENOTSUP), "error %d" % error)
            after = succeed(client, READ, 0, MIB).data
            ok(after == (before if error else bytes(MIB)), "wrong bytes after error %d" % error)


@test_in(*MODES)
def fua_is_accepted_on_every_command(server, mode):
    with server.open("disk", mode) as client:
        succeed(client, WRITE, 0, flags=FUA, payload=b"x" * 4096)
        for kind, length in (READ, 4096), (FLUSH, 0), (TRIM, 4096), (CACHE, 4096), \
                (WRITE_ZEROES, 4096):
            succeed(client, kind, 0, length, FUA)


@test_in(*MODES)
def a_flush_ignores_offset_and_length(server, mode):
    with server.open("disk", mode) as client:
        succeed(client, FLUSH, BEYOND, 4096)
        serves(client)


@test_in(*MODES)
def unknown_commands_and_flags_are_invalid_and_the_session_lives(server, mode):
    with server.open("disk", mode) as client:
        for kind in RESIZE, 9, 100, 0xfffe, 0xffff:
            fail(client, EINVAL, kind, 0, 512)
        for kind, flags in ((READ, 1 << 6), (READ, 1 << 15), (READ, NO_HOLE), (READ, REQ_ONE),
                            (READ, FAST_ZERO), (TRIM, DF), (TRIM, NO_HOLE), (FLUSH, DF),
                            (FLUSH, 1 << 9), (CACHE, NO_HOLE), (CACHE, 1 << 8), (WRITE_ZEROES, DF),
                            (WRITE_ZEROES, REQ_ONE), (WRITE_ZEROES, 1 << 14)):
            fail(client, EINVAL, kind, 0, 512, flags)
        for flags in DF, NO_HOLE, FAST_ZERO, REQ_ONE, 1 << 10:
            fail(client, EINVAL, WRITE, 0, flags=flags, payload=b"w" * 70000)
        if mode == SIMPLE:
            fail(client, EINVAL, READ, 0, 512, DF)
        if mode != EXTENDED:
            fail(client, EINVAL, READ, 0, 512, PAYLOAD_LEN)


@test_in(*MODES)
def a_readonly_export_refuses_changes_and_skips_their_payload(server, mode):
    with server.open("readonly", mode) as client:
        before = succeed(client, READ, 0, MIB).data
        for length in 1, 4096, 300000:
            fail(client, EPERM, WRITE, 0, payload=b"w" * length)
        fail(client, EPERM, TRIM, 0, 4096)
        fail(client, EPERM, WRITE_ZEROES, 0, 4096)
        ok(before == succeed(client, READ, 0, MIB).data, "it has changed")
        succeed(client, CACHE, 0, 4096)


@test_in(*MODES)
def storage_errors_become_errors_of_the_protocol(server, mode):
    for name, error in (("EIO", EIO), ("EPERM", EPERM), ("ENOMEM", ENOMEM), ("EINVAL", EINVAL),
                        ("ENOSPC", ENOSPC), ("EOVERFLOW", EOVERFLOW), ("ENOENT", EIO)):
        with server.open("fails-" + name, mode) as client:
            for kind, length in (READ, 4096), (READ, 300000), (FLUSH, 0), (TRIM, 4096), \
                    (WRITE_ZEROES, 4096):
                request = client.call(kind, 0, length)
                same("the error of command %d for %s" % (kind, name), error, request.error)
            for length in 4096, 300000:
                request = client.call(WRITE, 0, payload=bytes(length))
                same("the error of a write for %s" % name, error, request.error)
    with server.open("fails-ENOTSUP", mode) as client:
        same("ENOTSUP of a zeroing", ENOTSUP, client.call(WRITE_ZEROES, 0, 4096).error)
        ok(client.call(READ, 0, 4096).error in (EINVAL, EIO), "ENOTSUP of a read reaches clients")


# ---- The stream ----
@test_in(*MODES)
def requests_that_come_byte_by_byte_are_served(server, mode):
    with server.open("disk", mode) as client:
        write, first = client.request(WRITE, 0, payload=b"one byte")
        read, second = client.request(READ, 0, 8)
        for byte in first:
            client.send(bytes([byte]))
        client.finish(write)
        for byte in second:
            client.send(bytes([byte]))
        same("the data", b"one byte", bytes(client.finish(read).data))


@test_in(*MODES)
def a_wrong_request_magic_ends_the_session_without_a_byte(server, mode):
    with server.open("disk", mode) as client:
        client.send(b"\xff" * 32)
        client.must_close()


@test_in(*MODES)
def disc_is_not_answered_but_closes(server, mode):
    with server.open("disk", mode) as client:
        serves(client)
        client.disconnect()


@test_in(*MODES)
def equal_cookies_are_the_clients_business(server, mode):
    layout, magic = ((">IHHQQQ", EXTENDED_REQUEST_MAGIC) if mode == EXTENDED else
                     (">IHHQQI", REQUEST_MAGIC))
    with server.open("disk", mode) as client:
        for cookie in 0, (1 << 64) - 1:
            for _ in range(2):
                client.last_cookie = cookie - 1
                request, _ = client.request(FLUSH)
                client.send(struct.pack(layout, magic, 0, FLUSH, cookie, 0, 0))
                same("the error", 0, client.finish(request).error)


main()
