/* Operations shared by a worker team: a matrix product cut into (row block, column piece) tasks that are taken from
 * one counter, and norms cut by rows. How they are cut never changes a bit: every output is one chain, whoever
 * computes it. All from the team's creating thread. */
#ifndef SL_KERNELS_TEAM_OPS_H
#define SL_KERNELS_TEAM_OPS_H

#include "kernels/isa.h"
#include "kernels/team.h"

/* swiglu: gemm_swiglu over g->w, columns of its I outputs. Time and work go to `part`. */
void sl_gemm_team(struct sl_team *team, const struct sl_ops *ops, const struct sl_gemm *g, bool swiglu,
                  enum sl_part part);
/* second: the rows' second digits, added to the products of the first ones; NULL or unused when g->w.digits < 2. Not
 * together with swiglu. */
void sl_gemm8_team(struct sl_team *team, const struct sl_ops *ops, const struct sl_gemm8 *g,
                   const struct sl_rows8 *second, bool swiglu, enum sl_part part);

/* Rows [begin, end) of x, w->k floats each, to s8 as the matrix w wants them: rotated, and when w->digits is 2 what is
 * left of them, x - scale * q (both operations exact or rounded once, the same everywhere), to `second` with a scale of its
 * own: 15 bits for the price of two products. temp: k floats. One thread. */
void sl_quantise_rows(const struct sl_ops *ops, const struct sl_panel *w, const float *x, size_t x_stride,
                      const struct sl_rows8 *to, const struct sl_rows8 *second, uint32_t begin, uint32_t end,
                      float *temp);

/* What rows still lack, left to whoever reads them next: that saves a barrier, and the row is in cache when it is read.
 * run(arg, member, begin, end) does it for the rows [begin, end), each row once, in whatever run of the team; NULL: they
 * are complete. Who has run it over all rows sets it to NULL. */
struct sl_row_finish {
    void (*run)(void *arg, uint32_t member, uint32_t begin, uint32_t end);
    void *arg;
};

/* Rows from `first` on. */
static inline struct sl_rows8 sl_rows8_from(const struct sl_rows8 *r, size_t first)
{
    return (struct sl_rows8){r->q + first * r->stride, r->stride, r->scale + first, r->sum + first};
}

/* y[r] = rmsnorm(x[r]) * gain for n_rows rows of n. y may be x. */
void sl_rmsnorm_team(struct sl_team *team, const struct sl_ops *ops, float *y, const float *x,
                     const float *gain, uint32_t n_rows, uint32_t n, float eps);

/* Cut [begin, end) for task `index` of `n_tasks` at multiples of `unit`. Empty pieces have begin == end. */
static inline void sl_piece(uint32_t total, uint32_t unit, uint32_t n_tasks, uint32_t index, uint32_t *begin,
                            uint32_t *end)
{
    uint32_t units = (total + unit - 1) / unit;
    uint64_t first = (uint64_t)units * index / n_tasks, last = (uint64_t)units * (index + 1) / n_tasks;
    *begin = (uint32_t)(first * unit);
    *end = last * unit < total ? (uint32_t)(last * unit) : total;
    if (*begin > *end)
        *begin = *end;
}

#endif
