/* What the chief of a decode worker sends around its ring, when there are other parts: the ADOPTs that it obeys, the token steps that it
 * begins, and the sequences that end. Everything that it sends comes back or is consumed on the way, and what comes back it always
 * takes, whatever there is room for on the way out: so the ring can't stand still.
 *
 * Steps come back in the order in which they were begun. An end goes round behind all steps of its sequence, and only when it is back
 * has no part anything of it. One that finds no buffer waits here; of sequences that never were at the chief there are at most
 * SL_ORPHANS waiting (sl_decode_ring_takes_more). */
#ifndef SL_NODE_ROLE_DECODE_RING_H
#define SL_NODE_ROLE_DECODE_RING_H

#include "node/role/step.h"
#include "pipeline/record/parts.h"

struct sl_begun_step { /* on its way */
    uint32_t number, n;
    uint32_t n_sharing; /* sequences that wait for one of the steps that are under way */
    uint64_t begun_us;
    struct sl_step_row *rows; /* [step_rows] */
};

struct sl_decode_ring {
    const struct sl_plan *plan;
    uint64_t out_link, in_link; /* 0: there are no other parts */
    struct sl_begun_step steps[SL_MAX_PARTS];
    uint32_t begun, back; /* numbers */
    uint8_t *step_bytes;  /* SL_STEP_BUFFERS */
    uint32_t free_steps[SL_STEP_BUFFERS], n_free_steps;
    struct sl_parts_end *ends; /* [max_running + SL_ORPHANS], that wait */
    uint32_t n_ends, n_orphans;
    uint8_t *ends_bytes; /* SL_ENDS_BUFFERS */
    uint32_t free_ends[SL_ENDS_BUFFERS], n_free_ends;
    struct sl_io_event queue[SL_RING_SLOTS]; /* what has come back */
    uint32_t queue_head, queue_tail;
};

sl_status sl_decode_ring_init(struct sl_decode_ring *ring, const struct sl_plan *plan,
                              uint32_t node); /* SL_E_NOMEM */
void sl_decode_ring_free(struct sl_decode_ring *ring);

/* A frame of the coordinator goes to all parts; its slot is free when it was SENT. */
void sl_decode_ring_pass(struct sl_decode_ring *ring, const struct sl_io_event *frame,
                         struct sl_role_actions *actions);

/* A micro-batch more may be begun. */
static inline bool sl_decode_ring_may_begin(const struct sl_decode_ring *ring)
{
    return ring->begun - ring->back < ring->plan->n_parts && ring->n_free_steps > 0;
}
/* rows: [n], n at most step_rows. */
void sl_decode_ring_begin(struct sl_decode_ring *ring, const struct sl_step_row *rows, uint32_t n,
                          uint32_t n_sharing, uint64_t now_us, struct sl_role_actions *actions);
/* The step of a frame that came back; NULL: *bad says why it can't be. Its rows are those that are still wanted: some parts may
 * have left some out. */
const struct sl_begun_step *sl_decode_ring_returned(struct sl_decode_ring *ring,
                                                    const struct sl_io_event *frame, struct sl_step *step,
                                                    const char **bad);

/* Frames that may end sequences which are not at the chief are to be taken. */
static inline bool sl_decode_ring_takes_more(const struct sl_decode_ring *ring)
{
    return ring->n_orphans < SL_ORPHANS;
}
void sl_decode_ring_end(struct sl_decode_ring *ring, const struct sl_parts_end *end, bool is_orphan);
static inline bool sl_decode_ring_any_to_send(const struct sl_decode_ring *ring)
{
    return ring->n_ends > 0 && ring->n_free_ends > 0;
}
/* Those that wait, if there is a buffer. */
void sl_decode_ring_send_ends(struct sl_decode_ring *ring, struct sl_role_actions *actions);

/* A SENT: false, it is none of ours. *slot: of the coordinator's link, which is free now; SL_NO_SLOT: none is. */
#define SL_NO_SLOT UINT32_MAX
bool sl_decode_ring_sent(struct sl_decode_ring *ring, uint64_t tag, uint32_t *slot);

#endif
