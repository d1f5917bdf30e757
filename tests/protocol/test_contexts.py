#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# LIST_META_CONTEXT and SET_META_CONTEXT. The server has the exports `disk` and `readonly`.
import struct

from nbdwire import *
from tap import *

BASE, DEPTH = "base:allocation", "qemu:allocation-depth"
CHATTY = STRUCTURED, EXTENDED


def names(answer):
    same("the error", 0, answer.error)
    return sorted(name for _, name in answer.contexts)


def goes(client, name="disk"):
    same("the error of GO", 0, client.go(name).error)
    return client


def status_error(client):
    return client.call(BLOCK_STATUS, 0, 4096).error


@test
def contexts_need_structured_replies_first(server):
    with server.connect() as client:
        same("the error of SET", ERR_INVALID, client.set_contexts("disk", BASE).error)
        same("the error of LIST", ERR_INVALID, client.list_contexts("disk").error)
        same("the error of the status", EINVAL, status_error(goes(client)))


@test_in(*CHATTY)
def list_without_queries_lists_all_with_id_0(server, mode):
    with server.negotiate(mode) as client:
        answer = client.list_contexts("disk")
        ok({BASE, DEPTH} <= set(names(answer)), "it lists %r" % names(answer))
        same("ids", {0}, {number for number, _ in answer.contexts})


@test_in(*CHATTY)
def list_takes_a_namespace_as_wildcard(server, mode):
    with server.negotiate(mode) as client:
        same("base:", [BASE], names(client.list_contexts("disk", "base:")))
        ok(DEPTH in names(client.list_contexts("disk", "qemu:")), "qemu: lists nothing")
        same("both, and a whole one", [BASE, DEPTH],
             names(client.list_contexts("disk", "base:", BASE, "qemu:", DEPTH)))


@test_in(*CHATTY)
def what_is_unknown_is_ignored(server, mode):
    with server.negotiate(mode) as client:
        unknown = ("base:nosuch", "base:allocation2", "base:alloc", "nosuch:", "nosuch:x", "x-y:z",
                   "", ":", "base", "BASE:allocation", "qemu:dirty-bitmap:none")
        for ask in client.list_contexts, client.set_contexts:
            same("contexts", [], names(ask("disk", *unknown)))
            same("contexts", [BASE], names(ask("disk", *unknown, BASE)))


@test_in(*CHATTY)
def set_takes_no_wildcard(server, mode):
    with server.negotiate(mode) as client:
        same("contexts", [], names(client.set_contexts("disk", "base:", "qemu:")))
        same("the error of the status", EINVAL, status_error(goes(client)))


@test_in(*CHATTY)
def the_same_query_twice_is_one_context(server, mode):
    with server.negotiate(mode) as client:
        same("contexts", [BASE], names(client.set_contexts("disk", BASE, BASE, BASE)))
        same("the error of the status", 0, status_error(goes(client)))


@test_in(*CHATTY)
def each_selected_context_has_its_own_id_and_answers(server, mode):
    with server.open("disk", mode, BASE, DEPTH) as client:
        same("ids", 2, len(client.contexts))
        status = client.call(BLOCK_STATUS, 0, 4096)
        same("the error", 0, status.error)
        same("contexts that answered", {BASE, DEPTH}, set(status.extents))


@test_in(*CHATTY)
def set_without_queries_selects_none(server, mode):
    with server.negotiate(mode) as client:
        client.set_contexts("disk", BASE)
        same("contexts", [], names(client.set_contexts("disk")))
        same("the error of the status", EINVAL, status_error(goes(client)))


@test_in(*CHATTY)
def set_replaces_what_was_selected(server, mode):
    with server.negotiate(mode) as client:
        client.set_contexts("disk", BASE)
        client.set_contexts("disk", DEPTH)
        same("contexts that answer", {DEPTH}, set(goes(client).call(BLOCK_STATUS, 0, 512).extents))


@test_in(*CHATTY)
def a_failed_set_selects_none(server, mode):
    for name, data, error in (
            ("an unknown export", context_data("nosuch", [BASE]), ERR_UNKNOWN),
            ("a malformed option", context_data("disk", [BASE])[:-1], ERR_INVALID),
            ("no data", b"", ERR_INVALID)):
        with server.negotiate(mode) as client:
            client.set_contexts("disk", BASE)
            same("the error of " + name, error, client.option(OPT_SET_META_CONTEXT, data).error)
            client.contexts = {}
            same("the error of the status after " + name, EINVAL, status_error(goes(client)))


@test_in(*CHATTY)
def list_leaves_the_selection_alone(server, mode):
    with server.negotiate(mode) as client:
        client.set_contexts("disk", BASE)
        client.list_contexts("readonly", "qemu:")
        client.option(OPT_LIST_META_CONTEXT, b"bad")
        same("the error of the status", 0, status_error(goes(client)))


@test_in(*CHATTY)
def contexts_are_void_when_go_names_another_export(server, mode):
    with server.negotiate(mode) as client:
        client.set_contexts("disk", BASE)
        same("the error of INFO", 0, client.info("readonly").error)
        goes(client, "readonly")
        client.contexts = {}
        same("the error of the status", EINVAL, status_error(client))
        ok(not client.flags & BLOCK_STATUS_PAYLOAD, "BLOCK_STATUS_PAYLOAD is offered")


@test_in(*CHATTY)
def info_of_another_export_in_between_does_no_harm(server, mode):
    with server.negotiate(mode) as client:
        client.set_contexts("disk", BASE)
        client.info("readonly")
        client.go("nosuch")
        same("the error of the status", 0, status_error(goes(client)))


@test_in(*CHATTY)
def lengths_that_overrun_are_invalid_and_negotiation_goes_on(server, mode):
    right = context_data("disk", [BASE, "x:y"])
    wrong = [right[:n] for n in range(len(right))] + [
        right + b"\0",
        struct.pack(">I", 0xffffffff) + right[4:],
        struct.pack(">I", 5) + right[4:],
        right[:8] + struct.pack(">I", 3) + right[12:],
        right[:8] + struct.pack(">I", 0xffffffff) + right[12:],
        right[:12] + struct.pack(">I", 0xffffffff) + right[16:],
        right[:12] + struct.pack(">I", len(right)) + right[16:],
        context_data("n" * 4097, []), context_data(b"di\0sk", [BASE]),
        context_data(b"caf\xe9", [BASE]),
    ]
    with server.negotiate(mode) as client:
        for n, data in enumerate(wrong):
            if n % 15 == 14:     # a session has a limited number of options
                client.close()
                client = server.negotiate(mode)
            for option in OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT:
                answer = client.option(option, data)
                same("the error for %r" % data[:60], ERR_INVALID, answer.error)
        same("contexts of a right one", [BASE], names(client.set_contexts("disk", BASE)))
        client.close()


@test_in(*CHATTY)
def long_and_many_queries_are_borne(server, mode):
    with server.negotiate(mode) as client:
        ok(client.set_contexts("disk", "x:" + "y" * 4095).error in (ERR_INVALID, ERR_TOO_BIG),
           "a query of 4097 bytes is accepted")
        same("contexts", [], names(client.set_contexts("disk", "x:" + "y" * 4094)))
        same("contexts", [BASE], names(client.set_contexts("disk", *["x:y"] * 5000, BASE)))
        same("the error of the status", 0, status_error(goes(client)))


@test_in(*CHATTY)
def the_contexts_of_an_unknown_export_are_unknown(server, mode):
    with server.negotiate(mode) as client:
        for ask in client.list_contexts, client.set_contexts:
            same("the error", ERR_UNKNOWN, ask("nosuch", BASE).error)


main()
