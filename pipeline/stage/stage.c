/* The walk of one chunk through a layer range (HACKING.md, "The walk of one chunk"):
 *
 *   sl_stage_embed    ids -> rows                                   (first stage)
 *   sl_stage_run      for each layer: attention, then router and experts, both onto the residual rows; of the last one
 *                     of the model only K and V where a row is not wanted any more
 *   sl_stage_logits   final norm, head                              (last stage, rows that need it)
 *
 * as calls of a device (kernels/device.h), which has the weights, the pages and the rows. In place they are where the host
 * has them, and nothing is copied; else rows and pages go in and out by copies, with an event behind each. Here a chunk is
 * waited for before the next one begins. Everything else here is memory: a plan that is computed before it is taken. */
#include "pipeline/stage/stage.h"
#include "base/digest.h"
#include "kernels/gpu/device.h"
#include "kernels/quant.h"
#include "model/pack/bus_error.h"
#include "pipeline/stage/device_impl.h"
#include "pipeline/stage/device_wait.h"
#include "pipeline/stage/prior.h"
#include <assert.h>
#include <stdlib.h>

_Static_assert((int)SL_PAGE == (int)SL_PAGE_TOKENS, "the plan and the kernels mean the same page");

enum { CHUNK_ROWS, HEAD_ROWS };               /* row buffers */
enum { EVENT_IN, EVENT_COMPUTED, EVENT_OUT }; /* the last thing of each queue */

struct sl_stage {
    struct sl_share config;
    struct sl_shape shape;
    struct sl_weights weights; /* open as long as the device works in place */
    struct sl_scrubber *scrubber;
    uint64_t weight_bytes;
    struct sl_device *device;
    const struct sl_device_ops *ops; /* device->ops */
    struct sl_arena arena;
    struct sl_layer_blocks *layers; /* of another device: only sizes and formats mean something here */
    struct sl_panel head;           /* the same of it */
    size_t page_bytes, page_layer_bytes;
    struct sl_sequences sequences;
    uint32_t head_rows;
    /* Where the device is not in place: [head_rows][vocab], and of each page that went out, by its number. Pages of memory
     * that nothing went to are never taken from the system. */
    float *logits;
    uint8_t *copies;
    const float *embedded; /* the rows that sl_stage_embed has left on the device, for sl_stage_run */
    struct sl_observer observer;
    struct sl_cost cost; /* of chunks, as they are expected; zeroed: unknown */
    uint64_t run_ns;     /* wall time inside sl_stage_run and sl_stage_logits */
};

/* ---- the plan ---- */

static const struct sl_device_ops *ops_of(enum sl_device_kind kind)
{
    if (sl_device_wait())
        return sl_device_wait();
    switch (kind) { /* no default: the compiler asks for a new one */
    case SL_DEVICE_CPU:
        return &sl_device_cpu;
    case SL_DEVICE_CUDA:
        return &sl_device_cuda;
    case SL_DEVICE_TWIN:
        return &sl_device_twin;
    case SL_DEVICE_LATE:
        return &sl_device_late;
    }
    abort();
}

/* Rows of logits at once: enough for the head's weights to be read few times, at most 8 MiB of logits, and a chunk's. */
static uint32_t head_rows_of(const struct sl_shape *s, const struct sl_share *c)
{
    uint32_t rows = (8u << 20) / (s->vocab * (uint32_t)sizeof(float));
    if (rows > c->max_tokens)
        rows = c->max_tokens;
    if (rows < 12)
        rows = 12;
    if (rows < c->max_sequences)
        rows = c->max_sequences; /* a decode step samples every sequence */
    return rows;
}

static struct sl_device_config device_config(const struct sl_shape *s, const struct sl_share *c)
{
    return (struct sl_device_config){
        .attention = {s->d_model, s->n_q, s->n_kv, s->d_head, s->norm_eps, s->softmax_scale},
        .experts = {.d_model = s->d_model,
                    .n_experts = s->n_experts,
                    .top_k = s->top_k,
                    .d_expert = s->d_expert,
                    .d_single = s->d_dense > s->d_shared ? s->d_dense : s->d_shared,
                    .renorm = s->renorm,
                    .norm_eps = s->norm_eps},
        .rope_inv_freq = s->rope_inv_freq,
        .rope_factor = s->rope_factor,
        .n_layers = c->end - c->begin,
        .vocab = s->vocab,
        .with_embed = c->with_embed,
        .with_head = c->with_head,
        .kv_dtype = c->kv_dtype,
        .profile = c->profile,
        .n_pages = c->n_pages,
        .max_pages = sl_pages_of(c->context_tokens),
        .max_tokens = c->max_tokens,
        .max_slices = SL_MAX_BATCH,
        .head_rows = head_rows_of(s, c),
        .token_steps = c->token_steps,
        .n_threads = c->n_threads,
        .n_places = c->n_places,
        .which = c->which};
}

static size_t page_layer_bytes(const struct sl_shape *s, enum sl_dtype kv_dtype)
{
    return sl_kv_layer_bytes(&(struct sl_kv_layout){1, s->n_kv, s->d_head, kv_dtype});
}

sl_status sl_plan_for_shape(struct sl_plan *plan, const struct sl_shape *shape,
                            const struct sl_plan_options *options, struct sl_err *err)
{
    struct sl_plan_model model = {.n_layers = shape->n_layers,
                                  .max_pos = shape->max_pos,
                                  .d_model = shape->d_model,
                                  .vocab = shape->vocab,
                                  .kv_layer_bytes = page_layer_bytes(shape, options->kv_dtype)};
    return sl_plan_make(plan, &model, options, err);
}

/* What the stage has beside its device. */
static size_t table_bytes(const struct sl_share *c)
{
    return sl_sequences_bytes(c->max_sequences, c->context_tokens, c->n_pages) +
           sl_arena_round((c->end - c->begin) * sizeof(struct sl_layer_blocks));
}

/* Where what comes from a device that is not in place is put. */
static size_t staging_bytes(const struct sl_shape *s, const struct sl_share *c)
{
    if (ops_of(c->device)->in_place)
        return 0;
    return sl_arena_round((size_t)c->n_pages * (c->end - c->begin) * page_layer_bytes(s, c->kv_dtype)) +
           (c->with_head ? sl_arena_round((size_t)head_rows_of(s, c) * s->vocab * sizeof(float)) : 0);
}

sl_status sl_stage_bytes(struct sl_stage_bytes *plan, const struct sl_pack *pack, const struct sl_share *c,
                         struct sl_err *err)
{
    const struct sl_shape *s = sl_pack_shape(pack);
    *plan = (struct sl_stage_bytes){0};
    if (c->begin >= c->end || c->end > s->n_layers)
        return sl_fail(err, SL_E_CONFIG,
                       "layers [%u, %u) are not a range of a model with %u layers; use fewer stages",
                       c->begin, c->end, s->n_layers);
    for (uint32_t i = c->begin; i < c->end; i++)
        plan->weights += sl_pack_layer_bytes(pack, i);
    plan->weights += c->with_embed ? sl_pack_embed_bytes(pack) : 0;
    plan->weights += c->with_head ? sl_pack_head_bytes(pack) : 0;
    struct sl_device_config config = device_config(s, c);
    struct sl_device_bytes device;
    SL_TRY(ops_of(c->device)->bytes(&device, &config, err));
    plan->kv = device.kv;
    plan->activations = device.activations;
    plan->tables = device.tables + table_bytes(c) + staging_bytes(s, c);
    plan->scratch = device.scratch;
    plan->logits = device.logits;
    plan->pinned = device.pinned;
    plan->device = device.own > 0 ? plan->weights + device.own : 0;
    if (!sl_add_size(plan->kv, plan->activations + plan->tables + plan->scratch + plan->logits,
                     &plan->buffers))
        return sl_fail(err, SL_E_CONFIG,
                       "a KV pool of %u pages does not fit the address space; ask for fewer", c->n_pages);
    return SL_OK;
}

/* ---- create and destroy ---- */

static void bind_layer(struct sl_layer_blocks *to, const struct sl_layer *from)
{
    to->attention = (struct sl_attention_weights){.norm = from->attn_norm,
                                                  .q_norm = from->q_norm,
                                                  .k_norm = from->k_norm,
                                                  .qkv_bias = from->qkv_bias,
                                                  .qkv = from->qkv,
                                                  .o = from->o};
    const struct sl_ffn *single = from->is_moe ? &from->shared : &from->dense;
    to->experts = (struct sl_experts_weights){
        .norm = from->ffn_norm,
        .is_moe = from->is_moe,
        .router = from->router,
        .routed = {from->expert0.gate_up, from->expert0.down, from->gate_up_stride, from->down_stride},
        .gate_up = single->gate_up,
        .down = single->down,
        .has_single = !from->is_moe || from->has_shared,
        .shared_gate = from->is_moe ? from->shared_gate : NULL};
}

static sl_status take_memory(struct sl_stage *st)
{
    const struct sl_share *c = &st->config;
    SL_TRY(sl_sequences_init(&st->sequences, &st->arena, c->max_sequences, c->context_tokens, c->n_pages));
    st->layers = sl_arena_take(&st->arena, (c->end - c->begin) * sizeof(struct sl_layer_blocks));
    if (!st->layers)
        return SL_E_NOMEM;
    if (st->ops->in_place)
        return SL_OK;
    st->copies = sl_arena_take(&st->arena, c->n_pages * st->page_bytes);
    if (c->with_head)
        st->logits = sl_arena_take(&st->arena, (size_t)st->head_rows * st->shape.vocab * sizeof(float));
    return st->copies && (st->logits || !c->with_head) ? SL_OK : SL_E_NOMEM;
}

static sl_status next_weights(void *arg, void *to, const void **from, size_t *bytes, struct sl_err *err)
{
    return sl_weights_next(arg, to, from, bytes, err);
}

static sl_status create_device(struct sl_stage *st, struct sl_err *err)
{
    struct sl_weights *w = &st->weights;
    struct sl_device_config config = device_config(&st->shape, &st->config);
    struct sl_device_weights weights = {.layers = st->layers,
                                        .embed = w->embed,
                                        .embed_dtype = w->embed_dtype,
                                        .final_norm = w->final_norm,
                                        .head = w->head};
    if (!st->ops->in_place)
        weights.source = (struct sl_device_source){sl_weights_piece(w), next_weights, w};
    for (uint32_t i = 0; i < config.n_layers && w->layers; i++)
        bind_layer(&st->layers[i], &w->layers[i]);
    st->head = w->head;
    st->weight_bytes = w->mapped_bytes;
    SL_TRY(st->ops->create(&st->device, &config, &weights, err));
    if (!st->ops->in_place)
        sl_weights_close(&st->weights);
    return SL_OK;
}

/* Everything but the weights, which are there, if it has any. */
static sl_status create_around(struct sl_stage *st, const struct sl_device_ops *ops, struct sl_err *err)
{
    const struct sl_share *c = &st->config;
    SL_TRY(sl_arena_init(&st->arena, table_bytes(c) + staging_bytes(&st->shape, c), err));
    st->ops = ops;
    st->head_rows = head_rows_of(&st->shape, c);
    st->page_layer_bytes = page_layer_bytes(&st->shape, c->kv_dtype);
    st->page_bytes = (c->end - c->begin) * st->page_layer_bytes;
    sl_status status = take_memory(st);
    if (status != SL_OK)
        return sl_fail(err, SL_E_INTERNAL, "the memory plan of layers [%u, %u) is too small; report this",
                       c->begin, c->end);
    SL_TRY(create_device(st, err));
    sl_arena_seal(&st->arena);
    return SL_OK;
}

static sl_status create_parts(struct sl_stage *st, const struct sl_pack *pack, const struct sl_loading *load,
                              struct sl_err *err)
{
    const struct sl_share *c = &st->config;
    struct sl_stage_bytes plan;
    SL_TRY(sl_stage_bytes(&plan, pack, c, err));
    struct sl_loading own = load ? *load : (struct sl_loading){0};
    own.threads = c->n_threads;
    own.apart = !ops_of(c->device)->in_place;
    SL_TRY(sl_weights_open(&st->weights, pack, c->begin, c->end, c->with_embed, c->with_head, &own, err));
    return create_around(st, ops_of(c->device), err);
}

sl_status sl_stage_create(struct sl_stage **stage, const struct sl_pack *pack, const struct sl_share *config,
                          const struct sl_loading *load, struct sl_err *err)
{
    struct sl_stage *st = calloc(1, sizeof *st);
    if (!st)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a stage");
    st->config = *config;
    st->shape = *sl_pack_shape(pack);
    sl_status status = create_parts(st, pack, load, err);
    if (status != SL_OK) {
        sl_stage_destroy(st);
        return status;
    }
    struct sl_roofline gpu;
    if (sl_stage_roofline(st, &gpu))
        sl_stage_at_worst(&st->cost, st, &gpu);
    *stage = st;
    return SL_OK;
}

sl_status sl_stage_create_bare(struct sl_stage **stage, const struct sl_shape *shape,
                               const struct sl_share *config, const struct sl_device_ops *device,
                               struct sl_err *err)
{
    struct sl_stage *st = calloc(1, sizeof *st);
    if (!st)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a stage");
    assert(device->in_place && config->end <= shape->n_layers);
    st->config = *config;
    st->shape = *shape;
    sl_status status = create_around(st, device, err);
    if (status != SL_OK) {
        sl_stage_destroy(st);
        return status;
    }
    *stage = st;
    return SL_OK;
}

void sl_stage_frames(struct sl_stage *stage, void *memory, size_t bytes, bool taken)
{
    if (taken && stage->ops->lend)
        stage->ops->lend(stage->device, memory, bytes);
    else if (!taken && stage->ops->take_back)
        stage->ops->take_back(stage->device, memory);
}

struct sl_device *sl_stage_device(const struct sl_stage *stage)
{
    return stage->device;
}

void sl_stage_destroy(struct sl_stage *stage)
{
    if (!stage)
        return;
    sl_stage_unwatch(stage);
    if (stage->device)
        stage->ops->destroy(stage->device);
    sl_weights_close(&stage->weights);
    sl_arena_fini(&stage->arena);
    free(stage);
}

/* What a device has in memory of its own is not ours to look at: no write to the files reaches it, and bits are kept by its ECC. */
sl_status sl_stage_watch(struct sl_stage *stage, const struct sl_scrub_config *config, struct sl_err *err)
{
    return stage->ops->in_place ? sl_scrubber_start(&stage->scrubber, &stage->weights, config, err) : SL_OK;
}

void sl_stage_unwatch(struct sl_stage *stage)
{
    sl_scrubber_stop(stage->scrubber);
    stage->scrubber = NULL;
}

bool sl_stage_spoiled(const struct sl_stage *stage)
{
    return sl_weights_faulted() || sl_scrubber_found(stage->scrubber);
}

const struct sl_spoiled *sl_stage_found(const struct sl_stage *stage)
{
    return sl_scrubber_found(stage->scrubber);
}

const struct sl_shape *sl_stage_shape(const struct sl_stage *stage)
{
    return &stage->shape;
}
const struct sl_share *sl_stage_share(const struct sl_stage *stage)
{
    return &stage->config;
}
const char *sl_stage_isa(const struct sl_stage *stage)
{
    return stage->ops->isa(stage->device);
}
const char *sl_stage_identify(const struct sl_stage *stage, struct sl_device_identity *identity)
{
    *identity = (struct sl_device_identity){.name = ""};
    if (stage->ops->identify)
        stage->ops->identify(stage->device, identity);
    return stage->ops->name;
}
uint64_t sl_stage_weight_bytes(const struct sl_stage *stage)
{
    return stage->weight_bytes;
}

static uint64_t panel_bytes(const struct sl_panel *panel)
{
    return sl_panel_bytes(panel->dtype, panel->n, panel->k);
}

struct sl_stage_reads sl_stage_reads_of(const struct sl_stage *stage)
{
    struct sl_stage_reads reads = {.head = panel_bytes(&stage->head)};
    for (uint32_t i = 0; i < stage->config.end - stage->config.begin; i++) {
        const struct sl_attention_weights *a = &stage->layers[i].attention;
        const struct sl_experts_weights *e = &stage->layers[i].experts;
        reads.always += panel_bytes(&a->qkv) + panel_bytes(&a->o);
        if (e->has_single)
            reads.always += panel_bytes(&e->gate_up) + panel_bytes(&e->down);
        if (e->is_moe) {
            reads.always += panel_bytes(&e->router);
            reads.routed +=
                stage->shape.n_experts * (panel_bytes(&e->routed.gate_up) + panel_bytes(&e->routed.down));
        }
    }
    return reads;
}

uint32_t sl_stage_head_rows(const struct sl_stage *stage)
{
    return stage->head_rows;
}
size_t sl_stage_page_bytes(const struct sl_stage *stage)
{
    return stage->page_bytes;
}

/* ---- sequences ---- */

struct sl_sequences *sl_stage_sequences(struct sl_stage *stage)
{
    return &stage->sequences;
}

void sl_stage_clear(void *stage, uint32_t page)
{
    struct sl_stage *st = stage;
    st->ops->clear(st->device, page);
}

sl_status sl_stage_reserve(struct sl_stage *stage, struct sl_sequence *sequence, uint32_t n_tokens)
{
    assert(n_tokens <= stage->config.context_tokens);
    while (sequence->n_pages < sl_pages_of(n_tokens)) {
        uint32_t page;
        bool fresh;
        SL_TRY(sl_sequences_take(&stage->sequences, &page));
        SL_TRY(sl_sequences_put(&stage->sequences, sequence, sequence->n_pages, page, true, &fresh));
        sl_stage_clear(stage, page);
    }
    return SL_OK;
}

/* ---- order ---- */

/* What the device is asked to compute from here on sees all that has gone in. */
static void await_in(struct sl_stage *stage)
{
    stage->ops->record(stage->device, EVENT_IN, SL_QUEUE_IN);
    stage->ops->await(stage->device, SL_QUEUE_COMPUTE, EVENT_IN);
}

/* The host sees what the device has computed so far. */
static void take_out(struct sl_stage *stage, void *to, struct sl_device_at from, size_t bytes)
{
    const struct sl_device_ops *ops = stage->ops;
    ops->record(stage->device, EVENT_COMPUTED, SL_QUEUE_COMPUTE);
    ops->await(stage->device, SL_QUEUE_OUT, EVENT_COMPUTED);
    ops->copy_out(stage->device, to, from, bytes);
    ops->record(stage->device, EVENT_OUT, SL_QUEUE_OUT);
    ops->wait(stage->device, EVENT_OUT);
}

/* ---- pages ---- */

const uint8_t *sl_stage_page_out(struct sl_stage *stage, uint32_t page)
{
    const struct sl_device_ops *ops = stage->ops;
    struct sl_device_at at = ops->page(stage->device, page);
    if (ops->in_place)
        return (const uint8_t *)at.at;
    uint8_t *copy = stage->copies + page * stage->page_bytes;
    await_in(stage); /* it may just have come, or been cleared */
    take_out(stage, copy, at, stage->page_bytes);
    return copy;
}

void sl_stage_page_in(struct sl_stage *stage, uint32_t page, uint32_t layer_first, uint32_t layer_count,
                      const uint8_t *bytes)
{
    const struct sl_device_ops *ops = stage->ops;
    assert(layer_first >= stage->config.begin && layer_first + layer_count <= stage->config.end);
    struct sl_device_at to = sl_device_after(ops->page(stage->device, page),
                                             (layer_first - stage->config.begin) * stage->page_layer_bytes);
    ops->copy_in(stage->device, to, bytes, layer_count * stage->page_layer_bytes);
    ops->record(stage->device, EVENT_IN, SL_QUEUE_IN);
    ops->wait(stage->device, EVENT_IN); /* the bytes are the caller's again */
}

uint64_t sl_stage_kv_digest(struct sl_stage *stage, const struct sl_sequence *sequence, uint32_t n_tokens,
                            uint64_t before)
{
    uint64_t chain[2] = {before, 0};
    for (uint32_t layer = 0; layer < stage->config.end - stage->config.begin; layer++)
        for (uint32_t i = 0; i < sl_pages_of(n_tokens); i++) {
            const uint8_t *page = sl_stage_page_out(stage, sequence->pages[i]);
            chain[1] = sl_xxh3(page + layer * stage->page_layer_bytes, stage->page_layer_bytes);
            chain[0] = sl_xxh3(chain, sizeof chain);
        }
    return chain[0];
}

/* ---- the walk ---- */

static struct sl_device_at place_of(const struct sl_stage *stage, const float *x, uint32_t n)
{
    const struct sl_rows_device *links = sl_stage_links(stage);
    void *at = links->address(links->user, x, (size_t)n * stage->shape.d_model * sizeof *x);
    assert(at); /* a place for each slot */
    return (struct sl_device_at){(uintptr_t)at};
}

static struct sl_device_at chunk_rows(const struct sl_stage *stage, const struct sl_chunk *chunk)
{
    return chunk->came || chunk->stay ? place_of(stage, chunk->x, chunk->n_tokens)
                                      : stage->ops->rows(stage->device, CHUNK_ROWS, chunk->x);
}

const struct sl_rows_device *sl_stage_links(const struct sl_stage *stage)
{
    return stage->ops->links ? stage->ops->links(stage->device) : NULL;
}

void sl_stage_sum_rows(struct sl_stage *stage, const float *x, uint32_t n, uint64_t at,
                       struct sl_lane_sums *sums)
{
    stage->ops->seal(stage->device, place_of(stage, x, n), (size_t)n * stage->shape.d_model * sizeof *x, at,
                     sums);
}

void sl_stage_embed(struct sl_stage *stage, struct sl_chunk *chunk, const uint8_t *ids)
{
    struct sl_device_at rows = chunk_rows(stage, chunk);
    stage->ops->embed(stage->device, rows, ids, chunk->n_tokens);
    stage->embedded = chunk->x;
}

void sl_stage_expect(struct sl_stage *stage, const struct sl_cost *cost)
{
    stage->cost = *cost;
}

static uint64_t predict(const struct sl_stage *stage, const struct sl_chunk *chunk)
{
    struct sl_cost_chunk sum = {0};
    for (uint32_t i = 0; i < chunk->n_slices; i++) {
        const struct sl_chunk_slice *slice = &chunk->slices[i];
        sl_cost_add(&sum, slice->pos, slice->n);
        sl_cost_want(&sum, slice->n - slice->kv_only);
    }
    return (uint64_t)sl_cost_of(&stage->cost, &sum);
}

/* The chunk's slices as the device wants them; returns their rows, and in *n_left how many the last layer leaves. */
static uint32_t make_slices(const struct sl_stage *stage, const struct sl_chunk *chunk,
                            struct sl_attention_slice *slices, uint32_t *n_left)
{
    uint32_t row = 0;
    *n_left = 0;
    for (uint32_t i = 0; i < chunk->n_slices; i++) {
        const struct sl_chunk_slice *from = &chunk->slices[i];
        assert(from->sequence->n_pages >= sl_pages_of(from->pos + from->n));
        assert(from->kv_only == 0 || (from->kv_only <= from->n && stage->config.with_head));
        slices[i] =
            (struct sl_attention_slice){row, from->n, from->pos, from->sequence->pages, from->kv_only};
        row += from->n;
        *n_left += from->n - from->kv_only;
    }
    return row;
}

void sl_stage_run(struct sl_stage *stage, struct sl_chunk *chunk)
{
    const struct sl_device_ops *ops = stage->ops;
    struct sl_device *device = stage->device;
    struct sl_attention_slice slices[SL_MAX_BATCH];
    assert(chunk->n_tokens <= stage->config.max_tokens && chunk->n_slices <= SL_MAX_BATCH);
    uint32_t n_left;
    struct sl_device_chunk c = {.n_rows = make_slices(stage, chunk, slices, &n_left),
                                .n_slices = chunk->n_slices,
                                .slices = slices,
                                .predicted_us = predict(stage, chunk)};
    assert(c.n_rows == chunk->n_tokens);
    uint64_t began = sl_clock_ns();
    c.rows = chunk_rows(stage, chunk);
    if (stage->embedded != chunk->x && !chunk->came)
        ops->copy_in(device, c.rows, chunk->x, (size_t)c.n_rows * stage->shape.d_model * sizeof(float));
    stage->embedded = NULL;
    await_in(stage);
    ops->begin(device, &c);
    for (uint32_t layer = 0; layer < stage->config.end - stage->config.begin; layer++) {
        stage->observer.layer = stage->config.begin + layer;
        ops->attention(device, layer);
        ops->experts(device, layer);
    }
    ops->finish(device);
    take_out(stage, chunk->x, c.rows,
             chunk->stay ? 0 : (size_t)n_left * stage->shape.d_model * sizeof(float));
    stage->run_ns += sl_clock_ns() - began;
}

float *sl_stage_logits(struct sl_stage *stage, const float *x, uint32_t n)
{
    uint64_t began = sl_clock_ns();
    assert(n <= stage->head_rows);
    /* the device does not change them */
    struct sl_device_at rows = stage->ops->rows(stage->device, HEAD_ROWS, (float *)(uintptr_t)x);
    stage->ops->copy_in(stage->device, rows, x, (size_t)n * stage->shape.d_model * sizeof *x);
    await_in(stage);
    struct sl_device_at at = stage->ops->logits(stage->device, rows, n);
    float *logits = stage->ops->in_place ? (float *)at.at : stage->logits;
    take_out(stage, logits, at, (size_t)n * stage->shape.vocab * sizeof(float));
    stage->run_ns += sl_clock_ns() - began;
    return logits;
}

void sl_stage_observe(struct sl_stage *stage, const struct sl_observer *observer)
{
    assert(stage->ops->observe); /* who looks at rows has asked for a device that shows them */
    stage->observer = observer ? *observer : (struct sl_observer){0};
    stage->ops->observe(stage->device, observer ? &stage->observer : NULL);
}

void sl_stage_parts(const struct sl_stage *stage, struct sl_parts *sum, uint64_t *run_ns)
{
    stage->ops->parts(stage->device, sum);
    *run_ns = stage->run_ns;
}

bool sl_stage_roofline(const struct sl_stage *stage, struct sl_roofline *roofline)
{
    if (stage->ops->roofline)
        stage->ops->roofline(stage->device, roofline);
    return stage->ops->roofline != NULL;
}

uint32_t sl_stage_members(const struct sl_stage *stage)
{
    return stage->ops->roofline ? 1 : stage->config.n_threads;
}

enum sl_peak sl_stage_part_peak(const struct sl_stage *stage, enum sl_part part)
{
    const struct sl_layer_blocks *layer = &stage->layers[(stage->config.end - stage->config.begin) / 2];
    const struct sl_experts_weights *e = &layer->experts;
    enum sl_dtype dtype = SL_F32;
    if (part == SL_PART_PROJECTION)
        dtype = layer->attention.qkv.dtype;
    else if (part == SL_PART_ATTENTION)
        dtype = stage->config.kv_dtype;
    else if (part == SL_PART_EXPERTS)
        dtype = e->is_moe ? e->routed.gate_up.dtype : e->gate_up.dtype;
    else if (part == SL_PART_HEAD && stage->config.with_head)
        dtype = stage->head.dtype;
    if (dtype == SL_BF16 && stage->config.profile == SL_PROFILE_BF16DOT)
        return SL_PEAK_BF16;
    return sl_dtype_is_integer(dtype) ? SL_PEAK_INT8 : SL_PEAK_F32;
}
