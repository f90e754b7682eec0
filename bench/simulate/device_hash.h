/* A device that computes hashes: a row is 8 bytes, a page keeps one such value for every position, and what comes out of a layer is a
 * hash of the row and of all values before it in the pages that it was told to read. So a token is a function of what was really
 * computed with which pages, on any number of stages, and anything that lies elsewhere, is stale or comes twice gives another
 * one. Its time is the cost model's: nothing waits, `took_us` says what the calls since would have taken. */
#ifndef SL_BENCH_SIMULATE_DEVICE_HASH_H
#define SL_BENCH_SIMULATE_DEVICE_HASH_H

#include "kernels/device.h"
#include "pipeline/decide/cost.h"

enum { SL_HASH_ROW_FLOATS = 2 /* d_model */ };

extern const struct sl_device_ops sl_device_hash;

/* What its chunks take from now on; before, nothing. */
void sl_device_hash_cost(struct sl_device *device, const struct sl_cost *cost, double times);
/* Since this begin. */
void sl_device_hash_begin(struct sl_device *device);
double sl_device_hash_took_us(const struct sl_device *device);

#endif
