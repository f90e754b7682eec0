/* `sluice simulate`: seeds of a simulated world one after the other, each against the oracle and all promises; what failed, with the one
 * line that does it again; and how fast that went. */
#ifndef SL_BENCH_SIMULATE_SIMULATE_H
#define SL_BENCH_SIMULATE_SIMULATE_H

#include "base/status.h"
#include <stdint.h>

struct sl_simulate {
    const char *seeds, *load, *faults, *trace;
    uint32_t n_stages, n_decoders, n_requests, context, most_events;
    bool json;
};
/* Prints on stdout. SL_E_INTERNAL: a seed has broken a promise; SL_E_USAGE, SL_E_DATA, SL_E_IO: what was asked cannot be. */
sl_status sl_simulate(const struct sl_simulate *simulate, struct sl_err *err);

/* "A:B", both of them included, or "A". */
sl_status sl_seeds_parse(uint64_t *first, uint64_t *last, const char *text, struct sl_err *err);

#endif
