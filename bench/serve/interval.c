/* Intervals (interval.h).
 *
 * Of a quantile x: how many samples lie at or below the true one is a sum of indicators, about binomial with as many trials as there are
 * independent samples. The variance of block means of the indicators (dependence.h) says how many that are; Student's factor for
 * an estimated variance is taken off that number (Korn and Graubard 1998), and the ranks between which the true one lies with 95 % are
 * those fractional order statistics whose levels, beta distributed, exceed q with 2.5 % and 97.5 % (Hutson 1999).
 *
 * Equal values, failed ones too, are told apart by chance (of a fixed seed), as if each had been moved a little: what holds for the
 * moved ones holds for these, and an indicator is never constant because many values are the same. */
#include "bench/serve/interval.h"
#include "base/rng.h"
#include "bench/serve/dependence.h"
#include "bench/serve/sort.h"
#include "bench/serve/student.h"
#include <assert.h>
#include <math.h>
#include <string.h>

enum { SCORE_CUTS = 1023, HALVINGS = 60 };
static const double SAMPLES_BEYOND = 10; /* a quantile: this many, at least */
static const double UPPER = 0.975;
static const double NORMAL_UPPER = 1.959963984540054;
/* Runs that happen to be calm show too small an inflation and are the ones that get an interval: with few samples' worth, more is
 * counted on than was seen. */
static const double CALM = 4;

/* Ranks, in 1024 steps: what the test for independence looks at, whatever the distribution is. */
static void make_scores(const double *values, uint32_t n, const double *sorted, double *scores)
{
    double cuts[SCORE_CUTS];
    for (uint32_t i = 0; i < SCORE_CUTS; i++)
        cuts[i] = sorted[(uint64_t)(i + 1) * n / (SCORE_CUTS + 1)];
    for (uint32_t i = 0; i < n; i++) { /* halving without a branch: which side it is can't be foreseen */
        uint32_t below = 0;
        for (uint32_t step = (SCORE_CUTS + 1) / 2; step > 0; step /= 2)
            below += (uint32_t)(cuts[below + step - 1] < values[i]) * step;
        scores[i] = below;
    }
}

/* 1 for those at or below the quantile, index + 1 of them. */
static void make_indicators(const double *values, uint32_t n, const double *sorted, uint32_t index,
                            double *indicators)
{
    double at = sorted[index];
    uint32_t below = sl_sorted_below(sorted, n, at);
    uint32_t equal = sl_sorted_up_to(sorted, n, at) - below, wanted = index + 1 - below;
    struct sl_rng rng = {1, 0};
    for (uint32_t i = 0; i < n; i++)
        indicators[i] = values[i] <= at;
    if (wanted == equal)
        return;
    for (uint32_t i = 0; i < n; i++) {
        if (values[i] < at || values[i] > at)
            continue;
        indicators[i] = 0;
        if (sl_rng_unit(sl_rng_next(&rng)) * equal < wanted) {
            indicators[i] = 1;
            wanted--;
        }
        equal--;
    }
}

/* r, not whole, such that the r-th of n uniform variables in order exceeds q with a chance of 1 - chance. */
static double rank_of(double q, double n, double chance)
{
    double low = 0, high = n + 1;
    for (int i = 0; i < HALVINGS; i++) {
        double middle = 0.5 * (low + high);
        if (sl_beta_cdf(q, middle, n + 1 - middle) > chance)
            low = middle;
        else
            high = middle;
    }
    return 0.5 * (low + high);
}

static double value_at(const double *sorted, uint32_t n, double rank)
{
    uint32_t whole = (uint32_t)rank;
    double rest = rank - whole;
    assert(whole >= 1 && whole <= n);
    if (whole == n || !(rest > 0) || !(sorted[whole] > sorted[whole - 1]))
        return sorted[whole - 1];
    return sorted[whole - 1] + rest * (sorted[whole] - sorted[whole - 1]);
}

static double calm(double inflation, double scores_inflation, double n, double spread)
{
    return fmax(inflation, 1) * (1 + CALM * sqrt(fmax(scores_inflation, 1) / (n * spread)));
}

/* How many independent samples n are worth when it comes to q. */
static double worth(const struct sl_block_level *scores, const struct sl_block_level *own, uint32_t level,
                    uint32_t n, double q)
{
    if (level == 0)
        return n;
    double seen = sl_block_inflation(own, level);
    double inflation = calm(seen, fmax(seen, sl_block_inflation(scores, level)), n, 4 * q * (1 - q));
    double factor = NORMAL_UPPER / sl_student_quantile(UPPER, fmax(own[level].degrees, 1));
    return n / inflation * factor * factor;
}

static void bound(struct sl_interval *interval, const double *sorted, uint32_t n, double q, double n_worth)
{
    double scale = (n + 1.0) / (n_worth + 1);
    double low = rank_of(q, n_worth, UPPER) * scale, high = rank_of(q, n_worth, 1 - UPPER) * scale;
    if (low < 1 || high > n)
        return;
    interval->low = fmin(value_at(sorted, n, low), interval->value);
    interval->high = fmax(value_at(sorted, n, high), interval->value);
    interval->bounded = true;
}

void sl_interval_quantiles(const double *values, uint32_t n, const double *qs, uint32_t n_qs,
                           struct sl_interval *intervals, double *scratch)
{
    double *sorted = scratch, *work = scratch + n;
    struct sl_block_level scores[SL_BLOCK_LEVELS], own[SL_BLOCK_LEVELS];
    uint32_t n_levels = 0;
    if (n > 0) {
        memcpy(sorted, values, n * sizeof *values);
        sl_sort_doubles(sorted, n, work);
        make_scores(values, n, sorted, work);
        n_levels = sl_block_levels(work, n, scores);
    }
    for (uint32_t i = 0; i < n_qs; i++) {
        struct sl_interval *interval = &intervals[i];
        double q = qs[i];
        assert(q > 0 && q < 1);
        *interval = (struct sl_interval){.value = NAN};
        if (n == 0)
            continue;
        uint32_t index = sl_nearest_rank(n, q);
        interval->value = interval->low = interval->high = sorted[index];
        interval->known = n * fmin(q, 1 - q) > SAMPLES_BEYOND - 1e-6;
        if (!interval->known || n_levels == 0)
            continue;
        make_indicators(values, n, sorted, index, work);
        sl_block_levels(work, n, own);
        uint32_t level = sl_block_choose(scores, own, n_levels);
        interval->n_blocks = n >> level;
        if (level < n_levels)
            bound(interval, sorted, n, q, worth(scores, own, level, n, q));
    }
}

struct sl_interval sl_interval_quantile(const double *values, uint32_t n, double q, double *scratch)
{
    struct sl_interval interval;
    sl_interval_quantiles(values, n, &q, 1, &interval, scratch);
    return interval;
}

struct sl_interval sl_interval_mean(const double *values, uint32_t n, double *scratch)
{
    double *finite = scratch, *work = scratch + n, sum = 0;
    struct sl_block_level scores[SL_BLOCK_LEVELS], own[SL_BLOCK_LEVELS];
    uint32_t m = 0;
    for (uint32_t i = 0; i < n; i++)
        if (isfinite(values[i])) {
            finite[m++] = values[i];
            sum += values[i];
        }
    struct sl_interval interval = {.value = NAN};
    if (m == 0)
        return interval;
    interval.value = interval.low = interval.high = sum / m;
    interval.known = true;
    memcpy(work, finite, m * sizeof *work);
    uint32_t n_levels = sl_block_levels(work, m, own);
    if (n_levels == 0)
        return interval;
    sl_sort_doubles(finite, m, work);
    m = 0; /* the order of time once more: finite[] is sorted now */
    for (uint32_t i = 0; i < n; i++)
        if (isfinite(values[i]))
            work[m++] = values[i];
    make_scores(work, m, finite, work);
    sl_block_levels(work, m, scores);
    uint32_t level = sl_block_choose(scores, own, n_levels);
    interval.n_blocks = m >> level;
    if (level >= n_levels)
        return interval;
    double inflation = 1, degrees = m - 1;
    if (level > 0) {
        double seen = sl_block_inflation(own, level);
        inflation = calm(seen, fmax(seen, sl_block_inflation(scores, level)), m, 1);
        degrees = fmax(own[level].degrees, 1);
    }
    double half = sl_student_quantile(UPPER, degrees) * sqrt(inflation * own[0].variance / m);
    interval.low = interval.value - half;
    interval.high = interval.value + half;
    interval.bounded = true;
    return interval;
}
