/* The working roles, stage and decode worker (or a part of one), as their owners see them: created, run in a thread, stopped. They are the
 * same code in a process of their own and as threads of `generate --model`. What they do is in role_stage.h,
 * role_decode.h and role_part.h; here is the loop around it. */
#ifndef SL_NODE_ROLE_ROLE_H
#define SL_NODE_ROLE_ROLE_H

#include "node/role/role_meter.h"
#include "pipeline/decide/foretold.h"
#include "pipeline/decide/life.h"
#include "pipeline/decide/plan.h"
#include "pipeline/link/transport.h"
#include <stdatomic.h>

struct sl_role_decoder { /* what a stage is told of a part of a place for decode workers */
    uint32_t decoder, part, life;
    bool gone; /* nobody has it any more */
    struct sl_io_address at;
    uint8_t secret[32]; /* of the pipeline's links */
};
struct sl_role_post {
    struct sl_role_post *next;
    struct sl_role_decoder decoder;
};

struct sl_role_state {          /* what other threads see of a role; outlives it */
    _Atomic(enum sl_life) life; /* FORMING until every link is up; the loop ends when it is LOST or STOPPED */
    void (*on_ready)(void *user); /* once, on the role's thread, when every link is up; NULL: none */
    /* node `peer` of the plan is silent; 0 with silent false: none is any more. On the role's thread; NULL: none. */
    void (*on_silence)(void *user, bool silent, uint32_t peer);
    void *user;
    struct sl_role_meter meter;
    _Atomic(struct sl_role_post *) posts; /* newest first; the loop takes them when it is nudged */
};

/* A stage's neighbour comes, or is gone. Any thread, before the role is there, too; then sl_io_nudge. SL_E_NOMEM. */
sl_status sl_role_tell_decoder(struct sl_role_state *state, const struct sl_role_decoder *decoder);

/* A legal step of its life, taken by any thread; then sl_io_nudge, that the loop looks. */
void sl_role_step_life(struct sl_role_state *state, enum sl_life_event event);
static inline bool sl_role_goes_on(const struct sl_role_state *state)
{
    enum sl_life life = atomic_load(&state->life);
    return life != SL_LIFE_LOST && life != SL_LIFE_STOPPED;
}

struct sl_role;
/* k: the stage, or as node 1 + k of the plan a decode worker or a part of one. stage and plan outlive the role. Measures the machine's roofline when
 * nobody has, some 20 ms. SL_E_NOMEM. */
sl_status sl_role_create(struct sl_role **role, struct sl_stage *stage, const struct sl_plan *plan,
                         uint32_t k, struct sl_role_state *state, struct sl_err *err);
/* After sl_io_destroy: the io may still be reading the role's buffers when the loop has ended. */
void sl_role_destroy(struct sl_role *role);

/* A stage is told of a CANCEL that is still to come: a hint, which is lost when too many wait. One thread at a time; then
 * sl_io_nudge. */
void sl_role_foretell(struct sl_role *role, struct sl_foretold_cancel cancel);

/* The loop: the calling thread is the owner of io, and of the stage, until it returns. SL_OK when another thread ended its life; else
 * SL_E_PEER_LOST names the neighbour that was lost, SL_E_PROTOCOL or SL_E_CORRUPT the frame that can't be used,
 * SL_E_DATA the weights that are not what was loaded (sl_stage_watch; the coordinator has been told, as far as it can be). The links stay
 * as they are: who runs the role takes them down. n_links: that must come up before it is ready. */
sl_status sl_role_run(struct sl_role *role, struct sl_io *io, uint32_t n_links, struct sl_err *err);

#endif
