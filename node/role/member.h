/* A worker as a member of its pipeline (node/coordinator/members.h has the other side): it joins, keeps its Join stream, the leash,
 * and tells the coordinator what it has to know. A stream that breaks, or has no beat any more, is opened again within lost_after_ms,
 * as the same member; what was told and not confirmed is told again. Only a coordinator's verdict, or that time, ends it.
 *
 * Threads of its own: the leash (reads the stream, opens it again), the watch (misses beats), the reports (tell). */
#ifndef SL_NODE_ROLE_MEMBER_H
#define SL_NODE_ROLE_MEMBER_H

#include "base/status.h"
#include "node/coordinator/join_key.h"
#include "pipeline/decide/cost.h"
#include <stdint.h>

struct Sluice__V1__JoinEvent;
struct Sluice__V1__Decoder;
struct Sluice__V1__Cancelled;

struct sl_member_config {
    const char *name;        /* "stage 1": for people */
    const char *coordinator; /* HOST:PORT of its gRPC port */
    struct sl_join_key key;
    bool decode;
    bool whole; /* the pipeline goes with it, though it is a decode worker */
    uint32_t stage;
    uint32_t join_timeout_s, lost_after_ms;
    /* This node as a packed Node, which says that it is this member and has the plan of that epoch. Returns how many bytes; 0: room is
     * too small. */
    size_t (*pack_node)(void *user, const uint8_t id[SL_JOIN_NONCE], uint64_t epoch, uint8_t *packed,
                        size_t room);
    void (*on_stop)(void *user, const char *reason); /* the coordinator says so: a clean end */
    void (*on_decoder)(
        void *user,
        const struct Sluice__V1__Decoder *decoder); /* to stages: who has a place, or that nobody has */
    void (*on_cancelled)(void *user, const struct Sluice__V1__Cancelled *cancelled); /* to stages: a hint */
    void (*on_lost)(void *user, const char *sentence); /* it is gone, or takes this node back no more */
    void *user;
};

struct sl_member;
/* The texts of config stay the caller's. SL_E_NOMEM. */
sl_status sl_member_create(struct sl_member **member, const struct sl_member_config *config,
                           struct sl_err *err);
/* Tries until the coordinator answers and has a plan, or says stop: *event, to be freed by sluice__v1__join_event__free_unpacked. An
 * absent coordinator is waited for, join_timeout_s long; a refusal is final. */
sl_status sl_member_join(struct sl_member *member, struct Sluice__V1__JoinEvent **event, struct sl_err *err);
/* The plan of this epoch was taken: the threads begin. on_stop and on_lost come from them, until destroy. SL_E_NOMEM. */
sl_status sl_member_begin(struct sl_member *member, uint64_t epoch, struct sl_err *err);
void sl_member_destroy(struct sl_member *member);

/* What the coordinator is to know, told in the background until it has confirmed it; any thread. cost: of this stage's chunks, as
 * it measured them; NULL: it has not. */
void sl_member_say_ready(struct sl_member *member, const struct sl_cost *cost);
/* peer hears nothing from us; not silent: everybody is heard. Told as what is, not as all that was. */
void sl_member_say_silent(struct sl_member *member, bool silent, const char *peer);
/* It was told to stop, and so is the pipeline. on_lost when that can't be told within lost_after_ms. */
void sl_member_say_leaving(struct sl_member *member);

#endif
