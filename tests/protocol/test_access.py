#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Access lists of exports: who is not in one is told so, and sees nothing of the export. The
# server has the exports `open`, `guarded` (127.0.0.2 and 192.0.2.0/24), `closed` (nobody by
# TCP), `hidden` and `few` (one connection). port= is its TCP port on 127.0.0.1.
from nbdwire import *
from tap import *

ALL = {"open", "guarded", "closed", "few"}


def tcp(server, ours):
    return Server("127.0.0.1:%s@%s" % (server.facts["port"], ours), server.facts)


def names(server):
    with server.connect() as client:
        return {name for name, _ in client.option(OPT_LIST).exports}


def serves(server, name):
    with server.open(name) as client:
        same("the error of a read", 0, client.call(READ, 0, 512).error)


def refuses(server, name, ours, key):
    with server.negotiate(STRUCTURED) as client:
        for ask in client.info, client.go, lambda name: client.set_contexts(name, "base:"):
            answer = ask(name)
            same("the error", ERR_POLICY, answer.error)
            for word in ours, name, key:
                ok(word in answer.text, "it says %r, without %s" % (answer.text, word))
        same("the error of GO for another", 0, client.go("open").error)
    with server.connect() as client:
        client.send(option_bytes(OPT_EXPORT_NAME, name.encode()))
        client.must_close()


@test_once
def an_address_that_is_not_in_the_list_is_refused_and_told_why(server):
    refuses(tcp(server, "127.0.0.1"), "guarded", "127.0.0.1", "acl")
    serves(tcp(server, "127.0.0.2"), "guarded")
    refuses(tcp(server, "127.0.0.2"), "closed", "127.0.0.2", "acl")


@test_once
def who_comes_by_the_unix_socket_is_always_let_in(server):
    for name in ALL:
        serves(server, name)


@test_once
def a_list_shows_what_the_client_may_use_and_nothing_hidden(server):
    same("for the Unix socket", ALL, names(server))
    same("for 127.0.0.2", {"open", "guarded", "few"}, names(tcp(server, "127.0.0.2")))
    same("for 127.0.0.1", {"open", "few"}, names(tcp(server, "127.0.0.1")))


@test_once
def what_is_hidden_is_served_to_who_names_it(server):
    serves(server, "hidden")
    serves(tcp(server, "127.0.0.1"), "hidden")


@test_once
def an_export_that_is_full_says_so(server):
    with server.open("few"), server.connect() as client:
        answer = client.go("few")
        same("the error", ERR_POLICY, answer.error)
        ok("max_connections" in answer.text, "it says %r" % answer.text)
        same("the error of GO for another", 0, client.go("open").error)


main()
