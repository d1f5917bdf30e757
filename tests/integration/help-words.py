#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
#     help-words.py NBD-CLI MANUAL-PAGE
#
# Do the help of each command, the synopsis of the manual page and the completion have the same
# words? Prints a line "ok ..." or "not ok ..." for each command.
import re
import subprocess
import sys

cli, page = sys.argv[1:]
PLACE = {"BACKSTORE": "file"}


def run(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def commands():
    """("export", "add"), ... as `help` has them."""
    for line in run(cli, "help").splitlines():
        match = re.match(r"  nbd-cli ((?:[A-Za-z-]+ )?[a-z-]+)(?= |$)", line + " ")
        if match and match.group(1) != "help":
            words = match.group(1).split()
            yield tuple(words if words[0].isupper() or not words[-1].isupper() else words[:1])


def help_of(command):
    """Its keywords, its options, and how many positions it has; those of all commands last."""
    text = run(cli, *[PLACE.get(word, word) for word in command], "help")
    usage = re.search(r"^  (nbd-cli .*)$", text, re.M).group(1)
    explained = text.split("\nwords:\n")[1]
    words = set()
    for line in explained.splitlines():
        match = re.match(r"  \[?((?:--)?[a-z][a-z-]*)\b", line)
        if match:
            words.add(match.group(1))
    behind = usage.split(" " + command[-1], 1)[1]
    named = set(re.findall(r"(?<![A-Za-z|-])(?:--)?[a-z][a-z-]*(?![A-Za-z|])", behind))
    positions = re.findall(r"(?<=\s)([A-Za-z|/\[\]@:-]*[A-Z][A-Z|/\[\]@:-]*)",
                           re.sub(r"\[?(--)?[a-z-]+ [^\s\]]+\]?", "", behind))
    return words, named, positions


def synopsis():
    """The lines of the page's synopsis, by command."""
    text = run("mandoc", "-T", "utf8", "-O", "width=1000", page)
    text = re.sub(".\b", "", text).replace("‐", "-").replace("−", "-")
    body = re.search(r"^SYNOPSIS\n(.*?)^[A-Z]", text, re.M | re.S).group(1)
    return [line.strip() for line in body.splitlines() if line.strip()]


def tokens(line):
    return set(re.findall(r"(?<![\w-])(?:--)?[a-z][a-z-]*(?![\w])", line))


COMMON = {"host", "--dir", "--call-timeout", "--json", "--help", "--host"}
lines = synopsis()
failed = False
for command in dict.fromkeys(commands()):
    name = " ".join(command)
    words, _, _ = help_of(command)
    own = words - COMMON - {"nbd-device"}       # which is no word but a device
    problems = []
    group = command[0] if len(command) > 1 else None
    mine = [line for line in lines if line.startswith("nbd-cli " + name) or
            group and line.startswith("nbd-cli %s {" % group) and re.search(r"\b%s\b" % command[1], line)]
    if not mine:
        problems.append("not in the synopsis")
    shown = set().union(*map(tokens, mine)) - set(command) - {"nbd-cli"}
    text = open(page).read().replace("\\-", "-")
    for word in sorted(own):
        bare = word.lstrip("-")
        if word not in shown and bare not in shown and \
                not re.search(r"[ \"(]-{0,2}%s\b" % re.escape(bare), text):
            problems.append("'%s' is not in the page" % word)
    # Where words have values ("yes|no"), these are in the help too.
    known = own | COMMON | {bare.lstrip("-") for bare in own} | \
        tokens(run(cli, *[PLACE.get(word, word) for word in command], "help"))
    for word in sorted(shown - known):
        if not any(line.startswith("nbd-cli %s {" % group) for line in mine):
            problems.append("'%s' of the page is not in the help" % word)
    offered = set()
    line = [PLACE.get(word, word) for word in command]
    for _ in range(3):      # behind none, one or two positions
        offered |= {row.split("\t")[0] for row in run(cli, "complete", *line, "").splitlines()}
        offered |= {row.split("\t")[0] for row in run(cli, "complete", *line, "-").splitlines()}
        line.append("x")
    for word in sorted(own):
        if word not in offered and "--" + word not in offered:
            problems.append("'%s' is not completed" % word)
    failed = failed or bool(problems)
    print("%sok %s: %s" % ("not " if problems else "", name, "; ".join(problems) or
                           "help, page and completion have the same words"))
sys.exit(failed)
