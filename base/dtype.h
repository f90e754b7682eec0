/* The element types of weights, KV pages and rows, as numbers: they are in the headers of packs and of frames, so a new
 * one goes to the end and none changes. What the integer formats mean is specified in kernels/quant.h. */
#ifndef SL_BASE_DTYPE_H
#define SL_BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sl_dtype {
    SL_F32 = 0,
    SL_BF16 = 1,
    SL_I8 = 2,
    SL_I4 = 3,
    SL_I4G16 = 4,
    SL_I3 = 5,
    SL_I2 = 6,
    SL_DTYPES
};

static inline bool sl_dtype_is_integer(enum sl_dtype dtype)
{
    return dtype >= SL_I8;
}
static inline size_t sl_dtype_bytes(enum sl_dtype dtype)
{
    return dtype == SL_BF16 ? 2 : dtype == SL_F32 ? 4 : 1;
}

const char *sl_dtype_name(enum sl_dtype dtype);              /* "f32" ... "i2" */
bool sl_dtype_parse(enum sl_dtype *dtype, const char *name); /* false: unknown */
enum sl_dtype sl_dtype_named(const char *name);              /* of a name that was checked: asserts */

#endif
