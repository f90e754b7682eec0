#!/usr/bin/env python3
"""The oracle: transformers in f32 on CPU with eager attention -> tests/golden/*.json.

For every recipe of make_tiny.py, and for the demo checkpoint, it records what a correct engine must reproduce: the
log-probability of each prompt token given those before it, and 16 greedy tokens with their log-probability and their
margin over the runner-up. Prompts are drawn until no margin is small and no routing decision is close, so that a
difference in the order of summation can't flip a token or an expert. Needs torch and transformers (`./dev golden`);
reading the files needs neither.
"""
import argparse
import hashlib
import json
import os
import sys
import tempfile

import numpy as np
import torch
import transformers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_tiny  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTHS, NEW_TOKENS, MIN_MARGIN, MIN_GAP = [1, 5, 70, 200], 16, 0.02, 2e-5


def six(x):
    return float(f"{x:.6g}")


def nine(x):
    return float(f"{x:.9g}")


def load(path):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    return model.eval()


class Gaps:
    """The smallest difference between the last chosen and the first refused expert, over all tokens and layers."""

    def __init__(self, model):
        self.least, self.k = 1.0, model.config.num_experts_per_tok
        for module in model.modules():
            if type(module).__name__ == "Qwen3MoeTopKRouter":
                module.register_forward_hook(self.see)

    def see(self, module, inputs, outputs):
        p = torch.softmax(outputs[0].float(), -1).sort(-1, descending=True).values
        if p.shape[-1] > self.k:
            self.least = min(self.least, float((p[..., self.k - 1] - p[..., self.k]).min()))


@torch.no_grad()
def run_case(model, gaps, prompt):
    gaps.least = 1.0
    ids, out, logprobs, margins, prompt_logprobs = list(prompt), [], [], [], None
    for _ in range(NEW_TOKENS):
        lp = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        if prompt_logprobs is None:
            prompt_logprobs = [None] + [six(lp[i - 1, ids[i]]) for i in range(1, len(ids))]
        top = lp[-1].topk(2)
        out.append(int(top.indices[0]))
        logprobs.append(six(top.values[0]))
        margins.append(six(top.values[0] - top.values[1]))
        ids.append(out[-1])
    case = {"prompt_ids": list(prompt), "prompt_logprobs": prompt_logprobs, "output_ids": out,
            "output_logprobs": logprobs, "margins": margins}
    return case, min(margins) >= MIN_MARGIN and gaps.least >= MIN_GAP


def draw(name, length, attempt, vocab):
    key = int.from_bytes(hashlib.sha256(f"{name}/{length}/{attempt}".encode()).digest()[:16], "little")
    return [int(x) for x in np.random.Philox(key=key).random_raw(length) % np.uint64(vocab)]


def cases(model, name, lengths, vocab):
    gaps = Gaps(model)
    for length in lengths:
        for attempt in range(400):
            case, good = run_case(model, gaps, draw(name, length, attempt, vocab))
            if good:
                print(f"  {name}: {length} tokens, attempt {attempt}", flush=True)
                yield case
                break
        else:
            sys.exit(f"{name}: no prompt of {length} tokens has clear margins")


def dump(name, value):
    """One line a list: readable, and small."""
    text = json.dumps(value, separators=(",", ":"))
    text = text.replace('"cases":[', '"cases":[\n').replace('},{"prompt_ids"', '},\n{"prompt_ids"')
    text = text.replace(',"prompt_logprobs"', ',\n "prompt_logprobs"')
    text = text.replace(',"output_ids"', ',\n "output_ids"')
    with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8") as f:
        f.write(text + "\n")


def tiny(name):
    with tempfile.TemporaryDirectory() as path:
        make_tiny.make_named(path, name)
        model = load(path)
        rope = model.model.rotary_emb
        dump("tiny-" + name, {
            "checkpoint": name, "made_by": f"transformers {transformers.__version__}, f32, eager",
            "rope_inv_freq": [nine(x) for x in rope.inv_freq], "rope_factor": nine(rope.attention_scaling),
            "cases": list(cases(model, name, LENGTHS, 256))})


def demo(path):
    """The bundled checkpoint, on the beginnings of its own tokenizer's kind of text: real words, real routing."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = load(path)
    gaps, found = Gaps(model), []
    for text in ["The", "It was the best of times, it was", TEXT, TEXT * 4]:
        case, _ = run_case(model, gaps, tokenizer.encode(text, add_special_tokens=False))
        found.append({"text_sha256": hashlib.sha256(text.encode()).hexdigest(), **case})
    dump("demo", {"checkpoint": "demo", "made_by": f"transformers {transformers.__version__}, f32, eager",
                  "cases": found})


TEXT = ("When the carriage had gone, she stood for a while at the window and watched the rain upon the garden. "
        "\"You will write to me,\" he had said; and she, who had promised nothing, had only smiled. The house "
        "was very quiet. In the kitchen somebody was singing, and the clock in the hall struck four.\n\n")


def main():
    p = argparse.ArgumentParser(description="golden outputs from transformers")
    p.add_argument("names", nargs="*", help="recipes, or 'demo'; default: all")
    p.add_argument("--demo", default=os.path.join(HERE, "..", "..", "demo"))
    a = p.parse_args()
    torch.set_num_threads(1)
    for name in a.names or [*make_tiny.RECIPES, "demo"]:
        demo(a.demo) if name == "demo" else tiny(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
