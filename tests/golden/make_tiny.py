#!/usr/bin/env python3
"""Makes tiny Qwen3-MoE checkpoints, without torch: numpy and safetensors only.

Every weight is a function of (seed, tensor name, index): Philox, keyed by the name's SHA-256, summed to a near-normal
number. So nothing is stored in the tree, and the same command gives the same bytes everywhere. Norm gains are
1 + 0.2 n and weights 0.2 n, because default initialisation hides bugs: gains of exactly 1 make a skipped norm invisible,
and small weights make every argmax noise. Sizes are odd on purpose.

    make_tiny.py OUT --name base          one of the named recipes (--list shows them)
    make_tiny.py OUT --set hidden_size=64 --set norm_topk_prob=false --store f32 --shards 3 --dialect 5
    make_tiny.py OUT --all                every named recipe, as OUT/NAME

--store: bf16 | f16 | f32 hold the same bf16 values in another type; f16x and f32x hold values that are no bf16.
--dialect 4: rope_theta + rope_scaling, torch_dtype, num_experts. 5: rope_parameters, dtype, num_local_experts.
"""
import argparse
import hashlib
import json
import os
import struct
import sys

import numpy as np

BASE = {
    "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "vocab_size": 259, "moe_intermediate_size": 48, "intermediate_size": 80,
    "num_experts": 5, "num_experts_per_tok": 2, "norm_topk_prob": True, "tie_word_embeddings": False,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
}

# name -> what differs from BASE, and from store bf16, one file, dialect 4
RECIPES = {
    "base": {},
    "tied": {"set": {"tie_word_embeddings": True, "norm_topk_prob": False, "rms_norm_eps": 1e-5}},
    "dense": {"set": {"decoder_sparse_step": 2, "mlp_only_layers": [3], "num_hidden_layers": 5},
              "dialect": 5},
    "yarn": {"set": {"rope": {"rope_type": "yarn", "factor": 8.0,
                              "original_max_position_embeddings": 64}},
             "store": "f32", "dialect": 5},
    "yarn-old": {"set": {"rope": {"type": "yarn", "factor": 16.0, "beta_fast": 16, "beta_slow": 2,
                                  "attention_factor": 1.25, "original_max_position_embeddings": 32},
                         "rope_theta": 1000000.0, "norm_topk_prob": False},
                 "shards": 3},
    "f16": {"store": "f16", "shards": 2, "dialect": 5,
            "set": {"tie_word_embeddings": True, "num_experts": 7, "num_experts_per_tok": 3}},
    "f32": {"store": "f32x", "set": {"num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 16,
                                     "moe_intermediate_size": 33, "hidden_size": 70,
                                     "decoder_sparse_step": 3, "num_hidden_layers": 3}},
    "all-experts": {"set": {"num_experts": 4, "num_experts_per_tok": 4, "num_key_value_heads": 1,
                            "head_dim": 64, "hidden_size": 64, "num_hidden_layers": 2,
                            "rope": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0,
                                     "mscale_all_dim": 0.5, "truncate": False,
                                     "original_max_position_embeddings": 128}},
                    "dialect": 5},
    "dense-only": {"set": {"mlp_only_layers": [0, 1, 2], "num_hidden_layers": 3}},
    "odd": {"set": {"hidden_size": 51, "moe_intermediate_size": 23, "intermediate_size": 37,
                    "head_dim": 10, "num_attention_heads": 6, "mlp_only_layers": [1],
                    "num_experts": 17, "num_experts_per_tok": 5, "num_hidden_layers": 3},
            "store": "f16x"},
}


def normal(seed, name, count):
    """`count` numbers, near-normal (a sum of 12 uniforms less 6), exact in double precision."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(3 * count).view(np.uint16)
    return raw.reshape(count, 12).astype(np.float64).sum(1) / 65536 - 6 + 12 * 0.5 / 65536


def round_bf16(x):
    """Nearest bf16, ties to even; below 2^-14 it is zero, so that every value is an f16 as well."""
    u = x.astype(np.float32).view(np.uint32)
    u = (u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000
    y = u.astype(np.uint32).view(np.float32)
    return np.where(np.abs(y) < 2.0**-14, np.float32(0), y)


def values(seed, name, shape, store):
    n = normal(seed, name, int(np.prod(shape)))
    x = (1 + 0.2 * n) if name.endswith("norm.weight") else 0.2 * n
    x = x.astype(np.float32) if store in ("f32x", "f16x") else round_bf16(x)
    return x.reshape(shape)


def encode(x, store):
    """-> (dtype as safetensors names it, bytes)"""
    if store == "bf16":
        return "BF16", (np.ascontiguousarray(x).view(np.uint32) >> 16).astype("<u2").tobytes()
    if store in ("f16", "f16x"):
        return "F16", x.astype("<f2").tobytes()
    return "F32", x.astype("<f4").tobytes()


def layer_is_moe(c, i):
    return (i not in c["mlp_only_layers"] and c["num_experts"] > 0
            and (i + 1) % c["decoder_sparse_step"] == 0)


def tensor_shapes(c):
    h, d = c["hidden_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    yield "model.embed_tokens.weight", (c["vocab_size"], h)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (h,)
        yield p + "post_attention_layernorm.weight", (h,)
        yield p + "self_attn.q_norm.weight", (d,)
        yield p + "self_attn.k_norm.weight", (d,)
        yield p + "self_attn.q_proj.weight", (q, h)
        yield p + "self_attn.k_proj.weight", (kv, h)
        yield p + "self_attn.v_proj.weight", (kv, h)
        yield p + "self_attn.o_proj.weight", (h, q)
        if layer_is_moe(c, i):
            yield p + "mlp.gate.weight", (c["num_experts"], h)
        for e in range(c["num_experts"]) if layer_is_moe(c, i) else [None]:
            m = p + ("mlp." if e is None else f"mlp.experts.{e}.")
            w = c["intermediate_size"] if e is None else c["moe_intermediate_size"]
            yield m + "gate_proj.weight", (w, h)
            yield m + "up_proj.weight", (w, h)
            yield m + "down_proj.weight", (h, w)
    yield "model.norm.weight", (h,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], h)


def config_json(c, store, dialect):
    out = {k: v for k, v in c.items() if k not in ("rope", "rope_theta", "num_experts")}
    dtype = {"bf16": "bfloat16", "f16": "float16", "f16x": "float16"}.get(store, "float32")
    out.update({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_act": "silu",
        "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
        "output_router_logits": False, "router_aux_loss_coef": 0.001, "use_sliding_window": False,
        "sliding_window": None, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": 256,
    })
    if dialect == 5:
        out["rope_parameters"] = {"rope_type": "default", **c.get("rope", {}),
                                  "rope_theta": c["rope_theta"]}
        out["dtype"] = dtype
        out["num_local_experts"] = c["num_experts"]
        out["transformers_version"] = "5.0.0"
    else:
        out["rope_theta"] = c["rope_theta"]
        out["rope_scaling"] = c.get("rope")
        out["torch_dtype"] = dtype
        out["num_experts"] = c["num_experts"]
        out["max_window_layers"] = c["num_hidden_layers"]
        out["transformers_version"] = "4.51.0"
    return out


def tokenizer_json():
    """Byte-level, no merges: id b is byte b; three special tokens follow. The Qwen2 splitter in front."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    char = {b: chr(b) for b in visible}
    for i, b in enumerate(b for b in range(256) if b not in char):
        char[b] = chr(256 + i)
    added = [{"id": 256 + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True}
             for i, s in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])]
    splitter = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                  "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": splitter}, "behavior": "Isolated", "invert": False},
            byte_level]},
        "post_processor": dict(byte_level), "decoder": dict(byte_level),
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": False, "vocab": {char[b]: b for b in range(256)}, "merges": []},
    }


def write_safetensors(path, tensors):
    """tensors: [(name, dtype, shape, bytes)]. Written here, so that the bytes depend on no library version."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, data in tensors:
            f.write(data)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def make(out, overrides=None, store="bf16", shards=1, dialect=4, seed=1):
    c = {**BASE, **(overrides or {})}
    os.makedirs(out, exist_ok=True)
    tensors = []
    for name, shape in tensor_shapes(c):
        dtype, data = encode(values(seed, name, shape, store), store)
        tensors.append((name, dtype, shape, data))
    tensors.sort(key=lambda t: t[0])
    if shards == 1:
        write_safetensors(os.path.join(out, "model.safetensors"), tensors)
    else:
        weight_map = {}
        for s in range(shards):
            file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
            part = tensors[s * len(tensors) // shards:(s + 1) * len(tensors) // shards]
            write_safetensors(os.path.join(out, file), part)
            weight_map.update({t[0]: file for t in part})
        write_json(os.path.join(out, "model.safetensors.index.json"),
                   {"metadata": {"total_size": sum(len(t[3]) for t in tensors)},
                    "weight_map": weight_map})
    write_json(os.path.join(out, "config.json"), config_json(c, store, dialect))
    write_json(os.path.join(out, "generation_config.json"),
               {"eos_token_id": [256, 258], "pad_token_id": 256, "transformers_version": "4.51.0"})
    write_json(os.path.join(out, "tokenizer.json"), tokenizer_json())
    write_json(os.path.join(out, "tokenizer_config.json"),
               {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>", "bos_token": None, "add_bos_token": False,
                "model_max_length": c["max_position_embeddings"],
                "chat_template": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
                                 "{{ m['content'] }}<|im_end|>\n{% endfor %}"
                                 "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"})


def make_named(out, name):
    recipe = dict(RECIPES[name])
    make(out, recipe.pop("set", {}), **recipe)


def main():
    p = argparse.ArgumentParser(description="tiny Qwen3-MoE checkpoints, deterministic")
    p.add_argument("out", nargs="?")
    p.add_argument("--name", choices=sorted(RECIPES))
    p.add_argument("--all", action="store_true")
    p.add_argument("--list", action="store_true")
    p.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    p.add_argument("--store", default="bf16", choices=["bf16", "f16", "f32", "f16x", "f32x"])
    p.add_argument("--shards", type=int, default=1)
    p.add_argument("--dialect", type=int, default=4, choices=[4, 5])
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    if a.list:
        print("\n".join(RECIPES))
        return 0
    if not a.out:
        p.error("OUT is missing")
    if a.all:
        for name in RECIPES:
            make_named(os.path.join(a.out, name), name)
    elif a.name:
        make_named(a.out, a.name)
    else:
        overrides = {k: json.loads(v) for k, v in (s.split("=", 1) for s in a.set)}
        make(a.out, overrides, a.store, a.shards, a.dialect, a.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
