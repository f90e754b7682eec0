/* The experts of a chunk: tasks of schedule.h from one counter.
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

static uint64_t work(const struct sl_expert_task *t, uint32_t columns, uint32_t k)
{
    return 2ull * t->m * columns * k;
}

/* hidden[:, begin..end) of a task's rows. */
static void gate_up(const struct pass *p, const struct sl_expert_task *t, uint32_t begin, uint32_t end, void *scratch)
{
    struct sl_experts *e = p->e;
    uint32_t h = e->dims.d_model, width = e->dims.d_expert;
    struct sl_panel w = panel_of(p->w->routed.gate_up, p->w->routed.gate_up_stride, t->expert);
    float *y = e->hidden + (size_t)t->first * width;
    if (sl_dtype_is_integer(w.dtype))
        e->ops->gemm8_swiglu(&(struct sl_gemm8){.x = e->normed8, .rows = e->route.rows + t->first, .m = t->m, .w = w,
                                                .col_begin = begin, .col_end = end, .y = y, .y_stride = width},
                             scratch);
    else
        e->ops->gemm_swiglu(&(struct sl_gemm){.x = e->normed, .x_stride = h, .rows = e->route.rows + t->first, .m = t->m,
                                              .w = w, .col_begin = begin, .col_end = end, .y = y, .y_stride = width},
                            scratch);
}

static struct sl_rows8 rows8_from(const struct sl_rows8 *r, size_t first)
{
    return (struct sl_rows8){r->q + first * r->stride, r->stride, r->scale + first, r->sum + first};
}

static void quantise_hidden(const struct pass *p, const struct sl_expert_task *t, void *scratch)
{
    struct sl_experts *e = p->e;
    uint32_t width = e->dims.d_expert;
    if (sl_dtype_is_integer(p->w->routed.down.dtype))
        sl_quantise_rows(e->ops, e->hidden, width, width, p->w->routed.down.rotation, &e->hidden8, t->first,
                         t->first + t->m, scratch);
}

/* outputs[:, begin..end) of a task's rows. */
static void down(const struct pass *p, const struct sl_expert_task *t, uint32_t begin, uint32_t end, void *scratch)
{
    struct sl_experts *e = p->e;
    uint32_t h = e->dims.d_model, width = e->dims.d_expert;
    struct sl_panel w = panel_of(p->w->routed.down, p->w->routed.down_stride, t->expert);
    float *y = e->outputs + (size_t)t->first * h;
    if (sl_dtype_is_integer(w.dtype))
        e->ops->gemm8(&(struct sl_gemm8){.x = rows8_from(&e->hidden8, t->first), .m = t->m, .w = w, .col_begin = begin,
                                         .col_end = end, .y = y, .y_stride = h},
                      scratch);
    else
        e->ops->gemm(&(struct sl_gemm){.x = e->hidden + (size_t)t->first * width, .x_stride = width, .m = t->m, .w = w,
                                       .col_begin = begin, .col_end = end, .y = y, .y_stride = h},
                     scratch);
}

static void tasks_by_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct pass *p = arg;
    struct sl_experts *e = p->e;
    const struct sl_expert_set *set = &p->w->routed;
    struct sl_parts *parts = sl_team_parts(e->team, member);
    uint32_t h = e->dims.d_model, width = e->dims.d_expert;
    uint64_t since = sl_clock_ns();
    (void)n_members;
    for (uint32_t i; (i = sl_team_next(e->team)) < e->schedule.n_tasks;) {
        const struct sl_expert_task *t = &e->schedule.tasks[i];
        gate_up(p, t, 0, width, scratch);
        sl_part_add(parts, SL_PART_EXPERTS, &since, work(t, 2 * width, h), set->gate_up_stride);
        quantise_hidden(p, t, scratch);
        sl_part_add(parts, SL_PART_QUANTISE, &since, 0, 0);
        down(p, t, 0, h, scratch);
        sl_part_add(parts, SL_PART_EXPERTS, &since, work(t, h, width), set->down_stride);
    }
}

/* ---- by columns ---- */

static void gate_up_piece(const struct pass *p, uint32_t task, uint32_t piece, struct sl_parts *parts, void *scratch)
{
    struct sl_experts *e = p->e;
    const struct sl_expert_task *t = &e->schedule.tasks[task];
    uint32_t begin, end;
    uint64_t since = sl_clock_ns();
    sl_piece(e->dims.d_expert, SL_LANES, e->schedule.pieces, piece, &begin, &end);
    if (begin < end)
        gate_up(p, t, begin, end, scratch);
    sl_part_add(parts, SL_PART_EXPERTS, &since, work(t, 2 * (end - begin), e->dims.d_model),
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

static void down_piece(const struct pass *p, uint32_t task, uint32_t piece, struct sl_parts *parts, void *scratch)
{
    struct sl_experts *e = p->e;
    const struct sl_expert_task *t = &e->schedule.tasks[task];
    uint32_t begin, end, h = e->dims.d_model;
    wait_for_hidden(&e->left[task]);
    uint64_t since = sl_clock_ns();
    sl_piece(h, 2 * SL_LANES, e->schedule.pieces, piece, &begin, &end);
    if (begin == end)
        return;
    down(p, t, begin, end, scratch);
    sl_part_add(parts, SL_PART_EXPERTS, &since, work(t, end - begin, e->dims.d_expert),
                p->w->routed.down_stride * (end - begin) / h);
}

static void tasks_by_columns(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct pass *p = arg;
    struct sl_experts *e = p->e;
    struct sl_parts *parts = sl_team_parts(e->team, member);
    uint32_t pieces = e->schedule.pieces, half = e->schedule.n_tasks * pieces;
    (void)n_members;
    for (uint32_t i; (i = sl_team_next(e->team)) < 2 * half;)
        if (i < half)
            gate_up_piece(p, i / pieces, i % pieces, parts, scratch);
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

static void run_by_columns(struct pass *p)
{
    struct sl_experts *e = p->e;
    for (uint32_t i = 0; i < e->schedule.n_tasks; i++)
        atomic_store_explicit(&e->left[i], e->schedule.pieces, memory_order_relaxed);
    sl_team_run(e->team, tasks_by_columns, p);
}

void sl_experts_grouped(struct pass *p)
{
    struct sl_experts *e = p->e;
    e->hidden8.stride = sl_rows8_stride(e->dims.d_expert);
    if (e->schedule.pieces == 0)
        sl_team_run(e->team, tasks_by_rows, p);
    else
        run_by_columns(p);
    observe_hidden(e);
}
