/* `sluice bench decide`: what a decision costs: the decider alone, with many requests running, no stage behind it. */
#ifndef SL_BENCH_BENCH_DECIDE_H
#define SL_BENCH_BENCH_DECIDE_H

#include "base/status.h"
#include <stdint.h>

struct sl_bench_decide {
    uint32_t requests, prompt_tokens, output_tokens, chunk, stages, rounds;
    uint32_t cached_pages; /* that a prefix cache holds beside theirs; 0: there is no cache */
    bool json;
};
sl_status sl_bench_decide(const struct sl_bench_decide *bench, struct sl_err *err);

#endif
