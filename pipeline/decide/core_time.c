/* What the core knows of time: the cost of each stage as its traces correct it, how the pipeline runs, when what is in the log will
 * be done, and what a request may expect when it comes. No clock is asked and none of another node is believed: stages tell how
 * long something took, and everything else is between a record written here and its answer here. */
#include "pipeline/decide/core_impl.h"
#include <math.h>

enum { first_trial_us = 1000000, last_trial_us = 64000000 };
static const double recent = 1.0 / 32, few_us = 500, kappa_step = 1.01, least_kappa = 0.6, most_kappa = 2,
                    many_short = 0.2;

/* Before anything is known: a stage of a small model. It is the shape that counts, the size is right after a few chunks. */
static const struct sl_cost unknown = {.us = {300, 0.01, 20, 0.002, 2000}, .hit = 1.0 / 16};

void sl_core_time_init(struct sl_core *core)
{
    struct sl_core_time *t = &core->time;
    for (uint32_t k = 0; k < core->plan.n_stages; k++)
        sl_cost_fit_init(&t->fits[k], &unknown);
    t->kappa[0] = t->kappa[1] = 1;
    t->trial_us = first_trial_us;
    core->policy.version = 1;
    sl_core_budget(core);
}

void sl_core_cost(struct sl_core *core, uint32_t stage, const struct sl_cost *prior)
{
    assert(stage < core->plan.n_stages);
    sl_cost_fit_init(&core->time.fits[stage], prior);
    sl_core_budget(core);
}

const struct sl_cost_fit *sl_core_fits(const struct sl_core *core)
{
    return core->time.fits;
}

/* ---- pace and budget ---- */

static double hops_us(const struct sl_core_time *t)
{
    uint32_t n = t->n_hops < SL_HOPS_SEEN ? t->n_hops : SL_HOPS_SEEN;
    double least = n > 0 ? t->hops_us[0] : 0;
    for (uint32_t i = 1; i < n; i++)
        least = t->hops_us[i] < least ? t->hops_us[i] : least;
    return least;
}

void sl_core_budget(struct sl_core *core)
{
    struct sl_core_time *t = &core->time;
    struct sl_cost costs[SL_MAX_STAGES];
    struct sl_pace pace = {.hops_us = hops_us(t)};
    for (uint32_t k = 0; k < core->plan.n_stages; k++) {
        costs[k] = t->fits[k].now;
        costs[k].us[SL_COST_C] += t->gap_us[k];
        pace.stages_us += t->mean_us[k];
        pace.slowest_us = t->mean_us[k] > pace.slowest_us ? t->mean_us[k] : pace.slowest_us;
        pace.cv = t->fits[k].cv > pace.cv ? t->fits[k].cv : pace.cv;
    }
    struct sl_budget_wish wish = {(double)core->config.chunk_us, (double)core->config.slo_us,
                                  core->config.runs, core->plan.chunk_tokens > 0,
                                  core->time.short_part > many_short};
    struct sl_budget budget;
    sl_budget_make(&budget, costs, core->plan.n_stages, core->plan.max_chunk, &pace, &wish);
    sl_policy_set(&core->policy, &budget);
}

/* ---- what is under way ---- */

/* Record after record through the stages: each waits for its rows and for the stage. */
static void pass(const struct sl_core *core, struct sl_record *record, double ends_us[SL_MAX_STAGES])
{
    double hop = core->policy.budget.hop_us, rows_us = (double)record->written_us + hop;
    for (uint32_t k = 0; k < core->plan.n_stages; k++) {
        double free_us = ends_us[k] + core->time.gap_us[k];
        ends_us[k] = (free_us > rows_us ? free_us : rows_us) + record->predicted_us[k];
        record->ends_us[k] = ends_us[k];
        rows_us = ends_us[k] + hop;
    }
}

void sl_core_time_written(struct sl_core *core, struct sl_record *record, const struct sl_order *order)
{
    struct sl_core_time *t = &core->time;
    record->written_us = core->now_us;
    record->chunk = (struct sl_cost_chunk){0};
    for (uint32_t i = 0; i < order->n_slices; i++) {
        sl_cost_add(&record->chunk, order->slices[i].pos, order->slices[i].n);
        sl_cost_want(&record->chunk, sl_order_rows_wanted(&order->slices[i]));
    }
    for (uint32_t k = 0; k < core->plan.n_stages; k++)
        record->predicted_us[k] = sl_cost_of(&t->fits[k].now, &record->chunk);
    pass(core, record, t->ends_us);
}

/* What a stage does between two chunks when the second is there already: frames, seals and pages, which no trace counts. */
static void note_gap(struct sl_core_time *t, uint32_t k, const struct sl_trace *trace)
{
    if (trace->recv_us > 0 && trace->recv_us <= t->left_us[k] && trace->begin_us >= t->left_us[k]) {
        double us = (double)(trace->begin_us - t->left_us[k]), most = 4 * t->gap_us[k] + few_us;
        t->gap_us[k] += recent * ((us < most ? us : most) - t->gap_us[k]); /* it may have been paused */
    }
    t->left_us[k] = trace->end_us;
}

void sl_core_time_traced(struct sl_core *core, struct sl_record *record, const struct sl_result_head *head)
{
    struct sl_core_time *t = &core->time;
    record->took_us = 0;
    t->traced_us = core->now_us;
    for (uint32_t k = 0; k < core->plan.n_stages; k++) {
        const struct sl_trace *trace = &head->traces[k];
        if (trace->end_us <= trace->begin_us)
            continue;
        note_gap(t, k, trace);
        double us = (double)(trace->end_us - trace->begin_us);
        /* what it waited there is no part of the way: a window that grew with it would make more of it */
        bool waited = trace->recv_us > 0 && trace->recv_us < trace->begin_us;
        record->took_us += waited ? (double)(trace->end_us - trace->recv_us) : us;
        if (sl_cost_fit_add(&t->fits[k], &record->chunk, us))
            t->mean_us[k] += (t->mean_us[k] > 0 ? recent : 1) * (us - t->mean_us[k]);
    }
}

/* The answer to a record came: when it left the stages is known now, and what is behind it moves with it. */
static void answered(struct sl_core *core, const struct sl_record *record)
{
    struct sl_core_time *t = &core->time;
    uint32_t last = core->plan.n_stages - 1;
    double hop = core->policy.budget.hop_us, end = (double)core->now_us - hop, after = end,
           late = end - record->ends_us[last];
    double elapsed = (double)(core->now_us - record->written_us) - record->took_us;
    t->hops_us[t->n_hops++ % SL_HOPS_SEEN] = elapsed > 0 ? elapsed : 0;
    for (uint32_t k = last + 1; k-- > 0;) {
        double was = record->ends_us[k] + (late > 0 ? late : 0);
        t->ends_us[k] = was < after ? was : after;
        after = t->ends_us[k] - record->predicted_us[k] - hop;
    }
    for (uint64_t number = core->log_answered + 1; number <= core->log_number; number++) {
        struct sl_record *next = &core->log[number % core->log_room];
        if (next->kind == SL_ORDER_RUN)
            pass(core, next, t->ends_us);
    }
}

void sl_core_time_look(struct sl_core *core, uint64_t now_us)
{
    struct sl_core_time *t = &core->time;
    core->now_us = now_us;
    bool any = false;
    for (; t->looked_at < core->log_answered; t->looked_at++) {
        struct sl_record *record = &core->log[(t->looked_at + 1) % core->log_room];
        if (record->number != t->looked_at + 1 || record->kind != SL_ORDER_RUN)
            continue; /* its place has another already */
        answered(core, record);
        any = true;
    }
    if (any)
        sl_core_budget(core);
    struct sl_newcomers newcomers;
    sl_offered_expect(&t->offered, now_us, &newcomers);
    core->policy.short_share = sl_newcomers_share(&newcomers, SL_SHORT_TOKENS);
}

/* ---- what a request may expect ---- */

static bool is_long(const struct sl_schedule_entry *e)
{
    return e->prompt_tokens - e->start > SL_SHORT_TOKENS;
}

static double until(double at_us, uint64_t now_us)
{
    return at_us > (double)now_us ? at_us - (double)now_us : 0;
}

/* Until answers that run on a decode worker are expected to have left so many places and pages: the soonest ends first. */
static double room_on_us(const struct sl_core *core, const struct sl_schedule_entry *e, uint32_t decoder)
{
    double ends[SL_MAX_BATCH];
    uint32_t pages[SL_MAX_BATCH], n = 0;
    if (sl_schedule_fits_decoder(&core->schedule, e, decoder, 0))
        return 0;
    for (const struct sl_stay *s = core->begun; s; s = s->next_begun)
        for (uint32_t k = 0; k < s->n && n < SL_MAX_BATCH && s->request->ask; k++) {
            if (!sl_core_is_alive(s, k) || s->decode[k] == SL_DECODE_NONE || s->entry.decoder != decoder)
                continue;
            uint32_t n_out = sl_core_answer_of(s, k)->n_out, i = n++,
                     expected = sl_growth_expect(&core->growth, n_out, s->request->ask->max_tokens);
            double us = (expected - n_out) * core->time.step_us;
            for (; i > 0 && ends[i - 1] > us; i--) {
                ends[i] = ends[i - 1];
                pages[i] = pages[i - 1];
            }
            ends[i] = us;
            pages[i] = s->granted[k];
        }
    uint64_t places = core->plan.max_running - core->schedule.decoders[decoder].n_decoding,
             free = core->plan.n_pages - core->schedule.decoders[decoder].pages_used;
    for (uint32_t i = 0; i < n; i++) {
        places++;
        free += pages[i];
        if (places >= e->n_places && free >= e->decode_pages)
            return ends[i];
    }
    return n > 0 ? ends[n - 1] : 0;
}

/* On the decode worker that has it first; when none is here nobody knows when one will be. */
static double room_us(const struct sl_core *core, const struct sl_schedule_entry *e)
{
    double least = -1;
    for (uint32_t d = 0; e->n_places > 0 && d < core->plan.max_decoders; d++) {
        if (core->decoders[d].state != SL_DECODER_HERE)
            continue;
        double us = room_on_us(core, e, d);
        least = least < 0 || us < least ? us : least;
    }
    return least > 0 ? least : 0;
}

double sl_core_under_way_us(const struct sl_core *core)
{
    return until(core->time.ends_us[core->plan.n_stages - 1], core->now_us);
}

/* Of a prompt that is alone, as the stages measured themselves. */
static double at_best_us(const struct sl_core *core, const struct sl_schedule_entry *e)
{
    const struct sl_budget *now = &core->policy.budget;
    struct sl_cost priors[SL_MAX_STAGES];
    struct sl_budget best;
    for (uint32_t k = 0; k < core->plan.n_stages; k++)
        priors[k] = core->time.fits[k].prior;
    sl_budget_make(&best, priors, core->plan.n_stages, now->max_rows,
                   &(struct sl_pace){.hops_us = hops_us(&core->time)},
                   &(struct sl_budget_wish){.by_rows = now->by_rows});
    return sl_budget_idle_us(&best, e->pos, e->prompt_tokens, sl_policy_alone_times(&core->policy));
}

void sl_core_outlook(const struct sl_core *core, const struct sl_schedule_entry *e,
                     struct sl_outlook *outlook)
{
    const struct sl_core_time *t = &core->time;
    *outlook = (struct sl_outlook){.first_us = until(t->ends_us[0], core->now_us),
                                   .last_us = sl_core_under_way_us(core),
                                   .room_us = room_us(core, e),
                                   .corrected = t->kappa[is_long(e)],
                                   .stale = core->log_answered == core->log_number &&
                                            core->now_us >= t->traced_us + t->trial_us};
    if (outlook->stale && e->promised)
        outlook->at_best_us = at_best_us(core, e);
    sl_offered_expect(&t->offered, core->now_us, &outlook->newcomers);
    sl_offered_expect(&core->policy.tenants.of[e->tenant].offered, core->now_us, &outlook->own);
}

/* Whose trial showed nothing better is tried less often. */
void sl_core_time_admitted(struct sl_core *core, struct sl_schedule_entry *e, double work_us, bool trial)
{
    uint64_t *wait = &core->time.trial_us;
    *wait = !trial ? first_trial_us : *wait < last_trial_us ? 2 * *wait : *wait;
    uint32_t tokens = e->prompt_tokens - e->start;
    core->time.short_part += recent * (!is_long(e) - core->time.short_part);
    double behind_us = sl_rank_key_us(&core->policy, e) - (double)e->arrived_us;
    sl_offered_add(&core->time.offered, core->now_us, tokens, work_us, behind_us);
    sl_offered_add(&core->policy.tenants.of[e->tenant].offered, core->now_us, tokens, work_us, behind_us);
}

void sl_core_time_first_token(struct sl_core *core, const struct sl_stay *s)
{
    const struct sl_request *r = s->request;
    double *kappa = &core->time.kappa[is_long(&s->entry)],
           measured = (double)(core->now_us - r->submitted_us);
    if (s->again || r->predicted_us <= 0 || core->now_us > s->entry.due_us)
        return;
    *kappa = measured > r->predicted_us * *kappa ? *kappa * kappa_step : *kappa / kappa_step;
    *kappa = *kappa < least_kappa ? least_kappa : *kappa > most_kappa ? most_kappa : *kappa;
}

void sl_core_time_answer_ends(struct sl_core *core, const struct sl_branch *answer)
{
    double us = (double)(core->now_us - answer->first_us);
    if (answer->n_out < 2 || answer->first_us == 0 || us <= 0)
        return;
    us /= answer->n_out - 1;
    core->time.step_us += (core->time.step_us > 0 ? recent : 1) * (us - core->time.step_us);
}
