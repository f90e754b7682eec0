/* What door.c (connections and their bytes), door_shake.c (handshakes of TLS), door_places.c (who has one), door_room.c (messages
 * and their room) and door_metrics.c share. */
#ifndef SL_NODE_RPC_DOOR_IMPL_H
#define SL_NODE_RPC_DOOR_IMPL_H

#include "node/rpc/door.h"
#include "node/rpc/frames.h"
#include "node/rpc/listen.h"
#include <pthread.h>
#include <stdatomic.h>

enum sl_door_state {
    SL_DOOR_SHAKING,  /* its TLS handshake is not done: it is in another set of epoll */
    SL_DOOR_STRANGER, /* its preface is not here whole */
    SL_DOOR_OPEN,
    SL_DOOR_CLOSING, /* the core has let go; what is left goes to the client */
    SL_DOOR_LEAVING, /* told to go: what it still says is thrown away, or it would never read why */
    SL_DOOR_DEAD     /* closed; freed at the end of the turn */
};

/* Why we shut a connection, beside enum sl_frames_end. */
enum sl_door_why {
    SL_DOOR_SILENT = SL_FRAMES_ENDS, /* no preface in time */
    SL_DOOR_IDLE,
    SL_DOOR_STUCK, /* it does not read */
    SL_DOOR_CROWD, /* most of too many unfinished messages */
    SL_DOOR_NO_PLACE,
    SL_DOOR_DISPLACED, /* it has no call, and another needed the place */
    SL_DOOR_DRAINING,
    SL_DOOR_HANDSHAKE, /* of TLS, failed */
    SL_DOOR_AGED,      /* what proved who it is was replaced, or has expired */
    SL_DOOR_WHYS
};

struct sl_door_rest { /* what could not be written yet */
    uint8_t *data;
    size_t at, bytes;
};

struct sl_door_connection;
struct sl_door_neighbours { /* in a queue */
    struct sl_door_connection *before, *after;
};
struct
    sl_door_quiet { /* connections that have never called, or whose handshake has begun; the oldest first */
    struct sl_door_connection *first, *last;
    uint32_t n;
};
enum { SL_DOOR_PEERS = 4096 }; /* buckets of addresses */

struct sl_door_connection {
    uint32_t index, generation;
    uint64_t secret; /* in the tickets of its streams */
    int fd, core;    /* core -1: it has not called, or it has let go */
    bool quiet;      /* it has never called: it is in two queues */
    uint32_t peer;   /* its address's bucket */
    struct sl_door_neighbours of_all, of_peer, of_shaking;
    struct sl_tls_session *tls; /* NULL: in the clear, or its handshake has not begun */
    struct sl_caller caller;
    uint32_t era;        /* of what proved who it is */
    uint64_t expires_ms; /* 0: never */
    uint64_t shaking_ms; /* since when its handshake has begun */
    uint64_t aged_ms;    /* since when it is told to go and has calls; 0: it isn't */
    bool mute;           /* the core takes nothing any more */
    bool deaf;           /* the core's end is out of epoll until the client has room */
    enum sl_door_state state;
    uint8_t hello_have, hello[SL_FRAMES_HELLO_BYTES];
    struct sl_door_rest up, down;
    uint32_t client_events, core_events;    /* asked of epoll */
    uint64_t since_ms, active_ms, moved_ms; /* moved: what waits for the client */
    uint32_t thrown;                        /* bytes, since it was told to go */
    uint32_t reserved[SL_DOOR_POOLS];
    uint32_t unfinished;    /* its part of the door's */
    uint64_t unfinished_ms; /* since when it has any */
    struct sl_frames frames;
    struct sl_door_connection *next; /* of the dead */
};

struct sl_door {
    struct sl_door_config config;
    struct sl_listener listener;
    int socket; /* that of config.socket; -1: none */
    struct sl_tls *tls;
    int poll, wake, shaking; /* shaking: a set within the set of poll */
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* all below: between the door's thread, workers, and whoever drains */
    bool draining, stopping, resting;
    uint64_t resting_since_ms, stop_ms, now_ms, tick_ms;
    uint32_t n, n_live, most, total; /* connections, those with a core; the most, and descriptors */
    uint32_t top, first_free;        /* places below top have been used, those below first_free are taken */
    uint32_t n_unfinished, next_generation;
    uint32_t n_waiting[SL_DOOR_POOLS];
    uint32_t reserved[SL_DOOR_POOLS];
    struct sl_door_connection **connections, *dead;
    struct sl_door_quiet quiet, *quiet_of; /* all, and by bucket */
    struct sl_door_quiet begun;            /* handshakes */
    int64_t shake_ns;                      /* that may be spent on them */
    uint64_t shake_at_ns;                  /* when that was reckoned */
    bool tired;                            /* nothing may: they are out of the set of poll */
    uint64_t n_shakes_done;
    uint64_t peer_seed, barren_until_ms;
    uint8_t *in, *out, *answer;
    uint64_t n_accepted, n_full, n_shut, n_exhausted, n_closed[SL_DOOR_WHYS], n_messages_late,
        n_messages_long, n_messages_busy, n_unread;
    uint64_t logged_ms, n_unlogged;
    const char *shut_because; /* what was told last */
};

/* What epoll reports, in its data: 2 bits of kind, a generation, an index. */
enum sl_door_kind { SL_DOOR_LISTENER, SL_DOOR_WAKE, SL_DOOR_CLIENT, SL_DOOR_CORE };
enum { SL_DOOR_WAKE_SHAKERS = 1, SL_DOOR_LISTENER_SOCKET = 0xffff }; /* indices */
uint64_t sl_door_data(enum sl_door_kind kind, const struct sl_door_connection *c, uint32_t index);
bool sl_door_watch(int poll, int fd, uint32_t events, uint64_t data, int op);
/* The connection that data names; NULL: it has ended. */
struct sl_door_connection *sl_door_named(const struct sl_door *door, uint64_t data);
void sl_door_log(struct sl_door *door, int fd, const char *why); /* one line a second, whoever knocks */

/* Handshakes. Opens what they need, after config, and closes it. */
sl_status sl_door_shakers_open(struct sl_door *door, struct sl_err *err);
void sl_door_shakers_close(struct sl_door *door);
bool sl_door_shaker_add(struct sl_door *door, struct sl_door_connection *c);  /* a newcomer */
void sl_door_shaker_drop(struct sl_door *door, struct sl_door_connection *c); /* it ends; any connection */
/* Some of those that can go on; at each turn: what they may take is reckoned anew. */
void sl_door_shake_hands(struct sl_door *door);
void sl_door_shakers_rest(struct sl_door *door);
void sl_door_begin_shaking(struct sl_door *door, struct sl_door_connection *c); /* its place among those */
void sl_door_end_shaking(struct sl_door *door, struct sl_door_connection *c);

/* NULL: connections are taken. Else why not, a static sentence. */
const char *sl_door_shut_because(const struct sl_door *door);
extern const char *const sl_door_whys[SL_DOOR_WHYS]; /* names in metrics */
void sl_door_kill(struct sl_door *door, struct sl_door_connection *c,
                  unsigned why); /* 0: it went by itself */

/* Places. A connection that has never called yet; it has called, or ends (twice is fine). */
uint32_t sl_door_peer_of(const struct sl_door *door, int fd);
void sl_door_be_quiet(struct sl_door *door, struct sl_door_connection *c);
void sl_door_be_heard(struct sl_door *door, struct sl_door_connection *c);
/* It has no call and no header block under way, and nothing waits to be written. */
bool sl_door_is_idle(const struct sl_door_connection *c);
bool sl_door_is_full(const struct sl_door *door);
bool sl_door_has_place(const struct sl_door *door); /* for a newcomer, and for its first call */
/* The one that has to go for a newcomer from `peer`, or for a connection that makes its first call; NULL: nobody. */
enum { SL_DOOR_CALLS = SL_DOOR_PEERS };
struct sl_door_connection *sl_door_who_goes_for(struct sl_door *door, uint32_t peer);
/* Whose unfinished messages weigh most. */
struct sl_door_connection *sl_door_worst(const struct sl_door *door);

/* Events of frames.h; the context is the connection's door and itself. */
struct sl_door_scene {
    struct sl_door *door;
    struct sl_door_connection *connection;
};
void sl_door_on_known(void *scene, struct sl_frames_stream *stream);
void sl_door_on_gone(void *scene, struct sl_frames_stream *stream);
/* With the lock, after events: who waits is served. */
void sl_door_make_room(struct sl_door *door);
/* False: the connection has a stream that the core never made a call of; it must go. */
bool sl_door_look_for_late(struct sl_door *door, struct sl_door_connection *c);
void sl_door_look_for_unread(struct sl_door *door, struct sl_door_connection *c);
void sl_door_count_unfinished(struct sl_door *door, struct sl_door_connection *c);

#endif
