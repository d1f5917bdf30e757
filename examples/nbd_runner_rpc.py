#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
"""Create, list and delete exports of nbd-runner over its control port.

Needs nothing but Python 3: ONC-RPC and XDR are the few lines below. Run it, or import it:

    with Daemon("storage1") as daemon:                # or Daemon(unix="/run/.../control.sock")
        job = daemon.create("file", "disk1", size=10 << 30)
        daemon.wait(job["id"])
        for export in daemon.exports():
            print(export["name"], export["size"])

The numbers are those of rpc_nbd.x, which is installed with nbd-runner; what the procedures do
is in control-protocol.md.
"""
import argparse
import os
import socket
import struct
import sys
import uuid

PROGRAM, VERSION = 0x3F0A37EB, 2
PORT = 24110

NR_HELLO, NR_CREATE, NR_DELETE, NR_LIST, NR_EXPORT_GET = 1, 2, 3, 7, 8
NR_JOB_GET, NR_JOBS, NR_JOB_CANCEL = 22, 23, 24

NR_J_DONE, NR_J_FAILED, NR_J_CANCELED = 4, 5, 6
WAIT_MS = 10000

CODES = ("OK", "EINVAL", "EPERM", "ENOENT", "EEXIST", "EBUSY", "ESTATE", "ENOSPC", "EBACKEND",
         "ETIMEOUT", "ELIMIT", "ENOTSUP", "ECANCELED", "ECONFIG", "EINTERNAL")
JOB_STATES = ("queued", "running", "converging", "retrying", "done", "failed", "canceled")
EXPORT_STATES = ("creating", "ready", "listening", "finalising", "handed-over", "draining",
                 "faulted")


class Refused(Exception):
    """The daemon said no: code ("ENOENT"), errno (0: none), and its sentence."""

    def __init__(self, code, errno, message):
        super().__init__(message)
        self.code, self.errno = code, errno


class Broken(Exception):
    """The connection, or what came over it, is of no use."""


# ---- XDR (RFC 4506) ----

class Writer:
    def __init__(self):
        self.data = bytearray()

    def u32(self, value):
        self.data += struct.pack(">I", value)

    def u64(self, value):
        self.data += struct.pack(">Q", value)

    def boolean(self, value):
        self.u32(1 if value else 0)

    def string(self, text):
        data = text.encode()
        self.u32(len(data))
        self.data += data + bytes(-len(data) % 4)

    def backstore(self, handler, target, opts=()):
        self.string(handler)
        self.string(target)
        self.u32(len(opts))
        for key, value in opts:
            self.string(key)
            self.string(value)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        if length > len(self.data) - self.at:
            raise Broken("an answer of the daemon is too short")
        self.at += length
        return self.data[self.at - length:self.at]

    def u32(self):
        return struct.unpack(">I", self.take(4))[0]

    def u64(self):
        return struct.unpack(">Q", self.take(8))[0]

    def boolean(self):
        return self.u32() != 0

    def string(self):
        length = self.u32()
        text = self.take(length).decode()
        self.take(-length % 4)
        return text

    def array(self, element):
        return [element() for _ in range(self.u32())]

    def word(self, words):
        number = self.u32()
        return words[number] if number < len(words) else str(number)

    def error(self):
        return {"errno": self.u32(), "message": self.string()}

    def opt(self):
        return self.string(), self.string()

    def mapping(self):
        return {"cookie": self.string(), "state": self.u32(), "client": self.string(),
                "device": self.string(), "since": self.u64(), "timeout_s": self.u32(),
                "dead_timeout_s": self.u32(), "connections": self.u32(),
                "connected": self.u32(), "readonly": self.boolean()}

    def export(self):
        return {"id": self.string(), "name": self.string(), "description": self.string(),
                "backstore": self.string(), "target": self.string(),
                "opts": dict(self.array(self.opt)), "origin": self.u32(),
                "origin_file": self.string(), "state": self.word(EXPORT_STATES),
                "created": self.u64(), "size": self.u64(), "block_min": self.u32(),
                "block_preferred": self.u32(), "block_max": self.u32(), "flags": self.u32(),
                "readonly": self.boolean(), "prealloc": self.boolean(),
                "max_connections": self.u32(), "connections": self.u32(),
                "mappings": self.array(self.mapping), "job": self.string(),
                "fault": self.error()}

    def job(self):
        return {"id": self.string(), "kind": self.u32(), "state": self.word(JOB_STATES),
                "export": self.string(), "started": self.u64(), "ended": self.u64(),
                "attempts": self.u32(), "done_bytes": self.u64(), "total_bytes": self.u64(),
                "rate_bps": self.u64(), "limit_bps": self.u64(), "eta_s": self.u64(),
                "code": self.word(CODES), "error": self.error()}


# ---- ONC-RPC (RFC 5531) ----

class Daemon:
    def __init__(self, host="localhost", port=PORT, unix=None, timeout=25):
        self.where = (host, port, unix)
        self.timeout = timeout
        self.xid = int.from_bytes(os.urandom(3), "big")
        self.socket = None
        self.connect()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def connect(self):
        host, port, unix = self.where
        self.close()
        if unix is None:
            self.socket = socket.create_connection((host, port), self.timeout)
            return
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(self.timeout)
        self.socket.connect(unix)

    def close(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None

    def receive(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise Broken("the daemon has closed the connection")
            data += more
        return data

    def receive_record(self):
        """A record has one or more fragments; the top bit of a header marks the last."""
        record, header = b"", 0
        while not header & 0x80000000:
            header = struct.unpack(">I", self.receive(4))[0]
            record += self.receive(header & 0x7FFFFFFF)
        return record

    def call(self, procedure, arguments):
        """Returns a Reader at the result, behind the code; a refusal is raised."""
        self.xid += 1
        call = struct.pack(">10I", self.xid, 0, 2, PROGRAM, VERSION, procedure, 0, 0, 0, 0)
        call += arguments.data
        self.socket.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
        answer = Reader(self.receive_record())
        xid, is_reply, is_denied = answer.u32(), answer.u32(), answer.u32()
        if xid != self.xid or is_reply != 1 or is_denied:
            raise Broken("this is no answer to the call: is that an nbd-runner?")
        answer.u32()        # the verifier's flavour and its body
        answer.string()
        status = answer.u32()
        if status != 0:
            raise Broken("the daemon does not understand procedure %d (RPC status %d)"
                         % (procedure, status))
        code = answer.word(CODES)
        if code != "OK":
            error = answer.error()
            raise Refused(code, error["errno"], error["message"])
        return answer

    # ---- Procedures ----

    def create(self, handler, target, size=0, name="", prealloc=False, adopt=False,
               readonly=False, description="", opts=()):
        """Returns the job. A lost answer is asked for again: the same token, the same job."""
        args = Writer()
        args.string(str(uuid.uuid4()))
        args.string(name)
        args.string(description)
        args.backstore(handler, target, opts)
        args.u64(size)
        for flag in (prealloc, adopt, readonly):
            args.boolean(flag)
        try:
            return self.call(NR_CREATE, args).job()
        except (OSError, Broken):
            self.connect()
            return self.call(NR_CREATE, args).job()

    def delete(self, name, keep_data=False, force=False):
        """Returns the job."""
        args = Writer()
        args.backstore("", "")
        args.string(name)
        args.boolean(keep_data)
        args.boolean(force)
        return self.call(NR_DELETE, args).job()

    def export(self, name):
        args = Writer()
        args.string(name)
        return self.call(NR_EXPORT_GET, args).export()

    def exports(self):
        """All of them, page by page."""
        after, more = "", True
        while more:
            args = Writer()
            args.string("")     # of every handler
            args.u32(0)         # in every state
            args.string(after)
            args.u32(0)         # as many as fit
            answer = self.call(NR_LIST, args)
            rows = answer.array(answer.export)
            more = answer.boolean() and bool(rows)
            yield from rows
            after = rows[-1]["name"] if rows else ""

    def job(self, ident, wait_ms=0):
        args = Writer()
        args.string(ident)
        args.u32(wait_ms)
        return self.call(NR_JOB_GET, args).job()

    def jobs(self):
        after, more = "", True
        while more:
            args = Writer()
            args.string(after)
            args.u32(0)
            answer = self.call(NR_JOBS, args)
            rows = answer.array(answer.job)
            more = answer.boolean() and bool(rows)
            yield from rows
            after = rows[-1]["id"] if rows else ""

    def cancel(self, ident):
        args = Writer()
        args.string(ident)
        return self.call(NR_JOB_CANCEL, args).job()

    def wait(self, ident, progress=None):
        """Until the job has ended; one that has not ended well is raised as Refused."""
        while True:
            job = self.job(ident, WAIT_MS)
            if progress is not None:
                progress(job)
            if job["state"] == JOB_STATES[NR_J_DONE]:
                return job
            if job["state"] in (JOB_STATES[NR_J_FAILED], JOB_STATES[NR_J_CANCELED]):
                raise Refused(job["code"], job["error"]["errno"],
                              job["error"]["message"] or "the job was canceled")


# ---- The command ----

def parse_size(text):
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    unit = units.get(text[-1:].upper())
    return int(text[:-1]) * unit if unit else int(text)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--unix", metavar="PATH", help="the socket control.sock, instead")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list")
    verbs.add_parser("jobs")
    create = verbs.add_parser("create")
    create.add_argument("handler")
    create.add_argument("target")
    create.add_argument("size", type=parse_size)
    create.add_argument("--name", default="")
    create.add_argument("--prealloc", action="store_true")
    create.add_argument("--nowait", action="store_true", help="print the job instead")
    wait = verbs.add_parser("wait")
    wait.add_argument("job")
    delete = verbs.add_parser("delete")
    delete.add_argument("name")
    delete.add_argument("--keep-data", action="store_true")
    return parser.parse_args()


def run(daemon, args):
    if args.verb == "list":
        for export in daemon.exports():
            print("%(name)s\t%(state)s\t%(size)d\t%(backstore)s:%(target)s" % export)
    elif args.verb == "jobs":
        for job in daemon.jobs():
            print("%(id)s\t%(state)s\t%(export)s" % job)
    elif args.verb == "create":
        job = daemon.create(args.handler, args.target, args.size, args.name, args.prealloc)
        print(job["id"] if args.nowait else daemon.wait(job["id"])["export"])
    elif args.verb == "wait":
        print(daemon.wait(args.job)["state"])
    elif args.verb == "delete":
        daemon.wait(daemon.delete(args.name, args.keep_data)["id"])


def main():
    args = parse_arguments()
    try:
        with Daemon(args.host, args.port, args.unix) as daemon:
            run(daemon, args)
    except (OSError, Broken, Refused) as error:
        sys.exit("nbd_runner_rpc: %s" % error)


if __name__ == "__main__":
    main()
