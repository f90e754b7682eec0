/* What a role counts and measures, for /metrics: written by the role's thread after each chunk or step, read by whoever
 * scrapes. */
#ifndef SL_NODE_ROLE_ROLE_METER_H
#define SL_NODE_ROLE_ROLE_METER_H

#include "pipeline/stage/utilisation.h"
#include <stdatomic.h>

struct sl_role_meter {
    _Atomic uint64_t foretold, given_up, chunks, tokens, busy_us, waited_us, kv_frames, kv_bytes, records,
        checksum_failures;
    _Atomic uint64_t pages_used, pages_total, sequences, steps;
    _Atomic uint64_t steps_under_way,
        most_steps_under_way;                    /* micro-batches in the ring of a decode worker's parts */
    _Atomic uint64_t part_ns[SL_PARTS], wait_ns; /* of all threads of the team */
    _Atomic uint64_t mfu_ppm, compute_ppm, memory_ppm; /* pipeline/stage/utilisation.h, in millionths */
    _Atomic uint64_t mma_ppm;
    _Atomic bool has_mma; /* the stage is on a GPU of which that is known */
};

/* By the role, after a chunk or step; returns what sl_utilisation_look does. */
uint64_t sl_role_meter_publish(struct sl_role_meter *meter, struct sl_utilisation *u,
                               const struct sl_stage *stage);
/* Who holds pages, by the role. */
void sl_role_meter_pages(struct sl_role_meter *meter, const struct sl_sequences *sequences);
/* The families of it in /metrics. */
struct sl_text;
/* Of a decode worker that is cut into parts. */
void sl_role_meter_steps_text(struct sl_text *text, const char *role, const struct sl_role_meter *meter);
void sl_role_meter_text(struct sl_text *text, const char *role, const struct sl_role_meter *meter);

#endif
