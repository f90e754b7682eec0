/* The world of a seed and its oracle (seed.h). The oracle is a world of as many stages and one decode worker with nothing else in it, where
 * nothing takes time and nothing goes wrong: what a request gets there is what it must get anywhere. */
#include "bench/simulate/seed.h"
#include <stdlib.h>
#include <string.h>

static uint32_t draw(struct sl_rng *rng, uint32_t below)
{
    return (uint32_t)(sl_rng_next(rng) % below);
}

static void draw_leavings(struct sl_sim_config *c, uint32_t span_us, struct sl_rng *rng)
{
    c->n_leavings = 1 + draw(rng, SL_SIM_MAX_LEAVINGS);
    for (uint32_t i = 0; i < c->n_leavings; i++)
        c->leavings[i] = (struct sl_sim_leaving){.at_us = draw(rng, span_us),
                                                 .decoder = draw(rng, c->n_decoders),
                                                 .told_to = draw(rng, 3) == 0,
                                                 .leave_us = draw(rng, 20000),
                                                 .told_us = draw(rng, 10000),
                                                 .back_us = 1 + draw(rng, 30000)};
}

static struct sl_sim_config draw_config(const struct sl_seed_config *s, const struct sl_sim_history *h,
                                        uint64_t seed, struct sl_rng *rng)
{
    uint32_t context = h->context_tokens;
    struct sl_sim_config c = {.seed = seed,
                              .n_stages = s->n_stages,
                              .n_decoders = s->n_decoders,
                              .max_prefill = 1 + draw(rng, 8),
                              .max_running = 2 + draw(rng, 8),
                              .max_requests = 4 * h->n,
                              .chunk_tokens = draw(rng, 3) ? 0 : 1 + draw(rng, 200),
                              .context_tokens = context,
                              .kv_tokens = context + draw(rng, 3 * context),
                              .expect_tokens = draw(rng, 2) ? 0 : 1 + draw(rng, 60),
                              .prefix_cache = draw(rng, 2),
                              .chunk_us = 100 + draw(rng, 500),
                              .token_us = draw(rng, 5),
                              .step_us = 1 + draw(rng, 300),
                              .schedule = draw(rng, 4) ? SL_SCHEDULE_SLO : SL_SCHEDULE_FIFO,
                              .budget_us = draw(rng, 3) ? 0 : 1 + draw(rng, 20000),
                              .slo_us = draw(rng, 3) ? 0 : 1 + draw(rng, 100000),
                              .runs = draw(rng, 3) ? 0 : 1 + draw(rng, 10),
                              .most_events = s->most_events,
                              .tell = s->tell,
                              .tell_user = s->tell_user};
    uint64_t span_us = h->requests[h->n - 1].arrive_us + 20000;
    if (sl_sim_has(s->faults, SL_SIM_DELAY))
        c.max_delay_us = 1 + draw(rng, 3000);
    if (sl_sim_has(s->faults, SL_SIM_REORDER)) {
        c.max_push_us = draw(rng, 20000);
        c.foretold_us = draw(rng, 3) ? 1 + draw(rng, 5000) : 0;
    }
    if (sl_sim_has(s->faults, SL_SIM_CRASH))
        draw_leavings(&c, span_us < UINT32_MAX ? (uint32_t)span_us : UINT32_MAX, rng);
    if (draw(rng, 3) == 0)
        c.flush_us = 1 + sl_rng_next(rng) % span_us;
    return c;
}

/* It was refused in time, and nothing of it is anywhere. */
static bool was_refused(const struct sl_sim_request *r)
{
    const struct sl_sim_answer *a = &r->answers[0];
    return a->ended && a->status == SL_E_EXHAUSTED && a->end_us == r->arrive_us && a->n_tokens == 0;
}

static sl_status compare(const struct sl_sim_history *h, uint32_t n_stages, uint32_t i, uint32_t k,
                         uint32_t *tokens, struct sl_err *err)
{
    struct sl_sim_config config = {.seed = 1,
                                   .n_stages = n_stages,
                                   .max_running = 1,
                                   .max_requests = 1,
                                   .context_tokens = h->context_tokens,
                                   .kv_tokens = h->context_tokens,
                                   .chunk_us = 1,
                                   .step_us = 1};
    const struct sl_sim_request *r = &h->requests[i];
    const struct sl_sim_answer *got = &r->answers[k];
    struct sl_sim_request request = *r;
    struct sl_sim_report report;
    request.arrive_us = request.cancel_us = request.deadline_us = request.target_us = 0;
    request.n = 1;
    request.seed += k;
    request.text_ends_at += request.text_ends_at ? k : 0;
    request.answers[0] = (struct sl_sim_answer){.tokens = tokens};
    request.ended = false;
    SL_TRY(sl_sim_run(&config, &request, 1, &report, err));
    const struct sl_sim_answer *alone = &request.answers[0];
    if (got->status != SL_OK)
        return sl_fail(err, SL_E_INTERNAL, "answer %u to request %u failed (%s)", k, i,
                       sl_status_name(got->status));
    if (got->finish == SL_FINISH_ABORT && !r->cancel_us)
        return sl_fail(err, SL_E_INTERNAL, "request %u was aborted by nobody", i);
    uint32_t same = 0, n = got->n_tokens < alone->n_tokens ? got->n_tokens : alone->n_tokens;
    while (same < n && got->tokens[same] == tokens[same])
        same++;
    if (same < n)
        return sl_fail(err, SL_E_INTERNAL, "token %u of answer %u to request %u is another than alone", same,
                       k, i);
    bool whole = got->finish != SL_FINISH_ABORT;
    if (got->n_tokens > alone->n_tokens ||
        (whole && (got->n_tokens != alone->n_tokens || got->finish != alone->finish)))
        return sl_fail(
            err, SL_E_INTERNAL,
            "answer %u to request %u has %u tokens and finish %d, and alone %u tokens and finish %d", k, i,
            got->n_tokens, (int)got->finish, alone->n_tokens, (int)alone->finish);
    return SL_OK;
}

static sl_status compare_all(const struct sl_sim_history *h, uint32_t n_stages, struct sl_seed_sums *sums,
                             struct sl_err *err)
{
    uint32_t *tokens = calloc(h->context_tokens, sizeof *tokens);
    sl_status status = tokens ? SL_OK : sl_fail(err, SL_E_NOMEM, "no memory for the oracle");
    for (uint32_t i = 0; status == SL_OK && i < h->n; i++)
        for (uint32_t k = 0; status == SL_OK && k < h->requests[i].n && !was_refused(&h->requests[i]); k++) {
            status = compare(h, n_stages, i, k, tokens, err);
            sums->answers++;
        }
    free(tokens);
    return status;
}

sl_status sl_seed_run(const struct sl_seed_config *config, struct sl_sim_history *h, uint64_t seed,
                      struct sl_seed_sums *sums, struct sl_err *err)
{
    struct sl_rng rng = {seed, 0};
    struct sl_sim_report report = {0};
    sl_sim_history_draw(h, config->load, config->faults, 4, seed);
    struct sl_sim_config c = draw_config(config, h, seed, &rng);
    for (uint32_t i = 0; i < h->n; i++)
        h->requests[i].n = h->requests[i].n < c.max_running ? h->requests[i].n : c.max_running;
    sl_status status = sl_sim_run(&c, h->requests, h->n, &report, err);
    sums->requests += h->n;
    sums->records += report.records;
    sums->tokens += report.tokens;
    sums->set_back += report.set_back;
    sums->cached_tokens += report.cached_tokens;
    sums->given_up += report.given_up;
    sums->events += report.events;
    sums->end_us += report.end_us;
    sums->lost += report.n_lost;
    sums->left += report.n_left;
    sums->cut += h->n_cut;
    return status == SL_OK ? compare_all(h, config->n_stages, sums, err) : status;
}
