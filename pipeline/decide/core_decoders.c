/* Decode workers that come, go, and are lost (core.h). What one had is taken up by another: an answer with what was told of it, as one
 * that was set back, and a prompt of which nothing was told from its beginning, because its pages went to a place that is no more.
 * Stages are told nothing: a record names the worker and its life, and who finds that life gone pushes nothing. */
#include "base/mutate.h"
#include "pipeline/decide/core_impl.h"
#include <stdio.h>

void sl_core_decoder_joins(struct sl_core *core, uint32_t decoder, uint32_t life, struct sl_actions *actions)
{
    struct sl_decoder *worker = &core->decoders[decoder];
    (void)actions;
    sl_core_begin_input(core);
    assert(decoder < core->plan.max_decoders && worker->state == SL_DECODER_NONE &&
           worker->pages.n_live == 0 && worker->pages.n_used == 0);
    worker->state = SL_DECODER_HERE;
    worker->life = life;
    worker->silent = false;
    worker->step = (struct sl_step_fit){0};
}

void sl_core_decoder_leaves(struct sl_core *core, uint32_t decoder, uint64_t leave_us,
                            struct sl_actions *actions)
{
    struct sl_decoder *worker = &core->decoders[decoder];
    (void)actions;
    sl_core_begin_input(core);
    if (worker->state != SL_DECODER_HERE)
        return;
    worker->state = SL_DECODER_LEAVING;
    worker->leave_us = leave_us;
    worker->gone_us = 0;
}

void sl_core_decoder_silence(struct sl_core *core, uint32_t decoder, bool silent, struct sl_actions *actions)
{
    (void)actions;
    sl_core_begin_input(core);
    core->decoders[decoder].silent = silent;
}

/* Nothing of it is on its decode worker any more, and who goes on does so elsewhere. spoiled: see sl_core_decoder_lost. */
static void move(struct sl_core *core, struct sl_stay *s, const char *spoiled, struct sl_actions *actions)
{
    uint64_t seq = s->seq;
    bool told[SL_MAX_N] = {false};
    for (uint32_t k = 0; k < s->n; k++) {
        told[k] = s->decode[k] >= SL_DECODE_ADOPTED;
        if (s->decode[k] != SL_DECODE_NONE)
            sl_core_decode_gone(core, s, k);
    }
    sl_schedule_give_decode(&core->schedule, &s->entry, 0, s->entry.n_places);
    for (uint32_t k = 0, n = s->n; s->seq == seq && k < n; k++) {
        if (!sl_core_is_alive(s, k))
            continue;
        struct sl_branch *answer = sl_core_answer_of(s, k);
        core->n_moved += !answer->over && !(told[k] && spoiled);
        if (told[k] && spoiled)
            sl_core_end_answer(core, s->request, s->first + k, SL_E_CORRUPT, SL_FINISH_ABORT, spoiled, 0,
                               actions);
        else if (answer->n_out == 0)
            sl_core_begin_anew(core, s, actions); /* with all the others: first tokens come together */
        else if (answer->over)
            sl_core_end_answer(core, s->request, s->first + k, SL_OK, answer->finish, NULL, 0, actions);
        else
            sl_core_come_again(core, s, k, answer->told_digest, actions);
    }
    if (s->seq == seq)
        sl_core_retire(core, s);
}

static bool has(const struct sl_stay *s, uint32_t decoder)
{
    if (!s->request->handoff || s->entry.decoder != decoder)
        return false;
    bool any = s->entry.n_places > 0;
    for (uint32_t k = 0; k < s->n; k++)
        any = any || s->decode[k] != SL_DECODE_NONE;
    return any;
}

static void empty(struct sl_core *core, uint32_t decoder, const char *spoiled, struct sl_actions *actions)
{
    for (struct sl_stay *s = core->begun, *next; s; s = next) {
        next = s->next_begun;
        if (has(s, decoder))
            move(core, s, spoiled, actions);
    }
    if (!SL_MUTATED(KEEP_LOST))
        sl_core_forget_kept(core, decoder); /* who comes next has nothing of it */
    core->decoders[decoder].state = SL_DECODER_NONE;
    core->decoders[decoder].silent = false;
    core->look = true;
}

void sl_core_decoder_lost(struct sl_core *core, uint32_t decoder, const char *spoiled,
                          struct sl_actions *actions)
{
    sl_core_begin_input(core);
    if (spoiled)
        snprintf(core->sentence, sizeof core->sentence, "%s", spoiled);
    if (core->decoders[decoder].state != SL_DECODER_NONE && core->life != SL_LIFE_LOST)
        empty(core, decoder, spoiled ? core->sentence : NULL, actions);
}

/* ---- decisions ---- */

static bool is_empty(const struct sl_core *core, uint32_t decoder)
{
    for (const struct sl_stay *s = core->begun; s; s = s->next_begun)
        if (has(s, decoder))
            return false;
    return true;
}

static void look_at_leaving(struct sl_core *core, uint32_t decoder, uint64_t now_us,
                            struct sl_actions *actions)
{
    struct sl_decoder *worker = &core->decoders[decoder];
    if (worker->gone_us == 0)
        worker->gone_us = now_us + worker->leave_us;
    if (now_us < worker->gone_us && !is_empty(core, decoder))
        return;
    empty(core, decoder, NULL, actions);
    struct sl_action *a = sl_core_act(actions, SL_ACTION_LEFT, NULL);
    a->decoder = decoder;
}

static bool any_here(const struct sl_core *core)
{
    for (uint32_t d = 0; d < core->plan.max_decoders; d++)
        if (core->decoders[d].state == SL_DECODER_HERE)
            return true;
    return core->plan.max_decoders == 0;
}

static void abandon(struct sl_core *core, struct sl_actions *actions)
{
    core->abandoned = true;
    for (struct sl_schedule_entry *e = core->schedule.head, *next; e; e = next) {
        next = e->next;
        struct sl_stay *s = sl_core_stay_of(e);
        for (uint32_t k = 0, n = s->n, first = s->first; !e->admitted && s->request->handoff && k < n; k++)
            if (sl_core_is_alive(s, k))
                sl_core_end_answer(
                    core, s->request, first + k, SL_E_UNAVAILABLE, SL_FINISH_ABORT,
                    "the last decode worker is gone, and none came in its place; start one with "
                    "sluice decode, and send the request again",
                    0, actions);
    }
}

void sl_core_look_at_decoders(struct sl_core *core, uint64_t now_us, struct sl_actions *actions)
{
    if (core->life != SL_LIFE_READY && core->life != SL_LIFE_DRAINING)
        return;
    for (uint32_t d = 0; d < core->plan.max_decoders; d++)
        if (core->decoders[d].state == SL_DECODER_LEAVING)
            look_at_leaving(core, d, now_us, actions);
    if (any_here(core)) {
        core->alone_us = 0;
        core->abandoned = false;
        return;
    }
    core->alone_us = core->alone_us ? core->alone_us : now_us + (now_us == 0);
    if (core->config.alone_us && now_us >= core->alone_us + core->config.alone_us && !core->abandoned)
        abandon(core, actions);
}

uint64_t sl_core_decoders_wake_us(const struct sl_core *core)
{
    uint64_t wake = core->alone_us && core->config.alone_us && !core->abandoned
                        ? core->alone_us + core->config.alone_us
                        : 0;
    for (uint32_t d = 0; d < core->plan.max_decoders; d++) {
        const struct sl_decoder *worker = &core->decoders[d];
        if (worker->state == SL_DECODER_LEAVING && worker->gone_us && (wake == 0 || worker->gone_us < wake))
            wake = worker->gone_us;
    }
    return wake;
}

void sl_core_decoder_load(const struct sl_core *core, uint32_t decoder, struct sl_decoder_load *load)
{
    const struct sl_decoder *worker = &core->decoders[decoder];
    const struct sl_schedule_decoder *taken = &core->schedule.decoders[decoder];
    *load = (struct sl_decoder_load){.state = worker->state,
                                     .silent = worker->silent,
                                     .life = worker->life,
                                     .decoding = taken->n_decoding,
                                     .pages_used = taken->pages_used,
                                     .pages_kept = worker->kept.n_cached,
                                     .step_us = sl_step_fit_us(&worker->step, taken->n_decoding + 1)};
}
