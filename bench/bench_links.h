/* `sluice bench links`: what proving every frame costs (pipeline/link/auth.c), beside carrying it. */
#ifndef SL_BENCH_BENCH_LINKS_H
#define SL_BENCH_BENCH_LINKS_H

#include "base/status.h"
#include <stdbool.h>
#include <stdint.h>

struct sl_bench_links {
    uint32_t kib, frames, rounds;
    bool json;
};
sl_status sl_bench_links(const struct sl_bench_links *bench, struct sl_err *err);

#endif
