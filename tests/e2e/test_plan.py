"""`sluice plan`: from options to a plan, and every wrong one to a sentence.

Environment: SLUICE_BUILD names the build directory (default: build).
"""
import json
import os

import pytest
from conftest import ROOT, run

NODES = "link: {gbit: 3200, latency-us: 20}\nnodes:\n  - {kind: h200, count: 16}\n"


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "nodes.yaml").write_text(NODES)

    def plan(*args, nodes=True, code=0):
        words = ["--nodes", tmp_path / "nodes.yaml"] if nodes else []
        done = run("plan", *args, *words, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)})
        assert done.returncode == code, done.stderr
        return done
    return plan


def test_a_671_billion_shape_on_sixteen_nodes(plan, tmp_path):
    children = os.times().children_user
    found = json.loads(plan("--shape", "deepseek-v3", "--load", "8192:256", "--json", "--svg", tmp_path / "plan.svg").stdout)
    print(f"figure: plan of deepseek-v3 on 16 nodes: {os.times().children_user - children:.2f} s of processor")
    assert 670e9 < found["parameters"] < 672e9
    assert found["stages"][0]["layers"][0] == 0 and found["stages"][-1]["layers"][1] == 61
    assert all(a["layers"][1] == b["layers"][0] for a, b in zip(found["stages"], found["stages"][1:]))
    assert all(s["weight_bytes"] + s["kv_bytes"] + s["buffer_bytes"] <= s["room_bytes"] for s in found["stages"])
    assert abs(sum(found["shares"].values()) - 1) < 1e-6 and found["bound"] == max(found["shares"], key=found["shares"].get)
    by_stages = {row["stages"]: row for row in found["over_stages"] if row["fits"]}
    assert by_stages[8]["ttft_ms"] < by_stages[4]["ttft_ms"] < by_stages[1]["ttft_ms"]
    assert all(row["experts"]["from_table"] for row in found["over_stages"])
    assert (tmp_path / "plan.svg").read_text().count("<svg") == 2


def test_a_checkpoint_a_shape_file_and_measured_costs(plan, tmp_path):
    cost = run("calibrate", ROOT / "demo", "--stages", 2, "--threads", 1, "--json",
               env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)})
    (tmp_path / "cost.json").write_text(cost.stdout)
    load = ("--load", "2048:64", "--json")
    by_rates = json.loads(plan(ROOT / "demo", *load).stdout)
    by_file = json.loads(plan("--shape", ROOT / "demo/config.json", *load).stdout)
    measured = json.loads(plan(ROOT / "demo", "--from-cost", tmp_path / "cost.json", "--stages", 2, *load).stdout)
    assert by_rates["ttft_ms"] == by_file["ttft_ms"] and by_rates["layers"] == 6
    assert measured["ttft_ms"] > by_rates["ttft_ms"]  # this machine is no eight GPUs
    assert [s["layers"] for s in measured["stages"]] == [[0, 3], [3, 6]]
    here = json.loads(plan(ROOT / "demo", "--this-machine", "--stages", 2, *load, nodes=False).stdout)
    assert here["of_nodes"] == 2 and here["decode"]["beside"]


@pytest.mark.parametrize("args, code, part", [
    (("--shape", "deepseek-v3", "--load", "0:5"), 64, "--load 0:5 is not PROMPT:OUTPUT@RATE"),
    (("--shape", "deepseek-v3", "--load", "64:5@nan"), 64, "is not PROMPT:OUTPUT@RATE"),
    (("--shape", "deepseek-v9"), 64, "none that is known (deepseek-v3"),
    ((), 64, "no model is named"),
    (("demo", "--shape", "deepseek-v3"), 64, "two models"),
    (("--shape", "deepseek-v3", "--this-machine"), 64, "two sets of nodes"),
    (("--shape", "deepseek-v3", "--slo", "ttft=5,ttft=7"), 64, "twice"),
    (("--shape", "deepseek-v3", "--slo", "ttft=500,e2e=100"), 64, "contradicts itself"),
    (("--shape", "deepseek-v3", "--slo", "ttft=1", "--load", "32768:8"), 78, "no cut of these nodes has the first token"),
    (("--shape", "deepseek-v3", "--load", "32768:8@1000"), 78, "requests a second, not 1e+03"),
    (("--shape", "deepseek-v3", "--stages", "17"), 78, "17 stages do not go over 16 nodes"),
    (("--shape", "llama-3.1-405b", "--bits", "32", "--stages", "1"), 78, "bytes are missing"),
    (("--shape", "deepseek-v3", "--from-cost", "/nonexistent"), 78, "cannot be opened"),
    (("/nonexistent", ), 78, "cannot be opened"),
])
def test_what_is_refused_is_refused_in_one_sentence(plan, args, code, part):
    said = plan(*args, code=code).stderr.strip()
    assert part in said and said.count("\n") == 0 and said.startswith("sluice plan: ")


@pytest.mark.parametrize("lines, part", [
    (['{"timestamp": NaN, "input_length": 5, "output_length": 5}'], "line 1"),
    (['{"timestamp": 5, "input_length": 5, "output_length": 5}', '{"timestamp": 1, "input_length": 5, "output_length": 5}'],
     "line 2"),
])
def test_a_trace_that_is_none_is_refused_by_its_line(plan, tmp_path, lines, part):
    (tmp_path / "t.jsonl").write_text("".join(line + "\n" for line in lines))
    assert part in plan("--shape", "deepseek-v3", "--load", tmp_path / "t.jsonl", code=65).stderr


def test_a_trace_is_a_load_with_its_rate_and_its_longest_request(plan, tmp_path):
    rows = [{"timestamp": 100 * i, "input_length": 1000 + 1000 * (i % 3), "output_length": 100, "hash_ids": []} for i in range(61)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = json.loads(plan("--shape", "qwen3-30b-a3b", "--load", tmp_path / "t.jsonl", "--json").stdout)
    assert abs(found["load"]["rate"] - 10) < 1e-6 and 1900 < found["load"]["prompt"] < 2100
    assert found["requests_s"] >= 10 and found["nodes"] <= 16
