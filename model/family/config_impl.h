/* Reading typed values out of config.json, private to the room. Every getter (config_values.c) names the
 * key and what is accepted when the value is something else; null counts as absent, as transformers
 * treats it. Numbers may be written as integers or as reals with the same value: both dialects occur in
 * the wild. */
#ifndef SL_MODEL_FAMILY_CONFIG_IMPL_H
#define SL_MODEL_FAMILY_CONFIG_IMPL_H

#include "model/json_impl.h"
#include "model/shape.h"

/* The value of key, or NULL when absent or null. */
const json_t *sl_config_value(const json_t *object, const char *key);

/* A value that is a whole number, however it is written. */
bool sl_config_integral(const json_t *value, int64_t *out);

/* An integer in [low, high]; absent: `otherwise`, or an error when otherwise is negative. */
sl_status sl_config_u32(const json_t *object, const char *key, uint32_t low, uint32_t high, int64_t otherwise,
                        uint32_t *out, struct sl_err *err);
/* A finite number in [low, high]; absent: *out keeps its value. */
sl_status sl_config_real(const json_t *object, const char *key, double low, double high, double *out,
                         struct sl_err *err);
/* Absent: *out keeps its value. */
sl_status sl_config_bool(const json_t *object, const char *key, bool *out, struct sl_err *err);

/* rope_inv_freq and rope_factor from rope_theta, rope_scaling and rope_parameters; d_head and
 * max_pos are set. */
sl_status sl_config_rope(struct sl_shape *shape, const json_t *root, struct sl_err *err);

/* What generation_config.json (or NULL) recommends for sampling must be what a request may ask for. */
sl_status sl_config_generation(const json_t *generation, struct sl_err *err);

#endif
