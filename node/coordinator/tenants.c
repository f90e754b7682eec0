/* Names and weights of tenants (tenants.h). A weight is a share, so only ratios matter: the bounds keep counters that are
 * divided by it finite and comparable. */
#include "node/coordinator/tenants.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAST 0.001
#define MOST 1000.0

bool sl_tenant_is_name(const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] <= ' ' || bytes[i] >= 0x7f)
            return false;
    return n < SL_MAX_TENANT;
}

/* Digits with at most one point, and nothing that strtod would like beside: no sign, exponent, "inf" or hexadecimal. */
static bool read_weight(double *weight, const char *text, size_t n)
{
    char copy[16];
    if (n == 0 || n >= sizeof copy)
        return false;
    memcpy(copy, text, n);
    copy[n] = 0;
    char *end;
    *weight = strtod(copy, &end);
    return strspn(copy, "0123456789.") == n && end == copy + n && *weight >= LEAST && *weight <= MOST;
}

static sl_status read_one(struct sl_tenant_weights *weights, const char *item, size_t n, const char *option,
                          struct sl_err *err)
{
    const char *equals = memrchr(item, '=', n);
    size_t name = equals ? (size_t)(equals - item) : 0;
    struct sl_tenant_weight read = {.weight = 0};
    if (!equals || !sl_tenant_is_name(item, name))
        return sl_fail(
            err, SL_E_USAGE,
            "%s has \"%.*s\"; it takes NAME=W, a name of at most %d printable characters without blanks",
            option, (int)(n < 80 ? n : 80), item, SL_MAX_TENANT - 1);
    if (!read_weight(&read.weight, equals + 1, n - name - 1))
        return sl_fail(err, SL_E_USAGE, "%s has \"%.*s\"; a weight is a number from %g to %g, as in 2 or 0.5",
                       option, (int)(n < 80 ? n : 80), item, LEAST, MOST);
    memcpy(read.tenant, item, name);
    for (uint32_t i = 0; i < weights->n; i++)
        if (strcmp(weights->list[i].tenant, read.tenant) == 0)
            return sl_fail(err, SL_E_USAGE, "%s gives \"%s\" two weights; keep one", option, read.tenant);
    if (weights->n == SL_MAX_WEIGHTS)
        return sl_fail(err, SL_E_USAGE, "%s has more than %d weights; whoever is not named weighs 1", option,
                       SL_MAX_WEIGHTS);
    weights->list[weights->n++] = read;
    return SL_OK;
}

sl_status sl_tenant_weights_read(struct sl_tenant_weights *weights, const char *list, const char *option,
                                 struct sl_err *err)
{
    weights->n = 0;
    for (const char *at = list; at && *at;) {
        size_t n = strcspn(at, ",");
        SL_TRY(read_one(weights, at, n, option, err));
        at += n + (at[n] == ',');
    }
    return SL_OK;
}
