"""Ids and log-probabilities against transformers: tiny checkpoints with every switch, and the bundled model.

The expected values are in tests/golden/*.json (made by `./dev golden` with torch); the tiny checkpoints are made here, by
tests/golden/make_tiny.py, byte for byte as they were then. Environment: SLUICE_BUILD names the build directory.
"""
import json
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parents[2]
SLUICE = ROOT / os.environ.get("SLUICE_BUILD", "build") / "sluice"
GOLDEN = ROOT / "tests" / "golden"
TINY = sorted(path.stem.removeprefix("tiny-") for path in GOLDEN.glob("tiny-*.json"))


def run(*args, env=None):
    done = subprocess.run([SLUICE, *map(str, args)], capture_output=True, text=True, timeout=PATIENCE,
                          env={**os.environ, **(env or {})})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """name -> the pack of that tiny checkpoint, made once"""
    made, folder = {}, tmp_path_factory.mktemp("tiny")

    def get(name):
        if name not in made:
            subprocess.run([sys.executable, GOLDEN / "make_tiny.py", folder / name, "--name", name], check=True)
            run("pack", folder / name, folder / f"{name}.pack")
            made[name] = folder / f"{name}.pack"
        return made[name]
    return get


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    pack = tmp_path_factory.mktemp("demo") / "pack"
    run("pack", ROOT / "demo", pack)
    return pack


def generate(pack, case, folder, *args, env=None):
    ids = folder / "ids.json"
    ids.write_text(json.dumps(case["prompt_ids"]))
    return json.loads(run("generate", "--model", pack, "--token-ids", ids, "--max-tokens", len(case["output_ids"]),
                          "--ignore-eos", "--output", "json", *args, env=env))


def score(pack, case, folder, *args):
    ids = folder / "ids.json"
    ids.write_text(json.dumps(case["prompt_ids"]))
    return json.loads(run("score", "--model", pack, "--token-ids", ids, "--output", "json", *args))["logprobs"]


def worst(got, expected):
    return max((abs(a - b) for a, b in zip(got, expected, strict=True) if b is not None), default=0.0)


@pytest.mark.parametrize("name", TINY)
def test_tiny_checkpoints(name, tiny, tmp_path):
    golden = json.loads((GOLDEN / f"tiny-{name}.json").read_text())
    assert golden["cases"]
    for i, case in enumerate(golden["cases"]):
        shape = ["--kv", "f32", "--stages", 1 + i % 2, "--chunk", [64, 7, 256, 1][i % 4], "--threads", 1 + i % 2]
        got = generate(tiny(name), case, tmp_path, *shape)
        assert got["output_ids"] == case["output_ids"]
        assert worst(got["logprobs"], case["output_logprobs"]) < 1e-3
        if len(case["prompt_ids"]) > 1:
            assert worst(score(tiny(name), case, tmp_path, *shape), case["prompt_logprobs"]) < 1e-3


@pytest.mark.parametrize("isa", ["ref", "avx2"])
def test_every_instruction_set(isa, tiny, tmp_path):
    case = json.loads((GOLDEN / "tiny-base.json").read_text())["cases"][2]
    assert generate(tiny("base"), case, tmp_path, env={"SLUICE_CPU": isa})["logprobs"] == \
        generate(tiny("base"), case, tmp_path, "--stages", 2)["logprobs"]


def test_demo_model(demo, tmp_path):
    for case in json.loads((GOLDEN / "demo.json").read_text())["cases"]:
        got = generate(demo, case, tmp_path, "--kv", "f32", "--stages", 2)
        assert got["output_ids"] == case["output_ids"]
        assert worst(got["logprobs"], case["output_logprobs"]) < 1e-3


def test_bf16_kv_stays_near(demo, tmp_path):
    """The mean difference over every prompt and output log-probability is below 0.01."""
    differences = []
    for case in json.loads((GOLDEN / "demo.json").read_text())["cases"]:
        if len(case["prompt_ids"]) < 2:
            continue
        for got, expected in zip(score(demo, case, tmp_path, "--kv", "bf16"), case["prompt_logprobs"], strict=True):
            if expected is not None:
                differences.append(abs(got - expected))
    assert len(differences) > 100
    assert sum(differences) / len(differences) < 0.01
