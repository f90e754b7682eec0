/* The one layout of weights and KV pages: the panel.
 *
 * A matrix W with n outputs (rows of the published tensor) and k inputs is stored as
 * [ceil(n/16)][k][16]: element (output c, input i) lies at ((c/16)*k + i)*16 + c%16. Outputs beyond n are
 * zero. A vector of 16 outputs is then contiguous for every input, on every instruction set, and sixteen
 * dot products advance together in ascending order of i. Element types: bf16 (upper half of a float) or f32.
 * The integer formats keep the panels of 16 outputs and cut k into units of 32 inputs: kernels/quant.h. */
#ifndef SL_KERNELS_PANEL_H
#define SL_KERNELS_PANEL_H

#include "base/dtype.h"
#include <string.h>

enum { SL_LANES = 16 };

struct sl_panel {
    const void *data; /* 64-byte aligned */
    uint32_t n, k;
    enum sl_dtype dtype;
    /* 0, or a power of two that divides k: the weights were rotated by a Hadamard matrix in blocks of so many inputs,
     * and the inputs have to be rotated too (sl_ops.rotate) before they are quantised. Integer formats only. */
    uint32_t rotation;
    /* 2: the inputs come as two rows of s8, the second holding what the first left over (kernels/team_ops.h); 0 or 1:
     * as one. Integer formats only. */
    uint32_t digits;
};

static inline uint32_t sl_round_lanes(uint32_t n)
{
    return (n + SL_LANES - 1) / SL_LANES * SL_LANES;
}
static inline size_t sl_panel_at(uint32_t k, uint32_t output, uint32_t input)
{
    return ((size_t)(output / SL_LANES) * k + input) * SL_LANES + output % SL_LANES;
}

static inline float sl_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t sl_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

#endif
