/* Who worked on which chunk when: what a request brings back with its tokens. Drawings are made of it. */
#ifndef SL_PIPELINE_RECORD_SPAN_H
#define SL_PIPELINE_RECORD_SPAN_H

#include <stdint.h>

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

#endif
