/* The median of samples.h: a sorted copy, and the middle of it. */
#include "bench/samples.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double sl_median(const double *values, uint32_t n)
{
    double sorted[SL_SAMPLES_MAX];
    assert(n > 0 && n <= SL_SAMPLES_MAX);
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}
