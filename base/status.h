/* What can go wrong, and the sentence that says it.
 *
 * Two styles of error and no third. The chunk path returns an sl_status. The control path returns the
 * same and fills an sl_err: the status and one sentence which names the thing and the remedy.
 * Codes are grouped by blast radius, so that a caller can decide without a table: a chunk is tried again,
 * a request fails alone, a link is taken down and brought up, a node gives up. */
#ifndef SL_BASE_STATUS_H
#define SL_BASE_STATUS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

typedef enum sl_status {
    SL_OK = 0,
    SL_AGAIN = 1, /* not an error: nothing there now, or no room now */

    /* chunk: this piece of work */
    SL_E_CORRUPT = -10, /* a checksum does not match: never an answer */

    /* request: one caller's fault or fate */
    SL_E_INVALID = -20, /* a value the caller sent */
    SL_E_NOT_FOUND = -21,
    SL_E_EXISTS = -22,
    SL_E_EXHAUSTED = -23, /* a planned limit is reached; later it may fit */
    SL_E_CANCELLED = -24,
    SL_E_DEADLINE = -25,
    SL_E_UNIMPLEMENTED = -26, /* asked for something we do not serve */

    /* link: the edge to a neighbour */
    SL_E_PEER_LOST = -40,
    SL_E_REFUSED = -41,
    SL_E_PROTOCOL = -42,
    SL_E_DENIED = -43, /* who asks has not proved that he may */

    /* node: this process cannot go on, or cannot start */
    SL_E_USAGE = -60,
    SL_E_DATA = -61,        /* a file is not what it must be */
    SL_E_UNAVAILABLE = -62, /* a port, a peer or a device is not there */
    SL_E_CONFIG = -63,
    SL_E_IO = -64,
    SL_E_NOMEM = -65,
    SL_E_INTERNAL = -66
} sl_status;

struct sl_err {
    sl_status status;
    char text[320]; /* one sentence, no newline, always terminated */
};

/* Fill *err (may be NULL) and return status, so that callers write `return sl_fail(err, ...)`. */
sl_status sl_fail(struct sl_err *err, sl_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "prefix: " before the sentence already in *err; returns err->status. */
sl_status sl_err_prefix(struct sl_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

const char *sl_status_name(sl_status status); /* "invalid", "peer lost", ... */

/* sysexits: 64 usage, 65 data (a file or a value in a request), 69 unavailable, 70 internal, 74 i/o, 77 permission, 78 config, 1 for what a request got. */
int sl_status_exit_code(sl_status status);

#define SL_TRY(call)                                                                                         \
    do {                                                                                                     \
        sl_status sl_try_ = (call);                                                                          \
        if (sl_try_ != SL_OK)                                                                                \
            return sl_try_;                                                                                  \
    } while (0)

#endif
