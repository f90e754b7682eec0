/* The clock of a simulated pipeline and its coordinator: requests arrive and are cancelled, actions of the core become frames,
 * frames that come back become inputs. */
#include "pipeline/sim/sim_impl.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIM_VOCAB = 50000 };

void sl_sim_break(struct sl_sim *s, const char *format, ...)
{
    if (s->broken[0])
        return; /* the first one is what matters */
    va_list args;
    va_start(args, format);
    vsnprintf(s->broken, sizeof s->broken, format, args);
    va_end(args);
}

uint64_t sl_sim_steer(const uint8_t *steering, uint32_t n_bytes)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n_bytes; i++)
        sum = sl_sim_mix(sum, steering[i]);
    return sum;
}

uint32_t sl_sim_choose(const struct sl_sim *s, uint64_t row, const struct sl_sim_text *text, uint64_t seed)
{
    uint64_t how = sl_sim_mix(sl_sim_mix(text->steered, seed), sl_sim_mix(text->n_out, text->counted));
    return (uint32_t)(sl_sim_mix(row, how) % s->plan.vocab);
}

/* ---- actions ---- */

static void send_record(struct sl_sim *s, const struct sl_action *a)
{
    struct sl_order control = {.number = a->record.number, .kind = a->record.kind, .seq = a->seq};
    const struct sl_run *run = a->record.run;
    const struct sl_order *order = run ? &run->order : &control;
    struct sl_sim_frame *f = sl_sim_frame(s, 0, 1, sl_order_meta_bytes(&s->limits));
    sl_order_pack(f->bytes, order, run ? run->ids : NULL, run ? run->pages : NULL, &s->limits);
    s->report.records++;
    const char *bad = run ? sl_fair_look(&s->fair, s->now_us, order) : NULL;
    if (bad)
        sl_sim_break(s, "%s", bad);
    sl_sim_send(s, f);
    if (a->record.in_vain && s->config.foretold_us)
        sl_sim_foretell(s, (struct sl_foretold_cancel){a->seq, a->record.number});
    if (s->config.plant == SL_SIM_FALSE_WORD && run && !s->planted) {
        s->planted = true;
        sl_sim_foretell(s, (struct sl_foretold_cancel){order->slices[0].seq, UINT64_MAX});
    }
}

static void send_adopt(struct sl_sim *s, const struct sl_action *a)
{
    struct sl_sim_frame *f =
        sl_sim_frame(s, 0, sl_plan_decode_node(&s->plan, a->decoder), s->plan.adopt_bytes);
    f->n = sl_adopt_pack(f->bytes, a->adopt);
    sl_sim_send(s, f);
}

/* It has nothing that anybody wants, or its time is over: it is told to stop, and does. */
static void on_left(struct sl_sim *s, uint32_t place)
{
    s->report.n_left++;
    s->decoders[place].known = false;
    sl_sim_decode_die(s, place);
    for (uint32_t i = 0; i < s->config.n_leavings; i++)
        if (s->config.leavings[i].decoder == place && s->config.leavings[i].back_us)
            sl_sim_at(s, s->now_us + s->config.leavings[i].back_us, SL_SIM_BACK, place, NULL);
}

static void act(void *world, const struct sl_action *a)
{
    struct sl_sim *s = world;
    if (a->kind == SL_ACTION_RECORD)
        send_record(s, a);
    else if (a->kind == SL_ACTION_ADOPT)
        send_adopt(s, a);
    else if (a->kind == SL_ACTION_LEFT)
        on_left(s, a->decoder);
}

static void carry_out(struct sl_sim *s)
{
    const char *bad = sl_holders_carry_out(&s->holders, s->core, &s->actions, s->now_us, act, s);
    if (bad)
        sl_sim_break(s, "%s", bad);
    if (!s->deciding) /* as a thread would: after the inputs that happen to be there */
        sl_sim_at(s, s->now_us + (s->config.max_delay_us ? sl_rng_next(&s->rng) % 50 : 0), SL_SIM_DECIDE, 0,
                  NULL);
    s->deciding = true;
}

/* ---- inputs ---- */

static void on_arrive(struct sl_sim *s, uint32_t which)
{
    struct sl_ask *ask = sl_holders_ask(&s->holders, which);
    uint64_t seq = sl_core_submit(s->core, s->now_us, ask, &s->actions);
    sl_fair_take(&s->fair, which, seq, ask->target_us, ask->deadline_us);
    carry_out(s);
}

static void on_answer(struct sl_sim *s, struct sl_sim_frame *frame)
{
    const char *bad = NULL;
    uint32_t place = s->links[frame->link].plan.decoder;
    if (place != SL_NO_DECODER && (!s->decoders[place].known || s->decoders[place].life != frame->life)) {
        sl_sim_release(s, frame);
        return;
    }
    if (frame->kind == SL_LINK_RESULT) {
        bad = sl_core_result(s->core, frame->bytes, frame->n, &s->actions);
        carry_out(s);
    } else {
        struct sl_cursor in = sl_cursor_over(frame->bytes, frame->n);
        struct sl_tokens_entry entry;
        while (!bad && sl_tokens_get(&in, &entry)) {
            bad = sl_core_entry(s->core, place, &entry, &s->actions);
            carry_out(s);
        }
    }
    if (bad)
        sl_sim_break(s, "the decider cannot take an answer: %s", bad);
    sl_sim_release(s, frame);
}

static void on_decide(struct sl_sim *s)
{
    struct sl_core_load load;
    s->deciding = false;
    sl_core_decide(s->core, s->now_us, &s->actions);
    if (s->actions.n)
        carry_out(s);
    sl_core_load(s->core, &load);
    if (load.running > s->report.most_running)
        s->report.most_running = load.running;
    uint64_t wake_us = sl_core_wake_us(s->core);
    if (wake_us > s->now_us && !s->deciding)
        sl_sim_at(s, wake_us, SL_SIM_DECIDE, 0, NULL);
}

static void on_leave(struct sl_sim *s, uint32_t which)
{
    const struct sl_sim_leaving *l = &s->config.leavings[which];
    struct sl_sim_decode *d = &s->decoders[l->decoder];
    if (d->dead || !d->known)
        return;
    if (l->told_to) {
        sl_core_decoder_leaves(s->core, l->decoder, l->leave_us, &s->actions);
        carry_out(s);
        return;
    }
    sl_sim_decode_die(s, l->decoder);
    sl_sim_at(s, s->now_us + l->told_us, SL_SIM_TOLD, which, NULL);
}

static void on_told(struct sl_sim *s, uint32_t which)
{
    const struct sl_sim_leaving *l = &s->config.leavings[which];
    if (!s->decoders[l->decoder].known || !s->decoders[l->decoder].dead)
        return; /* it was leaving, too, its time was over meanwhile, and perhaps another is there already */
    s->report.n_lost++;
    s->decoders[l->decoder].known = false;
    sl_core_decoder_lost(s->core, l->decoder, NULL, &s->actions);
    carry_out(s);
    if (l->back_us)
        sl_sim_at(s, s->now_us + l->back_us, SL_SIM_BACK, l->decoder, NULL);
}

static void on_back(struct sl_sim *s, uint32_t place)
{
    struct sl_sim_decode *d = &s->decoders[place];
    if (d->known)
        return;
    d->life++;
    d->dead = false;
    d->known = true;
    sl_core_decoder_joins(s->core, place, d->life, &s->actions);
    carry_out(s);
}

static void tell(const struct sl_sim *s, const struct sl_sim_event *e)
{
    static const char *const names[] = {[SL_SIM_ARRIVE] = "request comes",
                                        [SL_SIM_CANCEL] = "client is gone: request",
                                        [SL_SIM_FLUSH] = "prefixes are flushed",
                                        [SL_SIM_DECIDE] = "decides",
                                        [SL_SIM_DELIVER] = "frame arrives at node",
                                        [SL_SIM_RAN] = "has run: stage",
                                        [SL_SIM_STEP] = "token step of decode worker",
                                        [SL_SIM_FORETELL] = "hears of a cancel: word",
                                        [SL_SIM_LEAVE] = "decode worker dies or leaves: leaving",
                                        [SL_SIM_TOLD] = "is known to be dead: leaving",
                                        [SL_SIM_BACK] = "another decode worker comes: place"};
    static const char *const links[] = {"order", "result", "kv", "adopt", "ring"};
    char what[120];
    int n = snprintf(what, sizeof what, "%s %u", names[e->kind], e->which);
    if (e->frame)
        snprintf(what + n, sizeof what - (size_t)n, ": %s from node %u, %zu bytes", links[e->frame->kind],
                 e->frame->from, e->frame->n);
    s->config.tell(s->config.tell_user, e->at_us, what);
}

static void happen(struct sl_sim *s, const struct sl_sim_event *e)
{
    if (s->config.tell)
        tell(s, e);
    switch (e->kind) {
    case SL_SIM_ARRIVE:
        on_arrive(s, e->which);
        break;
    case SL_SIM_CANCEL:
        sl_core_cancel(s->core, s->fair.askers[e->which].seq, &s->actions);
        carry_out(s);
        break;
    case SL_SIM_FLUSH:
        sl_core_flush_prefixes(s->core);
        break;
    case SL_SIM_DECIDE:
        on_decide(s);
        break;
    case SL_SIM_DELIVER:
        if (e->which == 0)
            on_answer(s, e->frame);
        else if (sl_plan_decoder_of(&s->plan, e->which) != SL_NO_DECODER)
            sl_sim_decode_deliver(s, e->frame);
        else
            sl_sim_stage_deliver(s, e->frame);
        break;
    case SL_SIM_RAN:
        sl_sim_stage_ran(s, e->which);
        break;
    case SL_SIM_STEP:
        sl_sim_decode_step(s, e->which);
        break;
    case SL_SIM_FORETELL:
        sl_sim_stage_hear(s, e->which);
        break;
    case SL_SIM_LEAVE:
        on_leave(s, e->which);
        break;
    case SL_SIM_TOLD:
        on_told(s, e->which);
        break;
    case SL_SIM_BACK:
        on_back(s, e->which);
        break;
    }
}

/* ---- the world ---- */

/* What must hold whatever happens, beside what the parts look at themselves. */
static void check(struct sl_sim *s)
{
    struct sl_core_load load;
    const char *bad = sl_core_check(s->core);
    if (bad)
        sl_sim_break(s, "%s", bad);
    sl_core_load(s->core, &load);
    uint32_t most = sl_plan_max_runs(&s->plan) + s->plan.max_prefill + 1;
    if (load.records - load.records_answered > most)
        sl_sim_break(s, "%llu records are in the log and not answered, and %u may be",
                     (unsigned long long)(load.records - load.records_answered), most);
    if (s->config.most_events && ++s->report.events > s->config.most_events)
        sl_sim_break(s, "it goes on after %u events; give it more if it is only long", s->config.most_events);
}

static void check_all_back(struct sl_sim *s)
{
    struct sl_core_load load;
    sl_core_load(s->core, &load);
    for (uint32_t i = 0; i < s->n_requests; i++)
        if (!s->requests[i].ended)
            sl_sim_break(s, "request %u never ended", i);
    for (uint32_t k = 0; k < s->plan.n_stages; k++)
        if (s->stages[k].table.n_used || s->stages[k].table.n_live)
            sl_sim_break(s, "stage %u still holds %u pages", k, s->stages[k].table.n_used);
    for (uint32_t d = 0; d < s->plan.max_decoders; d++)
        if (s->decoders[d].table.n_used || s->decoders[d].table.n_live)
            sl_sim_break(s, "decode worker %u still holds %u pages", d, s->decoders[d].table.n_used);
    s->report.cached_tokens = load.prompt_tokens_cached;
    s->report.evicted = load.pages_evicted;
    if (load.live || load.running || load.pages_used || load.decode_pages_used ||
        load.records != load.records_answered)
        sl_sim_break(s, "the decider still believes in %u requests", load.live);
}

static sl_status build(struct sl_sim *s, struct sl_err *err)
{
    const struct sl_sim_config *c = &s->config;
    struct sl_plan_model model = {.n_layers = c->n_stages,
                                  .max_pos = c->context_tokens,
                                  .d_model = 1,
                                  .vocab = SIM_VOCAB,
                                  .kv_layer_bytes = 64};
    struct sl_plan_options options = {.n_stages = c->n_stages,
                                      .n_decoders = c->n_decoders ? c->n_decoders : 1,
                                      .chunk_tokens = c->chunk_tokens,
                                      .max_prefill = c->max_prefill,
                                      .max_running = c->max_running,
                                      .context_tokens = c->context_tokens,
                                      .kv_tokens = c->kv_tokens};
    SL_TRY(sl_plan_make(&s->plan, &model, &options, err));
    s->limits = sl_plan_order_limits(&s->plan);
    struct sl_plan_link links[SL_MAX_LINKS + SL_MAX_DECODERS];
    s->n_links = sl_plan_links(&s->plan, links);
    for (uint32_t i = 0, n = s->n_links; i < n; i++)
        if (links[i].kind == SL_LINK_ADOPT) { /* the way back is a link of its own here */
            links[s->n_links] = links[i];
            links[s->n_links].from = links[i].to;
            links[s->n_links].to = links[i].from;
            links[s->n_links++].to_slots = links[i].from_slots;
        }
    for (uint32_t i = 0; i < s->n_links; i++) {
        s->links[i] = (struct sl_sim_link){.plan = links[i]};
        s->links[i].end = &s->links[i].waiting;
    }
    struct sl_core_config core = {.plan = &s->plan,
                                  .n_decoders = s->plan.n_decoders,
                                  .alone_us = c->alone_us,
                                  .max_requests = c->max_requests,
                                  .expect_tokens = c->expect_tokens,
                                  .prefix_cache = c->prefix_cache,
                                  .schedule = c->schedule,
                                  .chunk_us = c->budget_us,
                                  .slo_us = c->slo_us,
                                  .runs = c->runs};
    size_t tables =
        s->plan.max_decoders *
            sl_sequences_bytes(s->plan.max_running, s->plan.context_tokens, s->plan.n_pages) +
        c->n_stages * sl_sequences_bytes(s->plan.max_prefill, s->plan.context_tokens, s->plan.n_pages);
    SL_TRY(sl_arena_init(&s->arena, sl_core_bytes(&core) + tables, err));
    SL_TRY(sl_core_init(&s->core, &s->arena, &core));
    s->actions.room = sl_core_max_actions(s->core);
    s->actions.list = calloc(s->actions.room, sizeof *s->actions.list);
    SL_TRY(sl_sim_stages_init(s));
    return s->actions.list ? sl_sim_decode_init(s) : SL_E_NOMEM;
}

sl_status sl_sim_run(const struct sl_sim_config *config, struct sl_sim_request *requests, uint32_t n_requests,
                     struct sl_sim_report *report, struct sl_err *err)
{
    struct sl_sim *s = calloc(1, sizeof *s);
    sl_status status = SL_E_NOMEM;
    if (s) {
        *s = (struct sl_sim){
            .config = *config, .requests = requests, .n_requests = n_requests, .rng = {config->seed, 0}};
        status = sl_holders_init(&s->holders, requests, n_requests, SIM_VOCAB);
        if (status == SL_OK)
            status = sl_fair_init(&s->fair, requests, n_requests,
                                  config->schedule == SL_SCHEDULE_SLO && config->one_tenant);
        if (status == SL_OK)
            status = build(s, err);
    }
    if (status == SL_OK) {
        sl_core_complete(s->core, &s->actions);
        carry_out(s);
        for (uint32_t i = 0; i < n_requests; i++) {
            sl_sim_at(s, requests[i].arrive_us, SL_SIM_ARRIVE, i, NULL);
            if (requests[i].cancel_us)
                sl_sim_at(s, requests[i].cancel_us, SL_SIM_CANCEL, i, NULL);
        }
        for (uint32_t i = 0; i < config->n_leavings; i++)
            sl_sim_at(s, config->leavings[i].at_us, SL_SIM_LEAVE, i, NULL);
        if (config->flush_us)
            sl_sim_at(s, config->flush_us, SL_SIM_FLUSH, 0, NULL);
        struct sl_sim_event event;
        while (!s->broken[0] && sl_sim_next(s, &event)) {
            happen(s, &event);
            check(s);
        }
        if (!s->broken[0])
            check_all_back(s);
        s->report.end_us = s->now_us;
        s->report.tokens = s->holders.tokens;
        s->report.set_back = s->holders.set_back;
        s->report.late_turns = s->fair.late_turns;
        s->report.others_waited = s->fair.others_waited;
        *report = s->report;
        if (s->broken[0])
            status = sl_fail(err, SL_E_INTERNAL, "%s (seed %llu, at %llu us)", s->broken,
                             (unsigned long long)config->seed, (unsigned long long)s->now_us);
    }
    if (s) {
        sl_holders_fini(&s->holders);
        sl_fair_fini(&s->fair);
        sl_sim_stages_fini(s);
        sl_sim_drop_frames(s);
        sl_sim_decode_fini(s);
        free(s->actions.list);
        free(s->words);
        sl_arena_fini(&s->arena);
    }
    free(s);
    return status;
}
