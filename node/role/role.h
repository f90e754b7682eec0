/* The loops of the two working roles: take events from the I/O thread, apply what arrived, send what came of it.
 * A role owns its stage and is the owner of its sl_io; both loops end when control->stop is set, or with an error that names
 * the neighbour which was lost. They are the same code in a process of their own and as a thread of `generate --model`. */
#ifndef SL_NODE_ROLE_ROLE_H
#define SL_NODE_ROLE_ROLE_H

#include "pipeline/decide/plan.h"
#include "pipeline/link/transport.h"
#include "pipeline/stage/utilisation.h"
#include <stdatomic.h>

struct sl_role_meter { /* written by the role, read by /metrics */
    _Atomic uint64_t chunks, tokens, busy_us, waited_us, kv_frames, kv_bytes, records, checksum_failures;
    _Atomic uint64_t pages_used, pages_total, sequences, steps;
    _Atomic uint64_t part_ns[SL_PARTS], wait_ns;       /* of all threads of the team */
    _Atomic uint64_t mfu_ppm, compute_ppm, memory_ppm; /* pipeline/stage/utilisation.h, in millionths */
};

/* By the role, after a chunk or step; returns what sl_utilisation_look does. */
uint64_t sl_role_meter_publish(struct sl_role_meter *meter, struct sl_utilisation *u,
                               const struct sl_stage *stage);
/* The families of it in /metrics. */
struct sl_text;
void sl_role_meter_text(struct sl_text *text, const char *role, const struct sl_role_meter *meter);

struct sl_role_state {
    _Atomic bool stop; /* set it, then sl_io_nudge */
    _Atomic bool ready;
    void (*on_ready)(void *user); /* once, on the role's thread, when every link is up; NULL: none */
    void *user;
    struct sl_role_meter meter;
    void *sending; /* buffers whose frames the io may still be reading when the loop has ended */
};
/* After sl_io_destroy. */
void sl_role_state_fini(struct sl_role_state *control);

sl_status sl_role_stage_run(struct sl_stage *stage, struct sl_io *io, const struct sl_plan *plan, uint32_t k,
                            uint32_t n_links, struct sl_role_state *control, struct sl_err *err);
sl_status sl_role_decode_run(struct sl_stage *stage, struct sl_io *io, const struct sl_plan *plan,
                             uint32_t n_links, struct sl_role_state *control, struct sl_err *err);

#endif
