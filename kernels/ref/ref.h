/* The integer half of the specification (int_ref.c), for ops_ref.c's table. */
#ifndef SL_KERNELS_REF_REF_H
#define SL_KERNELS_REF_REF_H

#include "kernels/ops.h"

void sl_ref_quantise(const float *x, uint32_t k, int8_t *q, size_t q_bytes, float *scale, int32_t *sum);
void sl_ref_rotate(float *x, uint32_t k, uint32_t block);
void sl_ref_gemm8(const struct sl_gemm8 *g, void *scratch);
void sl_ref_gemm8_swiglu(const struct sl_gemm8 *g, void *scratch);

#endif
