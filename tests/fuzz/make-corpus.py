#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Writes the inputs from which the fuzz targets start: make-corpus.py DIRECTORY. Each target
# has its own folder there. Only what a decent peer might send, and a few mistakes.
import json
import os
import struct
import sys

IHAVEOPT = 0x49484156454F5054


def write(target, name, data):
    folder = os.path.join(sys.argv[1], target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


# ---- handshake ----

def option(number, data=b""):
    return struct.pack(">QII", IHAVEOPT, number, len(data)) + data


def info(name, *infos):
    name = name.encode()
    return (struct.pack(">I", len(name)) + name + struct.pack(">H", len(infos)) +
            b"".join(struct.pack(">H", i) for i in infos))


def contexts(name, *queries):
    name = name.encode()
    data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
    for query in queries:
        data += struct.pack(">I", len(query)) + query.encode()
    return data


def compact(command, flags, offset, length, cookie=1, payload=b""):
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + payload


def extended(command, flags, offset, length, cookie=1, payload=b""):
    return struct.pack(">IHHQQQ", 0x21E41C71, flags, command, cookie, offset, length) + payload


def handshakes():
    flags = struct.pack(">I", 3)
    go = option(7, info("disk1"))
    read = compact(0, 0, 0, 4096)
    yield "go", flags + go + read
    yield "go-infos", flags + option(7, info("disk1", 1, 2, 3, 0)) + read
    yield "info", flags + option(6, info("")) + option(6, info("iso", 1)) + go
    yield "list", flags + option(3) + option(3, b"x") + option(2)
    yield "export-name", flags + option(1, b"disk1") + read
    yield "zeroes", struct.pack(">I", 1) + option(1, b"iso") + read
    yield "structured", flags + option(8) + option(10, contexts("disk1", "base:allocation")) + \
        go + compact(7, 0, 0, 65536) + read
    yield "extended", flags + option(11) + option(9, contexts("disk1")) + \
        option(9, contexts("disk1", "qemu:", "base:")) + \
        option(10, contexts("disk1", "base:allocation", "x:y")) + go + \
        extended(7, 0, 0, 65536) + extended(0, 0, 0, 512)
    yield "unknown", flags + option(5) + option(4) + option(99, b"x" * 100) + go
    yield "map", flags + option(7, info("@map/0b2e8c60-7d2f-4b55-8c66-3b1c6f1f2a77"))
    yield "long", flags + option(7, b"\0\0\x10\1" + b"n" * 4097 + b"\0\0") + go


def transmissions():
    payload = bytes(range(256)) * 2
    for kind, request in ((0, compact), (1, compact), (2, extended)):
        write_flags = 0x20 if request is extended else 0
        requests = [request(0, 0, 0, 512), request(0, 0, 1000, 20000), request(0, 4, 0, 300000),
                    request(1, write_flags, 4096, 512, 2, payload), request(3, 0, 0, 0),
                    request(1, write_flags | 1, 0, 512, 3, payload), request(4, 0, 0, 65536),
                    request(5, 0, 0, 65536), request(6, 2, 512, 4096), request(6, 0x10, 0, 1 << 20),
                    request(7, 0, 0, 1 << 20), request(7, 8, 512, 4096),
                    request(0, 0, (1 << 20) - 10, 100), request(99, 0, 0, 0),
                    request(1, write_flags, 1 << 20, 512, 4, payload), request(2, 0, 0, 0)]
        if request is extended:
            requests.insert(0, extended(7, 0x20, 0, 12, 9, struct.pack(">QI", 4096, 1)))
        for export in range(3):
            for chosen in (0, 0x80):
                start = bytes([kind + 4 * export + chosen])
                yield f"all-{kind}-{export}-{chosen}", start + b"\0" + b"".join(requests)
        for i, one in enumerate(requests):
            yield f"one-{kind}-{i}", bytes([kind + 0x80, 7]) + one + requests[0]


# ---- control port ----

def xdr_string(text):
    data = text.encode()
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


def u32(*values):
    return b"".join(struct.pack(">I", v) for v in values)


def u64(value):
    return struct.pack(">Q", value)


def store(handler, target, **opts):
    data = xdr_string(handler) + xdr_string(target) + u32(len(opts))
    for key, value in opts.items():
        data += xdr_string(key) + xdr_string(value)
    return data


def call(procedure, args=b"", version=2, program=0x3F0A37EB, xid=1, fragments=1):
    body = u32(xid, 0, 2, program, version, procedure, 0, 0, 0, 0) + args
    size = len(body) // fragments
    parts = [body[i * size:(i + 1) * size] for i in range(fragments - 1)]
    parts.append(body[(fragments - 1) * size:])
    return b"".join(u32(len(p) | (0x80000000 if p is parts[-1] else 0)) + p for p in parts)


def calls():
    cookie = "0b2e8c60-7d2f-4b55-8c66-3b1c6f1f2a77"
    empty = store("", "")
    create = xdr_string("") + xdr_string("new") + xdr_string("text") + \
        store("mem", "x", size="1M") + u64(1 << 20) + u32(0, 0, 0)
    premap = empty + xdr_string("disk1") + u32(0, 0, 30, 60, 1) + xdr_string("host") + \
        xdr_string(cookie) + xdr_string("")
    unmap = xdr_string("") + empty + xdr_string("disk1") + xdr_string("/dev/nbd0") + \
        xdr_string("host") + u32(0)
    every = {
        "null": call(0), "hello": call(1, xdr_string("host") + xdr_string("agent 1")),
        "create": call(2, create), "delete": call(3, empty + xdr_string("disk1") + u32(0, 0)),
        "forget": call(3, empty + xdr_string("disk1") + u32(1, 1)),
        "premap": call(4, premap),
        "postmap": call(5, xdr_string(cookie) + u32(1) + xdr_string("/dev/nbd0") +
                        xdr_string("")),
        "unmap": call(6, u32(0) + unmap), "unmap-done": call(6, u32(1) + unmap),
        "list": call(7, xdr_string("") + u32(0) + xdr_string("") + u32(0)),
        "get": call(8, xdr_string("disk1")),
        "clients": call(13, xdr_string("") + u64(0) + u32(10)),
        "kick": call(14, u64(1) + xdr_string("why")),
        "job": call(22, xdr_string(cookie) + u32(30000)),
        "jobs": call(23, xdr_string("") + u32(0)),
        "cancel": call(24, xdr_string(cookie)), "status": call(25), "level": call(27, u32(7)),
        "version": call(0, version=9), "program": call(0, program=7), "none": call(99),
        "fragments": call(1, xdr_string("host") + xdr_string("agent"), fragments=7),
        "garbage": call(1, u32(0xFFFFFFFF)),
    }
    for name, data in every.items():
        yield name, b"\0" + data
    yield "all", b"\0" + b"".join(every.values())
    yield "refused", b"\x80" + b"".join(every.values())
    yield "create-map", b"\5" + every["create"] + every["premap"] + every["list"]


# ---- state ----

def states():
    uuid = "0b2e8c60-7d2f-4b55-8c66-3b1c6f1f2a7"
    time = "2026-11-20T10:00:00.000000Z"
    mapping = {"cookie": uuid + "8", "client": "host-a", "client_boot": uuid + "0",
               "nbd": "/dev/nbd0", "maptime": time, "timeout": 30, "dead_timeout": 60,
               "connections": 1, "readonly": False}
    export = {"name": "disk1", "description": "d", "handler": "mem", "target": "one",
              "opts": {"size": "1M"}, "size": 1048576, "blksize": 512, "prealloc": False,
              "readonly": False, "created_at": time, "max_connections": 3,
              "handler_data": {"size": 1048576}, "future": [1, {"a": None}],
              "mappings": [mapping]}
    job = {"kind": "create", "state": "failed", "export": "disk1", "token": uuid + "1",
           "started": time, "ended": time, "error": {"errno": 28, "message": "full"}}
    old = {"vol1/disk1": {"type": 0, "nbd": "/dev/nbd0", "size": 4096, "blksize": 512,
                          "prealloc": False, "readonly": True, "status": 2, "timeout": 30,
                          "maptime": "2020-01-02 03:04:05"},
           "disk2": {"type": 16, "size": 4096}}

    def file(version=2, exports=None, jobs=None, **more):
        return dict({"format": "nbd-runner-state", "version": version, "generation": 7,
                     "saved_at": time, "saved_by": "nbd-runner 1.0.0",
                     "exports": exports if exports is not None else {},
                     "jobs": jobs if jobs is not None else {}, "checksum": "0" * 64}, **more)

    for name, state in {
            "empty": {}, "version-1": old, "newer": file(99), "nothing": file(),
            "one": file(exports={uuid + "7": export}, jobs={uuid + "9": job}),
            "twice": file(exports={uuid + "7": export, uuid + "5": export}),
            "missing": file(exports={uuid + "7": dict(export, handler="tape")}),
            "bad-id": file(exports={"x": export}, jobs={"y": job}),
            "unknown": file(exports={uuid + "7": export}, future={"a": [1]}),
            "types": file(exports={uuid + "7": {"name": 1, "size": "x"}, uuid + "8": []}),
            "no-exports": file(exports=[], jobs=[])}.items():
        yield name, json.dumps(state, indent=1).encode()
    yield "none", b""
    yield "text", b"not json {"
    yield "deep", b"[" * 200 + b"]" * 200


def configurations():
    generic = b"[generic]\n"
    yield "none", b""
    yield "settings", (generic + b"threads = 2\nrpchost = ::1, 10.0.0.1\nrpc_allow=10.0.0.0/8\n"
                       b"max_inflight_bytes = 1G\nlog_level=debug\nfile_roots=/a;/b\n"
                       b"drain_timeout=3\nnbd_allow=::1\nrequest_timeout=9\n")
    yield "stock", (generic + b"\tuser = nbd\n\tport = 10809\n\tlistenaddr = ::\n"
                    b"allowlist = true\nunixsock=/s\nmax_threads=4\nduallisten=false\n"
                    b"[export1]\n\texportname = /x\n\tcopyonwrite = false\n\ttimeout = 30\n"
                    b"\tvirtstyle = ipliteral\n\tfilesize = 10000\n")
    yield "tls", generic + b"certfile=/c\nkeyfile=/k\ncacertfile=/a\nforce_tls=true\n"
    export = (b"[a]\r\nbackstore = gluster\r\ntarget = v/f\r\nopt.host = g\r\nsize = 1G\r\n"
              b"create = true\r\nprealloc = true\r\nreadonly = 0\r\ntrim = false\r\n"
              b"description = a\\sb\r\nhidden = 1\r\nacl = 10.0.0.0/8 ::1\r\n"
              b"default_deny = 1\r\nmax_connections = 3\r\ndrain_timeout = 5\r\n"
              b"detect-zeroes = on\r\nauthfile = main\r\n")
    yield "exports", generic + b"\0" + export
    yield "twice", b"[a]\nexportname=/a\n\0[a]\nexportname=/a\n"
    yield "shared", b"[a]\nexportname=/a\n\0[b]\nexportname=/a\nreadonly=true\n"
    yield "keys", b"\0[a]\nkillswitch=1\nbitmaps=x\nprerun=y\nport=1\nsync=true\n"
    yield "mistakes", b"x=1\n[a\n[b]c]\n[a]\n[a]\ny\n=z\nk=1\nk=2\n"
    yield "bytes", b"\xef\xbb\xbf[a]\n\0[a]\nx=\xff\n"


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make-corpus.py DIRECTORY")
    for name, data in handshakes():
        write("fuzz_handshake", name, b"\0" + data)
        write("fuzz_handshake", name + "-bytewise", b"\1" + data)
    for name, data in transmissions():
        write("fuzz_transmission", name, data)
    for name, data in calls():
        write("fuzz_rpc", name, data)
    for name, data in states():
        write("fuzz_state", name, data)
    for name, data in configurations():
        write("fuzz_config", name, data)


main()
