/* Who goes first, as seen from outside: of each RUN record that is written, whose slice stands at its head and who got none. What is
 * promised by --schedule slo to those of one tenant, whatever is predicted:
 *
 *   Who named a time for its first token that is over stands behind all others, but the oldest of the late heads every tenth chunk.
 *
 * So the oldest of all that wait, once its time is over and it has its pages, waits for no more than that (nobody is forgotten), and
 * who named a time heads no more of the chunks that others wait for than that (nobody pays for a time that can't be kept any more). */
#include "pipeline/sim/sim_impl.h"

enum { EVERY = 10, MOST_CREDIT = 2 * EVERY };

static bool is_waiting(const struct sl_sim *s, uint32_t i)
{
    const struct sl_sim_request *r = &s->requests[i];
    return s->seqs[i] && !r->ended && s->now_us >= r->arrive_us && s->fair.cut[i] < r->n_ids;
}

static bool is_over(const struct sl_sim *s, uint32_t i)
{
    return s->requests[i].target_us && s->now_us > s->requests[i].target_us;
}

/* Of all that wait; n_requests: nobody does. */
static uint32_t oldest(const struct sl_sim *s)
{
    uint32_t first = s->n_requests;
    for (uint32_t i = 0; i < s->n_requests; i++)
        if (is_waiting(s, i) && (first == s->n_requests || s->seqs_taken[i] < s->seqs_taken[first]))
            first = i;
    return first;
}

static uint32_t request_of(const struct sl_sim *s, uint64_t seq)
{
    uint32_t i = 0;
    while (i < s->n_requests && s->seqs[i] != seq)
        i++;
    return i;
}

/* It has pages, so nothing but the order keeps it from the next chunk. */
static bool another_begun(const struct sl_sim *s)
{
    for (uint32_t i = 0; i < s->n_requests; i++)
        if (is_waiting(s, i) && s->fair.cut[i] > 0 && s->requests[i].target_us == 0)
            return true;
    return false;
}

void sl_sim_fair_look(struct sl_sim *s, const struct sl_order *order)
{
    struct sl_sim_fair *f = &s->fair;
    if (s->config.schedule != SL_SCHEDULE_SLO || !s->config.one_tenant)
        return;
    uint32_t first = oldest(s), head = request_of(s, order->slices[0].seq);
    bool counts = first < s->n_requests && is_over(s, first) && f->cut[first] > 0;
    f->waited = counts && first == f->first ? f->waited + 1 : counts;
    f->first = first;
    f->credit += f->credit < MOST_CREDIT;
    if (another_begun(s)) {
        s->report.others_waited++;
        if (head < s->n_requests && is_over(s, head))
            f->credit -= EVERY;
        if (f->credit < 0)
            sl_sim_break(s, "request %u, whose time is over, goes before others again and again", head);
    }
    for (uint32_t i = 0; i < order->n_slices; i++) {
        uint32_t whose = request_of(s, order->slices[i].seq);
        if (whose == s->n_requests)
            continue;
        f->cut[whose] = order->slices[i].pos + order->slices[i].n;
        if (whose == first && counts) {
            s->report.late_turns++;
            f->waited = 0;
        }
    }
    if (f->waited >= EVERY)
        sl_sim_break(s, "request %u, whose time is over, has waited for %u chunks of others", first,
                     f->waited);
}
