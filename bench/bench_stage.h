/* `sluice bench prefill` and `sluice bench decode`: one stage over all layers of a pack, without
 * network or scheduler: what the kernels make of the machine. */
#ifndef SL_BENCH_BENCH_STAGE_H
#define SL_BENCH_BENCH_STAGE_H

#include "base/status.h"
#include "node/command/shared_options.h"
#include <stdint.h>

struct sl_bench_prefill {
    const char *model, *device, *kv, *numerics;
    struct sl_loading_values load;
    const char *prompt_tokens; /* "512,2048" */
    uint32_t context, chunk, n_threads, rounds;
    bool json;
};
sl_status sl_bench_prefill(const struct sl_bench_prefill *bench, struct sl_err *err);

struct sl_bench_decode {
    const char *model, *device, *kv, *numerics;
    struct sl_loading_values load;
    const char *batch;    /* "1,4,16" */
    const char *sampling; /* "none", "plain", "penalties" */
    uint32_t context, steps, n_threads, rounds;
    bool json;
};
sl_status sl_bench_decode(const struct sl_bench_decode *bench, struct sl_err *err);

/* "512,2048": 1..most numbers of [least, limit]. SL_E_USAGE names the option. */
sl_status sl_bench_numbers(const char *text, const char *option, uint32_t least, uint32_t limit,
                           uint32_t *values, uint32_t most, uint32_t *n, struct sl_err *err);

#endif
