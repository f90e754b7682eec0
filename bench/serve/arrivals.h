/* When requests are due: drawn before the run, from a seed, so that the server has no say in it.
 *
 * Times between arrivals are exponential (Poisson), gamma with shape k (k < 1 is burstier, as `vllm bench serve --burstiness`
 * has it), or constant. They are not rescaled to end at n / rate: that would no longer be the process that was asked for. */
#ifndef SL_BENCH_SERVE_ARRIVALS_H
#define SL_BENCH_SERVE_ARRIVALS_H

#include "base/rng.h"
#include "base/status.h"
#include <stdbool.h>

enum sl_arrival_kind { SL_ARRIVAL_POISSON, SL_ARRIVAL_GAMMA, SL_ARRIVAL_CONSTANT };

struct sl_arrivals {
    enum sl_arrival_kind kind;
    double shape; /* gamma: > 0 */
    double rate;  /* per second, > 0 */
    struct sl_rng rng;
    double at_s; /* of the last one drawn */
};

/* "poisson", "constant", "gamma:0.5"; SL_E_USAGE says what is accepted. */
sl_status sl_arrivals_parse(struct sl_arrivals *arrivals, const char *text, struct sl_err *err);
void sl_arrivals_begin(struct sl_arrivals *arrivals, double rate, uint64_t seed);
/* ns from the begin, never falling. The first is one interval after it. */
uint64_t sl_arrivals_next(struct sl_arrivals *arrivals);

/* In (0, 1]. */
double sl_draw_unit(struct sl_rng *rng);
double sl_draw_normal(struct sl_rng *rng);
/* Gamma with this shape and scale 1 (Marsaglia and Tsang 2000). */
double sl_draw_gamma(struct sl_rng *rng, double shape);

#endif
