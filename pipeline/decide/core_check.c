/* The promises of the core's tables, looked at from outside after an input: for tests and the simulator. */
#include "pipeline/decide/core_impl.h"

static bool holds_something(const struct sl_stay *s)
{
    bool holds = s->stages != SL_STAGES_NONE || s->entry.prefilling || s->unnamed > 0 || s->taken;
    for (uint32_t k = 0; k < s->n; k++)
        holds = holds || s->decode[k] != SL_DECODE_NONE || s->granted[k] > 0;
    return holds;
}

static const char *check_waiting(const struct sl_core *core)
{
    uint32_t n_waiting = 0, n_uncut = 0;
    uint64_t tokens = 0, bytes = 0;
    bool waits = false;
    for (const struct sl_schedule_entry *e = core->schedule.head; e; e = e->next) {
        const struct sl_stay *s = sl_core_stay_of((struct sl_schedule_entry *)(uintptr_t)e);
        if (waits && e->admitted)
            return "who was admitted stands behind who waits";
        if (waits && e->next && e->next->arrival < e->arrival)
            return "those that wait do not stand in the order of their arrival";
        if (!e->admitted && holds_something(s))
            return "who waits holds something";
        waits = waits || !e->admitted;
        n_waiting += !e->admitted;
        n_uncut++;
        tokens += e->admitted ? 0 : e->prompt_tokens - e->pos;
        bytes += e->admitted ? 0 : e->held_bytes;
    }
    const struct sl_schedule *schedule = &core->schedule;
    return n_waiting == schedule->n_waiting && n_uncut == schedule->n_uncut &&
                   tokens == schedule->waiting_tokens && bytes == schedule->waiting_bytes
               ? NULL
               : "what waits is not what is counted";
}

static const char *check_tenants(const struct sl_core *core)
{
    const struct sl_tenants *t = &core->policy.tenants;
    uint32_t n_live = 0, n_uncut = 0, n_backlogged = 0;
    for (uint32_t i = 0; i < core->config.max_requests; i++)
        n_live += core->requests[i].seq != 0;
    for (const struct sl_schedule_entry *e = core->schedule.head; e; e = e->next)
        n_uncut += e->counted;
    for (uint32_t i = 0; i < t->n; i++) {
        n_live -= t->of[i].n_live;
        n_uncut -= t->of[i].n_uncut;
        n_backlogged += t->of[i].n_uncut > 0;
    }
    return n_live == 0 && n_uncut == 0 && n_backlogged == t->n_backlogged
               ? NULL
               : "requests of tenants are not those that are here";
}

static const char *check_sums(const struct sl_core *core)
{
    const struct sl_schedule *schedule = &core->schedule;
    uint32_t places[SL_MAX_DECODERS] = {0}, unnamed[SL_MAX_DECODERS] = {0}, all = 0, prefilling = 0;
    for (const struct sl_stay *s = core->begun; s; s = s->next_begun) {
        places[s->entry.decoder] += s->entry.n_places;
        unnamed[s->entry.decoder] += s->unnamed;
        all += s->entry.n_places;
        prefilling += s->entry.prefilling;
        for (uint32_t k = 0; k < s->n; k++)
            if (s->decode[k] == SL_DECODE_ADOPTED && s->stages == SL_STAGES_LIVE)
                return "a prompt was adopted, and its pages on the stages were not freed";
    }
    if (all != schedule->n_decoding || prefilling != schedule->n_prefilling ||
        prefilling > core->plan.max_prefill)
        return "the places of those that have begun are not those that are taken";
    for (uint32_t d = 0; d < SL_MAX_DECODERS; d++) {
        const struct sl_schedule_decoder *taken = &schedule->decoders[d];
        if (places[d] != taken->n_decoding || places[d] > core->plan.max_running)
            return "the places of those that have begun on a decode worker are not those that are taken";
        const struct sl_prefix *kept = &core->decoders[d].kept;
        if (core->decoders[d].pages.n_used - kept->n_cached + kept->n_held + unnamed[d] !=
                taken->pages_used ||
            taken->pages_used > core->plan.n_pages)
            return "pages of a decode worker are promised twice, or lost";
        if (core->decoders[d].state == SL_DECODER_NONE && (places[d] || taken->pages_used || kept->n_cached))
            return "a decode worker that is not here has something";
    }
    const struct sl_prefix *prefix = &core->prefix;
    if (core->pages.n_used - prefix->n_cached > schedule->prefill_pages_used ||
        schedule->pages_held != prefix->n_held || prefix->n_cached > core->pages.n_used ||
        schedule->prefill_pages_used + prefix->n_held > core->plan.n_pages)
        return "pages of the stages are promised twice, or lost";
    if (core->n_live == 0 && !core->refills.active &&
        (prefix->n_held > 0 || core->pages.n_used != prefix->n_cached))
        return "nobody is there, and pages of the stages are in use";
    return NULL;
}

/* Free pages, those that sequences alone have, and those that are cached are all of the pool; and what somebody has, begins behind
 * or is written behind is held, so that it is not evicted. n_holders: of what is cached. */
static const char *check_cached(const struct sl_sequences *pages, const struct sl_prefix *prefix,
                                uint32_t n_holders)
{
    bool held;
    for (uint32_t i = 0; i < pages->n_pages; i++) {
        if (pages->readers[i] != sl_prefix_has(prefix, i, &held))
            return "a page is kept and not cached, or cached and not kept";
        if (pages->readers[i] && pages->count[i] > 0 && !held)
            return "a sequence has a page that may be evicted";
    }
    return n_holders == sl_prefix_n_holders(prefix) ? sl_prefix_check(prefix) : "a page is held for nobody";
}

static const char *check_holds(const struct sl_core *core)
{
    uint32_t n_holders = 0, n_of[SL_MAX_DECODERS] = {0};
    const char *bad = NULL;
    bool held;
    for (uint32_t i = 0; i < core->n_stays; i++) {
        const struct sl_stay *s = &core->stays[i];
        const struct sl_prefix *kept = &core->decoders[s->entry.decoder].kept;
        bool holds = s->seq != 0 && s->prefix.page != SL_PREFIX_NONE,
             holds_there = s->seq != 0 && s->kept.page != SL_PREFIX_NONE;
        n_holders += holds;
        n_of[s->entry.decoder] += holds_there;
        if ((holds && (!sl_prefix_has(&core->prefix, s->prefix.page, &held) || !held)) ||
            (holds_there && (!sl_prefix_has(kept, s->kept.page, &held) || !held)))
            return "what a prompt begins behind was evicted";
        if (holds_there && s->kept.depth < s->n_kept)
            return "what is not pushed is not held";
    }
    bad = check_cached(&core->pages, &core->prefix, n_holders);
    for (uint32_t d = 0; d < core->plan.max_decoders && !bad; d++)
        bad = check_cached(&core->decoders[d].pages, &core->decoders[d].kept, n_of[d]);
    return bad;
}

/* Answers have on the decode worker what they were granted; who has begun names the pages of others no more. */
static const char *check_granted(const struct sl_core *core)
{
    for (const struct sl_stay *s = core->begun; s; s = s->next_begun) {
        if (s->stages != SL_STAGES_NONE && s->entry.shared_pages > 0)
            return "a prompt has begun and would begin behind pages of others again";
        for (uint32_t k = 0; k < s->n; k++) {
            const struct sl_sequence *table =
                sl_sequences_find(&core->decoders[s->entry.decoder].pages, s->seq + k);
            if (s->granted[k] != (table ? table->n_pages : 0))
                return "an answer has not the pages that it was granted";
        }
    }
    return NULL;
}

static const char *check_pages(const struct sl_core *core)
{
    const char *bad = sl_sequences_check(&core->pages);
    for (uint32_t d = 0; d < core->plan.max_decoders && !bad; d++)
        bad = sl_sequences_check(&core->decoders[d].pages);
    bad = bad ? bad : check_holds(core);
    return bad ? bad : check_granted(core);
}

const char *sl_core_check(const struct sl_core *core)
{
    if (core->life == SL_LIFE_LOST)
        return NULL; /* nobody asks any more */
    const char *bad = check_waiting(core);
    bad = bad ? bad : check_tenants(core);
    bad = bad ? bad : check_sums(core);
    return bad || !core->config.prefix_cache ? bad : check_pages(core);
}
