/* The formulas of budget.h. Their constants were chosen by simulation (`bench schedule`): on two stages, at 3.4 times the overhead a
 * newcomer beside long prompts waits less than three times what it takes alone (at 4: 3.4 times) and throughput is still that of
 * arrival order (at 3: less). It waits for as many chunks as are under way, so with more stages each has to be shorter: with 3.4
 * times it waited 3.5 times as long on four and on eight, with 2.6 and 2.5 2.95 times, for 7 and 9 % of the throughput. Floors lower
 * than that by a prefix lose more with every page of it; the window
 * of runs is what keeps every stage busy when chunk times deviate by cv, and one more costs a newcomer a whole chunk. */
#include "pipeline/decide/budget.h"
#include "pipeline/record/order.h"
#include <math.h>

static const double most_overheads = 3.4, least_overheads = 2.5, waiting = 9.6, with_prefix = 1 / (0.3 * 3.4),
                    rounding = 1.01, exact = 1 + 1e-9, sliver = 0.2,
                    least_chunk_us = 4000; /* nobody notices to have waited for a few of these */

/* Whichever takes longest for a chunk of the usual size. */
static uint32_t slowest_of(const struct sl_cost *costs, uint32_t n_stages, uint32_t max_rows)
{
    uint32_t slowest = 0;
    double most = 0;
    for (uint32_t k = 0; k < n_stages; k++) {
        double us = sl_cost_overhead(&costs[k], 0) + sl_cost_work(&costs[k], 0, max_rows);
        if (us > most) {
            most = us;
            slowest = k;
        }
    }
    return slowest;
}

static uint32_t runs_of(uint32_t n_stages, double hops_us, const struct sl_pace *pace, double chunk_us)
{
    double slowest = pace->slowest_us > 0 ? pace->slowest_us : chunk_us,
           stages = pace->slowest_us > 0 ? pace->stages_us : n_stages * chunk_us,
           runs = ceil((stages + hops_us) / slowest + 0.65 + 2.5 * pace->cv * sqrt(n_stages));
    return (uint32_t)fmax(2, fmin(runs, 2.0 * n_stages + 4));
}

/* Who comes through passes the other stages, too, and a stage with less to do (the last one, whose last layer makes K and V alone)
 * takes less: at a chunk of the usual time, which is the most common one. */
static double others_of(const struct sl_budget *b, const struct sl_cost *costs)
{
    double per_row = fmax(sl_cost_work(&b->cost, 0, SL_PAGE) / SL_PAGE, 1e-9),
           rows = fmin(fmax((b->chunk_us - sl_cost_overhead(&b->cost, 0)) / per_row, SL_PAGE), b->max_rows),
           slowest = sl_cost_overhead(&b->cost, 0) + sl_cost_work(&b->cost, 0, rows), all = 0;
    for (uint32_t k = 0; k < b->n_stages; k++)
        all += sl_cost_overhead(&costs[k], 0) + sl_cost_work(&costs[k], 0, rows);
    return slowest > 0 ? fmax(fmin(all / slowest, b->n_stages) - 1, 0) : b->n_stages - 1;
}

/* With as many rows as it may have. */
static double full_chunk_us(const struct sl_budget *b, double pos)
{
    return sl_cost_overhead(&b->cost, pos) + sl_cost_work(&b->cost, pos, b->max_rows);
}

void sl_budget_make(struct sl_budget *b, const struct sl_cost *costs, uint32_t n_stages, uint32_t max_rows,
                    const struct sl_pace *pace, const struct sl_budget_wish *wish)
{
    *b = (struct sl_budget){.cost = costs[slowest_of(costs, n_stages, max_rows)],
                            .n_stages = n_stages,
                            .max_rows = max_rows,
                            .hop_us = pace->hops_us / (n_stages + 1),
                            .end_us = costs[n_stages - 1].us[SL_COST_E]};
    double overhead = sl_cost_overhead(&b->cost, 0);
    double hasty = fmax(1 + waiting / (n_stages + 2), least_overheads);
    b->overheads = wish->hasty ? fmin(hasty, most_overheads) : most_overheads;
    b->by_rows = wish->by_rows && wish->chunk_us <= 0;
    b->chunk_us = b->by_rows           ? full_chunk_us(b, 0)
                  : wish->chunk_us > 0 ? wish->chunk_us
                                       : fmax(b->overheads * overhead, least_chunk_us);
    b->runs = wish->runs ? wish->runs : runs_of(n_stages, pace->hops_us, pace, b->chunk_us);
    if (wish->slo_us > 0 && wish->chunk_us <= 0 && !b->by_rows) {
        double slo = wish->slo_us / ((b->runs + 1) * (1 + pace->cv));
        b->dear = slo < 2 * overhead;
        b->chunk_us = fmin(b->chunk_us, slo);
    }
    b->others = others_of(b, costs);
    b->lag_us = b->others * b->chunk_us / 2 + pace->hops_us;
}

/* A prefix is read again by every chunk behind it. By rows there is room for a prompt's end, and for what sums are rounded by: neither
 * may take a page from a full chunk. */
static double with_floor(const struct sl_budget *b, double pos)
{
    return b->by_rows ? (full_chunk_us(b, pos) + b->cost.us[SL_COST_E]) * exact
                      : fmax(b->chunk_us, sl_cost_overhead(&b->cost, pos) * b->overheads * with_prefix);
}

/* The head of a chunk has a page at least. */
static double page_us(const struct sl_budget *b, double pos)
{
    struct sl_cost_chunk page = {.pos = pos, .rows = SL_PAGE, .pairs = (2 * pos + SL_PAGE) * SL_PAGE};
    return sl_cost_of(&b->cost, &page);
}

/* Of a chunk around pos: what it may take, unless it has as many rows as it may have before that. times: the usual. */
static double chunk_around_us(const struct sl_budget *b, double pos, double times)
{
    return fmin(fmax(times * with_floor(b, pos), page_us(b, pos)), full_chunk_us(b, pos));
}

double sl_budget_chunk_us(const struct sl_budget *b, uint32_t pos)
{
    return with_floor(b, pos);
}

/* Chunks of equal time T take (F / (T - ov) + o) · T, o being what the others take, which is least at ov + sqrt(F · ov / o). What is left
 * is evened at every cut, so that no sliver comes behind the last: it would pass all stages for a few rows. */
double sl_budget_alone_us(const struct sl_budget *b, uint32_t start, uint32_t pos, uint32_t n)
{
    double overhead = sl_cost_overhead(&b->cost, start + (n - start) / 2.0),
           work = sl_cost_work(&b->cost, start, n - start);
    if (b->others <= 0 || overhead <= 0 || pos >= n || b->by_rows)
        return INFINITY;
    double best = sqrt(work * overhead / b->others), left = sl_cost_work(&b->cost, pos, n - pos),
           chunks = fmax(1, ceil(left / best - sliver));
    return rounding * (left / chunks + sl_cost_overhead(&b->cost, pos + (n - pos) / 2.0));
}

double sl_budget_work_us(const struct sl_budget *b, uint32_t pos, uint32_t n)
{
    if (pos >= n)
        return 0;
    double middle = pos + (n - pos) / 2.0, chunk = chunk_around_us(b, middle, 1),
           rows = chunk - sl_cost_overhead(&b->cost, middle);
    return sl_cost_work(&b->cost, pos, n - pos) * (rows > 0 ? chunk / rows : 1);
}

double sl_budget_single_us(const struct sl_budget *b, uint32_t pos, uint32_t n)
{
    struct sl_cost_chunk chunk = {0};
    sl_cost_add(&chunk, pos, n - pos);
    return sl_cost_of(&b->cost, &chunk);
}

double sl_budget_idle_us(const struct sl_budget *b, uint32_t start, uint32_t n, double times)
{
    double single = sl_budget_single_us(b, start, n), beside = (b->n_stages + 1) * b->hop_us + b->end_us,
           middle = start + (n - start) / 2.0, alone = sl_budget_alone_us(b, start, start, n),
           chunk = fmin(chunk_around_us(b, middle, times), fmax(alone, page_us(b, middle)));
    if (single <= chunk && n - start <= b->max_rows)
        return (1 + b->others) * single + beside;
    double overhead = sl_cost_overhead(&b->cost, middle), work = sl_cost_work(&b->cost, start, n - start),
           chunks = ceil(work / fmax(chunk - overhead, 1)), by_rows = ceil((double)(n - start) / b->max_rows);
    chunks = fmax(fmax(chunks, by_rows), 1);
    return work + chunks * overhead + b->others * (work / chunks + overhead) + beside;
}

double sl_budget_target_us(const struct sl_budget *b, double slo_us, uint32_t start, uint32_t n)
{
    return fmax(slo_us, (b->runs + 1) * b->chunk_us) + 3 * sl_budget_idle_us(b, start, n, 1);
}
