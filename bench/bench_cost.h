/* `sluice bench cost`: how well the time of chunks is predicted (pipeline/decide/cost_fit.h), beside what one chunk varies by. */
#ifndef SL_BENCH_BENCH_COST_H
#define SL_BENCH_BENCH_COST_H

#include "base/status.h"
#include "node/command/shared_options.h"

struct sl_bench_cost {
    const char *model, *device, *kv, *numerics;
    struct sl_loading_values load;
    uint32_t n_threads, chunks;
    bool json;
};
sl_status sl_bench_cost(const struct sl_bench_cost *bench, struct sl_err *err);

#endif
