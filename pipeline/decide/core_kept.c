/* Pages that decode workers keep (prefix.h), as the core uses them: a prompt whose first pages lie at its worker needs no push of
 * them, whether the stages compute them or have them themselves.
 *
 * What has come to a worker as a whole, a prompt that was adopted, and what an answer has made of it, is kept under the same names
 * as on the stages: as soon as nobody will write to it. The stay whose pages those were holds them as long as any of its answers
 * is there; then they are free on demand, and go by last use. A page that is kept was its sequence's own, so what is promised on a
 * worker (pages_used of schedule.h) stays what it was: own pages, those to come, and those that are kept and held. A worker is
 * told by a TAKE which of the pages that it has written lie there already, and never that one is kept: until a page is given to
 * be written to again, it is as it was. Who has a place next has nothing. */
#include "pipeline/decide/core_impl.h"

/* What is held there counts as used. */
static void note_held(struct sl_core *core, uint32_t decoder, uint32_t before)
{
    core->schedule.decoders[decoder].pages_used += core->decoders[decoder].kept.n_held - before;
}

/* Names are made once, page by page, for as long as anybody has the next. */
void sl_core_look_up_kept(const struct sl_core *core, const struct sl_stay *s, const bool *in_question,
                          struct sl_kept_at kept[SL_MAX_DECODERS])
{
    struct sl_prefix_at at;
    uint32_t ids[SL_PAGE], n = core->plan.max_decoders, n_left = 0;
    bool left[SL_MAX_DECODERS] = {false};
    sl_prefix_begin(&at, s->request->ask->cache_salt);
    for (uint32_t d = 0; d < n; d++) {
        kept[d] = (struct sl_kept_at){0, SL_PREFIX_NONE};
        left[d] = in_question[d] && core->decoders[d].kept.n_cached > 0;
        n_left += left[d];
    }
    for (uint32_t i = 0; n_left > 0 && i < s->entry.prompt_tokens / SL_PAGE; i++) {
        sl_core_copy_ids(ids, s, i * SL_PAGE, SL_PAGE);
        sl_prefix_name(&at, ids);
        for (uint32_t d = 0; d < n; d++) {
            uint32_t page = left[d] ? sl_prefix_find(&core->decoders[d].kept, &at) : SL_PREFIX_NONE;
            n_left -= left[d] && page == SL_PREFIX_NONE;
            left[d] = page != SL_PREFIX_NONE;
            if (left[d])
                kept[d] = (struct sl_kept_at){i + 1, page};
        }
        sl_prefix_pass(&at);
    }
}

void sl_core_begin_kept(struct sl_core *core, struct sl_stay *s, const struct sl_kept_at *kept)
{
    struct sl_decoder *worker = sl_core_decoder_of(core, s);
    uint32_t before = worker->kept.n_held;
    if (kept->n == 0)
        return;
    struct sl_sequence *table = sl_sequences_open(&worker->pages, s->seq);
    assert(table); /* as many as may run */
    sl_schedule_lie_there(&core->schedule, &s->entry, kept->n);
    sl_prefix_hold(&worker->kept, &s->kept, kept->page, kept->n);
    note_held(core, s->entry.decoder, before);
    sl_prefix_numbers(&worker->kept, &s->kept, table->pages); /* where they will be */
    for (uint32_t i = 0; i < kept->n; i++) {
        bool fresh;
        sl_status status = sl_sequences_put(&worker->pages, table, i, table->pages[i], false, &fresh);
        assert(status == SL_OK && !fresh);
    }
    s->n_kept = s->granted[0] = kept->n;
}

/* The whole pages of the first n tokens of answer k, behind those that it holds. One that is kept already, of another, stays its
 * own: with that held beside it, an answer that goes on could lack the page that it needs next. One that ends may hold it, if
 * there is room, so that what it leaves behind it can be found. */
static void keep(struct sl_core *core, struct sl_stay *s, uint32_t k, uint32_t n, bool ends)
{
    const struct sl_ask *ask = s->request->ask;
    struct sl_decoder *worker = sl_core_decoder_of(core, s);
    const struct sl_sequence *table = sl_sequences_find(&worker->pages, s->seq + k);
    uint32_t ids[SL_PAGE], d = s->entry.decoder;
    if (!core->config.prefix_cache)
        return;
    for (uint32_t i = s->kept.depth; i < n / SL_PAGE; i++) {
        uint32_t before = worker->kept.n_held;
        sl_core_copy_ids_of(ids, ask, ask->said[s->first + k].ids, i * SL_PAGE, SL_PAGE);
        sl_prefix_name(&s->kept, ids);
        bool is_there = sl_prefix_find(&worker->kept, &s->kept) != SL_PREFIX_NONE,
             is_room = ends && core->schedule.decoders[d].pages_used < core->plan.n_pages;
        if (is_there && !is_room)
            return;
        if (sl_prefix_add(&worker->kept, &s->kept, ids, table->pages[i]))
            sl_sequences_read_begin(&worker->pages, table->pages[i]);
        else if (s->kept.astray)
            return; /* there was a flush */
        else
            note_held(core, d, before);
    }
}

void sl_core_keep_prompt(struct sl_core *core, struct sl_stay *s, uint32_t k)
{
    keep(core, s, k, s->entry.prompt_tokens, false);
}

/* Its last token was never run. What others of the stay share with it they hold together: so the last of them alone leaves what it
 * has made. */
void sl_core_keep_answer(struct sl_core *core, struct sl_stay *s, uint32_t k)
{
    uint32_t n_others = 0;
    for (uint32_t i = 0; i < s->n; i++)
        n_others += i != k && s->decode[i] != SL_DECODE_NONE;
    if (n_others == 0)
        keep(core, s, k, s->request->ask->n_ids + sl_core_answer_of(s, k)->n_out - 1, true);
}

void sl_core_let_go_kept(struct sl_core *core, struct sl_stay *s)
{
    struct sl_prefix *kept = &sl_core_decoder_of(core, s)->kept;
    uint32_t before = kept->n_held;
    if (!core->config.prefix_cache)
        return;
    sl_prefix_let_go(kept, &s->kept, NULL);
    note_held(core, s->entry.decoder, before);
}

uint32_t sl_core_free_decode_page(struct sl_core *core, uint32_t decoder)
{
    struct sl_decoder *worker = &core->decoders[decoder];
    uint32_t page;
    if (sl_sequences_take(&worker->pages, &page) == SL_OK)
        return page;
    bool evicted = sl_prefix_evict(&worker->kept, &page);
    assert(evicted); /* the schedule has promised it */
    sl_sequences_read_end(&worker->pages, page);
    return page;
}

void sl_core_forget_kept(struct sl_core *core, uint32_t decoder)
{
    struct sl_decoder *worker = &core->decoders[decoder];
    uint32_t page;
    if (!core->config.prefix_cache)
        return;
    sl_prefix_flush(&worker->kept);
    while (sl_prefix_evict(&worker->kept, &page))
        sl_sequences_read_end(&worker->pages, page);
}
