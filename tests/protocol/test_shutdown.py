#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# SIGTERM with clients in all phases, by all addresses and in all modes at once; the server, the
# process pid=PID, is gone in the end. It has the exports `disk` and `held`, which answers when
# the file hold=PATH is gone.
import os
import signal
import sys
import time

from nbdwire import *
from tap import MODES, Server, reason

GRACE_SECONDS = 5           # for all but what is in flight


class Worker:
    """A client in transmission with a write in flight that the storage does not answer."""

    def __init__(self, server, mode):
        self.where = "%s, %s" % (server.address, mode)
        self.client = server.open("held", mode)
        self.write = self.client.submit(WRITE, 0, payload=b"w" * 4096)
        self.refused = []

    def try_more(self):
        """Two further requests; remembers those that were refused. False: it was closed."""
        try:
            asked = [self.client.request(WRITE_ZEROES, 4096, 512),
                     self.client.request(WRITE, 4096, payload=b"x" * 70000)]
            self.client.send(b"".join(data for _, data in asked))
            for request, _ in asked:
                if not self.client.finish(request).error:
                    raise AssertionError("%s: a request after SIGTERM is served" % self.where)
                self.refused.append(request.error)
            return True
        except (Closed, ConnectionError):
            return False


def is_stopping(client):
    """The server has seen the signal."""
    return client.info("disk").error == ERR_SHUTDOWN


def await_stopping(client):
    for _ in range(2500):
        if is_stopping(client):
            return
        time.sleep(0.002)
    raise AssertionError("an option is served after SIGTERM")


def scene(servers):
    """Everything at once: the server can be ended only once."""
    hold = servers[0].facts["hold"]
    pid = int(servers[0].facts["pid"])
    open(hold, "w").close()
    workers = [Worker(server, mode) for server in servers for mode in MODES]
    idle = [server.open("disk", mode) for server in servers for mode in MODES]
    choosing = [server.connect() for server in servers for _ in range(2)]
    os.kill(pid, signal.SIGTERM)
    await_stopping(choosing[0])
    for worker in workers:
        worker.try_more()
    for client, option in zip(choosing, (OPT_GO, OPT_ABORT, OPT_GO, OPT_ABORT)):
        answer = client.option(option, info_data("disk") if option == OPT_GO else b"")
        yield ("option %d is answered" % option, 0 if option == OPT_ABORT else ERR_SHUTDOWN,
               answer.error)
    for worker in workers:
        yield "later requests are refused (%s)" % worker.where, [ESHUTDOWN] * 2, worker.refused
    for client in idle + choosing:
        client.must_close(GRACE_SECONDS)
    yield "idle clients and those in the handshake are closed", True, True
    for worker in workers:
        worker.client.must_be_quiet(0.01)
    yield "those with requests in flight are not", True, True
    for server in servers:
        try:
            server.connect(timeout=2).close()
            yield "newcomers are refused (%s)" % server.address, "refused", "greeted"
        except (OSError, Violation):
            yield "newcomers are refused (%s)" % server.address, True, True
    os.unlink(hold)
    for worker in workers:
        yield ("what was in flight is finished (%s)" % worker.where, 0,
               worker.client.finish(worker.write).error)
        worker.client.must_close(GRACE_SECONDS)


def run():
    facts = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    servers = [Server(word, facts) for word in sys.argv[1:] if "=" not in word]
    failed = False
    try:
        for sentence, wanted, found in scene(servers):
            good = wanted == found
            failed |= not good
            print("ok - " + sentence if good else
                  "not ok - %s: wanted %r, found %r" % (sentence, wanted, found), flush=True)
    except Exception as error:  # the rest makes no sense without it
        print("not ok - a stopping server keeps the rules: " + reason(error))
        failed = True
    sys.exit(failed)


run()
