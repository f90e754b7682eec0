/* Sorting many doubles: a harness that sorts a million latencies for each figure should not be seen to think. Pure. */
#ifndef SL_BENCH_SERVE_SORT_H
#define SL_BENCH_SERVE_SORT_H

#include <stdint.h>

/* In place, ascending; no NAN. spare[n] is the caller's. O(n). */
void sl_sort_doubles(double *values, uint32_t n, double *spare);
/* How many of sorted[n] are < value, and <= value. */
uint32_t sl_sorted_below(const double *sorted, uint32_t n, double value);
uint32_t sl_sorted_up_to(const double *sorted, uint32_t n, double value);
/* Index of the quantile by nearest rank: ceil(q * n) - 1, at least 0; n > 0. */
uint32_t sl_nearest_rank(uint32_t n, double q);

#endif
