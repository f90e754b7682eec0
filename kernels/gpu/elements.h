/* What is done to rows element by element, on the device: the structs that kernels/gpu/elements.inc is launched with.
 *
 * A block is one row of each, all pointers are the device's, strides are in floats. Bits as in kernels/ref. Of combine and sigmoid there
 * may be more blocks than rows: how many rows there are lies on the device. */
#ifndef SL_KERNELS_GPU_ELEMENTS_H
#define SL_KERNELS_GPU_ELEMENTS_H

#include <stdint.h>

enum { SL_GPU_ELEMENT_WARPS = 4, SL_GPU_SIGMOID_ROWS = 32, SL_GPU_SIGMOID_SHARED = 32 * 33 * 4 };

/* rows[i] = embedding of ids[i]: [vocab][d] f32 or bf16 */
struct sl_gpu_embed {
    const void *embed;
    const uint32_t *ids;
    float *rows;
    uint32_t d, bf16;
};

/* y[r] += sum over i < k, ascending, of gates[r][i] * outputs[pairs[r][i]]: one chain from y[r][c] on. */
struct sl_gpu_combine {
    float *y;              /* [rows][n] */
    const float *outputs;  /* [pairs][n] */
    const uint32_t *pairs; /* [rows][k]; NULL: k is 1, and a row's pair is the row */
    const float *gates;    /* [rows][k] */
    const uint32_t *n_rows;
    uint32_t n, k;
};

/* gates[r] = sigmoid(w . x[r]), the dot product one chain in ascending order: of a shared expert. A block is
 * SL_GPU_SIGMOID_ROWS rows, of one warp. */
struct sl_gpu_sigmoid {
    const float *w; /* [k] */
    const float *x; /* [n_rows][k] */
    float *gates;
    const uint32_t *n_rows;
    uint32_t k;
};

#ifndef __CUDACC__
#include "kernels/gpu/host.h"
extern const struct gpu_kernel sl_gpu_embed, sl_gpu_combine, sl_gpu_sigmoid;
#endif

#endif
