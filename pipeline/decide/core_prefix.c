/* Prefixes that are computed once (prefix.h), as the core uses them: what a prompt begins behind, which of its pages others may
 * begin behind, and where a page of the stages comes from.
 *
 * A stay holds what is cached of its prompt from its submission on, so that nothing evicts what it is about to use and its time
 * is predicted by what is left, and looks again when its first slice is to be cut: who came before it may have filled more. A page is the cache's as soon as the
 * record that fills it is in the log. The schedule promises a stay the pages that are its own; those that it shares are the
 * cache's, and count as long as somebody holds them: promised + held <= pool, and what is cached and not held is free on demand.
 * Who waits and holds a prefix lets go of it when another could begin otherwise: so nobody waits for pages of those who wait. */
#include "base/mutate.h"
#include "pipeline/decide/core_impl.h"

static void note_held(struct sl_core *core)
{
    core->schedule.pages_held = core->prefix.n_held;
}

/* Of what was asked, and behind it of what was told. */
void sl_core_copy_ids_of(uint32_t *out, const struct sl_ask *ask, const uint32_t *told, uint32_t pos,
                         uint32_t n)
{
    uint32_t of_prompt = pos < ask->n_ids ? ask->n_ids - pos : 0;
    of_prompt = of_prompt < n ? of_prompt : n;
    memcpy(out, ask->ids + pos, of_prompt * sizeof *out);
    if (of_prompt < n)
        memcpy(out + of_prompt, told + (pos + of_prompt - ask->n_ids), (n - of_prompt) * sizeof *out);
}

void sl_core_copy_ids(uint32_t *out, const struct sl_stay *s, uint32_t pos, uint32_t n)
{
    const struct sl_ask *ask = s->request->ask;
    sl_core_copy_ids_of(out, ask, ask->said[s->first].ids, pos, n);
}

/* Who was admitted holds a page instead of one that it was promised; who waits may not hold what is promised to others. */
static bool may_hold_more(const struct sl_core *core, const struct sl_schedule_entry *e)
{
    return e->admitted || core->schedule.prefill_pages_used + core->prefix.n_held < core->plan.n_pages;
}

/* It holds what is cached of its prompt, and begins behind that; what was promised to it and is not needed goes back. */
static void step_on(struct sl_core *core, struct sl_prefix_at *at, struct sl_schedule_entry *e,
                    const struct sl_ask *ask, const uint32_t *told)
{
    uint32_t ids[SL_PAGE], before = e->shared_pages, n = before;
    for (; (n + 1) * SL_PAGE < e->prompt_tokens && may_hold_more(core, e); n++) {
        if (!at->has_next) /* else it was asked for before */
            sl_core_copy_ids_of(ids, ask, told, n * SL_PAGE, SL_PAGE);
        if (!sl_prefix_step(&core->prefix, at, ids))
            break;
    }
    if (n > before)
        sl_schedule_begin_behind(&core->schedule, e, n);
    note_held(core);
}

void sl_core_look_up_new(struct sl_core *core, const struct sl_ask *ask, struct sl_schedule_entry *entry,
                         struct sl_prefix_at *at)
{
    sl_prefix_begin(at, ask->cache_salt);
    if (core->config.prefix_cache && ask->prompt_logprobs < 0)
        step_on(core, at, entry, ask, NULL);
}

uint32_t sl_core_n_cached(struct sl_core *core, const struct sl_ask *ask)
{
    struct sl_prefix_at at;
    uint32_t n = 0;
    sl_prefix_begin(&at, ask->cache_salt);
    while ((n + 1) * SL_PAGE <= ask->n_ids && sl_prefix_step(&core->prefix, &at, ask->ids + n * SL_PAGE))
        n++;
    sl_prefix_let_go(&core->prefix, &at, NULL);
    return n;
}

void sl_core_look_up(void *user, struct sl_schedule_entry *entry)
{
    struct sl_core *core = user;
    struct sl_stay *s = sl_core_stay_of(entry);
    const struct sl_ask *ask = s->request->ask;
    if (core->config.prefix_cache && s->stages == SL_STAGES_NONE && (ask->prompt_logprobs < 0 || s->again))
        step_on(core, &s->prefix, entry, ask, ask->said[s->first].ids);
}

void sl_core_look_up_admitted(struct sl_core *core)
{
    for (struct sl_schedule_entry *e = core->schedule.head; e && e->admitted; e = e->next)
        sl_core_look_up(core, e);
}

/* What its sequence has of the cache stays in its table until that is closed. */
void sl_core_let_go_prefix(struct sl_core *core, struct sl_prefix_at *at)
{
    if (!core->config.prefix_cache)
        return;
    sl_prefix_let_go(&core->prefix, at, NULL);
    note_held(core);
}

void sl_core_make_room(struct sl_core *core, const struct sl_schedule_entry *entry)
{
    if (entry->prefill_pages > core->plan.n_pages - core->schedule.prefill_pages_used)
        return; /* it would not help */
    for (struct sl_schedule_entry *e = core->schedule.waiting;
         e && !sl_schedule_has_pages(&core->schedule, entry); e = e->next) {
        struct sl_stay *s = sl_core_stay_of(e);
        if (e == entry || e->shared_pages == 0)
            continue;
        sl_prefix_let_go(&core->prefix, &s->prefix, s->request->ask->cache_salt);
        sl_schedule_begin_behind(&core->schedule, e, 0);
        note_held(core);
    }
}

/* ---- pages ---- */

void sl_core_share_pages(struct sl_core *core, struct sl_stay *stay, struct sl_sequence *s)
{
    uint32_t n = stay->entry.shared_pages;
    if (n == 0)
        return;
    sl_prefix_numbers(&core->prefix, &stay->prefix, s->pages); /* where they will be */
    for (uint32_t i = 0; i < n; i++) {
        bool fresh;
        sl_status status = sl_sequences_put(&core->pages, s, i, s->pages[i], false, &fresh);
        assert(status == SL_OK && !fresh);
    }
    stay->entry.shared_pages = 0;
    if (stay->seq == stay->request->seq) /* in a later stay it finds its own */
        stay->request->cached_tokens = n * SL_PAGE;
    core->n_cached_tokens += stay->request->refill ? 0 : (uint64_t)n * SL_PAGE;
}

uint32_t sl_core_free_page(struct sl_core *core)
{
    uint32_t page;
    if (sl_sequences_take(&core->pages, &page) == SL_OK)
        return page;
    bool evicted = sl_prefix_evict(&core->prefix, &page);
    assert(evicted); /* the schedule has promised it */
    sl_sequences_read_end(&core->pages, page);
    return page;
}

/* The pages that a slice completes, of what is written with it. */
void sl_core_keep_pages(struct sl_core *core, struct sl_stay *stay, const struct sl_sequence *s, uint32_t pos,
                        uint32_t n)
{
    uint32_t ids[SL_PAGE];
    if (!core->config.prefix_cache)
        return;
    for (uint32_t i = pos / SL_PAGE; i < (pos + n) / SL_PAGE; i++) {
        assert(stay->prefix.astray || stay->prefix.depth == i);
        sl_core_copy_ids(ids, stay, i * SL_PAGE, SL_PAGE);
        /* it keeps the page that it was promised; with another one held for it, too, more would be promised than there is */
        if (core->schedule.prefill_pages_used + core->prefix.n_held >= core->plan.n_pages &&
            sl_prefix_would_hold(&core->prefix, &stay->prefix, ids))
            stay->prefix.astray = true;
        if (!sl_prefix_add(&core->prefix, &stay->prefix, ids, s->pages[i]))
            continue;
        sl_sequences_read_begin(&core->pages, s->pages[i]);
        sl_schedule_give_page(&core->schedule, &stay->entry);
    }
    note_held(core);
}

uint32_t sl_core_first_unanswered(const struct sl_core *core, uint64_t seq)
{
    for (uint64_t number = core->log_answered + 1; number <= core->log_number; number++) {
        const struct sl_record *record = &core->log[number % core->log_room];
        for (uint32_t i = 0; i < record->n_slices; i++)
            if (record->slices[i].seq == seq)
                return record->slices[i].pos;
    }
    return SL_PREFIX_NONE;
}

bool sl_core_forget_pages(struct sl_core *core, struct sl_stay *stay)
{
    uint32_t pos = core->config.prefix_cache ? sl_core_first_unanswered(core, stay->seq) : SL_PREFIX_NONE;
    const struct sl_sequence *s = sl_sequences_find(&core->pages, stay->seq);
    if (pos == SL_PREFIX_NONE || stay->prefix.depth <= pos / SL_PAGE || SL_MUTATED(KEEP_CANCELLED))
        return true; /* nothing of it is in the cache */
    uint32_t *gone = core->forgotten,
             n = sl_prefix_forget(&core->prefix, &stay->prefix, s->pages, pos / SL_PAGE, gone);
    for (uint32_t i = 0; n != SL_PREFIX_NONE && i < n; i++)
        sl_sequences_read_end(&core->pages, gone[i]);
    note_held(core);
    return n != SL_PREFIX_NONE;
}

/* ---- from outside ---- */

bool sl_core_prefix_event(const struct sl_core *core, struct sl_prefix_reader *reader,
                          struct sl_prefix_event *event)
{
    return core->config.prefix_cache && sl_prefix_read(&core->prefix, reader, event);
}

void sl_core_prefix_events_from(const struct sl_core *core, struct sl_prefix_reader *reader, uint64_t number)
{
    *reader = (struct sl_prefix_reader){0};
    if (core->config.prefix_cache)
        sl_prefix_read_from(&core->prefix, reader, number);
}

void sl_core_flush_prefixes(struct sl_core *core)
{
    uint32_t page;
    if (!core->config.prefix_cache)
        return;
    sl_prefix_flush(&core->prefix);
    core->refills.n = core->refills.active ? 1 : 0; /* what waits to be filled would bring it back */
    while (sl_prefix_evict(&core->prefix, &page))
        sl_sequences_read_end(&core->pages, page);
    for (uint32_t d = 0; d < core->plan.max_decoders; d++)
        sl_core_forget_kept(core, d);
}
