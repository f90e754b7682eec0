/* The life of requests (core.h): inputs in, actions out. The registry is a table of fixed size, a request's place in it is
 * its seq modulo that size. A request is told its end once; it leaves the registry when nothing of it is left anywhere: its
 * pages on the stages (FREE or CANCEL answered) and on the decode worker (it said so). */
#include "base/digest.h"
#include "pipeline/decide/core_impl.h"
#include <stdio.h>

/* ---- memory ---- */

/* Every record that can be under way: chunks, and one FREE or CANCEL for each request whose release is not answered; while it is
 * not, its place may already run another one, whose release follows. */
static uint32_t log_room_of(const struct sl_core_config *config)
{
    return sl_plan_max_runs(config->plan) + 2 * config->plan->max_running + 1;
}

size_t sl_core_bytes(const struct sl_core_config *config)
{
    const struct sl_plan *plan = config->plan;
    struct sl_order_limits limits = sl_plan_order_limits(plan);
    uint32_t max_runs = sl_plan_max_runs(plan);
    return sl_arena_round(sizeof(struct sl_core)) +
           sl_arena_round(config->max_requests * sizeof(struct sl_request)) +
           sl_pool_bytes(config->max_requests) +
           2 * sl_sequences_bytes(plan->max_running, plan->context_tokens, plan->n_pages) +
           sl_arena_round(log_room_of(config) * sizeof(struct sl_record)) +
           sl_arena_round(max_runs * sizeof(struct sl_run)) +
           max_runs * sl_arena_round(sl_order_max_pages(&limits) * sizeof(struct sl_page_numbers)) +
           sl_arena_round(plan->max_running * sizeof(struct sl_adopt)) +
           sl_arena_round(SL_MAX_SLICES * sizeof(struct sl_result_slice));
}

static sl_status take_memory(struct sl_core *core, struct sl_arena *arena)
{
    const struct sl_plan *plan = &core->plan;
    struct sl_order_limits limits = sl_plan_order_limits(plan);
    core->requests = sl_arena_take(arena, core->config.max_requests * sizeof *core->requests);
    core->log = sl_arena_take(arena, core->log_room * sizeof *core->log);
    core->runs = sl_arena_take(arena, core->max_runs * sizeof *core->runs);
    core->adopts = sl_arena_take(arena, plan->max_running * sizeof *core->adopts);
    core->slices = sl_arena_take(arena, SL_MAX_SLICES * sizeof *core->slices);
    if (!core->requests || !core->log || !core->runs || !core->adopts || !core->slices)
        return SL_E_NOMEM;
    for (uint32_t i = 0; i < core->max_runs; i++) {
        core->runs[i].pages =
            sl_arena_take(arena, sl_order_max_pages(&limits) * sizeof(struct sl_page_numbers));
        if (!core->runs[i].pages)
            return SL_E_NOMEM;
    }
    SL_TRY(sl_pool_init(&core->free_requests, arena, core->config.max_requests));
    SL_TRY(sl_sequences_init(&core->pages, arena, plan->max_running, plan->context_tokens, plan->n_pages));
    return sl_sequences_init(&core->decode_pages, arena, plan->max_running, plan->context_tokens,
                             plan->n_pages);
}

sl_status sl_core_init(struct sl_core **out, struct sl_arena *arena, const struct sl_core_config *config)
{
    assert(config->max_requests > 0 && config->n_end_ids <= SL_MAX_END_IDS);
    struct sl_core *core = sl_arena_take(arena, sizeof *core);
    if (!core)
        return SL_E_NOMEM;
    *core = (struct sl_core){.config = *config,
                             .plan = *config->plan,
                             .log_room = log_room_of(config),
                             .max_runs = sl_plan_max_runs(config->plan)};
    if (core->config.max_waiting_bytes == 0)
        core->config.max_waiting_bytes = SL_WAITING_BYTES;
    core->config.plan = &core->plan;
    sl_schedule_init(&core->schedule, &core->plan);
    *out = core;
    return take_memory(core, arena);
}

/* By what one input can make. A loss: an END for each answer and at most a record and an ADOPT for each that runs, and its LIFE. A decision: an
 * END for each overdue one (each is over or goes on, so with those that settle not more than all), for each that runs an ADMIT, a
 * TAKE or CANCEL and a release, and a RUN for each place in the window. A RESULT: for each slice RAN, TOKEN and a release. */
uint32_t sl_core_max_actions(const struct sl_core *core)
{
    return (SL_MAX_N + 1) * core->config.max_requests + 4 * core->plan.max_running + core->max_runs +
           4 * SL_MAX_SLICES + 8;
}

/* ---- the registry ---- */

/* Of whichever of its answers. */
static struct sl_request *find(const struct sl_core *core, uint64_t seq)
{
    struct sl_request *r = &core->requests[seq / SL_MAX_N % core->config.max_requests];
    return r->seq && r->seq == seq - seq % SL_MAX_N && seq % SL_MAX_N < r->n ? r : NULL;
}

static bool is_held(const struct sl_request *r)
{
    bool held = r->stages != SL_STAGES_NONE;
    for (uint32_t i = 0; i < r->n; i++)
        held = held || r->answers[i].decode != SL_DECODE_NONE;
    return held;
}

static void retire(struct sl_core *core, struct sl_request *r)
{
    if (r->ask || (is_held(r) && core->life != SL_LIFE_LOST))
        return;
    sl_schedule_end(&core->schedule, &r->entry);
    sl_pool_give(&core->free_requests, (uint32_t)(r - core->requests));
    r->seq = 0;
    core->n_live--;
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

static void settled(struct sl_core *core, struct sl_request *r)
{
    core->n_settling -= r->settling;
    r->settling = false;
}

/* An answer's END is told once, and what the decode worker has of it is let go. With the last one goes what all of them had in
 * common; the request stays in the registry until all of that has come back. */
static void end(struct sl_core *core, struct sl_request *r, uint32_t i, sl_status status,
                enum sl_finish finish, const char *error, uint64_t kv_digest, struct sl_actions *actions)
{
    struct sl_branch *answer = &r->answers[i];
    if (answer->alive) {
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
        a->end.stop_id = answer->stop_id;
        a->end.logits_digest = answer->logits_digest;
        a->end.kv_digest = kv_digest;
    }
    if (r->n_alive > 0) {
        sl_core_give_up(core, r, i, actions);
        return;
    }
    r->ask = NULL;
    settled(core, r);
    sl_schedule_remove(&core->schedule, &r->entry);
    sl_core_release(core, r, SL_ORDER_CANCEL, actions);
    for (uint32_t k = r->n; k-- > 0;) /* index 0 last: others may still be made of it */
        sl_core_give_up(core, r, k, actions);
    retire(core, r);
}

static void end_answers(struct sl_core *core, struct sl_request *r, sl_status status, enum sl_finish finish,
                        const char *error, struct sl_actions *actions)
{
    for (uint32_t i = 0, n = r->n; r->ask && i < n; i++)
        if (r->answers[i].alive)
            end(core, r, i, status, finish, error, 0, actions);
    if (r->seq && core->life == SL_LIFE_LOST)
        retire(core, r); /* nobody will say any more that something is gone */
}

/* What is corrupt has not met a request that no stage has begun: that one is merely not served. */
static void end_all(struct sl_core *core, sl_status status, const char *error, struct sl_actions *actions)
{
    for (uint32_t i = 0; i < core->config.max_requests; i++) {
        struct sl_request *r = &core->requests[i];
        sl_status told = status == SL_E_CORRUPT && !r->entry.admitted ? SL_E_UNAVAILABLE : status;
        if (r->seq)
            end_answers(core, r, told, SL_FINISH_ABORT, error, actions);
    }
}

/* ---- submit and cancel ---- */

static const struct sl_request *find_id(const struct sl_core *core, const char *id)
{
    for (uint32_t i = 0; id[0] && i < core->config.max_requests; i++)
        if (core->requests[i].seq && core->requests[i].ask && strcmp(core->requests[i].ask->id, id) == 0)
            return &core->requests[i];
    return NULL;
}

static void make_entry(const struct sl_core *core, const struct sl_ask *ask, uint64_t seq,
                       struct sl_schedule_entry *entry)
{
    sl_schedule_entry_init(entry, &core->plan, seq, ask->n_ids, ask->max_tokens > 1 ? ask->max_tokens : 0);
    sl_schedule_entry_fork(entry, ask->n ? ask->n : 1);
    entry->steering_bytes = ask->steering_bytes;
    entry->held_bytes = ask->held_bytes;
}

static sl_status may_submit(const struct sl_core *core, const struct sl_ask *ask, const char **why)
{
    static const char *const by_life[SL_LIVES] = {
        [SL_LIFE_FORMING] = "the pipeline is not complete yet; try again when it is ready",
        [SL_LIFE_DRAINING] = "this node is draining; send the request to another",
        [SL_LIFE_STOPPED] = "this node is stopping; send the request to another",
    };
    *why = core->life == SL_LIFE_LOST ? core->sentence : by_life[core->life];
    if (*why)
        return SL_E_UNAVAILABLE;
    struct sl_schedule_entry entry;
    make_entry(core, ask, 0, &entry);
    *why = "n is more than the requests that run at once here; ask for fewer answers";
    if (entry.n_places > core->plan.max_running)
        return SL_E_INVALID;
    *why = "n answers of max_tokens need more KV pages than this node has; ask for fewer or shorter ones";
    if (entry.decode_pages > core->plan.n_pages)
        return SL_E_INVALID;
    *why = "as many requests are queued as this node takes; try again later";
    if (core->free_requests.n_free == 0)
        return SL_E_EXHAUSTED;
    *why = "the requests that are queued hold as many bytes as this node keeps for them; try again later";
    size_t waiting = core->schedule.waiting_bytes, most = core->config.max_waiting_bytes;
    if (waiting > 0 && (waiting >= most || ask->held_bytes > most - waiting))
        return SL_E_EXHAUSTED;
    *why = "a request with this id is live; choose another id";
    return find_id(core, ask->id) ? SL_E_EXISTS : SL_OK;
}

uint64_t sl_core_submit(struct sl_core *core, uint64_t now_us, struct sl_ask *ask, struct sl_actions *actions)
{
    const char *why;
    uint32_t place;
    sl_status status = may_submit(core, ask, &why);
    (void)now_us;
    if (status != SL_OK || sl_pool_take(&core->free_requests, &place) != SL_OK) {
        struct sl_action *a = sl_core_act(actions, SL_ACTION_END, NULL);
        a->user = ask->user;
        a->end.status = status;
        a->end.error = why;
        a->end.finish = SL_FINISH_ABORT;
        a->end.last = true;
        a->end.stop_id = -1;
        return 0;
    }
    struct sl_request *r = &core->requests[place];
    uint32_t n = ask->n ? ask->n : 1;
    assert(n <= SL_MAX_N && (n == 1 || ask->max_tokens > 0) &&
           ask->steering_bytes <= core->plan.steering_bytes);
    *r = (struct sl_request){.seq = (++core->generation * core->config.max_requests + place) * SL_MAX_N,
                             .ask = ask,
                             .handoff = ask->max_tokens > 1,
                             .n = n,
                             .n_alive = n};
    for (uint32_t i = 0; i < n; i++)
        r->answers[i] = (struct sl_branch){.alive = true, .stop_id = -1};
    core->n_live++;
    make_entry(core, ask, r->seq, &r->entry);
    sl_schedule_push(&core->schedule, &r->entry);
    return r->seq;
}

void sl_core_cancel(struct sl_core *core, uint64_t seq, struct sl_actions *actions)
{
    struct sl_request *r = find(core, seq);
    core->n_adopts = 0;
    if (r && r->ask)
        end_answers(core, r, SL_OK, SL_FINISH_ABORT, NULL, actions);
}

void sl_core_fail(struct sl_core *core, uint64_t seq, sl_status status, const char *sentence,
                  struct sl_actions *actions)
{
    struct sl_request *r = find(core, seq);
    core->n_adopts = 0;
    if (r && r->ask)
        end_answers(core, r, status, SL_FINISH_ABORT, sentence, actions);
}

void sl_core_cancel_id(struct sl_core *core, const char *id, struct sl_actions *actions)
{
    const struct sl_request *r = find_id(core, id);
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

/* A token is told, and what it means for the end is noted. finish: as sl_adopt_finish says. */
static void tell_token(struct sl_core *core, struct sl_request *r, uint32_t i,
                       const struct sl_token_out *token, uint32_t finish, struct sl_actions *actions)
{
    struct sl_action *a = sl_core_act(actions, SL_ACTION_TOKEN, r);
    struct sl_branch *answer = &r->answers[i];
    a->seq = r->seq + i;
    a->index = i;
    a->token.out = token;
    a->token.n_out = ++answer->n_out;
    answer->over = finish != 0;
    answer->finish = finish == 1 ? SL_FINISH_STOP : SL_FINISH_LENGTH;
    bool ends = !r->ask->ignore_eos && is_one_of(core->config.end_ids, core->config.n_end_ids, token->id);
    if (finish == 1 && !ends)
        answer->stop_id = token->id;
}

void sl_core_text_ends(struct sl_core *core, uint64_t seq, uint32_t n, struct sl_actions *actions)
{
    struct sl_request *r = find(core, seq);
    uint32_t i = seq % SL_MAX_N;
    core->n_adopts = 0;
    if (!r || !r->answers[i].alive)
        return;
    struct sl_branch *answer = &r->answers[i];
    if (n != answer->n_out || n <= r->ask->min_tokens || (answer->over && answer->finish == SL_FINISH_STOP))
        return; /* too late, too early, or it ends there anyway */
    answer->finish = SL_FINISH_STOP;
    answer->over = true;
    if (answer->decode !=
        SL_DECODE_ENDING) /* else the decode worker ends it by itself, and says the digests */
        end(core, r, i, SL_OK, SL_FINISH_STOP, NULL, 0, actions);
}

/* ---- what the last stage says ---- */

static void on_first_tokens(struct sl_core *core, struct sl_request *r, const struct sl_result_slice *slice,
                            struct sl_actions *actions)
{
    if (!r->handoff)
        sl_core_release(core, r, SL_ORDER_FREE, actions);
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
            answer->first_id = token->id;
            sl_core_fill_adopt(core, r, i, &spec);
            tell_token(core, r, i, token, sl_adopt_finish(&spec, token->id, 1), actions);
        }
    }
    r->settling = true;
    core->n_settling++;
}

/* A record is answered once and slice for slice, so a prompt has its first tokens once, at its end. */
static bool is_of(const struct sl_result_slice *slice, const struct sl_asked_slice *asked)
{
    return slice->seq == asked->seq && slice->index == asked->index && slice->pos == asked->pos &&
           slice->n == asked->n && slice->n_prompt == asked->n_prompt && slice->has_token == asked->last &&
           slice->n_more == asked->n_more;
}

static const char *on_slice(struct sl_core *core, const struct sl_result_slice *slice, struct sl_cursor *in,
                            struct sl_actions *actions)
{
    struct sl_request *r = find(core, slice->seq);
    bool live = r && r->ask;
    for (uint32_t i = 0; i < slice->n_prompt; i++) { /* of positions pos + 1 + i */
        struct sl_token_out token;
        if (!sl_token_get(in, &token))
            return "its log-probabilities are malformed";
        if (live && r->ask->prompt && (uint64_t)slice->pos + 1 + i < r->ask->n_ids)
            r->ask->prompt[slice->pos + 1 + i] = token;
    }
    if (!live)
        return NULL;
    struct sl_action *a = sl_core_act(actions, SL_ACTION_RAN, r);
    a->ran.head = &core->head;
    a->ran.index = slice->index;
    a->ran.pos = slice->pos;
    a->ran.n = slice->n;
    if (slice->has_token)
        on_first_tokens(core, r, slice, actions);
    return NULL;
}

static void on_released(struct sl_core *core, uint64_t seq)
{
    struct sl_request *r = find(core, seq);
    if (!r)
        return;
    bool legal = sl_on_stages_step(&r->stages, SL_STAGES_ANSWER);
    assert(legal);
    retire(core, r);
}

const char *sl_core_result(struct sl_core *core, const uint8_t *bytes, size_t n, struct sl_actions *actions)
{
    struct sl_cursor in = sl_cursor_over((uint8_t *)(uintptr_t)bytes, n);
    core->n_adopts = 0;
    if (!sl_result_get_head(&in, &core->head, core->plan.n_stages) || core->head.n_slices > SL_MAX_SLICES ||
        core->head.number != core->log_answered + 1 || core->head.number > core->log_number ||
        core->head.kind != core->log[core->head.number % core->log_room].kind)
        return "it answers a record that was not next";
    const struct sl_record *record = &core->log[core->head.number % core->log_room];
    core->log_answered = core->head.number;
    if (core->head.n_slices != record->n_slices)
        return "it has not as many slices as its record";
    for (uint32_t i = 0; i < core->head.n_slices; i++) {
        if (!sl_result_get_slice(&in, &core->slices[i]))
            return "a slice of it is malformed";
        if (!is_of(&core->slices[i], &record->slices[i]))
            return "a slice of it is not the one that its record has there";
        const char *bad = on_slice(core, &core->slices[i], &in, actions);
        if (bad)
            return bad;
    }
    if (record->kind == SL_ORDER_RUN)
        core->runs_in_flight--;
    else
        on_released(core, record->seq);
    return NULL;
}

/* ---- what the decode worker says ---- */

static const char *on_decode_token(struct sl_core *core, struct sl_request *r, uint32_t i,
                                   const struct sl_tokens_entry *entry, struct sl_actions *actions)
{
    struct sl_branch *answer = &r->answers[i];
    if (answer->decode != SL_DECODE_ADOPTED)
        return "it has a token of a sequence that is not adopted, or has said its last";
    if (entry->finish > 2)
        return "it has a token with an unknown end";
    if (answer->n_out >= r->ask->max_tokens)
        return "it has more tokens than were asked for";
    tell_token(core, r, i, &entry->token, entry->finish, actions);
    if (answer->over)
        sl_on_decode_step(&answer->decode,
                          SL_DECODE_LAST); /* the end is told when it is gone, with the digests */
    return NULL;
}

static void on_gone(struct sl_core *core, struct sl_request *r, uint32_t i,
                    const struct sl_tokens_entry *entry, struct sl_actions *actions)
{
    struct sl_branch *answer = &r->answers[i];
    bool at_its_end = answer->decode == SL_DECODE_ENDING;
    /* the prompt's pages went before anything was made of them: no answer can be */
    bool of_all = i == 0 && answer->decode == SL_DECODE_EXPECTED && (answer->n_out == 0 || r->settling);
    sl_core_decode_gone(core, r, i);
    if (entry->kind == SL_TOKENS_FAILED || of_all || (answer->alive && !at_its_end)) {
        bool known = entry->kind == SL_TOKENS_FAILED &&
                     (entry->status == SL_E_CORRUPT || entry->status == SL_E_EXHAUSTED);
        sl_status status = known ? (sl_status)entry->status : SL_E_INTERNAL;
        const char *error =
            status == SL_E_CORRUPT
                ? "KV pages were damaged on the way to the decode worker; send the request again"
            : status == SL_E_EXHAUSTED
                ? "the decode worker has no room for the sequence; send the request again later"
                : "the decode worker gave the sequence up; send the request again";
        if (of_all)
            end_answers(core, r, status, SL_FINISH_ABORT, error, actions);
        else
            end(core, r, i, status, SL_FINISH_ABORT, error, 0, actions);
        return;
    }
    uint64_t chain[2] = {answer->logits_digest, entry->logits_digest};
    answer->logits_digest = sl_xxh3(chain, sizeof chain);
    end(core, r, i, SL_OK, answer->finish, NULL, entry->kv_digest, actions);
}

/* With it the prompt's pages are there, so the stages are done, whichever answer says it. */
static const char *on_adopted(struct sl_core *core, struct sl_request *r, uint32_t i,
                              struct sl_actions *actions)
{
    struct sl_branch *answer = &r->answers[i];
    if (answer->decode == SL_DECODE_EXPECTED && (answer->n_out == 0 || r->settling))
        return "it adopts a sequence that it was not given";
    if (!sl_on_decode_step(&answer->decode, SL_DECODE_ADOPT) && answer->decode != SL_DECODE_ENDING)
        return "it adopts a sequence a second time";
    sl_core_release(core, r, SL_ORDER_FREE, actions);
    if (!answer->alive) /* while the others were made of it, it could not be let go */
        sl_core_give_up(core, r, i, actions);
    return NULL;
}

const char *sl_core_entry(struct sl_core *core, const struct sl_tokens_entry *entry,
                          struct sl_actions *actions)
{
    struct sl_request *r = find(core, entry->seq);
    uint32_t i = entry->seq % SL_MAX_N;
    core->n_adopts = 0;
    if (!r || r->answers[i].decode == SL_DECODE_NONE)
        return NULL; /* the answer to a CANCEL that crossed its end */
    switch (entry->kind) {
    case SL_TOKENS_TOKEN: /* of an answer that has ended it was on its way when the worker was told to stop */
        return r->answers[i].alive ? on_decode_token(core, r, i, entry, actions) : NULL;
    case SL_TOKENS_ARRIVED:
        if (r->ask) {
            struct sl_action *a = sl_core_act(actions, SL_ACTION_ARRIVED, r);
            a->arrived.stage = entry->stage;
            a->arrived.chunk = entry->chunk;
            a->arrived.at_us = entry->at_us;
        }
        return NULL;
    case SL_TOKENS_ADOPTED:
        return on_adopted(core, r, i, actions);
    case SL_TOKENS_ENDED:
    case SL_TOKENS_FAILED:
        on_gone(core, r, i, entry, actions);
        return NULL;
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
    core->n_adopts = 0;
    core->silent = silent;
}

void sl_core_drain(struct sl_core *core, struct sl_actions *actions)
{
    step_life(core, SL_LIFE_DRAIN, actions);
}

void sl_core_stop(struct sl_core *core, struct sl_actions *actions)
{
    core->n_adopts = 0;
    step_life(core, SL_LIFE_STOP, actions);
    end_all(core, SL_OK, NULL, actions);
}

/* ---- decisions ---- */

static void end_overdue(struct sl_core *core, uint64_t now_us, struct sl_actions *actions)
{
    for (struct sl_schedule_entry *e = core->schedule.head, *next; e; e = next) {
        struct sl_request *r = sl_core_request_of(e);
        next = e->next;
        if (r->ask->deadline_us && now_us > r->ask->deadline_us)
            end_answers(
                core, r, SL_E_DEADLINE, SL_FINISH_ABORT,
                "the deadline passed before prefill was done; ask for more time or send it when load is lower",
                actions);
    }
}

/* First tokens were told, and their holders have had the word: each goes on at the decode worker, or ends. */
static void settle(struct sl_core *core, struct sl_actions *actions)
{
    for (uint32_t i = 0; core->n_settling > 0 && i < core->config.max_requests; i++) {
        struct sl_request *r = &core->requests[i];
        if (!r->seq || !r->settling)
            continue;
        settled(core, r);
        for (uint32_t k = 0; r->ask && k < r->n; k++)
            if (r->answers[k].alive && r->answers[k].over)
                end(core, r, k, SL_OK, r->answers[k].finish, NULL, 0, actions);
        if (r->ask)
            sl_core_take(core, r, actions);
    }
}

void sl_core_decide(struct sl_core *core, uint64_t now_us, struct sl_actions *actions)
{
    core->n_adopts = 0;
    settle(core, actions);
    end_overdue(core, now_us, actions);
    if (!core->silent && (core->life == SL_LIFE_READY || core->life == SL_LIFE_DRAINING))
        sl_core_write_runs(core, actions);
}

uint64_t sl_core_wake_us(const struct sl_core *core)
{
    uint64_t wake = 0;
    for (const struct sl_schedule_entry *e = core->schedule.head; e; e = e->next) {
        const struct sl_request *r =
            (const struct sl_request *)(const void *)((const char *)e - offsetof(struct sl_request, entry));
        if (r->ask->deadline_us && (wake == 0 || r->ask->deadline_us < wake))
            wake = r->ask->deadline_us;
    }
    return wake ? wake + 1 : 0;
}

void sl_core_load(const struct sl_core *core, struct sl_core_load *load)
{
    *load = (struct sl_core_load){.life = core->life,
                                  .silent = core->silent,
                                  .live = core->n_live,
                                  .running = core->schedule.n_admitted,
                                  .pages_used = core->schedule.prefill_pages_used,
                                  .decode_pages_used = core->schedule.decode_pages_used,
                                  .n_pages = core->plan.n_pages,
                                  .waiting_bytes = core->schedule.waiting_bytes,
                                  .records = core->log_number,
                                  .records_answered = core->log_answered};
    for (const struct sl_schedule_entry *e = core->schedule.head; e; e = e->next) {
        load->waiting += !e->admitted;
        load->waiting_tokens += e->prompt_tokens - e->pos;
    }
}
