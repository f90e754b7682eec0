/* Running a checkpoint over a text, layer by layer, and watching what goes into each matrix (calibrate.h).
 *
 * The rows of the whole text lie in memory between layers. The stage of one layer takes them chunk by chunk,
 * exactly as a pipeline's stage would, and its observer adds them up. The text is cut into sequences of equal
 * length, since attention over all of it at once would show the model positions that prompts seldom have. */
#include "node/eval/calibrate.h"
#include "base/cpu.h"
#include "model/pack/pack_cache.h"
#include "node/client/prompt.h"
#include "node/local/cluster.h"
#include "pipeline/stage/stage.h"

#include <stdlib.h>
#include <string.h>

enum {
    SEQUENCE = 2048, /* tokens, or the model's context when that is shorter */
    CHUNK = 512,
    LEAST_TOKENS = 64,
    HEAD_SAMPLE = 8 /* the head is run for every 8th chunk only: it costs as much as many layers */
};

struct sl_calibrator {
    struct sl_calibrate_options options;
    struct sl_pack *pack; /* exact */
    const struct sl_shape *shape;
    const struct sl_ops *ops;
    struct sl_prompt text;
    uint32_t n_tokens;
    float *x; /* [n_tokens][d_model], the hidden rows before the next layer */
    struct sl_input_moments sites[SL_SITES];
    struct sl_input_moments *down; /* [n_experts]: the experts' own */
    struct sl_err err;             /* of an observer, which cannot fail */
};

static struct sl_input_moments *moments_at(struct sl_calibrator *c, enum sl_site site, uint32_t expert)
{
    return site == SL_SITE_EXPERTS_DOWN ? &c->down[expert] : &c->sites[site];
}

static void observe(void *arg, uint32_t layer, enum sl_site site, uint32_t expert, const float *x, uint32_t n,
                    uint32_t k)
{
    struct sl_calibrator *c = arg;
    struct sl_input_moments *m = moments_at(c, site, expert);
    (void)layer;
    if (!m->sums &&
        (c->err.status != SL_OK || sl_input_moments_init(m, k, c->options.feedback, &c->err) != SL_OK))
        return;
    sl_input_moments_add(m, c->ops, x, n);
}

/* The head's stay: they are seen with the last layer and used after it. */
static void forget(struct sl_calibrator *c, bool head_too)
{
    for (int s = 0; s < SL_SITES; s++)
        if (s != SL_SITE_HEAD || head_too)
            sl_input_moments_fini(&c->sites[s]);
    for (uint32_t e = 0; c->down && e < c->shape->n_experts; e++)
        sl_input_moments_fini(&c->down[e]);
}

static uint32_t sequence_tokens(const struct sl_calibrator *c)
{
    return c->shape->max_pos < SEQUENCE ? c->shape->max_pos : SEQUENCE;
}

static void run_chunk(struct sl_calibrator *c, struct sl_stage *stage, struct sl_sequence *sequence,
                      uint32_t start, uint32_t pos, uint32_t n)
{
    struct sl_chunk chunk = {.n_tokens = n, .n_slices = 1, .slices = {{sequence, pos, n, 0}}};
    const struct sl_share *config = sl_stage_share(stage);
    chunk.x = c->x + (size_t)start * c->shape->d_model;
    if (config->with_embed)
        sl_stage_embed(stage, &chunk, (const uint8_t *)(c->text.ids + start));
    sl_stage_run(stage, &chunk);
    if (!config->with_head || start / CHUNK % HEAD_SAMPLE != 0)
        return;
    for (uint32_t row = 0, rows; row < n; row += rows) {
        rows = sl_stage_head_rows(stage) < n - row ? sl_stage_head_rows(stage) : n - row;
        sl_stage_logits(stage, chunk.x + (size_t)row * c->shape->d_model, rows);
    }
}

static sl_status run_layer(struct sl_calibrator *c, struct sl_stage *stage, struct sl_err *err)
{
    uint32_t length = sequence_tokens(c);
    for (uint32_t start = 0; start < c->n_tokens; start += length) {
        uint32_t tokens = c->n_tokens - start < length ? c->n_tokens - start : length;
        struct sl_sequence *sequence = sl_sequences_open(sl_stage_sequences(stage), 1);
        if (!sequence || sl_stage_reserve(stage, sequence, tokens) != SL_OK)
            return sl_fail(err, SL_E_INTERNAL, "no KV page for the calibration text; report this");
        for (uint32_t pos = 0; pos < tokens; pos += CHUNK)
            run_chunk(c, stage, sequence, start + pos, pos, tokens - pos < CHUNK ? tokens - pos : CHUNK);
        sl_sequences_close(sl_stage_sequences(stage), sequence);
    }
    if (c->err.status != SL_OK && err)
        *err = c->err;
    return c->err.status;
}

/* For the packer: see sl_pack_calibration. */
static sl_status calibrate_layer(void *arg, uint32_t layer, struct sl_err *err)
{
    struct sl_calibrator *c = arg;
    struct sl_observer observer = {.rows = observe, .arg = c};
    struct sl_stage *stage;
    uint32_t length = sequence_tokens(c);
    forget(c, layer == 0);
    if (layer == c->shape->n_layers)
        return SL_OK;
    struct sl_share config = {.begin = layer,
                              .end = layer + 1,
                              .with_embed = layer == 0,
                              .with_head = layer + 1 == c->shape->n_layers,
                              .n_threads = sl_cpu_threads(c->options.threads, 1),
                              .kv_dtype = SL_F32,
                              .n_pages = sl_pages_of(length),
                              .max_tokens = CHUNK,
                              .max_sequences = 1,
                              .context_tokens = length};
    SL_TRY(sl_stage_create(&stage, c->pack, &config, NULL, err));
    sl_stage_observe(stage, &observer);
    sl_status status = run_layer(c, stage, err);
    sl_stage_destroy(stage);
    return status;
}

static const struct sl_input_moments *calibrate_moments(void *arg, enum sl_site site, uint32_t expert)
{
    const struct sl_input_moments *m = moments_at(arg, site, expert);
    return m->rows > 0 ? m : NULL;
}

/* ---- the text ---- */

static sl_status read_text(struct sl_calibrator *c, struct sl_err *err)
{
    struct sl_tokenizer *tokenizer = NULL;
    SL_TRY(sl_pack_tokenizer(c->pack, &tokenizer, err));
    sl_status status = sl_prompt_read(&c->text, NULL, c->options.text, NULL, tokenizer, err);
    sl_tokenizer_destroy(tokenizer);
    SL_TRY(status);
    c->n_tokens = c->text.n_ids < c->options.max_tokens ? c->text.n_ids : c->options.max_tokens;
    if (c->n_tokens < LEAST_TOKENS)
        return sl_fail(err, SL_E_DATA,
                       "%.160s has %u tokens; calibration needs %d at least, and thousands to be good",
                       c->options.text, c->n_tokens, LEAST_TOKENS);
    for (uint32_t i = 0; i < c->n_tokens; i++)
        if (c->text.ids[i] >= c->shape->vocab)
            return sl_fail(err, SL_E_DATA, "%.160s: token %u is outside the model's vocabulary of %u",
                           c->options.text, c->text.ids[i], c->shape->vocab);
    return SL_OK;
}

static sl_status create_parts(struct sl_calibrator *c, const char *src, struct sl_err *err)
{
    SL_TRY(sl_ops_select(&c->ops, err));
    SL_TRY(sl_pack_open_any(&c->pack, src, err));
    c->shape = sl_pack_shape(c->pack);
    SL_TRY(read_text(c, err));
    c->x = malloc((size_t)c->n_tokens * c->shape->d_model * sizeof *c->x);
    c->down = calloc(c->shape->n_experts + 1, sizeof *c->down);
    if (!c->x || !c->down)
        return sl_fail(err, SL_E_NOMEM, "no memory for the rows of %u tokens; lower --calibrate-tokens",
                       c->n_tokens);
    return SL_OK;
}

sl_status sl_calibrator_create(struct sl_calibrator **calibrator, const char *src,
                               const struct sl_calibrate_options *options,
                               struct sl_pack_calibration *calibration, struct sl_err *err)
{
    struct sl_calibrator *c = calloc(1, sizeof *c);
    *calibrator = NULL;
    if (!c)
        return sl_fail(err, SL_E_NOMEM, "no memory to calibrate");
    c->options = *options;
    sl_status status = create_parts(c, src, err);
    if (status != SL_OK) {
        sl_calibrator_destroy(c);
        return status;
    }
    *calibration = (struct sl_pack_calibration){
        .layer = calibrate_layer, .moments = calibrate_moments, .arg = c, .feedback = options->feedback};
    *calibrator = c;
    return SL_OK;
}

void sl_calibrator_destroy(struct sl_calibrator *calibrator)
{
    if (!calibrator)
        return;
    if (calibrator->shape)
        forget(calibrator, true);
    sl_prompt_free(&calibrator->text);
    free(calibrator->down);
    free(calibrator->x);
    sl_pack_close(calibrator->pack);
    free(calibrator);
}
