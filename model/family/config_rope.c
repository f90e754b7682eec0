/* Rotary embedding: from config keys to a table of inverse frequencies and one factor, so that no
 * kernel ever sees a rope type. Accepted are `default` and `yarn`, in both dialects (rope_theta +
 * rope_scaling{type|rope_type}, or rope_parameters{rope_theta, rope_type, ...}).
 *
 * The table follows transformers' steps in single precision, since a last-bit difference in a
 * frequency is multiplied by the position; only the power is taken in double precision and rounded
 * once, so that the table does not depend on the C library's float kernels. */
#include "model/family/config_impl.h"
#include <math.h>
#include <string.h>

enum { MAX_CONTEXT = 1 << 22 };

struct yarn {
    double factor, attention_factor, beta_fast, beta_slow, mscale, mscale_all_dim;
    double original; /* original_max_position_embeddings */
    bool truncate;
};

static const char *const default_keys[] = {"rope_type", "type", "rope_theta", "partial_rotary_factor", NULL};
static const char *const yarn_keys[] = {"rope_type",
                                        "type",
                                        "rope_theta",
                                        "partial_rotary_factor",
                                        "factor",
                                        "attention_factor",
                                        "beta_fast",
                                        "beta_slow",
                                        "mscale",
                                        "mscale_all_dim",
                                        "original_max_position_embeddings",
                                        "truncate",
                                        NULL};

static sl_status check_keys(json_t *rope, const char *type, const char *const *known, struct sl_err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(rope, key, value)
    {
        bool found = json_is_null(value);
        for (const char *const *k = known; *k && !found; k++)
            found = strcmp(*k, key) == 0;
        if (!found)
            return sl_fail(err, SL_E_DATA,
                           "config.json: rope key '%.60s' is not known for rope_type '%s'; it could change "
                           "the result, so it is refused",
                           key, type);
    }
    return SL_OK;
}

/* rope_scaling or rope_parameters, whichever says something; both may be empty. */
static sl_status find_rope(const json_t *root, json_t **rope, struct sl_err *err)
{
    static const char *const names[] = {"rope_scaling", "rope_parameters"};
    *rope = NULL;
    for (int i = 0; i < 2; i++) {
        json_t *value = json_object_get(root, names[i]);
        if (!value || json_is_null(value))
            continue;
        if (!json_is_object(value))
            return sl_fail(err, SL_E_DATA, "config.json: %s must be an object or null", names[i]);
        if (json_object_size(value) == 0)
            continue;
        if (*rope)
            return sl_fail(err, SL_E_DATA,
                           "config.json: rope_scaling and rope_parameters are both given; "
                           "keep one");
        *rope = value;
    }
    return SL_OK;
}

static sl_status rope_type(const json_t *rope, const char **type, struct sl_err *err)
{
    const json_t *value = sl_config_value(rope, "rope_type");
    if (!value)
        value = sl_config_value(rope, "type");
    *type = value ? json_string_value(value) : "default";
    if (!*type || (strcmp(*type, "default") != 0 && strcmp(*type, "yarn") != 0))
        return sl_fail(err, SL_E_DATA,
                       "config.json: rope_type '%.40s' is not known; 'default' and 'yarn' "
                       "are",
                       *type ? *type : "(no string)");
    return SL_OK;
}

static sl_status read_yarn(struct yarn *y, const json_t *rope, uint32_t max_pos, struct sl_err *err)
{
    *y = (struct yarn){
        .beta_fast = 32, .beta_slow = 1, .attention_factor = -1, .original = max_pos, .truncate = true};
    SL_TRY(sl_config_real(rope, "original_max_position_embeddings", 1, 1 << 22, &y->original, err));
    if (!json_object_get(rope, "factor"))
        return sl_fail(err, SL_E_DATA, "config.json: rope_type 'yarn' needs factor");
    y->factor = max_pos / y->original;
    SL_TRY(sl_config_real(rope, "factor", 1, 1e6, &y->factor, err));
    SL_TRY(sl_config_real(rope, "attention_factor", 0, 1e6, &y->attention_factor, err));
    SL_TRY(sl_config_real(rope, "beta_fast", 0, 1e6, &y->beta_fast, err));
    SL_TRY(sl_config_real(rope, "beta_slow", 0, 1e6, &y->beta_slow, err));
    SL_TRY(sl_config_real(rope, "mscale", 0, 1e6, &y->mscale, err));
    SL_TRY(sl_config_real(rope, "mscale_all_dim", 0, 1e6, &y->mscale_all_dim, err));
    SL_TRY(sl_config_bool(rope, "truncate", &y->truncate, err));
    /* A zero means the default, as it does for transformers. */
    y->beta_fast = y->beta_fast > 0 ? y->beta_fast : 32;
    y->beta_slow = y->beta_slow > 0 ? y->beta_slow : 1;
    if (y->beta_fast < y->beta_slow)
        return sl_fail(err, SL_E_DATA, "config.json: yarn's beta_fast is below beta_slow; it must not be");
    return SL_OK;
}

static double mscale(double factor, double scale)
{
    return factor <= 1 ? 1.0 : 0.1 * scale * log(factor) + 1.0;
}

/* The (fractional) pair index that turns `rotations` times within the original context. */
static double correction_dim(double rotations, double d_head, double theta, double original)
{
    return d_head * log(original / (rotations * 2 * 3.14159265358979323846)) / (2 * log(theta));
}

/* period[i] = theta^(2i/d_head) */
static void apply_yarn(struct sl_shape *shape, const struct yarn *y, double theta, const float *period)
{
    double low = correction_dim(y->beta_fast, shape->d_head, theta, y->original);
    double high = correction_dim(y->beta_slow, shape->d_head, theta, y->original);
    if (y->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, shape->d_head - 1);
    if (low == high)
        high += 0.001; /* transformers' guard against 0/0 */
    for (uint32_t i = 0; i < shape->d_head / 2; i++) {
        float extrapolated = 1.0f / period[i];
        float interpolated = 1.0f / ((float)y->factor * period[i]);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        float keep = 1 - ramp;
        shape->rope_inv_freq[i] = interpolated * (1 - keep) + extrapolated * keep;
    }
    double factor = y->attention_factor;
    if (factor < 0)
        factor = y->mscale > 0 && y->mscale_all_dim > 0
                     ? mscale(y->factor, y->mscale) / mscale(y->factor, y->mscale_all_dim)
                     : mscale(y->factor, 1);
    shape->rope_factor = (float)factor;
}

/* The context that the interpolation was made for. Model cards say to add rope_scaling and leave max_position_embeddings as it is,
 * so that key tells nothing here (vLLM and SGLang take the product, too). */
static sl_status stretch_context(struct sl_shape *shape, const struct yarn *y, struct sl_err *err)
{
    double context = floor(y->factor * y->original);
    if (context > MAX_CONTEXT)
        return sl_fail(
            err, SL_E_DATA,
            "config.json: yarn's factor %g times original_max_position_embeddings %g is a context beyond %d; "
            "correct the factor",
            y->factor, y->original, MAX_CONTEXT);
    shape->max_pos = (uint32_t)context;
    return SL_OK;
}

sl_status sl_config_rope(struct sl_shape *shape, const json_t *root, struct sl_err *err)
{
    json_t *rope;
    const char *type;
    double theta = 10000, partial = 1;
    SL_TRY(find_rope(root, &rope, err));
    SL_TRY(rope_type(rope, &type, err));
    bool yarn = strcmp(type, "yarn") == 0;
    SL_TRY(check_keys(rope, type, yarn ? yarn_keys : default_keys, err));
    SL_TRY(sl_config_real(root, "rope_theta", 1.0001, 1e15, &theta, err));
    SL_TRY(sl_config_real(rope, "rope_theta", 1.0001, 1e15, &theta, err));
    SL_TRY(sl_config_real(root, "partial_rotary_factor", 1, 1, &partial, err));
    SL_TRY(sl_config_real(rope, "partial_rotary_factor", 1, 1, &partial, err));
    float period[SL_MAX_HEAD / 2];
    for (uint32_t i = 0; i < shape->d_head / 2; i++) {
        float exponent = (float)(2 * i) / (float)shape->d_head;
        period[i] = (float)pow(theta, (double)exponent);
        shape->rope_inv_freq[i] = 1.0f / period[i];
    }
    shape->rope_factor = 1;
    if (yarn) {
        struct yarn y;
        SL_TRY(read_yarn(&y, rope, shape->max_pos, err));
        apply_yarn(shape, &y, theta, period);
        SL_TRY(stretch_context(shape, &y, err));
    }
    return SL_OK;
}
