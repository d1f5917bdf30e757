# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Runs test functions, each named by a sentence, against the NBD addresses on the command line:
#
#   test_x.py [KEY=VALUE]... ADDRESS...      an address is unix:PATH or HOST:PORT
#
# and prints "ok - sentence" or "not ok - sentence: why" for each. Ends with 0, or with 1 when
# one has failed. Facts about the server (folders, pids) come as KEY=VALUE.
import sys
import traceback

from nbdwire import Client, Violation

SIMPLE, STRUCTURED, EXTENDED = MODES = "simple", "structured", "extended"


class Server:
    """The server under test, by one of its addresses."""

    def __init__(self, address, facts):
        self.address, self.facts = address, facts

    def connect(self, *args, **named):
        return Client(self.address, *args, **named)

    def negotiate(self, mode, **named):
        """A session that has chosen how it is answered."""
        client = self.connect(**named)
        if mode != SIMPLE:
            answer = (client.extended_headers if mode == EXTENDED else client.structured_reply)()
            same("the error of the choice", 0, answer.error)
        return client

    def open(self, name, mode=STRUCTURED, *contexts, **named):
        """A session in transmission."""
        client = self.negotiate(mode, **named)
        if contexts:
            same("the contexts", sorted(contexts),
                 sorted(context for _, context in client.set_contexts(name, *contexts).contexts))
        answer = client.go(name)
        if answer.error:
            raise Violation("GO of %s: %s" % (name, answer.text))
        return client


def same(what, wanted, found):
    if wanted != found:
        raise AssertionError("%s: wanted %s, found %s" % (what, show(wanted), show(found)))


def show(value):
    text = hex(value) if isinstance(value, int) and value > 0xffff else repr(value)
    return text if len(text) < 120 else text[:120] + "..."


def ok(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


tests = []


def test(function):
    """Once for each address: function(server)."""
    tests.append((function, [None]))
    return function


def test_once(function):
    """With the first address only."""
    tests.append((function, None))
    return function


def test_in(*modes):
    """Once for each address and each way of replies: function(server, mode)."""
    def add(function):
        tests.append((function, modes))
        return function
    return add


def reason(error):
    place = traceback.extract_tb(error.__traceback__)[1:]
    lines = ", ".join("%d" % frame.lineno for frame in place if frame.filename == sys.argv[0])
    kind = "" if isinstance(error, (AssertionError, Violation)) else type(error).__name__ + ": "
    return "%s%s (line %s)" % (kind, " ".join(str(error).split()) or "no reason", lines)


def run_one(function, server, mode, where):
    marks = ", ".join(mark for mark in (where, mode) if mark)
    sentence = function.__name__.replace("_", " ") + (" (%s)" % marks if marks else "")
    try:
        function(*((server, mode) if mode else (server,)))
    except Exception as error:  # whatever it is, the others run
        print("not ok - %s: %s" % (sentence, reason(error)), flush=True)
        return False
    print("ok - " + sentence, flush=True)
    return True


def main():
    facts = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    servers = [Server(word, facts) for word in sys.argv[1:] if "=" not in word]
    if not servers:
        sys.exit("%s: name at least one address, unix:PATH or HOST:PORT" % sys.argv[0])
    failed = 0
    for function, modes in tests:
        for server in servers[:1] if modes is None else servers:
            where = "" if modes is None else server.address.startswith("unix:") and "Unix" or "TCP"
            for mode in modes or [None]:
                failed += not run_one(function, server, mode, where)
    sys.exit(1 if failed else 0)
