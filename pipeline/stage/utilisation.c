/* The arithmetic of utilisation.h, and the rooflines that this process has measured already: the
 * stages of one process are of one machine, and would disturb each other if each measured for
 * itself. */
#include "pipeline/stage/utilisation.h"
#include <pthread.h>

enum { KNOWN = 8, BEST_OF = 1 };
static const double memory_of_a_look = 0.9;

static struct {
    pthread_mutex_t lock;
    uint32_t n;
    struct {
        const struct sl_ops *ops;
        uint32_t n_threads;
        struct sl_roofline roofline;
    } known[KNOWN];
} cache = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* With the lock. */
static sl_status look_up(struct sl_roofline *roofline, const struct sl_ops *ops, uint32_t n_threads,
                         struct sl_err *err)
{
    for (uint32_t i = 0; i < cache.n; i++)
        if (cache.known[i].ops == ops && cache.known[i].n_threads == n_threads) {
            *roofline = cache.known[i].roofline;
            return SL_OK;
        }
    SL_TRY(sl_roofline_measure(roofline, ops, n_threads, BEST_OF, err));
    if (cache.n < KNOWN) {
        cache.known[cache.n].ops = ops;
        cache.known[cache.n].n_threads = n_threads;
        cache.known[cache.n++].roofline = *roofline;
    }
    return SL_OK;
}

sl_status sl_utilisation_init(struct sl_utilisation *u, const struct sl_stage *stage, struct sl_err *err)
{
    const struct sl_share *config = sl_stage_share(stage);
    const struct sl_ops *ops;
    *u = (struct sl_utilisation){0};
    sl_stage_parts(stage, &u->seen, &u->seen_run_ns);
    u->idle = sl_stage_weight_bytes(stage) == 0;
    if (u->idle)
        return SL_OK;
    if (sl_stage_roofline(stage, &u->roofline))
        return SL_OK;
    SL_TRY(sl_ops_select_profile(&ops, config->profile, err));
    pthread_mutex_lock(&cache.lock);
    sl_status status = look_up(&u->roofline, ops, config->n_threads, err);
    pthread_mutex_unlock(&cache.lock);
    return status;
}

uint64_t sl_utilisation_look(struct sl_utilisation *u, const struct sl_stage *stage)
{
    struct sl_parts now;
    uint64_t run_ns;
    double all = 0, all_by_mma = 0, bound[2] = {0, 0}; /* by compute, by memory */
    if (u->idle)
        return 0;
    sl_stage_parts(stage, &now, &run_ns);
    for (int p = 0; p < SL_PARTS; p++) {
        enum sl_peak peak = sl_stage_part_peak(stage, (enum sl_part)p);
        double compute =
            sl_roofline_compute_ns(&u->roofline, peak, (double)(now.part[p].ops - u->seen.part[p].ops));
        double memory =
            sl_roofline_memory_ns(&u->roofline, (double)(now.part[p].bytes - u->seen.part[p].bytes));
        all += compute;
        all_by_mma += sl_roofline_mma_ns(&u->roofline, peak, (double)(now.part[p].ops - u->seen.part[p].ops));
        bound[memory > compute] += memory > compute ? memory : compute;
    }
    u->run_ns = memory_of_a_look * u->run_ns + (double)(run_ns - u->seen_run_ns);
    u->compute_ns = memory_of_a_look * u->compute_ns + all;
    u->mma_ns = memory_of_a_look * u->mma_ns + all_by_mma;
    u->compute_bound_ns = memory_of_a_look * u->compute_bound_ns + bound[0];
    u->memory_bound_ns = memory_of_a_look * u->memory_bound_ns + bound[1];
    u->seen = now;
    u->seen_run_ns = run_ns;
    return (uint64_t)(all / 1000);
}
