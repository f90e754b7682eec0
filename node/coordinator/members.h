/* sluice.v1.Control on the coordinator: who has joined, the plan that each member is sent when all are there, and the leash
 * that tells when one is gone: a Join stream that broke is taken up again by the same process within lost_after_ms, and until then
 * that member is silent; it is gone at once when its data port refuses connections. Members that do not know the join key (join_key.h) or do not fit (other model, version, KV format, no numerics profile in
 * common) are refused with a sentence. Which profile is run is decided when all are there: the fastest that the coordinator
 * allows and every member offers.
 *
 * Decode workers come and go while the pipeline runs: one that joins later gets a free place and its plan at once, and the stages are
 * told; one that goes or is lost leaves its place to the next. */
#ifndef SL_NODE_COORDINATOR_MEMBERS_H
#define SL_NODE_COORDINATOR_MEMBERS_H

#include "node/coordinator/coordinator.h"
#include "node/coordinator/join_key.h"
#include "node/rpc/rpc.h"

struct sl_members_config {
    const struct sl_plan *plan;
    uint32_t profiles; /* the numerics profiles that it may run: base/profile.h, a set; 0: f32 alone */
    const char *model_digest;
    const struct sl_io_address *data; /* where the coordinator's own io is; copied */
    struct sl_join_key key;
    uint32_t lost_after_ms;
    void (*on_member_ready)(void *user);           /* a member's links are up; any thread */
    void (*on_leave)(void *user, const char *who); /* a member asks for the pipeline to drain; any thread */
    void *user;
};

enum { SL_MEMBERS_METHODS = 6 };

/* How often a beat goes over each stream. Who has had none for half of lost_after_ms opens another. */
static inline uint32_t sl_members_beat_ms(uint32_t lost_after_ms)
{
    uint32_t ms = lost_after_ms / 8;
    return ms < 100 ? 100 : ms < 1000 ? ms : 1000;
}

struct sl_members;
sl_status sl_members_create(struct sl_members **members, const struct sl_members_config *config,
                            struct sl_err *err);
void sl_members_destroy(struct sl_members *members); /* after the server's stop */
uint32_t sl_members_methods(struct sl_members *members, struct sl_rpc_method *methods);
/* From now on a complete set of members gets its plan and the coordinator its links. */
void sl_members_attach(struct sl_members *members, struct sl_coordinator *coordinator, struct sl_io *io);
/* Tell every member to stop and let their streams go; a member that leaves from here on is not mourned. */
void sl_members_stop(struct sl_members *members, const char *reason);
/* The coordinator has done with the decode worker of that life: it is told to stop (sentence: because it was lost), and the place is
 * another's. Any thread. */
void sl_members_decoder_gone(struct sl_members *members, uint32_t decoder, uint32_t life,
                             const char *sentence);
/* The stages that are here are told of a CANCEL that is still to come. Any thread. */
void sl_members_foretell(struct sl_members *members, uint64_t seq, uint64_t number);
/* One whose stream broke is waited for: if the others were told to stop now, it would take them for lost. */
bool sl_members_await(struct sl_members *members);
/* "stage 1, decode": those who have not joined yet (or, with ready, who have not reported all their links up); NULL: none. */
const char *sl_members_missing(struct sl_members *members, bool ready, char *buffer, size_t bytes);

#endif
