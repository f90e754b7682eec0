/* The quantiser: from sixteen rows of floats to a block of kernels/quant.h.
 *
 * The rows lie side by side (quantise_impl.h) and are scaled by powers of two, so that nothing over- or
 * underflows on the way. The search is over S alone: for a given S the best s of a group is one of few
 * integers near the spacing that the group would like best, and the best q is the nearest. The error as a
 * function of S is rugged, so a grid of candidates comes first, around the S that gives the widest group its
 * own best spacing at s = 15; least squares then polishes the best. Every candidate is rounded to 12 bits
 * before it is judged, so what is kept is what was measured. */
#include "kernels/isa.h"
#include "model/quantise/quantise_impl.h"
#include <assert.h>
#include <math.h>

/* A row below this is zero, as a row of activations is (sl_ops.quantise): S times an activation's scale must
 * not fall among the denormals. */
#define SMALLEST 0x1p-100f

/* How the candidates of S are laid out. Shares are of the S at which the widest group has its best spacing
 * with the largest s; they grow geometrically. The window is of s around the one nearest to the group's best
 * spacing. */
struct plan {
    float first_share, ratio;
    uint32_t candidates, polishes;
    struct sl_window coarse, fine; /* for the candidates, for the polish */
};

/* Up to 1.25 either way. Groups: 6 % between candidates; twice as many gain less than 0.01 dB, and so does
 * a wider window. A whole row has one spacing and no s to make up for it: 1.5 %, and from far below, since
 * clipping few outliers pays. */
static const struct plan group_plan = {0.35f, 1.0625f, 22, 4, {-1.0f, 1.0f, false}, {-3.0f, 3.0f, false}};
static const struct plan row_plan = {0.4f, 1.015625f, 66, 4, {0.0f, 0.0f, false}, {0.0f, 0.0f, false}};

/* Spacings tried for a group on its own, as shares of the one at which the farthest level, that of -8,
 * reaches its peak: from half of it to a little beyond 8/7, at which that of 7 does. */
#define CENTRE_FIRST 0.5f
#define CENTRE_LAST 1.15f
enum { CENTRE_STEPS = 13 };

static float round_nearest12(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    u = (u + 0x7FFu + (u >> 12 & 1u)) & ~0xFFFu;
    memcpy(&x, &u, 4);
    return x;
}

static struct sl_levels levels_of(enum sl_dtype dtype)
{
    const struct sl_quant_rule *rule = sl_quant_rule_of(dtype);
    assert(rule);
    int32_t bias = rule->zero / rule->step;
    return (struct sl_levels){
        .offset = rule->step == 2 ? 0.5f : 0.0f,
        .step = (float)rule->step,
        .low = dtype == SL_I8 ? 1 - bias : -bias, /* -128 is not used: w8 is symmetric */
        .high = rule->levels - 1 - bias,
        .bias = bias,
        .group = rule->group ? rule->group : SL_QUANT_UNIT,
        .s_max = rule->group ? 15.0f : 1.0f,
    };
}

/* Scratch is cut in the order of alignment; the smallest group is 16 inputs. */
enum { SMALLEST_GROUP = 16 };

size_t sl_quantise_scratch_bytes(uint32_t k)
{
    size_t kp = sl_quant_padded(k), groups = kp / SMALLEST_GROUP;
    return sizeof(struct sl_lanes) * (kp + 2 * groups + SL_QUANT_UNIT) + kp * (sizeof(float) + SL_LANES);
}

static struct sl_quantise_work work_in(void *scratch, enum sl_dtype dtype, uint32_t k,
                                       struct sl_lanes **carry)
{
    struct sl_quantise_work work = {.levels = levels_of(dtype), .k = k};
    uint32_t kp = sl_quant_padded(k);
    assert((uintptr_t)scratch % 64 == 0);
    work.groups = kp / work.levels.group;
    work.x = scratch;
    work.s = work.x + kp;
    work.centre = work.s + work.groups;
    *carry = work.centre + work.groups;
    work.weight = (float *)(*carry + SL_QUANT_UNIT);
    work.r = (int8_t *)(work.weight + kp);
    return work;
}

/* Copies the rows side by side, each scaled by 2^-exponent to a largest magnitude, its peak, of [0.5, 1). A
 * row that counts as zero has an exponent of INT32_MIN and a peak of 0. */
static void load_rows(const struct sl_quantise_work *work, const float *const rows[SL_LANES],
                      int32_t *exponent, float *peaks)
{
    memset(work->x, 0, sl_quant_padded(work->k) * sizeof(struct sl_lanes));
    for (uint32_t c = 0; c < SL_LANES; c++) {
        float peak = 0;
        int e;
        for (uint32_t i = 0; rows[c] && i < work->k; i++)
            peak = fabsf(rows[c][i]) > peak ? fabsf(rows[c][i]) : peak;
        assert(isfinite(peak));
        exponent[c] = INT32_MIN;
        peaks[c] = 0;
        if (peak < SMALLEST)
            continue;
        peaks[c] = frexpf(peak, &e);
        exponent[c] = e;
        float first = ldexpf(1.0f, -e / 2), second = ldexpf(1.0f, -e - -e / 2); /* 2^-e may be no float */
        for (uint32_t i = 0; i < work->k; i++)
            sl_lane(&work->x[i])[c] = rows[c][i] * first * second;
    }
}

/* Weights of the inputs, scaled to a maximum of [0.5, 1): a common factor decides nothing. With feedback an
 * error counts for what the later columns cannot undo, 1 / U[i][i]^2. */
static void load_weights(const struct sl_quantise_work *work, const struct sl_moments *moments)
{
    float peak = 0;
    int e;
    memset(work->weight, 0, sl_quant_padded(work->k) * sizeof(float));
    for (uint32_t i = 0; i < work->k; i++) {
        float w = moments && moments->weight ? moments->weight[i] : 1.0f;
        float u = moments && moments->feedback ? moments->feedback[(size_t)i * work->k + i] : 0.0f;
        work->weight[i] = u > 0.0f ? 1.0f / (u * u) : w;
        peak = fmaxf(peak, work->weight[i]);
    }
    frexpf(peak, &e);
    for (uint32_t i = 0; i < work->k; i++)
        work->weight[i] = ldexpf(work->weight[i], -e);
}

/* The best S so far of each row, and its error. */
struct search {
    const struct plan *plan;
    const struct sl_quantise_loops *loops;
    const struct sl_quantise_work *work;
    struct sl_lanes best;
    double error[SL_LANES];
};

/* Rounds S to 12 bits, chooses every s for it and keeps it where it is better than what was there. */
static void try_scale(struct search *search, struct sl_lanes *S, struct sl_window window)
{
    double error[SL_LANES];
    for (uint32_t c = 0; c < SL_LANES; c++)
        sl_lane(S)[c] = round_nearest12(sl_lane(S)[c]);
    search->loops->choose(search->work, S, window, error);
    for (uint32_t c = 0; c < SL_LANES; c++) {
        if (error[c] < search->error[c]) {
            search->error[c] = error[c];
            sl_lane(&search->best)[c] = sl_lane(S)[c];
        }
    }
}

/* peak: largest magnitudes of the rows, as scaled. */
static void search_scale(struct search *search, const float peak[SL_LANES])
{
    const struct sl_quantise_work *work = search->work;
    const struct sl_levels *v = &work->levels;
    const struct plan *plan = search->plan;
    struct sl_lanes widest = {{{0}, {0}}}, S;
    search->loops->centre(work, CENTRE_FIRST, CENTRE_LAST, CENTRE_STEPS);
    for (uint32_t c = 0; c < SL_LANES; c++) {
        for (uint32_t g = 0; g < work->groups; g++)
            sl_lane(&widest)[c] = fmaxf(sl_lane(&widest)[c], sl_lane(&work->centre[g])[c]);
        sl_lane(&widest)[c] /= v->s_max * v->step;
        search->error[c] = INFINITY;
    }
    for (uint32_t c = 0; c < SL_LANES; c++) /* what plain rounding would use: nothing is clipped */
        sl_lane(&S)[c] = fmaxf(peak[c], 0x1p-60f) / (((float)v->high - v->offset) * v->step * v->s_max);
    try_scale(search, &S, plan->fine);
    float share = plan->first_share;
    for (uint32_t t = 0; t < plan->candidates; t++, share *= plan->ratio) {
        for (uint32_t c = 0; c < SL_LANES; c++)
            sl_lane(&S)[c] = sl_lane(&widest)[c] * share;
        try_scale(search, &S, plan->coarse);
    }
    S = search->best;
    try_scale(search, &S, plan->fine); /* the fit takes the s of the latest trial */
    for (uint32_t t = 0; t < plan->polishes; t++) {
        struct sl_lanes from = S;
        search->loops->fit(work, &from, &S);
        try_scale(search, &S, plan->fine);
    }
    S = search->best;
    try_scale(search, &S, (struct sl_window){.all = true}); /* leaves the s to be stored */
}

static void store_block(const struct sl_quantise_work *work, enum sl_dtype dtype, const struct sl_lanes *S,
                        const int32_t *exponent, void *block)
{
    uint32_t kp = sl_quant_padded(work->k);
    memset(block, 0, sl_quant_block_bytes(dtype, work->k));
    for (uint32_t c = 0; c < SL_LANES; c++) {
        bool zero = exponent[c] == INT32_MIN;
        float scale = zero ? 0.0f : ldexpf(sl_lane_const(S)[c], exponent[c]);
        memcpy((char *)block + c * sizeof(float), &scale, sizeof(float));
        for (uint32_t g = 0; dtype != SL_I8 && !zero && g < work->groups; g++)
            sl_quant_put_scale(dtype, block, c, g, (uint32_t)sl_lane_const(&work->s[g])[c]);
    }
    for (uint32_t i = 0; i < kp; i++)
        for (uint32_t c = 0; c < SL_LANES; c++)
            sl_quant_put(dtype, work->k, block, c, i,
                         (uint32_t)(work->r[(size_t)i * SL_LANES + c] + work->levels.bias));
}

static void add_report(const struct sl_quantise_work *work, const float *const rows[SL_LANES],
                       const struct sl_lanes *S, const int32_t *exponent, const float *weight,
                       struct sl_quantise_report *report)
{
    const struct sl_levels *v = &work->levels;
    for (uint32_t c = 0; c < SL_LANES; c++) {
        double scale = exponent[c] == INT32_MIN ? 0 : ldexp((double)sl_lane_const(S)[c], exponent[c]);
        for (uint32_t i = 0; rows[c] && i < work->k; i++) {
            double s = (double)sl_lane_const(&work->s[i / v->group])[c];
            double p = (double)work->r[(size_t)i * SL_LANES + c] - (double)v->offset;
            double x = (double)rows[c][i], d = x - scale * s * (double)v->step * p;
            double w = weight ? (double)weight[i] : 1;
            report->signal += w * x * x;
            report->noise += w * d * d;
            report->plain_signal += x * x;
            report->plain_noise += d * d;
        }
    }
}

void sl_quantise_block_by(const struct sl_quantise_loops *loops, const float *const rows[SL_LANES],
                          uint32_t k, enum sl_dtype dtype, const struct sl_moments *moments, void *block,
                          struct sl_quantise_report *report, void *scratch)
{
    struct sl_lanes *carry;
    int32_t exponent[SL_LANES];
    float peak[SL_LANES];
    struct sl_quantise_work work = work_in(scratch, dtype, k, &carry);
    struct search search = {.plan = dtype == SL_I8 ? &row_plan : &group_plan, .loops = loops, .work = &work};
    assert(k > 0 && k <= SL_QUANT_MAX_K && (!moments || moments->k == k));
    load_rows(&work, rows, exponent, peak);
    load_weights(&work, moments);
    search_scale(&search, peak);
    if (moments && moments->feedback)
        loops->feed(&work, &search.best, moments->feedback, carry);
    else
        loops->round(&work, &search.best);
    store_block(&work, dtype, &search.best, exponent, block);
    add_report(&work, rows, &search.best, exponent, moments ? moments->weight : NULL, report);
}

void sl_quantise_block(const float *const rows[SL_LANES], uint32_t k, enum sl_dtype dtype,
                       const struct sl_moments *moments, void *block, struct sl_quantise_report *report,
                       void *scratch)
{
    sl_quantise_block_by(sl_quantise_loops_best(), rows, k, dtype, moments, block, report, scratch);
}

void sl_rotate_weights(float *rows, uint32_t n, uint32_t k, uint32_t block)
{
    float share = 1.0f / (float)block; /* a power of two: exact */
    for (uint32_t r = 0; r < n; r++) {
        float *row = rows + (size_t)r * k;
        for (uint32_t i = 0; i < k; i++)
            row[i] *= share;
        sl_ops_ref.rotate(row, k, block);
    }
}
