/* Reads and writes traceparent (traceparent.h): 00-(32 digits)-(16 digits)-(2 digits), all of them small. */
#include "node/edge/traceparent.h"
#include <stdio.h>
#include <string.h>

enum { SHORTEST = 55, AT_TRACE = 3, AT_PARENT = 36, AT_FLAGS = 53 };

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* False: something is no digit. *any: whether one of the bytes is not 0. */
static bool read_hex(uint8_t *out, size_t n, const char *at, bool *any)
{
    *any = false;
    for (size_t i = 0; i < n; i++) {
        int high = digit(at[2 * i]), low = digit(at[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
        *any = *any || out[i];
    }
    return true;
}

static bool read(struct sl_traceparent *out, const char *bytes, size_t n)
{
    uint8_t version, flags;
    bool any, has_trace, has_parent;
    if (n < SHORTEST || bytes[2] != '-' || bytes[AT_PARENT - 1] != '-' || bytes[AT_FLAGS - 1] != '-' ||
        !read_hex(&version, 1, bytes, &any) || version == 0xff || (version == 0 && n > SHORTEST) ||
        (n > SHORTEST && bytes[SHORTEST] != '-'))
        return false;
    if (!read_hex(out->trace_id, sizeof out->trace_id, bytes + AT_TRACE, &has_trace) ||
        !read_hex(out->parent_id, sizeof out->parent_id, bytes + AT_PARENT, &has_parent) ||
        !read_hex(&flags, 1, bytes + AT_FLAGS, &any))
        return false;
    out->sampled = flags & 1;
    return has_trace && has_parent;
}

bool sl_traceparent_read(struct sl_traceparent *out, const char *bytes, size_t n)
{
    bool whole = read(out, bytes, n);
    if (!whole)
        memset(out, 0, sizeof *out);
    return whole;
}

void sl_hex_write(char *out, const uint8_t *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = 0;
}

void sl_traceparent_write(char out[SL_TRACEPARENT_ROOM], const struct sl_traceparent *in)
{
    char trace[2 * sizeof in->trace_id + 1], parent[2 * sizeof in->parent_id + 1];
    sl_hex_write(trace, in->trace_id, sizeof in->trace_id);
    sl_hex_write(parent, in->parent_id, sizeof in->parent_id);
    snprintf(out, SL_TRACEPARENT_ROOM, "00-%s-%s-%02x", trace, parent, in->sampled);
}
