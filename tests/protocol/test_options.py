#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The handshake: greeting, client flags, each option but those about contexts and extended
# headers, and what is refused. The server has the exports `disk` (writable, 64 MiB, with a
# description), `readonly` (the same bytes) and others.
import struct
import time

from nbdwire import *
from tap import *

DISK_BYTES = 64 << 20
DESCRIPTION = "the disk of the tests – with a dash"
NOT_UTF8 = b"caf\xe9"


def goes_on(client):
    """The session still understands options."""
    same("the error of INFO", 0, client.info("disk").error)


def serves(client):
    """The session is in transmission, and in step."""
    same("the error of a read", 0, client.call(READ, 0, 512).error)


# ---- Greeting and client flags ----
@test
def the_greeting_comes_first_and_says_fixed_newstyle_and_no_zeroes(server):
    with server.connect(flags=None) as client:
        client.must_be_quiet()


@test
def unknown_client_flags_end_the_session_without_a_byte(server):
    for flags in 4, 0x80000003, 0xffffffff:
        with server.connect(flags=flags) as client:
            client.must_close()


@test
def a_client_of_the_old_days_gets_its_124_zeroes(server):
    with server.connect(flags=0) as client:
        client.export_name("disk", zeroes=True)
        same("size", DISK_BYTES, client.size)
        serves(client)


# ---- EXPORT_NAME ----
@test
def export_name_answers_ten_bytes_after_no_zeroes(server):
    with server.connect() as client:
        client.export_name("disk")
        same("size", DISK_BYTES, client.size)
        serves(client)
        client.disconnect()


@test
def export_name_serves_after_structured_reply_too(server):
    with server.negotiate(STRUCTURED) as client:
        client.export_name("disk")
        ok(client.flags & SEND_DF, "no DF after STRUCTURED_REPLY")
        serves(client)


@test
def a_name_that_export_name_cannot_open_ends_the_session_without_a_byte(server):
    for name in "nosuch", "n" * 256, "n" * 5000, b"di\0sk", NOT_UTF8:
        with server.connect() as client:
            client.send(option_bytes(OPT_EXPORT_NAME, as_bytes(name)))
            client.must_close()


# ---- ABORT ----
@test
def abort_is_acknowledged_and_ends_the_session(server):
    for data in b"", b"goodbye":
        with server.connect() as client:
            same("the error", 0, client.option(OPT_ABORT, data).error)
            client.must_close()


@test
def a_client_that_aborts_and_leaves_harms_nobody(server):
    for _ in range(20):
        with server.connect() as client:
            client.send(option_bytes(OPT_ABORT))
    with server.connect() as client:
        goes_on(client)


# ---- LIST ----
@test
def list_names_every_export_in_order_with_its_description(server):
    with server.connect() as client:
        answer = client.option(OPT_LIST)
        same("the error", 0, answer.error)
        names = [name for name, _ in answer.exports]
        same("names in byte order", sorted(names, key=str.encode), names)
        same("names that are there once", len(set(names)), len(names))
        ok({"disk", "readonly", "größe/Ω"} <= set(names), "names are missing: %r" % names)
        same("the description", DESCRIPTION, dict(answer.exports)["disk"])
        goes_on(client)


@test
def list_with_data_is_invalid_and_its_data_is_skipped(server):
    with server.connect() as client:
        same("the error", ERR_INVALID, client.option(OPT_LIST, b"surplus").error)
        goes_on(client)


# ---- INFO and GO ----
@test
def info_tells_size_flags_and_block_sizes(server):
    with server.connect() as client:
        infos = client.info("disk", INFO_BLOCK_SIZE).infos
        same("size", DISK_BYTES, infos[INFO_EXPORT][0])
        ok(INFO_BLOCK_SIZE in infos, "no block sizes")
        least, preferred, most = infos[INFO_BLOCK_SIZE]
        same("bytes of the smallest block", 1, least)
        ok(preferred >= 4096 and most >= 32 << 20, "block sizes %r" % (infos[INFO_BLOCK_SIZE],))


@test
def info_tells_name_and_description_when_asked(server):
    with server.connect() as client:
        infos = client.info("disk", INFO_NAME, INFO_DESCRIPTION).infos
        same("name", "disk", infos[INFO_NAME])
        same("description", DESCRIPTION, infos[INFO_DESCRIPTION])
        infos = client.info("größe/Ω", INFO_NAME).infos
        same("name", "größe/Ω", infos[INFO_NAME])


@test
def info_answers_the_same_twice_and_go_the_same_as_info(server):
    kinds = INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE, INFO_EXPORT
    with server.negotiate(STRUCTURED) as client:
        first, second = client.info("disk", *kinds), client.info("disk", *kinds)
        same("the second INFO", sorted(first.items), sorted(second.items))
        same("GO", sorted(first.items), sorted(client.go("disk", *kinds).items))
        serves(client)


@test
def unknown_and_repeated_information_requests_are_ignored(server):
    with server.connect() as client:
        infos = client.info("disk", 4, 0x7fff, 0xffff, INFO_NAME, INFO_NAME).infos
        ok(set(infos) <= {INFO_EXPORT, INFO_NAME, INFO_BLOCK_SIZE}, "information %r" % infos)
        many = client.info("disk", *[INFO_BLOCK_SIZE] * 30000)
        same("the error of 30000 requests", 0, many.error)
        same("the number of answers", len(many.items), len(many.infos))


@test
def an_unknown_export_is_unknown_and_the_next_is_opened(server):
    with server.connect() as client:
        for name in "nosuch", "dis", "disk ", "DISK", "disk/", "n" * 4096, "":
            for ask in client.info, client.go:
                answer = ask(name, INFO_BLOCK_SIZE)
                same("the error for %r" % name[:20], ERR_UNKNOWN, answer.error)
        same("the error", 0, client.go("disk").error)
        serves(client)


@test
def the_error_text_names_the_export_that_is_not_there(server):
    with server.connect() as client:
        answer = client.go("no\tsuch")
        ok("no" in answer.text and "such" in answer.text, "it says %r" % answer.text)
        ok(answer.text.isprintable(), "it says %r" % answer.text)


@test
def a_malformed_info_or_go_is_invalid_and_negotiation_goes_on(server):
    right = info_data("disk", [INFO_NAME])
    wrong = [right[:n] for n in range(len(right))] + [
        right + b"\0", right + b"\0\0",
        struct.pack(">I", 0xffffffff) + right[4:],
        struct.pack(">I", 5) + right[4:],
        info_data("disk")[:-2] + struct.pack(">H", 0xffff),
        info_data("n" * 4097), info_data(b"di\0sk"), info_data(b"disk\0"), info_data(NOT_UTF8),
    ]
    for option in OPT_INFO, OPT_GO:
        for data in wrong:
            with server.connect() as client:
                answer = client.option(option, data)
                same("the error for %r" % data[:40], ERR_INVALID, answer.error)
                same("information", [], answer.items)
                same("the error of a right one", 0, client.go("disk").error)


@test
def no_zeroes_follow_go(server):
    with server.connect(flags=FIXED_NEWSTYLE) as client:
        same("the error", 0, client.go("disk").error)
        client.must_be_quiet()
        serves(client)


# ---- Transmission flags ----
@test
def a_writable_file_offers_everything(server):
    everything = (HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES |
                  CAN_MULTI_CONN | SEND_CACHE | SEND_FAST_ZERO)
    for mode, flags in (SIMPLE, everything), (STRUCTURED, everything | SEND_DF), \
            (EXTENDED, everything | SEND_DF):
        with server.open("disk", mode) as client:
            same("flags after %s" % mode, flags, client.flags & ~ROTATIONAL)


@test
def a_readonly_export_offers_no_change(server):
    with server.open("readonly", STRUCTURED) as client:
        same("flags", HAS_FLAGS | READ_ONLY | SEND_DF | CAN_MULTI_CONN | SEND_CACHE,
             client.flags & ~ROTATIONAL)


# ---- STRUCTURED_REPLY, STARTTLS, what is unknown ----
@test
def structured_reply_may_be_repeated(server):
    with server.negotiate(STRUCTURED) as client:
        ok(client.structured_reply().error in (0, ERR_INVALID), "neither ACK nor INVALID")
        same("the error of GO", 0, client.go("disk").error)
        serves(client)


@test
def structured_reply_with_data_is_invalid_and_changes_nothing(server):
    with server.connect() as client:
        same("the error", ERR_INVALID, client.structured_reply(b"x").error)
        ok(not client.info("disk").infos[INFO_EXPORT][1] & SEND_DF, "DF is offered all the same")
        same("the error of GO", 0, client.go("disk").error)
        serves(client)      # the client takes simple replies only


@test
def starttls_is_refused_and_the_session_stays_plain(server):
    with server.connect() as client:
        ok(client.option(OPT_STARTTLS).error in (ERR_UNSUP, ERR_POLICY, ERR_PLATFORM),
           "not refused as a server without TLS does")
        ok(client.option(OPT_STARTTLS, b"data").error, "accepted with data")
        same("the error of GO", 0, client.go("disk").error)
        serves(client)


@test
def no_option_is_told_to_use_tls(server):
    with server.connect() as client:
        for option in range(13):
            if option not in (OPT_EXPORT_NAME, OPT_ABORT):
                ok(client.option(option).error != ERR_TLS_REQD, "option %d needs TLS" % option)


@test
def unknown_options_are_unsupported_and_their_data_is_skipped(server):
    with server.connect() as client:
        for number in 0, OPT_PEEK_EXPORT, 12, 255, 0x7fffffff, 0xffffffff:
            for data in b"", b"x", bytes(1000), bytes(65536):
                same("the error of option %d" % number, ERR_UNSUP,
                     client.option(number, data).error)
        goes_on(client)


# ---- Bytes that come in other pieces, and too many ----
@test
def options_that_come_byte_by_byte_are_understood(server):
    with server.connect(flags=None) as client:
        data = (struct.pack(">I", FIXED_NEWSTYLE | NO_ZEROES) +
                option_bytes(OPT_STRUCTURED_REPLY) +
                option_bytes(OPT_GO, info_data("disk", [INFO_BLOCK_SIZE])))
        for at in range(len(data)):
            client.send(data[at:at + 1])
            if at % 16 == 0:
                time.sleep(0.001)
        same("the first error", 0, client.answer(OPT_STRUCTURED_REPLY).error)
        client.structured = True
        same("the second error", 0, client.answer(OPT_GO).error)
        serves(client)


@test
def all_of_a_session_may_be_sent_at_once(server):
    with server.connect(flags=None) as client:
        go = option_bytes(OPT_GO, info_data("disk"))
        head = struct.pack(">I", 3) + option_bytes(99, b"abc") + option_bytes(OPT_LIST)
        request, data = client.request(READ, 4096, 512)
        client.send(head + go + data + client.request(DISC)[1])
        same("the first error", ERR_UNSUP, client.answer(99).error)
        ok(client.answer(OPT_LIST).exports, "no exports")
        same("the error of GO", 0, client.answer(OPT_GO).error)
        same("the error of the read", 0, client.finish(request).error)
        client.must_close()


@test
def a_wrong_magic_number_ends_the_session(server):
    with server.connect() as client:
        client.send(struct.pack(">QII", IHAVEOPT ^ 1, OPT_LIST, 0))
        client.must_close()


@test
def an_option_over_64_kib_is_too_big_and_its_data_is_skipped(server):
    for option in OPT_GO, OPT_SET_META_CONTEXT, OPT_LIST, 77:
        with server.connect() as client:
            for length in 65537, 300001, 1 << 20:
                same("the error", ERR_TOO_BIG, client.option(option, bytes(length)).error)
            goes_on(client)


@test
def an_option_over_1_mib_ends_the_session(server):
    for length in (1 << 20) + 1, 0x7fffffff, 0xffffffff:
        with server.connect() as client:
            client.send(option_bytes(OPT_GO, b"", length))
            client.must_close()


@test
def a_session_has_a_limited_number_of_options(server):
    with server.connect() as client:
        for _ in range(32):
            goes_on(client)
        try:
            for _ in range(1000):
                client.info("disk")
        except (Closed, ConnectionError):
            return
        raise AssertionError("1000 options were answered")


main()
