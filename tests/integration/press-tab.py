#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
# Types a line with tabs into an interactive shell and prints what the shell then ran:
#
#     press-tab.py [--list] LINE SHELL ARG...
#
# LINE has \t where the tab key is pressed; return is pressed at its end. In the shell's PATH
# there is an nbd-cli that prints "RAN:" and its words in brackets. With --list return is not
# pressed: what the shell shows after the last tab is printed.
import os
import pty
import re
import select
import signal
import sys
import time

LIMIT_S = 30
READY = "ready> "


class Shell:
    def __init__(self, argv):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "dumb"
            os.execvp(argv[0], argv)
        self.text = ""

    def read_until(self, is_there):
        end = time.monotonic() + LIMIT_S
        while not is_there(self.text):
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            if not ready:
                sys.exit("not seen in %d s; the shell showed: %r" % (LIMIT_S, self.text))
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                sys.exit("the shell ended; it showed: %r" % self.text)
            self.text += data.decode(errors="replace")

    # A shell that still completes drops what is typed ahead: wait until it is quiet.
    def settle(self, quiet_s=0.4):
        while select.select([self.fd], [], [], quiet_s)[0]:
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                return

    def write(self, text):
        os.write(self.fd, text.encode())

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def main():
    args = sys.argv[1:]
    is_list = args[0] == "--list"
    if is_list:
        args.pop(0)
    line = args[0].replace("\\t", "\t")
    shell = Shell(args[1:])
    try:
        shell.read_until(lambda text: READY in text)
        shell.settle()
        shell.text = ""
        for part in re.findall("[^\t]+|\t", line):
            shell.write(part)
            if part == "\t":
                shell.settle()
        if is_list:
            print(shell.text.replace("\r", ""))
            return
        shell.write("\r")
        shell.read_until(lambda text: re.search(r"RAN:[^\r\n]*[\r\n]", text))
        print(re.findall(r"RAN:[^\r\n]*", shell.text)[-1])
    finally:
        shell.close()


main()
