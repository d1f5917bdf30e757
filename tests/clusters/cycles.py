#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Makes an export, writes to it and reads it as a client, and deletes it, COUNT times.
# Arguments: NBD-CLI DIR HANDLER TARGET COUNT; for the handler nbd the target exists and is only
# exported and forgotten. Ends with 0 when all went well.
import subprocess
import sys

import nbd

cli, directory, handler, target, count = sys.argv[1:]
name = "cycle"


def run(*words):
    done = subprocess.run([cli, "--dir", directory, *words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit("%s: %s%s" % (" ".join(words), done.stdout, done.stderr))


for i in range(int(count)):
    if handler == "nbd":
        run("export", "add", "nbd", target, "name", name)
    else:
        run(handler, "create", target, "size", "1M", "name", name)
    h = nbd.NBD()
    h.connect_uri("nbd+unix:///%s?socket=%s/nbd.sock" % (name, directory))
    data = bytes([i % 255 + 1]) * 65536
    h.pwrite(data, 4096, nbd.CMD_FLAG_FUA)
    h.flush()
    if h.pread(65536, 4096) != data:
        sys.exit("cycle %d: other bytes" % i)
    h.shutdown()
    del h
    if handler == "nbd":
        run("export", "remove", name)
    else:
        run(handler, "delete", target)
