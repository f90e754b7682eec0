/* The clock of a world and its loop (world_impl.h): the next thing that happens anywhere happens, and after it is looked at what must
 * hold. */
#include "bench/simulate/world_impl.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sl_world_break(struct sl_world *w, const char *format, ...)
{
    if (w->broken[0])
        return; /* the first one is what matters */
    va_list args;
    va_start(args, format);
    vsnprintf(w->broken, sizeof w->broken, format, args);
    va_end(args);
}

void sl_world_tell(struct sl_world *w, const char *format, ...)
{
    char what[200];
    if (!w->config.tell)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    w->config.tell(w->config.tell_user, w->now_us, what);
}

/* Of equal times in the order of their making. Most are of soon. */
struct sl_world_event *sl_world_at(struct sl_world *w, uint64_t at_us, enum sl_world_event_kind kind)
{
    struct sl_world_event *event = calloc(1, sizeof *event), **at = &w->events;
    if (!event)
        abort();
    while (*at && (*at)->at_us <= at_us)
        at = &(*at)->next;
    event->at_us = at_us;
    event->kind = kind;
    event->next = *at;
    *at = event;
    return event;
}

/* ---- what happens ---- */

static void comes(struct sl_world *w, uint32_t d)
{
    struct sl_err err;
    uint32_t number = sl_plan_decode_node(&w->plan, d);
    struct sl_world_node *n = &w->nodes[number];
    uint32_t life = n->life + 1;
    if (w->lost || w->places[d].link || w->port_lives + life >= SL_WORLD_LIVES)
        return;
    if (n->io) /* who was told to go, and did not hear it */
        sl_node_end(n);
    sl_world_tell(w, "another comes to place %u, in life %u", d, life);
    w->places[d].life = life;
    if (sl_node_begin(w, number, life, &err) != SL_OK)
        sl_world_break(w, "%.200s", err.text);
    else
        sl_decider_expect(w, d, life);
}

static void stop(struct sl_world *w, const struct sl_world_event *e)
{
    struct sl_world_node *n = &w->nodes[sl_plan_decode_node(&w->plan, e->which)];
    if (n->io && n->life == e->life)
        sl_node_end(n);
}

/* Whatever was told over control streams has ended with them. */
static void forget_words(struct sl_world *w)
{
    for (struct sl_world_event **at = &w->events, *e; (e = *at) != NULL;) {
        if (e->kind < SL_WORLD_FORETELL) {
            at = &e->next;
            continue;
        }
        *at = e->next;
        free(e);
    }
}

/* All processes have ended, as they do when the pipeline is lost, and a supervisor begins them anew: with another epoch, which is all that
 * keeps the old ones' frames apart. */
static void again(struct sl_world *w)
{
    struct sl_err err;
    sl_status status = SL_OK;
    uint32_t lives = 0;
    sl_world_tell(w, "another pipeline begins");
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        lives = w->nodes[i].life > lives ? w->nodes[i].life : lives;
        if (w->nodes[i].io)
            sl_node_end(&w->nodes[i]);
    }
    forget_words(w);
    sl_decider_end(w);
    w->plan.epoch++;
    w->port_lives += 1 + lives;
    w->records_before = w->report.records;
    w->complete = w->losing = w->lost = false;
    w->silent_nodes = 0;
    memset(w->places, 0, sizeof w->places);
    memset(w->seqs, 0, w->holders.n * sizeof *w->seqs);
    sl_fair_forget(&w->fair);
    status = sl_decider_begin(w, &err);
    for (uint32_t i = 0; status == SL_OK && i < w->n_nodes; i++)
        status = sl_node_begin(w, i, 0, &err);
    if (status != SL_OK)
        sl_world_break(w, "%.200s", err.text);
}

static void happen(struct sl_world *w, const struct sl_world_event *e)
{
    switch (e->kind) {
    case SL_WORLD_ARRIVE:
        if (!w->complete && w->report.pipelines_lost == 0)
            sl_world_break(w, "after %u us not all links are up", SL_WORLD_START_US);
        else
            sl_decider_submit(w, e->which);
        w->n_come++;
        sl_world_call_next(w);
        break;
    case SL_WORLD_CANCEL:
        sl_decider_cancel(w, e->which);
        break;
    case SL_WORLD_FLUSH:
        sl_core_flush_prefixes(w->core);
        break;
    case SL_WORLD_FAULT:
    case SL_WORLD_FAULT_ENDS:
        sl_faults_on_event(w, e);
        break;
    case SL_WORLD_FORETELL:
        if (w->nodes[e->node].io) /* else it is dead */
            sl_stage_role_foretell(w->nodes[e->node].role, (struct sl_foretold_cancel){e->seq, e->number});
        break;
    case SL_WORLD_SILENT:
    case SL_WORLD_DEAD:
    case SL_WORLD_READY:
        sl_decider_hear(w, e);
        break;
    case SL_WORLD_COMES:
        comes(w, e->which);
        break;
    case SL_WORLD_TELL:
        if (w->nodes[e->node].io)
            sl_node_tell_decoder(w, &w->nodes[e->node], e);
        break;
    case SL_WORLD_STOP:
        stop(w, e);
        break;
    case SL_WORLD_LOST:
        sl_decider_lose(w, "the control stream of a stage has ended");
        break;
    case SL_WORLD_AGAIN:
        again(w);
        break;
    }
}

void sl_world_call_next(struct sl_world *w)
{
    uint32_t i = w->n_called;
    if (!w->config.after || i == w->holders.n || i > w->n_come || w->config.after[i] > w->report.records)
        return;
    struct sl_sim_request *r = &w->holders.requests[i];
    uint64_t begin_us = w->now_us > SL_WORLD_START_US ? w->now_us : SL_WORLD_START_US;
    w->n_called++;
    w->ends_by_us[i] += begin_us - SL_WORLD_START_US;
    sl_world_at(w, begin_us + r->arrive_us + sl_world_draw(w, 3 * w->config.late_us), SL_WORLD_ARRIVE)
        ->which = i;
}

/* ---- what must hold ---- */

/* Who has waited for longer than all that there is to do takes ten times, and all trouble that there was, was forgotten. */
static void check_waiting(struct sl_world *w)
{
    const struct sl_sim_request *r = w->holders.requests;
    while (w->first_open < w->holders.n && r[w->first_open].ended)
        w->first_open++;
    uint32_t i = w->first_open;
    if (i < w->holders.n && w->seqs[i] && w->now_us > w->ends_by_us[i])
        sl_world_break(w, "request %u waits for more than %.1f s", i,
                       (double)(w->ends_by_us[i] - SL_WORLD_START_US - r[i].arrive_us) / 1e6);
}

static void check_decider(struct sl_world *w)
{
    struct sl_core_load load;
    const char *bad = sl_core_check(w->core);
    if (bad)
        sl_world_break(w, "%s", bad);
    sl_core_load(w->core, &load);
    uint32_t most = sl_plan_max_runs(&w->plan) + w->plan.max_prefill + 1;
    if (load.records - load.records_answered > most)
        sl_world_break(w, "%llu records are in the log and not answered, and %u may be",
                       (unsigned long long)(load.records - load.records_answered), most);
    /* as many as the coordinator has buffers for */
    uint32_t buffers = sl_plan_max_runs(&w->plan) + 4 * w->plan.max_prefill + 8 +
                       w->plan.max_decoders * (8 * w->plan.max_running + 8);
    if (w->n_out > buffers)
        sl_world_break(w, "%u frames of the decider are under way, and there are buffers for %u", w->n_out,
                       buffers);
    check_waiting(w);
}

/* Two that are at rest and do not agree on their link's slots; NULL: all do. */
static const struct sl_world_node *one_who_differs(const struct sl_world *w, uint32_t *with)
{
    for (uint32_t i = 0; i < w->n_nodes; i++)
        for (uint32_t k = i + 1; k < w->n_nodes; k++) {
            const struct sl_world_node *a = &w->nodes[i], *b = &w->nodes[k];
            if (!a->io || !b->io)
                continue;
            *with = k; /* the later one's plan has the life that it is in */
            if (!sl_io_agrees(a->io, b->io, sl_plan_link_id(&b->plan, i, k)) ||
                !sl_io_agrees(a->io, b->io, sl_plan_link_id(&b->plan, k, i)))
                return a;
        }
    return NULL;
}

/* Nothing is left anywhere. */
static bool is_over(const struct sl_world *w)
{
    struct sl_core_load load;
    if (w->holders.n_ended < w->holders.n || w->losing)
        return false;
    sl_core_load(w->core, &load);
    if (load.live > 0 || load.records != load.records_answered)
        return false;
    for (uint32_t i = 1; i < w->n_nodes; i++)
        if (w->nodes[i].io && sl_stage_sequences(w->nodes[i].stage)->n_used > 0)
            return false;
    uint32_t with;
    return !one_who_differs(w, &with);
}

static void check_over(struct sl_world *w)
{
    struct sl_core_load load;
    uint32_t with;
    sl_core_load(w->core, &load);
    for (uint32_t i = 0; i < w->holders.n; i++)
        if (!w->holders.requests[i].ended)
            sl_world_break(w, "request %u never ended", i);
    for (uint32_t i = 1; i < w->n_nodes; i++)
        if (w->nodes[i].io && sl_stage_sequences(w->nodes[i].stage)->n_used > 0)
            sl_world_break(w, "node %u still holds %u pages", i,
                           sl_stage_sequences(w->nodes[i].stage)->n_used);
    if (load.live || load.running || load.pages_used || load.decode_pages_used ||
        load.records != load.records_answered)
        sl_world_break(w, "the decider still believes in %u requests", load.live);
    for (uint32_t k = 0; k < w->plan.n_stages; k++)
        if (atomic_load(&w->nodes[1 + k].meter.records) != load.records)
            sl_world_break(w, "stage %u has applied %llu of %llu records", k,
                           (unsigned long long)atomic_load(&w->nodes[1 + k].meter.records),
                           (unsigned long long)load.records);
    const struct sl_world_node *differs = one_who_differs(w, &with);
    if (differs)
        sl_world_break(w, "nodes %u and %u, at rest, do not agree on the slots of their link",
                       differs->number, with);
    w->report.cached_tokens = load.prompt_tokens_cached;
    w->report.evicted = load.pages_evicted;
    for (uint32_t k = 0; k < w->plan.n_stages; k++)
        w->report.given_up += atomic_load(&w->nodes[1 + k].meter.given_up);
}

/* ---- the loop ---- */

enum { SETTLE_US = 30000000 };

static uint64_t next_us(const struct sl_world *w)
{
    uint64_t at_us = w->events ? w->events->at_us : UINT64_MAX;
    for (uint32_t i = 0; i < w->n_nodes; i++) {
        uint64_t wake_us = sl_node_wake_us(w, &w->nodes[i]);
        at_us = wake_us < at_us ? wake_us : at_us;
    }
    return at_us < w->now_us ? w->now_us : at_us;
}

static void one_more(struct sl_world *w, uint32_t *next)
{
    if (!w->config.one_by_one || *next >= w->holders.n || w->holders.n_ended < *next || !w->complete)
        return;
    w->holders.requests[*next].arrive_us = w->now_us;
    sl_decider_submit(w, (*next)++);
}

static void turn_all(struct sl_world *w)
{
    for (uint32_t i = 0; i < w->n_nodes && !w->broken[0]; i++) {
        if (sl_node_wake_us(w, &w->nodes[i]) > w->now_us)
            continue;
        w->report.events++;
        sl_node_turn(w, &w->nodes[i]);
        if (i == 0)
            check_decider(w);
    }
}

static void run(struct sl_world *w)
{
    uint64_t ended_us = 0;
    uint32_t next = 0;
    while (!w->broken[0]) {
        w->now_us = next_us(w);
        sl_net_set_now(w->net, w->now_us);
        while (w->events && w->events->at_us <= w->now_us && !w->broken[0]) {
            struct sl_world_event *e = w->events;
            w->events = e->next;
            w->report.events++;
            happen(w, e);
            free(e);
        }
        if (sl_net_touched(w->net) > 0)
            sl_world_break(w, "somebody has written to the bytes of a frame that was under way");
        one_more(w, &next);
        turn_all(w);
        if (w->broken[0])
            return;
        if (w->config.most_events && w->report.events > w->config.most_events)
            sl_world_break(w, "it goes on after %llu events; give it more if it is only long",
                           (unsigned long long)w->config.most_events);
        if (w->holders.n_ended == w->holders.n && ended_us == 0)
            ended_us = w->now_us;
        if (ended_us && (is_over(w) || w->now_us > ended_us + SETTLE_US))
            break;
    }
    if (!w->broken[0])
        check_over(w);
}

/* ---- the world ---- */

/* Ten times all there is to do, one after the other, each chunk through all stages before the next, and what trouble there is. */
static uint64_t patience_us(const struct sl_world *w)
{
    double us = 0;
    uint32_t way_us = w->max_delay_us + 10000, most = w->config.chunk_tokens;
    most = most > 0 && most < SL_PAGE ? most : SL_PAGE;
    for (uint32_t i = 0; i < w->holders.n; i++) {
        const struct sl_sim_request *r = &w->holders.requests[i];
        struct sl_cost_chunk page = {0}, step = {0};
        sl_cost_add(&page, r->n_ids, SL_PAGE);
        sl_cost_add(&step, r->n_ids + r->max_tokens, 1);
        us += (sl_cost_of(&w->config.cost, &page) + (most < SL_PAGE ? way_us : 0)) * (2 + r->n_ids / most) +
              (r->n ? r->n : 1) * r->max_tokens * sl_cost_of(&w->config.cost, &step);
    }
    return 2000000 + 10 * (uint64_t)us + 4 * w->trouble_us +
           (uint64_t)w->holders.n * 100 * (way_us + (w->config.slow_push ? 100000 : 0));
}

static void fill_shape(struct sl_shape *s, const struct sl_world_config *c)
{
    *s = (struct sl_shape){.n_layers = c->n_layers,
                           .d_model = 2,
                           .vocab = SL_WORLD_VOCAB,
                           .max_pos = c->context_tokens,
                           .n_q = 1,
                           .n_kv = 1,
                           .d_head = 2};
}

static sl_status make_plan(struct sl_world *w, struct sl_err *err)
{
    const struct sl_world_config *c = &w->config;
    struct sl_plan_options options = {.n_stages = c->n_stages,
                                      .n_decoders = c->n_decoders,
                                      .kv_dtype = SL_BF16,
                                      .chunk_tokens = c->chunk_tokens,
                                      .max_prefill = c->max_prefill,
                                      .max_running = c->max_running,
                                      .context_tokens = c->context_tokens,
                                      .kv_tokens = c->kv_tokens,
                                      .epoch = 1 + c->seed % 1000,
                                      .link_auth = c->auth};
    fill_shape(&w->shape, c);
    SL_TRY(sl_plan_for_shape(&w->plan, &w->shape, &options, err));
    w->limits = sl_plan_order_limits(&w->plan);
    w->n_nodes = 1 + sl_plan_n_members(&w->plan);
    return SL_OK;
}

static void plan_requests(struct sl_world *w)
{
    uint64_t patience = patience_us(w);
    for (uint32_t i = w->holders.n; i-- > 0;) {
        const struct sl_sim_request *r = &w->holders.requests[i];
        w->ends_by_us[i] = w->config.one_by_one ? UINT64_MAX : SL_WORLD_START_US + r->arrive_us + patience;
        if (w->config.one_by_one || w->config.after)
            continue;
        if (r->cancel_us)
            sl_world_at(w, SL_WORLD_START_US + r->cancel_us, SL_WORLD_CANCEL)->which = i;
        sl_world_at(w, SL_WORLD_START_US + r->arrive_us, SL_WORLD_ARRIVE)->which = i;
    }
    if (w->config.flush_us)
        sl_world_at(w, SL_WORLD_START_US + w->config.flush_us, SL_WORLD_FLUSH);
}

static sl_status build(struct sl_world *w, struct sl_sim_request *requests, uint32_t n, struct sl_err *err)
{
    SL_TRY(make_plan(w, err));
    w->seqs = calloc(n, sizeof *w->seqs);
    w->ends_by_us = calloc(n, sizeof *w->ends_by_us);
    w->nodes = calloc(w->n_nodes, sizeof *w->nodes);
    if (!w->nodes || !w->seqs || !w->ends_by_us ||
        sl_holders_init(&w->holders, requests, n, w->plan.vocab) != SL_OK ||
        sl_fair_init(&w->fair, requests, n, w->config.in_order) != SL_OK)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a world");
    struct sl_net_config net = {sl_faults_arrives_us, sl_faults_lands_us, w, w->config.all_late};
    SL_TRY(sl_net_create(&w->net, &net));
    for (uint32_t i = 0; i < sizeof w->secret; i++)
        w->secret[i] = (uint8_t)sl_rng_next(&w->rng);
    SL_TRY(sl_decider_begin(w, err));
    sl_faults_draw(w, n > 0 ? requests[n - 1].arrive_us + 100000 : 100000);
    plan_requests(w);
    for (uint32_t i = 0; i < w->n_nodes; i++)
        SL_TRY(sl_node_begin(w, i, 0, err));
    return SL_OK;
}

static void demolish(struct sl_world *w)
{
    for (uint32_t i = 0; w->nodes && i < w->n_nodes; i++)
        if (w->nodes[i].io)
            sl_node_end(&w->nodes[i]);
    while (w->events) {
        struct sl_world_event *e = w->events;
        w->events = e->next;
        free(e);
    }
    sl_decider_end(w);
    sl_net_destroy(w->net);
    sl_holders_fini(&w->holders);
    sl_fair_fini(&w->fair);
    free(w->seqs);
    free(w->ends_by_us);
    free(w->nodes);
    free(w);
}

sl_status sl_world_run(const struct sl_world_config *config, struct sl_sim_request *requests,
                       uint32_t n_requests, struct sl_world_report *report, struct sl_err *err)
{
    struct sl_world *w = calloc(1, sizeof *w);
    if (!w)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a world");
    w->config = *config;
    w->rng = (struct sl_rng){config->seed, 3};
    sl_status status = build(w, requests, n_requests, err);
    if (status == SL_OK) {
        run(w);
        w->report.end_us = w->now_us;
        w->report.tokens = w->holders.tokens;
        w->report.set_back = w->holders.set_back;
        *report = w->report;
        if (w->broken[0])
            status = sl_fail(err, SL_E_INTERNAL, "%s (at %llu us)", w->broken, (unsigned long long)w->now_us);
    }
    demolish(w);
    return status;
}
