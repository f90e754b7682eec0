/* A log-linear histogram of durations in microseconds: 32 linear steps per power of two (about 3 % wide),
 * from 1 us to 1 h, fixed memory, mergeable. One writer; readers may see a slightly older state. */
#ifndef SL_BASE_HIST_H
#define SL_BASE_HIST_H

#include <stdint.h>

enum { SL_HIST_SUB = 32, SL_HIST_BUCKETS = SL_HIST_SUB * 28 };

struct sl_hist {
    uint64_t count, sum_us, max_us;
    uint64_t buckets[SL_HIST_BUCKETS];
};

void sl_hist_add(struct sl_hist *hist, uint64_t value_us);
void sl_hist_merge(struct sl_hist *into, const struct sl_hist *from);
/* The upper bound of the bucket which holds the q-quantile (0 <= q <= 1); 0 when empty. */
uint64_t sl_hist_quantile(const struct sl_hist *hist, double q);
/* How many values were <= bound_us (by bucket upper bounds): for Prometheus' cumulative buckets. */
uint64_t sl_hist_count_le(const struct sl_hist *hist, uint64_t bound_us);

#endif
