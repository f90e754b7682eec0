/* The specification of the integer products: activations to s8, exact sums, one rounding rule.
 *
 * The sums are exact, so their order is free; everything in floating point is written down here and is the same
 * on every machine: the scale with 12 significant bits, the quotient to the nearest even integer, and the
 * epilogue y = (S * scale) * (float)sum, whose first product is exact (kernels/quant.h). */
#include "kernels/exp.h"
#include "kernels/ref/ref.h"
#include <assert.h>

void sl_ref_quantise(const float *x, uint32_t k, int8_t *q, size_t q_bytes, float *scale, int32_t *sum)
{
    uint32_t peak = 0;
    assert(q_bytes >= k && q_bytes % 64 == 0);
    for (uint32_t i = 0; i < k; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        bits &= 0x7FFFFFFFu;
        peak = bits > peak ? bits : peak;
    }
    float amax;
    memcpy(&amax, &peak, 4);
    memset(q, 0, q_bytes);
    *sum = 0;
    *scale = peak >= 0x7F800000u ? NAN : 0.0f;
    if (peak >= 0x7F800000u || amax < 0x1p-100f)
        return;
    *scale = sl_round_up12(amax / 127.0f);
    float inverse = 1.0f / *scale;
    for (uint32_t i = 0; i < k; i++) {
        q[i] = (int8_t)lrintf(x[i] * inverse); /* at most 127: scale was rounded up */
        *sum += q[i];
    }
}

void sl_ref_rotate(float *x, uint32_t k, uint32_t block)
{
    assert(block > 0 && (block & (block - 1)) == 0 && k % block == 0);
    for (uint32_t begin = 0; begin < k; begin += block)
        for (uint32_t h = 1; h < block; h *= 2)
            for (uint32_t i = begin; i < begin + block; i++) {
                if ((i - begin) & h)
                    continue;
                float a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
}

/* The sixteen outputs of a block for one row. */
static void block_outputs(const struct sl_gemm8 *g, uint32_t i, uint32_t block, float *product, float *sum)
{
    uint32_t row = g->rows ? g->rows[i] : i;
    const int8_t *q = g->x.q + row * g->x.stride;
    const uint8_t *at = (const uint8_t *)g->w.data + block * sl_quant_block_bytes(g->w.dtype, g->w.k);
    for (uint32_t c = 0; c < SL_LANES; c++) {
        int64_t dot = 0;
        for (uint32_t t = 0; t < g->w.k; t++)
            dot += (int64_t)q[t] * sl_quant_weight(g->w.dtype, g->w.k, at, c, t);
        product[c] = sl_quant_row_scales(at)[c] * g->x.scale[row];
        sum[c] = (float)(int32_t)dot;
    }
}

void sl_ref_gemm8(const struct sl_gemm8 *g, void *scratch)
{
    (void)scratch;
    assert(g->col_begin % SL_LANES == 0 && g->col_end <= g->w.n);
    assert(g->col_end % SL_LANES == 0 || g->col_end == g->w.n);
    for (uint32_t i = 0; i < g->m; i++) {
        for (uint32_t c = g->col_begin; c < g->col_end; c += SL_LANES) {
            float product[SL_LANES], sum[SL_LANES], *y = g->y + (size_t)i * g->y_stride + c;
            block_outputs(g, i, c / SL_LANES, product, sum);
            for (uint32_t lane = 0; lane < SL_LANES && c + lane < g->col_end; lane++)
                y[lane] = g->accumulate ? fmaf(product[lane], sum[lane], y[lane]) : product[lane] * sum[lane];
        }
    }
}

void sl_ref_gemm8_swiglu(const struct sl_gemm8 *g, void *scratch)
{
    (void)scratch;
    assert(g->col_begin % SL_LANES == 0 && sl_round_lanes(g->col_end) <= g->w.n / 2);
    for (uint32_t i = 0; i < g->m; i++) {
        for (uint32_t c = g->col_begin; c < g->col_end; c += SL_LANES) {
            float gate[SL_LANES], gate_sum[SL_LANES], up[SL_LANES], up_sum[SL_LANES];
            float *y = g->y + (size_t)i * g->y_stride + c;
            block_outputs(g, i, c / SL_LANES * 2, gate, gate_sum);
            block_outputs(g, i, c / SL_LANES * 2 + 1, up, up_sum);
            for (uint32_t lane = 0; lane < SL_LANES && c + lane < g->col_end; lane++)
                y[lane] = sl_silu_scalar(gate[lane] * gate_sum[lane]) * (up[lane] * up_sum[lane]);
        }
    }
}
