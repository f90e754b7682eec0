/* Admission and cutting in arrival order (schedule.h). */
#include "pipeline/decide/schedule.h"
#include <assert.h>

void sl_schedule_init(struct sl_schedule *schedule, const struct sl_plan *plan)
{
    *schedule = (struct sl_schedule){.plan = plan};
    schedule->tail = &schedule->head;
}

void sl_schedule_entry_init(struct sl_schedule_entry *entry, const struct sl_plan *plan, uint64_t seq,
                            uint32_t prompt_tokens, uint32_t output_tokens)
{
    *entry = (struct sl_schedule_entry){.seq = seq, .prompt_tokens = prompt_tokens};
    entry->chunk_tokens = sl_plan_chunk_for(plan, prompt_tokens);
    entry->prefill_pages = sl_pages_of(prompt_tokens);
    entry->decode_pages = output_tokens ? sl_pages_of(prompt_tokens + output_tokens) : 0;
    entry->own_pages = output_tokens ? entry->decode_pages - prompt_tokens / SL_PAGE : 0;
    entry->n_places = 1;
}

void sl_schedule_entry_fork(struct sl_schedule_entry *entry, uint32_t n)
{
    assert(!entry->admitted && entry->n_places == 1 && n > 0);
    entry->n_places = n;
    entry->decode_pages += (n - 1) * entry->own_pages;
}

void sl_schedule_push(struct sl_schedule *schedule, struct sl_schedule_entry *entry)
{
    entry->next = NULL;
    *schedule->tail = entry;
    schedule->tail = &entry->next;
    schedule->waiting_bytes += entry->held_bytes;
}

struct sl_schedule_entry *sl_schedule_admit(struct sl_schedule *s)
{
    struct sl_schedule_entry *e = s->head;
    while (e && e->admitted)
        e = e->next;
    if (!e || s->n_admitted + e->n_places > s->plan->max_running)
        return NULL;
    if (e->prefill_pages > s->plan->n_pages - s->prefill_pages_used ||
        e->decode_pages > s->plan->n_pages - s->decode_pages_used)
        return NULL; /* arrival order: those behind wait too */
    e->admitted = true;
    s->n_admitted += e->n_places;
    s->waiting_bytes -= e->held_bytes;
    s->prefill_pages_used += e->prefill_pages;
    s->decode_pages_used += e->decode_pages;
    return e;
}

uint32_t sl_schedule_cut(struct sl_schedule *s, struct sl_cut cuts[SL_MAX_SLICES])
{
    uint32_t n = 0, room = 0, steering = s->plan->steering_bytes;
    for (struct sl_schedule_entry *e = s->head; e && e->admitted && n < SL_MAX_SLICES; e = s->head) {
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
        cuts[n++] = (struct sl_cut){e, e->pos, take, e->n_slices++};
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
    for (struct sl_schedule_entry **p = &s->head; *p; p = &(*p)->next) {
        if (*p != entry)
            continue;
        *p = entry->next;
        if (!entry->admitted)
            s->waiting_bytes -= entry->held_bytes;
        if (s->tail == &entry->next)
            s->tail = p;
        entry->next = NULL;
        return;
    }
}

void sl_schedule_give_prefill(struct sl_schedule *s, struct sl_schedule_entry *entry)
{
    assert(entry->admitted && s->prefill_pages_used >= entry->prefill_pages);
    s->prefill_pages_used -= entry->prefill_pages;
    entry->prefill_pages = 0;
}

void sl_schedule_give_decode(struct sl_schedule *s, struct sl_schedule_entry *entry)
{
    bool last = entry->n_places == 1;
    uint32_t pages = last ? entry->decode_pages : entry->own_pages;
    assert(entry->admitted && s->decode_pages_used >= pages && entry->decode_pages >= pages);
    s->decode_pages_used -= pages;
    entry->decode_pages -= pages;
    if (last)
        return;
    entry->n_places--;
    s->n_admitted--;
}

void sl_schedule_end(struct sl_schedule *s, struct sl_schedule_entry *entry)
{
    sl_schedule_remove(s, entry);
    if (!entry->admitted)
        return;
    sl_schedule_give_prefill(s, entry);
    while (entry->n_places > 1)
        sl_schedule_give_decode(s, entry);
    sl_schedule_give_decode(s, entry);
    assert(s->n_admitted > 0);
    s->n_admitted--;
    entry->admitted = false;
}
