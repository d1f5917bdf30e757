#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Misbehaves on the control port or in the NBD handshake and checks how that is answered.
# Arguments: name of an attack (or "list"), control port, NBD port, both on 127.0.0.1.
# Ends with 0 when the answer was right.
import os
import random
import resource
import socket
import struct
import sys
import time

PROGRAM = 0x3f0a37eb
NBDMAGIC = 0x4e42444d41474943
IHAVEOPT = 0x49484156454F5054
REPLY_MAGIC = 0x3e889045565a9
LAST = 0x80000000


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def receive(s, n):
    data = b""
    while len(data) < n:
        piece = s.recv(n - len(data))
        if not piece:
            raise EOFError("closed after %d of %d bytes" % (len(data), n))
        data += piece
    return data


def is_closed(s, seconds):
    """The peer ends the connection in this time; what it sends before is dropped."""
    s.settimeout(seconds)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            if not s.recv(65536):
                return True
    except ConnectionError:
        return True
    except socket.timeout:
        pass
    return False


def call_bytes(version=2, procedure=0, xid=7, program=PROGRAM, rpc=2, body=b""):
    call = struct.pack(">IIIIII", xid, 0, rpc, program, version, procedure)
    call += struct.pack(">IIII", 0, 0, 0, 0) + body
    return struct.pack(">I", LAST | len(call)) + call


def reply(s):
    mark, = struct.unpack(">I", receive(s, 4))
    assert mark & LAST, "a reply in several fragments"
    return receive(s, mark & ~LAST)


def must_answer(port):
    with connect(port) as s:
        s.sendall(call_bytes())
        assert reply(s) == struct.pack(">IIIIII", 7, 1, 0, 0, 0, 0), "NULL is not answered"


# ---- the control port ----
def rpc_null_works(rpc, nbd):
    must_answer(rpc)


def rpc_byte_by_byte(rpc, nbd):
    with connect(rpc) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in call_bytes():
            s.sendall(bytes([byte]))
        assert len(reply(s)) == 24


def rpc_many_fragments(rpc, nbd):
    whole = call_bytes()[4:]
    with connect(rpc) as s:
        for i in range(0, len(whole), 4):
            last = LAST if i + 4 >= len(whole) else 0
            s.sendall(struct.pack(">I", last | 4) + whole[i:i + 4])
        assert len(reply(s)) == 24


def rpc_several_calls_at_once(rpc, nbd):
    with connect(rpc) as s:
        s.sendall(b"".join(call_bytes(xid=i) for i in range(100)))
        seen = {struct.unpack(">I", reply(s)[:4])[0] for _ in range(100)}
        assert seen == set(range(100))


def rpc_half_a_record(rpc, nbd):
    held = [connect(rpc) for _ in range(20)]
    for s in held:
        s.sendall(call_bytes()[:17])
    must_answer(rpc)
    for s in held:
        s.close()
    must_answer(rpc)


def rpc_huge_fragment(rpc, nbd):
    for mark in (0xffffffff, 0x7fffffff, 0x80000000 | (1 << 30)):
        with connect(rpc) as s:
            s.sendall(struct.pack(">I", mark) + bytes(100))
            assert is_closed(s, 15), "a fragment of %d is awaited" % (mark & 0x7fffffff)
    must_answer(rpc)


def rpc_endless_empty_fragments(rpc, nbd):
    with connect(rpc) as s:
        try:
            for _ in range(200):
                s.sendall(struct.pack(">I", 0) * 1000)
        except OSError:
            pass
        must_answer(rpc)


def rpc_garbage(rpc, nbd):
    rng = random.Random(1)
    for i in range(200):
        with connect(rpc) as s:
            try:
                s.sendall(rng.randbytes(rng.randrange(1, 400)))
            except OSError:
                pass
    for i in range(200):
        body = rng.randbytes(rng.randrange(0, 200) * 4)
        with connect(rpc) as s:
            s.sendall(call_bytes(procedure=rng.choice([2, 3, 4, 7]), body=body))
            try:
                reply(s)
            except EOFError:
                pass
    must_answer(rpc)


def rpc_truncated_arguments(rpc, nbd):
    """GARBAGE_ARGS, and the connection goes on."""
    with connect(rpc) as s:
        s.sendall(call_bytes(procedure=2, body=struct.pack(">I", 0xfffffff0)))
        assert struct.unpack(">IIIIII", reply(s)) == (7, 1, 0, 0, 0, 4)
        s.sendall(call_bytes())
        assert len(reply(s)) == 24


def rpc_wrong_version(rpc, nbd):
    for version in (0, 1, 3, 0xffffffff):
        with connect(rpc) as s:
            s.sendall(call_bytes(version=version))
            assert struct.unpack(">8I", reply(s)) == (7, 1, 0, 0, 0, 2, 2, 2), \
                "version %d is not answered with 2..2" % version


def rpc_wrong_program(rpc, nbd):
    with connect(rpc) as s:
        s.sendall(call_bytes(program=100003))
        assert struct.unpack(">6I", reply(s)) == (7, 1, 0, 0, 0, 1)


def rpc_wrong_procedure(rpc, nbd):
    with connect(rpc) as s:
        s.sendall(call_bytes(procedure=999))
        assert struct.unpack(">6I", reply(s)) == (7, 1, 0, 0, 0, 3)


def rpc_wrong_rpc_version(rpc, nbd):
    with connect(rpc) as s:
        s.sendall(call_bytes(rpc=3))
        assert struct.unpack(">6I", reply(s)) == (7, 1, 1, 0, 2, 2)


def rpc_300_connections(rpc, nbd):
    held = []
    try:
        for i in range(300):
            s = connect(rpc)
            s.sendall(call_bytes(xid=i)[:20])
            held.append(s)
    finally:
        for s in held:
            s.close()
    end = time.monotonic() + 10
    while True:
        try:
            return must_answer(rpc)
        except (OSError, EOFError):
            if time.monotonic() > end:
                raise


# ---- the NBD handshake ----
def greeting(s):
    assert struct.unpack(">QQ", receive(s, 16)) == (NBDMAGIC, IHAVEOPT)
    return struct.unpack(">H", receive(s, 2))[0]


def option(number, data=b"", length=None):
    return struct.pack(">QII", IHAVEOPT, number, len(data) if length is None else length) + data


def option_reply(s, number):
    magic, option_, kind, length = struct.unpack(">QIII", receive(s, 20))
    assert magic == REPLY_MAGIC and option_ == number
    return kind, receive(s, length)


def negotiate(nbd):
    s = connect(nbd)
    greeting(s)
    s.sendall(struct.pack(">I", 3))
    return s


def nbd_silent_clients_are_ended(rpc, nbd):
    held = [connect(nbd) for _ in range(50)]
    for s in held[:25]:
        greeting(s)
        s.sendall(struct.pack(">I", 3))
    for s in held:
        assert is_closed(s, 15), "a client that says nothing is held for ever"


def nbd_slow_clients_are_ended(rpc, nbd):
    """Bytes that trickle do not prolong the time for the handshake."""
    s = negotiate(nbd)
    end = time.monotonic() + 15
    try:
        for byte in option(7, bytes(1000)):
            s.sendall(bytes([byte]))
            s.settimeout(0.1)
            try:
                if not s.recv(4096):
                    return
            except socket.timeout:
                pass
            assert time.monotonic() < end, "a trickling client is held for ever"
    except ConnectionError:
        return


def nbd_unknown_option(rpc, nbd):
    with negotiate(nbd) as s:
        s.sendall(option(12345, b"x" * 1000))
        assert option_reply(s, 12345)[0] == 0x80000001
        s.sendall(option(3))
        while option_reply(s, 3)[0] != 1:
            pass


def nbd_huge_option(rpc, nbd):
    with negotiate(nbd) as s:
        s.sendall(option(7, b"", 0xffffffff))
        try:
            s.sendall(bytes(1 << 20))
        except OSError:
            return
        assert is_closed(s, 15), "an option of 4 GiB is awaited for ever"


def nbd_long_name(rpc, nbd):
    with negotiate(nbd) as s:
        name = b"n" * 5000
        s.sendall(option(7, struct.pack(">I", len(name)) + name + bytes(2)))
        assert option_reply(s, 7)[0] & 0x80000000
        s.sendall(option(2))
        assert option_reply(s, 2)[0] == 1


def nbd_wrong_magic(rpc, nbd):
    with negotiate(nbd) as s:
        s.sendall(bytes(16))
        assert is_closed(s, 15)


def nbd_wrong_request_magic(rpc, nbd):
    with negotiate(nbd) as s:
        name = b"file/disk"
        s.sendall(option(7, struct.pack(">I", len(name)) + name + bytes(2)))
        while option_reply(s, 7)[0] != 1:
            pass
        s.sendall(b"\xff" * 28)
        assert is_closed(s, 15)


def nbd_1000_greetings(rpc, nbd):
    held = []
    try:
        for _ in range(1000):
            held.append(connect(nbd))
    finally:
        for s in held:
            s.close()
    negotiate(nbd).close()


attacks = {name: thing for name, thing in list(globals().items())
           if name.startswith(("rpc_", "nbd_")) and callable(thing)}
if sys.argv[1] == "list":
    print("\n".join(attacks))
else:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    attacks[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
