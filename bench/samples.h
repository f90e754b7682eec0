/* Medians of samples: what every bench here reports.
 *
 * A machine that is shared gives a sample now and then that has nothing to do with what is
 * measured; a mean would carry it, a median leaves it out. Quantities that are compared are
 * measured in the same round, and the median is taken of the ratios. */
#ifndef SL_BENCH_SAMPLES_H
#define SL_BENCH_SAMPLES_H

#include <stdint.h>

enum { SL_SAMPLES_MAX = 128 };

/* Of 1..SL_SAMPLES_MAX values, which are left as they are. */
double sl_median(const double *values, uint32_t n);

#endif
