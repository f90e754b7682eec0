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
    }
    return NULL;
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
    }
    if (all != schedule->n_decoding || prefilling != schedule->n_prefilling ||
        prefilling > core->plan.max_prefill)
        return "the places of those that have begun are not those that are taken";
    for (uint32_t d = 0; d < SL_MAX_DECODERS; d++) {
        const struct sl_schedule_decoder *taken = &schedule->decoders[d];
        if (places[d] != taken->n_decoding || places[d] > core->plan.max_running)
            return "the places of those that have begun on a decode worker are not those that are taken";
        if (core->decoders[d].pages.n_used + unnamed[d] != taken->pages_used ||
            taken->pages_used > core->plan.n_pages)
            return "pages of a decode worker are promised twice, or lost";
        if (core->decoders[d].state == SL_DECODER_NONE && (places[d] || taken->pages_used))
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
    return core->config.prefix_cache ? sl_prefix_check(prefix) : NULL;
}

const char *sl_core_check(const struct sl_core *core)
{
    if (core->life == SL_LIFE_LOST)
        return NULL; /* nobody asks any more */
    const char *bad = check_waiting(core);
    return bad ? bad : check_sums(core);
}
