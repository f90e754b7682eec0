"""A Qwen3-MoE checkpoint as Hugging Face publishes it -> one GGUF file in f32, for llama.cpp to quantise from.

Every weight of a bf16 or f16 checkpoint is an f32 number, so the file is exact and serves as the reference too. Names and
keys are those that llama.cpp reads for the architecture `qwen3moe`; the tokenizer goes along because llama.cpp loads no
model without one, but text is never given to it: token ids are.
"""
import json
import pathlib

import gguf
import numpy as np

SPECIAL, NORMAL = 3, 1  # llama.cpp's token types

PER_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
}
EXPERTS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}


def read_safetensors(path):
    """{name: f32 array}; of the small checkpoints this is for, so the whole file is read."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, tensors = json.loads(raw[8:8 + size]), {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in about["data_offsets"])
        if about["dtype"] == "BF16":
            values = (np.frombuffer(raw[begin:end], "<u2").astype("<u4") << 16).view("<f4")
        elif about["dtype"] in ("F16", "F32"):
            values = np.frombuffer(raw[begin:end], {"F16": "<f2", "F32": "<f4"}[about["dtype"]]).astype("<f4")
        else:
            raise SystemExit(f"{path}: {name} has dtype {about['dtype']}; BF16, F16 or F32 is read here")
        tensors[name] = values.reshape(about["shape"])
    return tensors


def add_config(writer, config):
    if config["model_type"] != "qwen3_moe" or config.get("mlp_only_layers") or config.get("rope_scaling"):
        raise SystemExit("only a qwen3_moe checkpoint with experts in every layer and plain rope is exported here")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer, tokenizer, vocab_size):
    pieces = {i: (text, NORMAL) for text, i in tokenizer["model"]["vocab"].items()}
    pieces.update({added["id"]: (added["content"], SPECIAL) for added in tokenizer["added_tokens"]})
    tokens = [pieces.get(i, (f"<|unused {i}|>", SPECIAL)) for i in range(vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_add_bos_token(False)


def add_tensors(writer, tensors, config):
    writer.add_tensor("token_embd.weight", tensors["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", tensors["model.norm.weight"])
    if not config.get("tie_word_embeddings"):
        writer.add_tensor("output.weight", tensors["lm_head.weight"])
    for layer in range(config["num_hidden_layers"]):
        of = f"model.layers.{layer}."
        for theirs, name in PER_LAYER.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", tensors[f"{of}{theirs}.weight"])
        for theirs, name in EXPERTS.items():
            stack = [tensors[f"{of}mlp.experts.{e}.{theirs}.weight"] for e in range(config["num_experts"])]
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.stack(stack))


def export(folder, path):
    """FOLDER (config.json, tokenizer.json, *.safetensors) -> PATH."""
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(path), "qwen3moe")
    add_config(writer, config)
    add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()), config["vocab_size"])
    tensors = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors.update(read_safetensors(shard))
    add_tensors(writer, tensors, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config
