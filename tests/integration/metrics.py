#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
"""Looks closely at a scrape in OpenMetrics: metrics.py check SCRAPE; what is named elsewhere:
metrics.py named SCRAPE DASHBOARD RULES, metrics.py documented SCRAPE METRICS.md; one value:
metrics.py value SCRAPE SAMPLE [LABEL=VALUE...]. Says what is wrong and ends with 1."""
import json
import re
import sys

SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "info": ("_info",),
    "histogram": ("_bucket", "_count", "_sum"),
}
SAMPLE = re.compile(r'([a-z_:][a-z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def wrong(text):
    sys.exit("metrics.py: " + text)


def parse(path):
    """{family: (type, [(sample, labels, value)])}; strict about order and form."""
    families, name = {}, None
    lines = open(path, encoding="utf-8", newline="\n").read().split("\n")
    if lines[-2:] != ["# EOF", ""]:
        wrong("it does not end with # EOF")
    for line in lines[:-2]:
        words = line.split(" ", 3)
        if words[:2] == ["#", "TYPE"]:
            name = words[2]
            if name in families:
                wrong("family %s comes twice" % name)
            families[name] = (words[3], [])
        elif words[0] == "#":
            if words[1] not in ("HELP", "UNIT") or words[2] != name:
                wrong("stray line: " + line)
            if words[1] == "UNIT" and not name.endswith("_" + words[3]):
                wrong("%s does not end with its unit %s" % (name, words[3]))
        else:
            match = SAMPLE.match(line)
            if not match:
                wrong("no sample: " + line)
            kind, samples = families[name]
            if match[1] not in [name + suffix for suffix in SUFFIXES[kind]]:
                wrong("%s does not belong to %s" % (match[1], name))
            labels = dict(LABEL.findall(match[2] or ""))
            samples.append((match[1], labels, float(match[3])))
    return families


def check_histogram(name, samples):
    """Buckets are cumulative, and the last one is the count."""
    groups = {}
    for sample, labels, value in samples:
        key = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        group = groups.setdefault(key, {"buckets": []})
        if sample.endswith("_bucket"):
            group["buckets"].append((float(labels["le"]), value))
        else:
            group[sample[len(name):]] = value
    for key, group in groups.items():
        buckets = group["buckets"]
        if buckets != sorted(buckets) or [v for _, v in buckets] != sorted(v for _, v in buckets):
            wrong("%s%s: buckets are not cumulative" % (name, key))
        if buckets[-1] != (float("inf"), group["_count"]):
            wrong("%s%s: the last bucket is not the count" % (name, key))


def check(path):
    families = parse(path)
    for name, (kind, samples) in families.items():
        seen = [(sample, tuple(sorted(labels.items()))) for sample, labels, _ in samples]
        if len(seen) != len(set(seen)):
            wrong(name + ": a series comes twice")
        if kind == "histogram":
            check_histogram(name, samples)
        if kind != "gauge" and any(value < 0 for _, _, value in samples):
            wrong(name + ": negative")


def named(path, dashboard, rules):
    """Every series that the dashboard and the rules ask for is in the scrape."""
    families = parse(path)
    known = {name + suffix for name, (kind, _) in families.items() for suffix in SUFFIXES[kind]}
    expressions = []

    def walk(node):
        if isinstance(node, dict):
            expressions.extend(v for k, v in node.items()
                               if k in ("expr", "query", "definition") and isinstance(v, str))
            node = list(node.values())
        if isinstance(node, list):
            for item in node:
                walk(item)

    walk(json.load(open(dashboard, encoding="utf-8")))
    # In the rules a name may also stand in a sentence; that has to be right, too.
    expressions.append(re.sub(r"(?m)^\s*#.*$", "", open(rules, encoding="utf-8").read()))
    names = set(re.findall(r"\b(?:nbd_runner|process)_[a-z_]+", " ".join(expressions)))
    if len(names) < 30:
        wrong("only %d names were found" % len(names))
    if names - known:
        wrong("not in the scrape: " + ", ".join(sorted(names - known)))


def documented(path, text):
    rows = re.findall(r"(?m)^\| `((?:nbd_runner|process)_[a-z_]+)` \| (\w+) \| ([^|]*)\| ([^|]*)\|",
                      open(text, encoding="utf-8").read())
    told = {name: (kind, set(re.findall("`(.*?)`", labels))) for name, kind, labels, _ in rows}
    families = parse(path)
    if set(told) != set(families):
        wrong("documented or there, not both: " + ", ".join(sorted(set(told) ^ set(families))))
    for name, (kind, samples) in families.items():
        labels = {label for _, found, _ in samples for label in found} - {"le"}
        if told[name][0] != kind or (samples and told[name][1] != labels):
            wrong("%s: documented %s, is %s %s" % (name, told[name], kind, labels))


def value(path, sample, *wanted):
    pairs = [pair.split("=", 1) for pair in wanted]
    found = [v for _, samples in parse(path).values() for s, labels, v in samples
             if s == sample and all(labels.get(k) == w for k, w in pairs)]
    print("%d" % sum(found) if found else "none")


{"check": check, "named": named, "documented": documented, "value": value}[sys.argv[1]](*sys.argv[2:])
