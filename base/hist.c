/* Log-linear buckets: values below 32 us are exact; above, the top five bits after the leading one choose the step. */
#include "base/hist.h"

static uint32_t bucket_of(uint64_t v)
{
    if (v < SL_HIST_SUB)
        return (uint32_t)v;
    uint32_t power = 63u - (uint32_t)__builtin_clzll(v); /* >= 5 */
    uint32_t index = (power - 4) * SL_HIST_SUB + (uint32_t)((v >> (power - 5)) & (SL_HIST_SUB - 1));
    return index < SL_HIST_BUCKETS ? index : SL_HIST_BUCKETS - 1;
}

static uint64_t bucket_top(uint32_t index) /* largest value in the bucket */
{
    if (index < SL_HIST_SUB)
        return index;
    uint32_t power = index / SL_HIST_SUB + 4;
    uint64_t low = (1ull << power) + ((uint64_t)(index % SL_HIST_SUB) << (power - 5));
    return low + (1ull << (power - 5)) - 1;
}

void sl_hist_add(struct sl_hist *hist, uint64_t value_us)
{
    hist->count++;
    hist->sum_us += value_us;
    if (value_us > hist->max_us)
        hist->max_us = value_us;
    hist->buckets[bucket_of(value_us)]++;
}

void sl_hist_merge(struct sl_hist *into, const struct sl_hist *from)
{
    into->count += from->count;
    into->sum_us += from->sum_us;
    if (from->max_us > into->max_us)
        into->max_us = from->max_us;
    for (uint32_t i = 0; i < SL_HIST_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
}

uint64_t sl_hist_quantile(const struct sl_hist *hist, double q)
{
    if (hist->count == 0)
        return 0;
    uint64_t rank = (uint64_t)(q * (double)hist->count), seen = 0;
    if (rank >= hist->count)
        rank = hist->count - 1;
    for (uint32_t i = 0; i < SL_HIST_BUCKETS; i++) {
        seen += hist->buckets[i];
        if (seen > rank)
            return bucket_top(i) < hist->max_us ? bucket_top(i) : hist->max_us;
    }
    return hist->max_us;
}

uint64_t sl_hist_count_le(const struct sl_hist *hist, uint64_t bound_us)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < SL_HIST_BUCKETS && bucket_top(i) <= bound_us; i++)
        n += hist->buckets[i];
    return n;
}
