/* When the stages were busy, record by record, for as many records as there is room for: a request that waited is shown for whom.
 * Times are the coordinator's (span.h), and as good as those: nothing but drawings is made of them. */
#ifndef SL_PIPELINE_RECORD_BUSY_H
#define SL_PIPELINE_RECORD_BUSY_H

#include "base/arena.h"
#include "pipeline/record/span.h"

enum {
    SL_BUSY_RECORDS = 2048,               /* that are remembered */
    SL_FOREIGN_GRAIN = 256,               /* work that is nearer than a 256th of the wait is one interval */
    SL_FOREIGN_MAX = SL_FOREIGN_GRAIN + 2 /* intervals of a stage, by that */
};

struct sl_busy {
    uint32_t n_stages, room;
    uint64_t n; /* records, ever */
    struct sl_busy_time {
        uint64_t begin_us, end_us;
    } * times; /* [room][n_stages], a ring */
};

size_t sl_busy_bytes(uint32_t n_stages, uint32_t room);
sl_status sl_busy_init(struct sl_busy *busy, struct sl_arena *arena, uint32_t n_stages, uint32_t room);
/* A record that all stages have run; ahead_us: their clocks before ours, [n_stages]. */
void sl_busy_add(struct sl_busy *busy, const struct sl_trace *traces, const int64_t *ahead_us);
/* Of the last record. */
const struct sl_busy_time *sl_busy_last(const struct sl_busy *busy, uint32_t stage);
/* What the stages did for others between the submission of a request and its first token, or its end if there was none: its own
 * spans left out, by stage and time. out: room for n_stages * SL_FOREIGN_MAX; returns how many. What is older than what is
 * remembered is not told. */
uint32_t sl_busy_foreign(const struct sl_busy *busy, const struct sl_timeline *timeline,
                         struct sl_foreign *out);

#endif
