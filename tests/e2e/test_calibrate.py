"""`sluice calibrate`: what it prints is what the formula says of its own coefficients, and what it keeps is read again.

Environment: SLUICE_BUILD names the build directory (default: build).
"""
import json
import os

import pytest
from conftest import ROOT, run, wait_until


@pytest.fixture
def calibrate(tmp_path):
    def calibrate(*args, code=0, model=ROOT / "demo"):
        done = run("calibrate", model, "--threads", 1, *args, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)})
        assert done.returncode == code, done.stderr
        return done
    return calibrate


def cost(k, pos, n, ends=0):
    return (k["c"] + k["gamma"] * pos + k["b"] * n + k["a"] * (2 * pos * n + n * n)
            + k["w"] * (1 - (1 - k["hit"]) ** n) + k["e"] * ends)


def test_coefficients_explain_the_predictions_and_are_kept(calibrate, tmp_path):
    first = json.loads(calibrate("--stages", 2, "--json").stdout)
    assert [s["layers"] for s in first["stages"]] == [[0, 3], [3, 6]]
    for stage in first["stages"]:
        k = stage["coefficients"]
        assert not stage["kept"] and k["hit"] == 0.25 and len(stage["points"]) >= 3
        assert all(v >= 0 for v in k.values()) and all(v > 0 for name, v in stage["prior"].items() if name != "e")
        assert (stage["prior"]["e"] > 0) == (stage["stage"] == 1)  # the head is there
        for p in stage["points"]:
            assert p["us"] > 0 and abs(p["predicted_us"] / cost(k, p["pos"], p["rows"], p["ends"]) - 1) < 1e-3
        worst = max(abs(p["predicted_us"] / p["us"] - 1) for p in stage["points"])
        assert abs(worst - stage["largest_error"]) < 1e-3 * (1 + worst)
        target = max(3.4 * (k["c"] + k["w"]), 4000)  # as sl_budget_make has it
        assert abs(stage["target_us"] - target) <= 1e-3 * stage["target_us"]
        rows = stage["target_rows"]
        assert rows == 0 or cost(k, 0, rows) <= 1.001 * stage["target_us"] < cost(k, 0, rows + 1) * 1.002
    assert first["target_us"] == max(s["target_us"] for s in first["stages"])
    again = json.loads(calibrate("--stages", 2, "--json").stdout)
    assert all(s["kept"] for s in again["stages"])
    assert [s["coefficients"] for s in again["stages"]] == [s["coefficients"] for s in first["stages"]]
    assert not json.loads(calibrate("--json").stdout)["stages"][0]["kept"]  # another cut, another cost
    assert "as it was kept" in calibrate("--stages", 2).stdout
    assert "measured now" in calibrate("--stages", 2, "--fresh").stdout


def test_a_gpu_has_costs_of_its_own_which_a_plan_takes(calibrate, small, tmp_path):
    """A twin's times are nobody's, but what is done with them is what is done with a GPU's."""
    def stages(*args):
        return json.loads(calibrate("--json", *args, model=small).stdout)["stages"]
    cpu, first, kept = stages(), stages("--device", "twin"), stages("--device", "twin")
    assert [s["kept"] for s in cpu + first + kept] == [False, False, True]
    assert [s["coefficients"] for s in kept] == [s["coefficients"] for s in first] != [s["coefficients"] for s in cpu]
    assert all(s["device"] == "cpu" and "gpu" not in s and s["prior"]["b"] > 0 for s in cpu)
    for stage in first:
        assert (stage["device"], stage["gpu"], stage["prior"]) == ("twin", "a twin of a GPU", None)
        assert stage["kernels"].startswith("twin sm_") and len(stage["points"]) >= 3
    assert all(s["kept"] for s in stages())  # nor has the GPU's taken their place
    costs = calibrate("--json", "--device", "twin", model=small).stdout
    (tmp_path / "costs.json").write_text(costs)
    (tmp_path / "nodes.yaml").write_text("link: {gbit: 100}\nnodes:\n  - {kind: h200, count: 2}\n")
    plan = run("plan", small, "--from-cost", tmp_path / "costs.json", "--nodes", tmp_path / "nodes.yaml", "--stages", 1, "--load", "256:8",
               "--json")
    assert plan.returncode == 0, plan.stderr
    assert [s["layers"] for s in json.loads(plan.stdout)["stages"]] == [[0, 6]]
    assert "those of no GPU" in calibrate("--device", "twin", model=small).stdout


def test_a_damaged_file_is_named_and_replaced(calibrate, tmp_path):
    calibrate()
    [kept] = (tmp_path / "sluice").glob("cost-*.txt")
    kept.write_text(kept.read_text().replace("end\n", "end"))
    done = calibrate()
    assert str(kept) in done.stderr and "measured anew" in done.stderr and "measured now" in done.stdout
    assert "as it was kept" in calibrate().stdout


def test_what_cannot_be_measured_is_said_in_a_sentence(calibrate):
    assert "7 stages" in calibrate("--stages", 7, code=78).stderr
    assert "cannot open" in run("calibrate", "/nowhere").stderr


def test_stages_tell_what_they_measured_and_metrics_compare_it_with_what_chunks_take(start_server):
    server = start_server()
    costs = {of: [server.metric(f'sluice_stage_cost_seconds{{role="stage {k}",of="{of}"}}') for k in range(2)]
             for of in ["chunk", "position", "row", "pair", "experts"]}
    assert all(v >= 0 for row in costs.values() for v in row) and all(v > 0 for v in costs["row"])
    assert server.log().count("a chunk costs") == 2  # and none of the decode worker

    def measured(k):
        return server.metric(f'sluice_stage_chunk_measured_seconds_total{{role="stage {k}"}}')
    assert measured(0) == measured(1) == 0
    done = run("generate", "--endpoint", server.endpoint, "--prompt-file", ROOT / "demo" / "prompt.txt", "--max-tokens", 1,
               "--output", "json")
    assert done.returncode == 0, done.stderr
    spans = json.loads(done.stdout)["timeline"]
    assert spans and all(s["predicted_us"] > 0 for s in spans)
    for k in range(2):
        took = sum(s["end_us"] - s["begin_us"] for s in spans if s["stage"] == k) / 1e6
        predicted = sum(s["predicted_us"] for s in spans if s["stage"] == k) / 1e6
        wait_until(lambda k=k, took=took: abs(measured(k) - took) < 1e-3 * (1 + took), "all chunks in /metrics")
        told = server.metric(f'sluice_stage_chunk_predicted_seconds_total{{role="stage {k}"}}')
        assert told > 0 and predicted > 0  # chunks that were written ahead were predicted by what was known then
        half, most = (server.metric(f'sluice_stage_chunk_error_ratio{{role="stage {k}",percentile="{q}"}}') for q in (50, 90))
        assert 0 <= half <= most
