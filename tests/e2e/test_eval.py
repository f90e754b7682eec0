"""`sluice eval`: its figures against `sluice score`, against transformers (slow tier), and against themselves.

The maths of a position and of the means is in tests/node/eval/test_divergence.c; here it is the windows, the models, what is
printed and how it fails. Environment: SLUICE_BUILD names the build directory; SLUICE_TORCH_PYTHON a Python with torch.
"""
import json
import math
import os
import shutil
import subprocess

import pytest
from conftest import PATIENCE, ROOT, SLUICE

PYTHON = os.environ.get("SLUICE_TORCH_PYTHON")
TEXT = ROOT / "demo" / "prompt.txt"
CONTEXT = 128


def run(*args, command="eval", **more):
    return subprocess.run([SLUICE, command, *map(str, args)], capture_output=True, text=True, timeout=PATIENCE, **more)


def evaluate(pack, *args):
    done = run("--model", pack, "--context", CONTEXT, "--json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ids(pack):
    """The ids of the text; `score` prints them."""
    done = run("--model", pack, "--prompt-file", TEXT, "--output", "ids", command="score")
    assert done.returncode == 0, done.stderr
    return [int(line.split()[0]) for line in done.stdout.splitlines()]


def ids_file(tmp_path, ids):
    path = tmp_path / "ids.json"
    path.write_text(json.dumps(ids))
    return path


def test_a_model_is_itself(pack):
    got = evaluate(pack, "--reference", pack, "--kv", "f32", "--text", TEXT, "--max-tokens", 1000)
    figures = got["figures"]
    assert got["tokens"] == 1000 and got["windows"] == 7 and got["positions"] == 7 * 63
    for name in ("kld_mean", "kld_median", "kld_p99", "true_token_probability_mean_change",
                 "true_token_probability_rms_change"):
        assert figures[name] == {"value": 0, "error": 0}
    assert figures["kld_max"] == 0 and figures["same_top"] == {"value": 1, "error": 0}
    assert figures["perplexity_ratio"] == {"value": 1, "error": 0}
    assert figures["perplexity"] == figures["perplexity_reference"]
    assert got["model"]["digest"] == got["reference"]["digest"]
    assert got["model"]["bits_per_weight"] == got["model"]["expert_bits_per_weight"] == 16


def test_a_gpu_has_the_same_figures(small):
    """To the last digit that is printed: the bits are the same (a twin's here)."""
    def figures(*where):
        got = evaluate(small, "--reference", small, "--kv-reference", "i8", "--text", TEXT, "--context", 16, "--max-tokens", 16, *where)
        return got["isa"], got["figures"]
    cpu, there = figures(), figures("--device", "twin", "--device-reference", "twin")
    assert there[0].startswith("twin sm_") and not cpu[0].startswith("twin")
    assert there[1] == cpu[1] and cpu[1]["perplexity"]["value"] > 1
    assert figures("--device", "twin")[1] == cpu[1]  # and beside a reference on the CPU


def test_a_rounded_kv_cache_shows_and_threads_do_not(pack):
    args = "--reference", pack, "--kv", "bf16", "--text", TEXT, "--max-tokens", 512
    one, two = (evaluate(pack, "--threads", n, *args)["figures"] for n in (1, 2))
    assert one == two
    assert 0 < one["kld_median"]["value"] < one["kld_mean"]["value"] < one["kld_p99"]["value"] <= one["kld_max"] < 0.5
    assert 0.95 < one["same_top"]["value"] <= 1 and abs(one["perplexity_ratio"]["value"] - 1) < 0.01


def test_perplexity_is_what_score_says_of_each_window(pack, ids, tmp_path):
    got = evaluate(pack, "--kv", "f32", "--token-ids", ids_file(tmp_path, ids[:400]))
    assert got["reference"] is None and list(got["figures"]) == ["perplexity"]
    means = []
    for begin in range(0, 400 - CONTEXT + 1, CONTEXT):
        path = ids_file(tmp_path, ids[begin:begin + CONTEXT])
        scored = run("--model", pack, "--kv", "f32", "--token-ids", path, "--output", "json", command="score")
        half = json.loads(scored.stdout)["logprobs"][CONTEXT // 2 + 1:]
        means.append(-sum(half) / len(half))
    mean = sum(means) / len(means)
    error = math.sqrt(sum((m - mean) ** 2 for m in means) / (len(means) * (len(means) - 1)))
    assert len(means) == got["windows"] == 3
    assert got["figures"]["perplexity"]["value"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert got["figures"]["perplexity"]["error"] == pytest.approx(math.exp(mean) * error, rel=1e-3)


def test_text_and_ids_are_the_same_tokens(pack, ids, tmp_path):
    by_text = evaluate(pack, "--text", TEXT, "--max-tokens", 300)
    by_ids = evaluate(pack, "--token-ids", ids_file(tmp_path, ids), "--max-tokens", 300)
    assert by_text["figures"] == by_ids["figures"]


def test_one_window_has_no_error(pack):
    got = evaluate(pack, "--text", TEXT, "--max-tokens", CONTEXT)
    assert got["windows"] == 1 and got["figures"]["perplexity"]["error"] is None
    done = run("--model", pack, "--reference", pack, "--context", CONTEXT, "--text", TEXT, "--max-tokens", CONTEXT)
    assert done.returncode == 0 and "KL divergence, mean" in done.stdout and "±" not in done.stdout


def test_a_checkpoint_is_packed_on_first_use(tmp_path):
    done = run("--model", ROOT / "demo", "--context", CONTEXT, "--text", TEXT, "--max-tokens", 256,
               env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout and list((tmp_path / "sluice").glob("demo-*.pack"))


def test_sentences_and_exit_codes(pack, ids, tmp_path):
    other = tmp_path / "other.pack"
    shutil.copytree(pack, other)
    tokenizer = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(tokenizer + "\n")
    cases = [
        ([], 64, "--model"),
        (["--model", pack], 64, "--text"),
        (["--model", pack, "--text", TEXT, "--token-ids", TEXT], 64, "--text"),
        (["--model", pack, "--text", TEXT, "--context", 20000], 64, "16384"),
        (["--model", pack, "--text", TEXT, "--context", 4], 64, "--context"),
        (["--model", pack, "--text", TEXT, "--max-tokens", 100], 64, "100 tokens"),
        (["--model", pack, "--text", tmp_path / "none.txt"], 74, "none.txt"),
        (["--model", pack, "--token-ids", ids_file(tmp_path, ids[:100] + [4096] + ids[:500])], 65, "token 100"),
        (["--model", tmp_path / "none", "--text", TEXT], 65, "none"),
    ]
    for args, code, part in cases:
        done = run(*args)
        assert (done.returncode, done.stdout) == (code, ""), (args, done.stderr)
        assert done.stderr.startswith("sluice eval: ") and part in done.stderr and done.stderr.count("\n") == 1, done.stderr
    done = run("--model", pack, "--reference", other, "--text", TEXT)
    assert done.returncode in (64, 65) and "tokenizer.json" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="SLUICE_TORCH_PYTHON does not name a Python with torch and transformers")
def test_figures_are_those_of_transformers(pack, ids, tmp_path):
    path, rounded = ids_file(tmp_path, ids[:2048]), tmp_path / "rounded"
    subprocess.run([PYTHON, ROOT / "tests/golden/rounded.py", ROOT / "demo", rounded, path, str(CONTEXT)], check=True,
                   timeout=PATIENCE)
    expected = json.loads((rounded / "expected.json").read_text())
    done = run(rounded, tmp_path / "rounded.pack", command="pack")
    assert done.returncode == 0, done.stderr
    got = evaluate(tmp_path / "rounded.pack", "--reference", pack, "--kv", "f32", "--token-ids", path)["figures"]
    assert set(got) == set(expected) and expected["kld_mean"]["value"] > 1e-3
    assert got["kld_max"] == pytest.approx(expected["kld_max"], rel=1e-2)
    for name in set(got) - {"kld_max"}:
        close = 1e-9 if name == "same_top" else 1e-3  # f32 logits differ in their last bits
        assert got[name]["value"] == pytest.approx(expected[name]["value"], rel=close, abs=1e-6), name
        assert got[name]["error"] == pytest.approx(expected[name]["error"], rel=1e-2, abs=1e-6), name
