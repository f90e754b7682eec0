"""Dashboards, alerts and runbook (deploy/): what they say of a node is what a node says. Every query parses and names only metrics,
labels and values that a live /metrics has; every alert fires in a history and is silent in another, and has its section of the
runbook."""
import collections
import json
import re
import subprocess

import pytest
import yaml
from conftest import ROOT, Process, free_port, get
from prometheus import faults_of, names_of, series_of, tool
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from test_decoders import Cluster
from test_processes import generate

DEPLOY = ROOT / "deploy/monitoring"
RULES = DEPLOY / "rules.yaml"
DASHBOARDS = sorted(DEPLOY.glob("dashboards/*.json"))


def alerts():
    return {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}


def panels():
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            yield path.stem, panel


def queries():
    """(where, query as Prometheus gets it, what is shown beside it)"""
    for name, panel in panels():
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "1m").replace("$job", ".*")
            assert "$" not in expr, expr
            yield f'{name}: {panel["title"]}', expr, target["legendFormat"]
    for name, rule in alerts().items():
        yield name, rule["expr"], json.dumps(rule["annotations"])


def promtool(*args, **more):
    return subprocess.run([tool("promtool"), *map(str, args)], capture_output=True, text=True, **more)


# ---- queries ----

def test_every_query_parses(tmp_path):
    rules = [{"record": f"query:{i}", "expr": expr} for i, (_, expr, _) in enumerate(queries())]
    assert len(rules) > 80
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    for file in (path, RULES):
        done = promtool("check", "rules", file)
        assert done.returncode == 0, done.stderr
    rules[7]["expr"] += ")"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert promtool("check", "rules", path).returncode != 0


@pytest.fixture(scope="module")
def metrics(tmp_path_factory, pack):
    """/metrics of a coordinator, and of a decode worker with an ops port of its own, that have answered."""
    started, folder, ops = [], tmp_path_factory.mktemp("metrics"), f"127.0.0.1:{free_port()}"

    def spawn(name, *args):
        started.append(Process(folder, name, *args, *(["--ops", ops] if name == "decode-1" else [])))
        return started[-1]
    try:
        cluster = Cluster(spawn, pack)
        for n in (20, 600):
            assert len(generate(cluster.endpoint, n_ids=n, max_tokens=4)) == 4
        texts = [get(at, "/metrics")[1] for at in (cluster.ops, ops)]
        cluster.end()
    finally:
        for process in started:
            process.kill()
    return texts


def test_queries_name_only_what_a_node_has(metrics):
    series = collections.defaultdict(dict)
    for text in metrics:
        for name, labels in series_of(text).items():
            for label, values in labels.items():
                series[name].setdefault(label, set()).update(values)
            series[name]
    faults = [f"{where}: {fault}" for where, expr, shown in queries() for fault in faults_of(expr, dict(series), shown)]
    assert not faults, "\n".join(faults)
    for bad, fault in {'rate(sluice_generation_token_total[5m])': "no metric sluice_generation_token_total",
                       'sluice_requests_total{finish="stop"}': "no label finish",
                       'sluice_requests_refused_total{reason=~"time|tmie"}': 'no reason="tmie"',
                       'sum by (stage) (sluice_ready)': "a label stage"}.items():
        found = list(faults_of(bad, dict(series)))
        assert any(fault in one for one in found), (bad, found)
    assert list(faults_of("sluice_ready", dict(series), "of {{role}}"))


def test_the_way_of_each_chunk_from_node_to_node_is_counted(metrics):
    values = dict(line.rsplit(" ", 1) for line in metrics[0].splitlines() if line.startswith("sluice_hop"))
    hops = [float(values[f'sluice_hops_total{{to="{to}"}}']) for to in ("stage 1", "coordinator")]
    assert hops[0] == hops[1] >= 2 and len(values) == 4, values
    for to in ("stage 1", "coordinator"):
        assert 0 < float(values[f'sluice_hop_seconds_total{{to="{to}"}}']) < 60 * hops[0]


def test_the_names_in_a_query_are_read_as_they_are_written():
    query = 'sum without (a) (rate(foo_total{x=~"y|and", job="$j"}[5m])) / on (b) bar > 0.05 * up offset 5m and inf'
    assert names_of(query) == ([("foo_total", [("x", "=~", "y|and"), ("job", "=", "$j")]), ("bar", []), ("up", [])], {"a", "b"})


# ---- /metrics itself ----

def as_plain_text(page):
    """OpenMetrics as the older text format, which is what promtool checks."""
    kinds, lines = {}, []
    for line in page.splitlines():
        if head := re.match(r"# (TYPE|HELP|UNIT) (\w+) (.*)", line):
            what, name, rest = head.groups()
            if what == "TYPE":
                kinds[name] = rest
            behind = {"counter": "_total", "info": "_info"}.get(kinds[name], "")
            if what != "UNIT":
                lines.append(f"# {what} {name}{behind} {'gauge' if rest == 'info' else rest}")
        elif line != "# EOF":
            lines.append(line)
    return "\n".join(lines) + "\n"


def faults_of_page(page):
    families = list(text_string_to_metric_families(page))  # OpenMetrics' own parser: order, names, suffixes, units, doubles
    for family in families:
        if not re.fullmatch(r"[A-Z][^\n]*\.", family.documentation) and not family.documentation.startswith(("1 when", "gRPC")):
            yield f"{family.name}: the help is no sentence: {family.documentation}"
        unit = re.search(r"_(seconds|bytes|ratio)$", family.name)
        if family.unit != (unit[1] if unit else ""):
            yield f"{family.name}: its unit is {family.unit!r}"
    done = promtool("check", "metrics", input=as_plain_text(page))
    yield from (done.stdout + done.stderr).splitlines()


def test_metrics_are_as_prometheus_wants_them(metrics):
    for page in metrics:
        assert list(faults_of_page(page)) == []
    bad = "# TYPE a_seconds counter\n# HELP a_seconds What.\na_seconds_total 1\n# TYPE b gauge\n# HELP b no sentence\nb{quantile=\"0.5\"} 1\n# EOF\n"
    assert len(list(faults_of_page(bad))) == 3


# ---- dashboards ----

def test_dashboards_are_distinct_and_bind_no_data_source():
    assert len(DASHBOARDS) == 5
    uids = [json.loads(path.read_text())["uid"] for path in DASHBOARDS]
    assert len(set(uids)) == len(uids) and all(re.fullmatch(r"[a-z-]{1,40}", uid) for uid in uids)
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        assert board["title"].startswith("sluice: ") and board["description"] and board["schemaVersion"] >= 36
        assert [v["name"] for v in board["templating"]["list"]] == ["datasource", "job"]
        bound = [panel for panel in board["panels"]] + [t for panel in board["panels"] for t in panel["targets"]] + board["templating"]["list"][1:]
        assert all(one["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for one in bound)
        assert path.read_text().count('"datasource": {') == len(bound)


def test_panels_say_what_they_show_and_lie_beside_each_other():
    ids, cells = collections.Counter(), collections.Counter()
    for board, panel in panels():
        ids[board, panel["id"]] += 1
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"], (board, panel["title"])
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                cells[board, x, y] += 1
        for target in panel["targets"]:
            assert 'job=~"$job"' in target["expr"], (board, panel["title"], "shows all jobs")
    assert set(ids.values()) == {1} and set(cells.values()) == {1}


# ---- alerts ----

def test_every_alert_is_whole_and_has_its_section_of_the_runbook():
    sections = re.findall(r"^## (\w+)$", (ROOT / "deploy/runbook.md").read_text(), re.M)
    assert sections == list(alerts()), "the runbook has a section for each alert, in the order of rules.yaml, and no other"
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["runbook"] == f"deploy/runbook.md#{name.lower()}"
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
    for text in (ROOT / "deploy/runbook.md").read_text().split("\n## ")[1:]:
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.M) == ["Means", "Look", "Do"], text[:40]
    texts = "".join(p.read_text() for p in [ROOT / "deploy/runbook.md", ROOT / "deploy/README.md", *DASHBOARDS])
    assert set(re.findall(r"\bSluice[A-Z]\w+", texts)) <= alerts().keys()


def test_options_and_metrics_that_the_runbook_names_exist(metrics):
    runbook = (ROOT / "deploy/runbook.md").read_text()
    series = set().union(*(series_of(text) for text in metrics))
    named = set(re.findall(r"\bsluice_\w+", runbook))
    assert named and named <= series, named - series
    sources = "".join(path.read_text() for path in ROOT.glob("node/command/*.[ch]")) + (ROOT / "node/coordinator/decoders.c").read_text()
    for option in re.findall(r"`--([a-z-]+)", runbook):
        assert f'"{option}"' in sources or f"--{option}" in sources, option


@pytest.fixture
def histories(tmp_path):
    test = yaml.safe_load((ROOT / "tests/monitoring/rules_test.yaml").read_text())

    def play(change=None):
        rules = yaml.safe_load(RULES.read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                if change:
                    change(rule)
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
        (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
        return promtool("test", "rules", "test.yaml", cwd=tmp_path)
    play.test = test
    return play


def test_every_alert_fires_in_a_history_and_is_silent_in_another(histories):
    assert (done := histories()).returncode == 0, done.stdout + done.stderr
    looks = collections.defaultdict(set)
    for test in histories.test["tests"]:
        for look in test["alert_rule_test"]:
            looks[look["alertname"]].add(bool(look.get("exp_alerts")))
    assert looks == {name: {True, False} for name in alerts()}


def test_histories_tell_an_alert_that_never_fires_from_one_that_always_does(histories):
    for expr in ("absent(vector(1))", "vector(1)"):
        done = histories(lambda rule: rule.update(expr=expr))
        assert done.returncode != 0 and set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr)) == alerts().keys()
