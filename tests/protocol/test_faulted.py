#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Exports that cannot be opened: `refused` (nothing listens at port=) and `silent0` (a server
# that says nothing).
import time

from nbdwire import *
from tap import *


def is_told(server, name, text, seconds):
    begin = time.monotonic()
    with server.connect() as client:
        answer = client.go(name)
        same("the error", ERR_PLATFORM, answer.error)
        ok(text in answer.text, "it says %r" % answer.text)
        took = time.monotonic() - begin
        ok(took < seconds, "it took %g seconds" % took)
        same("the error of GO for another", 0, client.go("disk").error)


@test
def go_tells_at_once_what_is_wrong(server):
    is_told(server, "refused", "127.0.0.1:" + server.facts["port"], 8)


@test
def go_does_not_wait_longer_than_ten_seconds(server):
    is_told(server, "silent0", "127.0.0.1", 18)


main()
