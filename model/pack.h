/* The pack: a directory in which every layer is one file in kernel layout (design 4).
 *
 *   config.json tokenizer.json [generation_config.json tokenizer_config.json chat_template.jinja]   as published
 *   pack.json          format version, formats, file list with bytes and SHA-256, model digest
 *   embed.safetensors  "embed" [vocab, d_model] row-major (bf16 or f32)
 *   layer-0000.safetensors ...
 *   head.safetensors   "final_norm" [d_model] f32, "head" panel   (a tied head is written out here too)
 *
 * Tensors of a layer file: attn_norm, ffn_norm, q_norm, k_norm (f32 vectors); qkv panel (q rows, then k, then v)
 * [(n_q+2 n_kv)*d_head, d_model], qkv_bias (f32); o panel; MoE: router panel [n_experts, d_model],
 * experts.gate_up [E][2*round16(I)/16][d_model][16] interleaved by 16 (ops.h), experts.down [E][..][I][16], shared.gate_up,
 * shared.down, shared.gate; dense: dense.gate_up, dense.down. A panel is a safetensors tensor of shape [n/16, k, 16].
 * Weights are exact: bf16 when every value is representable in bf16, f32 otherwise, decided per tensor class and file. */
#ifndef SL_MODEL_PACK_H
#define SL_MODEL_PACK_H

#include "model/shape.h"

struct sl_pack_options {
    bool force;    /* replace an existing pack */
    bool progress; /* bar on stderr when it is a terminal, a line per 10 % otherwise */
};

/* SRC (Hugging Face directory) -> DST. Written aside and renamed: DST is whole or absent. The same input gives the
 * same bytes. Errors: SL_E_DATA (what and where), SL_E_IO (disk full, with the bytes needed), SL_E_USAGE (DST exists). */
sl_status sl_pack_write(const char *src, const char *dst, const struct sl_pack_options *options, struct sl_err *err);

bool sl_pack_is_pack(const char *path);

/* An opened pack: manifest read and checked against the files' sizes; no weights mapped yet. */
struct sl_pack;
sl_status sl_pack_open(struct sl_pack **pack, const char *path, struct sl_err *err);
void sl_pack_close(struct sl_pack *pack);
const struct sl_shape *sl_pack_shape(const struct sl_pack *pack);
const char *sl_pack_path(const struct sl_pack *pack);
const char *sl_pack_digest(const struct sl_pack *pack); /* hex SHA-256 over the manifest: what nodes compare at join */
uint64_t sl_pack_layer_bytes(const struct sl_pack *pack, uint32_t layer);
uint64_t sl_pack_embed_bytes(const struct sl_pack *pack);
uint64_t sl_pack_head_bytes(const struct sl_pack *pack);
/* Recompute every file's SHA-256 (sluice check). */
sl_status sl_pack_verify(const struct sl_pack *pack, struct sl_err *err);

#endif
