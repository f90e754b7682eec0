/* Server-sent events, as they come in pieces of any size: the data of each event, whole. Comments, event names and ids are
 * passed over, CR LF and LF end lines. A line of an event is bounded; what is longer is an error of the server. Knows no JSON. */
#ifndef SL_BENCH_SERVE_SSE_H
#define SL_BENCH_SERVE_SSE_H

#include "base/status.h"

enum { SL_SSE_MAX_EVENT = 4 << 20 };

struct sl_sse {
    char *line; /* what has come of the line that is not over */
    size_t used, room;
    char *data; /* of the event that is not over */
    size_t data_used, data_room;
    bool has_data, after_cr;
};

/* data: terminated by a zero that is not counted; valid during the call. */
typedef void sl_sse_fn(void *user, char *data, size_t bytes);
/* SL_E_PROTOCOL: longer than SL_SSE_MAX_EVENT; SL_E_NOMEM. */
sl_status sl_sse_feed(struct sl_sse *sse, const char *bytes, size_t n, sl_sse_fn *fn, void *user);
/* What a server leaves without its last empty line is an event, too. */
void sl_sse_end(struct sl_sse *sse, sl_sse_fn *fn, void *user);
void sl_sse_reset(struct sl_sse *sse); /* for the next stream; keeps its memory */
void sl_sse_free(struct sl_sse *sse);

#endif
