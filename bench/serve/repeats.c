/* Figures over repeats of a run (interval.h): repeats are independent, so Student and Welch will do. */
#include "bench/serve/interval.h"
#include "bench/serve/student.h"
#include <math.h>

static const double UPPER = 0.975, LEVEL = 0.05;

struct moments {
    double mean, variance; /* of the figures, by n - 1 */
};

static struct moments moments_of(const double *figures, uint32_t n)
{
    struct moments m = {0, 0};
    for (uint32_t i = 0; i < n; i++)
        m.mean += figures[i] / n;
    for (uint32_t i = 0; i < n; i++)
        m.variance += (figures[i] - m.mean) * (figures[i] - m.mean);
    m.variance = n > 1 ? m.variance / (n - 1) : 0;
    return m;
}

struct sl_interval sl_interval_repeats(const double *figures, uint32_t n, double *variation)
{
    struct moments m = moments_of(figures, n);
    struct sl_interval interval = {
        .value = n > 0 ? m.mean : NAN, .low = m.mean, .high = m.mean, .known = n > 0, .n_blocks = n};
    if (variation)
        *variation = n > 1 ? sqrt(m.variance) / fabs(m.mean) : NAN;
    if (n < 2 || !isfinite(m.mean))
        return interval;
    double half = sl_student_quantile(UPPER, n - 1) * sqrt(m.variance / n);
    interval.low -= half;
    interval.high += half;
    interval.bounded = true;
    return interval;
}

static double welch_p(struct moments a, uint32_t n_a, struct moments b, uint32_t n_b)
{
    double share_a = a.variance / n_a, share_b = b.variance / n_b, both = share_a + share_b;
    if (!isfinite(a.mean) || !isfinite(b.mean))
        return 1;
    if (!(both > 0))
        return a.mean < b.mean || a.mean > b.mean ? 0 : 1;
    double t = (a.mean - b.mean) / sqrt(both);
    double degrees = both * both / (share_a * share_a / (n_a - 1) + share_b * share_b / (n_b - 1));
    return 2 * sl_student_cdf(-fabs(t), degrees);
}

bool sl_interval_differ(const double *a, uint32_t n_a, const double *b, uint32_t n_b, double *p)
{
    double chance = n_a < 2 || n_b < 2 ? 1 : welch_p(moments_of(a, n_a), n_a, moments_of(b, n_b), n_b);
    if (p)
        *p = chance;
    return chance < LEVEL;
}
