/* Metadata of a Generate to values (headers.h). A header that is there twice is refused: who stands behind whom could then be
 * decided by a client that says another's name first. */
#include "node/edge/headers.h"
#include "base/digest.h"
#include "node/coordinator/tenants.h"
#include <stdio.h>
#include <string.h>

const char *sl_header_name(enum sl_header header)
{
    static const char *const names[SL_HEADERS] = {"x-tenant-id", "x-priority", "x-slo-ttft-ms",
                                                  "x-cache-salt"};
    return names[header];
}

/* A whole number as people write it: a minus for one below 0, digits, nothing else. Too long a one is as good as any beyond
 * every bound. */
static bool read_whole(int64_t *number, const struct sl_header_value *value)
{
    bool minus = value->n_bytes > 0 && value->bytes[0] == '-';
    size_t at = minus, digits = value->n_bytes - at;
    *number = 0;
    if (digits == 0)
        return false;
    for (; at < value->n_bytes; at++) {
        if (value->bytes[at] < '0' || value->bytes[at] > '9')
            return false;
        if (*number < INT64_MAX / 100)
            *number = *number * 10 + (value->bytes[at] - '0');
    }
    *number = minus ? -*number : *number;
    return true;
}

/* What was sent, as far as a sentence can carry it. */
static const char *shown(char out[24], const struct sl_header_value *value)
{
    size_t n = value->n_bytes < 20 ? value->n_bytes : 20;
    for (size_t i = 0; i < n; i++)
        out[i] = value->bytes[i];
    for (size_t i = 0; i < n; i++)
        if (out[i] < ' ' || out[i] >= 0x7f)
            out[i] = '?';
    strcpy(out + n, value->n_bytes > n ? "..." : "");
    return out;
}

static sl_status read_number(int64_t *number, enum sl_header header, const struct sl_header_value *value,
                             int64_t least, int64_t most, const char *unit, struct sl_err *err)
{
    char text[24];
    if (read_whole(number, value) && *number >= least && *number <= most)
        return SL_OK;
    return sl_fail(err, SL_E_INVALID,
                   "%s is \"%s\": send a whole number%s from %lld to %lld, or leave it out",
                   sl_header_name(header), shown(text, value), unit, (long long)least, (long long)most);
}

static sl_status read_tenant(struct sl_generate *generate, const struct sl_header_value *value,
                             struct sl_err *err)
{
    if (!sl_tenant_is_name(value->bytes, value->n_bytes))
        return sl_fail(err, SL_E_INVALID,
                       "%s has %zu bytes: send at most %d printable characters without blanks",
                       sl_header_name(SL_HEADER_TENANT), value->n_bytes, SL_MAX_TENANT - 1);
    memcpy(generate->tenant, value->bytes, value->n_bytes);
    generate->tenant[value->n_bytes] = 0;
    return SL_OK;
}

/* Of any length and content to those behind us: 32 bytes, which say nothing of it. An empty one is none. */
static sl_status read_salt(struct sl_generate *generate, const struct sl_header_value *value,
                           struct sl_err *err)
{
    if (value->n_bytes > SL_MAX_SALT_BYTES)
        return sl_fail(err, SL_E_INVALID, "%s has %zu bytes: send at most %d, or a digest of it",
                       sl_header_name(SL_HEADER_CACHE_SALT), value->n_bytes, SL_MAX_SALT_BYTES);
    if (value->n_bytes > 0)
        sl_sha256_chain(NULL, value->bytes, value->n_bytes, generate->cache_salt);
    return SL_OK;
}

sl_status sl_headers_read(struct sl_generate *generate, const struct sl_header_value values[SL_HEADERS],
                          struct sl_err *err)
{
    int64_t number;
    for (int k = 0; k < SL_HEADERS; k++)
        if (values[k].n > 1)
            return sl_fail(err, SL_E_INVALID, "%s is there %u times: send it once",
                           sl_header_name((enum sl_header)k), values[k].n);
    if (values[SL_HEADER_TENANT].n)
        SL_TRY(read_tenant(generate, &values[SL_HEADER_TENANT], err));
    if (values[SL_HEADER_PRIORITY].n) {
        SL_TRY(read_number(&number, SL_HEADER_PRIORITY, &values[SL_HEADER_PRIORITY], SL_PRIORITY_LEAST,
                           SL_PRIORITY_MOST, "", err));
        generate->priority = (int32_t)number;
    }
    if (values[SL_HEADER_SLO_TTFT].n) {
        SL_TRY(read_number(&number, SL_HEADER_SLO_TTFT, &values[SL_HEADER_SLO_TTFT], 1, SL_MAX_SLO_MS,
                           " of milliseconds", err));
        generate->slo_ms = (uint32_t)number;
    }
    return values[SL_HEADER_CACHE_SALT].n ? read_salt(generate, &values[SL_HEADER_CACHE_SALT], err) : SL_OK;
}

_Static_assert((int)SL_CALLER_NAME_BYTES <= (int)SL_MAX_TENANT, "a certificate's name is a tenant's");

static void speak_for_oneself(struct sl_generate *generate, const char *name)
{
    static const char kind[] = "a certificate's name"; /* or it would be a gateway's salt of that text */
    static const uint8_t none[SL_PREFIX_NAME];
    uint8_t scope[SL_PREFIX_NAME];
    bool salted = memcmp(generate->cache_salt, none, sizeof none) != 0;
    snprintf(generate->tenant, sizeof generate->tenant, "%s", name);
    sl_sha256_chain(NULL, kind, strlen(kind), scope);
    sl_sha256_chain(scope, name, strlen(name), scope);
    if (salted)
        sl_sha256_chain(scope, generate->cache_salt, sizeof generate->cache_salt, generate->cache_salt);
    else
        memcpy(generate->cache_salt, scope, sizeof scope);
}

sl_status sl_headers_of(struct sl_generate *generate, const struct sl_header_value values[SL_HEADERS],
                        const struct sl_caller *caller, bool trusting, struct sl_err *err)
{
    static const enum sl_header guarded[] = {SL_HEADER_TENANT, SL_HEADER_PRIORITY, SL_HEADER_CACHE_SALT};
    struct sl_header_value kept[SL_HEADERS];
    memcpy(kept, values, sizeof kept);
    snprintf(generate->owner, sizeof generate->owner, "%s", caller->name);
    bool believed = caller->role == SL_CALLER_GATEWAY || (caller->role == SL_CALLER_OPEN && trusting);
    bool certified = !believed && caller->name[0];
    if (certified)
        kept[SL_HEADER_TENANT].n = kept[SL_HEADER_PRIORITY].n = 0;
    for (size_t i = 0; !believed && !certified && i < sizeof guarded / sizeof *guarded; i++)
        if (kept[guarded[i]].n)
            return sl_fail(err, SL_E_DENIED,
                           "%s is believed of gateways only: leave it out, show a gateway's certificate, or, "
                           "without TLS, start the node with --trust-headers",
                           sl_header_name(guarded[i]));
    SL_TRY(sl_headers_read(generate, kept, err));
    if (certified)
        speak_for_oneself(generate, caller->name);
    else if (!generate->tenant[0])
        snprintf(generate->tenant, sizeof generate->tenant, "%s", caller->name);
    return SL_OK;
}
