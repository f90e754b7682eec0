/* Blocks of samples (dependence.h). One pass a level over half as many sums each time, so all levels cost two passes over the samples. */
#include "bench/serve/dependence.h"
#include "bench/serve/interval.h"
#include <math.h>

/* The body of a distribution decides on the length, since ranks are the better test: what a quantile's own indicators show by chance
 * at some of many lengths must be rare. */
static const double SAMPLES_Z = 1.645, SCORES_Z = 2, OWN_Z = 3;
static const double SCORES_LENGTH = 5, OWN_LENGTH = 1; /* of a block, in inflations */
static const double CORRELATION_MOST = 0.9;

static struct sl_block_level look(const double *x, uint32_t n, double samples)
{
    double sum = 0, squares = 0, fourths = 0, steps = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i];
    double mean = sum / n, before = 0;
    for (uint32_t i = 0; i < n; i++) {
        double apart = x[i] - mean, square = apart * apart, step = apart - before;
        squares += square;
        fourths += square * square;
        steps += step * step; /* the first and, below, the last against the mean: the ends count as whole */
        before = apart;
    }
    steps += before * before;
    struct sl_block_level level = {.n_blocks = n, .degrees = n - 1};
    if (!(squares > 0))
        return level;
    double kurtosis = fourths * n / (squares * squares);
    level.variance = squares / (n - 1) / (samples * samples);
    level.correlation = 1 - steps / (2 * squares);
    level.z = level.correlation * sqrt(((double)n * n - 1) / (n - 2.0));
    level.degrees = fmin(n - 1, 2.0 * n / fmax(kurtosis - 1, 0.1) - 1);
    return level;
}

uint32_t sl_block_levels(double *x, uint32_t n, struct sl_block_level levels[SL_BLOCK_LEVELS])
{
    uint32_t level = 0;
    double samples = 1;
    for (; n >= SL_INTERVAL_BLOCKS && level < SL_BLOCK_LEVELS; level++, samples *= 2) {
        levels[level] = look(x, n, samples);
        n /= 2;
        for (uint32_t i = 0; i < n; i++)
            x[i] = x[2 * i] + x[2 * i + 1];
    }
    return level;
}

double sl_block_inflation(const struct sl_block_level *levels, uint32_t level)
{
    if (!(levels[0].variance > 0))
        return 1;
    double r = fmin(fmax(levels[level].correlation, 0), CORRELATION_MOST);
    return levels[level].variance * ldexp(1, (int)level) / levels[0].variance * (1 + r) / (1 - r);
}

static bool tied(const struct sl_block_level *scores, const struct sl_block_level *own, uint32_t level)
{
    if (level == 0)
        return scores->z > SAMPLES_Z || own->z > SAMPLES_Z;
    return scores[level].z > SCORES_Z || own[level].z > OWN_Z;
}

uint32_t sl_block_choose(const struct sl_block_level *scores, const struct sl_block_level *own,
                         uint32_t n_levels)
{
    uint32_t level = 0;
    for (uint32_t i = 0; i + 1 < n_levels; i++)
        if (tied(scores, own, i))
            level = i + 2; /* the next one may pass, and twice that will do */
    while (level > 0 && level < n_levels &&
           ldexp(1, (int)level) < fmax(SCORES_LENGTH * sl_block_inflation(scores, level),
                                       OWN_LENGTH * sl_block_inflation(own, level)))
        level++;
    return level < n_levels ? level : n_levels;
}
