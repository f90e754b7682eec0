/* A model under `sluice eval` (eval_model.h): opened as every command opens one, run as a stage without a
 * network.
 *
 * The rows that come out are those of serving, bit for bit: the stage is the same code, and its results do
 * not depend on how a window is cut into chunks. */
#include "node/eval/eval_model.h"

#include "model/pack/pack_cache.h"
#include "node/local/cluster.h"
#include "pipeline/decide/plan.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what the weights take ---- */

static struct sl_class_use sum_of(const struct sl_eval_model *model, enum sl_class begin, enum sl_class end)
{
    struct sl_class_use sum = {0};
    for (enum sl_class c = begin; c < end; c++) {
        sum.weights += model->uses[c].weights;
        sum.bytes += model->uses[c].bytes;
    }
    return sum;
}

struct sl_class_use sl_eval_experts(const struct sl_eval_model *model)
{
    return sum_of(model, SL_CLASS_GATE_UP, SL_CLASS_DOWN + 1);
}

struct sl_class_use sl_eval_matrices(const struct sl_eval_model *model)
{
    return sum_of(model, 0, SL_CLASS_ROUTER);
}

static sl_status account(struct sl_eval_model *model, struct sl_err *err)
{
    const struct sl_shape *s = sl_pack_shape(model->pack);
    struct sl_weights weights;
    SL_TRY(sl_weights_open(&weights, model->pack, 0, s->n_layers, true, true,
                           &(struct sl_loading){.verify = SL_VERIFY_OFF}, err)); /* the stage verifies them */
    sl_weights_account(&weights, s, model->uses);
    sl_weights_close(&weights);
    return SL_OK;
}

/* ---- open and close ---- */

static sl_status open_parts(struct sl_eval_model *model, struct sl_err *err)
{
    const struct sl_eval_config *c = &model->config;
    uint32_t window = c->window;
    SL_TRY(sl_pack_open_any(&model->pack, c->path, err));
    const struct sl_shape *s = sl_pack_shape(model->pack);
    if (window > s->max_pos)
        return sl_fail(
            err, SL_E_USAGE,
            "a window of %u tokens is longer than the context of %.160s, %u; make --context smaller", window,
            c->path, s->max_pos);
    /* Two models speak of the same tokens when their tokenizer.json is the same file. */
    const char *tokenizer = sl_pack_sha256(model->pack, "tokenizer.json");
    snprintf(model->tokenizer_digest, sizeof model->tokenizer_digest, "%s", tokenizer ? tokenizer : "");
    SL_TRY(account(model, err));
    enum sl_dtype kv_dtype = sl_pack_kv_dtype(model->pack, c->kv);
    model->kv = sl_dtype_name(kv_dtype);
    struct sl_share share = {
        .end = s->n_layers,
        .with_embed = true,
        .with_head = true,
        .n_threads = c->n_threads,
        .kv_dtype = kv_dtype,
        .profile = c->profile,
        .device = c->device,
        .which = c->which,
        .n_pages = sl_pages_of(window),
        .max_tokens = window < SL_MAX_CHUNK ? window : SL_MAX_CHUNK,
        .max_sequences = 1,
        .context_tokens = window,
    };
    SL_TRY(sl_stage_create(&model->stage, model->pack, &share, &c->load, err));
    model->x = calloc((size_t)window * s->d_model, sizeof *model->x);
    return model->x ? SL_OK
                    : sl_fail(err, SL_E_NOMEM, "no memory for a window of %u tokens; make --context smaller",
                              window);
}

sl_status sl_eval_model_open(struct sl_eval_model *model, const struct sl_eval_config *config,
                             struct sl_err *err)
{
    *model = (struct sl_eval_model){.config = *config, .kv = config->kv};
    return open_parts(model, err);
}

void sl_eval_model_close(struct sl_eval_model *model)
{
    sl_stage_destroy(model->stage);
    if (model->pack)
        sl_pack_close(model->pack);
    free(model->x);
}

/* ---- a window ---- */

void sl_eval_model_read(struct sl_eval_model *model, const uint32_t *ids, uint32_t n)
{
    struct sl_stage *stage = model->stage;
    uint32_t most = sl_stage_share(stage)->max_tokens;
    struct sl_sequence *sequence = sl_sequences_open(sl_stage_sequences(stage), 0);
    sl_status reserved = sequence ? sl_stage_reserve(stage, sequence, n) : SL_E_EXHAUSTED;
    assert(reserved == SL_OK); /* the pool was planned for just this */
    for (uint32_t pos = 0; pos < n; pos += most) {
        uint32_t rows = n - pos < most ? n - pos : most;
        struct sl_chunk chunk = {.n_tokens = rows,
                                 .n_slices = 1,
                                 .slices = {{sequence, pos, rows, 0}},
                                 .x = model->x + (size_t)pos * sl_stage_shape(stage)->d_model};
        sl_stage_embed(stage, &chunk, (const uint8_t *)(ids + pos));
        sl_stage_run(stage, &chunk);
    }
    sl_sequences_close(sl_stage_sequences(stage), sequence);
}
