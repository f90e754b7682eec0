/* A queue for tests of who is next and who is admitted: requests with their tenants in a schedule, and a policy over a cost
 * model. There are no stages: whoever drives it says when something is cut, ended and forgotten. */
#ifndef SL_TESTS_PIPELINE_DECIDE_QUEUE_WORLD_H
#define SL_TESTS_PIPELINE_DECIDE_QUEUE_WORLD_H

#include "base/rng.h"
#include "pipeline/decide/rank.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

enum { QUEUE_LIVE = 96, QUEUE_CONTEXT = 32768 };

struct queue {
    struct sl_arena arena;
    struct sl_plan plan;
    struct sl_schedule schedule;
    struct sl_policy policy;
    uint64_t arrivals;
    bool refuses; /* nobody gets pages, whatever there is */
};

/* By hand: 1,000 us a chunk and 10 a row, so that 5,000 us are 400 rows. */
static const struct sl_cost plain_cost = {.us = {[SL_COST_C] = 1000, [SL_COST_B] = 10}};

static inline void queue_budget(struct queue *q, const struct sl_cost *cost, uint32_t n_stages,
                                uint32_t max_rows, struct sl_budget_wish wish)
{
    struct sl_cost costs[SL_MAX_STAGES];
    struct sl_budget budget;
    for (uint32_t k = 0; k < n_stages; k++)
        costs[k] = *cost;
    sl_budget_make(&budget, costs, n_stages, max_rows, &(struct sl_pace){0}, &wish);
    const struct sl_budget *was = &q->policy.budget;
    if (was->n_stages != n_stages || was->max_rows != max_rows || was->by_rows != budget.by_rows)
        q->policy.budget = (struct sl_budget){0}; /* of another pipeline */
    sl_policy_set(&q->policy, &budget);
}

static inline uint32_t queue_draw(struct sl_rng *rng, uint32_t below)
{
    return (uint32_t)(sl_rng_next(rng) % below);
}

/* Any pipeline there may be, and what whoever runs it may wish. */
static inline void queue_draw_budget(struct queue *q, struct sl_rng *rng)
{
    double scale = queue_draw(rng, 10) ? 1 : 100, w = queue_draw(rng, 2) ? 5000 : 0;
    struct sl_cost cost = {.us = {[SL_COST_C] = scale * (1 + queue_draw(rng, 2000)),
                                  [SL_COST_GAMMA] = scale * 0.0001 * queue_draw(rng, 10000),
                                  [SL_COST_B] = scale * (1 + queue_draw(rng, 100)) / 10,
                                  [SL_COST_A] = scale * 1e-6 * queue_draw(rng, 1000),
                                  [SL_COST_W] = scale * w},
                           .hit = queue_draw(rng, 2) ? 1.0 / 16 : 1};
    struct sl_budget_wish wish = {.chunk_us = queue_draw(rng, 2) ? 0 : 1 + queue_draw(rng, 100000),
                                  .slo_us = queue_draw(rng, 2) ? 0 : 1 + queue_draw(rng, 1000000),
                                  .by_rows = queue_draw(rng, 8) == 0};
    uint32_t rows = queue_draw(rng, 10) ? 64 * (1 + queue_draw(rng, 64)) : 1 + queue_draw(rng, 300);
    queue_budget(q, &cost, 1 + queue_draw(rng, 8), rows, wish);
}

static inline void open_queue_with(struct queue *q, uint64_t kv_tokens,
                                   const struct sl_tenant_weight *weights, uint32_t n_weights)
{
    static const struct sl_plan_model model = {
        .n_layers = 4, .max_pos = QUEUE_CONTEXT, .d_model = 8, .vocab = 1000, .kv_layer_bytes = 64};
    struct sl_plan_options options = {
        .n_stages = 2, .n_decoders = 1, .max_prefill = 64, .max_running = 64, .kv_tokens = kv_tokens};
    *q = (struct queue){.policy = {.version = 1}};
    REQUIRE(sl_plan_make(&q->plan, &model, &options, NULL) == SL_OK);
    sl_schedule_init(&q->schedule, &q->plan);
    REQUIRE(sl_arena_init(&q->arena, sl_tenants_bytes(QUEUE_LIVE), NULL) == SL_OK);
    REQUIRE(sl_tenants_init(&q->policy.tenants, &q->arena, QUEUE_LIVE, weights, n_weights) == SL_OK);
}

static inline void open_queue(struct queue *q)
{
    open_queue_with(q, 1 << 20, NULL, 0);
    queue_budget(q, &plain_cost, 2, 2048, (struct sl_budget_wish){.chunk_us = 5000});
}

static inline void close_queue(struct queue *q)
{
    sl_arena_fini(&q->arena);
}

/* One that is not queued yet. */
static inline struct sl_schedule_entry queue_entry(struct queue *q, const char *tenant, uint32_t n_tokens,
                                                   uint64_t arrived_us, uint64_t due_us)
{
    struct sl_schedule_entry e;
    sl_schedule_entry_init(&e, &q->plan, n_tokens, 0, 1, 1);
    e.tenant = sl_tenants_enter(&q->policy.tenants, tenant);
    e.arrived_us = arrived_us;
    e.due_us = due_us;
    e.promised = true;
    return e;
}

static inline void queue_enter(struct queue *q, struct sl_schedule_entry *e)
{
    e->arrival = ++q->arrivals;
    sl_policy_enter(&q->policy, &q->schedule, e, false);
}

static inline void queue_add(struct queue *q, struct sl_schedule_entry *e, const char *tenant,
                             uint32_t n_tokens, uint64_t arrived_us, uint64_t due_us)
{
    *e = queue_entry(q, tenant, n_tokens, arrived_us, due_us);
    queue_enter(q, e);
}

/* Nothing of it is left. */
static inline void queue_forget(struct queue *q, struct sl_schedule_entry *e)
{
    sl_policy_leave(&q->policy, &q->schedule, e);
    sl_schedule_end(&q->schedule, e);
    sl_tenants_leave(&q->policy.tenants, e->tenant);
}

/* As the core has it: all that its prefill needs, or nothing. */
static inline bool queue_begin(void *user, struct sl_schedule_entry *e)
{
    struct queue *q = user;
    if (q->refuses || !sl_schedule_fits(&q->schedule, e))
        return false;
    sl_schedule_admit(&q->schedule, e, 0);
    return true;
}

static inline uint32_t queue_cut(struct queue *q, uint64_t now_us, struct sl_cut cuts[SL_MAX_SLICES])
{
    return sl_rank_cut(&q->policy, &q->schedule, now_us, queue_begin, q, cuts);
}

/* What a chunk is predicted to take. */
static inline double queue_chunk_us(const struct queue *q, const struct sl_cut *cuts, uint32_t n)
{
    struct sl_cost_chunk sum = {0};
    for (uint32_t i = 0; i < n; i++)
        sl_cost_add(&sum, cuts[i].pos, cuts[i].n);
    return sl_cost_of(&q->policy.budget.cost, &sum);
}

/* SLUICE_SEEDS, or as many as the fast tier takes. */
static inline uint64_t queue_seeds(uint64_t usual)
{
    const char *more = getenv("SLUICE_SEEDS");
    return more ? strtoull(more, NULL, 10) : usual;
}

#endif
