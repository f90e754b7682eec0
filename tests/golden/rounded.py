"""The bundled checkpoint rounded to 3 mantissa bits, and the figures of `sluice eval` between both as torch has them: f32
logits of `transformers`, then numpy in f64 (bench/quality/figures.py). For tests/e2e/test_eval.py; needs torch.

usage: rounded.py CHECKPOINT DST IDS.json CONTEXT   writes the checkpoint DST and DST/expected.json
"""
import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench/quality"))
import figures  # noqa: E402

KEPT_BITS = 3  # of the seven of bf16


def round_weights(source, target):
    """Matrices lose mantissa bits (a half is rounded up); norms and router stay as they are."""
    tensors = load_file(source)
    for name, values in tensors.items():
        if values.dim() == 2 and not name.endswith("mlp.gate.weight"):
            drop = 7 - KEPT_BITS
            bits = values.view(torch.int16).to(torch.int32)
            bits = (bits + (1 << (drop - 1))) & ~((1 << drop) - 1)
            tensors[name] = bits.to(torch.int16).view(torch.bfloat16).contiguous()
    save_file(tensors, target, metadata={"format": "pt"})


def logits_of(checkpoint, windows, first):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0, first:-1].numpy() for ids in windows]


def main(source, target, ids, context):
    source, target, context = pathlib.Path(source), pathlib.Path(target), int(context)
    shutil.copytree(source, target)
    round_weights(source / "model.safetensors", target / "model.safetensors")
    ids = json.loads(pathlib.Path(ids).read_text())
    windows = [ids[i:i + context] for i in range(0, len(ids) - context + 1, context)]
    first = context // 2
    pairs = zip(logits_of(source, windows, first), logits_of(target, windows, first), windows)
    report = figures.report([figures.compare(p, q, window[first + 1:]) for p, q, window in pairs])
    (target / "expected.json").write_text(json.dumps(report))


main(*sys.argv[1:])
