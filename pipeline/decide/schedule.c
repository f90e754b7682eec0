/* The queue and the promises of schedule.h, and the cut in arrival order. */
#include "pipeline/decide/schedule.h"
#include "base/mutate.h"
#include <assert.h>

enum { FIFO_SLICES = 16 /* of a chunk; it is compared with, so it stays what it was */ };
_Static_assert((int)FIFO_SLICES <= (int)SL_MAX_SLICES, "they fit a record");

void sl_schedule_init(struct sl_schedule *schedule, const struct sl_plan *plan)
{
    *schedule = (struct sl_schedule){.plan = plan};
}

uint32_t sl_schedule_grant(uint32_t prompt_tokens, uint32_t n_out, uint32_t max_tokens)
{
    uint64_t end = (uint64_t)prompt_tokens + n_out + SL_GRANT_AHEAD,
             most = (uint64_t)prompt_tokens + max_tokens - 1; /* the last token is never run */
    return sl_pages_of((uint32_t)(end < most ? end : most));
}

void sl_schedule_entry_init(struct sl_schedule_entry *entry, const struct sl_plan *plan,
                            uint32_t prompt_tokens, uint32_t max_tokens, uint32_t n_out, uint32_t n)
{
    *entry = (struct sl_schedule_entry){.prompt_tokens = prompt_tokens,
                                        .chunk_tokens = sl_plan_chunk_for(plan, prompt_tokens),
                                        .prefill_pages = sl_pages_of(prompt_tokens)};
    if (max_tokens == 0)
        return;
    uint32_t told = n_out - 1, of_one = sl_schedule_grant(prompt_tokens - told, n_out, max_tokens);
    entry->decode_pages = of_one + (n - 1) * (of_one - prompt_tokens / SL_PAGE);
    entry->n_places = n;
}

/* before NULL: at the end. */
static void link_before(struct sl_schedule *s, struct sl_schedule_entry *e, struct sl_schedule_entry *next)
{
    e->next = next;
    e->before = next ? next->before : s->last;
    *(e->before ? &e->before->next : &s->head) = e;
    *(next ? &next->before : &s->last) = e;
}

static bool is_there(const struct sl_schedule *s, const struct sl_schedule_entry *e)
{
    return e->before || s->head == e;
}

static void unlink_entry(struct sl_schedule *s, struct sl_schedule_entry *e)
{
    if (s->waiting == e)
        s->waiting = e->next;
    *(e->before ? &e->before->next : &s->head) = e->next;
    *(e->next ? &e->next->before : &s->last) = e->before;
    e->next = e->before = NULL;
}

static void link_key(struct sl_schedule *s, struct sl_schedule_entry *e, struct sl_schedule_entry *before)
{
    e->before_key = before;
    e->next_key = before ? before->next_key : s->first_key;
    *(before ? &before->next_key : &s->first_key) = e;
    *(e->next_key ? &e->next_key->before_key : &s->last_key) = e;
}

static void unlink_key(struct sl_schedule *s, struct sl_schedule_entry *e)
{
    *(e->before_key ? &e->before_key->next_key : &s->first_key) = e->next_key;
    *(e->next_key ? &e->next_key->before_key : &s->last_key) = e->before_key;
    e->next_key = e->before_key = NULL;
}

void sl_schedule_sink(struct sl_schedule *s, struct sl_schedule_entry *e)
{
    struct sl_schedule_entry *before = e->before_key;
    if (!before || before->key_us <= e->key_us)
        return;
    while (before && before->key_us > e->key_us)
        before = before->before_key;
    unlink_key(s, e);
    link_key(s, e, before);
}

static void wait_before(struct sl_schedule *s, struct sl_schedule_entry *e, struct sl_schedule_entry *next)
{
    link_before(s, e, next);
    if (s->waiting == next)
        s->waiting = e;
    link_key(s, e, s->last_key);
    s->waiting_bytes += e->held_bytes;
    s->waiting_tokens += e->prompt_tokens - e->pos;
    s->n_waiting++;
    s->n_uncut++;
}

void sl_schedule_push(struct sl_schedule *schedule, struct sl_schedule_entry *entry)
{
    wait_before(schedule, entry, NULL);
}

void sl_schedule_push_back(struct sl_schedule *schedule, struct sl_schedule_entry *entry)
{
    struct sl_schedule_entry *next = schedule->waiting;
    while (next && (next->arrival <= entry->arrival || SL_MUTATED(BACK_OF_QUEUE)))
        next = next->next;
    wait_before(schedule, entry, next);
}

bool sl_schedule_has_pages(const struct sl_schedule *s, const struct sl_schedule_entry *e)
{
    return e->prefill_pages <= s->plan->n_pages - s->prefill_pages_used - s->pages_held;
}

bool sl_schedule_fits(const struct sl_schedule *s, const struct sl_schedule_entry *e)
{
    return s->n_prefilling < s->plan->max_prefill && sl_schedule_has_pages(s, e);
}

void sl_schedule_begin_behind(struct sl_schedule *s, struct sl_schedule_entry *e, uint32_t n_pages)
{
    uint32_t pos = n_pages * SL_PAGE, own_pages = sl_pages_of(e->prompt_tokens) - n_pages;
    if (e->admitted)
        s->prefill_pages_used = s->prefill_pages_used - e->prefill_pages + own_pages;
    else if (is_there(s, e))
        s->waiting_tokens = s->waiting_tokens + e->pos - pos;
    e->prefill_pages = own_pages;
    e->shared_pages = n_pages;
    e->pos = e->start = pos;
}

void sl_schedule_give_page(struct sl_schedule *s, struct sl_schedule_entry *e)
{
    assert(e->prefill_pages > 0 && s->prefill_pages_used > 0);
    e->prefill_pages--;
    s->prefill_pages_used--;
}

struct sl_schedule_entry *sl_schedule_next(const struct sl_schedule *s)
{
    return s->waiting && sl_schedule_fits(s, s->waiting) ? s->waiting : NULL;
}

/* A fiftieth of the pool is kept for what grows more than was expected. */
bool sl_schedule_fits_decoder(const struct sl_schedule *s, const struct sl_schedule_entry *e,
                              uint32_t decoder, uint32_t growth)
{
    const struct sl_schedule_decoder *d = &s->decoders[decoder];
    uint64_t used = (uint64_t)d->pages_used + e->decode_pages + growth;
    return e->n_places <= s->plan->max_running - d->n_decoding &&
           e->decode_pages <= s->plan->n_pages - d->pages_used &&
           (e->decode_pages == 0 || d->pages_used == 0 || 50 * used <= 49 * (uint64_t)s->plan->n_pages);
}

void sl_schedule_admit(struct sl_schedule *s, struct sl_schedule_entry *e, uint32_t decoder)
{
    assert(!e->admitted && sl_schedule_fits(s, e));
    e->decoder = decoder;
    if (s->waiting == e) {
        s->waiting = e->next;
    } else { /* it overtakes those that wait before it */
        unlink_entry(s, e);
        link_before(s, e, s->waiting);
    }
    s->n_waiting--;
    s->waiting_tokens -= e->prompt_tokens - e->pos;
    e->admitted = e->prefilling = true;
    s->n_prefilling++;
    s->n_prefill_only += e->n_places == 0;
    e->prefill_only = e->n_places == 0;
    s->n_decoding += e->n_places;
    s->waiting_bytes -= e->held_bytes;
    s->prefill_pages_used += e->prefill_pages;
    if (e->n_places == 0)
        return;
    assert(sl_schedule_fits_decoder(s, e, decoder, 0));
    s->decoders[decoder].n_decoding += e->n_places;
    s->decoders[decoder].pages_used += e->decode_pages;
}

uint32_t sl_schedule_cut(struct sl_schedule *s, struct sl_cut cuts[SL_MAX_SLICES])
{
    uint32_t n = 0, room = 0, steering = s->plan->steering_bytes,
             shared = sl_pages_of(s->plan->context_tokens);
    for (struct sl_schedule_entry *e = s->head; e && e->admitted && n < FIFO_SLICES; e = s->head) {
        if (n == 0)
            room = e->chunk_tokens;
        if (room == 0)
            break;
        uint32_t left = e->prompt_tokens - e->pos, take = left < room ? left : room;
        if (take == left) {
            if (e->steering_bytes > steering)
                break; /* the next record has room for any */
            steering -= e->steering_bytes;
        }
        if (e->shared_pages > shared)
            break; /* likewise, for their numbers */
        shared -= e->shared_pages;
        cuts[n++] = (struct sl_cut){e, e->pos, take};
        e->pos += take;
        room -= take;
        if (e->pos < e->prompt_tokens)
            break;
        sl_schedule_remove(s, e); /* wholly cut */
    }
    return n;
}

void sl_schedule_remove(struct sl_schedule *s, struct sl_schedule_entry *entry)
{
    if (!is_there(s, entry))
        return;
    if (!entry->admitted) {
        s->waiting_bytes -= entry->held_bytes;
        s->waiting_tokens -= entry->prompt_tokens - entry->pos;
        s->n_waiting--;
    }
    unlink_entry(s, entry);
    unlink_key(s, entry);
    s->n_uncut--;
}

void sl_schedule_give_prefill(struct sl_schedule *s, struct sl_schedule_entry *entry)
{
    assert(entry->admitted && s->prefill_pages_used >= entry->prefill_pages);
    s->prefill_pages_used -= entry->prefill_pages;
    entry->prefill_pages = 0;
}

void sl_schedule_leave_stages(struct sl_schedule *s, struct sl_schedule_entry *entry)
{
    s->n_prefilling -= entry->prefilling;
    s->n_prefill_only -= entry->prefilling && entry->prefill_only;
    entry->prefilling = false;
}

void sl_schedule_lie_there(struct sl_schedule *s, struct sl_schedule_entry *entry, uint32_t pages)
{
    assert(entry->admitted && pages <= entry->decode_pages);
    entry->decode_pages -= pages;
    s->decoders[entry->decoder].pages_used -= pages;
}

bool sl_schedule_grow(struct sl_schedule *s, uint32_t decoder)
{
    if (s->decoders[decoder].pages_used == s->plan->n_pages)
        return false;
    s->decoders[decoder].pages_used++;
    return true;
}

void sl_schedule_give_decode(struct sl_schedule *s, struct sl_schedule_entry *entry, uint32_t pages,
                             uint32_t places)
{
    if (pages == 0 && places == 0)
        return;
    struct sl_schedule_decoder *d = &s->decoders[entry->decoder];
    assert(entry->admitted && d->pages_used >= pages && entry->n_places >= places);
    d->pages_used -= SL_MUTATED(LEAK_PAGE) && pages > 0 ? pages - 1 : pages;
    d->n_decoding -= places;
    entry->n_places -= places;
    s->n_decoding -= places;
}

void sl_schedule_end(struct sl_schedule *s, struct sl_schedule_entry *entry)
{
    sl_schedule_remove(s, entry);
    if (!entry->admitted)
        return;
    sl_schedule_give_prefill(s, entry);
    sl_schedule_leave_stages(s, entry);
    sl_schedule_give_decode(s, entry, 0, entry->n_places);
}
