/* `sluice bench kernels`: every kernel of every instruction set of this machine, timed beside the
 * machine's own peaks and checked against the scalar reference. Writes a table for people or one
 * JSON object to stdout. */
#ifndef SL_BENCH_KERNELS_H
#define SL_BENCH_KERNELS_H

#include "base/status.h"
#include <stdint.h>

struct sl_bench_kernels {
    bool json;
    const char *device; /* as sl_device_kind_read takes it; of a GPU it is gpu_kernels.h's */
    const char *filter; /* NULL, or a part of "isa profile kernel shape format rows N" */
    uint32_t n_threads; /* that run a kernel at the same time; 0: all processors */
    uint32_t rounds;
};

/* SL_E_INTERNAL when a result is not the reference's, bit for bit; SL_E_NOMEM; SL_E_USAGE: nothing
 * matches the filter. */
sl_status sl_bench_kernels(const struct sl_bench_kernels *bench, struct sl_err *err);

/* The end of the report, a note or that of the JSON, when so many results have been printed, of which some differ. */
sl_status sl_bench_kernels_end(const struct sl_bench_kernels *bench, const char *note, uint32_t n_printed,
                               uint32_t n_different, struct sl_err *err);

#endif
