/* Which kernel of the grouped integer product is whose, when, and what a panel says of its parameters (gemm8.h). */
#include "kernels/gpu/gemm8.h"
#include <assert.h>

#define GEMM8_OF(format)                                                                                     \
    extern const struct gpu_kernel gemm8_##format, gemm8_##format##_swiglu, gemm8_##format##_digits,         \
        gemm8_##format##_swiglu_digits, gemm8_few_##format, gemm8_few_##format##_swiglu,                     \
        gemm8_few_##format##_digits, gemm8_few_##format##_swiglu_digits, gemm8_wg_##format,                  \
        gemm8_wg_##format##_swiglu
GEMM8_OF(i8);
GEMM8_OF(i4);
GEMM8_OF(i4g16);
GEMM8_OF(i3);
GEMM8_OF(i2);
#undef GEMM8_OF

#define GEMM8_OF(format)                                                                                     \
    {                                                                                                        \
        [GEMM8_FEW] = {{&gemm8_few_##format, &gemm8_few_##format##_digits},                                  \
                       {&gemm8_few_##format##_swiglu, &gemm8_few_##format##_swiglu_digits}},                 \
        [GEMM8_MMA] = {{&gemm8_##format, &gemm8_##format##_digits},                                          \
                       {&gemm8_##format##_swiglu, &gemm8_##format##_swiglu_digits}},                         \
        [GEMM8_WGMMA] = {{&gemm8_wg_##format, NULL}, {&gemm8_wg_##format##_swiglu, NULL}},                   \
    }
static const struct gpu_kernel *const kernels[SL_DTYPES][GEMM8_BODIES][2][2] = {
    [SL_I8] = GEMM8_OF(i8), [SL_I4] = GEMM8_OF(i4), [SL_I4G16] = GEMM8_OF(i4g16),
    [SL_I3] = GEMM8_OF(i3), [SL_I2] = GEMM8_OF(i2),
};

static const struct {
    uint32_t tokens, blocks;
} tasks[GEMM8_BODIES] = {[GEMM8_FEW] = {GEMM8_FEW_TOKENS, GEMM8_FEW_BLOCKS},
                         [GEMM8_MMA] = {GEMM8_TOKENS, GEMM8_BLOCKS},
                         [GEMM8_WGMMA] = {GEMM8_WG_TOKENS, GEMM8_BLOCKS}};

enum gemm8_body gemm8_choose(uint32_t rows, uint32_t experts, bool kept, uint32_t capability)
{
    const uint64_t few = (uint64_t)experts * GEMM8_FEW_TOKENS / 2, many = (uint64_t)experts * GEMM8_TOKENS;
    if (rows <= GEMM8_FEW_TOKENS || rows <= few)
        return GEMM8_FEW;
    return rows > many && !kept && capability == 90 ? GEMM8_WGMMA : GEMM8_MMA;
}

uint32_t gemm8_tokens(enum gemm8_body body)
{
    return tasks[body].tokens;
}

uint32_t gemm8_blocks(enum gemm8_body body)
{
    return tasks[body].blocks;
}

const struct gpu_kernel *gemm8_kernel(enum gemm8_body body, enum sl_dtype dtype, bool swiglu, uint32_t digits)
{
    assert(sl_dtype_is_integer(dtype) && dtype < SL_DTYPES && digits >= 1 && digits <= 2);
    return kernels[dtype][body][swiglu][digits - 1];
}

static uint32_t shared_of(enum gemm8_body body, int dtype, int digits)
{
    return body == GEMM8_FEW     ? gemm8_few_shared_bytes(digits)
           : body == GEMM8_WGMMA ? gemm8_wg_shared_bytes(dtype)
                                 : gemm8_shared_bytes(dtype);
}

uint32_t gemm8_shared(const struct gpu_kernel *kernel)
{
    for (int dtype = 0; dtype < SL_DTYPES; dtype++)
        for (int body = 0; body < GEMM8_BODIES; body++)
            for (int i = 0; i < 4; i++)
                if (kernel && kernels[dtype][body][i / 2][i % 2] == kernel)
                    return shared_of((enum gemm8_body)body, dtype, i % 2 + 1);
    return 0;
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
