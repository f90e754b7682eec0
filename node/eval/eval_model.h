/* One model under `sluice eval`: its pack, one stage over all layers in this process, and the hidden rows of
 * the window that it last read. Two of these stand side by side; logits are made a few rows at a time from
 * the hidden rows (the stage's head buffer), so that the logits of a whole window are never held. */
#ifndef SL_NODE_EVAL_EVAL_MODEL_H
#define SL_NODE_EVAL_EVAL_MODEL_H

#include "pipeline/stage/stage.h"

struct sl_eval_config {
    const char *path,
        *kv; /* a pack, or a checkpoint (packed on first use); the numbers of its KV cache, as given */
    const char *which; /* of the device's kind, as --device says */
    enum sl_device_kind device;
    enum sl_profile profile;
    uint32_t window; /* tokens */
    uint32_t n_threads;
    struct sl_loading load;
};

struct sl_eval_model {
    struct sl_eval_config config;
    const char *kv; /* as it is, where "auto" was given */
    struct sl_pack *pack;
    struct sl_stage *stage;
    char tokenizer_digest[65]; /* SHA-256 of tokenizer.json; empty: there is none */
    struct sl_class_use uses[SL_CLASSES];
    float *x; /* [window][d_model] */
};

/* A window longer than the model's context is SL_E_USAGE. After a failure too, close it. */
sl_status sl_eval_model_open(struct sl_eval_model *model, const struct sl_eval_config *config,
                             struct sl_err *err);
void sl_eval_model_close(struct sl_eval_model *model); /* a zeroed model is fine */

/* Reads a window from its first token on, nothing before it: x has the rows. Every id is below the
 * vocabulary. */
void sl_eval_model_read(struct sl_eval_model *model, const uint32_t *ids, uint32_t n);

/* What the routed experts take, and what all matrices take but router and embedding, which stay exact. */
struct sl_class_use sl_eval_experts(const struct sl_eval_model *model);
struct sl_class_use sl_eval_matrices(const struct sl_eval_model *model);

#endif
