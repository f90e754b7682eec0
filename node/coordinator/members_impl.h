/* Private to the members: members.c (who joins, and what they say), members_away.c (who went away, and for how long). One table,
 * guarded by a lock: gRPC's workers write it, the coordinator's main reads it, a thread of its own watches it. */
#ifndef SL_NODE_COORDINATOR_MEMBERS_IMPL_H
#define SL_NODE_COORDINATOR_MEMBERS_IMPL_H

#include "base/log.h"
#include "node/coordinator/members.h"
#include "node/coordinator/port_probe.h"
#include <pthread.h>

struct joined_member {
    struct sl_members *all;
    uint32_t node; /* of the plan: a stage, a decode worker, a part of one */
    uint32_t life; /* of a place for decode workers: how many had it before, the same of all its parts */
    uint8_t id[SL_JOIN_NONCE];  /* of the process: nobody else takes its place up again */
    uint8_t own_key[32];        /* what it proves its messages with (join_key.h) */
    struct sl_rpc_call *call;   /* the Join stream; NULL: not here */
    bool known, planned, ready; /* it has an id; it was sent the plan; its links are up */
    bool hears_not,
        told_silent;   /* nothing from a neighbour, as it says; and what the decider was told of it */
    uint64_t silences; /* number of its last word about that */
    bool away;         /* its stream broke, and it is waited for */
    uint32_t away_ms, probed_ms, probe_again_ms;
    struct sl_port_probe probe;
    uint32_t profiles;                        /* it offers these */
    uint32_t ways;                            /* and these of enum sl_rows_way, a bit each, a stage */
    char driver[8];                           /* of its GPU; "": it has none */
    char address[SL_IO_HOST_BYTES], name[64]; /* where its data port is, for probes; links go by `data` */
    uint16_t port;
    struct sl_io_address data;
    uint64_t pid;
};

struct sl_members {
    struct sl_members_config config;
    struct sl_plan plan;
    char digest[72];
    struct sl_io_address data;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* somebody went away, or it is over */
    pthread_t watch;
    bool watched, over;
    struct joined_member *members; /* [n_members], node 1 + i */
    uint32_t n_members;
    struct sl_ticket_office tickets;
    uint8_t salt[SL_JOIN_NONCE], link_secret[32];
    struct sl_log_seldom refusals;
    struct sl_coordinator *coordinator;
    struct sl_io *io;
    enum sl_life life; /* READY: everybody was sent the plan */
    char stop_reason[200];
};

/* All with the lock held. */

/* Hears nothing of a neighbour, or nothing is heard of it: the pipeline waits. */
void sl_joined_tell_silence(struct joined_member *m);
/* The stream of one who was sent the plan broke, while all is well otherwise. */
void sl_joined_went_away(struct joined_member *m);
void sl_joined_came_back(struct joined_member *m);
void sl_joined_beat(struct joined_member *m);
/* Tells it to stop, and why, and ends its stream. */
void sl_joined_send_stop(struct joined_member *m, const char *reason);
/* Without it there is no pipeline: a stage, or a part of one of the decode workers that are waited for. */
bool sl_joined_is_needed(const struct joined_member *m);
/* Tells a stage who has that part of a place for decode workers, if one who was sent the plan; else that nobody has. */
void sl_joined_tell_decoder(struct joined_member *stage, const struct joined_member *decoder);

/* Tells a stage, if it is here, of a CANCEL that is still to come. */
void sl_joined_foretell(struct joined_member *stage, uint64_t seq, uint64_t number);

sl_status sl_members_watch(struct sl_members *members); /* SL_E_NOMEM */
void sl_members_unwatch(struct sl_members *members);

#endif
