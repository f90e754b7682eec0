/* Which kernel of the grouped integer product is whose, and what a panel says of its parameters (gemm8.h). */
#include "kernels/gpu/gemm8.h"
#include <assert.h>

#define GEMM8_OF(format)                                                                                     \
    extern const struct gpu_kernel gemm8_##format, gemm8_##format##_swiglu, gemm8_##format##_digits,         \
        gemm8_##format##_swiglu_digits, gemm8_wg_##format, gemm8_wg_##format##_swiglu
GEMM8_OF(i8);
GEMM8_OF(i4);
GEMM8_OF(i4g16);
GEMM8_OF(i3);
GEMM8_OF(i2);
#undef GEMM8_OF

#define GEMM8_OF(format)                                                                                     \
    {                                                                                                        \
        {&gemm8_##format, &gemm8_##format##_digits},                                                         \
        {                                                                                                    \
            &gemm8_##format##_swiglu, &gemm8_##format##_swiglu_digits                                        \
        }                                                                                                    \
    }
static const struct gpu_kernel *const kernels[SL_DTYPES][2][2] = {
    [SL_I8] = GEMM8_OF(i8), [SL_I4] = GEMM8_OF(i4), [SL_I4G16] = GEMM8_OF(i4g16),
    [SL_I3] = GEMM8_OF(i3), [SL_I2] = GEMM8_OF(i2),
};

const struct gpu_kernel *gemm8_kernel(enum sl_dtype dtype, bool swiglu, uint32_t digits)
{
    assert(sl_dtype_is_integer(dtype) && dtype < SL_DTYPES && digits >= 1 && digits <= 2);
    return kernels[dtype][swiglu][digits - 1];
}

#undef GEMM8_OF
#define GEMM8_OF(format)                                                                                     \
    {                                                                                                        \
        &gemm8_wg_##format, &gemm8_wg_##format##_swiglu                                                      \
    }
static const struct gpu_kernel *const wg_kernels[SL_DTYPES][2] = {
    [SL_I8] = GEMM8_OF(i8), [SL_I4] = GEMM8_OF(i4), [SL_I4G16] = GEMM8_OF(i4g16),
    [SL_I3] = GEMM8_OF(i3), [SL_I2] = GEMM8_OF(i2),
};

const struct gpu_kernel *gemm8_wg_kernel(enum sl_dtype dtype, bool swiglu)
{
    assert(sl_dtype_is_integer(dtype) && dtype < SL_DTYPES);
    return wg_kernels[dtype][swiglu];
}

void gemm8_describe(struct gemm8_params *params, const struct sl_panel *w)
{
    size_t scales = sl_quant_scale_bytes(w->dtype, w->k);
    assert(w->k <= SL_QUANT_MAX_K);
    params->q_stride = sl_rows8_stride(w->k);
    params->block_bytes = (uint32_t)sl_quant_block_bytes(w->dtype, w->k);
    params->units_at = 64 + (uint32_t)scales;
    params->n_blocks = sl_round_lanes(w->n) / SL_LANES;
    params->n_units = sl_quant_padded(w->k) / SL_QUANT_UNIT;
}
