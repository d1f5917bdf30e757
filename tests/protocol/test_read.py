#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The export export= can be read.
from nbdwire import *
from tap import *


@test
def it_is_served(server):
    with server.open(server.facts["export"]) as client:
        same("the error of a read", 0, client.call(READ, 0, 512).error)


main()
