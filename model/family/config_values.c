/* Typed values out of config.json (config_impl.h): what every family reads its keys with. A getter knows no key, so that
 * the files that do need not know each other. */
#include "model/family/config_impl.h"
#include <math.h>

const json_t *sl_config_value(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value) ? value : NULL;
}

bool sl_config_integral(const json_t *value, int64_t *out)
{
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    double real = json_real_value(value);
    if (!json_is_real(value) || fabs(real) > 0x1p53 || real != floor(real))
        return false;
    *out = (int64_t)real;
    return true;
}

sl_status sl_config_u32(const json_t *object, const char *key, uint32_t low, uint32_t high, int64_t otherwise,
                        uint32_t *out, struct sl_err *err)
{
    const json_t *value = sl_config_value(object, key);
    int64_t number = otherwise;
    if (!value && otherwise < 0)
        return sl_fail(err, SL_E_DATA, "config.json: %s is missing; an integer in %u..%u is needed", key, low,
                       high);
    if (value && !sl_config_integral(value, &number))
        return sl_fail(err, SL_E_DATA, "config.json: %s must be an integer in %u..%u", key, low, high);
    if (number < low || number > high)
        return sl_fail(err, SL_E_DATA, "config.json: %s is %lld; accepted are %u..%u", key, (long long)number,
                       low, high);
    *out = (uint32_t)number;
    return SL_OK;
}

sl_status sl_config_real(const json_t *object, const char *key, double low, double high, double *out,
                         struct sl_err *err)
{
    const json_t *value = sl_config_value(object, key);
    if (!value)
        return SL_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= low && number <= high))
        return sl_fail(err, SL_E_DATA, "config.json: %s must be a number in %g..%g", key, low, high);
    *out = number;
    return SL_OK;
}

sl_status sl_config_bool(const json_t *object, const char *key, bool *out, struct sl_err *err)
{
    const json_t *value = sl_config_value(object, key);
    if (!value)
        return SL_OK;
    if (!json_is_boolean(value))
        return sl_fail(err, SL_E_DATA, "config.json: %s must be true or false", key);
    *out = json_is_true(value);
    return SL_OK;
}
