/* The parts of the specification that are shared among its files.
 *
 * int_ref.c has the integer half, for ops_ref.c's table. The float products of ops_ref.c take their dot product as an
 * argument: a numerics profile is another dot product in the same order of everything else, and bf16_ref.c is no more
 * than that. */
#ifndef SL_KERNELS_REF_REF_H
#define SL_KERNELS_REF_REF_H

#include "kernels/isa.h"

void sl_ref_quantise(const float *x, uint32_t k, int8_t *q, size_t q_bytes, float *scale, int32_t *sum);
void sl_ref_rotate(float *x, uint32_t k, uint32_t block);
void sl_ref_gemm8(const struct sl_gemm8 *g, void *scratch);
void sl_ref_gemm8_swiglu(const struct sl_gemm8 *g, void *scratch);

/* One step of sixteen chains: sum[lane] += x . w(block*16 + lane). */
typedef void sl_ref_dots(const float *x, const struct sl_panel *w, uint32_t block, float *sum);
sl_ref_dots sl_ref_dots_f32;

/* gemm, gemm_swiglu and attend of profile bf16dot; the other entries are NULL. */
extern const struct sl_ops sl_bf16dot_ref;

void sl_ref_gemm_with(const struct sl_gemm *g, sl_ref_dots *dots);
void sl_ref_gemm_swiglu_with(const struct sl_gemm *g, sl_ref_dots *dots);
void sl_ref_attend_with(const struct sl_attend *a, void *scratch, sl_ref_dots *dots);
void sl_ref_attend8(const struct sl_attend *a, void *scratch);
void sl_ref_attend_merge(const struct sl_attend *a);
size_t sl_ref_attend_scratch(uint32_t d_head);

/* The sum of p[0..16), which is overwritten, as a tree: the order in which vectors fold in halves. */
static inline float sl_ref_tree(float *p)
{
    for (uint32_t half = SL_LANES / 2; half > 0; half /= 2)
        for (uint32_t j = 0; j < half; j++)
            p[j] += p[j + half];
    return p[0];
}

#endif
