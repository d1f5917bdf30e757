#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
"""Gets a page: get-page.py PORT PATH [ACCEPT]. The first line that is printed is the status and
the type, then, for a chunked page, the largest chunk; then the content."""
import socket
import sys


def main(port, path, accept="*/*"):
    peer = socket.create_connection(("127.0.0.1", int(port)), 30)
    peer.sendall(("GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\n\r\n"
                  % (path, accept)).encode())
    stream = peer.makefile("rb")
    status = stream.readline().split()[1].decode()
    fields = {}
    while (line := stream.readline().decode().strip()):
        name, value = line.split(":", 1)
        fields[name.lower()] = value.strip()
    largest, content = 0, b""
    if fields.get("transfer-encoding") == "chunked":
        while (size := int(stream.readline(), 16)):
            largest = max(largest, size)
            content += stream.read(size)
            assert stream.readline() == b"\r\n"
        assert stream.readline() == b"\r\n"
    else:
        content = stream.read(int(fields["content-length"]))
    assert stream.read() == b"", "more than was announced"
    print(status, fields["content-type"], largest)
    sys.stdout.write(content.decode())


main(*sys.argv[1:])
