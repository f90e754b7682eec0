/* (8) The cut in arrival order (pipeline/decide/schedule.c) is what others are compared with, so it stays what it was: the rule
 * stated a second time over a plain list, and every cut of random loads compared with it. */
#include "base/rng.h"
#include "pipeline/decide/schedule.h"
#include "tests/check.h"
#include <stdlib.h>

enum { SEEDS = 200, STEPS = 4000, ENTRIES = 64, CONTEXT = 16384, FIFO_SLICES = 16 };

struct fifo_rule { /* a request, as the rule sees it */
    uint32_t n, pos, chunk, steering, shared, arrival;
    bool live, queued, admitted;
};

struct both {
    struct sl_rng rng;
    struct sl_plan plan;
    struct sl_schedule schedule;
    struct sl_schedule_entry entries[ENTRIES];
    struct fifo_rule of[ENTRIES];
    uint32_t order[ENTRIES],
        n; /* those that are not wholly cut: who has begun in the order of that, then by arrival */
    uint32_t arrivals;
    uint64_t n_cuts, n_shared, n_steered, n_again;
};

static uint32_t draw(struct both *b, uint32_t below)
{
    return (uint32_t)(sl_rng_next(&b->rng) % below);
}

/* An eighth of the prompt in whole pages, one page to 2,048 tokens; or as asked. */
static uint32_t chunk_of(uint32_t n_tokens, uint32_t asked)
{
    uint32_t pages = 1;
    while (pages < 32 && 64 * 8 * pages < n_tokens)
        pages++;
    return asked > 0 ? asked : 64 * pages;
}

static void erase(struct both *b, uint32_t at)
{
    b->of[b->order[at]].queued = false;
    memmove(&b->order[at], &b->order[at + 1], (--b->n - at) * sizeof *b->order);
}

static void insert(struct both *b, uint32_t at, uint32_t which)
{
    memmove(&b->order[at + 1], &b->order[at], (b->n++ - at) * sizeof *b->order);
    b->order[at] = which;
    b->of[which].queued = true;
}

static void arrive(struct both *b)
{
    uint32_t i = draw(b, ENTRIES), at = b->n;
    struct sl_schedule_entry *e = &b->entries[i];
    struct fifo_rule *r = &b->of[i];
    if (r->live)
        return;
    *r = (struct fifo_rule){.live = true,
                            .arrival = ++b->arrivals,
                            .n = 1 + draw(b, draw(b, 3)   ? 400
                                             : draw(b, 2) ? 16
                                                          : CONTEXT)};
    r->chunk = chunk_of(r->n, b->plan.chunk_tokens);
    r->steering = draw(b, 4) ? 0 : draw(b, b->plan.steering_bytes + 1);
    sl_schedule_entry_init(e, &b->plan, r->n, 0, 1, 1);
    CHECK_INT(e->chunk_tokens, r->chunk);
    e->steering_bytes = r->steering;
    if (draw(b, 5) == 0) { /* it was there before, and stands where it stood */
        r->arrival = 1 + draw(b, b->arrivals);
        while (at > 0 && !b->of[b->order[at - 1]].admitted && b->of[b->order[at - 1]].arrival > r->arrival)
            at--;
        b->n_again++;
    }
    e->arrival = r->arrival;
    if (at < b->n || r->arrival < b->arrivals)
        sl_schedule_push_back(&b->schedule, e);
    else
        sl_schedule_push(&b->schedule, e);
    insert(b, at, i);
    if (r->n > 200 && draw(b, 3) == 0) {
        r->shared = draw(b, 2) ? (r->n - 1) / 64 : draw(b, (r->n - 1) / 64 + 1);
        r->pos = 64 * r->shared;
        sl_schedule_begin_behind(&b->schedule, e, r->shared);
    }
}

/* The first that waits, if there is room. */
static bool begin(struct both *b)
{
    uint32_t at = 0;
    while (at < b->n && b->of[b->order[at]].admitted)
        at++;
    struct sl_schedule_entry *e = sl_schedule_next(&b->schedule);
    if (!e)
        return false;
    CHECK(at < b->n && e == &b->entries[b->order[at]]);
    sl_schedule_admit(&b->schedule, e, 0);
    return b->of[b->order[at]].admitted = true;
}

/* The head's chunk, filled with those behind it as long as each is wholly cut, and what it brings fits the record. */
static uint32_t cut_by_rule(struct both *b, struct sl_cut cuts[FIFO_SLICES])
{
    uint32_t n = 0, steering = 0, shared = 0, left = b->n > 0 ? b->of[b->order[0]].chunk : 0;
    while (b->n > 0 && n < FIFO_SLICES && left > 0) {
        struct fifo_rule *r = &b->of[b->order[0]];
        bool whole = r->n - r->pos <= left;
        uint32_t take = whole ? r->n - r->pos : left;
        if (!r->admitted || (whole && steering + r->steering > b->plan.steering_bytes) ||
            shared + r->shared > CONTEXT / 64)
            break;
        cuts[n++] = (struct sl_cut){&b->entries[b->order[0]], r->pos, take};
        b->n_steered += whole && r->steering > 0;
        b->n_shared += r->shared;
        steering += whole ? r->steering : 0;
        shared += r->shared;
        r->pos += take;
        left -= take;
        if (whole)
            erase(b, 0);
    }
    return n;
}

static void cut(struct both *b)
{
    struct sl_cut got[SL_MAX_SLICES], wanted[FIFO_SLICES];
    uint32_t n = cut_by_rule(b, wanted);
    CHECK_INT(sl_schedule_cut(&b->schedule, got), n);
    for (uint32_t i = 0; i < n; i++)
        CHECK(got[i].entry == wanted[i].entry && got[i].pos == wanted[i].pos && got[i].n == wanted[i].n);
    for (uint32_t i = 0; i < n; i++) { /* its first slice names the pages of others, once */
        got[i].entry->shared_pages = 0;
        b->of[got[i].entry - b->entries].shared = 0;
    }
    b->n_cuts += n > 0;
}

/* What is wholly cut is gone, or what is not is cancelled. */
static void end(struct both *b, bool cancel)
{
    uint32_t i = draw(b, ENTRIES), at = 0;
    if (!b->of[i].live || b->of[i].queued != cancel)
        return;
    while (cancel && b->order[at] != i)
        at++;
    if (cancel)
        erase(b, at);
    sl_schedule_end(&b->schedule, &b->entries[i]);
    b->of[i].live = false;
}

static void run_seed(struct both *b, uint64_t seed)
{
    static const struct sl_plan_model model = {
        .n_layers = 4, .max_pos = CONTEXT, .d_model = 8, .vocab = 1000, .kv_layer_bytes = 64};
    b->rng = (struct sl_rng){seed, 0};
    struct sl_plan_options options = {.n_stages = 2,
                                      .chunk_tokens = draw(b, 3) ? 0 : 1 + draw(b, 600),
                                      .max_prefill = 1 + draw(b, 40),
                                      .max_running = 4,
                                      .kv_tokens = CONTEXT * (uint64_t)(1 + draw(b, 3))};
    REQUIRE(sl_plan_make(&b->plan, &model, &options, NULL) == SL_OK);
    sl_schedule_init(&b->schedule, &b->plan);
    memset(b->of, 0, sizeof b->of);
    b->n = b->arrivals = 0;
    for (int i = 0; i < STEPS; i++) {
        uint32_t dice = draw(b, 16);
        if (dice < 4)
            arrive(b);
        else if (dice < 8)
            for (uint32_t k = draw(b, 24); begin(b) && k > 0; k--)
                ;
        else if (dice < 12)
            cut(b);
        else
            end(b, dice == 15 && draw(b, 4) == 0);
    }
}

SL_TEST(the_cut_in_arrival_order_is_what_it_was)
{
    struct both *b = calloc(1, sizeof *b);
    const char *more = getenv("SLUICE_SEEDS");
    uint64_t seeds = more ? strtoull(more, NULL, 10) : SEEDS;
    for (uint64_t seed = 1; seed <= seeds; seed++)
        run_seed(b, seed);
    CHECK(b->n_cuts > 100 * seeds && b->n_shared > seeds && b->n_steered > seeds && b->n_again > seeds);
    free(b);
}

SL_TEST(a_chunk_in_arrival_order_has_sixteen_slices_at_most)
{
    struct both *b = calloc(1, sizeof *b);
    struct sl_cut cuts[SL_MAX_SLICES];
    run_seed(b, 1); /* for its plan */
    b->plan.chunk_tokens = 0;
    b->plan.max_prefill = 64;
    sl_schedule_init(&b->schedule, &b->plan);
    for (uint32_t i = 0; i < 20; i++) {
        sl_schedule_entry_init(&b->entries[i], &b->plan, 1, 0, 1, 1);
        b->entries[i].arrival = i;
        sl_schedule_push(&b->schedule, &b->entries[i]);
        REQUIRE(sl_schedule_next(&b->schedule) == &b->entries[i]);
        sl_schedule_admit(&b->schedule, &b->entries[i], 0);
    }
    CHECK_INT(sl_schedule_cut(&b->schedule, cuts), 16);
    CHECK_INT(sl_schedule_cut(&b->schedule, cuts), 4);
    free(b);
}
