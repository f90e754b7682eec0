/* The attention of a chunk as tasks for a team.
 *
 * A tile is some tokens of one slice on one page: with n_rep heads each they are the rows that share a page
 * while it is in cache. A task is one KV head of a tile. When there are fewer tasks than would keep the team
 * busy (decode, at long context), tiles are cut further, into ranges of segments whose states meet in memory;
 * a segment's state has the same bits whoever computes it, and they are merged in ascending order, so nothing
 * here changes a result.
 *
 * Longer tiles come first, so that the last tasks to be taken are short. Nobody waits for anybody: the member
 * that ends the last task of a tile does what needs all of it, the merge and the quantisation of its rows. */
#include "attention/attention_impl.h"
#include "kernels/team_ops.h"
#include <assert.h>

enum {
    TILE_ROWS = 192,      /* a page is read from the outer caches once for so many: a round of the kernels */
    TILE_ROWS_LEAST = 48, /* with fewer, that costs too much */
    TASKS_PER_MEMBER = 4, /* wanted, so that members end together: rows are cut for that, then segments */
    SPLIT_BELOW = 2,      /* tasks a member: segments are shared out only when there are fewer */
    N_CLASSES = 256,
    CLASS_PAGES = 8 /* tiles are sorted by pages, to within so many */
};

/* Tokens of the largest tile of this chunk. */
static uint32_t tile_tokens(const struct attention_pass *p)
{
    const struct sl_attention_dims *d = &p->a->dims;
    uint32_t rep = d->n_q / d->n_kv, rows = TILE_ROWS, wanted = TASKS_PER_MEMBER * sl_team_size(p->a->team);
    while (rows > TILE_ROWS_LEAST && (uint64_t)p->n_out * d->n_q < (uint64_t)wanted * rows)
        rows /= 2;
    return rep < rows ? rows / rep : 1;
}

static uint32_t tile_pages(const struct sl_attention_tile *t)
{
    return (t->slice->pos + t->token) / SL_PAGE_TOKENS + 1;
}

static uint32_t tile_class(uint32_t n_pages)
{
    return n_pages / CLASS_PAGES < N_CLASSES ? N_CLASSES - 1 - n_pages / CLASS_PAGES : 0;
}

/* Calls with each tile of the chunk in order of tokens: pages are cut into nearly equal pieces. */
typedef void tile_visit(void *arg, const struct sl_attention_tile *tile);

static void each_tile(const struct attention_pass *p, tile_visit *visit, void *arg)
{
    uint32_t most = tile_tokens(p), row = 0;
    for (uint32_t s = 0; s < p->n_slices; s++) {
        const struct sl_attention_slice *slice = &p->slices[s];
        uint32_t token = p->kept ? slice->kv_only : 0;
        for (uint32_t on_page; token < slice->n; token += on_page, row += on_page) {
            uint32_t left = SL_PAGE_TOKENS - (slice->pos + token) % SL_PAGE_TOKENS;
            on_page = slice->n - token < left ? slice->n - token : left;
            uint32_t pieces = (on_page + most - 1) / most, begin, end;
            for (uint32_t i = 0; i < pieces; i++) {
                sl_piece(on_page, 1, pieces, i, &begin, &end);
                visit(arg, &(struct sl_attention_tile){.slice = slice,
                                                       .token = token + begin,
                                                       .n_tokens = end - begin,
                                                       .row = row + begin});
            }
        }
    }
}

/* A counting sort: how many tiles of each class, and then where the class begins. */
struct sorting {
    struct sl_attention_tile *tiles;
    uint32_t at[N_CLASSES + 1];
};

static void count_tile(void *arg, const struct sl_attention_tile *tile)
{
    struct sorting *s = arg;
    s->at[tile_class(tile_pages(tile)) + 1]++;
}

static void place_tile(void *arg, const struct sl_attention_tile *tile)
{
    struct sorting *s = arg;
    struct sl_attention_tile *to = &s->tiles[s->at[tile_class(tile_pages(tile))]++];
    to->slice = tile->slice;
    to->token = tile->token;
    to->n_tokens = tile->n_tokens;
    to->row = tile->row;
    to->n_segments = sl_attend_segments(tile->slice->pos + tile->token);
}

static size_t head_states(const struct attention_pass *p, const struct sl_attention_tile *t)
{
    const struct sl_attention_dims *d = &p->a->dims;
    return (size_t)t->n_segments * t->n_tokens * (d->n_q / d->n_kv) * sl_attend_state_floats(d->d_head);
}

/* Into how many ranges a tile is cut, of those that the chunk needs: as its states still fit. */
static uint32_t cut_segments(const struct attention_pass *p, struct sl_attention_tile *t, uint32_t wanted,
                             size_t *states_used)
{
    const struct sl_attention_buffers *b = &p->a->buffers;
    size_t floats = p->a->dims.n_kv * head_states(p, t);
    uint32_t n = wanted < t->n_segments ? wanted : t->n_segments;
    if (n < 2 || floats > b->state_floats - *states_used)
        return 1;
    t->states = b->states + *states_used;
    *states_used += floats;
    return n;
}

void sl_attention_cut(struct attention_pass *p)
{
    const struct sl_attention *a = p->a;
    struct sorting sort = {.tiles = a->buffers.tiles};
    each_tile(p, count_tile, &sort);
    for (uint32_t c = 0; c < N_CLASSES; c++)
        sort.at[c + 1] += sort.at[c];
    p->n_tiles = sort.at[N_CLASSES];
    assert(p->n_tiles <= a->buffers.max_tiles);
    each_tile(p, place_tile, &sort);
    uint32_t members = sl_team_size(a->team), heads = p->n_tiles * a->dims.n_kv, wanted = 1;
    if (members > 1 && heads > 0 && heads < SPLIT_BELOW * members)
        wanted = (TASKS_PER_MEMBER * members + heads - 1) / heads;
    size_t states_used = 0;
    p->n_tasks = 0;
    for (uint32_t i = 0; i < p->n_tiles; i++) {
        struct sl_attention_tile *t = &a->buffers.tiles[i];
        t->n_ranges = cut_segments(p, t, wanted, &states_used);
        t->first_task = p->n_tasks;
        uint32_t tasks = a->dims.n_kv * t->n_ranges;
        atomic_store_explicit(&t->left, tasks, memory_order_relaxed); /* sl_team_run publishes it */
        p->n_tasks += tasks;
    }
}

/* What a tile's KV head is to the kernels; the page lists hold pages [begin, end). */
static struct sl_attend view_of(const struct attention_pass *p, const struct sl_attention_tile *t,
                                uint32_t head, const void **lists, uint32_t begin, uint32_t end)
{
    const struct sl_attention *a = p->a;
    const struct sl_attention_dims *d = &a->dims;
    uint32_t rep = d->n_q / d->n_kv, width = sl_attention_qkv_width(d);
    const void **k_list = lists, **v_list = lists + a->buffers.max_pages;
    assert(end <= a->buffers.max_pages);
    for (uint32_t i = begin; i < end; i++) {
        k_list[i] = sl_kv_k(a->kv, t->slice->pages[i], p->layer, head);
        v_list[i] = sl_kv_v(a->kv, t->slice->pages[i], p->layer, head);
    }
    size_t out_width = (size_t)d->n_q * d->d_head, head_at = (size_t)head * rep * d->d_head;
    return (struct sl_attend){.q = a->buffers.qkv + (size_t)t->row * width + head_at,
                              .q_stride = width,
                              .n_rep = rep,
                              .d_head = d->d_head,
                              .n_tok = t->n_tokens,
                              .pos = t->slice->pos + t->token,
                              .k_pages = k_list,
                              .v_pages = v_list,
                              .kv_dtype = a->kv->layout.dtype,
                              .scale = d->softmax_scale,
                              .out = a->buffers.mixed + t->row * out_width + head_at,
                              .out_stride = out_width,
                              .states = t->n_ranges > 1 ? t->states + head * head_states(p, t) : NULL,
                              .segment_end = t->n_segments};
}

/* What is left when all heads and ranges of a tile are done. */
static void finish_tile(const struct attention_pass *p, const struct sl_attention_tile *t,
                        struct sl_parts *parts, uint64_t *since, void *scratch)
{
    const struct sl_attention *a = p->a;
    const struct sl_panel *o = &p->w->o;
    for (uint32_t head = 0; t->n_ranges > 1 && head < a->dims.n_kv; head++) {
        struct sl_attend view = view_of(p, t, head, NULL, 0, 0);
        a->ops->attend_merge(&view);
    }
    sl_part_add(parts, SL_PART_ATTENTION, since, 0, 0);
    if (!sl_dtype_is_integer(o->dtype))
        return;
    struct sl_rows8 to = sl_attention_rows8(a, o->k), second = sl_attention_second(a, o->k);
    sl_quantise_rows(a->ops, o, a->buffers.mixed, o->k, &to, &second, t->row, t->row + t->n_tokens, scratch);
    sl_part_add(parts, SL_PART_QUANTISE, since, 0, 0);
}

/* Pairs of a token of the tile and a key that it sees on pages [begin, end). */
static uint64_t visible_keys(const struct sl_attention_tile *t, uint32_t begin, uint32_t end)
{
    uint64_t n = t->n_tokens, on_last = (t->slice->pos + t->token) % SL_PAGE_TOKENS + 1;
    if (end < tile_pages(t))
        return n * (end - begin) * SL_PAGE_TOKENS;
    return n * (end - 1 - begin) * SL_PAGE_TOKENS + n * on_last + n * (n - 1) / 2;
}

static void run_task(const struct attention_pass *p, const struct sl_attention_tile *t, uint32_t task,
                     const void **lists, struct sl_parts *parts, uint64_t *since, void *scratch)
{
    const struct sl_attention *a = p->a;
    uint32_t head = task % a->dims.n_kv, range = task / a->dims.n_kv, first, end;
    sl_piece(t->n_segments, 1, t->n_ranges, range, &first, &end);
    uint32_t page = first * SL_SEGMENT_PAGES, pages_end = end * SL_SEGMENT_PAGES, pages = tile_pages(t);
    pages_end = pages_end < pages ? pages_end : pages;
    struct sl_attend view = view_of(p, t, head, lists, page, pages_end);
    if (view.states) {
        size_t rows = (size_t)t->n_tokens * view.n_rep;
        view.states += first * rows * sl_attend_state_floats(view.d_head);
        view.segment = first;
        view.segment_end = end;
    }
    (view.kv_dtype == SL_I8 ? a->ops->attend8 : a->ops->attend)(&view, scratch);
    sl_part_add(parts, SL_PART_ATTENTION, since,
                4ull * view.d_head * view.n_rep * visible_keys(t, page, pages_end),
                (uint64_t)(pages_end - page) * (a->kv->k_bytes + a->kv->v_bytes));
}

void sl_attention_attend(void *pass, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct attention_pass *p = pass;
    const struct sl_attention_buffers *b = &p->a->buffers;
    const void **lists = b->page_table + (size_t)member * 2 * b->max_pages;
    struct sl_parts *parts = sl_team_parts(p->a->team, member);
    uint64_t since = sl_clock_ns();
    (void)n_members;
    for (uint32_t task, i = 0; (task = sl_team_next(p->a->team)) < p->n_tasks;) {
        while (i + 1 < p->n_tiles && task >= b->tiles[i + 1].first_task)
            i++;
        struct sl_attention_tile *t = &b->tiles[i];
        run_task(p, t, task - t->first_task, lists, parts, &since, scratch);
        if (atomic_fetch_sub_explicit(&t->left, 1, memory_order_acq_rel) == 1)
            finish_tile(p, t, parts, &since, scratch);
    }
}
