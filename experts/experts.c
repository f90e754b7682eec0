/* The walk of experts.h: memory, then rows -> experts -> rows. The grouped products are in grouped.c, the feed-forward
 * that every row goes through (dense or shared) in single.c. */
#include "experts/experts_impl.h"
#include "kernels/team_ops.h"
#include <assert.h>

static size_t pairs_of(const struct sl_experts_dims *d, uint32_t max_tokens)
{
    return (size_t)max_tokens * d->top_k;
}
static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}
static size_t hidden_floats(const struct sl_experts_dims *d, uint32_t max_tokens)
{
    return larger(pairs_of(d, max_tokens) * d->d_expert, (size_t)max_tokens * d->d_single);
}
static size_t output_floats(const struct sl_experts_dims *d, uint32_t max_tokens)
{
    return larger(pairs_of(d, max_tokens), max_tokens) * d->d_model;
}
static size_t hidden8_bytes(const struct sl_experts_dims *d, uint32_t max_tokens)
{
    return larger(pairs_of(d, max_tokens) * sl_rows8_stride(d->d_expert),
                  max_tokens * sl_rows8_stride(d->d_single));
}
static size_t tasks_of(const struct sl_experts_dims *d, uint32_t max_tokens)
{
    return sl_expert_tasks_max((uint32_t)pairs_of(d, max_tokens), d->n_experts);
}

static size_t wide_floats_of(const struct sl_experts_dims *d)
{
    return (size_t)WIDE_ROWS * 2 * sl_round_lanes((uint32_t)larger(d->d_expert, d->d_single));
}

size_t sl_experts_bytes(const struct sl_experts_dims *d, uint32_t max_tokens, uint32_t n_members)
{
    size_t rows = larger(pairs_of(d, max_tokens), max_tokens);
    return sl_route_bytes(max_tokens, d->n_experts, d->top_k) +
           sl_arena_round((size_t)max_tokens * d->d_model * sizeof(float)) +
           sl_arena_round((size_t)max_tokens * d->n_experts * sizeof(float)) +
           sl_arena_round(hidden_floats(d, max_tokens) * sizeof(float)) +
           sl_arena_round(output_floats(d, max_tokens) * sizeof(float)) +
           sl_arena_round(2 * max_tokens * sl_rows8_stride(d->d_model)) +
           sl_arena_round(2 * hidden8_bytes(d, max_tokens)) +
           sl_arena_round(n_members * wide_floats_of(d) * sizeof(float)) +
           2 * sl_arena_round(2 * max_tokens * sizeof(float)) + 2 * sl_arena_round(2 * rows * sizeof(float)) +
           sl_arena_round(tasks_of(d, max_tokens) * sizeof(struct sl_expert_task)) +
           sl_arena_round(tasks_of(d, max_tokens) * sizeof(uint32_t));
}

static bool take_rows8(struct sl_rows8 *r, struct sl_arena *arena, size_t rows, size_t bytes)
{
    r->q = sl_arena_take(arena, 2 * bytes);
    r->scale = sl_arena_take(arena, 2 * rows * sizeof(float));
    r->sum = sl_arena_take(arena, 2 * rows * sizeof(int32_t));
    return r->q && r->scale && r->sum;
}

sl_status sl_experts_init(struct sl_experts *e, struct sl_arena *arena, const struct sl_ops *ops,
                          struct sl_team *team, const struct sl_experts_dims *dims, uint32_t max_tokens)
{
    *e = (struct sl_experts){.ops = ops, .team = team, .dims = *dims};
    SL_TRY(sl_route_init(&e->route, arena, max_tokens, dims->n_experts, dims->top_k));
    e->normed = sl_arena_take(arena, (size_t)max_tokens * dims->d_model * sizeof(float));
    e->logits = sl_arena_take(arena, (size_t)max_tokens * dims->n_experts * sizeof(float));
    e->hidden = sl_arena_take(arena, hidden_floats(dims, max_tokens) * sizeof(float));
    e->outputs = sl_arena_take(arena, output_floats(dims, max_tokens) * sizeof(float));
    e->tasks.task = sl_arena_take(arena, tasks_of(dims, max_tokens) * sizeof(struct sl_expert_task));
    e->left = sl_arena_take(arena, tasks_of(dims, max_tokens) * sizeof(uint32_t));
    e->max_tokens = max_tokens;
    e->max_hidden = (uint32_t)larger(pairs_of(dims, max_tokens), max_tokens);
    e->wide_floats = wide_floats_of(dims);
    e->wide = sl_arena_take(arena, sl_team_size(team) * e->wide_floats * sizeof(float));
    e->normed8.stride = sl_rows8_stride(dims->d_model);
    if (!take_rows8(&e->normed8, arena, max_tokens, max_tokens * e->normed8.stride) ||
        !take_rows8(&e->hidden8, arena, e->max_hidden, hidden8_bytes(dims, max_tokens)))
        return SL_E_NOMEM;
    return e->normed && e->logits && e->hidden && e->outputs && e->tasks.task && e->left && e->wide
               ? SL_OK
               : SL_E_NOMEM;
}

/* ---- (1) rows to experts ---- */

static struct sl_gemm gate_of(const struct experts_pass *p, uint32_t begin, uint32_t end)
{
    const struct sl_experts *e = p->e;
    return (struct sl_gemm){.x = e->normed + (size_t)begin * e->dims.d_model,
                            .x_stride = e->dims.d_model,
                            .m = end - begin,
                            .w = p->w->router,
                            .col_end = e->dims.n_experts,
                            .y = e->logits + (size_t)begin * e->dims.n_experts,
                            .y_stride = e->dims.n_experts};
}

static void choose(struct sl_experts *e, uint32_t begin, uint32_t end)
{
    uint32_t n = e->dims.n_experts, k = e->dims.top_k;
    for (size_t r = begin; r < end; r++)
        sl_route_choose(e->ops, e->logits + r * n, n, k, e->dims.renorm, e->route.experts + r * k,
                        e->route.gates + r * k);
}

/* Norm, quantise, and when `route` is set also gate logits and top-k of a member's rows. */
static void prepare_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct experts_pass *p = arg;
    struct sl_experts *e = p->e;
    struct sl_parts *parts = sl_team_parts(e->team, member);
    uint32_t begin, end, h = e->dims.d_model;
    sl_piece(p->n_rows, 1, n_members, member, &begin, &end);
    if (begin == end)
        return;
    uint64_t since = sl_clock_ns();
    for (size_t r = begin; r < end; r++)
        e->ops->rmsnorm(e->normed + r * h, p->x + r * h, p->w->norm, h, e->dims.norm_eps);
    sl_part_add(parts, SL_PART_NORMS, &since, 0, 0);
    if (sl_dtype_is_integer(p->first.dtype)) {
        struct sl_rows8 second = normed_second(e);
        sl_quantise_rows(e->ops, &p->first, e->normed, h, &e->normed8, &second, begin, end, scratch);
        sl_part_add(parts, SL_PART_QUANTISE, &since, 0, 0);
    }
    if (!p->route_by_rows)
        return;
    struct sl_gemm gate = gate_of(p, begin, end);
    e->ops->gemm(&gate, scratch);
    choose(e, begin, end);
    sl_part_add(parts, SL_PART_ROUTER, &since, 2ull * (end - begin) * h * e->dims.n_experts,
                sl_panel_bytes(gate.w.dtype, gate.w.n, gate.w.k));
}

/* With only a few rows the router's matrix is shared out by columns instead, so that nobody reads all of it. */
static void route_few(struct experts_pass *p)
{
    struct sl_experts *e = p->e;
    struct sl_gemm gate = gate_of(p, 0, p->n_rows);
    sl_gemm_team(e->team, e->ops, &gate, false, SL_PART_ROUTER);
    uint64_t since = sl_clock_ns();
    choose(e, 0, p->n_rows);
    sl_part_add(sl_team_parts(e->team, 0), SL_PART_ROUTER, &since, 0, 0);
}

/* ---- experts back to rows: in whatever run reads them next ---- */

/* A struct sl_row_finish. */
static void combine_rows(void *arg, uint32_t member, uint32_t begin, uint32_t end)
{
    struct sl_experts *e = arg;
    uint32_t k = e->dims.top_k, h = e->dims.d_model;
    const float *rows[SL_EXPERTS_MAX_TOP_K];
    assert(k <= SL_EXPERTS_MAX_TOP_K);
    uint64_t since = sl_clock_ns();
    for (size_t r = begin; r < end; r++) {
        for (uint32_t i = 0; i < k; i++)
            rows[i] = e->outputs + (size_t)e->route.pairs[r * k + i] * h;
        e->ops->combine(e->x + r * h, rows, e->route.gates + r * k, k, h);
    }
    sl_part_add(sl_team_parts(e->team, member), SL_PART_NORMS, &since, 2ull * (end - begin) * k * h, 0);
}

static void finish_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    struct sl_experts *e = arg;
    uint32_t begin, end;
    (void)scratch;
    sl_piece(e->n_rows, 1, n_members, member, &begin, &end);
    e->finish.run(e->finish.arg, member, begin, end);
}

void sl_experts_finish(struct sl_experts *e)
{
    if (e->finish.run)
        sl_team_run(e->team, finish_rows, e);
    e->finish.run = NULL;
}

/* The pairs of the route, by tasks. */
static void run_tasks(struct experts_pass *p)
{
    struct sl_experts *e = p->e;
    uint64_t since = sl_clock_ns();
    sl_expert_tasks_make(&e->tasks, &e->route, sl_team_size(e->team));
    sl_part_add(sl_team_parts(e->team, 0), SL_PART_ROUTER, &since, 0, 0);
    sl_experts_grouped(p);
}

static void run_routed(struct experts_pass *p)
{
    struct sl_experts *e = p->e;
    uint64_t since = sl_clock_ns();
    sl_route_group(&e->route, p->n_rows);
    sl_part_add(sl_team_parts(e->team, 0), SL_PART_ROUTER, &since, 0, 0);
    run_tasks(p);
    e->finish = (struct sl_row_finish){combine_rows, e};
    if (p->w->has_single) /* adds to x after them */
        sl_experts_finish(e);
}

static struct experts_pass pass_of(struct sl_experts *e, const struct sl_experts_weights *w, float *x,
                                   uint32_t n_rows)
{
    return (struct experts_pass){
        .e = e, .w = w, .x = x, .n_rows = n_rows, .first = w->is_moe ? w->routed.gate_up : w->gate_up};
}

void sl_experts_choose(struct sl_experts *e, const struct sl_experts_weights *w, float *x, uint32_t n_rows)
{
    struct experts_pass p = pass_of(e, w, x, n_rows);
    assert(!e->finish.run);
    e->x = x;
    e->n_rows = n_rows;
    p.route_by_rows = w->is_moe && n_rows >= ROUTE_ROWS_PER_MEMBER * sl_team_size(e->team);
    sl_team_run(e->team, prepare_rows, &p);
    sl_observe(e->observer, w->is_moe ? SL_SITE_EXPERTS_GATE_UP : SL_SITE_SINGLE_GATE_UP, 0, e->normed,
               n_rows, e->dims.d_model);
    if (w->is_moe && !p.route_by_rows)
        route_few(&p);
}

void sl_experts_serve(struct sl_experts *e, const struct sl_experts_weights *w)
{
    struct experts_pass p = pass_of(e, w, NULL, 0);
    assert(w->is_moe);
    run_tasks(&p);
}

void sl_experts_add_single(struct sl_experts *e, const struct sl_experts_weights *w, float *x,
                           uint32_t n_rows)
{
    struct experts_pass p = pass_of(e, w, x, n_rows);
    if (w->has_single)
        sl_experts_single(&p);
}

void sl_experts_run(struct sl_experts *e, const struct sl_experts_weights *w, float *x, uint32_t n_rows)
{
    struct experts_pass p = pass_of(e, w, x, n_rows);
    sl_experts_choose(e, w, x, n_rows);
    if (w->is_moe)
        run_routed(&p);
    sl_experts_add_single(e, w, x, n_rows);
}
