/* The attention block of a layer. Five steps, each shared by the team and closed by its barrier:
 *   norm rows -> q|k|v product -> per row: bias, q/k norm, rope, append -> attend -> output product onto the
 * residual. Where a product has integer weights, its input rows are quantised by whoever made them (the norm,
 * the attention), so that costs no barrier. A row's result depends on its own x, its position and the pages
 * alone, so chunking and neighbours change nothing; nor does it that in the last layer rows of which only K and V
 * are wanted go no further than the third step (sl_attention_run_last). */
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
           sl_arena_round(max_tokens * sizeof(uint32_t)) +
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
    b->kept = sl_arena_take(arena, rows * sizeof *b->kept);
    b->page_table = sl_arena_take(arena, sizeof(void *) * 2 * max_pages * n_threads);
    b->tiles = sl_arena_take(arena, rows * sizeof *b->tiles);
    b->states = b->state_floats > 0 ? sl_arena_take(arena, b->state_floats * sizeof(float)) : NULL;
    bool taken = b->normed && b->qkv && b->mixed && b->x8.q && b->x8.scale && b->x8.sum && b->kept &&
                 b->page_table && b->tiles;
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

/* Heads [begin, end) of a row of qkv: bias, and for q and k norm and rope at the position of the chunk's row `at`. */
static void place_heads(const struct attention_pass *p, uint32_t row, uint32_t at, uint32_t begin,
                        uint32_t end)
{
    const struct sl_attention *a = p->a;
    const struct sl_attention_dims *d = &a->dims;
    uint32_t half = d->d_head / 2;
    const float *cosine = p->cosine + (size_t)at * half, *sine = p->sine + (size_t)at * half;
    for (uint32_t h = begin; h < end; h++) {
        float *head = a->buffers.qkv + (size_t)row * sl_attention_qkv_width(d) + (size_t)h * d->d_head;
        if (p->w->qkv_bias)
            for (uint32_t i = 0; i < d->d_head; i++)
                head[i] += p->w->qkv_bias[(size_t)h * d->d_head + i];
        if (h >= d->n_q + d->n_kv) /* a v head; the k heads follow the q heads */
            continue;
        const float *gain = h < d->n_q ? p->w->q_norm : p->w->k_norm;
        if (gain)
            a->ops->rmsnorm(head, head, gain, d->d_head, d->norm_eps);
        a->ops->rope(head, cosine, sine, half);
    }
}

static void place_row(const struct attention_pass *p, const struct sl_attention_slice *slice, uint32_t row)
{
    const struct sl_attention *a = p->a;
    const struct sl_attention_dims *d = &a->dims;
    place_heads(p, row, row, p->kept ? d->n_q : 0, d->n_q + 2 * d->n_kv);
    const float *k = a->buffers.qkv + (size_t)row * sl_attention_qkv_width(d) + (size_t)d->n_q * d->d_head;
    uint32_t pos = slice->pos + (row - slice->row);
    sl_kv_append(a->kv, a->ops, slice->pages[pos / SL_PAGE_TOKENS], p->layer, pos % SL_PAGE_TOKENS, k,
                 k + (size_t)d->n_kv * d->d_head);
}

/* Of all rows: K and V, and q unless only kept ones have it. */
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

/* q of the kept rows, which lies one behind the other. */
static void place_kept(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct attention_pass *p = arg;
    uint32_t begin, end;
    uint64_t since = sl_clock_ns();
    (void)scratch;
    sl_piece(p->n_out, 1, n_members, member, &begin, &end);
    for (uint32_t r = begin; r < end; r++)
        place_heads(p, r, p->kept[r], 0, p->a->dims.n_q);
    sl_part_add(sl_team_parts(p->a->team, member), SL_PART_ATTENTION, &since, 0, 0);
}

/* ---- the block ---- */

/* Columns of y = w . (x, or its rows in x8) */
struct columns {
    const struct sl_panel *w;
    const float *x;
    const uint32_t *rows; /* of x, by row of y; or NULL */
    uint32_t n_rows, begin, end;
    float *y;
    bool accumulate;
};

static void project(const struct sl_attention *a, const struct columns *c)
{
    const struct sl_panel *w = c->w;
    struct sl_rows8 second = sl_attention_second(a, w->k);
    if (sl_dtype_is_integer(w->dtype))
        sl_gemm8_team(a->team, a->ops,
                      &(struct sl_gemm8){.x = sl_attention_rows8(a, w->k),
                                         .rows = c->rows,
                                         .m = c->n_rows,
                                         .w = *w,
                                         .col_begin = c->begin,
                                         .col_end = c->end,
                                         .y = c->y,
                                         .y_stride = w->n,
                                         .accumulate = c->accumulate},
                      &second, false, SL_PART_PROJECTION);
    else
        sl_gemm_team(a->team, a->ops,
                     &(struct sl_gemm){.x = c->x,
                                       .x_stride = w->k,
                                       .rows = c->rows,
                                       .m = c->n_rows,
                                       .w = *w,
                                       .col_begin = c->begin,
                                       .col_end = c->end,
                                       .y = c->y,
                                       .y_stride = w->n,
                                       .accumulate = c->accumulate},
                     false, SL_PART_PROJECTION);
}

static void norm(struct attention_pass *p)
{
    const struct sl_attention *a = p->a;
    const struct sl_attention_dims *d = &a->dims;
    assert(p->w->qkv.k == d->d_model && p->w->qkv.n == sl_attention_qkv_width(d));
    assert(p->w->o.k == d->n_q * d->d_head && p->w->o.n == d->d_model);
    sl_team_run(a->team, norm_rows, p);
    if (a->finish)
        a->finish->run = NULL;
    sl_observe(a->observer, SL_SITE_QKV, 0, a->buffers.normed, p->n_rows, d->d_model);
}

/* Columns [begin, end) of q|k|v of all rows, or of the kept ones. */
static void project_qkv(const struct attention_pass *p, bool kept, uint32_t begin, uint32_t end)
{
    const struct sl_attention *a = p->a;
    project(a, &(struct columns){.w = &p->w->qkv,
                                 .x = a->buffers.normed,
                                 .rows = kept ? p->kept : NULL,
                                 .n_rows = kept ? p->n_out : p->n_rows,
                                 .begin = begin,
                                 .end = end,
                                 .y = a->buffers.qkv});
}

static void attend(struct attention_pass *p)
{
    const struct sl_attention *a = p->a;
    const struct sl_panel *o = &p->w->o;
    sl_attention_cut(p);
    sl_team_run(a->team, sl_attention_attend, p);
    sl_observe(a->observer, SL_SITE_O, 0, a->buffers.mixed, p->n_out, o->k);
    project(
        a,
        &(struct columns){
            .w = o, .x = a->buffers.mixed, .n_rows = p->n_out, .end = o->n, .y = p->x, .accumulate = true});
}

static struct attention_pass whole_pass(const struct sl_attention *a, const struct sl_attention_weights *w,
                                        uint32_t layer, float *x, uint32_t n_rows,
                                        const struct sl_attention_slice *slices, uint32_t n_slices,
                                        const float *cosine, const float *sine)
{
    return (struct attention_pass){.a = a,
                                   .w = w,
                                   .layer = layer,
                                   .x = x,
                                   .n_rows = n_rows,
                                   .n_out = n_rows,
                                   .slices = slices,
                                   .n_slices = n_slices,
                                   .cosine = cosine,
                                   .sine = sine};
}

void sl_attention_append(const struct sl_attention *a, const struct sl_attention_weights *w, uint32_t layer,
                         float *x, uint32_t n_rows, const struct sl_attention_slice *slices,
                         uint32_t n_slices, const float *cosine, const float *sine)
{
    struct attention_pass p = whole_pass(a, w, layer, x, n_rows, slices, n_slices, cosine, sine);
    norm(&p);
    project_qkv(&p, false, 0, w->qkv.n);
    sl_team_run(a->team, place_rows, &p);
}

void sl_attention_attend_appended(const struct sl_attention *a, const struct sl_attention_weights *w,
                                  uint32_t layer, float *x, uint32_t n_rows,
                                  const struct sl_attention_slice *slices, uint32_t n_slices)
{
    struct attention_pass p = whole_pass(a, w, layer, x, n_rows, slices, n_slices, NULL, NULL);
    attend(&p);
}

void sl_attention_run(const struct sl_attention *a, const struct sl_attention_weights *w, uint32_t layer,
                      float *x, uint32_t n_rows, const struct sl_attention_slice *slices, uint32_t n_slices,
                      const float *cosine, const float *sine)
{
    sl_attention_append(a, w, layer, x, n_rows, slices, n_slices, cosine, sine);
    sl_attention_attend_appended(a, w, layer, x, n_rows, slices, n_slices);
}

/* Lists the rows that go on. */
static uint32_t keep_rows(uint32_t *kept, const struct sl_attention_slice *slices, uint32_t n_slices)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < n_slices; s++)
        for (uint32_t i = slices[s].kv_only; i < slices[s].n; i++)
            kept[n++] = slices[s].row + i;
    return n;
}

uint32_t sl_attention_run_last(const struct sl_attention *a, const struct sl_attention_weights *w,
                               uint32_t layer, float *x, uint32_t n_rows,
                               const struct sl_attention_slice *slices, uint32_t n_slices,
                               const float *cosine, const float *sine)
{
    struct attention_pass p = {.a = a,
                               .w = w,
                               .layer = layer,
                               .x = x,
                               .n_rows = n_rows,
                               .kept = a->buffers.kept,
                               .n_out = keep_rows(a->buffers.kept, slices, n_slices),
                               .slices = slices,
                               .n_slices = n_slices,
                               .cosine = cosine,
                               .sine = sine};
    if (p.n_out == n_rows) {
        sl_attention_run(a, w, layer, x, n_rows, slices, n_slices, cosine, sine);
        return n_rows;
    }
    /* A product's columns begin and end at whole lanes: what both have of the lanes between q and k is not used of the
     * second one, which comes when K and V are in the pages. */
    uint32_t q_end = a->dims.n_q * a->dims.d_head, lanes_end = sl_round_lanes(q_end);
    norm(&p);
    project_qkv(&p, false, q_end / SL_LANES * SL_LANES, w->qkv.n);
    sl_team_run(a->team, place_rows, &p);
    if (p.n_out == 0)
        return 0;
    for (uint32_t i = 0; i < p.n_out; i++) /* never forward: no row is overwritten that is still to move */
        if (p.kept[i] != i)
            memcpy(x + (size_t)i * a->dims.d_model, x + (size_t)p.kept[i] * a->dims.d_model,
                   a->dims.d_model * sizeof *x);
    project_qkv(&p, true, 0, lanes_end < w->qkv.n ? lanes_end : w->qkv.n);
    sl_team_run(a->team, place_kept, &p);
    attend(&p);
    return p.n_out;
}
