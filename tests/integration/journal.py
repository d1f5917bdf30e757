#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
"""Stands in for the journal: journal.py SOCKET FILE. Each entry that comes to the datagram
socket becomes a line of JSON in the file. Ends when its stdin is closed."""
import json
import select
import socket
import sys

reader = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
reader.bind(sys.argv[1])
with open(sys.argv[2], "w", buffering=1) as out:
    while True:
        ready = select.select([reader, sys.stdin], [], [])[0]
        if sys.stdin in ready:
            break
        text = reader.recv(65536).decode()
        print(json.dumps(dict(line.split("=", 1) for line in text.splitlines())), file=out)
