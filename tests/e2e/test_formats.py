"""Tiny checkpoints of odd sizes in every integer format, with KV in i8: one stage on this machine's best instruction set and
two stages in chunks of seven on AVX2 must give the same logits and the same KV pages."""
import json
import os
import random
import subprocess
import sys

import pytest

from conftest import ROOT, SLUICE

NAMES = ["odd", "f32", "dense", "base", "tied", "yarn", "yarn-old", "f16", "all-experts", "dense-only"]


def run(*args, env=None):
    done = subprocess.run([SLUICE, *map(str, args)], capture_output=True, text=True, env={**os.environ, **(env or {})})
    assert done.returncode == 0, done.stderr
    return done.stdout


def digests(pack, ids, isa, *options):
    env = {"SLUICE_CPU": isa} if isa else None
    got = json.loads(run("generate", "--model", pack, "--token-ids", ids, "--max-tokens", 4, "--digest", "--output", "json",
                         "--ignore-eos", *options, env=env))
    return got["digest"], got["output_ids"]


@pytest.mark.parametrize("name", [n if n in ("odd", "f32") else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
@pytest.mark.parametrize("form", ["i8", "i4", "i4g16", "i3", "i2"])
def test_the_same_bits_on_avx2_in_two_stages(tmp_path, name, form):
    subprocess.run([sys.executable, ROOT / "tests/golden/make_tiny.py", tmp_path / "c", "--name", name], check=True)
    ids = tmp_path / "ids"
    rng = random.Random(7)
    ids.write_text(json.dumps([rng.randrange(2, 250) for _ in range(150)]))
    for rotate in ("off", "on"):
        pack = tmp_path / f"{rotate}.pack"
        run("pack", tmp_path / "c", pack, "--experts", form, "--dense", form, "--rotate", rotate)
        one = digests(pack, ids, None, "--stages", 1, "--chunk", 256, "--threads", 2)
        two = digests(pack, ids, "avx2", "--stages", 2, "--chunk", 7, "--threads", 1)
        assert one == two
