/* Who worked on which chunk when: what a request brings back with its tokens, and the drawings made of it. */
#ifndef SL_PIPELINE_TIMELINE_H
#define SL_PIPELINE_TIMELINE_H

#include "base/status.h"
#include <stdint.h>
#include <stdio.h>

struct sl_span { /* one chunk of this request on one stage; times are sl_clock_wall_us */
    uint16_t stage;
    uint32_t chunk;       /* number of the slice within its request */
    uint32_t pos, tokens; /* the slice [pos, pos + tokens) */
    uint64_t recv_us, begin_us, end_us;
    uint64_t kv_acked_us; /* the decode worker had these pages whole and checked; 0: no hand-off */
    uint64_t at_peak_us;  /* what the operations of the record take at the machine's peaks; 0: not known */
};

struct sl_timeline {
    uint64_t submit_us;      /* the request was admitted */
    uint64_t first_token_us; /* 0: none yet */
    uint64_t done_us;
    uint32_t n_stages;
    uint32_t n_spans;
    const struct sl_span *spans; /* any order */
};

/* Terminal drawing: a row a stage, time from left to right over `columns` characters, one colour a chunk (ANSI when colour),
 * chunk numbers where they fit, a row for KV arrival at the decode worker when there is one, an axis in ms; below it TTFT and,
 * per stage: busy ms, busy %, bubble ms between its first begin and last end. MFU under each chunk and per stage when spans
 * have it. */
void sl_timeline_draw(const struct sl_timeline *timeline, FILE *to, uint32_t columns, bool colour);
/* The same as a self-contained SVG. SL_E_IO names the path. */
sl_status sl_timeline_svg(const struct sl_timeline *timeline, const char *path, struct sl_err *err);

#endif
