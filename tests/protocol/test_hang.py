#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# No client can be left hanging, and none can hold another. The server has max_connections = 20
# and negotiation_timeout = 2, and the exports `disk` (64 MiB), `hangs` (opens when the file
# open_hold=PATH is gone), `held` (answers when hold=PATH is gone) and `late` (answers after some
# milliseconds). It is the process pid=PID and writes log=PATH; cli=PROGRAM and dir=DIR reach its
# control port.
import ctypes
import json
import os
import random
import resource
import socket
import struct
import subprocess
import time

from nbdwire import *
from tap import *

MOST_CONNECTIONS, NEGOTIATION_SECONDS, OPEN_SECONDS = 20, 2, 10
MIB = 1 << 20
AT_ONCE = 0.5               # seconds; generous, for slow machines and sanitizers
waiting = []                # a client whose export does not open, and since when


def clients(server):
    """What `nbd-cli clients` says, its rows by address."""
    out = subprocess.run([server.facts["cli"], "--dir", server.facts["dir"], "--json", "clients"],
                         check=True, capture_output=True, timeout=20).stdout
    return json.loads(out)["clients"]


def await_true(sentence, condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        ok(time.monotonic() < end, sentence)
        time.sleep(0.01)


def await_clients(server, number):
    await_true("there are not %d clients" % number, lambda: len(clients(server)) == number)


def timed(function):
    start = time.monotonic()
    function()
    return time.monotonic() - start


def serves(server, seconds=AT_ONCE):
    """A newcomer is greeted, negotiates and reads, and soon."""
    def session():
        with server.open("disk", STRUCTURED) as client:
            same("the error of a read", 0, client.call(READ, 0, 512).error)
    took = timed(session)
    ok(took < seconds, "a newcomer was served after %.2f s" % took)


class held:
    """While it lasts, the export `held` answers nothing."""

    def __init__(self, server):
        self.path = server.facts["hold"]

    def __enter__(self):
        open(self.path, "w").close()
        return self

    def release(self):
        if os.path.exists(self.path):
            os.unlink(self.path)

    def __exit__(self, *exception):
        self.release()


def cpu_seconds(server):
    with open("/proc/%s/stat" % server.facts["pid"]) as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- 1: greeted at once, whatever hangs ----
@test_once
def an_open_that_hangs_keeps_its_own_client_only(server):
    first = server.connect()
    first.send(option_bytes(OPT_GO, info_data("hangs")))
    waiting.append((first, time.monotonic()))
    for _ in range(10):
        serves(server)
    with server.connect() as second:
        second.send(option_bytes(OPT_INFO, info_data("hangs")))
        second.must_be_quiet()      # ... and leaves
    serves(server)


@test
def others_are_greeted_at_once_while_an_export_opens(server):
    ok(timed(lambda: server.connect().close()) < AT_ONCE, "the greeting was late")
    serves(server)
    with server.connect() as client:
        same("the error of LIST", 0, client.option(OPT_LIST).error)
        same("the error of INFO", 0, client.info("disk").error)


@test_once
def the_clients_table_says_who_waits_for_what(server):
    with held(server) as hold, server.open("held") as busy, server.open("disk") as idle, \
            server.connect() as choosing:
        time.sleep(1.1)             # times are told in seconds
        reads = [busy.submit(READ, 0, 512) for _ in range(3)]
        serves(server)
        await_true("3 requests in flight are not shown",
                   lambda: 3 in [row["in_flight"] for row in clients(server)])
        rows = clients(server)
        now = time.time()
        phases = sorted(row["phase"] for row in rows)
        ok({"opening", "options", "transmission"} <= set(phases), "phases %r" % phases)
        shown = {row["export"]: row for row in rows if row["phase"] == "transmission"}
        ok(shown["held"]["in_flight"] == 3 and shown["disk"]["in_flight"] == 0, "in flight")
        for row in rows:
            same("the address is known", True, bool(row["address"]))
            ok(now - 30 < stamp(row["since"]) <= now, "since %r" % row["since"])
            ok(now - 30 < stamp(row["last_activity"]) < now + 1,
               "last activity %r" % row["last_activity"])
        ok(stamp(shown["held"]["last_activity"]) > stamp(shown["disk"]["last_activity"]),
           "the busy one was active no later than the idle one")
        hold.release()
        busy.finish_all()
        same("errors", {0}, {read.error for read in reads})
        idle.close()
        choosing.close()


def stamp(value):
    """Seconds since 1970 of a time in JSON."""
    if isinstance(value, str):
        from datetime import datetime
        return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    return value / 1e6 if value > 1e12 else value


# ---- 4: the handshake has an end ----
@test
def a_handshake_that_does_not_go_on_is_ended(server):
    start = time.monotonic()
    silent, slow, idle = server.connect(flags=None), server.connect(), server.connect()
    served = server.open("disk")
    idle.info("disk")
    trickle = option_bytes(OPT_GO, info_data("n" * 4000))
    with silent, slow, idle, served:
        try:
            for at in range(len(trickle)):
                slow.send(trickle[at:at + 1])
                slow.must_be_quiet(0.1)
                ok(time.monotonic() - start < 10, "a client that trickles is held for ever")
        except (Violation, ConnectionError):
            pass
        for client in silent, idle:
            client.must_close()
        took = time.monotonic() - start
        ok(NEGOTIATION_SECONDS - 0.5 < took < NEGOTIATION_SECONDS + 3, "ended after %.1f s" % took)
        same("the error of who is through", 0, served.call(READ, 0, 512).error)


# ---- 1 again: the end of the one that waits ----
@test_once
def an_open_that_takes_too_long_is_answered_with_a_sentence(server):
    client, since = waiting[0]
    answer = client.answer(OPT_GO)
    took = time.monotonic() - since
    same("the error", ERR_PLATFORM, answer.error)
    ok("did not open in time" in answer.text, "it says %r" % answer.text)
    ok(OPEN_SECONDS - 1 < took < OPEN_SECONDS + 3, "answered after %.1f s" % took)
    same("the error of the next option", 0, client.info("disk").error)
    client.close()


@test_once
def an_export_whose_storage_is_back_opens(server):
    os.unlink(server.facts["open_hold"])

    def opens():
        with server.connect() as client:
            return client.go("hangs").error == 0
    await_true("it does not", opens)


# ---- 5: one reply for each request ----
@test_in(*MODES)
def each_of_many_requests_gets_exactly_one_reply(server, mode):
    rng = random.Random(mode)
    size = MIB
    for name in "late", "disk":
        with server.open(name, mode) as client:
            asked = []
            for _ in range(300):
                kind = rng.choice([READ, READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES,
                                   BLOCK_STATUS, RESIZE, 99])
                at, length = rng.choice([0, 512, size - 4096, 1 << 40]), rng.choice([0, 1, 4096])
                flags = rng.choice([0, 0, 0, FUA, 1 << 11])
                payload = b"w" * length if kind == WRITE else b""
                asked.append(client.request(kind, at, length, flags, payload))
            client.send(b"".join(data for _, data in asked))
            client.finish_all()
            client.must_be_quiet()
            ok(all(request.done for request, _ in asked), "a request is not answered")
            client.disconnect()


# ---- 6: who does not read holds only itself ----
@test_in(*MODES)
def a_client_that_does_not_read_holds_only_itself(server, mode):
    with server.open("disk", mode) as deaf:
        wanted = deaf.call(READ, 0, MIB).data
        asked = [deaf.request(READ, 0, MIB) for _ in range(300)]
        deaf.send(b"".join(data for _, data in asked))
        with server.open("disk", mode) as other:
            worst = max(timed(lambda: other.call(READ, 4096, 512)) for _ in range(200))
            ok(worst < AT_ONCE, "another client waited %.2f s" % worst)
        serves(server)
        for request, _ in asked:
            deaf.finish(request)
            ok(request.error == 0 and request.data == wanted, "wrong bytes came in the end")
            request.data = None


@test
def a_client_that_asks_for_lists_and_does_not_read_holds_only_itself(server):
    with server.connect() as deaf:
        deaf.socket.settimeout(0.3)
        try:
            for _ in range(60):
                deaf.send(option_bytes(OPT_LIST))
        except OSError:
            pass
        serves(server)


# ---- 7: an end that finishes what is in flight ----
@test_in(*MODES)
def disc_finishes_what_is_in_flight(server, mode):
    with held(server) as hold, server.open("held", mode) as client:
        asked = [client.request(READ, 0, 512), client.request(WRITE, 512, payload=b"w" * 512)]
        disc = client.request(DISC)[1]
        client.send(b"".join(data for _, data in asked) + disc)
        client.must_be_quiet()
        hold.release()
        for request, _ in asked:
            same("the error of %s" % request, 0, client.finish(request).error)
        client.must_close()


@test_in(*MODES)
def a_half_close_finishes_what_is_in_flight_without_spinning(server, mode):
    with held(server) as hold, server.open("held", mode) as client:
        read = client.submit(READ, 0, 4096)
        client.socket.shutdown(socket.SHUT_WR)
        client.must_be_quiet()
        before = cpu_seconds(server)
        time.sleep(0.3)
        ok(cpu_seconds(server) - before < 0.15, "the server is busy while it waits")
        serves(server)
        hold.release()
        same("the error", 0, client.finish(read).error)
        client.must_close()


@test
def a_half_close_in_the_handshake_or_within_a_request_ends_the_session(server):
    for data in b"", option_bytes(OPT_GO, info_data("disk"))[:20]:
        with server.connect() as client:
            client.send(data)
            client.socket.shutdown(socket.SHUT_WR)
            client.must_close()
    for length in 1, 27, 30:
        with server.open("disk") as client:
            client.send(client.request(WRITE, 0, payload=b"w" * 512)[1][:length])
            client.socket.shutdown(socket.SHUT_WR)
            client.must_close()
    serves(server)


# ---- 8: several connections ----
@test
def a_flush_on_one_connection_covers_writes_of_the_others(server):
    with server.open("disk") as one, server.open("disk") as two, server.open("disk") as three:
        ok(one.flags & CAN_MULTI_CONN, "CAN_MULTI_CONN is not offered")
        for n in range(20):
            data = struct.pack(">I", n) * 1024
            same("the error of the write", 0, one.call(WRITE, n * 4096, payload=data).error)
            same("the error of the flush", 0, two.call(FLUSH).error)
            same("what a third one reads", data, three.call(READ, n * 4096, 4096).data)
            same("the error of the FUA write", 0,
                 two.call(WRITE, n * 4096, 0, FUA, data[::-1]).error)
            same("what it reads then", data[::-1], three.call(READ, n * 4096, 4096).data)


# ---- 9: dead peers and small replies ----
def accepted_socket(server, client):
    """A copy of the server's end of a TCP connection."""
    libc = ctypes.CDLL(None, use_errno=True)
    pid = int(server.facts["pid"])
    pidfd = os.pidfd_open(pid)
    try:
        for number in os.listdir("/proc/%d/fd" % pid):
            if not os.readlink("/proc/%d/fd/%s" % (pid, number)).startswith("socket:"):
                continue
            fd = libc.syscall(438, pidfd, int(number), 0)   # pidfd_getfd
            if fd < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            copy = socket.socket(fileno=fd)
            if copy.family in (socket.AF_INET, socket.AF_INET6) and is_peer(copy, client):
                return copy
            copy.close()
    finally:
        os.close(pidfd)
    raise AssertionError("the server has no socket for this connection")


def is_peer(copy, client):
    try:
        return (copy.getsockname()[1] == client.socket.getpeername()[1] and
                copy.getpeername()[1] == client.socket.getsockname()[1])
    except OSError:         # it listens
        return False


@test
def accepted_tcp_sockets_have_nodelay_and_keepalive(server):
    if server.address.startswith("unix:"):
        return
    with server.open("disk") as client, accepted_socket(server, client) as accepted:
        def option(level, name):
            return accepted.getsockopt(level, name)
        ok(option(socket.IPPROTO_TCP, socket.TCP_NODELAY), "no TCP_NODELAY")
        ok(option(socket.SOL_SOCKET, socket.SO_KEEPALIVE), "no SO_KEEPALIVE")
        same("idle, interval, count", (30, 10, 3),
             tuple(option(socket.IPPROTO_TCP, name) for name in (
                 socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)))
        same("user timeout, ms", 300000, option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))


# ---- What needs to know how many clients there are: now nobody waits any more ----
@test
def clients_that_vanish_with_requests_in_flight_harm_nobody(server):
    with held(server) as hold:
        for _ in range(5):
            client = server.open("held")
            for at in range(0, 65536, 4096):
                client.submit(WRITE, at, payload=b"v" * 4096)
            if "unix:" not in server.address:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                         struct.pack("ii", 1, 0))
            client.close()
        serves(server)
        hold.release()
        await_clients(server, 0)
    serves(server)


# ---- 2: limits that are told ----
def fill(server):
    await_clients(server, 0)
    return [server.connect() for _ in range(MOST_CONNECTIONS)]


@test
def beyond_max_connections_the_reason_is_told(server):
    crowd = fill(server)
    try:
        with server.connect() as client:
            same("the error of LIST", 0, client.option(OPT_LIST).error)
            for ask in client.info, client.go:
                answer = ask("disk")
                same("the error", ERR_POLICY, answer.error)
                ok("max_connections" in answer.text, "it says %r" % answer.text)
            same("the error of ABORT", 0, client.option(OPT_ABORT).error)
        with server.connect() as client:
            client.send(option_bytes(OPT_EXPORT_NAME, b"disk"))
            client.must_close()
    finally:
        for client in crowd:
            client.close()
    await_clients(server, 0)
    serves(server)


def turned_away(server):
    with open(server.facts["log"]) as log:
        return sum("out of descriptors" in line for line in log)


@test
def without_descriptors_newcomers_are_closed_and_not_left_waiting(server):
    pid = int(server.facts["pid"])
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/%d/fd" % pid))
    told = turned_away(server)
    crowd = []
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, before[1]))
        closed = 0
        for _ in range(12):
            try:
                crowd.append(server.connect(timeout=5))
            except (Closed, ConnectionError):
                closed += 1
        ok(crowd and closed, "%d were greeted, %d closed" % (len(crowd), closed))
        # The log's line comes after the end of the connection.
        await_true("the log does not tell of %d closed connections" % closed,
                   lambda: turned_away(server) - told == closed)
    finally:
        for client in crowd:
            client.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    await_clients(server, 0)
    serves(server)


main()
