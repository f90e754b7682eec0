#!/usr/bin/env python3
"""A checkpoint that nobody has seen: transformers makes a random Qwen3-MoE of odd sizes, saves it in its own way, and says what
comes out of it. `fresh.py OUT SEED` writes OUT/ (save_pretrained: no tokenizer) and OUT/expected.json. Needs torch; used by
tests/e2e/test_torch.py in `./dev full`, so that the file path is tested as transformers writes it today.
"""
import json
import os
import random
import sys

import torch
import transformers

NEW_TOKENS, MIN_MARGIN = 8, 0.02


def config(rng):
    experts = rng.choice([4, 5, 8, 16])
    layers = rng.randint(2, 5)
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if rng.random() < 0.4:
        rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    kv = rng.choice([1, 2])
    return transformers.Qwen3MoeConfig(
        vocab_size=rng.choice([259, 320, 1000]), hidden_size=rng.choice([64, 96, 112]), num_hidden_layers=layers,
        num_attention_heads=kv * rng.choice([1, 2, 3]), num_key_value_heads=kv, head_dim=rng.choice([16, 32, 48]),
        moe_intermediate_size=rng.choice([40, 48, 64]), intermediate_size=rng.choice([72, 128]), num_experts=experts,
        num_experts_per_tok=rng.randint(1, min(4, experts)), norm_topk_prob=rng.random() < 0.5,
        tie_word_embeddings=rng.random() < 0.5, decoder_sparse_step=rng.choice([1, 1, 2]),
        mlp_only_layers=[0] if rng.random() < 0.3 else [], max_position_embeddings=512, rope_parameters=rope,
        rms_norm_eps=rng.choice([1e-5, 1e-6]), bos_token_id=None, eos_token_id=1, pad_token_id=None)


@torch.no_grad()
def spread(model, dtype):
    """Norm gains that are not 1 and weights large enough for choices to be clear; representable in the stored type."""
    for name, weight in model.named_parameters():
        weight.normal_(1.0, 0.2) if name.endswith("norm.weight") else weight.normal_(0.0, 0.2)
        weight.copy_(weight.to(dtype).float())


@torch.no_grad()
def run(model, prompt):
    ids, prompt_logprobs, logprobs, margins = list(prompt), None, [], []
    for _ in range(NEW_TOKENS):
        lp = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        if prompt_logprobs is None:
            prompt_logprobs = [None] + [float(lp[i - 1, ids[i]]) for i in range(1, len(ids))]
        top = lp[-1].topk(2)
        ids.append(int(top.indices[0]))
        logprobs.append(float(top.values[0]))
        margins.append(float(top.values[0] - top.values[1]))
    return {"prompt_ids": prompt, "prompt_logprobs": prompt_logprobs, "output_ids": ids[len(prompt):],
            "output_logprobs": logprobs, "clear": min(margins) >= MIN_MARGIN}


def main():
    out, seed = sys.argv[1], int(sys.argv[2])
    rng = random.Random(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    dtype = rng.choice([torch.bfloat16, torch.float32])
    model = transformers.Qwen3MoeForCausalLM(config(rng)).float().eval()
    model.set_attn_implementation("eager")
    spread(model, dtype)
    cases = [run(model, [rng.randrange(model.config.vocab_size) for _ in range(n)]) for n in (1, 2, 63, 130, 200)]
    model.to(dtype).save_pretrained(out)
    with open(os.path.join(out, "expected.json"), "w", encoding="utf-8") as f:
        json.dump({"config": model.config.to_dict(), "cases": cases}, f, default=str)


if __name__ == "__main__":
    main()
