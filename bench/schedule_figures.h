/* Figures of a run of the small simulated world: what its requests met, in the order in which a reader asks. Pure. */
#ifndef SL_BENCH_SCHEDULE_FIGURES_H
#define SL_BENCH_SCHEDULE_FIGURES_H

#include "bench/schedule_world.h"

struct sl_bench_group {                        /* requests of a class, or of a kind within the load */
    uint32_t n, n_answered, n_refused, n_met;  /* met: answered within the target, or without one at all */
    double p50_us, p99_us;                     /* of the time to the first token, of those that had one */
    double work_us, done_work_us, met_work_us; /* of all, of those that were answered, and of those in time */
    /* Of those that were answered and of which a part was known: how many began behind all pages of that; its tokens, those that
     * were cached; and of the others, which were computed again, how many a request */
    uint32_t n_knowing, n_reusing;
    double known, cached, again_p50, again_p90;
};

struct sl_bench_figures {
    struct sl_bench_group all, of_class[SL_BENCH_CLASSES], of_group[SL_BENCH_GROUPS];
    uint32_t n_predicted; /* of those that were answered */
    double error_p50, error_p90,
        bias; /* |predicted / measured - 1| of their time to the first token; bias: with its sign, median */
    uint32_t n_late; /* accepted, with a target, and answered after it or never */
    /* In the window from a tenth of the time in which requests came to its end: */
    double goodput_work;     /* share of the capacity that went into answers in time */
    double goodput_requests; /* such answers a second */
    double rows_per_s, tokens_per_s;
    double pause_p99_us; /* of the longest pause of each stream of three tokens or more */
    double step_us;      /* mean */
    double busy;         /* share of the first stage's time */
};

/* The value with the share q of the others below it; sorts. 0 of none. */
double sl_bench_quantile(double *values, uint32_t n, double q);
/* SL_E_NOMEM */
sl_status sl_bench_figures_make(struct sl_bench_figures *figures, const struct sl_bench_traffic *load,
                                const struct sl_bench_outcome *outcomes, const struct sl_bench_report *report,
                                struct sl_err *err);

#endif
