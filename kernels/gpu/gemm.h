/* The product of rows of floats and panels of floats, on the device: the struct that kernels/gpu/gemm.inc is launched with.
 *
 * y[i][c] = chain of fused multiply-adds over inputs in ascending order (kernels/isa.h, sl_gemm), from +0 or with
 * `accumulate` from y[i][c]; in the kernels with swiglu, silu(gate_c) * up_c of panels interleaved by 16. Router logits are
 * such a product, too. One row of y is a pair: pair i has row rows[i] of x, or i itself.
 *
 * Pairs are cut by tasks (route.h), an expert each, whose number lies in the device's memory; or, with tasks NULL, there
 * is one matrix, and its rows are cut here: then how many they are lies there. A block takes its number of (task, column tile) items, then that plus the number
 * of blocks, and so on: any number of blocks will do, and as many as the device runs at once is best.
 *
 * All pointers are the device's, strides of x and y are in floats. A task has at most SL_GPU_GEMM_ROWS rows. */
#ifndef SL_KERNELS_GPU_GEMM_H
#define SL_KERNELS_GPU_GEMM_H

#include "kernels/gpu/route.h"

enum {
    SL_GPU_GEMM_WARPS = 4,
    SL_GPU_GEMM_ROWS = 64,
    SL_GPU_GEMM_COLUMNS = 64, /* of the panels: four blocks */
    SL_GPU_GEMM_STEP = 32,    /* inputs in shared memory at once, twice */
    SL_GPU_GEMM_X_ROW = (SL_GPU_GEMM_STEP + 4) * 4,
    SL_GPU_GEMM_X_BYTES = SL_GPU_GEMM_ROWS * SL_GPU_GEMM_X_ROW,
    SL_GPU_GEMM_SLOT = SL_GPU_GEMM_X_BYTES + SL_GPU_GEMM_STEP * SL_GPU_GEMM_COLUMNS * 4,
    SL_GPU_GEMM_SHARED = 2 * SL_GPU_GEMM_SLOT
};

struct sl_gpu_gemm {
    const float *x;
    uint64_t x_stride;
    const uint32_t *rows;   /* [pairs] or NULL */
    const void *weights;    /* panels (kernels/panel.h), f32 or bf16 by the kernel's name */
    uint64_t expert_stride; /* bytes */
    const struct gemm8_tile *tasks;
    const uint32_t *count; /* 1: of tasks, or, if there are none, of rows */
    uint32_t k, n_blocks;  /* inputs; panel blocks of 16 outputs */
    float *y;
    uint64_t y_stride;
    uint32_t n_out, accumulate; /* columns of y */
};

#ifndef __CUDACC__
#include "kernels/gpu/host.h"
extern const struct gpu_kernel sl_gpu_gemm_f32, sl_gpu_gemm_bf16, sl_gpu_gemm_f32_swiglu,
    sl_gpu_gemm_bf16_swiglu;
#endif

#endif
