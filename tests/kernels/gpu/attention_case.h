/* A chunk's attention block between its two products, on the twin and by kernels/ref: place, attend8, mix. One case is some slices of
 * sequences, the q|k|v rows of the chunk, and pages that hold what came before; what the kernels leave is compared byte by byte.
 * For test_attend8.c and test_attend8_mutants.c; the same over pages of floats: attend_cases.h. */
#ifndef SL_TESTS_KERNELS_GPU_ATTENTION_CASE_H
#define SL_TESTS_KERNELS_GPU_ATTENTION_CASE_H

#include "kernels/exp.h"
#include "kernels/gpu/attend_cut.h"
#define DRAW_SEED 20261130
#include "tests/kernels/gpu/row8_case.h"

enum { CASE_SLICES = 6, CASE_PAGES = 512 };

struct case_shape {
    uint32_t n_q, n_kv, d_head;
    struct {
        uint32_t pos, n, kv_only;
    } slices[CASE_SLICES]; /* up to the first with n = 0 */
    uint32_t wanted;       /* of sl_gpu_cut_config */
    bool last, bias, qk_norm;
    uint32_t rotation, digits; /* of the output product */
    enum sl_dtype kv_dtype;
    bool odd; /* NaN, infinities and zeros among the rows */
};

struct case_run {
    const struct case_shape *shape;
    uint32_t n_rows, n_slots, width; /* width: of a row of q|k|v */
    struct sl_attention_slice slices[CASE_SLICES];
    uint32_t n_slices, pages[CASE_PAGES], n_pages;
    size_t k_bytes, head_bytes, slot_bytes, kv_bytes;
    uint8_t *kv, *ref_kv;
    float *qkv, *ref_qkv, *gains, *tables; /* gains: bias, q norm, k norm; tables: cosines, sines */
    uint32_t n_pos;
    struct sl_gpu_cut cut;
    struct sl_gpu_cut_config config;
    uint32_t *counts; /* items, rows that attend, rows */
    int8_t *q;
    float *q_scale, *states, *mixed, *ref_mixed;
    int32_t *q_sum;
    struct sl_gpu_row8 x8;
    struct gpu_outcome placed, attended; /* of place; of attention and mix */
};

/* ---- the reference ---- */

/* A token of a KV head into its page, as attention/kv.c does it. */
static inline void case_append(const struct case_run *c, uint8_t *k_page, uint32_t pos, const float *k,
                               const float *v)
{
    const uint32_t d = c->shape->d_head, key = pos % SL_PAGE_TOKENS;
    uint8_t *v_page = k_page + c->k_bytes;
    int8_t q[512];
    float scale;
    int32_t sum;
    if (c->shape->kv_dtype == SL_I8) {
        sl_ops_ref.quantise(k, d, q, sl_rows8_stride(d), &scale, &sum);
        memcpy(k_page + sl_page8_k_scale_at(d, key), &scale, sizeof scale);
        for (uint32_t i = 0; i < sl_quant_padded(d); i++)
            k_page[sl_page8_k_at(d, key, i)] = (uint8_t)((i < d ? q[i] : 0) + 128);
        sl_ops_ref.quantise(v, d, q, sl_rows8_stride(d), &scale, &sum);
        memcpy(v_page + sl_page8_scales_at(d) + key * sizeof scale, &scale, sizeof scale);
        for (uint32_t i = 0; i < d; i++)
            v_page[sl_page8_v_at(key, i)] = (uint8_t)q[i];
        return;
    }
    const size_t bytes = sl_dtype_bytes(c->shape->kv_dtype);
    for (uint32_t i = 0; i < d; i++) {
        sl_ops_ref.convert(k_page + sl_panel_at(d, key, i) * bytes, c->shape->kv_dtype, k + i, 1);
        sl_ops_ref.convert(v_page + sl_panel_at(SL_PAGE_TOKENS, i, key) * bytes, c->shape->kv_dtype, v + i,
                           1);
    }
}

static inline uint8_t *case_page(const struct case_run *c, uint8_t *kv, const struct sl_attention_slice *s,
                                 uint32_t pos, uint32_t head)
{
    return kv + s->pages[pos / SL_PAGE_TOKENS] * c->slot_bytes + head * c->head_bytes;
}

/* Row r of the chunk, at `pos`: bias, norms, rope; K and V go into the pages. */
static inline void case_place(struct case_run *c, const struct sl_attention_slice *s, uint32_t r,
                              uint32_t pos)
{
    const struct case_shape *sh = c->shape;
    const uint32_t d = sh->d_head, half = d / 2;
    float *row = c->ref_qkv + (size_t)r * c->width;
    for (uint32_t i = 0; sh->bias && i < c->width; i++)
        row[i] += c->gains[i];
    for (uint32_t h = 0; h < sh->n_q + sh->n_kv; h++) {
        float *head = row + (size_t)h * d;
        if (sh->qk_norm)
            sl_ops_ref.rmsnorm(head, head, c->gains + c->width + (h < sh->n_q ? 0 : d), d, 1e-6f);
        sl_ops_ref.rope(head, c->tables + (size_t)pos * half, c->tables + (size_t)(c->n_pos + pos) * half,
                        half);
    }
    for (uint32_t h = 0; h < sh->n_kv; h++)
        case_append(c, case_page(c, c->ref_kv, s, pos, h), pos, row + (sh->n_q + h) * d,
                    row + (sh->n_q + sh->n_kv + h) * d);
}

static inline void case_attend(struct case_run *c)
{
    const struct case_shape *sh = c->shape;
    const uint32_t d = sh->d_head, rep = sh->n_q / sh->n_kv;
    void *scratch = take(sl_ops_ref.scratch_bytes(d));
    const void *k_pages[CASE_PAGES], *v_pages[CASE_PAGES];
    uint32_t row = 0;
    for (uint32_t i = 0; i < c->n_slices; i++) {
        const struct sl_attention_slice *s = &c->slices[i];
        const uint32_t first = sh->last ? s->kv_only : 0;
        for (uint32_t h = 0; h < sh->n_kv; h++) {
            for (uint32_t p = 0; p <= (s->pos + s->n - 1) / SL_PAGE_TOKENS; p++) {
                k_pages[p] = case_page(c, c->ref_kv, s, p * SL_PAGE_TOKENS, h);
                v_pages[p] = (const uint8_t *)k_pages[p] + c->k_bytes;
            }
            struct sl_attend a = {.q = c->ref_qkv + (size_t)(s->row + first) * c->width + (size_t)h * rep * d,
                                  .q_stride = c->width,
                                  .n_rep = rep,
                                  .d_head = d,
                                  .n_tok = s->n - first,
                                  .pos = s->pos + first,
                                  .k_pages = k_pages,
                                  .v_pages = v_pages,
                                  .kv_dtype = sh->kv_dtype,
                                  .scale = 1.5f / sqrtf((float)d),
                                  .out = c->ref_mixed + ((size_t)row * sh->n_q + h * rep) * d,
                                  .out_stride = (size_t)sh->n_q * d};
            (sh->kv_dtype == SL_I8 ? sl_ops_ref.attend8 : sl_ops_ref.attend)(&a, scratch);
        }
        row += s->n - first;
    }
    free(scratch);
}

/* ---- a case ---- */

static inline float case_draw(const struct case_run *c, uint32_t row, uint32_t i)
{
    float x = draw_unit() * (i % 17 == 3 ? 9.0f : 1.0f) * (row % 29 == 4 ? 20.0f : 1.0f);
    if (!c->shape->odd || row % 5 != 2)
        return x;
    if (i / c->shape->d_head % 3 == 1 && i % 7 == 0)
        return row % 2 ? draw_nan() : INFINITY;
    return row % 3 == 0
               ? 0.0f
               : x * (row % 2 ? 1e-30f : 1e-37f); /* a scale of V that is too small, or none at all */
}

static inline void case_memory(struct case_run *c)
{
    const struct case_shape *sh = c->shape;
    const uint32_t d = sh->d_head;
    const size_t k = (size_t)sh->n_q * d;
    c->k_bytes = (sl_page_k_bytes(sh->kv_dtype, d) + 63) / 64 * 64;
    c->head_bytes = c->k_bytes + (sl_page_v_bytes(sh->kv_dtype, d) + 63) / 64 * 64;
    c->slot_bytes = sh->n_kv * c->head_bytes + 64; /* another layer's */
    c->kv_bytes = c->n_slots * c->slot_bytes;
    c->kv = memset(gpu_alloc(c->kv_bytes), 0, c->kv_bytes);
    c->ref_kv = memset(take(c->kv_bytes), 0, c->kv_bytes);
    c->qkv = gpu_alloc(c->n_rows * c->width * sizeof(float));
    c->ref_qkv = take(c->n_rows * c->width * sizeof(float));
    c->gains = gpu_alloc((c->width + 2 * d) * sizeof(float));
    c->tables = gpu_alloc((size_t)c->n_pos * d * sizeof(float));
    c->config = (struct sl_gpu_cut_config){.n_q = sh->n_q,
                                           .n_kv = sh->n_kv,
                                           .d_head = d,
                                           .wanted = sh->wanted,
                                           .max_states = (c->n_rows + 128) * sh->n_q};
    c->cut.places = gpu_alloc(c->n_rows * sizeof *c->cut.places);
    c->cut.slots = gpu_alloc(c->n_pages * sizeof *c->cut.slots);
    c->cut.rows = gpu_alloc(c->n_rows * sizeof *c->cut.rows);
    c->cut.kept = gpu_alloc(c->n_rows * sizeof *c->cut.kept);
    c->counts = gpu_alloc(3 * sizeof *c->counts);
    c->q = gpu_alloc(c->n_rows * sh->n_q * sl_rows8_stride(d));
    c->q_scale = gpu_alloc(c->n_rows * sh->n_q * sizeof(float));
    c->q_sum = gpu_alloc(c->n_rows * sh->n_q * sizeof(int32_t));
    c->states = gpu_alloc(c->config.max_states * sl_attend_state_floats(d) * sizeof(float));
    c->mixed = gpu_alloc(c->n_rows * k * sizeof(float));
    c->ref_mixed = take(c->n_rows * k * sizeof(float));
    c->x8 = row8_unwritten(c->n_rows, (uint32_t)k, sh->rotation, sh->digits);
}

/* The sequences' pages, in slots drawn from the pool, with keys before each slice in both pools. */
static inline void case_contexts(struct case_run *c)
{
    const struct case_shape *sh = c->shape;
    float k[512], v[512];
    for (uint32_t i = 0; i < c->n_slices; i++)
        for (uint32_t pos = 0; pos < c->slices[i].pos; pos++)
            for (uint32_t h = 0; h < sh->n_kv; h++) {
                for (uint32_t j = 0; j < sh->d_head; j++) {
                    k[j] = draw_unit() * (j % 17 == 0 ? 6.0f : 1.0f);
                    v[j] = draw_unit() * (pos % 29 == 0 ? 20.0f : 1.0f);
                }
                if (sh->odd && pos % 97 == 5)
                    v[3] = pos % 2 ? draw_nan() : 1e-38f;
                case_append(c, case_page(c, c->ref_kv, &c->slices[i], pos, h), pos, k, v);
            }
    memcpy(c->kv, c->ref_kv, c->kv_bytes);
}

static inline struct case_run *case_create(const struct case_shape *shape)
{
    struct case_run *c = calloc(1, sizeof *c);
    c->shape = shape;
    c->width = (shape->n_q + 2 * shape->n_kv) * shape->d_head;
    for (uint32_t i = 0; i < CASE_SLICES && shape->slices[i].n > 0; i++) {
        uint32_t end = shape->slices[i].pos + shape->slices[i].n;
        c->slices[c->n_slices++] = (struct sl_attention_slice){.row = c->n_rows,
                                                               .n = shape->slices[i].n,
                                                               .pos = shape->slices[i].pos,
                                                               .pages = c->pages + c->n_pages,
                                                               .kv_only = shape->slices[i].kv_only};
        c->n_rows += shape->slices[i].n;
        c->n_pages += (end - 1) / SL_PAGE_TOKENS + 1;
        c->n_pos = c->n_pos > end ? c->n_pos : end;
    }
    c->n_slots = c->n_pages + 1;
    for (uint32_t i = 0; i < c->n_pages; i++)
        c->pages[i] = i;
    for (uint32_t i = 1; i < c->n_pages; i++) { /* in any order */
        uint32_t j = below(i + 1), t = c->pages[i];
        c->pages[i] = c->pages[j], c->pages[j] = t;
    }
    case_memory(c);
    for (uint32_t i = 0; i < c->n_rows * c->width; i++)
        c->qkv[i] = c->ref_qkv[i] = case_draw(c, i / c->width, i % c->width);
    for (uint32_t i = 0; i < c->width + 2 * shape->d_head; i++)
        c->gains[i] = 1.0f + draw_unit() * 0.5f;
    for (size_t i = 0; i < (size_t)c->n_pos * shape->d_head; i++)
        c->tables[i] = draw_unit();
    case_contexts(c);
    for (uint32_t i = 0; i < c->n_slices; i++)
        for (uint32_t t = 0; t < c->slices[i].n; t++)
            case_place(c, &c->slices[i], c->slices[i].row + t, c->slices[i].pos + t);
    return c;
}

static inline void case_destroy(struct case_run *c)
{
    free(c->ref_kv), free(c->ref_qkv), free(c->ref_mixed);
    free(c);
    gpu_free_all();
}

/* ---- on the twin ---- */

static inline struct sl_gpu_place case_place_params(const struct case_run *c)
{
    const struct case_shape *sh = c->shape;
    const bool i8 = sh->kv_dtype == SL_I8;
    return (struct sl_gpu_place){.qkv = c->qkv,
                                 .bias = sh->bias ? c->gains : NULL,
                                 .q_norm = sh->qk_norm ? c->gains + c->width : NULL,
                                 .k_norm = sh->qk_norm ? c->gains + c->width + sh->d_head : NULL,
                                 .cosine = c->tables,
                                 .sine = c->tables + (size_t)c->n_pos * sh->d_head / 2,
                                 .rows = c->cut.places,
                                 .kv = c->kv,
                                 .slot_bytes = c->slot_bytes,
                                 .head_bytes = c->head_bytes,
                                 .v_at = c->k_bytes,
                                 .q = i8 ? c->q : NULL,
                                 .q_scale = c->q_scale,
                                 .q_sum = c->q_sum,
                                 .n_rows = &c->counts[2],
                                 .n_q = sh->n_q,
                                 .n_kv = sh->n_kv,
                                 .d_head = sh->d_head,
                                 .q_stride = (uint32_t)sl_rows8_stride(sh->d_head),
                                 .head_begin = 0,
                                 .head_end = sh->n_q + 2 * sh->n_kv,
                                 .kv_dtype = sh->kv_dtype,
                                 .q_factor = 1.5f / sqrtf((float)sh->d_head) * SL_EXP_LOG2E_HI,
                                 .eps = 1e-6f};
}

/* q|k|v of all rows; or K and V of all, and then q of those that are kept, which lie one behind the other. */
static inline void case_run_place(struct case_run *c, uint64_t seed)
{
    struct sl_gpu_place p = case_place_params(c);
    p.head_begin = c->shape->last ? p.n_q : 0;
    run_kernel(&c->placed, &sl_gpu_place, &p, 3, SL_GPU_PLACE_SHARED, seed, CONFLICTS_MAY_BE);
    if (!c->shape->last)
        return;
    for (uint32_t i = 0; i < c->cut.n_rows; i++) /* what the product would make of the kept rows */
        memmove(c->qkv + (size_t)i * c->width, c->qkv + (size_t)c->cut.kept[i] * c->width,
                (size_t)p.n_q * p.d_head * sizeof(float));
    p.kept = c->cut.kept;
    p.n_rows = &c->counts[1];
    p.head_begin = 0;
    p.head_end = p.n_q;
    run_kernel(&c->placed, &sl_gpu_place, &p, 2, SL_GPU_PLACE_SHARED, seed, CONFLICTS_MAY_BE);
}

static inline struct sl_gpu_attend_over case_over(const struct case_run *c)
{
    return (struct sl_gpu_attend_over){.kv = c->kv,
                                       .slots = c->cut.slots,
                                       .states = c->states,
                                       .items = c->cut.items,
                                       .n_items = &c->counts[0],
                                       .slot_bytes = c->slot_bytes,
                                       .head_bytes = c->head_bytes,
                                       .v_at = c->k_bytes,
                                       .n_q = c->shape->n_q,
                                       .n_kv = c->shape->n_kv,
                                       .d_head = c->shape->d_head};
}

static inline void case_run_attend(struct case_run *c, uint64_t seed)
{
    const struct case_shape *sh = c->shape;
    struct sl_gpu_attend8 p = {.over = case_over(c),
                               .q = c->q,
                               .q_scale = c->q_scale,
                               .q_sum = c->q_sum,
                               .q_stride = (uint32_t)sl_rows8_stride(sh->d_head)};
    run_kernel(&c->attended, sl_gpu_attend8_kernel(sh->d_head), &p, 3, SL_GPU_ATTEND8_SHARED, seed,
               CONFLICTS_COUNT);
}

static inline void case_run_mix(struct case_run *c, struct sl_gpu_row8 to, uint64_t seed)
{
    const struct case_shape *sh = c->shape;
    struct sl_gpu_mix m = {.states = c->states,
                           .rows = c->cut.rows,
                           .n_rows = &c->counts[1],
                           .mixed = c->mixed,
                           .to = to,
                           .n_q = sh->n_q,
                           .d_head = sh->d_head};
    run_kernel(&c->attended, &sl_gpu_mix, &m, 2, sl_gpu_row_shared(sh->n_q * sh->d_head), seed,
               CONFLICTS_MAY_BE);
}

/* ---- what came of it ---- */

static inline void case_compare_q(struct case_run *c)
{
    const struct case_shape *sh = c->shape;
    const uint32_t d = sh->d_head;
    const float factor = 1.5f / sqrtf((float)d) * SL_EXP_LOG2E_HI;
    for (uint32_t r = 0; r < c->cut.n_rows * sh->n_q; r++) {
        const float *from =
            c->ref_qkv + (size_t)c->cut.kept[r / sh->n_q] * c->width + (size_t)(r % sh->n_q) * d;
        float x[512], scale;
        int8_t q[512];
        int32_t sum;
        if (sh->kv_dtype != SL_I8) {
            compare_floats(&c->placed, from,
                           c->qkv + (size_t)(r / sh->n_q) * c->width + (size_t)(r % sh->n_q) * d, d);
            continue;
        }
        for (uint32_t i = 0; i < d; i++)
            x[i] = from[i] * factor;
        sl_ops_ref.quantise(x, d, q, sl_rows8_stride(d), &scale, &sum);
        compare_things(&c->placed, q, c->q + r * sl_rows8_stride(d), sl_rows8_stride(d), 1);
        compare_floats(&c->placed, &scale, &c->q_scale[r], 1);
        compare_things(&c->placed, &sum, &c->q_sum[r], 1, sizeof sum);
    }
}

static inline void case_compare_halves(struct gpu_outcome *o, const uint16_t *want, const uint16_t *got,
                                       size_t n)
{
    for (size_t i = 0; i < n; i++)
        compare_floats(o, &(float){sl_bf16_to_f32(want[i])}, &(float){sl_bf16_to_f32(got[i])}, 1);
}

/* All pages, of which each row of the chunk has written a key and a value of each head. */
static inline void case_compare_pages(struct case_run *c)
{
    struct gpu_outcome all = {0};
    if (c->shape->kv_dtype == SL_F32)
        compare_floats(&all, (const float *)(const void *)c->ref_kv, (const float *)(const void *)c->kv,
                       c->kv_bytes / 4);
    else if (c->shape->kv_dtype == SL_BF16)
        case_compare_halves(&all, (const uint16_t *)(const void *)c->ref_kv,
                            (const uint16_t *)(const void *)c->kv, c->kv_bytes / 2);
    else
        compare_things(&all, c->ref_kv, c->kv, c->kv_bytes, 1);
    c->placed.differ += all.differ;
    c->placed.outputs += (uint64_t)c->n_rows * c->shape->n_kv * 2 * c->shape->d_head;
}

/* Cut, placed, and attended to by ref. */
static inline struct case_run *case_begin(const struct case_shape *shape, uint32_t item_rows, uint64_t seed)
{
    struct case_run *c = case_create(shape);
    c->config.item_rows = item_rows;
    c->cut.items = gpu_alloc(sl_gpu_cut_items(&c->config, c->n_rows, c->n_slices) * sizeof *c->cut.items);
    sl_gpu_cut_chunk(&c->cut, &c->config, c->slices, c->n_slices, shape->last);
    c->counts[0] = c->cut.n_items;
    c->counts[1] = c->cut.n_rows;
    c->counts[2] = c->n_rows;
    gpu_poison(c->q, c->n_rows * shape->n_q * sl_rows8_stride(shape->d_head));
    gpu_poison(c->states, c->config.max_states * sl_attend_state_floats(shape->d_head) * sizeof(float));
    case_run_place(c, seed);
    case_compare_pages(c);
    case_compare_q(c);
    case_attend(c);
    return c;
}

/* `to`: where mix leaves rows of s8. */
static inline void case_finish(struct case_run *c, struct sl_gpu_row8 to, uint64_t seed)
{
    const uint32_t k = c->shape->n_q * c->shape->d_head;
    case_run_mix(c, to, seed);
    compare_floats(&c->attended, c->ref_mixed, c->mixed, (size_t)c->cut.n_rows * k);
    if (to.q)
        compare_row8(&c->attended, &to, c->ref_mixed, c->cut.n_rows, k);
}

static inline struct gpu_outcome case_sum(const struct case_run *c)
{
    struct gpu_outcome o = c->placed;
    o.outputs += c->attended.outputs;
    o.differ += c->attended.differ;
    o.conflicts += c->attended.conflicts;
    for (uint32_t i = 0; i < GPU_FINDINGS; i++)
        o.report.found[i] += c->attended.report.found[i];
    if (!o.report.first[0])
        memcpy(o.report.first, c->attended.report.first, sizeof o.report.first);
    return o;
}

/* Over pages of i8. The caller destroys it. */
static inline struct case_run *case_go(const struct case_shape *shape, uint64_t seed)
{
    struct case_run *c = case_begin(shape, sl_gpu_attend8_rows(shape->d_head), seed);
    case_run_attend(c, seed);
    case_finish(c, c->x8, seed);
    return c;
}

#endif
