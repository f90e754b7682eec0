/* What the two working roles have in common. A role is a state machine: an event or the turn to work goes in, a list of
 * actions comes out, and nothing else happens; the loop around it (role_loop.c) has the io, the tests have none.
 *
 *   step(event)  takes in what the io reports. Cheap: a frame is only put in the role's queue
 *   step(NULL)   does the next piece of work: applies one record, takes one frame, or makes one token of every sequence
 *
 * What a role can't do yet waits in its queue, in the slots of the io, so that credits stop whoever sends. */
#ifndef SL_NODE_ROLE_STEP_H
#define SL_NODE_ROLE_STEP_H

#include "node/role/role_meter.h"
#include "pipeline/decide/plan.h"
#include "pipeline/link/transport.h"
#include "pipeline/record/messages.h"
#include <assert.h>

struct sl_role_config {
    struct sl_stage *stage; /* the role runs it, and nobody else does while the role lives */
    const struct sl_plan *plan;
    uint32_t k; /* which stage; else the decode worker, or the part of one, that is node 1 + k */
    struct sl_role_meter *meter; /* written by the steps */
    uint64_t (*now_us)(
        void *clock); /* the node's own monotonic clock: what the role reports is in its time */
    /* how far the clock of the next node of the order chain is ahead, as far as is known; NULL: not at all */
    int64_t (*next_offset_us)(void *clock);
    void *clock;
};

enum sl_role_action_kind {
    SL_ROLE_SEND, /* sl_io_send: the payload is the role's and stays as it is until SENT comes with the tag */
    SL_ROLE_RELEASE /* sl_io_release: the role is through with a frame that it was given */
};

struct sl_role_action {
    enum sl_role_action_kind kind;
    uint64_t link;
    uint32_t slot;       /* RELEASE */
    struct sl_wire wire; /* SEND, as the next two */
    const void *payload;
    uint64_t tag;
};

struct sl_role_actions { /* of one step, to be carried out in order before the next one */
    uint32_t n;
    bool go_on; /* there is work that needs no event: step(NULL) soon. Else only an event helps */
    struct sl_role_action list[SL_STAGE_ACTIONS];
};

static inline void sl_role_act(struct sl_role_actions *actions, const struct sl_role_action *action)
{
    assert(actions->n < SL_STAGE_ACTIONS); /* limits.h */
    actions->list[actions->n++] = *action;
}

static inline void sl_role_release(struct sl_role_actions *actions, uint64_t link, uint32_t slot)
{
    sl_role_act(actions, &(struct sl_role_action){.kind = SL_ROLE_RELEASE, .link = link, .slot = slot});
}

/* What a send is of, by the role's own kinds (1 to 255), and which: it comes back with SENT. */
static inline uint64_t sl_role_tag(uint32_t kind, uint64_t value)
{
    return (uint64_t)kind << 56 | value;
}

/* The frame that tells the coordinator what has become of this node's weights, and the bytes that it lies in until it is sent. */
struct sl_last_word {
    bool said;
    uint8_t bytes[SL_SPOILED_BYTES];
};
/* Says it once, on `link`; false while there is nothing to say, or it has been said. from: the node's name. */
bool sl_role_last_word(struct sl_last_word *word, const struct sl_stage *stage, const char *from,
                       uint64_t link, uint64_t tag, struct sl_role_actions *actions);

/* A frame with that of another node, which goes on to the coordinator over `link`; one was said already: nothing. NULL, or what is wrong
 * with it. *sent: there was something to send. */
const char *sl_role_pass_word(struct sl_last_word *word, const struct sl_io_event *frame, uint64_t link,
                              uint64_t tag, struct sl_role_actions *actions, bool *sent);

/* A send that came back: SL_E_PROTOCOL when the peer's slots could never have held it; a link that went down meanwhile is
 * reported by itself. */
sl_status sl_role_check_sent(const struct sl_io_event *event, struct sl_err *err);

#endif
