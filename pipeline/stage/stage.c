/* The walk of one chunk through a layer range (HACKING.md, "The walk of one chunk"):
 *
 *   sl_stage_embed    ids -> rows                                   (first stage)
 *   sl_stage_run      for each layer: attention, then router and experts, both onto the residual rows
 *   sl_stage_logits   final norm, head                              (last stage, rows that need it)
 *
 * Everything above the layer loop is memory: a plan that is computed before it is taken, one arena, then a seal. */
#include "pipeline/stage/stage.h"
#include "attention/attention.h"
#include "base/digest.h"
#include "experts/experts.h"
#include "kernels/team_ops.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

_Static_assert((int)SL_PAGE == (int)SL_PAGE_TOKENS, "the plan and the kernels mean the same page");

struct bound_layer { /* a layer's weights as the two blocks want to see them */
    struct sl_attention_weights attention;
    struct sl_experts_weights experts;
};

struct sl_stage {
    struct sl_share config;
    struct sl_shape shape;
    struct sl_weights weights;
    const struct sl_ops *ops;
    struct sl_team *team;
    struct sl_arena arena;
    struct sl_kv kv;
    struct sl_attention attention;
    struct sl_experts experts;
    struct bound_layer *layers;
    struct sl_sequences sequences;
    float *cosine, *sine;
    float *head_normed, *logits;
    struct sl_rows8 head8; /* head_normed in s8, when the head is an integer matrix; second digits follow */
    uint32_t head_rows;
    struct sl_observer observer;
    uint64_t run_ns; /* wall time inside sl_stage_run and sl_stage_logits */
};

/* ---- the plan ---- */

/* Rows of logits at once: enough for the head's weights to be read few times, at most 8 MiB of logits. */
static uint32_t head_rows_of(const struct sl_shape *s, const struct sl_share *c)
{
    uint32_t rows = (8u << 20) / (s->vocab * (uint32_t)sizeof(float));
    if (rows < 12)
        rows = 12;
    if (rows < c->max_sequences)
        rows = c->max_sequences; /* a decode step samples every sequence */
    return rows;
}

static struct sl_experts_dims experts_dims(const struct sl_shape *s)
{
    return (struct sl_experts_dims){.d_model = s->d_model,
                                    .n_experts = s->n_experts,
                                    .top_k = s->top_k,
                                    .d_expert = s->d_expert,
                                    .d_single = s->d_dense > s->d_shared ? s->d_dense : s->d_shared,
                                    .renorm = s->renorm,
                                    .norm_eps = s->norm_eps};
}

static struct sl_kv_layout kv_layout(const struct sl_shape *s, const struct sl_share *c)
{
    return (struct sl_kv_layout){c->end - c->begin, s->n_kv, s->d_head, c->kv_dtype};
}

sl_status sl_plan_for_shape(struct sl_plan *plan, const struct sl_shape *shape,
                            const struct sl_plan_options *options, struct sl_err *err)
{
    struct sl_kv_layout layer = {1, shape->n_kv, shape->d_head, options->kv_dtype};
    struct sl_plan_model model = {.n_layers = shape->n_layers,
                                  .max_pos = shape->max_pos,
                                  .d_model = shape->d_model,
                                  .vocab = shape->vocab,
                                  .kv_layer_bytes = sl_kv_layer_bytes(&layer)};
    return sl_plan_make(plan, &model, options, err);
}

static size_t floats(size_t rows, size_t columns)
{
    return sl_arena_round(rows * columns * sizeof(float));
}

static struct sl_attention_dims attention_dims(const struct sl_shape *s)
{
    return (struct sl_attention_dims){s->d_model, s->n_q, s->n_kv, s->d_head, s->norm_eps, s->softmax_scale};
}

static size_t table_bytes(const struct sl_share *c)
{
    return sl_sequences_bytes(c->max_sequences, c->context_tokens, c->n_pages) +
           sl_arena_round((c->end - c->begin) * sizeof(struct bound_layer));
}

static uint32_t widest_input(const struct sl_shape *s)
{
    uint32_t widest = s->d_model, others[] = {s->n_q * s->d_head, s->d_expert, s->d_dense, s->d_shared};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i] > widest)
            widest = others[i];
    return widest;
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
    struct sl_kv_layout layout = kv_layout(s, c);
    struct sl_experts_dims dims = experts_dims(s);
    struct sl_attention_dims attention = attention_dims(s);
    const struct sl_ops *ops;
    SL_TRY(sl_ops_select_profile(&ops, c->profile, err));
    plan->kv = sl_kv_bytes(&layout, c->n_pages);
    plan->activations =
        sl_attention_bytes(&attention, c->max_tokens, sl_pages_of(c->context_tokens), c->n_threads) +
        sl_experts_bytes(&dims, c->max_tokens, c->n_threads) + 2 * floats(c->max_tokens, s->d_head / 2);
    plan->tables = table_bytes(c);
    plan->scratch = (size_t)c->n_threads * sl_arena_round(ops->scratch_bytes(widest_input(s)));
    if (c->with_head)
        plan->logits = floats(head_rows_of(s, c), s->vocab) + floats(head_rows_of(s, c), s->d_model) +
                       sl_arena_round(2 * head_rows_of(s, c) * sl_rows8_stride(s->d_model)) +
                       2 * floats(head_rows_of(s, c), 2);
    if (!sl_add_size(plan->kv, plan->activations + plan->tables + plan->scratch + plan->logits,
                     &plan->buffers))
        return sl_fail(err, SL_E_CONFIG,
                       "a KV pool of %u pages does not fit the address space; ask for fewer", c->n_pages);
    return SL_OK;
}

/* ---- create and destroy ---- */

static void bind_layer(struct bound_layer *to, const struct sl_layer *from)
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
    const struct sl_shape *s = &st->shape;
    const struct sl_share *c = &st->config;
    struct sl_kv_layout layout = kv_layout(s, c);
    struct sl_experts_dims dims = experts_dims(s);
    struct sl_attention_dims attention = attention_dims(s);
    SL_TRY(sl_kv_init(&st->kv, &st->arena, &layout, c->n_pages));
    SL_TRY(sl_attention_init(&st->attention, &st->arena, st->ops, st->team, &st->kv, &attention,
                             c->max_tokens, sl_pages_of(c->context_tokens)));
    SL_TRY(sl_experts_init(&st->experts, &st->arena, st->ops, st->team, &dims, c->max_tokens));
    st->attention.finish = &st->experts.finish;
    st->cosine = sl_arena_take(&st->arena, c->max_tokens * (s->d_head / 2) * sizeof(float));
    st->sine = sl_arena_take(&st->arena, c->max_tokens * (s->d_head / 2) * sizeof(float));
    st->layers = sl_arena_take(&st->arena, (c->end - c->begin) * sizeof(struct bound_layer));
    if (!st->cosine || !st->sine || !st->layers)
        return SL_E_NOMEM;
    SL_TRY(sl_sequences_init(&st->sequences, &st->arena, c->max_sequences, c->context_tokens, c->n_pages));
    if (c->with_head) {
        st->logits = sl_arena_take(&st->arena, (size_t)st->head_rows * s->vocab * sizeof(float));
        st->head_normed = sl_arena_take(&st->arena, (size_t)st->head_rows * s->d_model * sizeof(float));
        st->head8.stride = sl_rows8_stride(s->d_model);
        st->head8.q = sl_arena_take(&st->arena, 2 * st->head_rows * st->head8.stride);
        st->head8.scale = sl_arena_take(&st->arena, 2 * st->head_rows * sizeof(float));
        st->head8.sum = sl_arena_take(&st->arena, 2 * st->head_rows * sizeof(int32_t));
        if (!st->logits || !st->head_normed || !st->head8.q || !st->head8.scale || !st->head8.sum)
            return SL_E_NOMEM;
    }
    return SL_OK;
}

static sl_status create_parts(struct sl_stage *st, const struct sl_pack *pack, bool verify,
                              struct sl_err *err)
{
    const struct sl_share *c = &st->config;
    struct sl_stage_bytes plan;
    SL_TRY(sl_stage_bytes(&plan, pack, c, err));
    SL_TRY(sl_ops_select_profile(&st->ops, c->profile, err));
    SL_TRY(sl_weights_open(&st->weights, pack, c->begin, c->end, c->with_embed, c->with_head, verify, err));
    SL_TRY(sl_team_create(&st->team, c->n_threads, st->ops->scratch_bytes(widest_input(&st->shape)), err));
    SL_TRY(sl_arena_init(&st->arena, plan.buffers - plan.scratch, err));
    st->head_rows = head_rows_of(&st->shape, c);
    sl_status status = take_memory(st);
    if (status != SL_OK)
        return sl_fail(err, SL_E_INTERNAL, "the memory plan of layers [%u, %u) is too small; report this",
                       c->begin, c->end);
    for (uint32_t i = 0; i < c->end - c->begin; i++)
        bind_layer(&st->layers[i], &st->weights.layers[i]);
    sl_arena_seal(&st->arena);
    return SL_OK;
}

sl_status sl_stage_create(struct sl_stage **stage, const struct sl_pack *pack, const struct sl_share *config,
                          bool verify, struct sl_err *err)
{
    struct sl_stage *st = calloc(1, sizeof *st);
    if (!st)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a stage");
    st->config = *config;
    st->shape = *sl_pack_shape(pack);
    sl_status status = create_parts(st, pack, verify, err);
    if (status != SL_OK) {
        sl_stage_destroy(st);
        return status;
    }
    *stage = st;
    return SL_OK;
}

void sl_stage_destroy(struct sl_stage *stage)
{
    if (!stage)
        return;
    sl_team_destroy(stage->team);
    sl_weights_close(&stage->weights);
    sl_arena_fini(&stage->arena);
    free(stage);
}

const struct sl_shape *sl_stage_shape(const struct sl_stage *stage)
{
    return &stage->shape;
}
const struct sl_kv *sl_stage_kv(const struct sl_stage *stage)
{
    return &stage->kv;
}
const struct sl_share *sl_stage_share(const struct sl_stage *stage)
{
    return &stage->config;
}
const char *sl_stage_isa(const struct sl_stage *stage)
{
    return stage->ops->name;
}
uint64_t sl_stage_weight_bytes(const struct sl_stage *stage)
{
    return stage->weights.mapped_bytes;
}
const uint64_t *sl_stage_expert_load(const struct sl_stage *stage)
{
    return stage->experts.route.load;
}
uint32_t sl_stage_head_rows(const struct sl_stage *stage)
{
    return stage->head_rows;
}

/* ---- sequences ---- */

struct sl_sequences *sl_stage_sequences(struct sl_stage *stage)
{
    return &stage->sequences;
}

void sl_stage_clear(void *stage, uint32_t page)
{
    sl_kv_clear(&((struct sl_stage *)stage)->kv, page);
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

uint64_t sl_stage_kv_digest(const struct sl_stage *stage, const struct sl_sequence *sequence,
                            uint32_t n_tokens)
{
    uint64_t chain[2] = {0, 0};
    for (uint32_t i = 0; i < sl_pages_of(n_tokens); i++) {
        chain[1] = sl_xxh3(sl_kv_slot(&stage->kv, sequence->pages[i]), stage->kv.slot_bytes);
        chain[0] = sl_xxh3(chain, sizeof chain);
    }
    return chain[0];
}

/* ---- the walk ---- */

void sl_stage_embed(const struct sl_stage *stage, struct sl_chunk *chunk, const uint8_t *ids)
{
    size_t h = stage->shape.d_model;
    for (size_t row = 0; row < chunk->n_tokens; row++) {
        uint32_t id;
        memcpy(&id, ids + 4 * row, sizeof id);
        assert(id < stage->shape.vocab);
        float *x = chunk->x + row * h;
        if (stage->weights.embed_dtype == SL_F32) {
            memcpy(x, (const float *)stage->weights.embed + id * h, h * sizeof *x);
            continue;
        }
        const uint16_t *from = (const uint16_t *)stage->weights.embed + id * h;
        for (size_t i = 0; i < h; i++)
            x[i] = sl_bf16_to_f32(from[i]);
    }
}

struct rope_job {
    const struct sl_stage *stage;
    const struct sl_attention_slice *slices;
    uint32_t n_slices, n_rows;
};

/* cos and sin of every row's position: the angle is rounded to f32 first, as the published models were trained. */
static void rope_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct rope_job *job = arg;
    const struct sl_shape *s = &job->stage->shape;
    uint32_t begin, end, half = s->d_head / 2;
    (void)scratch;
    sl_piece(job->n_rows, 1, n_members, member, &begin, &end);
    for (uint32_t i = 0; i < job->n_slices; i++) {
        const struct sl_attention_slice *slice = &job->slices[i];
        for (uint32_t row = slice->row; row < slice->row + slice->n; row++) {
            if (row < begin || row >= end)
                continue;
            for (uint32_t j = 0; j < half; j++) {
                float angle = (float)(slice->pos + row - slice->row) * s->rope_inv_freq[j];
                job->stage->cosine[(size_t)row * half + j] = (float)cos((double)angle) * s->rope_factor;
                job->stage->sine[(size_t)row * half + j] = (float)sin((double)angle) * s->rope_factor;
            }
        }
    }
}

void sl_stage_run(struct sl_stage *stage, struct sl_chunk *chunk)
{
    struct sl_attention_slice slices[SL_MAX_BATCH];
    uint32_t row = 0;
    assert(chunk->n_tokens <= stage->config.max_tokens && chunk->n_slices <= SL_MAX_BATCH);
    for (uint32_t i = 0; i < chunk->n_slices; i++) {
        const struct sl_chunk_slice *from = &chunk->slices[i];
        assert(from->sequence->n_pages >= sl_pages_of(from->pos + from->n));
        slices[i] = (struct sl_attention_slice){row, from->n, from->pos, from->sequence->pages};
        row += from->n;
    }
    assert(row == chunk->n_tokens);
    uint64_t began = sl_clock_ns();
    struct rope_job rope = {stage, slices, chunk->n_slices, row};
    sl_team_run(stage->team, rope_rows, &rope);
    for (uint32_t layer = 0; layer < stage->config.end - stage->config.begin; layer++) {
        const struct bound_layer *w = &stage->layers[layer];
        stage->observer.layer = stage->config.begin + layer;
        sl_attention_run(&stage->attention, &w->attention, layer, chunk->x, row, slices, chunk->n_slices,
                         stage->cosine, stage->sine);
        sl_experts_run(&stage->experts, &w->experts, chunk->x, row);
    }
    sl_experts_finish(&stage->experts);
    stage->run_ns += sl_clock_ns() - began;
}

/* Norm and, where the head is an integer matrix, s8: a member's rows. */
struct head_job {
    struct sl_stage *stage;
    const float *x;
    uint32_t n;
};

static void head_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct head_job *job = arg;
    struct sl_stage *st = job->stage;
    const struct sl_panel *head = &st->weights.head;
    struct sl_parts *parts = sl_team_parts(st->team, member);
    uint32_t begin, end, h = st->shape.d_model;
    uint64_t since = sl_clock_ns();
    sl_piece(job->n, 1, n_members, member, &begin, &end);
    for (size_t r = begin; r < end; r++)
        st->ops->rmsnorm(st->head_normed + r * h, job->x + r * h, st->weights.final_norm, h,
                         st->shape.norm_eps);
    sl_part_add(parts, SL_PART_NORMS, &since, 0, 0);
    if (!sl_dtype_is_integer(head->dtype))
        return;
    struct sl_rows8 second = sl_rows8_from(&st->head8, st->head_rows);
    sl_quantise_rows(st->ops, head, st->head_normed, h, &st->head8, &second, begin, end, scratch);
    sl_part_add(parts, SL_PART_QUANTISE, &since, 0, 0);
}

float *sl_stage_logits(struct sl_stage *stage, const float *x, uint32_t n)
{
    const struct sl_shape *s = &stage->shape;
    const struct sl_panel *head = &stage->weights.head;
    uint64_t began = sl_clock_ns();
    assert(n <= stage->head_rows);
    sl_team_run(stage->team, head_rows, &(struct head_job){stage, x, n});
    sl_observe(stage->observer.rows ? &stage->observer : NULL, SL_SITE_HEAD, 0, stage->head_normed, n,
               s->d_model);
    struct sl_rows8 second = sl_rows8_from(&stage->head8, stage->head_rows);
    if (sl_dtype_is_integer(head->dtype))
        sl_gemm8_team(stage->team, stage->ops,
                      &(struct sl_gemm8){.x = stage->head8,
                                         .m = n,
                                         .w = *head,
                                         .col_end = s->vocab,
                                         .y = stage->logits,
                                         .y_stride = s->vocab},
                      &second, false, SL_PART_HEAD);
    else
        sl_gemm_team(stage->team, stage->ops,
                     &(struct sl_gemm){.x = stage->head_normed,
                                       .x_stride = s->d_model,
                                       .m = n,
                                       .w = *head,
                                       .col_end = s->vocab,
                                       .y = stage->logits,
                                       .y_stride = s->vocab},
                     false, SL_PART_HEAD);
    stage->run_ns += sl_clock_ns() - began;
    return stage->logits;
}

void sl_stage_observe(struct sl_stage *stage, const struct sl_observer *observer)
{
    stage->observer = observer ? *observer : (struct sl_observer){0};
    stage->attention.observer = stage->experts.observer = observer ? &stage->observer : NULL;
}

void sl_stage_parts(const struct sl_stage *stage, struct sl_parts *sum, uint64_t *run_ns)
{
    sl_team_parts_sum(stage->team, sum);
    *run_ns = stage->run_ns;
}

enum sl_peak sl_stage_part_peak(const struct sl_stage *stage, enum sl_part part)
{
    const struct bound_layer *layer = &stage->layers[(stage->config.end - stage->config.begin) / 2];
    const struct sl_experts_weights *e = &layer->experts;
    enum sl_dtype dtype = SL_F32;
    if (part == SL_PART_PROJECTION)
        dtype = layer->attention.qkv.dtype;
    else if (part == SL_PART_ATTENTION)
        dtype = stage->config.kv_dtype;
    else if (part == SL_PART_EXPERTS)
        dtype = e->is_moe ? e->routed.gate_up.dtype : e->gate_up.dtype;
    else if (part == SL_PART_HEAD && stage->config.with_head)
        dtype = stage->weights.head.dtype;
    if (dtype == SL_BF16 && stage->config.profile == SL_PROFILE_BF16DOT)
        return SL_PEAK_BF16;
    return sl_dtype_is_integer(dtype) ? SL_PEAK_INT8 : SL_PEAK_F32;
}
