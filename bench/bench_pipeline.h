/* `sluice bench pipeline`: what a pipeline of N stages makes of a machine, against what N
 * independent workers make of it. */
#ifndef SL_BENCH_BENCH_PIPELINE_H
#define SL_BENCH_BENCH_PIPELINE_H

#include "base/status.h"
#include <stdint.h>

struct sl_bench_pipeline {
    const char *model, *transport, *kv, *layers;
    uint32_t n_stages, n_threads, chunk_tokens, prompt_tokens, rounds;
    bool json;
};
sl_status sl_bench_pipeline(const struct sl_bench_pipeline *bench, struct sl_err *err);

#endif
