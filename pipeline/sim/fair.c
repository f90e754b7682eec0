/* Who goes first, looked at from outside (fair.h). */
#include "pipeline/sim/fair.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVERY = 10, MOST_CREDIT = 2 * EVERY };

sl_status sl_fair_init(struct sl_fair *f, const struct sl_sim_request *requests, uint32_t n, bool in_order)
{
    *f = (struct sl_fair){.requests = requests,
                          .askers = calloc(n + !n, sizeof *f->askers),
                          .n = n,
                          .in_order = in_order,
                          .first = n,
                          .credit = MOST_CREDIT};
    return f->askers ? SL_OK : SL_E_NOMEM;
}

void sl_fair_fini(struct sl_fair *f)
{
    free(f->askers);
}

void sl_fair_take(struct sl_fair *f, uint32_t i, uint64_t seq, uint64_t due_us, uint64_t deadline_us)
{
    if (deadline_us && (due_us == 0 || deadline_us < due_us))
        due_us = deadline_us; /* a time for its first token, too */
    f->askers[i] = (struct sl_fair_asker){
        .seq = seq, .taken = f->n_taken++, .due_us = due_us, .deadline_us = deadline_us};
}

void sl_fair_forget(struct sl_fair *f)
{
    memset(f->askers, 0, f->n * sizeof *f->askers);
}

static bool is_waiting(const struct sl_fair *f, uint32_t i)
{
    return f->askers[i].seq && !f->requests[i].ended && f->askers[i].cut < f->requests[i].n_ids;
}

static bool is_over(const struct sl_fair *f, uint32_t i, uint64_t now_us)
{
    return f->askers[i].due_us && now_us > f->askers[i].due_us;
}

/* Of all that wait; n: nobody does. */
static uint32_t oldest(const struct sl_fair *f)
{
    uint32_t first = f->n;
    for (uint32_t i = 0; i < f->n; i++)
        if (is_waiting(f, i) && (first == f->n || f->askers[i].taken < f->askers[first].taken))
            first = i;
    return first;
}

static uint32_t asker_of(const struct sl_fair *f, uint64_t seq)
{
    uint32_t i = 0;
    while (i < f->n && f->askers[i].seq != seq)
        i++;
    return i;
}

/* It has pages, so nothing but the order keeps it from the next chunk. */
static bool another_begun(const struct sl_fair *f)
{
    for (uint32_t i = 0; i < f->n; i++)
        if (is_waiting(f, i) && f->askers[i].cut > 0 && f->askers[i].due_us == 0)
            return true;
    return false;
}

/* Before the record counts: who was passed over, and who heads it. */
static bool look_at_head(struct sl_fair *f, uint64_t now_us, uint64_t seq)
{
    uint32_t first = oldest(f), head = asker_of(f, seq);
    bool counts = first < f->n && is_over(f, first, now_us) && f->askers[first].cut > 0;
    f->waited = counts && first == f->first ? f->waited + 1 : counts;
    f->first = first;
    f->credit += f->credit < MOST_CREDIT;
    if (another_begun(f)) {
        f->others_waited++;
        if (head < f->n && is_over(f, head, now_us))
            f->credit -= EVERY;
        if (f->credit < 0)
            snprintf(f->broken, sizeof f->broken,
                     "request %u, whose time is over, goes before others again and again", head);
    }
    return counts;
}

const char *sl_fair_look(struct sl_fair *f, uint64_t now_us, const struct sl_order *order)
{
    f->broken[0] = 0;
    bool counts = f->in_order && look_at_head(f, now_us, order->slices[0].seq);
    for (uint32_t i = 0; i < order->n_slices; i++) {
        uint32_t whose = asker_of(f, order->slices[i].seq);
        if (whose == f->n)
            continue;
        struct sl_fair_asker *asker = &f->askers[whose];
        asker->cut = order->slices[i].pos + order->slices[i].n;
        if (asker->deadline_us && now_us > asker->deadline_us)
            snprintf(f->broken, sizeof f->broken, "request %u is run after its deadline", whose);
        if (asker->cut == f->requests[whose].n_ids)
            asker->deadline_us = 0; /* it is kept, whatever must be run again */
        if (whose == f->first && counts) {
            f->late_turns++;
            f->waited = 0;
        }
    }
    if (f->in_order && f->waited >= EVERY)
        snprintf(f->broken, sizeof f->broken,
                 "request %u, whose time is over, has waited for %u chunks of others", f->first, f->waited);
    return f->broken[0] ? f->broken : NULL;
}
