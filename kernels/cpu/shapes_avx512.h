/* The shapes of the float micro-kernels on AVX-512: rows, blocks, log2 blocks (for gemm_body.inc).
 *
 * 32 zmm: the largest shape is 12 rows x 2 blocks = 24 sums, 2 weights and a broadcast. Six rows or
 * fewer take 4 or 8 blocks: enough sums in flight to cover the latency of an FMA, and more streams
 * of weights to be read at once. A bf16 dot product has the same width and about the same latency,
 * so both profiles use them. */
#ifndef SL_KERNELS_CPU_SHAPES_AVX512_H
#define SL_KERNELS_CPU_SHAPES_AVX512_H

enum { TILE_MR = 12 };
/* clang-format off */
#define TILE_SHAPES(X) \
    X(1, 1, 0) X(1, 2, 1) X(1, 4, 2) X(1, 8, 3) X(2, 1, 0) X(2, 2, 1) X(2, 4, 2) X(2, 8, 3) \
    X(3, 1, 0) X(3, 2, 1) X(3, 4, 2) X(4, 1, 0) X(4, 2, 1) X(4, 4, 2) \
    X(5, 1, 0) X(5, 2, 1) X(5, 4, 2) X(6, 1, 0) X(6, 2, 1) X(6, 4, 2) X(7, 1, 0) X(7, 2, 1) \
    X(8, 1, 0) X(8, 2, 1) X(9, 1, 0) X(9, 2, 1) X(10, 1, 0) X(10, 2, 1) X(11, 1, 0) X(11, 2, 1) \
    X(12, 1, 0) X(12, 2, 1)
/* clang-format on */

#endif
