/* The pack: a directory in which every layer is one file in kernel layout.
 *
 *   config.json tokenizer.json [generation_config.json tokenizer_config.json chat_template.jinja]   as published
 *   pack.json          format version, formats, file list with bytes and SHA-256, model digest
 *   blocks.xxh3        a digest of every MiB of every weights file (digests.c)
 *   embed.safetensors  "embed" [vocab, d_model] row-major (bf16 or f32)
 *   layer-0000.safetensors ...
 *   head.safetensors   "final_norm" [d_model] f32, "head" panel   (a tied head is written out here too)
 *
 * Tensors of a layer file: attn_norm, ffn_norm, q_norm, k_norm (f32 vectors); qkv panel (q rows, then k, then v)
 * [(n_q+2 n_kv)*d_head, d_model], qkv_bias (f32); o panel; MoE: router panel [n_experts, d_model],
 * experts.gate_up [E][2*round16(I)/16][d_model][16] interleaved by 16 (isa.h), experts.down [E][..][I][16], shared.gate_up,
 * shared.down, shared.gate; dense: dense.gate_up, dense.down. A panel of floats is a safetensors tensor of shape
 * [n/16, k, 16], of integers (kernels/quant.h) a U8 tensor of shape [n/16, block bytes]; a stack has [E] before it.
 * Weights of a class (model/format.h) for which no integer format is asked are exact: bf16 when every value is
 * representable in bf16, f32 otherwise, decided per tensor and file.
 *
 * Versions: 2 is written, 1 (no integers) is read as well; any other is refused. blocks.xxh3 came later and is optional: an older
 * sluice reads a pack that has it as any listed file, a pack without it is verified by SHA-256, and `sluice check --add` gives
 * it one, which changes the model digest (pack.json lists a file more), to the same on every node.
 *
 * pack.json, "formats": class -> "bf16", "i4", "i4+h128"; a layer that differs has a key of its own, "class@LAYER". */
#ifndef SL_MODEL_PACK_PACK_H
#define SL_MODEL_PACK_PACK_H

#include "kernels/observe.h"
#include "model/format.h"
#include "model/quantise/moments.h"
#include "model/shape.h"

enum sl_rotate { SL_ROTATE_AUTO, SL_ROTATE_OFF, SL_ROTATE_ON };

/* What a text says about the inputs of each matrix. The model room cannot run a model: who can, fills this.
 * Layers come in ascending order, so that only one layer's moments are held at a time. */
struct sl_pack_calibration {
    /* Before the matrices of a layer are packed; n_layers: before the head is. On the packing thread. */
    sl_status (*layer)(void *arg, uint32_t layer, struct sl_err *err);
    /* Of that layer, valid until the next call of `layer`. Called by many threads at once. NULL: no row ever
     * came there; packed as without calibration. */
    const struct sl_input_moments *(*moments)(void *arg, enum sl_site site, uint32_t expert);
    void *arg;
    bool feedback; /* moments are full: round column by column with error feedback */
};

struct sl_pack_class { /* of a written pack */
    struct sl_class_use use;
    /* Of what is integer: sum w^2 and sum (w - packed w)^2; noise 0: exact, or random. */
    double signal, noise;
    /* The same with the moments of each input as weight; 0 without calibration. */
    double weighed_signal, weighed_noise;
};
struct sl_pack_summary {
    struct sl_pack_class classes[SL_CLASSES];
    char digest[65];
};

struct sl_pack_options {
    bool force;       /* replace an existing pack */
    bool progress;    /* bar on stderr when it is a terminal, a line per 10 % otherwise */
    uint32_t threads; /* 0: all processors; the bytes don't depend on it */
    struct sl_formats formats;
    enum sl_rotate rotate; /* AUTO: by class and layer, where it lowers the error; i8 as calibration shows */
    const struct sl_pack_calibration *calibration; /* or NULL */
    struct sl_pack_summary *summary;               /* filled on success; or NULL */
};

/* SRC (Hugging Face directory) -> DST. Written aside and renamed: DST is whole or absent. The same input gives the
 * same bytes. Errors: SL_E_DATA (what and where), SL_E_IO (disk full, with the bytes needed), SL_E_USAGE (DST exists). */
sl_status sl_pack_write(const char *src, const char *dst, const struct sl_pack_options *options,
                        struct sl_err *err);

/* A pack with random weights, for benches. shape: a name that sl_pack_random_shapes lists, or a config.json;
 * layers: so many of them, 0: all. Weights of variance 1/k, norms of 1, embeddings of variance 1: activations
 * stay of order 1. The same seed gives the same bytes. calibration and ROTATE_AUTO are moot: a rotation only
 * when it is ON. */
sl_status sl_pack_write_random(const char *shape, uint32_t layers, uint64_t seed, const char *dst,
                               const struct sl_pack_options *options, struct sl_err *err);
extern const char sl_pack_random_shapes[]; /* "qwen3-30b-a3b, ..." */

bool sl_pack_is_pack(const char *path);
/* Layers of a pack, and no pack.json: not copied whole, and no checkpoint either. */
bool sl_pack_is_half(const char *path);

/* An opened pack: manifest read and checked against the files' sizes; no weights mapped yet. */
struct sl_pack;
sl_status sl_pack_open(struct sl_pack **pack, const char *path, struct sl_err *err);
void sl_pack_close(struct sl_pack *pack);
const struct sl_shape *sl_pack_shape(const struct sl_pack *pack);
/* What packing a checkpoint exactly would give, without writing or reading a weight (of F16 and F32 sources values are read, to
 * know whether bf16 holds them): shape, formats and bytes can be asked of it, its weights cannot be opened. */
sl_status sl_pack_foresee(struct sl_pack **pack, const char *src, struct sl_err *err);
const char *sl_pack_path(const struct sl_pack *pack);
/* What clients call it: the last part of the path that was given, of the checkpoint when it is a cached pack. */
const char *sl_pack_name(const struct sl_pack *pack);
/* hex SHA-256 over the manifest: what nodes compare at join */
const char *sl_pack_digest(const struct sl_pack *pack);
uint64_t sl_pack_layer_bytes(const struct sl_pack *pack, uint32_t layer);
uint64_t sl_pack_embed_bytes(const struct sl_pack *pack);
uint64_t sl_pack_head_bytes(const struct sl_pack *pack);
/* The formats of a class, for people: "i4+h128", "i4, layers 0-1 i8"; "" when the pack says nothing of it. */
void sl_pack_class_format(const struct sl_pack *pack, enum sl_class class_, char *text, size_t room);
/* The KV pages that an option means. "auto": i8 when the routed experts (the dense feed-forward, without them) are
 * integers, whose own error is then far larger; bf16 for an exact pack. Else one of sl_dtype_named's. */
enum sl_dtype sl_pack_kv_dtype(const struct sl_pack *pack, const char *kv);
bool sl_pack_has_digests(const struct sl_pack *pack); /* of blocks: blocks.xxh3 */
/* A file of the pack that is not weights, as it was packed: the bytes handed out are those that were digested. *text is
 * malloc'ed and ends in a NUL. SL_E_NOT_FOUND: the pack has none. SL_E_DATA: it has changed since. Any thread. */
sl_status sl_pack_read(const struct sl_pack *pack, const char *name, char **text, size_t *bytes,
                       struct sl_err *err);
const char *sl_pack_sha256(const struct sl_pack *pack, const char *name); /* of a file; NULL: it has none */

#endif
