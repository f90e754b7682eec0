/* `sluice bench load`: how fast the weights of a pack are verified while they are loaded, beside the speed at which as many threads
 * read the same files out of the page cache, and what scrubbing them costs. */
#ifndef SL_BENCH_BENCH_LOAD_H
#define SL_BENCH_BENCH_LOAD_H

#include "base/status.h"
#include <stdint.h>

struct sl_bench_load {
    const char *model;
    uint32_t n_threads, rounds, seconds;
    bool json;
};
sl_status sl_bench_load(const struct sl_bench_load *bench, struct sl_err *err);

#endif
