/* The experts of a chunk: tasks of tasks.h from one counter.
 *
 * By rows a task is whole: gate|up with SwiGLU, quantise, down, while its hidden rows are in cache. By columns the gate|up
 * pieces of all tasks come first in the counter, then the down pieces. A down piece waits until its task's hidden rows are
 * complete and quantised; that work was taken by members that are running it now, so the wait is short and always ends. */
#include "experts/experts_impl.h"
#include "kernels/team_ops.h"
#include <sched.h>

enum { LEFT_READY = UINT32_MAX, SPINS_BEFORE_YIELD = 2000 };

static struct sl_panel panel_of(struct sl_panel first, size_t stride, uint32_t expert)
{
    first.data = (const uint8_t *)first.data + expert * stride;
    return first;
}

static uint64_t work(const struct sl_expert_task *t, const struct sl_panel *w, uint32_t columns)
{
    return 2ull * t->m * columns * w->k * (w->digits == 2 ? 2 : 1);
}

void sl_experts_swiglu2(struct sl_experts *e, const struct sl_gemm8 *g, const struct sl_rows8 *second,
                        float *wide, void *scratch)
{
    uint32_t first = 2 * g->col_begin, end = 2 * sl_round_lanes(g->col_end), n = g->col_end - g->col_begin;
    for (uint32_t row = 0; row < g->m; row += WIDE_ROWS) {
        struct sl_gemm8 part = *g;
        part.m = g->m - row < WIDE_ROWS ? g->m - row : WIDE_ROWS;
        part.rows = g->rows ? g->rows + row : NULL;
        part.x = g->rows ? g->x : sl_rows8_from(&g->x, row);
        part.col_begin = first;
        part.col_end = end;
        part.y_stride = end - first;
        part.y = wide - first; /* column `first` lies at wide[0] */
        e->ops->gemm8(&part, scratch);
        part.x = g->rows ? *second : sl_rows8_from(second, row);
        part.accumulate = true;
        e->ops->gemm8(&part, scratch);
        for (size_t i = 0; i < part.m; i++)
            e->ops->swiglu(g->y + (row + i) * g->y_stride + g->col_begin, wide + i * part.y_stride, n);
    }
}

/* hidden[:, begin..end) of a task's rows. */
static void gate_up(const struct experts_pass *p, const struct sl_expert_task *t, uint32_t begin,
                    uint32_t end, uint32_t member, void *scratch)
{
    struct sl_experts *e = p->e;
    uint32_t h = e->dims.d_model, width = e->dims.d_expert;
    struct sl_panel w = panel_of(p->w->routed.gate_up, p->w->routed.gate_up_stride, t->expert);
    float *y = e->hidden + (size_t)t->first * width;
    struct sl_gemm8 g8 = {.x = e->normed8,
                          .rows = e->route.rows + t->first,
                          .m = t->m,
                          .w = w,
                          .col_begin = begin,
                          .col_end = end,
                          .y = y,
                          .y_stride = width};
    struct sl_rows8 second = normed_second(e);
    if (sl_dtype_is_integer(w.dtype) && w.digits == 2)
        sl_experts_swiglu2(e, &g8, &second, e->wide + member * e->wide_floats, scratch);
    else if (sl_dtype_is_integer(w.dtype))
        e->ops->gemm8_swiglu(&g8, scratch);
    else
        e->ops->gemm_swiglu(&(struct sl_gemm){.x = e->normed,
                                              .x_stride = h,
                                              .rows = e->route.rows + t->first,
                                              .m = t->m,
                                              .w = w,
                                              .col_begin = begin,
                                              .col_end = end,
                                              .y = y,
                                              .y_stride = width},
                            scratch);
}

static void quantise_hidden(const struct experts_pass *p, const struct sl_expert_task *t, void *scratch)
{
    struct sl_experts *e = p->e;
    struct sl_rows8 second = hidden_second(e, e->max_hidden);
    if (sl_dtype_is_integer(p->w->routed.down.dtype))
        sl_quantise_rows(e->ops, &p->w->routed.down, e->hidden, e->dims.d_expert, &e->hidden8, &second,
                         t->first, t->first + t->m, scratch);
}

/* outputs[:, begin..end) of a task's rows. */
static void down(const struct experts_pass *p, const struct sl_expert_task *t, uint32_t begin, uint32_t end,
                 void *scratch)
{
    struct sl_experts *e = p->e;
    uint32_t h = e->dims.d_model, width = e->dims.d_expert;
    struct sl_panel w = panel_of(p->w->routed.down, p->w->routed.down_stride, t->expert);
    float *y = e->outputs + (size_t)t->first * h;
    struct sl_rows8 second = hidden_second(e, e->max_hidden);
    struct sl_gemm8 g8 = {.x = sl_rows8_from(&e->hidden8, t->first),
                          .m = t->m,
                          .w = w,
                          .col_begin = begin,
                          .col_end = end,
                          .y = y,
                          .y_stride = h};
    if (sl_dtype_is_integer(w.dtype)) {
        e->ops->gemm8(&g8, scratch);
        g8.x = sl_rows8_from(&second, t->first);
        g8.accumulate = true;
        if (w.digits == 2)
            e->ops->gemm8(&g8, scratch);
    } else {
        e->ops->gemm(&(struct sl_gemm){.x = e->hidden + (size_t)t->first * width,
                                       .x_stride = width,
                                       .m = t->m,
                                       .w = w,
                                       .col_begin = begin,
                                       .col_end = end,
                                       .y = y,
                                       .y_stride = h},
                     scratch);
    }
}

static void tasks_by_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct experts_pass *p = arg;
    struct sl_experts *e = p->e;
    const struct sl_expert_set *set = &p->w->routed;
    struct sl_parts *parts = sl_team_parts(e->team, member);
    uint32_t h = e->dims.d_model, width = e->dims.d_expert;
    uint64_t since = sl_clock_ns();
    (void)n_members;
    for (uint32_t i; (i = sl_team_next(e->team)) < e->tasks.n_tasks;) {
        const struct sl_expert_task *t = &e->tasks.task[i];
        gate_up(p, t, 0, width, member, scratch);
        sl_part_add(parts, SL_PART_EXPERTS, &since, work(t, &set->gate_up, 2 * width), set->gate_up_stride);
        quantise_hidden(p, t, scratch);
        sl_part_add(parts, SL_PART_QUANTISE, &since, 0, 0);
        down(p, t, 0, h, scratch);
        sl_part_add(parts, SL_PART_EXPERTS, &since, work(t, &set->down, h), set->down_stride);
    }
}

/* ---- by columns ---- */

static void gate_up_piece(const struct experts_pass *p, uint32_t task, uint32_t piece, uint32_t member,
                          void *scratch)
{
    struct sl_experts *e = p->e;
    struct sl_parts *parts = sl_team_parts(e->team, member);
    const struct sl_expert_task *t = &e->tasks.task[task];
    uint32_t begin, end;
    uint64_t since = sl_clock_ns();
    sl_piece(e->dims.d_expert, SL_LANES, e->tasks.pieces, piece, &begin, &end);
    if (begin < end)
        gate_up(p, t, begin, end, member, scratch);
    sl_part_add(parts, SL_PART_EXPERTS, &since, work(t, &p->w->routed.gate_up, 2 * (end - begin)),
                p->w->routed.gate_up_stride * (end - begin) / e->dims.d_expert);
    if (atomic_fetch_sub_explicit(&e->left[task], 1, memory_order_acq_rel) != 1)
        return;
    quantise_hidden(p, t, scratch);
    sl_part_add(parts, SL_PART_QUANTISE, &since, 0, 0);
    atomic_store_explicit(&e->left[task], LEFT_READY, memory_order_release);
}

static void wait_for_hidden(_Atomic uint32_t *left)
{
    for (uint32_t spins = 0; atomic_load_explicit(left, memory_order_acquire) != LEFT_READY; spins++)
        if (spins < SPINS_BEFORE_YIELD)
            __builtin_ia32_pause();
        else
            sched_yield(); /* more threads than processors: let the one we wait for run */
}

static void down_piece(const struct experts_pass *p, uint32_t task, uint32_t piece, struct sl_parts *parts,
                       void *scratch)
{
    struct sl_experts *e = p->e;
    const struct sl_expert_task *t = &e->tasks.task[task];
    uint32_t begin, end, h = e->dims.d_model;
    wait_for_hidden(&e->left[task]);
    uint64_t since = sl_clock_ns();
    sl_piece(h, 2 * SL_LANES, e->tasks.pieces, piece, &begin, &end);
    if (begin == end)
        return;
    down(p, t, begin, end, scratch);
    sl_part_add(parts, SL_PART_EXPERTS, &since, work(t, &p->w->routed.down, end - begin),
                p->w->routed.down_stride * (end - begin) / h);
}

static void tasks_by_columns(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct experts_pass *p = arg;
    struct sl_experts *e = p->e;
    struct sl_parts *parts = sl_team_parts(e->team, member);
    uint32_t pieces = e->tasks.pieces, half = e->tasks.n_tasks * pieces;
    (void)n_members;
    for (uint32_t i; (i = sl_team_next(e->team)) < 2 * half;)
        if (i < half)
            gate_up_piece(p, i / pieces, i % pieces, member, scratch);
        else
            down_piece(p, (i - half) / pieces, (i - half) % pieces, parts, scratch);
}

static void observe_hidden(const struct sl_experts *e)
{
    for (uint32_t i = 0; e->observer && i < e->dims.n_experts; i++) {
        uint32_t first = e->route.offsets[i];
        sl_observe(e->observer, SL_SITE_EXPERTS_DOWN, i, e->hidden + (size_t)first * e->dims.d_expert,
                   e->route.offsets[i + 1] - first, e->dims.d_expert);
    }
}

static void run_by_columns(struct experts_pass *p)
{
    struct sl_experts *e = p->e;
    for (uint32_t i = 0; i < e->tasks.n_tasks; i++)
        atomic_store_explicit(&e->left[i], e->tasks.pieces, memory_order_relaxed);
    sl_team_run(e->team, tasks_by_columns, p);
}

void sl_experts_grouped(struct experts_pass *p)
{
    struct sl_experts *e = p->e;
    e->hidden8.stride = sl_rows8_stride(e->dims.d_expert);
    if (e->tasks.pieces == 0)
        sl_team_run(e->team, tasks_by_rows, p);
    else
        run_by_columns(p);
    observe_hidden(e);
}
