/* A route on the twin against router/ and experts/tasks.h, byte for byte: one case, for the sound kernels (test_route.c) and for
 * those that are broken on purpose (test_route_mutants.c). */
#ifndef SL_TESTS_KERNELS_GPU_ROUTE_CASES_H
#define SL_TESTS_KERNELS_GPU_ROUTE_CASES_H

#include "experts/tasks.h"
#include "kernels/gpu/route.h"
#include "tests/kernels/draw.h"
#include "tests/kernels/gpu/outcome.h"

enum logits { DRAWN, FEW_VALUES, NOT_FINITE, ONE_SIDED, N_LOGITS };

struct route_case {
    uint32_t n_tokens, n_experts, top_k, renorm;
    enum logits logits;
};

static void draw_logits(const struct route_case *c, float *logits)
{
    for (size_t t = 0; t < c->n_tokens; t++)
        for (uint32_t e = 0; e < c->n_experts; e++) {
            float *at = &logits[t * c->n_experts + e];
            *at = 8 * draw_unit();
            if (c->logits == FEW_VALUES)
                *at = (float)below(3);
            if (c->logits == ONE_SIDED) /* the lower experts have nearly everything */
                *at -= 4 * (float)(e / c->top_k);
            if (c->logits == NOT_FINITE && below(8 * c->n_experts) == 0)
                *at = below(2) ? draw_nan() : below(2) ? INFINITY : -INFINITY;
            if (c->logits == NOT_FINITE && t % 7 == 3)
                *at = -INFINITY;
        }
}

/* A route in the host's memory, as router/ makes it. */
static struct sl_route host_route(const struct route_case *c, struct sl_arena *arena, const float *logits)
{
    struct sl_route route;
    size_t n = (size_t)c->n_tokens * c->n_experts;
    float *scores = take(n * sizeof *scores);
    if (sl_arena_init(arena, sl_route_bytes(c->n_tokens, c->n_experts, c->top_k), NULL) != SL_OK ||
        sl_route_init(&route, arena, c->n_tokens, c->n_experts, c->top_k) != SL_OK)
        abort();
    memcpy(scores, logits, n * sizeof *scores);
    for (uint32_t t = 0; t < c->n_tokens; t++)
        sl_route_choose(&sl_ops_ref, scores + (size_t)t * c->n_experts, c->n_experts, c->top_k,
                        c->renorm != 0, route.experts + (size_t)t * c->top_k,
                        route.gates + (size_t)t * c->top_k);
    for (uint32_t e = 0; e < c->n_experts; e++)
        route.load[e] = 0x1FFFFFFFFu - e; /* the next pair or two carry */
    sl_route_group(&route, c->n_tokens);
    free(scores);
    return route;
}

static inline void run_tasks(struct gpu_outcome *o, const struct route_case *c, const struct sl_route *want,
                             uint32_t n_members, uint64_t seed)
{
    uint32_t pairs = c->n_tokens * c->top_k, most = sl_expert_tasks_max(pairs, c->n_experts);
    uint32_t rows = pairs / (n_members * 8); /* what tasks.c makes of it */
    rows = rows < SL_EXPERT_ROWS_MIN   ? SL_EXPERT_ROWS_MIN
           : rows > SL_EXPERT_ROWS_MAX ? SL_EXPERT_ROWS_MAX
                                       : rows;
    struct sl_expert_tasks tasks = {.task = take(most * sizeof *tasks.task)};
    sl_expert_tasks_make(&tasks, want, n_members);
    struct sl_gpu_tasks p = {.offsets = on_device(want->offsets, (c->n_experts + 1) * 4),
                             .task = unwritten(most * sizeof *p.task),
                             .n_tasks = unwritten(sizeof *p.n_tasks),
                             .n_experts = c->n_experts,
                             .rows = rows};
    run_kernel(o, &sl_gpu_tasks, &p, 1, SL_GPU_TASKS_SHARED, seed, CONFLICTS_MAY_BE);
    compare_things(o, &tasks.n_tasks, p.n_tasks, 1, sizeof *p.n_tasks);
    for (uint32_t i = 0; i < tasks.n_tasks; i++) {
        compare_things(o, &tasks.task[i], &p.task[i], 1, sizeof *tasks.task);
        o->differ += p.task[i].unused != 0;
    }
    free(tasks.task);
}

static inline void run_group(struct gpu_outcome *o, const struct route_case *c, const struct sl_route *want,
                             uint64_t seed)
{
    uint32_t pairs = c->n_tokens * c->top_k, n = c->n_experts;
    struct sl_gpu_group p = {.experts = on_device(want->experts, pairs * 4),
                             .offsets = unwritten((n + 1) * 4),
                             .rows = unwritten(pairs * 4),
                             .pairs = unwritten(pairs * 4),
                             .load = gpu_alloc(n * 8),
                             .n_tokens = on_device(&c->n_tokens, 4),
                             .n_experts = n,
                             .top_k = c->top_k};
    for (uint32_t e = 0; e < n; e++) {
        uint64_t before = 0x1FFFFFFFFu - e;
        memcpy(&p.load[2 * e], &before, sizeof before);
    }
    run_kernel(o, &sl_gpu_group, &p, n, SL_GPU_GROUP_SHARED, seed, CONFLICTS_MAY_BE);
    compare_things(o, want->offsets, p.offsets, n + 1, 4);
    compare_things(o, want->rows, p.rows, pairs, 4);
    compare_things(o, want->pairs, p.pairs, pairs, 4);
    compare_things(o, want->load, p.load, n, 8);
}

static inline void run_choose(struct gpu_outcome *o, const struct route_case *c, const struct sl_route *want,
                              const float *logits, uint64_t seed)
{
    size_t pairs = (size_t)c->n_tokens * c->top_k, n = (size_t)c->n_tokens * c->n_experts;
    struct sl_gpu_choose p = {.logits = on_device(logits, n * sizeof *logits),
                              .experts = unwritten(pairs * 4),
                              .gates = unwritten(pairs * 4),
                              .n_tokens = on_device(&c->n_tokens, 4),
                              .n_experts = c->n_experts,
                              .top_k = c->top_k,
                              .renorm = c->renorm};
    run_kernel(o, &sl_gpu_choose, &p, sl_gpu_choose_blocks(c->n_tokens) + 2,
               sl_gpu_choose_shared(c->n_experts), seed, CONFLICTS_MAY_BE);
    compare_things(o, want->experts, p.experts, pairs, 4);
    compare_floats(o, want->gates, p.gates, pairs);
}

static inline struct gpu_outcome route_go(const struct route_case *c, uint64_t seed)
{
    float *logits = take((size_t)c->n_tokens * c->n_experts * sizeof *logits);
    struct gpu_outcome o = {0};
    struct sl_arena arena;
    draw_logits(c, logits);
    struct sl_route want = host_route(c, &arena, logits);
    run_choose(&o, c, &want, logits, seed);
    run_group(&o, c, &want, seed);
    run_tasks(&o, c, &want, 1 << 20, seed);
    run_tasks(&o, c, &want, 1, seed);
    gpu_free_all();
    sl_arena_fini(&arena);
    free(logits);
    return o;
}

static const struct route_case route_cases[] = {
    {1, 1, 1, 0, DRAWN},        {1, 8, 2, 1, DRAWN},       {5, 16, 16, 1, FEW_VALUES},
    {33, 60, 4, 0, NOT_FINITE}, {70, 128, 8, 1, DRAWN},    {3, 257, 64, 1, DRAWN},
    {200, 6, 2, 0, ONE_SIDED},  {700, 4, 1, 1, ONE_SIDED}, {41, 40, 6, 1, NOT_FINITE},
    {50, 33, 5, 1, FEW_VALUES},
};
enum { ROUTE_CASES = sizeof route_cases / sizeof *route_cases };

#endif
