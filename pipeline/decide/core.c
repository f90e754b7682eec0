/* The life of requests and their stays (core.h): inputs in, actions out. Both have tables of fixed size, and a seq says its place.
 * A request is told its end once; a stay leaves the table when nothing of it is left anywhere: its pages on the stages (FREE or
 * CANCEL answered) and on the decode worker (it said so); and with its last stay the request. */
#include "base/digest.h"
#include "base/mutate.h"
#include "pipeline/decide/core_impl.h"
#include <stdio.h>

/* ---- memory ---- */

/* Every record that can be under way: chunks, and one FREE or CANCEL for each sequence that still has its place on the stages. */
static uint32_t log_room_of(const struct sl_core_config *config)
{
    return sl_plan_max_runs(config->plan) + config->plan->max_prefill + 1;
}

/* Later stays: those that run are not more than places, as many may wait because a decode worker was lost, and as many be leaving
 * the stages. */
static uint32_t more_stays_of(const struct sl_core_config *config)
{
    return 3 * config->plan->max_running * config->plan->max_decoders + 1;
}

size_t sl_core_bytes(const struct sl_core_config *config)
{
    const struct sl_plan *plan = config->plan;
    struct sl_order_limits limits = sl_plan_order_limits(plan);
    uint32_t max_runs = sl_plan_max_runs(plan), n_stays = config->max_requests + more_stays_of(config);
    return sl_arena_round(sizeof(struct sl_core)) +
           sl_arena_round(config->max_requests * sizeof(struct sl_request)) +
           sl_pool_bytes(config->max_requests) + sl_arena_round(n_stays * sizeof(struct sl_stay)) +
           sl_pool_bytes(more_stays_of(config)) +
           sl_sequences_bytes(plan->max_prefill, plan->context_tokens, plan->n_pages) +
           plan->max_decoders * sl_sequences_bytes(plan->max_running, plan->context_tokens, plan->n_pages) +
           (config->prefix_cache ? sl_prefix_bytes(plan->n_pages, true) +
                                       plan->max_decoders * sl_prefix_bytes(plan->n_pages, false)
                                 : 0) +
           sl_arena_round(sl_pages_of(plan->context_tokens) * sizeof(uint32_t)) +
           sl_arena_round(log_room_of(config) * sizeof(struct sl_record)) +
           sl_arena_round(max_runs * sizeof(struct sl_run)) +
           max_runs * (sl_arena_round(sl_order_max_pages(&limits) * sizeof(struct sl_page_numbers)) +
                       sl_arena_round(plan->max_chunk * sizeof(uint32_t))) +
           sl_arena_round(sl_core_max_adopts(plan) * sizeof(struct sl_adopt)) +
           sl_arena_round(SL_MAX_SLICES * sizeof(struct sl_result_slice)) +
           sl_tenants_bytes(config->max_requests) + sl_core_refill_bytes(config);
}

static sl_status take_tables(struct sl_core *core, struct sl_arena *arena)
{
    const struct sl_plan *plan = &core->plan;
    SL_TRY(sl_pool_init(&core->free_requests, arena, core->config.max_requests));
    SL_TRY(sl_pool_init(&core->free_stays, arena, more_stays_of(&core->config)));
    SL_TRY(sl_tenants_init(&core->policy.tenants, arena, core->config.max_requests, core->config.weights,
                           core->config.n_weights));
    SL_TRY(sl_core_refill_init(core, arena));
    core->forgotten = sl_arena_take(arena, sl_pages_of(plan->context_tokens) * sizeof *core->forgotten);
    if (!core->forgotten)
        return SL_E_NOMEM;
    if (core->config.prefix_cache)
        SL_TRY(sl_prefix_init(&core->prefix, arena, plan->n_pages, true, plan->epoch));
    for (uint32_t d = 0; core->config.prefix_cache && d < plan->max_decoders; d++)
        SL_TRY(sl_prefix_init(&core->decoders[d].kept, arena, plan->n_pages, false, plan->epoch));
    SL_TRY(sl_sequences_init(&core->pages, arena, plan->max_prefill, plan->context_tokens, plan->n_pages));
    for (uint32_t d = 0; d < plan->max_decoders; d++)
        SL_TRY(sl_sequences_init(&core->decoders[d].pages, arena, plan->max_running, plan->context_tokens,
                                 plan->n_pages));
    return SL_OK;
}

static sl_status take_memory(struct sl_core *core, struct sl_arena *arena)
{
    const struct sl_plan *plan = &core->plan;
    struct sl_order_limits limits = sl_plan_order_limits(plan);
    core->requests = sl_arena_take(arena, core->config.max_requests * sizeof *core->requests);
    core->stays = sl_arena_take(arena, core->n_stays * sizeof *core->stays);
    core->log = sl_arena_take(arena, core->log_room * sizeof *core->log);
    core->runs = sl_arena_take(arena, core->max_runs * sizeof *core->runs);
    core->adopts = sl_arena_take(arena, sl_core_max_adopts(plan) * sizeof *core->adopts);
    core->slices = sl_arena_take(arena, SL_MAX_SLICES * sizeof *core->slices);
    if (!core->requests || !core->stays || !core->log || !core->runs || !core->adopts || !core->slices)
        return SL_E_NOMEM;
    for (uint32_t i = 0; i < core->max_runs; i++) {
        core->runs[i].pages =
            sl_arena_take(arena, sl_order_max_pages(&limits) * sizeof(struct sl_page_numbers));
        core->runs[i].ids = sl_arena_take(arena, plan->max_chunk * sizeof(uint32_t));
        if (!core->runs[i].pages || !core->runs[i].ids)
            return SL_E_NOMEM;
    }
    return take_tables(core, arena);
}

sl_status sl_core_init(struct sl_core **out, struct sl_arena *arena, const struct sl_core_config *config)
{
    assert(config->max_requests > 0 && config->n_end_ids <= SL_MAX_END_IDS);
    struct sl_core *core = sl_arena_take(arena, sizeof *core);
    if (!core)
        return SL_E_NOMEM;
    *core = (struct sl_core){.config = *config,
                             .plan = *config->plan,
                             .n_stays = config->max_requests + more_stays_of(config),
                             .log_room = log_room_of(config),
                             .max_runs = sl_plan_max_runs(config->plan)};
    if (core->config.max_waiting_bytes == 0)
        core->config.max_waiting_bytes = SL_WAITING_BYTES;
    if (core->config.max_waiting_us == 0)
        core->config.max_waiting_us = SL_WAITING_WORK_US;
    if (core->config.max_waiting_tokens == 0)
        core->config.max_waiting_tokens = SL_WAITING_TOKENS;
    core->config.plan = &core->plan;
    core->policy.look = sl_core_look_up;
    core->policy.look_user = core;
    core->growth.guess = config->expect_tokens;
    sl_schedule_init(&core->schedule, &core->plan);
    sl_core_time_init(core);
    assert(config->n_decoders <= core->plan.max_decoders);
    for (uint32_t d = 0; d < config->n_decoders; d++)
        core->decoders[d].state = SL_DECODER_HERE;
    *out = core;
    return take_memory(core, arena);
}

/* By what one input can make. A loss, also of a decode worker: an END or a SET_BACK for each answer and at most a record and an ADOPT for
 * each that runs, and its LIFE. A decision: an
 * END for each overdue one (each is over or goes on, so with those that settle not more than all), for each that is prefilled an
 * ADMIT and a release, for each that is decoded what sl_core_max_adopts counts, and a RUN for each place in the window. A RESULT:
 * for each slice RAN, TOKEN and a release. */
uint32_t sl_core_max_actions(const struct sl_core *core)
{
    return (SL_MAX_N + 1) * core->config.max_requests + 2 * core->plan.max_prefill +
           sl_core_max_adopts(&core->plan) + core->max_runs + 4 * SL_MAX_SLICES + SL_MAX_DECODERS + 8;
}

/* What actions pointed to until now is written over. */
void sl_core_begin_input(struct sl_core *core)
{
    core->n_adopts = 0;
}

/* ---- the registry ---- */

/* As actions call it, by whichever of its answers. */
static struct sl_request *find(const struct sl_core *core, uint64_t seq)
{
    uint64_t place = seq / SL_MAX_N % core->n_stays;
    struct sl_request *r = place < core->config.max_requests ? &core->requests[place] : NULL;
    return r && r->seq && r->seq == seq - seq % SL_MAX_N && seq % SL_MAX_N < r->n ? r : NULL;
}

/* As stages and the decode worker call it. */
static struct sl_stay *find_stay(const struct sl_core *core, uint64_t seq)
{
    struct sl_stay *s = &core->stays[seq / SL_MAX_N % core->n_stays];
    return s->seq && s->seq == seq - seq % SL_MAX_N && seq % SL_MAX_N < s->n ? s : NULL;
}

static bool is_held(const struct sl_stay *s)
{
    bool held = s->stages != SL_STAGES_NONE;
    for (uint32_t k = 0; k < s->n; k++)
        held = held || s->decode[k] != SL_DECODE_NONE;
    return held;
}

static void unlink_stay(struct sl_core *core, struct sl_stay *s)
{
    struct sl_stay **p = &s->request->stays;
    while (*p != s)
        p = &(*p)->next;
    *p = s->next;
    for (p = &core->begun; *p; p = &(*p)->next_begun)
        if (*p == s) {
            *p = s->next_begun;
            return;
        }
}

/* A stay that no answer goes on in, and of which nothing is left, is no more; with the last one its request. */
void sl_core_retire(struct sl_core *core, struct sl_stay *s)
{
    struct sl_request *r = s->request;
    uint32_t place = (uint32_t)(s - core->stays);
    if (sl_core_n_alive(s) > 0 || (is_held(s) && core->life != SL_LIFE_LOST))
        return;
    for (uint32_t k = 0; k < s->n; k++) /* of a lost pipeline */
        if (s->decode[k] != SL_DECODE_NONE)
            sl_core_decode_gone(core, s, k);
    sl_core_let_go_prefix(core, &s->prefix);
    sl_schedule_end(&core->schedule, &s->entry);
    unlink_stay(core, s);
    s->seq = 0;
    core->look = true;
    if (place >= core->config.max_requests)
        sl_pool_give(&core->free_stays, place - core->config.max_requests);
    if (r->ask || r->stays)
        return;
    sl_pool_give(&core->free_requests, (uint32_t)(r - core->requests));
    sl_tenants_leave(&core->policy.tenants, r->tenant);
    r->seq = 0;
    core->n_live -= !r->refill;
    if (core->refills.active == r)
        core->refills.active = NULL;
}

static void act_life(struct sl_core *core, struct sl_actions *actions)
{
    struct sl_action *a = sl_core_act(actions, SL_ACTION_LIFE, NULL);
    a->life.life = core->life;
    a->life.sentence = core->life == SL_LIFE_LOST ? core->sentence : NULL;
}

static void step_life(struct sl_core *core, enum sl_life_event event, struct sl_actions *actions)
{
    enum sl_life before = core->life;
    if (sl_life_step(&core->life, event) && core->life != before)
        act_life(core, actions);
}

/* ---- the end of a request ---- */

static void settles(struct sl_core *core, struct sl_stay *s)
{
    struct sl_stay **last = &core->settling;
    while (*last)
        last = &(*last)->next_settling;
    *last = s;
    s->next_settling = NULL;
    s->settling = true;
}

static void settled(struct sl_core *core, struct sl_stay *s)
{
    struct sl_stay **p = &core->settling;
    while (s->settling && *p != s)
        p = &(*p)->next_settling;
    if (s->settling)
        *p = s->next_settling;
    s->settling = false;
}

/* No answer goes on in it: what is left of it anywhere is let go. */
static void let_go(struct sl_core *core, struct sl_stay *s, struct sl_actions *actions)
{
    settled(core, s);
    sl_policy_leave(&core->policy, &core->schedule, &s->entry);
    sl_core_release(core, s, SL_ORDER_CANCEL, actions);
    for (uint32_t k = s->n; k-- > 0;) /* index 0 last: others may still be made of it */
        sl_core_give_up(core, s, k, actions);
    sl_core_retire(core, s);
}

static void act_end(struct sl_request *r, uint32_t i, sl_status status, enum sl_finish finish,
                    const char *error, uint64_t kv_digest, struct sl_actions *actions)
{
    struct sl_branch *answer = &r->answers[i];
    struct sl_action *a = sl_core_act(actions, SL_ACTION_END, r);
    answer->alive = false;
    r->n_alive--;
    a->seq = r->seq + i;
    a->index = i;
    a->end.status = status;
    a->end.error = error;
    a->end.finish = finish;
    a->end.last = r->n_alive == 0;
    a->end.n_out = answer->n_out;
    a->end.cached_tokens = r->cached_tokens;
    a->end.stop_id = answer->stop_id;
    a->end.logits_digest = answer->logits_digest;
    a->end.kv_digest = kv_digest;
}

/* An answer's END is told once, and what the decode worker has of it is let go. With the last one of a stay goes what all of
 * them had in common; the stay, and its request, are there until all of that has come back. */
void sl_core_end_answer(struct sl_core *core, struct sl_request *r, uint32_t i, sl_status status,
                        enum sl_finish finish, const char *error, uint64_t kv_digest,
                        struct sl_actions *actions)
{
    struct sl_branch *answer = &r->answers[i];
    struct sl_stay *s = answer->stay;
    if (answer->alive) {
        enum sl_on_decode at = s->decode[i - s->first];
        if (at == SL_DECODE_ADOPTED || at == SL_DECODE_ENDING) /* before the ask is the holder's again */
            sl_core_keep_answer(core, s, i - s->first);
        if (status == SL_OK && finish != SL_FINISH_ABORT && r->handoff) {
            sl_growth_add(&core->growth, answer->n_out);
            sl_core_time_answer_ends(core, answer);
            sl_core_refill_note(core, r, i);
        }
        act_end(r, i, status, finish, error, kv_digest, actions);
    }
    if (r->n_alive == 0)
        r->ask = NULL;
    if (sl_core_n_alive(s) > 0)
        sl_core_give_up(core, s, i - s->first, actions);
    else
        let_go(core, s, actions);
}

void sl_core_end_answers(struct sl_core *core, struct sl_request *r, sl_status status, enum sl_finish finish,
                         const char *error, struct sl_actions *actions)
{
    for (uint32_t i = 0, n = r->n; r->ask && i < n; i++)
        if (r->answers[i].alive)
            sl_core_end_answer(core, r, i, status, finish, error, 0, actions);
    for (struct sl_stay *s = r->seq ? r->stays : NULL, *next; s && core->life == SL_LIFE_LOST; s = next) {
        next = s->next;
        sl_core_retire(core, s); /* nobody will say any more that something is gone */
    }
}

/* What is corrupt has not met a request that no stage has begun: that one is merely not served. */
static void end_all(struct sl_core *core, sl_status status, const char *error, struct sl_actions *actions)
{
    for (uint32_t i = 0; i < core->config.max_requests; i++) {
        struct sl_request *r = &core->requests[i];
        sl_status told = status == SL_E_CORRUPT && !r->begun ? SL_E_UNAVAILABLE : status;
        if (r->seq)
            sl_core_end_answers(core, r, told, SL_FINISH_ABORT, error, actions);
    }
}

/* ---- stays, and cancel ---- */

/* A stay of answers [first, first + n) in a place of the table; its entry is still to be made. */
struct sl_stay *sl_core_make_stay(struct sl_core *core, struct sl_request *r, uint32_t place, uint32_t first,
                                  uint32_t n)
{
    struct sl_stay *s = &core->stays[place];
    *s = (struct sl_stay){.seq = (++core->generation * core->n_stays + place) * SL_MAX_N,
                          .request = r,
                          .next = r->stays,
                          .first = first,
                          .n = n};
    r->stays = s;
    sl_prefix_begin(&s->prefix, r->ask->cache_salt);
    sl_prefix_begin(&s->kept, r->ask->cache_salt);
    for (uint32_t k = 0; k < n; k++)
        r->answers[first + k].stay = s;
    return s;
}

/* An answer that was set back has left the decode worker: it waits for a stay of its own, where it once waited. */
void sl_core_come_again(struct sl_core *core, struct sl_stay *from, uint32_t k, uint64_t told_digest,
                        struct sl_actions *actions)
{
    struct sl_request *r = from->request;
    struct sl_branch *answer = sl_core_answer_of(from, k);
    uint32_t i = from->first + k, place;
    if (sl_pool_take(&core->free_stays, &place) !=
        SL_OK) { /* decode workers are lost faster than stages let go */
        sl_core_end_answer(core, r, i, SL_E_UNAVAILABLE, SL_FINISH_ABORT,
                           "decode workers were lost one after the other; send the request again later", 0,
                           actions);
        return;
    }
    struct sl_stay *s = sl_core_make_stay(core, r, core->config.max_requests + place, i, 1);
    s->again = true;
    s->n_told = answer->n_out - 1;
    answer->set_back = false;
    answer->told_digest = told_digest;
    sl_schedule_entry_init(&s->entry, &core->plan, r->ask->n_ids + s->n_told, r->ask->max_tokens,
                           answer->n_out, 1);
    s->entry.arrival = from->entry.arrival;
    s->entry.arrived_us = from->entry.arrived_us;
    s->entry.due_us = from->entry.due_us;
    s->entry.tenant = r->tenant;
    s->entry.again = true;
    sl_core_look_up(core, &s->entry);
    sl_policy_enter(&core->policy, &core->schedule, &s->entry, true);
    struct sl_action *a = sl_core_act(actions, SL_ACTION_SET_BACK, r);
    a->seq = r->seq + i;
    a->index = i;
    if (sl_core_n_alive(from) == 0)
        let_go(core, from, actions);
}

/* No token of the prompt was told, and what the stages have pushed is gone: all of it is prefilled again, for another decode worker. */
void sl_core_begin_anew(struct sl_core *core, struct sl_stay *from, struct sl_actions *actions)
{
    struct sl_request *r = from->request;
    uint32_t place;
    if (sl_pool_take(&core->free_stays, &place) != SL_OK) {
        sl_core_end_answers(core, r, SL_E_UNAVAILABLE, SL_FINISH_ABORT,
                            "decode workers were lost one after the other; send the request again later",
                            actions);
        return;
    }
    struct sl_stay *s = sl_core_make_stay(core, r, core->config.max_requests + place, from->first, from->n);
    sl_core_make_entry(core, r->ask, &s->entry);
    s->entry.arrival = from->entry.arrival;
    if (from->entry.pos == from->entry.prompt_tokens)
        s->entry.deadline_us = 0; /* it was kept */
    s->entry.arrived_us = from->entry.arrived_us;
    s->entry.due_us = from->entry.due_us;
    s->entry.tenant = r->tenant;
    s->entry.again = true;
    r->predicted_us = 0;              /* of something else */
    sl_core_look_up(core, &s->entry); /* what it has filled itself is there */
    sl_policy_enter(&core->policy, &core->schedule, &s->entry, true);
    let_go(core, from, actions);
}

void sl_core_cancel(struct sl_core *core, uint64_t seq, struct sl_actions *actions)
{
    struct sl_request *r = find(core, seq);
    sl_core_begin_input(core);
    if (r && r->ask)
        sl_core_end_answers(core, r, SL_OK, SL_FINISH_ABORT, NULL, actions);
}

void sl_core_fail(struct sl_core *core, uint64_t seq, sl_status status, const char *sentence,
                  struct sl_actions *actions)
{
    struct sl_request *r = find(core, seq);
    sl_core_begin_input(core);
    if (r && r->ask)
        sl_core_end_answers(core, r, status, SL_FINISH_ABORT, sentence, actions);
}

static enum sl_where where_is(const struct sl_stay *s)
{
    enum sl_where where = SL_WHERE_QUEUED;
    for (uint32_t k = 0; k < s->n; k++)
        if (s->decode[k] == SL_DECODE_ADOPTED || (s->decode[k] == SL_DECODE_ENDING && s->taken))
            return SL_WHERE_DECODE;
    if (s->stages != SL_STAGES_NONE)
        where = s->settling || s->taken ? SL_WHERE_HANDOFF : SL_WHERE_PREFILL;
    return where;
}

enum sl_where sl_core_where(const struct sl_core *core, uint64_t seq)
{
    const struct sl_request *r = find(core, seq);
    enum sl_where furthest = r ? SL_WHERE_QUEUED : SL_WHERE_GONE;
    for (const struct sl_stay *s = r ? r->stays : NULL; s; s = s->next)
        furthest = where_is(s) > furthest ? where_is(s) : furthest;
    return furthest;
}

uint64_t sl_core_request_of(const struct sl_core *core, uint64_t seq)
{
    const struct sl_stay *s = find_stay(core, seq);
    return s ? s->request->seq : 0;
}

uint64_t sl_core_seq_of(const struct sl_core *core, const char *id)
{
    const struct sl_request *r = sl_core_find_id(core, id);
    return r ? r->seq : 0;
}

void sl_core_cancel_id(struct sl_core *core, const char *id, struct sl_actions *actions)
{
    const struct sl_request *r = sl_core_find_id(core, id);
    if (r)
        sl_core_cancel(core, r->seq, actions);
}

/* ---- tokens ---- */

static bool is_one_of(const uint32_t *ids, uint32_t n, uint32_t id)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* What a peer calls a token is one: it will be prefilled, counted and written as text. */
static bool is_of_vocabulary(const struct sl_core *core, const struct sl_token_out *token)
{
    bool is = token->id < core->plan.vocab;
    for (uint32_t i = 0; i < token->n_top; i++)
        is = is && token->top_ids[i] < core->plan.vocab;
    return is;
}

/* A token is told, and what it means for the end is noted. */
static void tell_token(struct sl_core *core, struct sl_request *r, uint32_t i,
                       const struct sl_token_out *token, enum sl_text_end finish, struct sl_actions *actions)
{
    struct sl_action *a = sl_core_act(actions, SL_ACTION_TOKEN, r);
    struct sl_branch *answer = &r->answers[i];
    a->seq = r->seq + i;
    a->index = i;
    a->token.out = token;
    a->token.n_out = ++answer->n_out;
    if (answer->n_out == 1)
        answer->first_us = core->now_us;
    a->token.cached_tokens = r->cached_tokens;
    answer->last_id = token->id;
    answer->over = finish != SL_TEXT_GOES_ON;
    answer->finish = finish == SL_TEXT_STOPS ? SL_FINISH_STOP : SL_FINISH_LENGTH;
    bool ends = !r->ask->ignore_eos && is_one_of(core->config.end_ids, core->config.n_end_ids, token->id);
    if (finish == SL_TEXT_STOPS && !ends)
        answer->stop_id = token->id;
}

void sl_core_text_ends(struct sl_core *core, uint64_t seq, uint32_t n, struct sl_actions *actions)
{
    struct sl_request *r = find(core, seq);
    uint32_t i = seq % SL_MAX_N;
    sl_core_begin_input(core);
    if (!r || !r->answers[i].alive)
        return;
    struct sl_branch *answer = &r->answers[i];
    if (n != answer->n_out || n <= r->ask->min_tokens || (answer->over && answer->finish == SL_FINISH_STOP))
        return; /* too late, too early, or it ends there anyway */
    answer->finish = SL_FINISH_STOP;
    answer->over = true;
    bool leaves = answer->stay->decode[i - answer->stay->first] == SL_DECODE_ENDING;
    if (!leaves || answer->set_back) /* else the decode worker ends it by itself, and says the digests */
        sl_core_end_answer(core, r, i, SL_OK, SL_FINISH_STOP, NULL, 0, actions);
}

/* ---- what the last stage says ---- */

static void on_first_tokens(struct sl_core *core, struct sl_stay *s, const struct sl_result_slice *slice,
                            struct sl_actions *actions)
{
    struct sl_request *r = s->request;
    if (!r->handoff)
        sl_core_release(core, s, SL_ORDER_FREE, actions);
    for (uint32_t i = 0; i < r->n; i++) {
        struct sl_branch *answer = &r->answers[i];
        const struct sl_token_out *token = i == 0 ? &slice->first : &slice->more[i - 1];
        answer->logits_digest = slice->logits_digest;
        if (r->ask->max_tokens == 0) {
            sl_core_act(actions, SL_ACTION_TOKEN, r); /* no token, but the prompt */
            answer->over = true;
            answer->finish = SL_FINISH_LENGTH;
        } else {
            struct sl_adopt spec;
            sl_core_fill_adopt(core, s, i, &spec);
            tell_token(core, r, i, token, sl_adopt_finish(&spec, token->id, 1), actions);
        }
    }
}

static bool are_of_vocabulary(const struct sl_core *core, const struct sl_result_slice *slice)
{
    bool are = !slice->has_token || is_of_vocabulary(core, &slice->first);
    for (uint32_t i = 0; i < slice->n_more; i++)
        are = are && is_of_vocabulary(core, &slice->more[i]);
    return are;
}

/* A CANCEL of it is under way: with a FREE it has ended, too, but what it fills is for others. */
static bool is_cancelled(const struct sl_core *core, uint64_t seq)
{
    for (uint64_t number = core->log_answered + 1; number <= core->log_number; number++) {
        const struct sl_record *record = &core->log[number % core->log_room];
        if (record->kind == SL_ORDER_CANCEL && record->seq == seq)
            return true;
    }
    return false;
}

/* A record that a stage has given up has no token, and no page, for anybody. */
static bool gives_up_what_is_wanted(const struct sl_core *core, const struct sl_record *record)
{
    bool given_up = false, wanted = false;
    for (uint32_t k = 0; k < core->plan.n_stages; k++)
        given_up = given_up || core->head.traces[k].begin_us == SL_GIVEN_UP;
    for (uint32_t i = 0; given_up && i < record->n_slices; i++)
        wanted = wanted || !is_cancelled(core, record->slices[i].seq);
    return wanted;
}

/* A record is answered once and slice for slice, so a prompt has its first tokens once, at its end. */
static bool is_of(const struct sl_result_slice *slice, const struct sl_asked_slice *asked)
{
    return slice->seq == asked->seq && slice->index == asked->index && slice->pos == asked->pos &&
           slice->n == asked->n && slice->n_prompt == asked->n_prompt &&
           slice->has_token == asked->has_token && slice->n_more == asked->n_more;
}

/* asked_last: the prompt is prefilled with it. */
static const char *on_slice(struct sl_core *core, const struct sl_result_slice *slice, bool asked_last,
                            struct sl_cursor *in, struct sl_actions *actions)
{
    struct sl_stay *s = find_stay(core, slice->seq);
    struct sl_request *r = s && sl_core_n_alive(s) > 0 ? s->request : NULL;
    for (uint32_t i = 0; i < slice->n_prompt; i++) { /* of positions pos + 1 + i */
        struct sl_token_out token;
        if (!sl_token_get(in, &token))
            return "its log-probabilities are malformed";
        if (!is_of_vocabulary(core, &token))
            return "it has a log-probability of what is no token";
        if (r && r->ask->prompt && (uint64_t)slice->pos + 1 + i < r->ask->n_ids)
            r->ask->prompt[slice->pos + 1 + i] = token;
    }
    if (!r)
        return NULL;
    struct sl_action *a = sl_core_act(actions, SL_ACTION_RAN, r);
    a->ran.head = &core->head;
    a->ran.predicted_us = core->log[core->head.number % core->log_room].predicted_us;
    a->ran.index = slice->index;
    a->ran.pos = slice->pos;
    a->ran.n = slice->n;
    if (!asked_last)
        return NULL;
    if (slice->has_token)
        on_first_tokens(core, s, slice, actions);
    settles(core, s);
    return NULL;
}

static void on_released(struct sl_core *core, uint64_t seq)
{
    struct sl_stay *s = find_stay(core, seq);
    if (!s)
        return;
    bool legal = sl_on_stages_step(&s->stages, SL_STAGES_ANSWER);
    assert(legal);
    sl_schedule_leave_stages(&core->schedule, &s->entry);
    sl_core_retire(core, s);
}

const char *sl_core_result(struct sl_core *core, const uint8_t *bytes, size_t n, struct sl_actions *actions)
{
    struct sl_cursor in = sl_cursor_over((uint8_t *)(uintptr_t)bytes, n);
    sl_core_begin_input(core);
    if (!sl_result_get_head(&in, &core->head, core->plan.n_stages) || core->head.n_slices > SL_MAX_SLICES ||
        core->head.number != core->log_answered + 1 || core->head.number > core->log_number ||
        core->head.kind != core->log[core->head.number % core->log_room].kind)
        return "it answers a record that was not next";
    struct sl_record *record = &core->log[core->head.number % core->log_room];
    core->log_answered = core->head.number;
    if (core->head.n_slices != record->n_slices)
        return "it has not as many slices as its record";
    if (gives_up_what_is_wanted(core, record))
        return "it gives up what was not cancelled";
    for (uint32_t i = 0; i < core->head.n_slices; i++) {
        if (!sl_result_get_slice(&in, &core->slices[i]))
            return "a slice of it is malformed";
        if (!is_of(&core->slices[i], &record->slices[i]))
            return "a slice of it is not the one that its record has there";
        if (!are_of_vocabulary(core, &core->slices[i]))
            return "it has a token that is outside the vocabulary";
        const char *bad = on_slice(core, &core->slices[i], record->slices[i].last, &in, actions);
        if (bad)
            return bad;
    }
    if (record->kind == SL_ORDER_RUN) {
        core->runs_in_flight -= 1 + SL_MUTATED(DOUBLE_APPLY);
        sl_core_time_traced(core, record, &core->head);
    } else {
        on_released(core, record->seq);
    }
    return NULL;
}

/* ---- what the decode worker says ---- */

static const char *on_decode_token(struct sl_core *core, struct sl_stay *s, uint32_t k,
                                   const struct sl_tokens_entry *entry, struct sl_actions *actions)
{
    struct sl_branch *answer = sl_core_answer_of(s, k);
    bool leaves =
        s->decode[k] == SL_DECODE_ENDING && answer->set_back; /* it was said before it was told to */
    if ((s->decode[k] != SL_DECODE_ADOPTED && !leaves) || answer->over)
        return "it has a token of a sequence that is not adopted, or has said its last";
    if ((uint32_t)entry->finish > SL_TEXT_IS_FULL)
        return "it has a token with an unknown end";
    if (answer->n_out >= s->request->ask->max_tokens)
        return "it has more tokens than were asked for";
    if (!is_of_vocabulary(core, &entry->token))
        return "it has a token that is outside the vocabulary";
    answer->told_digest = entry->logits_digest; /* should the worker be lost before it says how far it came */
    tell_token(core, s->request, s->first + k, &entry->token, entry->finish, actions);
    if (answer->over && !leaves)
        sl_on_decode_step(&s->decode[k],
                          SL_DECODE_LAST); /* the end is told when it is gone, with the digests */
    core->look = core->look || sl_core_wants(s, k);
    return NULL;
}

static uint64_t chain(uint64_t before, uint64_t next)
{
    uint64_t both[2] = {before, next};
    return sl_xxh3(both, sizeof both);
}

static const char *sentence_of(sl_status status)
{
    return status == SL_E_CORRUPT
               ? "KV pages were damaged on the way to the decode worker; send the request again"
           : status == SL_E_EXHAUSTED
               ? "the decode worker has no room for the sequence; send the request again later"
               : "the decode worker gave the sequence up; send the request again";
}

static void fail_stay(struct sl_core *core, struct sl_stay *s, sl_status status, struct sl_actions *actions)
{
    for (uint32_t k = 0, n = s->n; k < n; k++)
        if (sl_core_is_alive(s, k))
            sl_core_end_answer(core, s->request, s->first + k, status, SL_FINISH_ABORT, sentence_of(status),
                               0, actions);
}

static void on_gone(struct sl_core *core, struct sl_stay *s, uint32_t k, const struct sl_tokens_entry *entry,
                    struct sl_actions *actions)
{
    struct sl_branch *answer = sl_core_answer_of(s, k);
    bool at_its_end = s->decode[k] == SL_DECODE_ENDING, failed = entry->kind == SL_TOKENS_FAILED,
         alive = sl_core_is_alive(s, k);
    /* the prompt's pages went before anything was made of them: no answer can be */
    bool of_all = k == 0 && s->decode[0] == SL_DECODE_EXPECTED && !s->taken;
    if (alive && at_its_end && !failed)
        sl_core_keep_answer(core, s, k);
    sl_core_decode_gone(core, s, k);
    if (!alive && !of_all) {
        sl_core_retire(core, s);
        return;
    }
    if (failed || of_all || !at_its_end) {
        bool known = failed && (entry->status == SL_E_CORRUPT || entry->status == SL_E_EXHAUSTED);
        sl_status status = known ? (sl_status)entry->status : SL_E_INTERNAL;
        if (of_all)
            fail_stay(core, s, status, actions);
        else
            sl_core_end_answer(core, s->request, s->first + k, status, SL_FINISH_ABORT, sentence_of(status),
                               0, actions);
        return;
    }
    if (!answer->over) {
        sl_core_come_again(core, s, k, entry->logits_digest, actions);
        return;
    }
    answer->logits_digest = chain(answer->logits_digest, entry->logits_digest);
    sl_core_end_answer(core, s->request, s->first + k, SL_OK, answer->finish, NULL, entry->kv_digest,
                       actions);
}

/* With it the prompt's pages are there, so the stages are done, whichever answer says it. */
static const char *on_adopted(struct sl_core *core, struct sl_stay *s, uint32_t k, struct sl_actions *actions)
{
    if (s->decode[k] == SL_DECODE_EXPECTED && !s->taken)
        return "it adopts a sequence that it was not given";
    if (!sl_on_decode_step(&s->decode[k], SL_DECODE_ADOPT) && s->decode[k] != SL_DECODE_ENDING)
        return "it adopts a sequence a second time";
    core->look = true;
    if (!SL_MUTATED(SKIP_FREE))
        sl_core_release(core, s, SL_ORDER_FREE, actions);
    if (sl_core_n_alive(s) > 0)
        sl_core_keep_prompt(core, s, k);
    if (!sl_core_is_alive(s, k)) /* while the others were made of it, it could not be let go */
        sl_core_give_up(core, s, k, actions);
    return NULL;
}

const char *sl_core_entry(struct sl_core *core, uint32_t decoder, const struct sl_tokens_entry *entry,
                          struct sl_actions *actions)
{
    struct sl_stay *s = find_stay(core, entry->seq);
    uint32_t k = entry->seq % SL_MAX_N;
    sl_core_begin_input(core);
    if (decoder >= core->plan.max_decoders || core->decoders[decoder].state == SL_DECODER_NONE)
        return NULL; /* it came late: all that it was about is elsewhere */
    if (entry->kind == SL_TOKENS_STEP) {
        if (entry->rows == 0 || entry->rows > core->plan.max_running)
            return "it has a step of as many sequences as it can't have";
        sl_step_fit_add(&core->decoders[decoder].step, entry->rows, entry->step_us);
        return NULL;
    }
    if (!s || s->decode[k] == SL_DECODE_NONE)
        return NULL; /* the answer to a CANCEL that crossed its end */
    if (s->entry.decoder != decoder)
        return "it speaks of a sequence that another decode worker has";
    switch (entry->kind) {
    case SL_TOKENS_TOKEN: /* of an answer that has ended it was on its way when the worker was told to stop */
        return sl_core_is_alive(s, k) ? on_decode_token(core, s, k, entry, actions) : NULL;
    case SL_TOKENS_ARRIVED:
        if (sl_core_n_alive(s) > 0) {
            struct sl_action *a = sl_core_act(actions, SL_ACTION_ARRIVED, s->request);
            a->decoder = decoder;
            a->arrived.stage = entry->stage;
            a->arrived.chunk = entry->chunk;
            a->arrived.at_us = entry->at_us;
        }
        return NULL;
    case SL_TOKENS_ADOPTED:
        return on_adopted(core, s, k, actions);
    case SL_TOKENS_ENDED:
    case SL_TOKENS_FAILED:
        on_gone(core, s, k, entry, actions);
        return NULL;
    case SL_TOKENS_STEP:
        break;
    }
    return "an entry of it is of no known kind";
}

/* ---- the pipeline's life ---- */

void sl_core_complete(struct sl_core *core, struct sl_actions *actions)
{
    step_life(core, SL_LIFE_COMPLETE, actions);
}

void sl_core_lose(struct sl_core *core, sl_status status, const char *sentence, struct sl_actions *actions)
{
    if (core->life == SL_LIFE_LOST || core->life == SL_LIFE_STOPPED)
        return;
    if (core->life == SL_LIFE_DRAINING && core->n_live == 0) {
        step_life(core, SL_LIFE_STOP, actions); /* neighbours go as we do: nothing to mourn */
        return;
    }
    snprintf(core->sentence, sizeof core->sentence, "%s", sentence);
    step_life(core, SL_LIFE_LOSE, actions);
    end_all(core, status, core->sentence, actions);
}

void sl_core_silence(struct sl_core *core, bool silent, struct sl_actions *actions)
{
    (void)actions;
    sl_core_begin_input(core);
    core->silent = silent;
}

void sl_core_drain(struct sl_core *core, struct sl_actions *actions)
{
    step_life(core, SL_LIFE_DRAIN, actions);
}

void sl_core_stop(struct sl_core *core, struct sl_actions *actions)
{
    sl_core_begin_input(core);
    step_life(core, SL_LIFE_STOP, actions);
    end_all(core, SL_OK, NULL, actions);
}

/* ---- decisions ---- */

static void end_overdue(struct sl_core *core, uint64_t now_us, struct sl_actions *actions)
{
    for (struct sl_schedule_entry *e = core->schedule.head, *next; e; e = next) {
        next = e->next;
        if (e->deadline_us && now_us > e->deadline_us && !SL_MUTATED(LATE_CANCEL))
            sl_core_end_answers(
                core, sl_core_stay_of(e)->request, SL_E_DEADLINE, SL_FINISH_ABORT,
                "the deadline passed before prefill was done; ask for more time or send it when load is lower",
                actions);
    }
}

/* What core_decoders.c needs of the above. */
/* Prefill is done, and the holders of first tokens have had the word: each answer goes on at the decode worker, or ends. */
static void settle(struct sl_core *core, struct sl_actions *actions)
{
    while (core->settling) {
        struct sl_stay *s = core->settling;
        struct sl_request *r = s->request;
        settled(core, s);
        if (r->refill) {
            sl_core_refill_done(core);
            sl_core_release(core, s, SL_ORDER_FREE, actions);
            sl_core_end_answer(core, r, 0, SL_OK, SL_FINISH_LENGTH, NULL, 0, actions);
            continue;
        }
        sl_core_time_first_token(core, s);
        for (uint32_t k = 0; k < s->n; k++)
            if (sl_core_is_alive(s, k) && sl_core_answer_of(s, k)->over)
                sl_core_end_answer(core, r, s->first + k, SL_OK, sl_core_answer_of(s, k)->finish, NULL, 0,
                                   actions);
        if (s->seq && sl_core_n_alive(s) > 0)
            sl_core_take(core, s, actions);
    }
}

void sl_core_decide(struct sl_core *core, uint64_t now_us, struct sl_actions *actions)
{
    sl_core_begin_input(core);
    sl_core_time_look(core, now_us);
    settle(core, actions);
    end_overdue(core, now_us, actions);
    sl_core_look_at_decoders(core, now_us, actions);
    if (core->silent || (core->life != SL_LIFE_READY && core->life != SL_LIFE_DRAINING))
        return;
    sl_core_grow(core, actions);
    if (core->config.schedule == SL_SCHEDULE_FIFO)
        sl_core_begin(core, actions);
    sl_core_refill(core);
    sl_core_write_runs(core, actions);
    sl_core_refill_look(core, actions);
}

uint64_t sl_core_wake_us(const struct sl_core *core)
{
    uint64_t wake = sl_core_decoders_wake_us(core);
    for (struct sl_schedule_entry *e = core->schedule.head; e; e = e->next)
        if (e->deadline_us && (wake == 0 || e->deadline_us < wake))
            wake = e->deadline_us;
    return wake ? wake + 1 : 0;
}

void sl_core_load(const struct sl_core *core, struct sl_core_load *load)
{
    const struct sl_schedule *schedule = &core->schedule;
    uint32_t n_here = 0;
    *load = (struct sl_core_load){.life = core->life,
                                  .silent = core->silent,
                                  .live = core->n_live,
                                  .prefilling = schedule->n_prefilling,
                                  .decoding = schedule->n_decoding,
                                  .running = schedule->n_decoding + schedule->n_prefill_only,
                                  .sitting_out = core->n_sitting,
                                  .set_back = core->n_set_back,
                                  .moved = core->n_moved,
                                  .pages_used = schedule->prefill_pages_used + schedule->pages_held,
                                  .pages_cached = core->prefix.n_cached,
                                  .prompt_tokens_cached = core->n_cached_tokens,
                                  .prompt_tokens_computed = core->n_computed_tokens,
                                  .handoff_tokens_kept = core->n_kept_tokens,
                                  .handoff_tokens_pushed = core->n_pushed_tokens,
                                  .pages_evicted = core->prefix.n_evicted,
                                  .n_pages = core->plan.n_pages,
                                  .waiting_bytes = schedule->waiting_bytes,
                                  .slo_dear = core->policy.budget.dear,
                                  .records = core->log_number,
                                  .records_answered = core->log_answered};
    const struct sl_request *refill = core->refills.active;
    if (refill && refill->stays && refill->stays->entry.prefilling) { /* of nobody */
        load->prefilling--;
        load->running--;
    }
    for (uint32_t d = 0; d < core->plan.max_decoders; d++) {
        const struct sl_decoder *worker = &core->decoders[d];
        sl_core_decoder_load(core, d, &load->decoders[d]);
        n_here += worker->state == SL_DECODER_HERE;
        load->n_decoders += worker->state == SL_DECODER_HERE && !worker->silent;
        load->decode_pages_used += schedule->decoders[d].pages_used;
    }
    load->alone = n_here == 0 && core->plan.max_decoders > 0;
    load->silent = core->silent || (n_here > 0 && load->n_decoders == 0);
    for (const struct sl_schedule_entry *e = schedule->head; e; e = e->next) {
        if (refill && refill->stays && e == &refill->stays->entry)
            continue;
        load->waiting += !e->admitted;
        load->waiting_tokens += e->prompt_tokens - e->pos;
    }
}
