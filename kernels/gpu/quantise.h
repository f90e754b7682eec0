/* Rows of floats to s8 as the next integer matrix wants them, on the device: the struct that kernels/gpu/quantise.inc is launched
 * with, in as many blocks as one likes. For rows that no kernel has in its shared memory anyway: those of norm and mix are quantised
 * there.
 *
 * All pointers are the device's; whoever launches owns what they point to. */
#ifndef SL_KERNELS_GPU_QUANTISE_H
#define SL_KERNELS_GPU_QUANTISE_H

#include "kernels/gpu/row8.h"

struct sl_gpu_quantise {
    const float *x;         /* [rows][k] */
    const uint32_t *n_rows; /* times `each` there are; read by the kernel, so that no launch depends on it */
    struct sl_gpu_row8 to;  /* of k */
    uint32_t each;
    uint32_t k; /* at most SL_GPU_ROW_MOST */
};

#ifndef __CUDACC__
struct gpu_kernel;
extern const struct gpu_kernel sl_gpu_quantise;
#endif

#endif
