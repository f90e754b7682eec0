/* Integer weights: one rule, five formats, one layout for every instruction set.
 *
 * A weight is w = S * w8, with S one float per output and w8 = s * (u - z) an integer of [-127, 127]: u is what the file
 * stores (times a step), s the integer scale of the output's group of inputs (0 for a group that is zero altogether), z the
 * format's zero.
 *
 *   format   q stored   u       z   group  s        w8                  bits a weight (k large)
 *   i8       u8         q       128 -      1        -127..127           8
 *   i4       4 bits     q       8   32     0..15    s * (-8..7)         4.125
 *   i4g16    4 bits     q       8   16     0..15    s * (-8..7)         4.25
 *   i3       3 bits     2q      7   16     0..15    s * (-7,-5..7)      3.25
 *   i2       2 bits     2q      3   16     0..15    s * (-3,-1,1,3)     2.25
 *
 * The panel of n outputs and k inputs is ceil(n/16) blocks one after the other. A block holds 16 outputs (outputs beyond n
 * have S = 0), inputs padded to kp = k rounded up to 32; activations are zero there, so what the file says there is moot:
 *
 *   float S[16]                      12 significant bits each, see below
 *   uint8_t scales[pairs][16]        pairs = ceil(kp/group / 2), padded to 64 bytes; absent for i8: output c of group
 *                                    2p is the low nibble of scales[p][c], of group 2p+1 the high one
 *   uint8_t q[kp/32][unit]           a unit is 32 inputs of 16 outputs: vectors of 64 bytes, [16 outputs][4 inputs];
 *                                    step t (0..7) of a unit is its inputs 4t..4t+3
 *     i8        512 bytes: vector t is step t
 *     i4, i4g16 256 bytes: vector j holds step 2j in its low nibbles and step 2j+1 in the high ones
 *     i3        192 bytes: as i2, then a vector whose bit t of each byte is bit 2 of step t's q
 *     i2        128 bytes: bits 2h, 2h+1 of vector j's bytes are step 4j+h
 *
 * Activations are s8 per row: x = scale * q8. S and scale have at most 12 significant bits, so S * scale is exact, and
 * y = (S * scale) * (float)sum, sum = the exact integer dot product, has the same bits on every machine. |sum| stays
 * below 2^31 for k <= 65536 even with w8 + 128 as the unsigned operand (255 * 127 * 65536 < 2^31). */
#ifndef SL_KERNELS_QUANT_H
#define SL_KERNELS_QUANT_H

#include "kernels/panel.h"

enum { SL_QUANT_UNIT = 32, SL_QUANT_MAX_K = 65536 };

struct sl_quant_rule {
    uint32_t unit_bytes; /* of 32 inputs x 16 outputs */
    uint32_t group;      /* inputs that share s; 0: no groups */
    int32_t levels;      /* q is 0..levels-1 */
    int32_t step, zero;  /* u = step * q; w8 = s * (u - zero) */
};
/* NULL for f32 and bf16. */
const struct sl_quant_rule *sl_quant_rule_of(enum sl_dtype dtype);

static inline uint32_t sl_quant_padded(uint32_t k)
{
    return (k + SL_QUANT_UNIT - 1) / SL_QUANT_UNIT * SL_QUANT_UNIT;
}
uint32_t sl_quant_groups(enum sl_dtype dtype, uint32_t k);    /* kp / group; 0 for i8 */
size_t sl_quant_scale_bytes(enum sl_dtype dtype, uint32_t k); /* of a block, padding included */
size_t sl_quant_block_bytes(enum sl_dtype dtype, uint32_t k); /* of 16 outputs */
/* Of a panel, of whatever type. */
static inline size_t sl_panel_bytes(enum sl_dtype dtype, uint32_t n, uint32_t k)
{
    if (sl_dtype_is_integer(dtype))
        return sl_round_lanes(n) / SL_LANES * sl_quant_block_bytes(dtype, k);
    return (size_t)sl_round_lanes(n) * k * sl_dtype_bytes(dtype);
}
/* Bits a weight as stored, all scales and padding included. */
double sl_quant_bits(enum sl_dtype dtype, uint32_t n, uint32_t k);

/* A block's parts. */
static inline const float *sl_quant_row_scales(const void *block)
{
    return (const float *)block;
}
static inline const uint8_t *sl_quant_scales(const void *block)
{
    return (const uint8_t *)block + 64;
}
static inline const uint8_t *sl_quant_units(enum sl_dtype dtype, uint32_t k, const void *block)
{
    return (const uint8_t *)block + 64 + sl_quant_scale_bytes(dtype, k);
}

/* Scalar access, the specification of the layout. c: output within the block (0..15), i: input (0..kp-1). */
/* q */
uint32_t sl_quant_get(enum sl_dtype dtype, uint32_t k, const void *block, uint32_t c, uint32_t i);
/* s; 1 for i8 */
uint32_t sl_quant_get_scale(enum sl_dtype dtype, const void *block, uint32_t c, uint32_t group);
/* w8 */
int32_t sl_quant_weight(enum sl_dtype dtype, uint32_t k, const void *block, uint32_t c, uint32_t i);
/* Into a zeroed block: or-ing, each field once. */
void sl_quant_put(enum sl_dtype dtype, uint32_t k, void *block, uint32_t c, uint32_t i, uint32_t q);
void sl_quant_put_scale(enum sl_dtype dtype, void *block, uint32_t c, uint32_t group, uint32_t s);

/* The smallest float >= x (x > 0, normal) with at most 12 significant bits. */
static inline float sl_round_up12(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    u = (u + 0xFFFu) & ~0xFFFu;
    memcpy(&x, &u, 4);
    return x;
}

/* Rows of activations in s8: inputs beyond k are 0 up to the stride. */
struct sl_rows8 {
    int8_t *q;     /* [rows][stride], 64-byte aligned */
    size_t stride; /* bytes, sl_rows8_stride(k) */
    float *scale;  /* [rows] */
    int32_t *sum;  /* [rows]: of the row's q */
};
static inline size_t sl_rows8_stride(uint32_t k)
{
    return ((size_t)k + 63) / 64 * 64;
}

#endif
