/* Operations shared by a worker team: a matrix product cut into (row block, column piece) tasks that are taken from
 * one counter, and norms cut by rows. How they are cut never changes a bit: every output is one chain, whoever
 * computes it. All from the team's creating thread. */
#ifndef SL_KERNELS_TEAM_OPS_H
#define SL_KERNELS_TEAM_OPS_H

#include "kernels/ops.h"
#include "kernels/team.h"

/* swiglu: gemm_swiglu over g->w, columns of its I outputs. Time and work go to `part`. */
void sl_gemm_team(struct sl_team *team, const struct sl_ops *ops, const struct sl_gemm *g, bool swiglu, enum sl_part part);
void sl_gemm8_team(struct sl_team *team, const struct sl_ops *ops, const struct sl_gemm8 *g, bool swiglu,
                   enum sl_part part);

/* Rows [begin, end) of x, k floats each, to s8, rotated before it when rotation > 0. temp: k floats. One thread. */
void sl_quantise_rows(const struct sl_ops *ops, const float *x, size_t x_stride, uint32_t k, uint32_t rotation,
                      const struct sl_rows8 *to, uint32_t begin, uint32_t end, float *temp);

/* y[r] = rmsnorm(x[r]) * gain for n_rows rows of n. y may be x. */
void sl_rmsnorm_team(struct sl_team *team, const struct sl_ops *ops, float *y, const float *x, const float *gain,
                     uint32_t n_rows, uint32_t n, float eps);

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
