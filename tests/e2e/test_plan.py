"""`sluice plan`: from options to a plan, and every wrong one to a sentence.

Environment: SLUICE_BUILD names the build directory (default: build).
"""
import json
import os

import pytest
from conftest import ROOT, free_port, run, wait_until

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


def test_a_running_pipeline_is_asked_what_it_should_change(server):
    for words in ("Once upon a time", "There was a fox", "A river ran"):
        assert run("generate", "--endpoint", server.endpoint, "--prompt", 200 * words, "--max-tokens", 4).returncode == 0
    done = run("plan", "--from-metrics", f"http://{server.ops}/metrics", "--look", 0.2, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["layers"] == [3, 3] and found["prompt"] > 1 and found["requests_s"] > 0 and found["decoders"] == 1
    assert all(a["requests_s"] > found["requests_s"] or a["ttft_ms"] < found["ttft_ms"] for a in found["advice"])
    text = run("plan", "--from-metrics", server.ops, "--look", 0.2).stdout
    assert text.startswith("2 stages with 3,3 layers") and "as it is: first token" in text
    for args, code, part in [((server.endpoint,), 69, "--ops"), ((f"127.0.0.1:{free_port()}",), 69, "nobody answers"),
                             ((server.ops, "--shape", "deepseek-v3"), 64, "leave out models")]:
        done = run("plan", "--from-metrics", *args, "--look", 0.1)
        assert done.returncode == code and part in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_cut_that_is_given_is_served_with_the_same_bits(pack, start_server, tmp_path):
    (tmp_path / "serve.yaml").write_text("stages: 3\nlayers: 1,4,1\n")
    prompt = ("--prompt", 60 * "Once upon a time ", "--max-tokens", 8, "--output", "ids")
    alone = [run("generate", "--model", pack, *prompt, "--threads", 1, *cut).stdout
             for cut in ((), ("--stages", 3, "--layers", "3,2,1"))]
    server = start_server("--config", tmp_path / "serve.yaml", model=pack, stages=3)
    served = run("generate", "--endpoint", server.endpoint, *prompt)
    assert served.returncode == 0 and len(served.stdout.split()) == 8, served.stderr
    assert [served.stdout] == [*set(alone)]
    assert [server.metric(f'sluice_stage_layers{{role="stage {k}"}}') for k in range(3)] == [1, 4, 1]
    held = json.loads(run("inspect", pack, "--stages", 3, "--layers", "1,4,1", "--json").stdout)["stages"]
    assert [(s["begin"], s["end"]) for s in held[:3]] == [(0, 1), (1, 5), (5, 6)]
    for stage, lines in enumerate(["loading layers [0, 1) of 6", "loading layers [1, 5) of 6", "loading layers [5, 6) of 6"]):
        assert lines in server.log(), stage


@pytest.mark.parametrize("command", ["serve PACK", "coordinator PACK", "inspect PACK", "calibrate PACK", "generate --model PACK --prompt x",
                                     "score --model PACK --prompt x", "bench pipeline --model PACK"])
@pytest.mark.parametrize("layers, code, part", [
    ("3,2", 64, "--layers is a cut into 2 stages and --stages is 3; make them agree"),
    ("3,2,a", 64, '--layers has "a"; it takes the number of layers of each stage'),
    ("3,2,2", 78, "a cut gives the stages 7 layers together, and the model has 6"),
])
def test_a_cut_that_is_none_is_refused(pack, command, layers, code, part):
    done = run(*(pack if word == "PACK" else word for word in command.split()), "--stages", 3, "--layers", layers)
    assert done.returncode == code and part in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.slow
def test_a_stage_that_holds_up_its_neighbours_is_named_once_with_a_cut(spawn, pack):
    """Three stages that wait for what a chunk should take, the one in the middle twice as long for its layers."""
    grpc, ops = (f"127.0.0.1:{free_port()}" for _ in range(2))
    coordinator = spawn("coordinator", "coordinator", pack, "--stages", 3, "--chunk", 64, "--listen", grpc, "--ops", ops)
    spawn("decode", "decode", pack, "--coordinator", grpc, "--threads", 1)
    for k, row_us in enumerate([60, 120, 33]):
        spawn(f"stage{k}", "stage", pack, "--stage", k, "--coordinator", grpc, "--threads", 1, "--waits", f"500,0,{row_us},0,0,0,0.25")
    wait_until(lambda: run("health", "--endpoint", grpc).returncode == 0, "health")
    n = iter(range(1000))

    def named():
        run("generate", "--endpoint", grpc, "--prompt", f"{next(n)} " + 300 * "Once upon a time ", "--max-tokens", 1)
        return "longer on stage 1 than on its neighbours" in coordinator.log()
    wait_until(named, "the name of the slow stage")
    line = next(json.loads(line)["message"] for line in coordinator.log().splitlines() if "than on its neighbours" in line)
    assert "with --layers 2,1,3 the pipeline's chunks" in line, line
    for _ in range(5):
        run("generate", "--endpoint", grpc, "--prompt", f"{next(n)} " + 300 * "Once upon a time ", "--max-tokens", 1)
    assert coordinator.log().count("than on its neighbours") == 1


@pytest.mark.parametrize("cost", ["1,2,3", "1,2,3,4,5,6,7", "-1,0,0,0,0,0,0", "nan,0,1,0,0,0,0", "0,0,0,0,0,0,0", "1,0,1,0,0,0,0,"])
def test_a_cost_to_wait_for_that_is_none_is_refused(pack, cost):
    done = run("stage", pack, f"--waits={cost}")
    assert done.returncode == 64 and "is not c,gamma,b,a,w,e,p" in done.stderr and done.stderr.count("\n") == 1
