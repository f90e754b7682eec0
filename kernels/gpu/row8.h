/* A row of floats that a block has in shared memory, to s8 for a product of integers, as sl_quantise_rows of team_ops.h does it: what
 * the kernels that make such rows are told of where to put them.
 *
 * The row lies at offset 0 and has sl_gpu_row_floats(k) floats, zeros from k on; behind it are SL_GPU_ROW_SCRATCH bytes. */
#ifndef SL_KERNELS_GPU_ROW8_H
#define SL_KERNELS_GPU_ROW8_H

#include <stddef.h>
#include <stdint.h>

enum {
    SL_GPU_ROW_WARPS = 8, /* of a block */
    SL_GPU_ROW_SCRATCH = 128,
    SL_GPU_ROW_MOST = 24 * 1024 /* inputs: what shared memory of 99 KB holds, the least that a device has */
};

struct sl_gpu_row8 {
    int8_t *q; /* [rows][stride]; NULL: the row is not quantised */
    float *scale;
    int32_t *sum;
    /* Second digits, where digits is 2: [rows][stride] likewise */
    int8_t *second;
    float *second_scale;
    int32_t *second_sum;
    size_t stride;     /* sl_rows8_stride(k) */
    uint32_t rotation; /* of the weights (kernels/panel.h) */
    uint32_t digits;
};

#ifdef __CUDACC__
__host__ __device__
#endif
    static inline uint32_t
    sl_gpu_row_floats(uint32_t k)
{
    return (k + 255) / 256 * 256;
}
/* Shared memory of a block that has a row. */
static inline uint32_t sl_gpu_row_shared(uint32_t k)
{
    return sl_gpu_row_floats(k) * 4 + SL_GPU_ROW_SCRATCH;
}

#endif
