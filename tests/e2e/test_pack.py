"""`sluice pack` as a user meets it: formats, rules, calibration and random shapes on the bundled and the tiny checkpoints.

Numbers inside packs are checked in tests/model; here it is the command line, its JSON, and that packs run.
Environment: SLUICE_BUILD names the build directory (default: build).
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
DEMO = ROOT / "demo"
GOLDEN = ROOT / "tests" / "golden"
TINY = sorted(path.stem.removeprefix("tiny-") for path in GOLDEN.glob("tiny-*.json"))
BITS = {"i8": 8, "i4": 4.125, "i4g16": 4.25, "i3": 3.25, "i2": 2.25}
LEAST_DB = {"i8": 38, "i4": 19, "i4g16": 20, "i3": 13, "i2": 8}


def run(*args, code=0, cache=None):
    env = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
    done = subprocess.run([SLUICE, *map(str, args)], capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def pack(*args, **more):
    return json.loads(run("pack", *args, "--json", **more))


def same(a, b):
    names = sorted(p.name for p in a.iterdir())
    assert names == sorted(p.name for p in b.iterdir())
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in names)


@pytest.mark.parametrize("name", BITS)
def test_bits_and_noise_of_every_format(tmp_path, name):
    got = pack(DEMO, tmp_path / "p", "--experts", name, "--dense", name, "--rotate", "off")
    for class_ in ["attention", "experts.gate_up", "experts.down", "head"]:
        it = got["classes"][class_]
        assert it["format"] == (name + "+a16" if name == "i8" else name) and it["snr_db"] > LEAST_DB[name]
        # S takes 32/k bits a weight, and scales are padded to a cache line: as much again at k = 128, the least here.
        assert BITS[name] <= it["bits_per_weight"] <= BITS[name] + 0.4
    for class_ in ["router", "embed", "norms"]:
        assert got["classes"][class_]["snr_db"] is None
    seen = json.loads(run("inspect", tmp_path / "p", "--json"))
    assert seen["digest"] == got["digest"]
    for class_, it in seen["classes"].items():
        assert all(it[key] == got["classes"][class_][key] for key in it)


def test_options_override_and_rules_add_up(tmp_path):
    got = pack(DEMO, tmp_path / "p", "--experts", "i4", "--down", "i4g16", "--dense", "i8", "--head", "bf16",
               "--keep", "first:2=i8", "--keep", "last:1=bf16", "--keep", "3=i3,1=i2", "--rotate", "off")
    formats = {name: it["format"] for name, it in got["classes"].items()}
    assert formats == {"attention": "i8", "head": "bf16", "router": "bf16", "embed": "bf16", "norms": "f32",
                       "experts.gate_up": "i4, layer 0 i8, layer 1 i2, layer 3 i3, layer 5 bf16",
                       "experts.down": "i4g16, layer 0 i8, layer 1 i2, layer 3 i3, layer 5 bf16"}
    stored = json.loads((tmp_path / "p" / "pack.json").read_text())["formats"]
    assert stored["experts.down@3"] == "i3" and stored["experts.down"] == "i4g16"


def test_the_same_pack_whatever_the_threads(tmp_path):
    for name, threads in [("a", 1), ("b", 3), ("c", 3)]:
        pack(DEMO, tmp_path / name, "--experts", "i3", "--dense", "i8", "--threads", threads)
    assert same(tmp_path / "a", tmp_path / "b") and same(tmp_path / "b", tmp_path / "c")


def test_without_options_it_is_exact(tmp_path):
    got = pack(DEMO, tmp_path / "p")
    assert {it["snr_db"] for it in got["classes"].values()} == {None}
    assert got["classes"]["experts.down"]["format"] == "bf16"


@pytest.mark.parametrize("name", TINY)
def test_tiny_checkpoints_at_every_format(tmp_path, name):
    subprocess.run([sys.executable, GOLDEN / "make_tiny.py", tmp_path / name, "--name", name], check=True)
    for format_ in BITS:
        for rotate in ["off", "on"]:
            path = tmp_path / f"{format_}-{rotate}"
            got = pack(tmp_path / name, path, "--experts", format_, "--dense", format_, "--rotate", rotate)
            assert got["classes"]["attention"]["snr_db"] > LEAST_DB[format_] - 3
            run("check", path)


def test_calibration(tmp_path):
    ask = [DEMO, "--experts", "i3", "--calibrate", DEMO / "prompt.txt", "--calibrate-tokens", 1024]
    plain = pack(DEMO, tmp_path / "plain", "--experts", "i3", "--rotate", "off")
    weighed = pack(*ask, tmp_path / "weighed", "--rotate", "off", cache=tmp_path)
    again = pack(*ask, tmp_path / "again", "--rotate", "off", "--threads", 3, cache=tmp_path)
    pack(*ask, tmp_path / "fed", "--feedback", cache=tmp_path)
    assert weighed["digest"] == again["digest"] != plain["digest"]
    down = weighed["classes"]["experts.down"]
    assert down["weighed_snr_db"] > down["snr_db"]
    assert down["snr_db"] < plain["classes"]["experts.down"]["snr_db"]
    run("check", tmp_path / "fed")


@pytest.mark.parametrize("args, code, sentence", [
    (["SRC", "DST", "--keep", "6=i8"], 64, "the model has 6 layers, so there is no layer 6"),
    (["SRC", "DST", "--keep", "first:1=i9"], 64, "is not a rule"),
    (["SRC", "DST", "--experts", "q4"], 64, "bf16|i8|i4|i4g16|i3|i2"),
    (["SRC", "DST", "--feedback"], 64, "--calibrate FILE"),
    (["SRC", "DST", "--calibrate", "/nonexistent"], None, "/nonexistent"),
    (["SRC", "DST", "--layers", "2"], 64, "--random"),
    (["SRC"], 64, "DST is missing"),
    (["SRC", "DST", "--random", "qwen3-30b-a3b"], 64, "there is no SRC"),
    (["DST", "--random", "qwen3-31b"], 64, "qwen3-235b-a22b"),
    (["DST", "--random", "gpt-oss-20b"], 65, "'gpt_oss' is not supported"),
    (["DST", "--random", "qwen3-30b-a3b", "--calibrate", "x"], 64, "random weights"),
])
def test_refusals(tmp_path, args, code, sentence):
    words = [{"SRC": str(DEMO), "DST": str(tmp_path / "dst")}.get(a, a) for a in args]
    done = subprocess.run([SLUICE, "pack", *words], capture_output=True, text=True, timeout=PATIENCE,
                          env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)})
    assert sentence in done.stderr and done.returncode == (code or done.returncode) != 0
    assert not (tmp_path / "dst").exists()


def test_a_random_pack_runs(tmp_path):
    config = json.loads((DEMO / "config.json").read_text())
    config |= {"hidden_size": 128, "num_hidden_layers": 3, "vocab_size": 512, "num_experts": 8}
    for key in ["eos_token_id", "bos_token_id", "pad_token_id"]:
        config.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = tmp_path / "ids"
    ids.write_text(json.dumps([i * 7 % 512 for i in range(100)]))
    for format_ in ["bf16", "i4", "i2"]:
        path = tmp_path / format_
        got = pack("--random", tmp_path / "config.json", path, "--layers", 2, "--experts", format_)
        assert got["classes"]["experts.down"]["format"] == format_
        scores = json.loads(run("score", "--model", path, "--token-ids", ids, "--output", "json"))["logprobs"]
        assert all(-40 < s <= 0 for s in scores[1:])


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["qwen3-30b-a3b", "qwen3-235b-a22b"])
def test_real_shapes_with_one_layer(tmp_path, shape):
    run("pack", "--random", shape, tmp_path / "p", "--layers", 1, "--experts", "i4", "--dense", "i8")
    got = json.loads(run("inspect", tmp_path / "p", "--json"))
    assert got["layers"] == 1 and got["experts"] == 128


def test_a_pack_that_is_there_is_checked_instead(tmp_path):
    """For init containers: the first start packs, each later one compares every byte."""
    place = tmp_path / "there.pack"
    run("pack", "--or-check", DEMO, place)
    assert "is there, and whole" in run("pack", "--or-check", tmp_path / "not there", place)
    with open(place / "layer-0000.safetensors", "r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    assert "layer-0000.safetensors has other bytes" in run("pack", "--or-check", DEMO, place, code=65)
    assert "give one of them" in run("pack", "--or-check", "--force", DEMO, place, code=64)
