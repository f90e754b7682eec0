/* A log-linear histogram of latencies with three significant digits: 1024 equal steps in each power of two of ns, so a value is kept
 * with an error of less than 1/1024, from 1 us to 1 h, in fixed memory. Merging adds counters, so histograms of repeats, of hosts or
 * of classes give exactly the histogram of all, whatever the order. Layout after HdrHistogram (Gil Tene; unit 1 ns, highest 1 h, 3
 * digits), whose .hgrm text form its plotters read. */
#ifndef SL_BENCH_SERVE_HISTOGRAM_H
#define SL_BENCH_SERVE_HISTOGRAM_H

#include "base/status.h"
#include <stdint.h>
#include <stdio.h>

struct sl_histogram; /* 260 KB */

sl_status sl_histogram_new(struct sl_histogram **histogram, struct sl_err *err);
void sl_histogram_free(struct sl_histogram *histogram); /* NULL is fine */
/* ns; what is under 1 us counts as that, over 1 h as that; both are counted. A value is never larger than what it is kept as. */
void sl_histogram_add(struct sl_histogram *histogram, uint64_t value_ns);
/* What has no value because it failed: lies above all values. */
void sl_histogram_add_failed(struct sl_histogram *histogram, uint64_t count);
void sl_histogram_merge(struct sl_histogram *into, const struct sl_histogram *from);
uint64_t sl_histogram_count(const struct sl_histogram *histogram); /* failed ones too */
/* Of 0 <= q <= 1: the value in ns below or at which q of all lie (nearest rank); UINT64_MAX: among the failed ones. 0: empty. */
uint64_t sl_histogram_quantile(const struct sl_histogram *histogram, double q);
/* The .hgrm form: values in ms, 5 ticks per half distance, up to the last percentile that has a value; failed ones are in Total count
 * and, when there are any, in a line of their own at the end. Mean, deviation and maximum are of what has a value. */
void sl_histogram_write(const struct sl_histogram *histogram, FILE *to);

#endif
