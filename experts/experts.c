/* The feed-forward of experts.h. Tasks of the grouped products are (expert, column piece), taken from one counter in
 * expert order, so a weight is read once per chunk; with one member a task is a whole expert. */
#include "experts/experts.h"
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

size_t sl_experts_bytes(const struct sl_experts_dims *d, uint32_t max_tokens)
{
    return sl_route_bytes(max_tokens, d->n_experts, d->top_k) +
           sl_arena_round((size_t)max_tokens * d->d_model * sizeof(float)) +
           sl_arena_round((size_t)max_tokens * d->n_experts * sizeof(float)) +
           sl_arena_round(hidden_floats(d, max_tokens) * sizeof(float)) +
           sl_arena_round(output_floats(d, max_tokens) * sizeof(float));
}

sl_status sl_experts_init(struct sl_experts *e, struct sl_arena *arena, const struct sl_ops *ops, struct sl_team *team,
                          const struct sl_experts_dims *dims, uint32_t max_tokens)
{
    *e = (struct sl_experts){.ops = ops, .team = team, .dims = *dims};
    SL_TRY(sl_route_init(&e->route, arena, max_tokens, dims->n_experts, dims->top_k));
    e->normed = sl_arena_take(arena, (size_t)max_tokens * dims->d_model * sizeof(float));
    e->logits = sl_arena_take(arena, (size_t)max_tokens * dims->n_experts * sizeof(float));
    e->hidden = sl_arena_take(arena, hidden_floats(dims, max_tokens) * sizeof(float));
    e->outputs = sl_arena_take(arena, output_floats(dims, max_tokens) * sizeof(float));
    return e->normed && e->logits && e->hidden && e->outputs ? SL_OK : SL_E_NOMEM;
}

struct pass {
    struct sl_experts *e;
    const struct sl_experts_weights *w;
    float *x;
    uint32_t n_rows;
    uint32_t pieces; /* column pieces per expert */
    bool down;       /* which of the two grouped products */
};

static void choose_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct pass *p = arg;
    struct sl_experts *e = p->e;
    uint32_t begin, end, k = e->dims.top_k;
    (void)scratch;
    sl_piece(p->n_rows, 1, n_members, member, &begin, &end);
    for (uint32_t r = begin; r < end; r++)
        sl_route_choose(e->ops, e->logits + (size_t)r * e->dims.n_experts, e->dims.n_experts, k, e->dims.renorm,
                        e->route.experts + (size_t)r * k, e->route.gates + (size_t)r * k);
}

static struct sl_panel panel_of(struct sl_panel first, size_t stride, uint32_t expert)
{
    first.data = (const uint8_t *)first.data + expert * stride;
    return first;
}

/* One (expert, column piece) of gate|up+SwiGLU, or of down. */
static void grouped_task(const struct pass *p, uint32_t expert, uint32_t piece, void *scratch)
{
    struct sl_experts *e = p->e;
    const struct sl_expert_set *set = &p->w->routed;
    uint32_t first = e->route.offsets[expert], m = e->route.offsets[expert + 1] - first;
    uint32_t h = e->dims.d_model, width = e->dims.d_expert, begin, end;
    if (m == 0)
        return;
    sl_piece(p->down ? h : width, 2 * SL_LANES, p->pieces, piece, &begin, &end);
    if (begin == end)
        return;
    if (p->down)
        e->ops->gemm(&(struct sl_gemm){.x = e->hidden + (size_t)first * width, .x_stride = width, .m = m,
                                       .w = panel_of(set->down, set->down_stride, expert), .col_begin = begin,
                                       .col_end = end, .y = e->outputs + (size_t)first * h, .y_stride = h},
                     scratch);
    else
        e->ops->gemm_swiglu(&(struct sl_gemm){.x = e->normed, .x_stride = h, .rows = e->route.rows + first, .m = m,
                                              .w = panel_of(set->gate_up, set->gate_up_stride, expert),
                                              .col_begin = begin, .col_end = end,
                                              .y = e->hidden + (size_t)first * width, .y_stride = width},
                            scratch);
}

static void grouped_tasks(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct pass *p = arg;
    (void)member, (void)n_members;
    uint32_t n_tasks = p->e->dims.n_experts * p->pieces;
    for (uint32_t task; (task = sl_team_next(p->e->team)) < n_tasks;)
        grouped_task(p, task / p->pieces, task % p->pieces, scratch);
}

static void combine_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct pass *p = arg;
    struct sl_experts *e = p->e;
    uint32_t begin, end, k = e->dims.top_k, h = e->dims.d_model;
    const float *rows[64];
    (void)scratch;
    assert(k <= 64);
    sl_piece(p->n_rows, 1, n_members, member, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        for (uint32_t i = 0; i < k; i++)
            rows[i] = e->outputs + (size_t)e->route.pairs[(size_t)r * k + i] * h;
        e->ops->combine(p->x + (size_t)r * h, rows, e->route.gates + (size_t)r * k, k, h);
    }
}

static void run_routed(struct pass *p)
{
    struct sl_experts *e = p->e;
    sl_gemm_team(e->team, e->ops,
                 &(struct sl_gemm){.x = e->normed, .x_stride = e->dims.d_model, .m = p->n_rows, .w = p->w->router,
                                   .col_end = e->dims.n_experts, .y = e->logits, .y_stride = e->dims.n_experts},
                 false);
    sl_team_run(e->team, choose_rows, p);
    sl_route_group(&e->route, p->n_rows);
    p->pieces = sl_team_size(e->team) > 1 ? 4 : 1;
    p->down = false;
    sl_team_run(e->team, grouped_tasks, p);
    p->down = true;
    sl_team_run(e->team, grouped_tasks, p);
    sl_team_run(e->team, combine_rows, p);
}

/* The shared expert's output is scaled per token before it is added; the dense one goes straight onto the residual. */
static void scale_and_add(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct pass *p = arg;
    struct sl_experts *e = p->e;
    uint32_t begin, end, h = e->dims.d_model;
    (void)scratch;
    sl_piece(p->n_rows, 1, n_members, member, &begin, &end);
    for (uint32_t r = begin; r < end; r++) {
        const float *row = e->outputs + (size_t)r * h;
        float gate = 0;
        for (uint32_t i = 0; i < h; i++)
            gate = __builtin_fmaf(p->w->shared_gate[i], e->normed[(size_t)r * h + i], gate);
        gate = 1.0f / (1.0f + sl_expf(-gate));
        e->ops->combine(p->x + (size_t)r * h, &row, &gate, 1, h);
    }
}

static void run_single(struct pass *p)
{
    struct sl_experts *e = p->e;
    uint32_t h = e->dims.d_model, width = p->w->down.k;
    bool gated = p->w->shared_gate != NULL;
    sl_gemm_team(e->team, e->ops,
                 &(struct sl_gemm){.x = e->normed, .x_stride = h, .m = p->n_rows, .w = p->w->gate_up, .col_end = width,
                                   .y = e->hidden, .y_stride = width},
                 true);
    sl_gemm_team(e->team, e->ops,
                 &(struct sl_gemm){.x = e->hidden, .x_stride = width, .m = p->n_rows, .w = p->w->down, .col_end = h,
                                   .y = gated ? e->outputs : p->x, .y_stride = h, .accumulate = !gated},
                 false);
    if (gated)
        sl_team_run(e->team, scale_and_add, p);
}

void sl_experts_run(struct sl_experts *e, const struct sl_experts_weights *w, float *x, uint32_t n_rows)
{
    struct pass p = {.e = e, .w = w, .x = x, .n_rows = n_rows};
    sl_rmsnorm_team(e->team, e->ops, e->normed, x, w->norm, n_rows, e->dims.d_model, e->dims.norm_eps);
    if (w->is_moe)
        run_routed(&p);
    if (w->has_single)
        run_single(&p);
}
