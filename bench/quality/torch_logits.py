"""Logits of windows by `transformers` in f32, for the check of the reference: run by the Python that has torch.

usage: torch_logits.py CHECKPOINT IDS.json FIRST OUT.npy   (IDS.json: a list of windows; rows [FIRST, n - 1) of each)
"""
import json
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main(checkpoint, ids, first, out):
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    rows = []
    with torch.no_grad():
        for window in json.load(open(ids)):
            rows.append(model(torch.tensor([window])).logits[0, int(first):-1].numpy())
    np.save(out, np.stack(rows))


main(*sys.argv[1:])
