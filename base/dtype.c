/* Names of the element types (dtype.h): what packs, options and `inspect` call them. This is their only table. */
#include "base/dtype.h"
#include <assert.h>
#include <string.h>

static const char *const names[SL_DTYPES] = {
    [SL_F32] = "f32",     [SL_BF16] = "bf16", [SL_I8] = "i8", [SL_I4] = "i4",
    [SL_I4G16] = "i4g16", [SL_I3] = "i3",     [SL_I2] = "i2",
};

const char *sl_dtype_name(enum sl_dtype dtype)
{
    assert((unsigned)dtype < SL_DTYPES);
    return names[dtype];
}

bool sl_dtype_parse(enum sl_dtype *dtype, const char *name)
{
    for (int d = 0; d < SL_DTYPES; d++) {
        if (strcmp(name, sl_dtype_name((enum sl_dtype)d)) == 0) {
            *dtype = (enum sl_dtype)d;
            return true;
        }
    }
    return false;
}

enum sl_dtype sl_dtype_named(const char *name)
{
    enum sl_dtype dtype = SL_F32;
    bool known = sl_dtype_parse(&dtype, name);
    assert(known);
    return dtype;
}
