/* Rows of floats to s8 as the next integer matrix wants them, on the device: the struct that kernels/gpu/quantise.inc is
 * launched with.
 *
 * A block is one row, of which there may be fewer than blocks. It comes as floats, or as a product whose gate and up outputs are interleaved by 16 and become one
 * hidden row on the way (kernels/isa.h, swiglu); it is rotated; its s8, its scale and its sum are stored; and with
 * `second` what these left over of it becomes a second row of s8 (kernels/team_ops.h, sl_quantise_rows). The row lies in
 * shared memory in pieces, so that any width does: one of several pieces is read again for each pass over it.
 *
 * All pointers are the device's. k <= SL_QUANT_MAX_K. */
#ifndef SL_KERNELS_GPU_QUANTISE_H
#define SL_KERNELS_GPU_QUANTISE_H

#include <stdint.h>

enum {
    SL_GPU_QUANTISE_WARPS = 4,
    SL_GPU_QUANTISE_PIECE = 8192 /* floats; a multiple of every rotation */
};

struct sl_gpu_rows8 { /* struct sl_rows8 of kernels/quant.h */
    int8_t *q;        /* [rows][stride bytes], sl_rows8_stride(k): zero beyond k */
    uint64_t stride;
    float *scale;
    int32_t *sum;
};

struct sl_gpu_quantise {
    const float *x;    /* [rows][x_stride] */
    uint64_t x_stride; /* floats */
    struct sl_gpu_rows8 to, second;
    const uint32_t *n_rows; /* times `each`: how many there are */
    uint32_t each;
    uint32_t k;
    uint32_t rotation;    /* 0, or 2 ... 256, a power of two that divides k */
    uint32_t digits;      /* 2: second, too */
    uint32_t interleaved; /* x has gate and up outputs, 2 * round16(k) floats a row */
};

/* A piece, padded to what a block's threads take at once, and what they tell each other. */
static inline uint32_t sl_gpu_quantise_shared(uint32_t k)
{
    uint32_t floats = k < SL_GPU_QUANTISE_PIECE ? (k + 511) / 512 * 512 : SL_GPU_QUANTISE_PIECE;
    return 64 + floats * 4;
}

#ifndef __CUDACC__
#include "kernels/gpu/host.h"
extern const struct gpu_kernel sl_gpu_quantise;
#endif

#endif
