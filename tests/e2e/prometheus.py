"""Debian's Prometheus for tests: `tool("promtool")` and `tool("prometheus")` are paths of the programs, from $PATH or else unpacked
from Debian's package into the cache folder (nothing is installed, no service is started). Where it can't be had, the test is
skipped with the reason. And what is there to read of its queries and of /metrics."""
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "sluice"


def unpacked():
    """The folder of Debian's programs, made once: other sessions of these tests wait for it."""
    folder = CACHE / "prometheus"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with open(CACHE / "prometheus.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                unpack(folder)
    return folder / "usr/bin"


def unpack(folder):
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        got = subprocess.run(["apt-get", "download", "prometheus"], cwd=work, capture_output=True, text=True)
        debs = list(pathlib.Path(work).glob("*.deb"))
        if got.returncode != 0 or not debs:
            pytest.skip(f"Debian's prometheus can't be had: {(got.stderr or got.stdout).strip()[-200:]}")
        subprocess.run(["dpkg-deb", "-x", debs[0], pathlib.Path(work) / "root"], check=True)
        os.rename(pathlib.Path(work) / "root", folder)


def tool(name):
    found = shutil.which(name)
    if found:
        return found
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        pytest.skip(f"there is no {name}, and no Debian to have it from")
    return str(unpacked() / name)


# ---- what /metrics has ----

SERIES = re.compile(r'(\w+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def series_of(text):
    """{name: {label: set of its values}} of a page of /metrics."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        name, labels, _ = SERIES.match(line).groups()
        of = found.setdefault(name, {})
        for label, value in LABEL.findall(labels or ""):
            of.setdefault(label, set()).add(value)
    return found


# ---- what a query names ----

WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool", "inf", "nan"}
GROUPING = re.compile(r'\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)')


def names_of(query):
    """([(metric, [(label, operator, value)])], labels that it groups by or matches on)"""
    grouped = {label.strip() for _, inside in GROUPING.findall(query) for label in inside.split(",") if label.strip()}
    query = re.sub(r"\[[^\]]*\]", " ", GROUPING.sub(" ", query))
    query = re.sub(r"\boffset\s+\w+", " ", query)
    metrics = []
    for found in re.finditer(r'(?<![\w".$])([a-zA-Z_]\w*)\s*(\(|\{((?:[^}"]|"[^"]*")*)\})?', blank_strings(query)):
        word, after = found[1], found[2] or ""
        if after == "(" or word.lower() in WORDS:
            continue
        matchers = []
        if after.startswith("{"):
            inside = query[found.start(2) + 1:found.end(2) - 1]
            matchers = re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside)
        metrics.append((word, matchers))
    return metrics, grouped


def blank_strings(query):
    """The query with the insides of its strings gone, at the same places."""
    return re.sub(r'"[^"]*"', lambda m: '"' + " " * (len(m[0]) - 2) + '"', query)


def faults_of(query, series, template=""):
    """Sentences of what a query (and {{label}} or $labels.label in the text beside it) names that `series` has not. `up` and the
    labels of a target are Prometheus' own; every matcher must match a value that is there, each alternative of it."""
    own, have = {"job", "instance"}, set()
    metrics, grouped = names_of(query)
    for metric, matchers in metrics:
        if metric == "up":
            continue
        if metric not in series:
            yield f"there is no metric {metric}"
            continue
        have |= series[metric].keys()
        for label, operator, value in matchers:
            if label in own:
                continue
            values = series[metric].get(label)
            if values is None:
                yield f"{metric} has no label {label}"
            elif operator in ("=", "=~"):
                for part in value.split("|"):
                    if not any(re.fullmatch(part, one) for one in values):
                        yield f"{metric} has no {label}=\"{part}\""
    for label in grouped - own - have:
        yield f"none of its metrics has a label {label}"
    shown = re.findall(r"\{\{\s*(\w+)\s*\}\}", template) + re.findall(r"\$labels\.(\w+)", template)
    for label in set(shown) - own - have:
        yield f"none of its metrics has a label {label}, which is shown"
