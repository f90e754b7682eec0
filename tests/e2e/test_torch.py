"""Checkpoints that transformers makes, saves and runs on the spot (tests/golden/fresh.py), against sluice. Slow tier: needs
the Python with torch that `./dev full` names in SLUICE_TORCH_PYTHON; skipped aloud without."""
import json
import os
import subprocess

import pytest
from conftest import PATIENCE, ROOT, SLUICE

PYTHON = os.environ.get("SLUICE_TORCH_PYTHON")


def run(folder, command, case, *args):
    ids = folder / "ids.json"
    ids.write_text(json.dumps(case["prompt_ids"]))
    done = subprocess.run([SLUICE, command, "--model", folder, "--token-ids", ids, "--output", "json", "--kv", "f32",
                           *map(str, args)], capture_output=True, text=True, timeout=PATIENCE,
                          env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="SLUICE_TORCH_PYTHON does not name a Python with torch and transformers")
@pytest.mark.parametrize("seed", range(12))
def test_fresh_checkpoint(seed, tmp_path):
    folder = tmp_path / "fresh"
    subprocess.run([PYTHON, ROOT / "tests/golden/fresh.py", folder, str(seed)], check=True, timeout=PATIENCE)
    (folder / "cache").mkdir()
    expected = json.loads((folder / "expected.json").read_text())
    (folder / "expected.json").unlink()
    layers, digests = expected["config"]["num_hidden_layers"], set()
    for case in expected["cases"]:
        scored = run(folder, "score", case, "--stages", 1 + seed % layers)["logprobs"]
        for got, want in zip(scored, case["prompt_logprobs"], strict=True):
            assert want is None or abs(got - want) < 1e-3
        for stages, chunk, threads in ((1, 256, 1), (layers, 64, 2), (2, 7, 1)):
            got = run(folder, "generate", case, "--max-tokens", len(case["output_ids"]), "--ignore-eos", "--digest",
                      "--stages", stages, "--chunk", chunk, "--threads", threads)
            digests.add((len(case["prompt_ids"]), got["digest"]["logits"], got["digest"]["kv"]))
            if case["clear"]:
                assert got["output_ids"] == case["output_ids"]
                assert max(abs(a - b) for a, b in zip(got["logprobs"], case["output_logprobs"], strict=True)) < 1e-3
    assert len(digests) == len(expected["cases"])  # the same bits in every arrangement
