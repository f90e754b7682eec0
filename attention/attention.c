/* The attention block of a layer. Five steps, each shared by the team and closed by its barrier:
 *   norm rows -> q|k|v product -> per row: bias, q/k norm, rope, append -> attend -> output product onto the
 * residual. Where a product has integer weights, its input rows are quantised by whoever made them (the norm,
 * the attention), so that costs no barrier. A row's result depends on its own x, its position and the pages
 * alone, so chunking and neighbours change nothing. */
#include "attention/attention_impl.h"
#include <assert.h>

/* ---- memory ---- */

/* Room for the segments of as many rows as a team shares out: few rows make few tasks (attend.c). */
enum { STATE_ROWS_PER_MEMBER = 32 };

static size_t state_floats_of(const struct sl_attention_dims *d, uint32_t max_pages, uint32_t n_threads)
{
    uint32_t segments = (max_pages + SL_SEGMENT_PAGES - 1) / SL_SEGMENT_PAGES;
    if (n_threads < 2 || segments < 2)
        return 0;
    return (size_t)n_threads * STATE_ROWS_PER_MEMBER * segments * sl_attend_state_floats(d->d_head);
}

static size_t widest_row8(const struct sl_attention_dims *d)
{
    size_t normed = sl_rows8_stride(d->d_model), mixed = sl_rows8_stride(d->n_q * d->d_head);
    return normed > mixed ? normed : mixed;
}

static size_t floats(size_t rows, size_t columns)
{
    return sl_arena_round(rows * columns * sizeof(float));
}

size_t sl_attention_bytes(const struct sl_attention_dims *d, uint32_t max_tokens, uint32_t max_pages,
                          uint32_t n_threads)
{
    return floats(max_tokens, d->d_model) + floats(max_tokens, sl_attention_qkv_width(d)) +
           floats(max_tokens, (size_t)d->n_q * d->d_head) + sl_arena_round(2 * max_tokens * widest_row8(d)) +
           2 * floats(max_tokens, 2) + sl_arena_round(sizeof(void *) * 2 * max_pages * n_threads) +
           sl_arena_round(max_tokens * sizeof(struct sl_attention_tile)) +
           floats(state_floats_of(d, max_pages, n_threads), 1);
}

sl_status sl_attention_init(struct sl_attention *a, struct sl_arena *arena, const struct sl_ops *ops,
                            struct sl_team *team, struct sl_kv *kv, const struct sl_attention_dims *dims,
                            uint32_t max_tokens, uint32_t max_pages)
{
    uint32_t n_threads = sl_team_size(team);
    size_t rows = max_tokens, width = sl_attention_qkv_width(dims),
           mixed_width = (size_t)dims->n_q * dims->d_head;
    *a = (struct sl_attention){.ops = ops, .team = team, .dims = *dims, .kv = kv};
    struct sl_attention_buffers *b = &a->buffers;
    b->max_pages = max_pages;
    b->max_tiles = max_tokens; /* a tile has a token at least */
    b->state_floats = state_floats_of(dims, max_pages, n_threads);
    b->normed = sl_arena_take(arena, rows * dims->d_model * sizeof(float));
    b->qkv = sl_arena_take(arena, rows * width * sizeof(float));
    b->mixed = sl_arena_take(arena, rows * mixed_width * sizeof(float));
    b->x8.q = sl_arena_take(arena, 2 * rows * widest_row8(dims));
    b->x8.scale = sl_arena_take(arena, 2 * rows * sizeof(float));
    b->x8.sum = sl_arena_take(arena, 2 * rows * sizeof(int32_t));
    b->page_table = sl_arena_take(arena, sizeof(void *) * 2 * max_pages * n_threads);
    b->tiles = sl_arena_take(arena, rows * sizeof *b->tiles);
    b->states = b->state_floats > 0 ? sl_arena_take(arena, b->state_floats * sizeof(float)) : NULL;
    bool taken =
        b->normed && b->qkv && b->mixed && b->x8.q && b->x8.scale && b->x8.sum && b->page_table && b->tiles;
    return taken && (b->states || b->state_floats == 0) ? SL_OK : SL_E_NOMEM;
}

/* ---- rows ---- */

static void norm_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct attention_pass *p = arg;
    const struct sl_attention *a = p->a;
    const struct sl_panel *qkv = &p->w->qkv;
    struct sl_parts *parts = sl_team_parts(a->team, member);
    uint32_t begin, end, width = a->dims.d_model;
    uint64_t since = sl_clock_ns();
    sl_piece(p->n_rows, 1, n_members, member, &begin, &end);
    if (a->finish && a->finish->run)
        a->finish->run(a->finish->arg, member, begin, end);
    for (size_t r = begin; r < end; r++)
        a->ops->rmsnorm(a->buffers.normed + r * width, p->x + r * width, p->w->norm, width, a->dims.norm_eps);
    sl_part_add(parts, SL_PART_NORMS, &since, 0, 0);
    if (!sl_dtype_is_integer(qkv->dtype))
        return;
    struct sl_rows8 to = sl_attention_rows8(a, width), second = sl_attention_second(a, width);
    sl_quantise_rows(a->ops, qkv, a->buffers.normed, width, &to, &second, begin, end, scratch);
    sl_part_add(parts, SL_PART_QUANTISE, &since, 0, 0);
}

static void place_row(const struct attention_pass *p, const struct sl_attention_slice *slice, uint32_t row)
{
    const struct sl_attention *a = p->a;
    const struct sl_attention_dims *d = &a->dims;
    uint32_t width = sl_attention_qkv_width(d), half = d->d_head / 2;
    float *q = a->buffers.qkv + (size_t)row * width;
    float *k = q + (size_t)d->n_q * d->d_head, *v = k + (size_t)d->n_kv * d->d_head;
    const float *cosine = p->cosine + (size_t)row * half, *sine = p->sine + (size_t)row * half;
    if (p->w->qkv_bias)
        for (uint32_t i = 0; i < width; i++)
            q[i] += p->w->qkv_bias[i];
    for (uint32_t h = 0; h < d->n_q + d->n_kv; h++) {
        float *head = q + (size_t)h * d->d_head; /* the k heads follow the q heads */
        const float *gain = h < d->n_q ? p->w->q_norm : p->w->k_norm;
        if (gain)
            a->ops->rmsnorm(head, head, gain, d->d_head, d->norm_eps);
        a->ops->rope(head, cosine, sine, half);
    }
    uint32_t pos = slice->pos + (row - slice->row);
    sl_kv_append(a->kv, a->ops, slice->pages[pos / SL_PAGE_TOKENS], p->layer, pos % SL_PAGE_TOKENS, k, v);
}

static void place_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct attention_pass *p = arg;
    uint32_t begin, end;
    uint64_t since = sl_clock_ns();
    (void)scratch;
    sl_piece(p->n_rows, 1, n_members, member, &begin, &end);
    for (uint32_t s = 0; s < p->n_slices; s++) {
        const struct sl_attention_slice *slice = &p->slices[s];
        uint32_t first = begin > slice->row ? begin : slice->row;
        uint32_t last = end < slice->row + slice->n ? end : slice->row + slice->n;
        for (uint32_t r = first; r < last; r++)
            place_row(p, slice, r);
    }
    sl_part_add(sl_team_parts(p->a->team, member), SL_PART_ATTENTION, &since, 0, 0);
}

/* ---- the block ---- */

/* y = w . (x, or its rows in x8) */
static void project(const struct sl_attention *a, const struct sl_panel *w, const float *x, uint32_t n_rows,
                    float *y, bool accumulate)
{
    struct sl_rows8 second = sl_attention_second(a, w->k);
    if (sl_dtype_is_integer(w->dtype))
        sl_gemm8_team(a->team, a->ops,
                      &(struct sl_gemm8){.x = sl_attention_rows8(a, w->k),
                                         .m = n_rows,
                                         .w = *w,
                                         .col_end = w->n,
                                         .y = y,
                                         .y_stride = w->n,
                                         .accumulate = accumulate},
                      &second, false, SL_PART_PROJECTION);
    else
        sl_gemm_team(a->team, a->ops,
                     &(struct sl_gemm){.x = x,
                                       .x_stride = w->k,
                                       .m = n_rows,
                                       .w = *w,
                                       .col_end = w->n,
                                       .y = y,
                                       .y_stride = w->n,
                                       .accumulate = accumulate},
                     false, SL_PART_PROJECTION);
}

void sl_attention_run(const struct sl_attention *a, const struct sl_attention_weights *w, uint32_t layer,
                      float *x, uint32_t n_rows, const struct sl_attention_slice *slices, uint32_t n_slices,
                      const float *cosine, const float *sine)
{
    struct attention_pass p = {.a = a,
                               .w = w,
                               .layer = layer,
                               .x = x,
                               .n_rows = n_rows,
                               .slices = slices,
                               .n_slices = n_slices,
                               .cosine = cosine,
                               .sine = sine};
    const struct sl_attention_dims *d = &a->dims;
    assert(w->qkv.k == d->d_model && w->qkv.n == sl_attention_qkv_width(d));
    assert(w->o.k == d->n_q * d->d_head && w->o.n == d->d_model);
    sl_team_run(a->team, norm_rows, &p);
    if (a->finish)
        a->finish->run = NULL;
    sl_observe(a->observer, SL_SITE_QKV, 0, a->buffers.normed, n_rows, d->d_model);
    project(a, &w->qkv, a->buffers.normed, n_rows, a->buffers.qkv, false);
    sl_team_run(a->team, place_rows, &p);
    sl_attention_cut(&p);
    sl_team_run(a->team, sl_attention_attend, &p);
    sl_observe(a->observer, SL_SITE_O, 0, a->buffers.mixed, n_rows, w->o.k);
    project(a, &w->o, a->buffers.mixed, n_rows, x, true);
}
