/* Pages of the decode workers by growth, each worker for itself: who begins, who is granted the next page, who sits out and who is set back.
 *
 * Pages that come back go to those that grow, the oldest first, before anybody begins; and who begins fits with what all are
 * expected to become (growth.h). So setting back is rare: it repairs an estimate that was too low. The oldest answer is never
 * set back, and every page that it has not is one of an answer that goes on, ends, or is younger: so it goes on, and after it
 * the next. Who is being prefilled is not set back, its work would be lost: when such ones have all other pages, the oldest sits
 * out until the first of them is decoded, and goes back. */
#include "pipeline/decide/core_impl.h"

enum { SPARE_AFTER = 2 /* who was set back so often is so again only when nobody else can be */ };

/* Pages that answer k will want beside those that it has or was promised. */
static uint32_t growth_of(const struct sl_core *core, const struct sl_stay *s, uint32_t k)
{
    const struct sl_ask *ask = s->request->ask;
    uint32_t n_out = sl_core_answer_of(s, k)->n_out,
             expected = sl_growth_expect(&core->growth, n_out, ask->max_tokens),
             pages = sl_pages_of(ask->n_ids + expected),
             has = sl_schedule_grant(ask->n_ids, s->n_told + 1, ask->max_tokens);
    has = s->granted[k] > has ? s->granted[k] : has;
    return pages > has ? pages - has : 0;
}

static uint32_t growth_of_all(const struct sl_core *core, const struct sl_stay *s)
{
    uint32_t sum = 0;
    for (uint32_t k = 0; s->request->handoff && k < s->n; k++)
        sum += sl_core_is_alive(s, k) ? growth_of(core, s, k) : 0;
    return sum;
}

/* Where it begins, and with what; false: nowhere yet. What is kept is looked up only for one that begins. */
static bool choose_decoder(const struct sl_core *core, const struct sl_beginning *b, const struct sl_stay *s,
                           uint32_t own, uint32_t *decoder, struct sl_kept_at *with)
{
    struct sl_seat seats[SL_MAX_DECODERS];
    struct sl_kept_at kept[SL_MAX_DECODERS];
    bool fits[SL_MAX_DECODERS] = {false};
    uint32_t n = core->plan.max_decoders;
    *decoder = 0;
    *with = (struct sl_kept_at){0, SL_PREFIX_NONE};
    if (!s->request->handoff)
        return true;
    for (uint32_t d = 0; d < n; d++) {
        const struct sl_decoder *worker = &core->decoders[d];
        uint32_t growth = b->growth[d] + own,
                 wanted = core->schedule.decoders[d].pages_used + s->entry.decode_pages + growth;
        seats[d] = (struct sl_seat){
            .fits = worker->state == SL_DECODER_HERE && !worker->silent &&
                    sl_schedule_fits_decoder(&core->schedule, &s->entry, d, growth),
            .rows = core->schedule.decoders[d].n_decoding + s->n,
            .free_pages = wanted < core->plan.n_pages ? core->plan.n_pages - wanted : 0,
            .fit = &worker->step,
        };
        fits[d] = seats[d].fits;
    }
    sl_core_look_up_kept(core, s, fits, kept);
    for (uint32_t d = 0; d < n; d++)
        seats[d].kept_pages = kept[d].n;
    *decoder = sl_place_choose(seats, n);
    if (*decoder == n)
        return false;
    *with = kept[*decoder];
    return true;
}

/* What came before it may have filled pages that it begins with; those who wait give way with what they hold. */
static struct sl_schedule_entry *next_to_begin(struct sl_core *core)
{
    if (core->schedule.waiting) {
        sl_core_look_up(core, core->schedule.waiting);
        sl_core_make_room(core, core->schedule.waiting);
    }
    return sl_schedule_next(&core->schedule);
}

/* Each answer that has begun can come again in a stay of its own, whenever its decode worker is lost; and while many wait that did,
 * nobody new takes what those need to begin. */
static bool can_come_again(const struct sl_core *core, const struct sl_stay *s)
{
    uint32_t kept_for = core->schedule.n_decoding + s->entry.n_places,
             others = s->entry.again ? 0 : core->plan.max_running * core->plan.max_decoders;
    return s->entry.n_places == 0 || core->free_stays.n_free >= kept_for + others;
}

bool sl_core_begin_one(void *user, struct sl_schedule_entry *entry)
{
    struct sl_beginning *b = user;
    struct sl_core *core = b->core;
    struct sl_stay *s = sl_core_stay_of(entry), **last = &core->begun;
    struct sl_kept_at kept;
    uint32_t decoder;
    sl_core_make_room(core, entry);
    if (!sl_schedule_fits(&core->schedule, entry) || !can_come_again(core, s))
        return false;
    for (; !b->summed && *last; last = &(*last)->next_begun)
        b->growth[(*last)->entry.decoder] += growth_of_all(core, *last);
    b->summed = true;
    uint32_t growth = growth_of_all(core, s);
    if (!choose_decoder(core, b, s, growth, &decoder, &kept))
        return false;
    sl_schedule_admit(&core->schedule, entry, decoder);
    sl_core_begin_kept(core, s, &kept);
    for (last = &core->begun; *last; last = &(*last)->next_begun)
        ;
    b->growth[decoder] += growth;
    s->next_begun = NULL;
    *last = s;
    s->unnamed = entry->decode_pages;
    if (!s->request->begun) {
        struct sl_action *a = sl_core_act(b->actions, SL_ACTION_ADMIT, s->request);
        a->admit.predicted_us = (uint64_t)s->request->told_us;
    }
    s->request->begun = true;
    if (s->request->handoff) {
        bool legal = sl_on_decode_step(&s->decode[0], SL_DECODE_EXPECT);
        assert(legal);
    }
    return true;
}

void sl_core_begin(struct sl_core *core, struct sl_actions *actions)
{
    struct sl_beginning b = {.core = core, .actions = actions};
    struct sl_schedule_entry *entry;
    while ((entry = next_to_begin(core)) && sl_core_begin_one(&b, entry))
        ;
}

/* ---- those that are decoded ---- */

static bool is_decoding(const struct sl_stay *s, uint32_t k)
{
    return s->decode[k] == SL_DECODE_ADOPTED && sl_core_is_alive(s, k);
}

static uint32_t wanted_pages(const struct sl_stay *s, uint32_t k)
{
    const struct sl_ask *ask = s->request->ask;
    return sl_schedule_grant(ask->n_ids, sl_core_answer_of(s, k)->n_out, ask->max_tokens);
}

bool sl_core_wants(const struct sl_stay *s, uint32_t k)
{
    return is_decoding(s, k) && s->granted[k] < wanted_pages(s, k);
}

/* Its next position has no page. */
static bool sits_out(const struct sl_stay *s, uint32_t k)
{
    return s->granted[k] < sl_pages_of(s->request->ask->n_ids + sl_core_answer_of(s, k)->n_out);
}

static void grant(struct sl_core *core, struct sl_stay *s, uint32_t k, struct sl_actions *actions)
{
    uint32_t n = 0, wanted = wanted_pages(s, k);
    while (s->granted[k] + n < wanted && sl_schedule_grow(&core->schedule, s->entry.decoder))
        n++;
    if (n > 0)
        sl_core_grant(core, s, k, n, actions);
}

struct seat { /* of an answer: its stay and its number there */
    struct sl_stay *stay;
    uint32_t k;
};

/* The youngest of a worker but the oldest; those that were set back before as often as SPARE_AFTER only if there is no other. */
static struct seat youngest(const struct sl_core *core, uint32_t decoder)
{
    struct seat of_all = {NULL, 0}, spared = {NULL, 0};
    bool oldest = true;
    for (struct sl_stay *s = core->begun; s; s = s->next_begun)
        for (uint32_t k = 0; k < s->n; k++) {
            if (!is_decoding(s, k) || s->entry.decoder != decoder)
                continue;
            if (!oldest && sl_core_answer_of(s, k)->n_set_back < SPARE_AFTER)
                of_all = (struct seat){s, k};
            else if (!oldest)
                spared = (struct seat){s, k};
            oldest = false;
        }
    return of_all.stay ? of_all : spared;
}

/* It comes again when the decode worker has said how far it came. */
static void set_back(struct sl_core *core, uint32_t decoder, struct sl_actions *actions)
{
    struct seat it = youngest(core, decoder);
    if (!it.stay || core->free_stays.n_free == 0)
        return;
    struct sl_branch *answer = sl_core_answer_of(it.stay, it.k);
    answer->set_back = true;
    answer->n_set_back++;
    core->n_set_back++;
    sl_core_give_up(core, it.stay, it.k, actions);
}

void sl_core_grow(struct sl_core *core, struct sl_actions *actions)
{
    if (!core->look)
        return;
    struct {
        uint32_t batch, leaving, sitting;
    } of[SL_MAX_DECODERS] = {{0}};
    core->look = false;
    core->n_sitting = 0;
    for (struct sl_stay *s = core->begun; s; s = s->next_begun)
        for (uint32_t k = 0, d = s->entry.decoder; k < s->n; k++) {
            of[d].leaving += s->decode[k] == SL_DECODE_ENDING;
            if (!is_decoding(s, k))
                continue;
            of[d].batch++;
            grant(core, s, k, actions);
            of[d].sitting += sits_out(s, k);
        }
    for (uint32_t d = 0; d < core->plan.max_decoders; d++) {
        core->n_sitting += of[d].sitting;
        /* what leaves brings pages, and calls again */
        if (of[d].sitting > 0 && of[d].leaving == 0 && 2 * of[d].sitting >= of[d].batch)
            set_back(core, d, actions);
    }
}
