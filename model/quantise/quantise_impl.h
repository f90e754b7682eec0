/* The inner loops of the quantiser: what quantise.c decides with.
 *
 * Sixteen outputs advance side by side: everything lies [input][16 outputs], each lane with its own scales,
 * so that a sum over inputs is a plain ascending chain in each lane and no loop ever adds across lanes. The
 * loops are written once, in vectors of eight floats that every compiler knows how to cut smaller, and
 * compiled twice, for AVX2 and for any x86-64; without contraction both give the same bits. */
#ifndef SL_MODEL_QUANTISE_QUANTISE_IMPL_H
#define SL_MODEL_QUANTISE_QUANTISE_IMPL_H

#include "model/quantise/quantise.h"

typedef float sl_eight __attribute__((vector_size(32), may_alias));

/* One float for each output of a block. */
struct sl_lanes {
    sl_eight half[2];
};
static inline float *sl_lane(struct sl_lanes *lanes)
{
    return (float *)lanes;
}
static inline const float *sl_lane_const(const struct sl_lanes *lanes)
{
    return (const float *)lanes;
}

/* The levels of a format: a weight is S * s * step * (r - offset), r an integer of low..high, q = r + bias.
 * The offset is a half where the format has no zero (i3, i2), so that r rounds to the odd multiples. */
struct sl_levels {
    float offset, step;
    int32_t low, high, bias;
    uint32_t group; /* inputs that share s; a unit for i8, whose s is 1 */
    float s_max;    /* 15; 1 for i8 */
};

/* A block on its way: rows scaled by powers of two to largest magnitudes of [0.5, 1), weights likewise. */
struct sl_quantise_work {
    struct sl_levels levels;
    uint32_t k, groups;
    struct sl_lanes *x;      /* [padded k] */
    struct sl_lanes *s;      /* [groups]: the chosen integer scales, 0: the whole group is zero */
    struct sl_lanes *centre; /* [groups]: the best spacing of a group if its scale were real */
    float *weight;           /* [padded k], 0 in the padding */
    int8_t *r;               /* [padded k][16] */
};

/* Group scales to be tried: the integers of [near + from, near + to] clipped to 1..s_max, near being
 * centre / (S * step) rounded; every one of 1..s_max if `all`. Zero is always tried. */
struct sl_window {
    float from, to;
    bool all;
};

struct sl_quantise_loops {
    /* The spacing of least error for each group, of `steps` between `from` and `to` times the one that clips
     * nothing. */
    void (*centre)(const struct sl_quantise_work *work, float from, float to, uint32_t steps);
    /* For given S the best s of every group; error[c] is the sum over the groups. */
    void (*choose)(const struct sl_quantise_work *work, const struct sl_lanes *S, struct sl_window window,
                   double error[SL_LANES]);
    /* The S of least squares for the s chosen and the r that go with them. S is kept where there is nothing
     * to fit. */
    void (*fit)(const struct sl_quantise_work *work, const struct sl_lanes *S, struct sl_lanes *fitted);
    /* r of every input for given S and s. */
    void (*round)(const struct sl_quantise_work *work, const struct sl_lanes *S);
    /* The same column by column with error feedback, choosing s anew from the corrected columns; destroys x.
     * factor is U of quantise.h, carry scratch of one unit. */
    void (*feed)(const struct sl_quantise_work *work, const struct sl_lanes *S, const float *factor,
                 struct sl_lanes *carry);
};

/* The best for this machine first, then the one for all; they give the same bytes. */
const struct sl_quantise_loops *sl_quantise_loops_best(void);
extern const struct sl_quantise_loops sl_quantise_loops_any;

/* sl_quantise_block with the loops named. */
void sl_quantise_block_by(const struct sl_quantise_loops *loops, const float *const rows[SL_LANES],
                          uint32_t k, enum sl_dtype dtype, const struct sl_moments *moments, void *block,
                          struct sl_quantise_report *report, void *scratch);

#endif
