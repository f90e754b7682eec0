/* The specification: every kernel in scalar C, in the order of summation that isa.h promises.
 *
 * Written to be read, and to be right on any processor. fmaf is one rounding by definition; where
 * the processor has it as an instruction, the dot products are compiled a second time for it,
 * because a library call per multiplication would make `ref` too slow to compare anything of real
 * size with. The bits are the same either way: both versions are the same source. The other tables
 * are tested bit for bit against this file. */
#include "kernels/exp.h"
#include "kernels/isa.h"
#include "kernels/ref/ref.h"
#include <assert.h>

/* One step of sixteen chains: sum[lane] += x[t] * w(block*16 + lane, t), t ascending. */
__attribute__((always_inline)) static inline void dots_inline(const float *x, const struct sl_panel *w,
                                                              uint32_t block, float *sum)
{
    size_t base = sl_panel_at(w->k, block * SL_LANES, 0);
    for (uint32_t t = 0; t < w->k; t++) {
        for (uint32_t lane = 0; lane < SL_LANES; lane++) {
            size_t at = base + (size_t)t * SL_LANES + lane;
            float weight = w->dtype == SL_BF16 ? sl_bf16_to_f32(((const uint16_t *)w->data)[at])
                                               : ((const float *)w->data)[at];
            sum[lane] = fmaf(x[t], weight, sum[lane]);
        }
    }
}

__attribute__((target("fma"))) static void dots_fma(const float *x, const struct sl_panel *w, uint32_t block,
                                                    float *sum)
{
    dots_inline(x, w, block, sum);
}

void sl_ref_dots_f32(const float *x, const struct sl_panel *w, uint32_t block, float *sum)
{
    if (__builtin_cpu_supports("fma"))
        dots_fma(x, w, block, sum);
    else
        dots_inline(x, w, block, sum);
}

static const float *gemm_row(const struct sl_gemm *g, uint32_t i)
{
    return g->x + (size_t)(g->rows ? g->rows[i] : i) * g->x_stride;
}

void sl_ref_gemm_with(const struct sl_gemm *g, sl_ref_dots *dots)
{
    assert(g->col_begin % SL_LANES == 0 && g->col_end <= g->w.n);
    assert(g->col_end % SL_LANES == 0 || g->col_end == g->w.n);
    for (uint32_t i = 0; i < g->m; i++) {
        float *y = g->y + (size_t)i * g->y_stride;
        for (uint32_t c = g->col_begin; c < g->col_end; c += SL_LANES) {
            uint32_t n = g->col_end - c < SL_LANES ? g->col_end - c : SL_LANES;
            float sum[SL_LANES] = {0};
            if (g->accumulate)
                memcpy(sum, y + c, n * sizeof *sum);
            dots(gemm_row(g, i), &g->w, c / SL_LANES, sum);
            memcpy(y + c, sum, n * sizeof *sum);
        }
    }
}

void sl_ref_gemm_swiglu_with(const struct sl_gemm *g, sl_ref_dots *dots)
{
    assert(g->col_begin % SL_LANES == 0 && sl_round_lanes(g->col_end) <= g->w.n / 2);
    for (uint32_t i = 0; i < g->m; i++) {
        float *y = g->y + (size_t)i * g->y_stride;
        for (uint32_t c = g->col_begin; c < g->col_end; c += SL_LANES) {
            uint32_t n = g->col_end - c < SL_LANES ? g->col_end - c : SL_LANES;
            float gate[SL_LANES] = {0}, up[SL_LANES] = {0};
            dots(gemm_row(g, i), &g->w, c / SL_LANES * 2, gate);
            dots(gemm_row(g, i), &g->w, c / SL_LANES * 2 + 1, up);
            for (uint32_t lane = 0; lane < n; lane++)
                y[c + lane] = sl_silu_scalar(gate[lane]) * up[lane];
        }
    }
}

static void ref_gemm(const struct sl_gemm *g, void *scratch)
{
    (void)scratch;
    sl_ref_gemm_with(g, sl_ref_dots_f32);
}

static void ref_gemm_swiglu(const struct sl_gemm *g, void *scratch)
{
    (void)scratch;
    sl_ref_gemm_swiglu_with(g, sl_ref_dots_f32);
}

static void ref_attend(const struct sl_attend *a, void *scratch)
{
    sl_ref_attend_with(a, scratch, sl_ref_dots_f32);
}

static void ref_rmsnorm(float *y, const float *x, const float *gain, uint32_t n, float eps)
{
    float partial[SL_LANES] = {0};
    for (uint32_t i = 0; i < n; i++)
        partial[i % SL_LANES] = fmaf(x[i], x[i], partial[i % SL_LANES]);
    float r = 1.0f / sqrtf(sl_ref_tree(partial) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * r * gain[i];
}

static void ref_rope(float *x, const float *cosine, const float *sine, uint32_t n_pairs)
{
    for (uint32_t i = 0; i < n_pairs; i++) {
        float a = x[i], b = x[i + n_pairs];
        x[i] = fmaf(a, cosine[i], -(b * sine[i]));
        x[i + n_pairs] = fmaf(b, cosine[i], a * sine[i]);
    }
}

static void ref_softmax(float *x, uint32_t n)
{
    float max = -INFINITY, partial[SL_LANES] = {0};
    for (uint32_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (uint32_t i = 0; i < n; i++) {
        x[i] = sl_exp_scalar(x[i] - max);
        partial[i % SL_LANES] += x[i];
    }
    float sum = sl_ref_tree(partial);
    for (uint32_t i = 0; i < n; i++)
        x[i] /= sum;
}

static void ref_swiglu(float *y, const float *gate_up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *gate = gate_up + i / SL_LANES * 2 * SL_LANES + i % SL_LANES;
        y[i] = sl_silu_scalar(gate[0]) * gate[SL_LANES];
    }
}

static void ref_combine(float *y, const float *const *rows, const float *gate, uint32_t n_rows, uint32_t n)
{
    for (uint32_t j = 0; j < n; j++)
        for (uint32_t e = 0; e < n_rows; e++)
            y[j] = fmaf(gate[e], rows[e][j], y[j]);
}

static void ref_convert(void *to, enum sl_dtype dtype, const float *from, uint32_t n)
{
    if (dtype == SL_F32) {
        memcpy(to, from, n * sizeof *from);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        ((uint16_t *)to)[i] = sl_f32_to_bf16(from[i]);
}

const struct sl_ops sl_ops_ref = {
    .name = "ref",
    .scratch_bytes = sl_ref_attend_scratch,
    .gemm = ref_gemm,
    .gemm_swiglu = ref_gemm_swiglu,
    .attend = ref_attend,
    .attend8 = sl_ref_attend8,
    .attend_merge = sl_ref_attend_merge,
    .quantise = sl_ref_quantise,
    .rotate = sl_ref_rotate,
    .gemm8 = sl_ref_gemm8,
    .gemm8_swiglu = sl_ref_gemm8_swiglu,
    .rmsnorm = ref_rmsnorm,
    .rope = ref_rope,
    .softmax = ref_softmax,
    .swiglu = ref_swiglu,
    .combine = ref_combine,
    .convert = ref_convert,
};
