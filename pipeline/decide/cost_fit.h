/* The model of cost.h, corrected by what chunks took.
 *
 * Least squares of relative errors that forget (1 % a chunk), never negative, drawn towards s·prior: s, the factor by which the
 * stage is slower than its prior, comes from the same sums. So a prior that is wrong by a factor is right after the first chunks,
 * and what a load does not show (no long prefixes, say) keeps the prior's shape. What is far off (three deviations) is clipped:
 * a paused process does not poison the model; three of the same sign in a row are believed, and the whole model is scaled with
 * them before it goes on: a stage that slows down to a tenth is followed in as many chunks.
 *
 * Pure, no allocation, a microsecond or so a chunk. One owner. */
#ifndef SL_PIPELINE_DECIDE_COST_FIT_H
#define SL_PIPELINE_DECIDE_COST_FIT_H

#include "pipeline/decide/cost.h"

#define SL_COST_ERRORS 256

struct sl_cost_fit {
    struct sl_cost now; /* the corrected model */
    double cv;          /* relative deviation of measured from predicted: noise, without outliers */
    double predicted_us, measured_us; /* of all chunks that were added, each predicted before it was */
    /* Below: cost_fit.c's. */
    struct sl_cost prior;
    double unit[SL_COST_TERMS]; /* what a coefficient is counted in */
    double info[SL_COST_TERMS]
               [SL_COST_TERMS]; /* Σ f·f' of rows f = unit·term/t, and what they should come to */
    double rhs[SL_COST_TERMS];
    double spread;    /* deviation by which outliers are known; wide until the prior has been tried */
    double streak[3]; /* logarithms of outliers of one sign in a row */
    uint32_t streaks;
    uint64_t chunks; /* added so far */
    float errors
        [SL_COST_ERRORS]; /* |predicted/measured − 1|, of predictions made before the chunk was added; a ring */
};

/* Coefficients of the prior that are no numbers or negative count as 0. */
void sl_cost_fit_init(struct sl_cost_fit *fit, const struct sl_cost *prior);
/* A chunk and the microseconds that it took. False, and nothing has changed: no rows, or not a number, or beyond all bounds. */
bool sl_cost_fit_add(struct sl_cost_fit *fit, const struct sl_cost_chunk *chunk, double measured_us);
/* Of the last SL_COST_ERRORS predictions, the relative error that the share q in 0..1 does not exceed; 0 before the first. */
double sl_cost_fit_error(const struct sl_cost_fit *fit, double q);

struct sl_cost_point { /* a chunk that was measured at leisure */
    struct sl_cost_chunk chunk;
    double us;
};
/* The model of these points alone, each of which counts alike: never negative, drawn towards s·prior as above. Points that
 * sl_cost_fit_add would refuse are left out; without any, the prior. */
void sl_cost_fit_points(struct sl_cost *cost, const struct sl_cost *prior, const struct sl_cost_point *points,
                        uint32_t n);

/* The x >= 0 that minimises x'·info·x − 2·rhs'·x; info symmetric, positive definite. */
void sl_cost_solve(const double info[SL_COST_TERMS][SL_COST_TERMS], const double rhs[SL_COST_TERMS],
                   double x[SL_COST_TERMS]);

/* The terms of a chunk, which the coefficients are multiplied by. */
void sl_cost_terms(const struct sl_cost_chunk *chunk, double hit, double terms[SL_COST_TERMS]);

#endif
