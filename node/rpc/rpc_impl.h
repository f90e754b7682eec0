/* What the files that call gRPC's C core share: the structs behind rpc.h, and how its world maps to
 * ours.
 *
 * Threads: every worker owns one completion queue and runs all callbacks of the calls that it
 * accepted, in order. Other threads only append to a call's queue and kick the worker: the core
 * does HTTP/2 framing and the system call on whatever thread starts a batch, and a token's producer
 * has no time for that (17-23 us against 2-3 us, measured). Nothing above
 * node/rpc_*.c includes this file. */
#ifndef SL_NODE_RPC_RPC_IMPL_H
#define SL_NODE_RPC_RPC_IMPL_H

#include "node/rpc/door.h"
#include "node/rpc/rpc.h"
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

enum {
    SL_RPC_SLOTS = 8,                 /* requests outstanding per method and worker */
    SL_RPC_MAX_CALLS = 4096,          /* open calls that are work; one costs about 15 KiB */
    SL_RPC_MAX_ADMIN = 1024,          /* likewise of each other kind */
    SL_RPC_QUEUE_BYTES = 4 << 20,     /* per call, besides the bound on messages */
    SL_RPC_CORE_METADATA = 128 << 10, /* beyond it the core drops the connection, so ours comes first */
    SL_RPC_REPLY_BYTES = 256 << 20    /* what our client accepts from a server it has chosen */
};

struct sl_rpc_tag { /* what travels through a completion queue */
    void (*fn)(struct sl_rpc_tag *tag, bool ok);
};

struct sl_rpc_worker {
    struct sl_rpc_server *server;
    grpc_completion_queue *queue;
    pthread_t thread;
    struct sl_rpc_tag kick;
    pthread_mutex_t lock; /* between foreign threads that kick and the worker that takes the list */
    struct sl_rpc_call *dirty;
    bool kicked;
};

struct sl_rpc_route {
    struct sl_rpc_method method;
    void *handle; /* of the registered method */
};

struct sl_rpc_server {
    grpc_server *core;
    struct sl_door *door;
    grpc_server_credentials *credentials; /* of what comes through the door: it is no concern of the core */
    atomic_uint places[SL_RPC_PLACES];    /* taken */
    atomic_ullong n_denied[SL_CALLER_ROLES], denied_logged_ms;
    size_t max_message_bytes;
    void (*on_door)(void *context, const char *why);
    void *context;
    size_t max_metadata_bytes;
    uint32_t queue_messages, n_workers, n_started, n_routes;
    int port;
    struct sl_rpc_worker *workers;
    struct sl_rpc_route *routes;
    struct sl_rpc_tag shut;
    pthread_mutex_t lock; /* between workers, start and stop: all below */
    pthread_cond_t change;
    uint32_t active; /* slots, and calls whose end marker has not come */
    bool open;       /* the slots are filled, workers may begin */
    bool down;
};

struct sl_rpc_call {
    atomic_uint refs;
    struct sl_rpc_server *server; /* these three: not to be touched once over */
    struct sl_rpc_worker *worker;
    const struct sl_rpc_route *route; /* NULL: the generic slot, an unknown method */
    grpc_call *core;
    grpc_call_details details; /* generic slot only */
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_byte_buffer *request;
    struct sl_frames_ticket ticket; /* stream 0: none */
    struct sl_caller caller;
    bool placed; /* it has one of its method's */
    struct sl_rpc_tag arrived, received, sent, closed;
    struct sl_rpc_call *dirty_next;
    int cancelled; /* written by the core before `closed` */
    atomic_bool over;
    atomic_ullong sending_ms; /* since when a batch of the answer is on its way; 0: none */
    bool want_receive;        /* worker only: the next message waits until the replies are out */
    void *user;               /* hooks: worker only */
    void (*on_done)(struct sl_rpc_call *, void *, bool);
    void (*on_writable)(struct sl_rpc_call *, void *);

    pthread_mutex_t lock; /* between writers and the worker: all below, and starting send batches */
    grpc_slice *queue;    /* ring of queue_messages, made at the first write */
    uint32_t queue_head, queue_used, queue_room;
    size_t queue_bytes;
    bool initial_sent, sending, status_sent, finishing, want_writable, is_dirty, woken;
    enum sl_door_verdict verdict; /* WAIT: none to carry out */
    uint32_t length;
    grpc_byte_buffer *send_buffer;
    grpc_status_code code;
    grpc_slice sentence;
    uint32_t pushback_ms;
    bool pushes_back;
    grpc_metadata trailers[2]; /* the pushback, and the same among the status's details */
    uint32_t n_trailers;
};

/* The worker whose thread this is; NULL on foreign threads. */
extern _Thread_local struct sl_rpc_worker *sl_rpc_current;

/* Puts a fresh call into the slot of a route (NULL: generic). After shutdown began it does nothing.
 */
void sl_rpc_call_arm(struct sl_rpc_worker *worker, const struct sl_rpc_route *route);
void sl_rpc_on_verdict(void *server, void *call, enum sl_door_verdict verdict, uint32_t length);
bool sl_rpc_is_patient(void *server, void *call, uint64_t moved_ms, uint64_t now_ms);
void sl_rpc_worker_kicked(struct sl_rpc_tag *tag, bool ok);
uint32_t sl_rpc_live_calls(void); /* of the process, slots not counted: tests and metrics */

grpc_status_code sl_rpc_code(sl_status status);
sl_status sl_rpc_status(grpc_status_code code);

/* Threads made between these two never get the process's signals. */
void sl_rpc_signals_block(sigset_t *before);
void sl_rpc_signals_restore(const sigset_t *before);
/* The core explains a refused port in lines of its own; the caller has a better sentence. This
 * thread only. */
void sl_rpc_log_quiet(bool quiet);
grpc_arg sl_rpc_arg(const char *key, int value);
/* A client's channel, with a connection of its own; tls NULL: in the clear. */
/* NULL: the certificates cannot be used. */
grpc_channel *sl_rpc_channel_core(const char *endpoint, const struct sl_rpc_tls *tls);
/* The bytes of a buffer in fresh memory; NULL: a message that cannot be unpacked, or no memory. */
uint8_t *sl_rpc_buffer_copy(grpc_byte_buffer *buffer, size_t *bytes);
/* The status of a call that has ended, its message as the sentence. */
sl_status sl_rpc_end(struct sl_err *err, grpc_status_code code, grpc_slice details, const char *endpoint);

#endif
