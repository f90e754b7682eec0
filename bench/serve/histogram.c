/* The histogram (histogram.h). Counter i: below 2048 it is of the value i; above, the eleven leading bits of a value choose among 1024
 * steps of its power of two. */
#include "bench/serve/histogram.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define LOWEST_NS 1000ull
#define HIGHEST_NS 3600000000000ull /* 1 h: just under 2^42 */

enum { STEP_BITS = 10, STEPS = 1 << STEP_BITS, POWERS = 42 - STEP_BITS, COUNTERS = (POWERS + 1) * STEPS };
enum { TICKS = 5 }; /* lines for each half of the distance to 100 % */
static const double NS_PER_MS = 1e6;

struct sl_histogram {
    uint64_t count, failed; /* count: of what has a value */
    uint64_t most_ns;       /* exactly */
    uint64_t counters[COUNTERS];
};

static uint32_t counter_of(uint64_t value)
{
    if (value < 2 * STEPS)
        return (uint32_t)value;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - STEP_BITS;
    return shift * STEPS + (uint32_t)(value >> shift);
}

static uint64_t bottom_of(uint32_t counter)
{
    if (counter < 2 * STEPS)
        return counter;
    uint32_t shift = counter / STEPS - 1;
    return (uint64_t)(counter % STEPS + STEPS) << shift;
}

static uint64_t top_of(uint32_t counter)
{
    return bottom_of(counter + 1) - 1;
}

sl_status sl_histogram_new(struct sl_histogram **histogram, struct sl_err *err)
{
    *histogram = calloc(1, sizeof **histogram);
    return *histogram ? SL_OK : sl_fail(err, SL_E_NOMEM, "out of memory for a histogram");
}

void sl_histogram_free(struct sl_histogram *histogram)
{
    free(histogram);
}

void sl_histogram_add(struct sl_histogram *histogram, uint64_t value_ns)
{
    uint64_t value = value_ns < LOWEST_NS ? LOWEST_NS : value_ns > HIGHEST_NS ? HIGHEST_NS : value_ns;
    histogram->count++;
    histogram->counters[counter_of(value)]++;
    if (value > histogram->most_ns)
        histogram->most_ns = value;
}

void sl_histogram_add_failed(struct sl_histogram *histogram, uint64_t count)
{
    histogram->failed += count;
}

void sl_histogram_merge(struct sl_histogram *into, const struct sl_histogram *from)
{
    into->count += from->count;
    into->failed += from->failed;
    if (from->most_ns > into->most_ns)
        into->most_ns = from->most_ns;
    for (uint32_t i = 0; i < COUNTERS; i++)
        into->counters[i] += from->counters[i];
}

uint64_t sl_histogram_count(const struct sl_histogram *histogram)
{
    return histogram->count + histogram->failed;
}

/* The first counter with `rank` values at or below it, 1 <= rank <= count, and how many these are. */
static uint32_t find(const struct sl_histogram *histogram, uint64_t rank, uint64_t *up_to)
{
    uint64_t seen = 0;
    uint32_t i = 0;
    while ((seen += histogram->counters[i]) < rank)
        i++;
    *up_to = seen;
    return i;
}

static uint64_t kept_as(const struct sl_histogram *histogram, uint32_t counter)
{
    uint64_t top = top_of(counter);
    return top < histogram->most_ns ? top : histogram->most_ns;
}

static uint64_t rank_of(uint64_t count, double q)
{
    double rank = ceil(q * (double)count - 1e-6); /* 0.99 of 1000 is 990, whatever its last bit says */
    return rank < 1 ? 1 : rank > (double)count ? count : (uint64_t)rank;
}

uint64_t sl_histogram_quantile(const struct sl_histogram *histogram, double q)
{
    uint64_t all = sl_histogram_count(histogram), up_to;
    if (all == 0)
        return 0;
    uint64_t rank = rank_of(all, q);
    return rank > histogram->count ? UINT64_MAX : kept_as(histogram, find(histogram, rank, &up_to));
}

/* By the middles of the steps: the same for the same counters. */
static void moments(const struct sl_histogram *histogram, double *mean, double *deviation)
{
    double n = (double)histogram->count, sum = 0, squares = 0;
    *mean = *deviation = 0;
    if (histogram->count == 0)
        return;
    for (uint32_t i = 0; i < COUNTERS; i++)
        sum += (double)histogram->counters[i] * 0.5 * (double)(bottom_of(i) + top_of(i));
    *mean = sum / n;
    for (uint32_t i = 0; i < COUNTERS; i++) {
        double apart = 0.5 * (double)(bottom_of(i) + top_of(i)) - *mean;
        squares += (double)histogram->counters[i] * apart * apart;
    }
    *deviation = sqrt(squares / n);
}

/* One line; false: that was the last but that of 100 %. */
static bool write_percentile(const struct sl_histogram *histogram, double q, FILE *to)
{
    uint64_t all = sl_histogram_count(histogram), rank = rank_of(all, q), up_to;
    if (rank > histogram->count)
        return false;
    uint32_t counter = find(histogram, rank, &up_to);
    if (up_to == all)
        return false;
    fprintf(to, "%12.3f %14.12f %10" PRIu64 " %14.2f\n", (double)kept_as(histogram, counter) / NS_PER_MS, q,
            up_to, 1 / (1 - q));
    return up_to < histogram->count;
}

static void write_percentiles(const struct sl_histogram *histogram, FILE *to)
{
    if (histogram->count == 0)
        return;
    bool more = true;
    for (int half = 0; more; half++) /* 1/2^half of all is left above, ends since that falls below one */
        for (int tick = 0; more && tick < TICKS; tick++)
            more = write_percentile(histogram, 1 - ldexp(1 - 0.5 * tick / TICKS, -half), to);
    if (histogram->failed == 0)
        fprintf(to, "%12.3f %14.12f %10" PRIu64 "\n", (double)histogram->most_ns / NS_PER_MS, 1.0,
                histogram->count);
}

void sl_histogram_write(const struct sl_histogram *histogram, FILE *to)
{
    double mean, deviation;
    moments(histogram, &mean, &deviation);
    fprintf(to, "%12s %14s %10s %14s\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    write_percentiles(histogram, to);
    fprintf(to, "#[Mean    = %12.3f, StdDeviation   = %12.3f]\n", mean / NS_PER_MS, deviation / NS_PER_MS);
    fprintf(to, "#[Max     = %12.3f, Total count    = %12" PRIu64 "]\n",
            (double)histogram->most_ns / NS_PER_MS, sl_histogram_count(histogram));
    fprintf(to, "#[Buckets = %12d, SubBuckets     = %12d]\n", POWERS, 2 * STEPS);
    if (histogram->failed > 0)
        fprintf(to, "#[Failed  = %12" PRIu64 ", above all values]\n", histogram->failed);
}
