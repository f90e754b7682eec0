/* 95 % intervals of a quantile or a mean, of samples that hang together.
 *
 * Latencies of requests that met in one queue are no independent samples: a plain bootstrap of the p99 of a queue at 0.8 load
 * covers the truth in 8 % of its runs. So samples are taken in the order in which they were due and cut into blocks longer than what
 * ties them together (dependence.h); blocks are independent, samples are not. With fewer than 20 such blocks, or too few samples for a
 * quantile, there is no interval, and that is said. Pure. */
#ifndef SL_BENCH_SERVE_INTERVAL_H
#define SL_BENCH_SERVE_INTERVAL_H

#include <stdbool.h>
#include <stdint.h>

enum { SL_INTERVAL_BLOCKS = 20 }; /* fewer independent ones: no interval */

struct sl_interval {
    double value;     /* +inf: the quantile lies among failed requests; NAN: no samples */
    double low, high; /* of 95 %; high may be +inf */
    bool known;       /* 10 samples or more lie beyond the quantile; the value is set all the same */
    bool bounded;     /* low and high are known, too */
    uint32_t n_blocks;
};

/* values[n]: in the order of due time; +inf: failed. q in (0, 1). Nearest rank for the value. The caller's array is left as it is;
 * scratch[2 * n] is the caller's. */
struct sl_interval sl_interval_quantile(const double *values, uint32_t n, double q, double *scratch);
/* Of n_qs quantiles at once: the samples are sorted once. */
void sl_interval_quantiles(const double *values, uint32_t n, const double *qs, uint32_t n_qs,
                           struct sl_interval *intervals, double *scratch);
/* Of the mean of what is finite. scratch[2 * n]. */
struct sl_interval sl_interval_mean(const double *values, uint32_t n, double *scratch);

/* Between runs: the mean of a figure over repeats, with Student's t; n < 2: not bounded. Also its coefficient of variation. */
struct sl_interval sl_interval_repeats(const double *figures, uint32_t n, double *variation);

/* Whether a and b (each a figure over repeats) differ: Welch's test at 5 %, two-sided. p: may be NULL. */
bool sl_interval_differ(const double *a, uint32_t n_a, const double *b, uint32_t n_b, double *p);

#endif
