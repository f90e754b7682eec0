"""Debian's Prometheus for tests: `tool("promtool")` and `tool("prometheus")` are paths of the programs, from $PATH or else unpacked
from Debian's package (debian.py). `Watch` is one that runs, in which time goes faster. And what is there to read of its queries and of /metrics."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import urllib.parse
import urllib.request

from debian import unpacked

RULES = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "monitoring" / "rules.yaml"


def tool(name):
    return shutil.which(name) or str(unpacked("prometheus") / "usr" / "bin" / name)


# ---- one that runs ----

LAPSE = 60 / float(os.environ.get("SLUICE_SLOW_FACTOR", 1))  # how much faster time goes; less on slow machines
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def faster(text):
    """The text of rules with every duration divided: `for`, the windows of ranges, offsets."""
    def less(match):
        return f"{match[1]}{int(match[2]) * SECONDS[match[3]] * 1000 / LAPSE:.0f}ms"
    return re.sub(r"(for: |\[|offset )(\d+)([smhd])\b", less, text)


class Watch:
    """A Prometheus that listens at `at` with a copy of the rules whose durations are divided, as is its interval of scrapes, and what it
    has seen. wait(condition, what) is how its tests wait."""

    def __init__(self, folder, at, wait, targets=(), job="sluice"):
        self.folder, self.at, self.wait = folder, at, wait
        self.folder.mkdir()
        (self.folder / "rules.yaml").write_text(faster(RULES.read_text()))
        self.point(targets)
        every = f"{30000 / LAPSE:.0f}ms"
        (self.folder / "prometheus.yaml").write_text(json.dumps({
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}, "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": job, "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}]}]}))
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [tool("prometheus"), "--config.file", self.folder / "prometheus.yaml", "--storage.tsdb.path", self.folder / "data",
                 "--web.listen-address", at, "--query.lookback-delta", f"{300 / LAPSE:.0f}s", "--log.level", "warn"], stdout=log, stderr=log)
        wait(self.answers, "Prometheus")
        if targets:
            wait(lambda: self.ask("sluice_ready == 1"), "the first scrape")

    def point(self, targets):
        """From now on it scrapes these: [(address, {label: value})]."""
        new = self.folder / "targets.new"
        new.write_text(json.dumps([{"targets": [address], "labels": labels} for address, labels in targets]))
        os.rename(new, self.folder / "targets.json")

    def answers(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            with urllib.request.urlopen(f"http://{self.at}/-/ready", timeout=30):
                return True
        except OSError:
            return False

    def ask(self, query):
        with urllib.request.urlopen(f"http://{self.at}/api/v1/query?" + urllib.parse.urlencode({"query": query}), timeout=60) as reply:
            return json.load(reply)["data"]["result"]

    def firing(self):
        return {one["metric"]["alertname"] for one in self.ask('ALERTS{alertstate="firing"}')}

    def alerts(self):
        """Those, too, that may fire soon."""
        return {one["metric"]["alertname"] for one in self.ask("ALERTS")}

    def ever(self, seconds=3600):
        """All that have fired within so long."""
        return {one["metric"]["alertname"] for one in self.ask(
            'count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[%dms]))' % (seconds * 1000))}

    def fires(self, name, *beside):
        """Waits for an alert; nothing fired but that and what is named beside it."""
        self.wait(lambda: name in self.firing(), name)
        assert self.ever() <= {name, *beside}

    def ends(self, name):
        self.wait(lambda: name not in self.firing(), f"the end of {name}")

    def kill(self):
        self.process.kill()
        self.process.wait()


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
