/* `sluice bench kernels --device cuda|twin`: every kernel of a GPU, timed by events beside the products that mma.sync and wgmma do on
 * registers alone and beside copies within its memory, which are measured in the same run, and held to kernels/ref by bits. A table for
 * people or one JSON object. */
#ifndef SL_BENCH_GPU_KERNELS_H
#define SL_BENCH_GPU_KERNELS_H

#include "bench/bench_kernels.h"

/* As sl_bench_kernels, of bench->device. SL_E_UNAVAILABLE: no such GPU. */
sl_status sl_bench_gpu_kernels(const struct sl_bench_kernels *bench, struct sl_err *err);

#endif
