#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# nbd_allow: TCP peers that are not in it are closed at once. The server lets in 127.0.0.2 and
# has the export `open`; port= is its TCP port on 127.0.0.1, log= its log.
from nbdwire import *
from tap import *

REASON = "closed at once: its address is not in nbd_allow"


def lines(server):
    with open(server.facts["log"]) as log:
        return [line for line in log if REASON in line]


@test_once
def a_peer_that_is_not_allowed_is_closed_without_a_byte(server):
    for _ in range(200):
        with Stream("127.0.0.1:%s@127.0.0.1" % server.facts["port"]) as stream:
            stream.must_close()
    found = lines(server)
    ok(0 < len(found) < 100, "%d lines in the log" % len(found))
    ok("client 127.0.0.1:" in found[0], "the log says %r" % found[0])


@test_once
def the_others_are_served(server):
    for address in server.address, "127.0.0.1:%s@127.0.0.2" % server.facts["port"]:
        with Server(address, server.facts).open("open") as client:
            same("the error of a read", 0, client.call(READ, 0, 512).error)


main()
