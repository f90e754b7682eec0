/* The world of a seed and its oracle (seed.h). The oracle is a world of one stage and one decode worker where one request comes after the
 * other, nothing goes wrong and nothing is shared: what an answer gets there is what it must get anywhere. */
#include "bench/simulate/seed.h"
#include "bench/simulate/world.h"
#include <stdlib.h>
#include <string.h>

static uint32_t draw(struct sl_rng *rng, uint32_t below)
{
    return (uint32_t)(sl_rng_next(rng) % below);
}

/* Of a small model, more or less: see cost.h. */
static struct sl_cost draw_cost(struct sl_rng *rng)
{
    struct sl_cost cost = {.us = {300, 0.01, 20, 0.002, 2000, 50}, .hit = 1.0 / 16};
    double times = 0.1 + sl_rng_unit(sl_rng_next(rng));
    for (int t = 0; t < SL_COST_TERMS; t++)
        cost.us[t] *= times;
    return cost;
}

/* One world in eight is about who goes first: of one tenant and in large pools, with faults that keep nobody in particular from a
 * chunk, and with times for first tokens of which some can't be kept. */
static void draw_order(struct sl_world_config *c, struct sl_sim_history *h, struct sl_rng *rng)
{
    enum {
        FAULTS = 1u << SL_SIM_DELAY | 1u << SL_SIM_REORDER | 1u << SL_SIM_SLOW | 1u << SL_SIM_LOST_CLIENT
    };
    if (draw(rng, 8) > 0)
        return;
    c->in_order = true;
    c->faults &= FAULTS;
    c->schedule = SL_SCHEDULE_SLO;
    c->max_prefill = 8 + draw(rng, 16);
    c->kv_tokens = (uint64_t)h->n * h->context_tokens;
    c->max_running = 16;
    c->budget_us = c->slo_us = 0;
    for (uint32_t i = 0; i < h->n; i++) {
        struct sl_sim_request *r = &h->requests[i];
        r->n = 1;
        r->priority = 0;
        r->tenant = NULL;
        r->target_us = draw(rng, 4) ? 0 : r->arrive_us + 20000 + draw(rng, 60000);
    }
}

static struct sl_world_config draw_config(const struct sl_seed_config *s, struct sl_sim_history *h,
                                          uint64_t seed, struct sl_rng *rng)
{
    uint32_t context = h->context_tokens;
    struct sl_world_config c = {.seed = seed,
                                .faults = s->faults,
                                .n_stages = s->n_stages,
                                .n_decoders = s->n_decoders,
                                .n_layers = s->n_stages + draw(rng, 3),
                                .max_prefill = 1 + draw(rng, 8),
                                .max_running = 2 + draw(rng, 8),
                                .max_requests = 4 * h->n,
                                .chunk_tokens = draw(rng, 3) ? 0 : 1 + draw(rng, 200),
                                .context_tokens = context,
                                .kv_tokens = context + draw(rng, 3 * context),
                                .expect_tokens = draw(rng, 2) ? 0 : 1 + draw(rng, 60),
                                .prefix_cache = draw(rng, 2),
                                .schedule = draw(rng, 4) ? SL_SCHEDULE_SLO : SL_SCHEDULE_FIFO,
                                .auth = draw(rng, 8) ? SL_LINK_AUTH_NONE : SL_LINK_AUTH_HEADER,
                                .all_late = draw(rng, 4) == 0,
                                .budget_us = draw(rng, 3) ? 0 : 1 + draw(rng, 20000),
                                .slo_us = draw(rng, 3) ? 0 : 1 + draw(rng, 100000),
                                .runs = draw(rng, 3) ? 0 : 1 + draw(rng, 10),
                                .cost = draw_cost(rng),
                                .most_events = s->most_events,
                                .tell = s->tell,
                                .tell_user = s->tell_user};
    if (draw(rng, 3) == 0)
        c.flush_us = 1 + sl_rng_next(rng) % (h->requests[h->n - 1].arrive_us + 20000);
    draw_order(&c, h, rng);
    if (!c.in_order && draw(rng, 7) == 0) { /* pages are wanted again soon, and leave slowly */
        c.kv_tokens = context;
        c.slow_push = sl_sim_has(c.faults, SL_SIM_DELAY);
    }
    return c;
}

/* ---- the oracle ---- */

/* It was refused in time, its deadline has passed before it was prefilled, or its pipeline was lost before it told anything. */
static bool was_refused(const struct sl_sim_request *r)
{
    const struct sl_sim_answer *a = &r->answers[0];
    if (a->ended && r->deadline_us && a->status == SL_E_DEADLINE)
        return a->n_tokens == 0;
    return a->ended && (a->status == SL_E_EXHAUSTED || a->status == SL_E_UNAVAILABLE) && a->n_tokens == 0;
}

struct asked { /* an answer, and who was asked for the same */
    uint32_t request, index, alone;
};

struct oracle {
    struct sl_sim_request *requests;
    uint32_t *tokens;
    struct asked *answers;
    uint32_t n, n_answers;
};

static sl_status oracle_init(struct oracle *o, const struct sl_sim_history *h, struct sl_err *err)
{
    size_t most = (size_t)h->n * SL_SIM_ANSWERS;
    *o = (struct oracle){.requests = calloc(most, sizeof *o->requests),
                         .tokens = malloc(most * h->context_tokens * sizeof *o->tokens),
                         .answers = calloc(most, sizeof *o->answers)};
    return o->requests && o->tokens && o->answers
               ? SL_OK
               : sl_fail(err, SL_E_NOMEM, "no memory for the oracle; ask for fewer --requests");
}

static void oracle_fini(struct oracle *o)
{
    free(o->requests);
    free(o->tokens);
    free(o->answers);
}

/* Of an answer that was cut short no more than it has is compared. */
static uint32_t wanted(const struct sl_sim_request *r, const struct sl_sim_answer *got)
{
    if (got->finish != SL_FINISH_ABORT && got->status == SL_OK)
        return r->max_tokens;
    return got->n_tokens > 0 ? got->n_tokens : 1;
}

static void oracle_add(struct oracle *o, const struct sl_sim_history *h, uint32_t i, uint32_t k)
{
    struct sl_sim_request *r = &o->requests[o->n];
    *r = h->requests[i];
    r->arrive_us = r->cancel_us = r->deadline_us = r->target_us = 0;
    r->max_tokens = 0;
    r->n = 1;
    r->seed += k;
    r->salt = 0;
    r->tenant = NULL;
    r->text_ends_at += r->text_ends_at ? k : 0;
    r->ended = false;
    r->answers[0] = (struct sl_sim_answer){.tokens = o->tokens + (size_t)o->n * h->context_tokens};
    o->n++;
}

/* Without dice, and unless their text ends them, all answers to a request are the same. */
static void oracle_fill(struct oracle *o, const struct sl_sim_history *h)
{
    for (uint32_t i = 0; i < h->n; i++) {
        const struct sl_sim_request *r = &h->requests[i];
        uint32_t first = o->n;
        for (uint32_t k = 0; k < r->n && !was_refused(r); k++) {
            if (o->n == first || r->temperature > 0 || r->text_ends_at > 0)
                oracle_add(o, h, i, k);
            struct sl_sim_request *alone = &o->requests[o->n - 1];
            uint32_t n = wanted(r, &r->answers[k]);
            alone->max_tokens = n > alone->max_tokens ? n : alone->max_tokens;
            alone->min_tokens = r->min_tokens < alone->max_tokens ? r->min_tokens : alone->max_tokens;
            o->answers[o->n_answers++] = (struct asked){i, k, o->n - 1};
        }
    }
}

static sl_status oracle_ask(struct oracle *o, const struct sl_sim_history *h, uint32_t n_layers,
                            uint64_t most_events, struct sl_err *err)
{
    struct sl_world_config alone = {.seed = 1,
                                    .n_layers = n_layers,
                                    .n_stages = 1,
                                    .n_decoders = 1,
                                    .max_prefill = 1,
                                    .max_running = 1,
                                    .max_requests = 8, /* what has ended may not be gone yet */
                                    .context_tokens = h->context_tokens,
                                    .kv_tokens = h->context_tokens,
                                    .one_by_one = true,
                                    .most_events = most_events,
                                    .cost = {.us = {[SL_COST_C] = 1, [SL_COST_B] = 0.01}}};
    struct sl_world_report report;
    oracle_fill(o, h);
    return o->n == 0 || sl_world_run(&alone, o->requests, o->n, &report, err) == SL_OK
               ? SL_OK
               : sl_err_prefix(err, "the oracle");
}

static sl_status compare(const struct sl_sim_history *h, const struct oracle *o, uint32_t at,
                         bool may_be_lost, struct sl_err *err)
{
    uint32_t i = o->answers[at].request, k = o->answers[at].index, same = 0;
    const struct sl_sim_request *r = &h->requests[i];
    const struct sl_sim_answer *got = &r->answers[k], *alone = &o->requests[o->answers[at].alone].answers[0];
    uint32_t n = got->n_tokens < alone->n_tokens ? got->n_tokens : alone->n_tokens;
    bool cut_short = got->status == SL_E_UNAVAILABLE && may_be_lost; /* with its pipeline */
    if (got->status != SL_OK && !cut_short)
        return sl_fail(err, SL_E_INTERNAL, "answer %u to request %u failed (%s)", k, i,
                       sl_status_name(got->status));
    if (got->finish == SL_FINISH_ABORT && !r->cancel_us && !cut_short)
        return sl_fail(err, SL_E_INTERNAL, "request %u was aborted by nobody", i);
    while (same < n && got->tokens[same] == alone->tokens[same])
        same++;
    if (same < n)
        return sl_fail(err, SL_E_INTERNAL, "token %u of answer %u to request %u is another than alone", same,
                       k, i);
    bool whole = got->finish != SL_FINISH_ABORT && !cut_short;
    if (got->n_tokens > alone->n_tokens ||
        (whole && (got->n_tokens != alone->n_tokens || got->finish != alone->finish)))
        return sl_fail(
            err, SL_E_INTERNAL,
            "answer %u to request %u has %u tokens and finish %d, and alone %u tokens and finish %d", k, i,
            got->n_tokens, (int)got->finish, alone->n_tokens, (int)alone->finish);
    return SL_OK;
}

static sl_status compare_all(const struct sl_sim_history *h, const struct sl_world_config *c,
                             bool may_be_lost, struct sl_seed_sums *sums, struct sl_err *err)
{
    struct oracle o;
    sl_status status = oracle_init(&o, h, err);
    if (status == SL_OK)
        status = oracle_ask(&o, h, c->n_layers, c->most_events, err);
    for (uint32_t at = 0; status == SL_OK && at < o.n_answers; at++)
        status = compare(h, &o, at, may_be_lost, err);
    sums->answers += o.n_answers;
    oracle_fini(&o);
    return status;
}

/* ---- the seed ---- */

static void add_up(struct sl_seed_sums *sums, const struct sl_sim_history *h, const struct sl_world_report *r)
{
    sums->requests += h->n;
    sums->cut += h->n_cut;
    sums->records += r->records;
    sums->tokens += r->tokens;
    sums->set_back += r->set_back;
    sums->cached_tokens += r->cached_tokens;
    sums->given_up += r->given_up;
    sums->events += r->events;
    sums->frames += r->frames;
    sums->end_us += r->end_us;
    sums->lost += r->lost;
    sums->left += r->left;
    sums->faults += r->faults;
    sums->pipelines_lost += r->pipelines_lost;
    for (uint32_t i = 0; i < h->n; i++)
        sums->refused += was_refused(&h->requests[i]);
}

sl_status sl_seed_run(const struct sl_seed_config *config, struct sl_sim_history *h, uint64_t seed,
                      struct sl_seed_sums *sums, struct sl_err *err)
{
    struct sl_rng rng = {seed, 0};
    struct sl_world_report report = {0};
    sl_sim_history_draw(h, config->load, config->faults, SL_SIM_ANSWERS, seed);
    struct sl_world_config c = draw_config(config, h, seed, &rng);
    for (uint32_t i = 0; i < h->n; i++)
        h->requests[i].n = h->requests[i].n < c.max_running ? h->requests[i].n : c.max_running;
    sl_status status = sl_world_run(&c, h->requests, h->n, &report, err);
    add_up(sums, h, &report);
    return status == SL_OK ? compare_all(h, &c, report.pipelines_lost > 0, sums, err) : status;
}
