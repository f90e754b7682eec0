/* RMS norm of rows on their way into a product: normalised, and where the product is of integers rotated and quantised, as norm_rows of
 * attention.c and of experts.c do it.
 *
 * All pointers are the device's; whoever launches owns what they point to. */
#ifndef SL_KERNELS_GPU_NORM_H
#define SL_KERNELS_GPU_NORM_H

#include "kernels/gpu/row8.h"

struct sl_gpu_norm {
    const float *x;         /* [n_rows][n] */
    const float *gain;      /* [n] */
    float *normed;          /* [n_rows][n], or NULL; may be x */
    struct sl_gpu_row8 to;  /* of k = n */
    const uint32_t *n_rows; /* read by the kernel, so that no launch depends on it */
    uint32_t n;
    float eps;
};

#ifndef __CUDACC__
struct gpu_kernel;
extern const struct gpu_kernel sl_gpu_norm;
#endif

#endif
