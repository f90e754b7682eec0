/* How long chunks are under way between two nodes of the order log: from when one stage has run a chunk (its pages and rows are not sealed
 * yet, and a slot of the next may have to be waited for) until its frame is at the next, or what came of it at the coordinator.
 *
 * Times are the coordinator's (span.h), right to half a round trip: a hop that seems to end before it begins counts as none. Sums for
 * metrics, of which nothing is decided. The way to the first stage is not among them: what the coordinator stamps is the writing
 * of a record. */
#ifndef SL_PIPELINE_RECORD_HOPS_H
#define SL_PIPELINE_RECORD_HOPS_H

#include "pipeline/record/span.h"

enum { SL_HOP_MOST_US = 60000000 }; /* more is a clock of which nothing is known yet, or a node that lies */

struct sl_hops {
    struct sl_hop {
        uint64_t us, n;
    } to[SL_MAX_STAGES + 1]; /* that stage, from 1 on; behind the last stage the coordinator */
};

/* A record that all stages have run, and whose result was here at at_us. ahead_us: their clocks before ours, [n_stages]. */
void sl_hops_add(struct sl_hops *hops, const struct sl_trace *traces, const int64_t *ahead_us,
                 uint32_t n_stages, uint64_t at_us);

#endif
