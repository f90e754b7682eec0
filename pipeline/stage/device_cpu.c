/* The device that the host is itself (kernels/device.h): attention/ and experts/ over a worker team, in place. An
 * sl_device_at is a pointer: rows are worked on in the frame they came in, pages lie in one pool and leave from there,
 * weights are the mapped files. Every call has done its work when it returns, so nothing is ever waited for.
 *
 * What the blocks leave to each other is joined here and seen by nobody else: the sums of the routed experts are added by
 * the next attention's norm (struct sl_row_finish), or by finish. */
#include "kernels/team_ops.h"
#include "pipeline/stage/device_impl.h"
#include <assert.h>
#include <stdlib.h>

static struct device_cpu *cpu_of(struct sl_device *device)
{
    return (struct device_cpu *)(void *)device;
}
static const struct device_cpu *const_cpu_of(const struct sl_device *device)
{
    return (const struct device_cpu *)(const void *)device;
}
static void *host_of(struct sl_device_at at)
{
    return (void *)at.at; /* in place: it is one */
}
static struct sl_device_at at_of(const void *host)
{
    return (struct sl_device_at){(uintptr_t)host};
}

/* ---- the plan ---- */

static struct sl_kv_layout layout_of(const struct sl_device_config *c)
{
    return (struct sl_kv_layout){c->n_layers, c->attention.n_kv, c->attention.d_head, c->kv_dtype};
}

static size_t floats(size_t rows, size_t columns)
{
    return sl_arena_round(rows * columns * sizeof(float));
}

static uint32_t widest_input(const struct sl_device_config *c)
{
    uint32_t widest = c->attention.d_model, mixed = c->attention.n_q * c->attention.d_head;
    uint32_t others[] = {mixed, c->experts.d_expert, c->experts.d_single};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i] > widest)
            widest = others[i];
    return widest;
}

static size_t scratch_of(const struct sl_device_config *c, const struct sl_ops *ops) /* of a member */
{
    return ops->scratch_bytes(widest_input(c));
}

sl_status sl_device_cpu_bytes(struct sl_device_bytes *bytes, const struct sl_device_config *c,
                              const struct sl_ops *ops, struct sl_err *err)
{
    struct sl_kv_layout layout = layout_of(c);
    uint32_t half = c->attention.d_head / 2, d_model = c->attention.d_model;
    *bytes = (struct sl_device_bytes){.kv = sl_kv_bytes(&layout, c->n_pages)};
    bytes->activations = sl_attention_bytes(&c->attention, c->max_tokens, c->max_pages, c->n_threads) +
                         sl_experts_bytes(&c->experts, c->max_tokens, c->n_threads) +
                         2 * floats(c->max_tokens, half);
    bytes->tables = floats(1, half);
    bytes->scratch = (size_t)c->n_threads * sl_arena_round(scratch_of(c, ops));
    if (c->with_head)
        bytes->logits = floats(c->head_rows, c->vocab) + floats(c->head_rows, d_model) +
                        sl_arena_round(2 * c->head_rows * sl_rows8_stride(d_model)) +
                        2 * floats(c->head_rows, 2);
    if (bytes->kv == SIZE_MAX)
        return sl_fail(err, SL_E_CONFIG,
                       "a KV pool of %u pages does not fit the address space; ask for fewer", c->n_pages);
    return SL_OK;
}

static sl_status cpu_bytes(struct sl_device_bytes *bytes, const struct sl_device_config *config,
                           struct sl_err *err)
{
    const struct sl_ops *ops;
    SL_TRY(sl_ops_select_profile(&ops, config->profile, err));
    return sl_device_cpu_bytes(bytes, config, ops, err);
}

/* ---- create and destroy ---- */

static sl_status take_head(struct device_cpu *d)
{
    size_t rows = d->config.head_rows, d_model = d->config.attention.d_model;
    d->logits = sl_arena_take(&d->arena, rows * d->config.vocab * sizeof(float));
    d->head_normed = sl_arena_take(&d->arena, rows * d_model * sizeof(float));
    d->head8.stride = sl_rows8_stride((uint32_t)d_model);
    d->head8.q = sl_arena_take(&d->arena, 2 * rows * d->head8.stride);
    d->head8.scale = sl_arena_take(&d->arena, 2 * rows * sizeof(float));
    d->head8.sum = sl_arena_take(&d->arena, 2 * rows * sizeof(int32_t));
    return d->logits && d->head_normed && d->head8.q && d->head8.scale && d->head8.sum ? SL_OK : SL_E_NOMEM;
}

static sl_status take_memory(struct device_cpu *d)
{
    const struct sl_device_config *c = &d->config;
    struct sl_kv_layout layout = layout_of(c);
    size_t half = c->attention.d_head / 2;
    SL_TRY(sl_kv_init(&d->kv, &d->arena, &layout, c->n_pages));
    SL_TRY(sl_attention_init(&d->attention, &d->arena, d->ops, d->team, &d->kv, &c->attention, c->max_tokens,
                             c->max_pages));
    SL_TRY(sl_experts_init(&d->experts, &d->arena, d->ops, d->team, &c->experts, c->max_tokens));
    d->attention.finish = &d->experts.finish;
    d->cosine = sl_arena_take(&d->arena, c->max_tokens * half * sizeof(float));
    d->sine = sl_arena_take(&d->arena, c->max_tokens * half * sizeof(float));
    d->inv_freq = sl_arena_take(&d->arena, half * sizeof(float));
    if (!d->cosine || !d->sine || !d->inv_freq)
        return SL_E_NOMEM;
    memcpy(d->inv_freq, c->rope_inv_freq, half * sizeof(float));
    return c->with_head ? take_head(d) : SL_OK;
}

sl_status sl_device_cpu_init(struct device_cpu *d, const struct sl_device_config *config,
                             const struct sl_device_weights *weights, const struct sl_ops *ops,
                             struct sl_err *err)
{
    struct sl_device_bytes b;
    SL_TRY(sl_device_cpu_bytes(&b, config, ops, err));
    *d = (struct device_cpu){.device = {&sl_device_cpu}, .config = *config, .ops = ops, .weights = *weights};
    SL_TRY(sl_team_create(&d->team, config->n_threads, scratch_of(config, ops), err));
    SL_TRY(sl_arena_init(&d->arena, b.kv + b.activations + b.tables + b.logits, err));
    if (take_memory(d) != SL_OK)
        return sl_fail(err, SL_E_INTERNAL,
                       "the memory plan of a stage of %u layers is too small; report this", config->n_layers);
    d->config.rope_inv_freq = d->inv_freq;
    sl_arena_seal(&d->arena);
    return SL_OK;
}

void sl_device_cpu_fini(struct device_cpu *d)
{
    sl_team_destroy(d->team);
    sl_arena_fini(&d->arena);
}

static void cpu_destroy(struct sl_device *device)
{
    if (!device)
        return;
    sl_device_cpu_fini(cpu_of(device));
    free(device);
}

static sl_status cpu_create(struct sl_device **device, const struct sl_device_config *config,
                            const struct sl_device_weights *weights, struct sl_err *err)
{
    const struct sl_ops *ops;
    SL_TRY(sl_ops_select_profile(&ops, config->profile, err));
    struct device_cpu *d = calloc(1, sizeof *d);
    if (!d)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a stage's device");
    sl_status status = sl_device_cpu_init(d, config, weights, ops, err);
    if (status != SL_OK) {
        cpu_destroy(&d->device);
        return status;
    }
    *device = &d->device;
    return SL_OK;
}

static const char *cpu_isa(const struct sl_device *device)
{
    return const_cpu_of(device)->ops->name;
}

/* ---- places, copies and order: all of it is here already ---- */

static struct sl_device_at cpu_rows(const struct sl_device *device, uint32_t buffer, float *host)
{
    (void)device, (void)buffer;
    return at_of(host);
}

static struct sl_device_at cpu_page(const struct sl_device *device, uint32_t slot)
{
    return at_of(sl_kv_slot(&const_cpu_of(device)->kv, slot));
}

static void cpu_copy_in(struct sl_device *device, struct sl_device_at to, const void *from, size_t bytes)
{
    (void)device;
    if (host_of(to) != from)
        memcpy(host_of(to), from, bytes);
}

static void cpu_copy_out(struct sl_device *device, void *to, struct sl_device_at from, size_t bytes)
{
    (void)device;
    if (host_of(from) != to)
        memcpy(to, host_of(from), bytes);
}

static void cpu_clear(struct sl_device *device, uint32_t slot)
{
    sl_kv_clear(&cpu_of(device)->kv, slot);
}

static void cpu_record(struct sl_device *device, uint32_t event, enum sl_device_queue queue)
{
    (void)device, (void)event, (void)queue;
}

static void cpu_await(struct sl_device *device, enum sl_device_queue queue, uint32_t event)
{
    (void)device, (void)queue, (void)event;
}

static void cpu_wait(struct sl_device *device, uint32_t event)
{
    (void)device, (void)event;
}

/* ---- the walk of a chunk ---- */

static void cpu_embed(struct sl_device *device, struct sl_device_at rows, const uint8_t *ids, uint32_t n)
{
    const struct device_cpu *d = cpu_of(device);
    size_t h = d->config.attention.d_model;
    float *x = host_of(rows);
    for (size_t row = 0; row < n; row++, x += h) {
        uint32_t id;
        memcpy(&id, ids + 4 * row, sizeof id);
        assert(id < d->config.vocab);
        if (d->weights.embed_dtype == SL_F32) {
            memcpy(x, (const float *)d->weights.embed + id * h, h * sizeof *x);
            continue;
        }
        const uint16_t *from = (const uint16_t *)d->weights.embed + id * h;
        for (size_t i = 0; i < h; i++)
            x[i] = sl_bf16_to_f32(from[i]);
    }
}

/* cos and sin of a member's rows. */
static void rope_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct device_cpu *d = arg;
    uint32_t begin, end, half = d->config.attention.d_head / 2;
    (void)scratch;
    sl_piece(d->chunk.n_rows, 1, n_members, member, &begin, &end);
    for (uint32_t i = 0; i < d->chunk.n_slices; i++) {
        const struct sl_attention_slice *slice = &d->chunk.slices[i];
        for (uint32_t row = slice->row; row < slice->row + slice->n; row++)
            if (row >= begin && row < end)
                sl_rope_row(d->cosine + (size_t)row * half, d->sine + (size_t)row * half, d->inv_freq, half,
                            d->config.rope_factor, slice->pos + row - slice->row);
    }
}

static void cpu_begin(struct sl_device *device, const struct sl_device_chunk *chunk)
{
    struct device_cpu *d = cpu_of(device);
    assert(chunk->n_rows <= d->config.max_tokens && chunk->n_slices <= d->config.max_slices);
    d->chunk = *chunk;
    d->n_left = chunk->n_rows;
    sl_team_run(d->team, rope_rows, d);
}

static void cpu_attention(struct sl_device *device, uint32_t layer)
{
    struct device_cpu *d = cpu_of(device);
    const struct sl_device_chunk *c = &d->chunk;
    const struct sl_attention_weights *w = &d->weights.layers[layer].attention;
    if (layer + 1 < d->config.n_layers)
        sl_attention_run(&d->attention, w, layer, host_of(c->rows), c->n_rows, c->slices, c->n_slices,
                         d->cosine, d->sine);
    else
        d->n_left = sl_attention_run_last(&d->attention, w, layer, host_of(c->rows), c->n_rows, c->slices,
                                          c->n_slices, d->cosine, d->sine);
}

static void cpu_experts(struct sl_device *device, uint32_t layer)
{
    struct device_cpu *d = cpu_of(device);
    if (d->n_left > 0)
        sl_experts_run(&d->experts, &d->weights.layers[layer].experts, host_of(d->chunk.rows), d->n_left);
}

static void cpu_finish(struct sl_device *device)
{
    sl_experts_finish(&cpu_of(device)->experts);
}

/* ---- the head ---- */

struct head_job {
    struct device_cpu *d;
    const float *x;
    uint32_t n;
};

/* Norm and, where the head is an integer matrix, s8: a member's rows. */
static void head_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct head_job *job = arg;
    struct device_cpu *d = job->d;
    const struct sl_panel *head = &d->weights.head;
    struct sl_parts *parts = sl_team_parts(d->team, member);
    uint32_t begin, end, h = d->config.attention.d_model;
    uint64_t since = sl_clock_ns();
    sl_piece(job->n, 1, n_members, member, &begin, &end);
    for (size_t r = begin; r < end; r++)
        d->ops->rmsnorm(d->head_normed + r * h, job->x + r * h, d->weights.final_norm, h,
                        d->config.attention.norm_eps);
    sl_part_add(parts, SL_PART_NORMS, &since, 0, 0);
    if (!sl_dtype_is_integer(head->dtype))
        return;
    struct sl_rows8 second = sl_rows8_from(&d->head8, d->config.head_rows);
    sl_quantise_rows(d->ops, head, d->head_normed, h, &d->head8, &second, begin, end, scratch);
    sl_part_add(parts, SL_PART_QUANTISE, &since, 0, 0);
}

static struct sl_device_at cpu_logits(struct sl_device *device, struct sl_device_at rows, uint32_t n)
{
    struct device_cpu *d = cpu_of(device);
    const struct sl_panel *head = &d->weights.head;
    uint32_t d_model = d->config.attention.d_model, vocab = d->config.vocab;
    assert(n <= d->config.head_rows);
    sl_team_run(d->team, head_rows, &(struct head_job){d, host_of(rows), n});
    sl_observe(d->observer, SL_SITE_HEAD, 0, d->head_normed, n, d_model);
    struct sl_rows8 second = sl_rows8_from(&d->head8, d->config.head_rows);
    if (sl_dtype_is_integer(head->dtype))
        sl_gemm8_team(
            d->team, d->ops,
            &(struct sl_gemm8){
                .x = d->head8, .m = n, .w = *head, .col_end = vocab, .y = d->logits, .y_stride = vocab},
            &second, false, SL_PART_HEAD);
    else
        sl_gemm_team(d->team, d->ops,
                     &(struct sl_gemm){.x = d->head_normed,
                                       .x_stride = d_model,
                                       .m = n,
                                       .w = *head,
                                       .col_end = vocab,
                                       .y = d->logits,
                                       .y_stride = vocab},
                     false, SL_PART_HEAD);
    return at_of(d->logits);
}

/* ---- for people ---- */

static void cpu_observe(struct sl_device *device, const struct sl_observer *observer)
{
    struct device_cpu *d = cpu_of(device);
    d->observer = d->attention.observer = d->experts.observer = observer;
}

static void cpu_parts(const struct sl_device *device, struct sl_parts *sum)
{
    sl_team_parts_sum(const_cpu_of(device)->team, sum);
}

const struct sl_device_ops sl_device_cpu = {.name = "cpu",
                                            .in_place = true,
                                            .bytes = cpu_bytes,
                                            .create = cpu_create,
                                            .destroy = cpu_destroy,
                                            .isa = cpu_isa,
                                            .rows = cpu_rows,
                                            .page = cpu_page,
                                            .copy_in = cpu_copy_in,
                                            .copy_out = cpu_copy_out,
                                            .clear = cpu_clear,
                                            .record = cpu_record,
                                            .await = cpu_await,
                                            .wait = cpu_wait,
                                            .embed = cpu_embed,
                                            .begin = cpu_begin,
                                            .attention = cpu_attention,
                                            .experts = cpu_experts,
                                            .finish = cpu_finish,
                                            .logits = cpu_logits,
                                            .observe = cpu_observe,
                                            .parts = cpu_parts};
