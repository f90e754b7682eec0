/* What a chunk costs: one model of time for the schedule, admission, the planner and the simulator.
 *
 * A stage that runs slices of n_i tokens behind pos_i others, X rows in all, takes
 *
 *     t = c + Σ (γ·pos_i + b·n_i + a·(2·pos_i·n_i + n_i²) + e·m_i) + w·u(X),      u(X) = 1 − (1 − p)^X
 *
 * c is what a chunk costs at all, γ what a slice costs for each token before it (its pages are read), b the matrices of a row, a
 * the attention of two positions, and w the reading of all experts, of which X rows that hit a share p = k/E each, hit the share
 * u(X): the last term is why small chunks are dear. Of the model's last layer most rows need K and V alone: m_i counts those whose
 * logits are wanted (one where a prompt ends), and e is what each of them costs beside, the rest of that layer and the head; it is 0
 * on all stages but the last. Coefficients are of a whole stage, in microseconds, and never negative.
 *
 * Nobody can know them beforehand: a prior (of shape and peaks, or measured by dummy chunks) is corrected by every chunk that
 * the stages trace, by least squares that forget. Pure. */
#ifndef SL_PIPELINE_DECIDE_COST_H
#define SL_PIPELINE_DECIDE_COST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sl_cost_term { SL_COST_C, SL_COST_GAMMA, SL_COST_B, SL_COST_A, SL_COST_W, SL_COST_E, SL_COST_TERMS };

struct sl_cost { /* of one stage: all its layers, with the embedding or the head where it has them */
    double us[SL_COST_TERMS];
    double hit; /* p = k/E: the share of the experts that one row hits; 0: none, as of a dense model */
};

struct sl_cost_chunk {       /* what its slices add up to, each multiplied by its coefficient */
    double pos, rows, pairs; /* Σ pos_i, X, Σ (2·pos_i·n_i + n_i²) */
    double wanted;           /* Σ m_i */
};

static inline void sl_cost_add(struct sl_cost_chunk *chunk, uint32_t pos, uint32_t n)
{
    chunk->pos += pos;
    chunk->rows += n;
    chunk->pairs += (2.0 * pos + n) * n;
}

/* Of the rows that were added, the logits of so many are wanted. */
static inline void sl_cost_want(struct sl_cost_chunk *chunk, uint32_t rows)
{
    chunk->wanted += rows;
}

#define SL_COST_MOST_US 1e13                  /* four months: no coefficient and no chunk is more */
enum { SL_COST_NUMBERS = SL_COST_TERMS + 1 }; /* with `hit` */

/* A model that somebody says: every number is one, none is negative or beyond all bounds, and a row costs something. */
bool sl_cost_is_sane(const struct sl_cost *cost);
/* As numbers, the coefficients in their order and then `hit`; the other way, false: they are not a sane model. */
void sl_cost_put(const struct sl_cost *cost, double numbers[SL_COST_NUMBERS]);
bool sl_cost_take(struct sl_cost *cost, const double *numbers, size_t n);

/* u(rows) of `hit`. */
double sl_cost_hit(double hit, double rows);
/* Microseconds of a chunk; 0 rows cost nothing. */
double sl_cost_of(const struct sl_cost *cost, const struct sl_cost_chunk *chunk);
/* ov(L) = c + w + γ·L: what a chunk behind L tokens costs beside the work for its rows, when it is large enough to hit all experts. */
double sl_cost_overhead(const struct sl_cost *cost, double pos);
/* F(L, n) = b·n + a·(2·L·n + n²): the work that n tokens behind L others are, however they are cut. */
double sl_cost_work(const struct sl_cost *cost, double pos, double n);

#endif
