/* The switches: everything the engine needs to know about a decoder, read once from config.json, validated,
 * immutable. A family is a mapping from config keys to these (model/family/config.c); no code below sees a family. */
#ifndef SL_MODEL_SHAPE_H
#define SL_MODEL_SHAPE_H

#include "base/status.h"
#include <stdint.h>

enum { SL_MAX_LAYERS = 256, SL_MAX_EOS = 16, SL_MAX_TOP_K = 64, SL_MAX_HEAD = 512 };

struct sl_shape {
    char model_type[32];   /* "qwen3_moe" */
    char architecture[64]; /* "Qwen3MoeForCausalLM" */
    uint32_t n_layers, d_model, vocab;
    uint32_t max_pos; /* the context: with yarn, factor times the original one */
    uint32_t n_q, n_kv, d_head;
    uint32_t n_experts, top_k, d_expert; /* 0 when no layer is MoE */
    uint32_t d_dense;                    /* width of dense layers' feed-forward */
    uint32_t d_shared;                   /* width of the shared expert, 0: none */
    bool shared_gate;                    /* shared expert times sigmoid(w.x) */
    bool renorm;                         /* chosen gates are divided by their sum */
    bool tied_head;
    bool qkv_bias;
    bool qk_norm; /* RMS norm per head on q and k before rope */
    float norm_eps;
    float softmax_scale;                  /* 1/sqrt(d_head) unless the family says otherwise */
    float rope_inv_freq[SL_MAX_HEAD / 2]; /* d_head/2 entries, YaRN and friends already applied */
    float rope_factor;                    /* cos and sin are multiplied by it; 1 without YaRN */
    uint8_t is_moe[SL_MAX_LAYERS];
    uint32_t n_eos;
    uint32_t eos[SL_MAX_EOS]; /* from generation_config.json, else config.json */
    int32_t bos, pad;         /* -1: none */
};

/* Reads DIR/config.json (and generation_config.json when there). SL_E_DATA names the key and what is accepted. */
sl_status sl_shape_load(struct sl_shape *shape, const char *dir, struct sl_err *err);
/* The same from text: for tests and fuzzing. generation may be NULL. */
sl_status sl_shape_parse(struct sl_shape *shape, const char *config, size_t config_bytes,
                         const char *generation, size_t generation_bytes, struct sl_err *err);

#endif
