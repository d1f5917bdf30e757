#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# EXTENDED_HEADERS: the option, 64-bit lengths, payload lengths, BLOCK_STATUS with a payload.
# The server has the exports `disk` (64 MiB), `huge` (2 TiB, sparse) and `readonly`.
import struct

from nbdwire import *
from tap import *

BASE, DEPTH = "base:allocation", "qemu:allocation-depth"
TIB = 1 << 40


def serves(client):
    same("the error of a read", 0, client.call(READ, 0, 512).error)


# ---- The option ----
@test
def extended_headers_are_acknowledged_and_used(server):
    with server.open("disk", EXTENDED) as client:
        serves(client)
        same("the error of a write", 0, client.call(WRITE, 1 << 20, payload=b"w" * 512).error)
        same("what was written", b"w" * 512, client.call(READ, 1 << 20, 512).data)


@test
def extended_headers_may_follow_structured_reply(server):
    with server.negotiate(STRUCTURED) as client:
        same("the error", 0, client.extended_headers().error)
        same("the error of GO", 0, client.go("disk").error)
        serves(client)


@test
def extended_headers_with_data_are_invalid_and_change_nothing(server):
    with server.connect() as client:
        same("the error", ERR_INVALID, client.extended_headers(b"x").error)
        same("the error of GO", 0, client.go("disk").error)
        serves(client)      # the client takes simple replies only


@test
def structured_reply_after_extended_headers_is_refused(server):
    with server.negotiate(EXTENDED) as client:
        for data in b"", b"x":
            ok(client.structured_reply(data).error in (ERR_EXT_HEADER_REQD, ERR_INVALID),
               "it is accepted")
        same("the error", ERR_EXT_HEADER_REQD, client.structured_reply().error)
        same("the error of GO", 0, client.go("disk").error)
        serves(client)


@test
def export_name_after_extended_headers_ends_the_session_without_a_byte(server):
    with server.negotiate(EXTENDED) as client:
        client.send(option_bytes(OPT_EXPORT_NAME, b"disk"))
        client.must_close()


@test
def the_payload_flag_is_offered_only_with_extended_headers_and_a_context(server):
    for mode, contexts, offered in ((SIMPLE, (), 0), (STRUCTURED, (), 0), (STRUCTURED, (BASE,), 0),
                                    (EXTENDED, (), 0),
                                    (EXTENDED, (BASE,), BLOCK_STATUS_PAYLOAD)):
        with server.open("disk", mode, *contexts) as client:
            same("the flag after %s with %r" % (mode, contexts), offered,
                 client.flags & BLOCK_STATUS_PAYLOAD)


@test
def a_compact_header_after_extended_headers_ends_the_session(server):
    with server.open("disk", EXTENDED) as client:
        client.send(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, READ, 1, 0, 512) + bytes(4))
        client.must_close()


@test
def an_extended_header_without_extended_headers_ends_the_session(server):
    for mode in SIMPLE, STRUCTURED:
        with server.open("disk", mode) as client:
            client.send(struct.pack(">IHHQQQ", EXTENDED_REQUEST_MAGIC, 0, READ, 1, 0, 512))
            client.must_close()


# ---- Lengths of 64 bits ----
@test
def a_tebibyte_is_zeroed_or_trimmed_in_one_request(server):
    with server.open("huge", EXTENDED) as client:
        for kind, flags in (WRITE_ZEROES, 0), (TRIM, 0), (WRITE_ZEROES, FUA), (TRIM, FUA):
            for offset in TIB - 4096, TIB // 2, TIB + 8192:
                write = client.call(WRITE, offset, payload=b"x" * 512)
                same("the error of a write", 0, write.error)
            same("the error", 0, client.call(kind, TIB // 2, TIB, flags).error)
            same("the first byte", b"\0", client.call(READ, TIB // 2, 1).data)
            same("bytes below 1 TiB", bytes(512), client.call(READ, TIB - 4096, 512).data)
            same("bytes above 1 TiB", bytes(512), client.call(READ, TIB + 8192, 512).data)


@test
def a_tebibyte_out_of_range_is_refused_as_ever(server):
    with server.open("huge", EXTENDED) as client:
        for offset, length in ((TIB + 1, TIB), (2 * TIB, 1), (0, 2 * TIB + 1), (1, (1 << 64) - 1),
                               ((1 << 64) - 1, 1), (512, (1 << 64) - 512)):
            same("the error of a zeroing", ENOSPC, client.call(WRITE_ZEROES, offset, length).error)
            same("the error of a trim", EINVAL, client.call(TRIM, offset, length).error)
        serves(client)


@test
def a_read_over_the_maximum_is_refused_and_the_session_lives(server):
    with server.open("huge", EXTENDED) as client:
        for length in (64 << 20) + 1, 1 << 32, TIB:
            ok(client.call(READ, 0, length).error in (EOVERFLOW, EINVAL), "%d bytes" % length)
        serves(client)


@test
def a_status_over_4_gib_is_one_extent(server):
    with server.open("huge", EXTENDED, BASE) as client:
        same("the error of the trim", 0, client.call(TRIM, 0, 2 * TIB).error)
        status = client.call(BLOCK_STATUS, 4096, 2 * TIB - 4096)
        same("extents", [(2 * TIB - 4096, HOLE | ZERO)], status.extents[BASE])


# ---- Payload lengths ----
@test
def a_write_without_payload_len_is_invalid_and_its_payload_is_skipped(server):
    with server.open("disk", EXTENDED) as client:
        before = client.call(READ, 2 << 20, 8192).data
        for flags in 0, FUA:
            write = client.call_raw(WRITE, 2 << 20, 8192, flags, b"z" * 8192)
            same("the error", EINVAL, write.error)
        same("what is there", before, client.call(READ, 2 << 20, 8192).data)


@test
def an_unexpected_payload_is_skipped(server):
    with server.open("disk", EXTENDED) as client:
        for kind in READ, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, RESIZE, 77:
            for length in 1, 12, 4096, 300000:
                answer = client.call_raw(kind, 0, length, PAYLOAD_LEN, b"p" * length)
                same("the error of command %d" % kind, EINVAL, answer.error)
        serves(client)


@test
def a_payload_over_the_maximum_ends_the_session(server):
    for kind, length in (WRITE, (64 << 20) + 1), (WRITE, 1 << 40), (READ, 1 << 32):
        with server.open("huge", EXTENDED) as client:
            client.send(client.raw_request(kind, 0, length, PAYLOAD_LEN)[1])
            client.must_close()


# ---- BLOCK_STATUS with a payload ----
def ask(client, length, *ids, flags=0, extra=b""):
    payload = struct.pack(">Q", length) + b"".join(struct.pack(">I", n) for n in ids) + extra
    request, data = client.raw_request(BLOCK_STATUS, 0, len(payload), PAYLOAD_LEN | flags, payload,
                                       ids)
    request.length = length     # what the answer is measured by
    client.send(data)
    return client.finish(request)


def ids_of(client):
    ids = {name: number for number, name in client.contexts.items()}
    return ids[BASE], ids[DEPTH]


@test
def a_status_payload_chooses_among_the_contexts(server):
    with server.open("huge", EXTENDED, BASE, DEPTH) as client:
        base, depth = ids_of(client)
        for ids, names in ((base,), {BASE}), ((depth,), {DEPTH}), ((depth, base), {BASE, DEPTH}):
            status = ask(client, TIB, *ids)
            same("the error", 0, status.error)
            same("contexts that answered", names, set(status.extents))
        one = ask(client, 1 << 33, base, flags=REQ_ONE)
        same("extents of REQ_ONE", 1, len(one.extents[BASE]))


@test
def a_status_without_payload_gets_all_contexts(server):
    with server.open("huge", EXTENDED, BASE, DEPTH) as client:
        same("contexts", {BASE, DEPTH}, set(client.call(BLOCK_STATUS, 0, TIB).extents))


@test
def ids_that_are_unknown_or_repeated_are_invalid(server):
    with server.open("disk", EXTENDED, BASE, DEPTH) as client:
        base, depth = ids_of(client)
        unknown = max(base, depth) + 1
        for ids in (unknown,), (0xffffffff,), (base, base), (base, depth, base), (base, unknown), (
                depth, depth), (base,) * 1000:
            same("the error of %r" % (ids[:4],), EINVAL, ask(client, 4096, *ids).error)
        serves(client)


@test
def a_context_that_was_not_selected_is_invalid(server):
    with server.open("disk", EXTENDED, BASE, DEPTH) as client:
        depth = ids_of(client)[1]
    with server.open("disk", EXTENDED, BASE) as client:
        ok(depth not in client.contexts, "ids are not the same in each session")
        same("the error", EINVAL, ask(client, 4096, depth).error)
        serves(client)


@test
def a_status_payload_of_an_odd_length_is_invalid_and_skipped(server):
    with server.open("disk", EXTENDED, BASE, DEPTH) as client:
        base = ids_of(client)[0]
        for extra in b"\0", b"\0\0", b"\0\0\0":
            same("the error", EINVAL, ask(client, 4096, base, extra=extra).error)
        for length in 1, 4, 7, 8, 9, 11:
            answer = client.call_raw(BLOCK_STATUS, 0, length, PAYLOAD_LEN, bytes(length))
            same("the error of %d bytes" % length, EINVAL, answer.error)
        empty = client.call_raw(BLOCK_STATUS, 0, 0, PAYLOAD_LEN)
        same("the error of no bytes", EINVAL, empty.error)
        serves(client)


@test
def a_status_payload_out_of_range_is_invalid(server):
    with server.open("disk", EXTENDED, BASE, DEPTH) as client:
        base = ids_of(client)[0]
        for length in 0, (64 << 20) + 1, (1 << 64) - 1:
            same("the error of %d" % length, EINVAL, ask(client, length, base).error)
        serves(client)


@test
def a_status_payload_may_come_in_pieces(server):
    with server.open("disk", EXTENDED, BASE, DEPTH) as client:
        base = ids_of(client)[0]
        payload = struct.pack(">QI", 4096, base)
        request, data = client.raw_request(BLOCK_STATUS, 0, 12, PAYLOAD_LEN, payload, (base,))
        request.length = 4096
        for at in range(len(data)):
            client.send(data[at:at + 1])
        same("the error", 0, client.finish(request).error)


main()
