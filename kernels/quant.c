/* The layout of quant.h in scalar code: what packers write by and every decoder is tested against. */
#include "kernels/quant.h"
#include <assert.h>

static const struct sl_quant_rule rules[] = {
    [SL_I8] = {512, 0, 256, 1, 128}, [SL_I4] = {256, 32, 16, 1, 8}, [SL_I4G16] = {256, 16, 16, 1, 8},
    [SL_I3] = {192, 16, 8, 2, 7},    [SL_I2] = {128, 16, 4, 2, 3},
};

const struct sl_quant_rule *sl_quant_rule_of(enum sl_dtype dtype)
{
    return sl_dtype_is_integer(dtype) && dtype < SL_DTYPES ? &rules[dtype] : NULL;
}

uint32_t sl_quant_groups(enum sl_dtype dtype, uint32_t k)
{
    uint32_t group = rules[dtype].group;
    return group ? sl_quant_padded(k) / group : 0;
}

size_t sl_quant_scale_bytes(enum sl_dtype dtype, uint32_t k)
{
    size_t pairs = ((size_t)sl_quant_groups(dtype, k) + 1) / 2;
    return (pairs * SL_LANES + 63) / 64 * 64;
}

size_t sl_quant_block_bytes(enum sl_dtype dtype, uint32_t k)
{
    return 64 + sl_quant_scale_bytes(dtype, k) +
           (size_t)sl_quant_padded(k) / SL_QUANT_UNIT * rules[dtype].unit_bytes;
}

double sl_quant_bits(enum sl_dtype dtype, uint32_t n, uint32_t k)
{
    return 8.0 * (double)sl_panel_bytes(dtype, n, k) / ((double)n * k);
}

/* Where a field lies: the byte within the block's units, and its lowest bit. */
struct place {
    size_t byte;
    uint32_t shift;
};

static struct place place_of(enum sl_dtype dtype, uint32_t c, uint32_t i)
{
    uint32_t t = i % SL_QUANT_UNIT / 4, in_vector = c * 4 + i % 4;
    size_t unit = (size_t)(i / SL_QUANT_UNIT) * rules[dtype].unit_bytes;
    if (dtype == SL_I8)
        return (struct place){unit + t * 64 + in_vector, 0};
    if (dtype == SL_I4 || dtype == SL_I4G16)
        return (struct place){unit + t / 2 * 64 + in_vector, t % 2 * 4};
    return (struct place){unit + t / 4 * 64 + in_vector, t % 4 * 2}; /* the two low bits of i3, and i2 */
}

uint32_t sl_quant_get(enum sl_dtype dtype, uint32_t k, const void *block, uint32_t c, uint32_t i)
{
    const uint8_t *units = sl_quant_units(dtype, k, block);
    struct place p = place_of(dtype, c, i);
    uint32_t q = (uint32_t)units[p.byte] >> p.shift;
    if (dtype == SL_I3) {
        size_t high = (size_t)(i / SL_QUANT_UNIT) * 192 + 128 + c * 4 + i % 4;
        return (q & 3u) | ((uint32_t)units[high] >> (i % SL_QUANT_UNIT / 4) & 1u) << 2;
    }
    return q & (uint32_t)(rules[dtype].levels - 1);
}

void sl_quant_put(enum sl_dtype dtype, uint32_t k, void *block, uint32_t c, uint32_t i, uint32_t q)
{
    uint8_t *units = (uint8_t *)block + 64 + sl_quant_scale_bytes(dtype, k);
    struct place p = place_of(dtype, c, i);
    assert(q < (uint32_t)rules[dtype].levels);
    uint32_t low = dtype == SL_I3 ? q & 3u : q;
    units[p.byte] = (uint8_t)(units[p.byte] | low << p.shift);
    if (dtype == SL_I3) {
        size_t high = (size_t)(i / SL_QUANT_UNIT) * 192 + 128 + c * 4 + i % 4;
        units[high] = (uint8_t)(units[high] | q >> 2 << (i % SL_QUANT_UNIT / 4));
    }
}

uint32_t sl_quant_get_scale(enum sl_dtype dtype, const void *block, uint32_t c, uint32_t group)
{
    if (dtype == SL_I8)
        return 1;
    return (uint32_t)sl_quant_scales(block)[group / 2 * SL_LANES + c] >> (group % 2 * 4) & 15u;
}

void sl_quant_put_scale(enum sl_dtype dtype, void *block, uint32_t c, uint32_t group, uint32_t s)
{
    assert(dtype != SL_I8 && s < 16);
    uint8_t *at = (uint8_t *)block + 64 + group / 2 * SL_LANES + c;
    *at = (uint8_t)(*at | s << (group % 2 * 4));
}

int32_t sl_quant_weight(enum sl_dtype dtype, uint32_t k, const void *block, uint32_t c, uint32_t i)
{
    const struct sl_quant_rule *r = &rules[dtype];
    int32_t u = r->step * (int32_t)sl_quant_get(dtype, k, block, c, i);
    int32_t s = r->group ? (int32_t)sl_quant_get_scale(dtype, block, c, i / r->group) : 1;
    return s * (u - r->zero);
}
