/* `sluice bench layout`: the same model on N nodes with its experts sharded and with its layers sharded, side by side. */
#ifndef SL_BENCH_BENCH_LAYOUT_H
#define SL_BENCH_BENCH_LAYOUT_H

#include "base/status.h"
#include <stdbool.h>
#include <stdint.h>

struct sl_bench_layout {
    const char *model, *kv, *clock, *transport, *svg;
    const char *nodes, *delays; /* "1,2,4,8", "0,50,200" */
    uint32_t prompt_tokens, chunk, rounds;
    double gbit; /* 0: without limit */
    bool json;
};
sl_status sl_bench_layout(const struct sl_bench_layout *bench, struct sl_err *err);

#endif
