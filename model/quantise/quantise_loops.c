/* The loops in which the quantiser spends its time: errors of a group, the fit of S, rounding, feedback.
 *
 * Each is a few additions over [input][16] floats. y = x / spacing + offset is rounded by adding 1.5 * 2^23,
 * which leaves the nearest integer in the low bits of the float; clamping then is two integer comparisons
 * that hold for any y, however large. The error is summed in units of the spacing, where it is small, and
 * scaled once. */
#include "model/quantise/quantise_impl.h"

#define INLINE static inline __attribute__((always_inline))

typedef int32_t int_eight __attribute__((vector_size(32)));

/* Neighbours of s on either side that are tried with their errors carried: 2 % less error than without them,
 * and trying all is hardly better. */
#define FEED_WINDOW 2.0f

static const float MAGIC = 12582912.0f; /* 1.5 * 2^23: floats around it are the integers */
enum { MAGIC_BITS = 0x4B400000 };

INLINE sl_eight select_eight(int_eight mask, sl_eight yes, sl_eight no)
{
    return (sl_eight)(((int_eight)yes & mask) | ((int_eight)no & ~mask));
}

INLINE sl_eight clip_eight(sl_eight x, float low, float high)
{
    sl_eight lows = low - (sl_eight){0}, highs = high - (sl_eight){0};
    x = select_eight(x < lows, lows, x);
    return select_eight(x > highs, highs, x);
}

INLINE sl_eight nearest(sl_eight x)
{
    return (x + MAGIC) - MAGIC;
}

/* The level nearest to y as a float integer, within low..high for any y. */
INLINE sl_eight level_of(const struct sl_levels *v, sl_eight y)
{
    int_eight bits = (int_eight)(y + MAGIC);
    int_eight low = MAGIC_BITS + v->low - (int_eight){0}, high = MAGIC_BITS + v->high - (int_eight){0};
    int_eight under = bits < low;
    bits = (bits & ~under) | (low & under);
    int_eight over = bits > high;
    bits = (bits & ~over) | (high & over);
    return (sl_eight)bits - MAGIC;
}

/* 1 / spacing, and 0 for a spacing of 0, whose group then has the level next to zero everywhere. */
INLINE sl_eight inverse_of(sl_eight spacing)
{
    return select_eight(spacing > 0.0f, 1.0f / spacing, (sl_eight){0});
}

/* Sum over n inputs of weight * (x - nearest level)^2 for half h. */
INLINE sl_eight error_of(const struct sl_levels *v, const struct sl_lanes *x, const float *weight, uint32_t n,
                         int h, sl_eight spacing)
{
    sl_eight inverse = 1.0f / spacing, sum = {0};
    for (uint32_t i = 0; i < n; i++) {
        sl_eight y = x[i].half[h] * inverse + v->offset;
        sl_eight d = y - level_of(v, y);
        sum += weight[i] * d * d;
    }
    return sum * (spacing * spacing);
}

INLINE void centre_body(const struct sl_quantise_work *work, float from, float to, uint32_t steps)
{
    const struct sl_levels *v = &work->levels;
    float reach = 1.0f / ((float)-v->low + v->offset); /* the farthest level, in spacings */
    for (uint32_t g = 0; g < work->groups; g++) {
        const struct sl_lanes *x = work->x + g * v->group;
        for (int h = 0; h < 2; h++) {
            sl_eight peak = {0}, best = {0}, best_error = {0};
            for (uint32_t i = 0; i < v->group; i++) {
                sl_eight a = select_eight(x[i].half[h] < 0.0f, -x[i].half[h], x[i].half[h]);
                peak = select_eight(a > peak, a, peak);
            }
            peak = select_eight(peak > 0x1p-60f, peak, 0x1p-60f - (sl_eight){0});
            for (uint32_t t = 0; t <= steps; t++) {
                sl_eight spacing = peak * (reach * (from + (to - from) * (float)t / (float)steps));
                sl_eight e = error_of(v, x, work->weight + g * v->group, v->group, h, spacing);
                int_eight better = t == 0 ? (int_eight){0} == 0 : e < best_error;
                best = select_eight(better, spacing, best);
                best_error = select_eight(better, e, best_error);
            }
            work->centre[g].half[h] = best;
        }
    }
}

/* The best s of one group, and its error; s = 0 makes it zero. unit = S * step, near is the middle of the
 * window. */
INLINE void choose_group(const struct sl_levels *v, const struct sl_lanes *x, const float *weight, int h,
                         sl_eight unit, sl_eight near, struct sl_window window, sl_eight *s, sl_eight *error)
{
    sl_eight best = {0}, best_error = {0};
    for (uint32_t i = 0; i < v->group; i++)
        best_error += weight[i] * x[i].half[h] * x[i].half[h];
    if (window.all) {
        near = (sl_eight){0};
        window = (struct sl_window){1.0f, v->s_max, true};
    }
    for (float t = window.from; t <= window.to; t += 1.0f) {
        sl_eight candidate = clip_eight(near + t, 1.0f, v->s_max);
        sl_eight e = error_of(v, x, weight, v->group, h, unit * candidate);
        int_eight better = e < best_error;
        best = select_eight(better, candidate, best);
        best_error = select_eight(better, e, best_error);
    }
    *s = best;
    *error = best_error;
}

/* Sums over the groups are double: the candidates of S are compared by them. */
INLINE void choose_body(const struct sl_quantise_work *work, const struct sl_lanes *S,
                        struct sl_window window, double error[SL_LANES])
{
    const struct sl_levels *v = &work->levels;
    memset(error, 0, SL_LANES * sizeof(double));
    for (uint32_t g = 0; g < work->groups; g++) {
        for (int h = 0; h < 2; h++) {
            sl_eight unit = S->half[h] * v->step, e;
            sl_eight near = nearest(clip_eight(work->centre[g].half[h] / unit, 1.0f, v->s_max));
            choose_group(v, work->x + g * v->group, work->weight + g * v->group, h, unit, near, window,
                         &work->s[g].half[h], &e);
            for (int c = 0; c < 8; c++)
                error[h * 8 + c] += (double)e[c];
        }
    }
}

/* With p = r - offset and d = y - r, x = spacing * (p + d), so S grows by the share
 * sum(w s^2 d p) / sum(w s^2 p^2). */
INLINE void fit_body(const struct sl_quantise_work *work, const struct sl_lanes *S, struct sl_lanes *fitted)
{
    const struct sl_levels *v = &work->levels;
    for (int h = 0; h < 2; h++) {
        sl_eight unit = S->half[h] * v->step;
        double above[8] = {0}, below[8] = {0};
        for (uint32_t g = 0; g < work->groups; g++) {
            const struct sl_lanes *x = work->x + g * v->group;
            const float *weight = work->weight + g * v->group;
            sl_eight s = work->s[g].half[h], inverse = inverse_of(unit * s), dp = {0}, pp = {0};
            for (uint32_t i = 0; i < v->group; i++) {
                sl_eight y = x[i].half[h] * inverse + v->offset, r = level_of(v, y);
                sl_eight wp = weight[i] * (r - v->offset);
                dp += (y - r) * wp;
                pp += (r - v->offset) * wp;
            }
            for (int c = 0; c < 8; c++) {
                above[c] += (double)(s[c] * s[c] * dp[c]);
                below[c] += (double)(s[c] * s[c] * pp[c]);
            }
        }
        for (int c = 0; c < 8; c++) {
            double share = below[c] > 0 ? above[c] / below[c] : 0;
            fitted->half[h][c] = (float)((double)S->half[h][c] * (1 + (share > -0.5 ? share : -0.5)));
        }
    }
}

INLINE void store_levels(int8_t *r, sl_eight level)
{
    for (int c = 0; c < 8; c++)
        r[c] = (int8_t)(int32_t)level[c];
}

INLINE void round_body(const struct sl_quantise_work *work, const struct sl_lanes *S)
{
    const struct sl_levels *v = &work->levels;
    for (uint32_t g = 0; g < work->groups; g++) {
        for (int h = 0; h < 2; h++) {
            sl_eight inverse = inverse_of(S->half[h] * v->step * work->s[g].half[h]);
            for (uint32_t i = g * v->group; i < (g + 1) * v->group; i++)
                store_levels(work->r + (size_t)i * SL_LANES + h * 8,
                             level_of(v, work->x[i].half[h] * inverse + v->offset));
        }
    }
}

/* Rounds column i at a spacing; *e is its error, divided by U[i][i] as the carry wants it. */
INLINE sl_eight feed_column(const struct sl_levels *v, sl_eight x, sl_eight spacing, sl_eight inverse,
                            float diagonal, sl_eight *e)
{
    sl_eight r = level_of(v, x * inverse + v->offset);
    *e = (x - spacing * (r - v->offset)) * (1.0f / diagonal);
    return r;
}

/* What a group would cost at a spacing if its columns were rounded and their errors carried within it: the
 * sum of e^2 is the error x'Hx that no later column can undo. */
INLINE sl_eight feed_cost(const struct sl_quantise_work *work, const float *factor, uint32_t begin,
                          uint32_t stop, int h, sl_eight spacing)
{
    sl_eight x[SL_QUANT_UNIT], inverse = inverse_of(spacing), cost = {0}, e;
    for (uint32_t i = begin; i < stop; i++)
        x[i - begin] = work->x[i].half[h];
    for (uint32_t i = begin; i < stop; i++) {
        const float *u = factor + (size_t)i * work->k;
        feed_column(&work->levels, x[i - begin], spacing, inverse, u[i], &e);
        cost += e * e;
        for (uint32_t j = i + 1; j < stop; j++)
            x[j - begin] -= e * u[j];
    }
    return cost;
}

/* The s of a group from its corrected columns: the best by plain rounding, then the best of its neighbours by
 * what they really cost. */
INLINE sl_eight feed_scale(const struct sl_quantise_work *work, const float *factor, uint32_t begin,
                           uint32_t stop, int h, sl_eight unit)
{
    const struct sl_levels *v = &work->levels;
    const struct sl_window all = {.all = true};
    sl_eight near = {0}, ignored, best = {0}, best_cost;
    choose_group(v, work->x + begin, work->weight + begin, h, unit, near, all, &near, &ignored);
    best_cost = feed_cost(work, factor, begin, stop, h, best);
    for (float t = -FEED_WINDOW; t <= FEED_WINDOW; t += 1.0f) {
        sl_eight s = clip_eight(near + t, 1.0f, v->s_max);
        sl_eight cost = feed_cost(work, factor, begin, stop, h, unit * s);
        int_eight better = cost < best_cost;
        best = select_eight(better, s, best);
        best_cost = select_eight(better, cost, best_cost);
    }
    return best;
}

/* Rounds the columns of one group and carries each one's error to the rest of its unit, up to `end`. */
INLINE void feed_group(const struct sl_quantise_work *work, const struct sl_lanes *S, const float *factor,
                       uint32_t begin, uint32_t end, struct sl_lanes *carry)
{
    const struct sl_levels *v = &work->levels;
    uint32_t stop = begin + v->group < end ? begin + v->group : end;
    for (int h = 0; h < 2; h++) {
        sl_eight unit = S->half[h] * v->step, s = feed_scale(work, factor, begin, stop, h, unit);
        sl_eight spacing = unit * s, inverse = inverse_of(spacing), e;
        work->s[begin / v->group].half[h] = s;
        for (uint32_t i = begin; i < stop; i++) {
            const float *u = factor + (size_t)i * work->k;
            sl_eight r = feed_column(v, work->x[i].half[h], spacing, inverse, u[i], &e);
            store_levels(work->r + (size_t)i * SL_LANES + h * 8, r);
            carry[i % SL_QUANT_UNIT].half[h] = e;
            for (uint32_t j = i + 1; j < end; j++)
                work->x[j].half[h] -= e * u[j];
        }
    }
}

/* x[j] -= sum over the unit's columns i, ascending, of carry[i] * U[i][j] for all later columns, four at a
 * time: their eight vectors and the two of the carry stay in registers. */
INLINE void feed_far(const struct sl_quantise_work *work, const float *factor, uint32_t begin, uint32_t end,
                     const struct sl_lanes *carry)
{
    uint32_t j = end;
    for (; j + 4 <= work->k; j += 4) {
        struct sl_lanes *x = work->x + j;
        sl_eight a0 = x[0].half[0], a1 = x[0].half[1], b0 = x[1].half[0], b1 = x[1].half[1];
        sl_eight c0 = x[2].half[0], c1 = x[2].half[1], d0 = x[3].half[0], d1 = x[3].half[1];
        for (uint32_t i = begin; i < end; i++) {
            const float *u = factor + (size_t)i * work->k + j;
            sl_eight e0 = carry[i - begin].half[0], e1 = carry[i - begin].half[1];
            a0 -= e0 * u[0], a1 -= e1 * u[0], b0 -= e0 * u[1], b1 -= e1 * u[1];
            c0 -= e0 * u[2], c1 -= e1 * u[2], d0 -= e0 * u[3], d1 -= e1 * u[3];
        }
        x[0] = (struct sl_lanes){{a0, a1}}, x[1] = (struct sl_lanes){{b0, b1}};
        x[2] = (struct sl_lanes){{c0, c1}}, x[3] = (struct sl_lanes){{d0, d1}};
    }
    for (; j < work->k; j++)
        for (uint32_t i = begin; i < end; i++)
            for (int h = 0; h < 2; h++)
                work->x[j].half[h] -= carry[i - begin].half[h] * factor[(size_t)i * work->k + j];
}

INLINE void feed_body(const struct sl_quantise_work *work, const struct sl_lanes *S, const float *factor,
                      struct sl_lanes *carry)
{
    uint32_t unit = SL_QUANT_UNIT, group = work->levels.group;
    memset(work->r, 0, (size_t)sl_quant_padded(work->k) * SL_LANES);
    memset(work->s, 0, work->groups * sizeof(*work->s));
    for (uint32_t begin = 0; begin < work->k; begin += unit) {
        uint32_t end = begin + unit < work->k ? begin + unit : work->k;
        for (uint32_t g = begin; g < end; g += group)
            feed_group(work, S, factor, g, end, carry);
        feed_far(work, factor, begin, end, carry);
    }
}

/* The table of the loops compiled for one target. */
#define TABLE(name, target)                                                                                  \
    target static void centre_##name(const struct sl_quantise_work *work, float from, float to,              \
                                     uint32_t steps)                                                         \
    {                                                                                                        \
        centre_body(work, from, to, steps);                                                                  \
    }                                                                                                        \
    target static void choose_##name(const struct sl_quantise_work *work, const struct sl_lanes *S,          \
                                     struct sl_window window, double error[SL_LANES])                        \
    {                                                                                                        \
        choose_body(work, S, window, error);                                                                 \
    }                                                                                                        \
    target static void fit_##name(const struct sl_quantise_work *work, const struct sl_lanes *S,             \
                                  struct sl_lanes *fitted)                                                   \
    {                                                                                                        \
        fit_body(work, S, fitted);                                                                           \
    }                                                                                                        \
    target static void round_##name(const struct sl_quantise_work *work, const struct sl_lanes *S)           \
    {                                                                                                        \
        round_body(work, S);                                                                                 \
    }                                                                                                        \
    target static void feed_##name(const struct sl_quantise_work *work, const struct sl_lanes *S,            \
                                   const float *factor, struct sl_lanes *carry)                              \
    {                                                                                                        \
        feed_body(work, S, factor, carry);                                                                   \
    }                                                                                                        \
    const struct sl_quantise_loops sl_quantise_loops_##name = {centre_##name, choose_##name, fit_##name,     \
                                                               round_##name, feed_##name};

TABLE(any, )
extern const struct sl_quantise_loops sl_quantise_loops_avx2;
TABLE(avx2, __attribute__((target("avx2"))))

const struct sl_quantise_loops *sl_quantise_loops_best(void)
{
    return __builtin_cpu_supports("avx2") ? &sl_quantise_loops_avx2 : &sl_quantise_loops_any;
}
