/* The specification of profile `bf16dot`: ops_ref.c with another dot product.
 *
 * A dot product of a row with bf16 weights (panels, and KV pages of bf16) rounds the row to bf16, nearest even, and
 * takes its inputs in pairs: to each sum is added the product of the pair's odd input, then that of the even one, each
 * by one fused multiply-add; an odd k is filled up with a zero. Denormals count as zeros of their sign wherever they
 * appear: in the row before it is rounded, among the weights, and as a result. In attention the scaled query and the
 * probabilities are such rows (their sum stays that of the unrounded ones). f32 weights, and all else, are as in f32.
 *
 * This is what Intel's manual says of VDPBF16PS, and what a Zen 4 core does: in ten million random cases over the whole
 * range of exponents not one bit differed, nor did a NaN's (tests/kernels/test_bf16.c draws anew). AMX's TDPBF16PS sums
 * odd and even inputs apart and adds the two at the end, so it is not this profile. */
#include "kernels/isa.h"
#include "kernels/ref/ref.h"
#include <math.h>

/* A denormal becomes the zero of its sign. */
static inline float flush(float f)
{
    return fabsf(f) < 0x1p-126f ? copysignf(0.0f, f) : f;
}

static inline float rounded(float f)
{
    return sl_bf16_to_f32(sl_f32_to_bf16(flush(f)));
}

static inline float weight_at(const struct sl_panel *w, uint32_t output, uint32_t input)
{
    return flush(sl_bf16_to_f32(((const uint16_t *)w->data)[sl_panel_at(w->k, output, input)]));
}

__attribute__((always_inline)) static inline void pairs_inline(const float *x, const struct sl_panel *w,
                                                               uint32_t block, float *sum)
{
    for (uint32_t t = 0; t < w->k; t += 2) {
        float even = rounded(x[t]), odd = t + 1 < w->k ? rounded(x[t + 1]) : 0.0f;
        for (uint32_t lane = 0; lane < SL_LANES; lane++) {
            uint32_t output = block * SL_LANES + lane;
            float w_odd = t + 1 < w->k ? weight_at(w, output, t + 1) : 0.0f;
            sum[lane] = flush(fmaf(odd, w_odd, flush(sum[lane])));
            sum[lane] = flush(fmaf(even, weight_at(w, output, t), sum[lane]));
        }
    }
}

/* As in ops_ref.c: compiled a second time where fmaf is an instruction. */
__attribute__((target("fma"))) static void pairs_fma(const float *x, const struct sl_panel *w, uint32_t block,
                                                     float *sum)
{
    pairs_inline(x, w, block, sum);
}

static void dots(const float *x, const struct sl_panel *w, uint32_t block, float *sum)
{
    if (w->dtype != SL_BF16)
        sl_ref_dots_f32(x, w, block, sum);
    else if (__builtin_cpu_supports("fma"))
        pairs_fma(x, w, block, sum);
    else
        pairs_inline(x, w, block, sum);
}

static void bf16dot_gemm(const struct sl_gemm *g, void *scratch)
{
    (void)scratch;
    sl_ref_gemm_with(g, dots);
}

static void bf16dot_gemm_swiglu(const struct sl_gemm *g, void *scratch)
{
    (void)scratch;
    sl_ref_gemm_swiglu_with(g, dots);
}

static void bf16dot_attend(const struct sl_attend *a, void *scratch)
{
    sl_ref_attend_with(a, scratch, dots);
}

const struct sl_ops sl_bf16dot_ref = {
    .name = "ref-bf16",
    .gemm = bf16dot_gemm,
    .gemm_swiglu = bf16dot_gemm_swiglu,
    .attend = bf16dot_attend,
};
