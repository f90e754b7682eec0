/* Who worked on which chunk when: what a request brings back with its tokens. Drawings are made of it.
 *
 * Every node stamps with its own clock, and the clocks of two machines have nothing in common. So each trace tells how far
 * the next node's clock is ahead (order.h), and the coordinator, which knows how far that of stage 0 is, adds up: spans and
 * timelines have its clock, right to half a round trip a link. Drawings and the metric of hops (hops.h) are made of converted times, and nothing else. */
#ifndef SL_PIPELINE_RECORD_SPAN_H
#define SL_PIPELINE_RECORD_SPAN_H

#include "pipeline/record/order.h"

struct sl_span { /* one chunk of this request on one stage; times are the coordinator's */
    uint16_t stage;
    uint32_t chunk;       /* number of the slice within its request */
    uint32_t pos, tokens; /* the slice [pos, pos + tokens) */
    uint64_t recv_us, begin_us, end_us;
    uint64_t kv_acked_us;  /* the decode worker had these pages whole and checked; 0: no hand-off */
    uint64_t at_peak_us;   /* what the operations of the record take at the machine's peaks; 0: not known */
    uint64_t predicted_us; /* what the record should take, as it was written; 0: not known */
};

struct sl_foreign { /* a stage was busy with other requests alone */
    uint16_t stage;
    uint64_t begin_us, end_us;
};

struct sl_timeline {
    uint64_t submit_us;      /* the request came */
    uint64_t admit_us;       /* it was admitted; 0: it was not */
    uint64_t first_token_us; /* 0: none yet */
    uint64_t done_us;
    uint32_t n_stages;
    uint32_t n_spans;
    const struct sl_span *spans; /* any order */
    uint32_t n_foreign;          /* between submit_us and first_token_us (busy.h) */
    const struct sl_foreign *foreign;
};

/* offsets_us[k]: the clock of stage k minus the coordinator's. first_offset_us: that of stage 0, from the coordinator's own
 * link. Offsets come from other machines: any value is taken, none overflows. */
void sl_span_offsets(int64_t offsets_us[SL_MAX_STAGES], const struct sl_trace *traces, uint32_t n_stages,
                     int64_t first_offset_us);
/* A time of a clock that is offset_us ahead, on the coordinator's. 0 (never) stays 0; what would be before the begin of the
 * coordinator's clock is 0. */
uint64_t sl_span_time(uint64_t at_us, int64_t offset_us);

#endif
