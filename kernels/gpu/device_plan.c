/* Where everything of a GPU's device lies (device_impl.h): buffers and lists by the config alone, so that a plan needs no GPU. Rows
 * are as many as a chunk has at most; what one step of a block leaves for the next is used again as soon as it has been read. */
#include "base/arena.h"
#include "base/rows_device.h"
#include "kernels/gpu/attend.h"
#include "kernels/gpu/device_impl.h"
#include "kernels/gpu/lanes.h"
#include "kernels/gpu/place.h"
#include "kernels/isa.h"
#include "kernels/page.h"

enum { ALIGNED = 256 }; /* what the driver gives, and what products load at once */

struct cursor {
    uintptr_t at;
};

static void *take(struct cursor *c, size_t n, size_t bytes)
{
    void *here = (void *)c->at;
    c->at += (n * bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    return here;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}
static uint32_t mixed_of(const struct sl_device_config *c)
{
    return c->attention.n_q * c->attention.d_head;
}

/* ---- sizes ---- */

static sl_status check(const struct sl_device_config *c, struct sl_err *err)
{
    const struct sl_attention_dims *a = &c->attention;
    const struct sl_experts_dims *e = &c->experts;
    if (c->profile != SL_PROFILE_F32)
        return sl_fail(err, SL_E_CONFIG, "a GPU has the numerics f32 only: ask for --numerics f32");
    const uint32_t rows[] = {a->d_model, mixed_of(c), e->d_expert, e->d_single};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i] > SL_GPU_ROW_MOST)
            return sl_fail(err, SL_E_CONFIG,
                           "a row of %u numbers is wider than a GPU's kernels take (%u): run it on a CPU",
                           rows[i], SL_GPU_ROW_MOST);
    if (a->d_head > SL_GPU_PLACE_MOST || a->d_head % 2 != 0)
        return sl_fail(err, SL_E_CONFIG,
                       "heads of %u are not what a GPU's kernels take (even, up to %u): run it on a CPU",
                       a->d_head, SL_GPU_PLACE_MOST);
    if (e->n_experts > 4096 || e->top_k > 64)
        return sl_fail(
            err, SL_E_CONFIG,
            "%u experts of which a token takes %u are more than a GPU's kernels take (4096, 64): run it on a CPU",
            e->n_experts, e->top_k);
    if (c->max_tokens > GPU_TOKENS_MOST)
        return sl_fail(err, SL_E_CONFIG, "chunks of %u tokens are more than a GPU takes (%u)", c->max_tokens,
                       GPU_TOKENS_MOST);
    return SL_OK;
}

static void size_pages(struct gpu_sizes *s, const struct sl_device_config *c)
{
    const struct sl_attention_dims *a = &c->attention;
    s->k_bytes = sl_arena_round(sl_page_k_bytes(c->kv_dtype, a->d_head));
    s->v_bytes = sl_arena_round(sl_page_v_bytes(c->kv_dtype, a->d_head));
    s->layer_bytes = a->n_kv * (s->k_bytes + s->v_bytes);
    s->slot_bytes = s->layer_bytes * c->n_layers;
    if (!sl_mul_size(s->slot_bytes, c->n_pages, &s->kv_bytes))
        s->kv_bytes = SIZE_MAX;
}

sl_status gpu_plan(struct gpu_sizes *s, const struct sl_device_config *c, struct sl_err *err)
{
    const struct sl_attention_dims *a = &c->attention;
    struct gpu_lists lists;
    struct gpu_buffers buffers;
    *s = (struct gpu_sizes){.max_rows = (uint32_t)larger(c->max_tokens, c->head_rows),
                            .pairs = larger((size_t)c->max_tokens * c->experts.top_k, c->max_tokens)};
    SL_TRY(check(c, err));
    size_pages(s, c);
    if (s->kv_bytes == SIZE_MAX)
        return sl_fail(err, SL_E_CONFIG,
                       "a KV pool of %u pages does not fit the address space; ask for fewer", c->n_pages);
    bool i8 = c->kv_dtype == SL_I8;
    uint32_t longest = sl_attend_segments(c->max_pages * SL_PAGE_TOKENS - 1);
    s->max_states = (size_t)c->max_tokens * a->n_q;
    if (longest > 1)
        s->max_states += (size_t)GPU_SPARE_SEGMENTS * longest * a->n_q;
    s->cut = (struct sl_gpu_cut_config){.n_q = a->n_q,
                                        .n_kv = a->n_kv,
                                        .d_head = a->d_head,
                                        .item_rows = i8 ? sl_gpu_attend8_rows(a->d_head)
                                                        : sl_gpu_attend_rows(a->d_head),
                                        .wanted = GPU_ITEMS_WANTED,
                                        .max_states = (uint32_t)s->max_states};
    s->items = sl_gpu_cut_items(&s->cut, c->max_tokens, c->max_slices);
    s->lists_bytes = gpu_place_lists(&lists, 0, c, s);
    s->work_bytes = gpu_place_buffers(&buffers, 0, c, s);
    s->graph_bytes = gpu_graph_bytes(c);
    size_t largest = larger(s->slot_bytes, (size_t)s->max_rows * a->d_model * sizeof(float));
    s->staged_bytes =
        largest < GPU_STAGED_BYTES ? (largest + ALIGNED - 1) / ALIGNED * ALIGNED : GPU_STAGED_BYTES;
    return SL_OK;
}

/* ---- places ---- */

size_t gpu_place_lists(struct gpu_lists *l, uintptr_t base, const struct sl_device_config *c,
                       const struct gpu_sizes *s)
{
    struct cursor at = {base};
    l->numbers = take(&at, GPU_BATCHES, sizeof *l->numbers);
    l->places = take(&at, c->max_tokens, sizeof *l->places);
    l->slots = take(&at, (size_t)c->max_slices * c->max_pages, sizeof *l->slots);
    l->kept = take(&at, c->max_tokens, sizeof *l->kept);
    for (int i = 0; i < 2; i++) {
        l->items[i] = take(&at, s->items, sizeof *l->items[i]);
        l->mixes[i] = take(&at, c->max_tokens, sizeof *l->mixes[i]);
    }
    l->ids = take(&at, c->max_tokens, sizeof *l->ids);
    return at.at - base;
}

static void take_rows8(struct gpu_rows8 *r, struct cursor *at, size_t rows, size_t stride, int digits)
{
    for (int i = 0; i < digits; i++) {
        r->q[i] = take(at, rows, stride);
        r->scale[i] = take(at, rows, sizeof(float));
        r->sum[i] = take(at, rows, sizeof(int32_t));
    }
}

static void place_attention(struct gpu_buffers *b, struct cursor *at, const struct sl_device_config *c,
                            const struct gpu_sizes *s)
{
    const struct sl_attention_dims *a = &c->attention;
    size_t tokens = c->max_tokens, widest = larger(a->d_model, mixed_of(c));
    for (int i = 0; i < SL_DEVICE_BUFFERS; i++)
        b->rows[i] = take(at, (size_t)s->max_rows * a->d_model, sizeof(float));
    b->normed = take(at, (size_t)s->max_rows * a->d_model, sizeof(float));
    take_rows8(&b->x8, at, s->max_rows, sl_rows8_stride((uint32_t)widest), 2);
    b->qkv = take(at, tokens * (a->n_q + 2 * a->n_kv) * a->d_head, sizeof(float));
    take_rows8(&b->q8, at, tokens * a->n_q, sl_rows8_stride(a->d_head), 1);
    b->states = take(at, s->max_states * sl_attend_state_floats(a->d_head), sizeof(float));
}

static void place_experts(struct gpu_buffers *b, struct cursor *at, const struct sl_device_config *c,
                          const struct gpu_sizes *s)
{
    const struct sl_experts_dims *e = &c->experts;
    size_t tokens = c->max_tokens, routed = tokens * e->top_k;
    b->router = take(at, tokens * e->n_experts, sizeof(float));
    b->experts = take(at, routed, sizeof *b->experts);
    b->gates = take(at, larger(routed, tokens), sizeof *b->gates);
    b->offsets = take(at, e->n_experts + 1, sizeof *b->offsets);
    b->pair_rows = take(at, routed, sizeof *b->pair_rows);
    b->pairs = take(at, routed, sizeof *b->pairs);
    b->load = take(at, 2 * (size_t)e->n_experts, sizeof *b->load);
    b->n_tasks = take(at, c->n_layers, sizeof *b->n_tasks);
    b->tasks = take(at, e->n_experts + routed / GEMM8_FEW_TOKENS, sizeof *b->tasks); /* the lowest tile */
    b->hidden = take(at, larger(routed * e->d_expert, tokens * e->d_single), sizeof(float));
    size_t stride = larger(routed * sl_rows8_stride(e->d_expert), tokens * sl_rows8_stride(e->d_single));
    for (int i = 0; i < 2; i++) {
        b->hidden8.q[i] = take(at, stride, 1);
        b->hidden8.scale[i] = take(at, s->pairs, sizeof(float));
        b->hidden8.sum[i] = take(at, s->pairs, sizeof(int32_t));
    }
    b->outputs = take(at, s->pairs * e->d_model, sizeof(float));
}

size_t gpu_place_buffers(struct gpu_buffers *b, uintptr_t base, const struct sl_device_config *c,
                         const struct gpu_sizes *s)
{
    struct cursor at = {base};
    size_t angles = (size_t)c->max_pages * SL_PAGE_TOKENS * (c->attention.d_head / 2);
    place_attention(b, &at, c, s);
    place_experts(b, &at, c, s);
    b->cosine = take(&at, angles, sizeof(float));
    b->sine = take(&at, angles, sizeof(float));
    b->places = take(&at, c->n_places, gpu_place_bytes(c));
    b->greeting = c->n_places ? take(&at, SL_ROWS_GREETING_BYTES, sizeof *b->greeting) : NULL;
    b->sums = c->n_places ? take(&at, SL_GPU_LANES_BLOCKS * SL_SUM_LANES, sizeof *b->sums) : NULL;
    b->logits = c->with_head ? take(&at, (size_t)c->head_rows * c->vocab, sizeof(float)) : NULL;
    return at.at - base;
}
