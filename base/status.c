/* The sentence of an error and the names of its code. See status.h for the grouping. */
#include "base/status.h"
#include <stdio.h>
#include <string.h>

sl_status sl_fail(struct sl_err *err, sl_status status, const char *format, ...)
{
    if (!err)
        return status;
    err->status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    for (char *p = err->text; *p; p++) /* one line, whatever a file name or a peer put into it */
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    return status;
}

sl_status sl_err_prefix(struct sl_err *err, const char *format, ...)
{
    if (!err)
        return SL_E_INTERNAL;
    char prefix[sizeof err->text], joined[2 * sizeof err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    snprintf(joined, sizeof joined, "%s: %s", prefix, err->text);
    return sl_fail(err, err->status, "%s", joined);
}

const char *sl_status_name(sl_status status)
{
    switch (status) {
    case SL_OK:
        return "ok";
    case SL_AGAIN:
        return "again";
    case SL_E_CORRUPT:
        return "corrupt";
    case SL_E_INVALID:
        return "invalid";
    case SL_E_NOT_FOUND:
        return "not found";
    case SL_E_EXISTS:
        return "exists";
    case SL_E_EXHAUSTED:
        return "exhausted";
    case SL_E_CANCELLED:
        return "cancelled";
    case SL_E_DEADLINE:
        return "deadline exceeded";
    case SL_E_UNIMPLEMENTED:
        return "not served";
    case SL_E_PEER_LOST:
        return "peer lost";
    case SL_E_REFUSED:
        return "refused";
    case SL_E_PROTOCOL:
        return "protocol error";
    case SL_E_DENIED:
        return "denied";
    case SL_E_USAGE:
        return "usage";
    case SL_E_DATA:
        return "bad data";
    case SL_E_UNAVAILABLE:
        return "unavailable";
    case SL_E_CONFIG:
        return "configuration";
    case SL_E_IO:
        return "input/output";
    case SL_E_NOMEM:
        return "out of memory";
    case SL_E_INTERNAL:
        return "internal";
    }
    return "unknown";
}

int sl_status_exit_code(sl_status status)
{
    switch (status) {
    case SL_OK:
        return 0;
    case SL_E_USAGE:
        return 64;
    case SL_E_INVALID:
    case SL_E_DATA:
        return 65;
    case SL_E_UNAVAILABLE:
    case SL_E_PEER_LOST:
        return 69;
    case SL_E_INTERNAL:
    case SL_E_PROTOCOL:
        return 70;
    case SL_E_NOMEM:
        return 71;
    case SL_E_IO:
        return 74;
    case SL_E_DENIED:
        return 77;
    case SL_E_CONFIG:
    case SL_E_REFUSED:
        return 78;
    default:
        return 1;
    }
}
