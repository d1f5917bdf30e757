# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# The NBD protocol byte by byte: a client that sends what it is told, sense or not, and holds
# every answer against the protocol document. A broken rule raises Violation. Blocking, one
# thread; knows no server and no test.
import socket
import struct
import time

# ---- Numbers of the protocol ----
NBDMAGIC, IHAVEOPT = 0x4e42444d41474943, 0x49484156454f5054
OPTION_REPLY_MAGIC = 0x0003e889045565a9
REQUEST_MAGIC, EXTENDED_REQUEST_MAGIC = 0x25609513, 0x21e41c71
SIMPLE_MAGIC, STRUCTURED_MAGIC, EXTENDED_MAGIC = 0x67446698, 0x668e33ef, 0x6e8a278c

FIXED_NEWSTYLE, NO_ZEROES = 1, 2

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_PEEK_EXPORT, OPT_STARTTLS = 1, 2, 3, 4, 5
OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY = 6, 7, 8
OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_EXTENDED_HEADERS = 9, 10, 11

REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_ERROR = 1 << 31
(ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_PLATFORM, ERR_TLS_REQD, ERR_UNKNOWN, ERR_SHUTDOWN,
 ERR_BLOCK_SIZE_REQD, ERR_TOO_BIG, ERR_EXT_HEADER_REQD) = range(REP_ERROR + 1, REP_ERROR + 11)

INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

(HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, ROTATIONAL, SEND_TRIM, SEND_WRITE_ZEROES, SEND_DF,
 CAN_MULTI_CONN, SEND_RESIZE, SEND_CACHE, SEND_FAST_ZERO, BLOCK_STATUS_PAYLOAD) = (
     1 << bit for bit in range(13))

READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, RESIZE = range(9)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << bit for bit in range(6))

DONE = 1
NONE, OFFSET_DATA, OFFSET_HOLE, STATUS, STATUS_EXT = 0, 1, 2, 5, 6
ERROR, ERROR_OFFSET = 0x8001, 0x8002

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108
WIRE_ERRORS = {EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN}

HOLE, ZERO = 1, 2           # of base:allocation

MAX_STRING = 4096
MAX_CHUNK = 65 << 20        # more was never asked for


class Violation(Exception):
    """The server has broken a rule."""


class Closed(Violation):
    """The server has ended the connection where an answer was due."""


def require(condition, sentence, *values):
    if not condition:
        raise Violation(sentence % values if values else sentence)


def check_text(text, what):
    require(len(text) <= MAX_STRING, "%s of %d bytes", what, len(text))
    require(b"\0" not in text, "%s with a NUL: %r", what, text)
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise Violation("%s that is not UTF-8: %r" % (what, text)) from None


# ---- Bytes ----
class Stream:
    """A connection to "unix:PATH", "HOST:PORT" or, from an address of ours, "HOST:PORT@US"."""

    def __init__(self, endpoint, timeout=20):
        self.timeout = timeout
        if endpoint.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(endpoint[5:])
        else:
            endpoint, _, ours = endpoint.partition("@")
            host, port = endpoint.rsplit(":", 1)
            self.socket = socket.create_connection((host, int(port)), timeout,
                                                   (ours, 0) if ours else None)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def receive_into(self, view):
        done = 0
        while done < len(view):
            try:
                n = self.socket.recv_into(view[done:])
            except socket.timeout:
                raise Violation("%d of %d bytes came in %g seconds" %
                                (done, len(view), self.timeout)) from None
            except ConnectionError as error:
                raise Closed("%s after %d of %d bytes" % (error, done, len(view))) from None
            if n == 0:
                raise Closed("closed after %d of %d bytes" % (done, len(view)))
            done += n

    def receive(self, length):
        data = bytearray(length)
        self.receive_into(memoryview(data))
        return bytes(data)

    def unpack(self, layout):
        return struct.unpack(layout, self.receive(struct.calcsize(layout)))

    def rest(self, seconds=10):
        """All that comes until the server closes; Violation when it does not."""
        data = b""
        end = time.monotonic() + seconds
        try:
            while True:
                self.socket.settimeout(max(0.001, end - time.monotonic()))
                piece = self.socket.recv(1 << 16)
                if not piece:
                    return data
                data += piece
        except socket.timeout:
            raise Violation("not closed in %g seconds" % seconds) from None
        except ConnectionError:
            return data
        finally:
            self.socket.settimeout(self.timeout)

    def must_close(self, seconds=10):
        """The server closes without another byte."""
        data = self.rest(seconds)
        require(data == b"", "%d bytes before the end: %r", len(data), data[:64])

    def must_be_quiet(self, seconds=0.05):
        """No byte comes, and no end."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(1 << 16)
        except socket.timeout:
            return
        finally:
            self.socket.settimeout(self.timeout)
        raise Violation("unexpected bytes: %r" % data if data else "closed unexpectedly")


# ---- Options ----
class Answer:
    """All replies to one option: the error (0: acknowledged), its text, the others before."""

    def __init__(self):
        self.error, self.text, self.items = 0, "", []

    @property
    def infos(self):
        """INFO replies by type; of EXPORT (size, flags), of BLOCK_SIZE the three sizes."""
        infos = {}
        for kind, data in self.items:
            require(kind == REP_INFO and len(data) >= 2, "reply %#x here: %r", kind, data)
            number, = struct.unpack(">H", data[:2])
            require(number not in infos, "information %d twice", number)
            infos[number] = parse_info(number, data[2:])
        require(self.error or INFO_EXPORT in infos, "acknowledged without INFO_EXPORT")
        return infos

    @property
    def exports(self):
        """Name and description of each SERVER reply, in order."""
        found = []
        for kind, data in self.items:
            require(kind == REP_SERVER and len(data) >= 4, "reply %#x here: %r", kind, data)
            length, = struct.unpack(">I", data[:4])
            require(length <= len(data) - 4, "a name of %d bytes in %d", length, len(data))
            found.append((check_text(data[4:4 + length], "name"),
                          check_text(data[4 + length:], "description")))
        return found

    @property
    def contexts(self):
        """Id and name of each META_CONTEXT reply, in order."""
        found = []
        for kind, data in self.items:
            require(kind == REP_META_CONTEXT and len(data) > 4, "reply %#x here: %r", kind, data)
            found.append((struct.unpack(">I", data[:4])[0], check_text(data[4:], "context")))
        require(len(set(name for _, name in found)) == len(found), "a context twice: %r", found)
        return found


def parse_info(number, data):
    if number == INFO_EXPORT:
        require(len(data) == 10, "INFO_EXPORT of %d bytes", len(data) + 2)
        size, flags = struct.unpack(">QH", data)
        require(flags & HAS_FLAGS, "transmission flags %#x", flags)
        return size, flags
    if number == INFO_BLOCK_SIZE:
        require(len(data) == 12, "INFO_BLOCK_SIZE of %d bytes", len(data) + 2)
        least, preferred, most = sizes = struct.unpack(">III", data)
        for size in least, preferred:
            require(size and size & (size - 1) == 0, "block sizes %r", sizes)
        require(least <= 65536 and preferred >= max(least, 512) and most >= preferred,
                "block sizes %r", sizes)
        return sizes
    require(number in (INFO_NAME, INFO_DESCRIPTION), "unknown information %d", number)
    return check_text(data, "information %d" % number)


def option_bytes(number, data=b"", length=None):
    return struct.pack(">QII", IHAVEOPT, number, len(data) if length is None else length) + data


def as_bytes(name):
    return name if isinstance(name, bytes) else name.encode()


def info_data(name, infos=()):
    name = as_bytes(name)
    return (struct.pack(">I", len(name)) + name + struct.pack(">H", len(infos)) +
            b"".join(struct.pack(">H", info) for info in infos))


def context_data(name, queries):
    name = as_bytes(name)
    data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
    for query in map(as_bytes, queries):
        data += struct.pack(">I", len(query)) + query
    return data


# ---- Requests ----
class Request:
    """One command and what has come for it so far."""

    def __init__(self, client, kind, offset, length, flags, ids):
        self.client, self.kind, self.offset, self.length = client, kind, offset, length
        self.flags, self.ids = flags, ids
        self.cookie = client.next_cookie()
        self.data = bytearray(length) if kind == READ and length <= MAX_CHUNK else bytearray()
        self.chunks = []    # (type, offset, length) of content
        self.extents = {}   # of a BLOCK_STATUS: context name -> [(length, flags)]
        self.error, self.text, self.done = 0, "", False

    def __str__(self):
        return "command %d of %d at %d" % (self.kind, self.length, self.offset)

    def require(self, condition, sentence, *values):
        require(condition, "%s: " + sentence, self, *values)

    def add_error(self, error, text=""):
        self.require(error in WIRE_ERRORS, "error %d is none of the protocol", error)
        self.require(self.error == 0, "two errors, %d and %d", self.error, error)
        self.error, self.text = error, text

    def add_content(self, kind, offset, length):
        self.require(self.kind == READ, "content for it")
        self.require(length > 0, "content without bytes")
        self.require(self.offset <= offset and offset + length <= self.offset + self.length,
                     "content %d long at %d", length, offset)
        for _, other, other_length in self.chunks:
            self.require(offset >= other + other_length or offset + length <= other,
                         "overlapping content at %d and %d", other, offset)
        self.chunks.append((kind, offset, length))
        self.require(not self.flags & DF or len(self.chunks) == 1, "several chunks despite DF")

    def add_extents(self, context, extents):
        ids = self.client.contexts
        self.require(self.kind == BLOCK_STATUS, "a block status for it")
        self.require(context in self.ids, "context %d, which was not asked for", context)
        name = ids[context]
        self.require(name not in self.extents, "context %s twice", name)
        self.require(0 < len(extents) <= 1 << 20, "%d extents", len(extents))
        self.require(all(length > 0 for length, _ in extents), "an extent of no length")
        self.require(not self.flags & REQ_ONE or len(extents) == 1 and
                     extents[0][0] <= self.length, "%r despite REQ_ONE", extents[:4])
        total = sum(length for length, _ in extents)
        self.require(total - extents[-1][0] < self.length, "extents behind the range")
        self.require(self.offset + total <= self.client.size, "extents behind the export")
        self.require(name != "base:allocation" or
                     all(flags & ~(HOLE | ZERO) == 0 for _, flags in extents), "unknown flags")
        self.require(all(a[1] != b[1] for a, b in zip(extents, extents[1:])),
                     "equal neighbours that are not merged")
        self.extents[name] = extents

    def finish(self):
        self.done = True
        if self.error:
            return
        if self.kind == READ:
            covered = sum(length for _, _, length in self.chunks)
            self.require(covered == self.length, "%d bytes came", covered)
        if self.kind == BLOCK_STATUS:
            self.require(len(self.extents) == len(self.ids), "contexts %r of %r came",
                         list(self.extents), self.client.contexts)


class Client(Stream):
    """A session. In transmission, replies that have come for `submitted` requests are checked
    and put together, in whatever order they come."""

    def __init__(self, endpoint, flags=FIXED_NEWSTYLE | NO_ZEROES, timeout=20):
        super().__init__(endpoint, timeout)
        self.structured = self.extended = False
        self.contexts = {}      # id -> name
        self.size = self.flags = 0
        self.pending = {}       # cookie -> Request
        self.last_cookie = 0x1122334455667700
        magic, ihaveopt, handshake_flags = self.unpack(">QQH")
        require((magic, ihaveopt) == (NBDMAGIC, IHAVEOPT), "greeting %#x %#x", magic, ihaveopt)
        require(handshake_flags == FIXED_NEWSTYLE | NO_ZEROES, "flags %#x", handshake_flags)
        if flags is not None:
            self.send(struct.pack(">I", flags))

    # -- Options --
    def option_reply(self, number):
        magic, option, kind, length = self.unpack(">QIII")
        require(magic == OPTION_REPLY_MAGIC, "option reply magic %#x", magic)
        require(option == number, "a reply to option %d instead of %d", option, number)
        require(length <= 1 << 20, "an option reply of %d bytes", length)
        data = self.receive(length)
        require(kind != REP_ACK or not data, "ACK with data %r", data)
        require(kind in (REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT) or
                ERR_UNSUP <= kind <= ERR_EXT_HEADER_REQD, "option reply type %#x", kind)
        return kind, data

    def answer(self, number):
        """The whole answer to an option that was sent."""
        answer = Answer()
        while True:
            kind, data = self.option_reply(number)
            if kind == REP_ACK:
                return answer
            if kind & REP_ERROR:
                answer.error, answer.text = kind, check_text(data, "error text")
                return answer
            answer.items.append((kind, data))

    def option(self, number, data=b"", length=None):
        self.send(option_bytes(number, data, length))
        return self.answer(number)

    def structured_reply(self, data=b""):
        answer = self.option(OPT_STRUCTURED_REPLY, data)
        self.structured |= not answer.error
        return answer

    def extended_headers(self, data=b""):
        answer = self.option(OPT_EXTENDED_HEADERS, data)
        if not answer.error:
            self.structured = self.extended = True
        return answer

    def list_contexts(self, name, *queries):
        return self.option(OPT_LIST_META_CONTEXT, context_data(name, queries))

    def set_contexts(self, name, *queries):
        answer = self.option(OPT_SET_META_CONTEXT, context_data(name, queries))
        found = answer.contexts
        self.contexts = {} if answer.error else dict(found)
        require(len(self.contexts) == (0 if answer.error else len(found)), "one id twice")
        return answer

    def info(self, name, *infos):
        answer = self.option(OPT_INFO, info_data(name, infos))
        require(not answer.error or not answer.items, "an error behind information")
        return answer

    def go(self, name, *infos):
        answer = self.option(OPT_GO, info_data(name, infos))
        require(not answer.error or not answer.items, "an error behind information")
        if not answer.error:
            self.size, self.flags = answer.infos[INFO_EXPORT]
        return answer

    def export_name(self, name, zeroes=False):
        self.send(option_bytes(OPT_EXPORT_NAME, as_bytes(name)))
        self.size, self.flags = self.unpack(">QH")
        require(self.flags & HAS_FLAGS, "transmission flags %#x", self.flags)
        if zeroes:
            require(self.receive(124) == bytes(124), "padding that is not zero")

    # -- Requests --
    def next_cookie(self):
        self.last_cookie += 1
        return self.last_cookie

    def request(self, kind, offset=0, length=0, flags=0, payload=b"", ids=None):
        """A Request that is awaited, and its bytes. A WRITE's length is its payload's; other
        payload counts only as far as the header says. ids: contexts that may answer."""
        if kind == WRITE:
            length = len(payload)
            flags |= PAYLOAD_LEN if self.extended else 0
        return self.raw_request(kind, offset, length, flags, payload, ids)

    def raw_request(self, kind, offset=0, length=0, flags=0, payload=b"", ids=None):
        """The same with exactly these flags and this length."""
        request = Request(self, kind, offset, length, flags,
                          self.contexts if ids is None else ids)
        layout, magic = ((">IHHQQQ", EXTENDED_REQUEST_MAGIC) if self.extended else
                         (">IHHQQI", REQUEST_MAGIC))
        header = struct.pack(layout, magic, flags, kind, request.cookie, offset, length)
        self.pending[request.cookie] = request
        return request, header + payload

    def submit(self, *args, **named):
        request, data = self.request(*args, **named)
        self.send(data)
        return request

    def call(self, *args, **named):
        return self.finish(self.submit(*args, **named))

    def call_raw(self, *args, **named):
        request, data = self.raw_request(*args, **named)
        self.send(data)
        return self.finish(request)

    def finish(self, request):
        while not request.done:
            self.receive_chunk()
        return request

    def finish_all(self):
        while self.pending:
            self.receive_chunk()

    def disconnect(self):
        """DISC: the server closes, and says nothing more."""
        self.send(self.request(DISC)[1])
        self.must_close()
        self.close()

    # -- Replies --
    def find(self, cookie):
        require(cookie in self.pending, "a reply for cookie %#x, for which nothing is due", cookie)
        return self.pending[cookie]

    def end(self, request):
        request.finish()
        del self.pending[request.cookie]

    def receive_chunk(self):
        """One simple reply, or one chunk. Returns its request."""
        magic, = self.unpack(">I")
        if magic == SIMPLE_MAGIC:
            return self.receive_simple()
        require(magic == (EXTENDED_MAGIC if self.extended else
                          STRUCTURED_MAGIC if self.structured else SIMPLE_MAGIC),
                "reply magic %#x", magic)
        flags, kind, cookie = self.unpack(">HHQ")
        request = self.find(cookie)
        if self.extended:
            offset, length = self.unpack(">QQ")
            request.require(offset == request.offset, "offset %d in a reply", offset)
        else:
            length, = self.unpack(">I")
        request.require(flags & ~DONE == 0, "chunk flags %#x", flags)
        request.require(length <= MAX_CHUNK, "a chunk of %d bytes", length)
        self.receive_payload(request, kind, flags, length)
        if flags & DONE:
            self.end(request)
        return request

    def receive_simple(self):
        error, cookie = self.unpack(">IQ")
        request = self.find(cookie)
        request.require(not self.extended, "a simple reply after EXTENDED_HEADERS")
        request.require(not self.structured or request.kind != READ, "a simple reply to READ")
        request.require(error or request.kind != BLOCK_STATUS, "a simple reply to BLOCK_STATUS")
        if error:
            request.add_error(error)
        elif request.kind == READ and request.length > 0:
            self.receive_into(memoryview(request.data))
            request.add_content(OFFSET_DATA, request.offset, request.length)
        self.end(request)
        return request

    def receive_payload(self, request, kind, flags, length):
        if kind == NONE:
            request.require(flags & DONE and length == 0, "NONE with flags %d and %d bytes",
                            flags, length)
        elif kind == OFFSET_DATA:
            request.require(length > 8, "OFFSET_DATA of %d bytes", length)
            offset, = self.unpack(">Q")
            request.add_content(kind, offset, length - 8)
            start = offset - request.offset
            self.receive_into(memoryview(request.data)[start:start + length - 8])
        elif kind == OFFSET_HOLE:
            request.require(length == 12, "OFFSET_HOLE of %d bytes", length)
            offset, size = self.unpack(">QI")
            request.add_content(kind, offset, size)
        elif kind == (STATUS_EXT if self.extended else STATUS):
            self.receive_status(request, length)
        elif kind in (ERROR, ERROR_OFFSET):
            self.receive_error(request, kind, length)
        else:
            raise Violation("%s: chunk type %#x" % (request, kind))

    def receive_status(self, request, length):
        data = self.receive(length)
        fixed, each = (8, ">QQ") if self.extended else (4, ">II")
        request.require(length >= fixed, "a block status of %d bytes", length)
        request.require((length - fixed) % struct.calcsize(each) == 0,
                        "a block status of %d bytes", length)
        extents = list(struct.iter_unpack(each, data[fixed:]))
        if self.extended:
            count, = struct.unpack(">I", data[4:8])
            request.require(count == len(extents), "%d extents, but %d in the header",
                            len(extents), count)
        request.add_extents(struct.unpack(">I", data[:4])[0], extents)

    def receive_error(self, request, kind, length):
        fixed = 6 if kind == ERROR else 14
        request.require(length >= fixed, "an error chunk of %d bytes", length)
        error, text_length = self.unpack(">IH")
        request.require(length == fixed + text_length, "an error chunk of %d bytes with a text "
                        "of %d", length, text_length)
        request.add_error(error, check_text(self.receive(text_length), "error text"))
        if kind == ERROR_OFFSET:
            offset, = self.unpack(">Q")
            request.require(request.offset <= offset < request.offset + request.length,
                            "ERROR_OFFSET %d", offset)
