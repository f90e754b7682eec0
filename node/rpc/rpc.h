/* gRPC for the rest of the node, without a gRPC type in sight: servers with unary and server-streaming methods, and a client.
 * Only node/rpc/rpc_*.c know the library.
 * Messages are bytes here; protobuf-c packs and unpacks them in the services (node/service_*.c) with a bounded allocator. */
#ifndef SL_NODE_RPC_RPC_H
#define SL_NODE_RPC_RPC_H

#include "base/status.h"
#include "base/text.h"
#include "node/rpc/caller.h"
#include <stdint.h>

/* blocks SIGTERM, SIGINT, SIGHUP in the library's threads, routes its log lines to ours; counted */
void sl_rpc_init(void);
void sl_rpc_fini(void);

/* ---- server ---- */
struct sl_tls_config;
struct sl_tls_files;
struct sl_rpc_server;
struct sl_rpc_call; /* reference counted */

/* Calls of one kind never take the places of another: a flood of requests leaves probes and stages served. */
enum sl_rpc_place {
    SL_RPC_WORK,
    SL_RPC_ADMIN,   /* questions and probes: short */
    SL_RPC_WATCH,   /* streams that mostly wait */
    SL_RPC_CONTROL, /* our own nodes */
    SL_RPC_PLACES
};

/* Who may call a method, where the port knows who calls: bits by role. Where nobody is asked all may. A method that says none is
 * not taken (sl_rpc_server_start). */
enum {
    SL_RPC_CLIENT = 1 << SL_CALLER_CLIENT,
    SL_RPC_GATEWAY = 1 << SL_CALLER_GATEWAY,
    SL_RPC_NODE = 1 << SL_CALLER_NODE,
    SL_RPC_ADMINISTRATOR = 1 << SL_CALLER_ADMIN,
    SL_RPC_USERS = SL_RPC_CLIENT | SL_RPC_GATEWAY | SL_RPC_ADMINISTRATOR,
    SL_RPC_ALL = SL_RPC_USERS | SL_RPC_NODE
};

struct sl_rpc_method {
    const char *path; /* "/pkg.Service/Method" */
    bool streaming;   /* server streaming; else unary: exactly one write before finish(SL_OK) */
    void (*on_message)(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context);
    void *context;
    /* on_message once per message; the client's half-close finishes with SL_OK (reflection) */
    bool client_streaming; /* its messages must fit a stream's window, 64 KiB */
    enum sl_rpc_place place;
    uint32_t roles; /* SL_RPC_CLIENT and its like */
};

struct sl_rpc_server_config {
    const char *listen;              /* "127.0.0.1:50051", port 0: any */
    const struct sl_tls_config *tls; /* NULL: in the clear */
    const char
        *socket; /* for nodes of this machine and user, in the clear: an abstract socket's name; NULL: none */
    uint32_t n_workers;
    size_t max_message_bytes, max_metadata_bytes; /* 32 MiB, 8 KiB */
    uint32_t queue_messages;                      /* per call */
    /* May be NULL. The listener takes connections (why NULL) or does not: a static sentence. On the door's thread, at each
     * change; at the start it does. */
    void (*on_door)(void *context, const char *why);
    void *context;
};
/* Copies methods. SL_E_UNAVAILABLE names the address (a port in use, a name that does not resolve). */
sl_status sl_rpc_server_start(struct sl_rpc_server **server, const struct sl_rpc_server_config *config,
                              const struct sl_rpc_method *methods, uint32_t n_methods, struct sl_err *err);
int sl_rpc_server_port(const struct sl_rpc_server *server);
void sl_rpc_server_metrics(const struct sl_rpc_server *server, struct sl_text *text);
/* Refuses new calls at once, lets running ones go on for grace_ms, then cancels. Blocks until no callback can come. */
void sl_rpc_server_stop(struct sl_rpc_server *server, uint32_t grace_ms);

void sl_rpc_ref(struct sl_rpc_call *call);
void sl_rpc_unref(struct sl_rpc_call *call);
/* Any thread. SL_AGAIN: queue full (on_writable comes later); SL_E_CANCELLED: the call is over. */
sl_status sl_rpc_write(struct sl_rpc_call *call, const uint8_t *message, size_t bytes);
/* Status: mapped to a gRPC code (ecosystem.md 1.4); sentence: its message. First call wins. */
void sl_rpc_finish(struct sl_rpc_call *call, sl_status status, const char *sentence);
/* Adds the trailer grpc-retry-pushback-ms, and RetryInfo of the richer error model with the status; before finish. */
void sl_rpc_pushback(struct sl_rpc_call *call, uint32_t ms);
/* Any thread: on_writable is called on the call's worker, soon, unless the call is over by then. */
void sl_rpc_wake(struct sl_rpc_call *call);
bool sl_rpc_is_over(const struct sl_rpc_call *call);
/* How often a field of the request's metadata is there, and the bytes of the last one. Inside on_message only, where they lie. */
uint32_t sl_rpc_field(const struct sl_rpc_call *call, const char *name, const char **bytes, size_t *n_bytes);
const struct sl_caller *sl_rpc_caller(const struct sl_rpc_call *call); /* who makes it */
int64_t sl_rpc_time_left_ms(const struct sl_rpc_call *call);           /* -1: no deadline */
/* on_done: exactly once, on a worker; cancelled: client left, deadline, reset. Set inside on_message only. */
void sl_rpc_hooks(struct sl_rpc_call *call, void *user,
                  void (*on_done)(struct sl_rpc_call *, void *user, bool cancelled),
                  void (*on_writable)(struct sl_rpc_call *, void *user));

/* ---- client ---- */
struct sl_rpc_header { /* metadata of a call; the name in lower case */
    const char *name, *value;
};

struct sl_rpc_channel;
struct sl_rpc_stream;
/* All channels of this process that are opened from now on speak TLS, by files that are read anew for each; NULL: none does. The
 * struct and its strings stay the caller's. Not those to a socket ("unix-abstract:NAME"). */
void sl_rpc_use_tls(const struct sl_tls_files *files);
/* Whether what failed, failed for want of TLS that both sides take: the sentence says why, and there is somebody. */
bool sl_rpc_is_tls_trouble(const struct sl_err *err);
sl_status sl_rpc_channel_open(struct sl_rpc_channel **channel, const char *endpoint, struct sl_err *err);
void sl_rpc_channel_close(struct sl_rpc_channel *channel);
/* It asks for the name, or connects: another in its place would begin again from nothing. */
bool sl_rpc_channel_is_connecting(const struct sl_rpc_channel *channel);
/* Blocking unary call. *reply is malloc'ed. A gRPC error becomes our status with its message as the sentence. */
sl_status sl_rpc_unary(struct sl_rpc_channel *channel, const char *path, const uint8_t *message, size_t bytes,
                       int64_t timeout_ms, uint8_t **reply, size_t *reply_bytes, struct sl_err *err);
/* Server streaming: open, then next() until SL_AGAIN (the stream has ended well) or an error. cancel from any thread. */
sl_status sl_rpc_stream_open(struct sl_rpc_stream **stream, struct sl_rpc_channel *channel, const char *path,
                             const uint8_t *message, size_t bytes, int64_t timeout_ms, struct sl_err *err);
sl_status sl_rpc_stream_next(struct sl_rpc_stream *stream, uint8_t **message, size_t *bytes,
                             struct sl_err *err);
/* The same with metadata, which is copied; at most SL_RPC_MAX_HEADERS. */
enum { SL_RPC_MAX_HEADERS = 16 };
sl_status sl_rpc_stream_open_with(struct sl_rpc_stream **stream, struct sl_rpc_channel *channel,
                                  const char *path, const uint8_t *message, size_t bytes, int64_t timeout_ms,
                                  const struct sl_rpc_header *headers, uint32_t n_headers,
                                  struct sl_err *err);
void sl_rpc_stream_cancel(struct sl_rpc_stream *stream);
void sl_rpc_stream_close(struct sl_rpc_stream *stream);

/* ---- client of many calls ----
 * Server streams by the thousand on one thread: it sends, and serves what comes in sl_rpc_pool_poll, from within which all
 * callbacks are made. Calls are spread over connections, so that a server's bound on streams of one does not queue them. */
struct sl_rpc_pool;

struct sl_rpc_tls { /* PEM texts; NULL: the system's roots, no certificate of ours */
    const char *ca, *cert, *key;
    const char *name; /* that its certificate must have; NULL: the host's */
};

struct sl_rpc_pool_config {
    const char *endpoint;
    const struct sl_rpc_tls *tls; /* NULL: none */
    uint32_t max_calls;
    void *user;
    /* at_ns: sl_clock_ns when it was taken; the message is the pool's */
    void (*on_message)(void *user, uint32_t call, uint64_t at_ns, const uint8_t *message, size_t bytes);
    /* Exactly once for each call that was sent and not dropped; after it the number is free. SL_OK: it ended well. */
    void (*on_end)(void *user, uint32_t call, uint64_t at_ns, sl_status status, const char *sentence);
};
sl_status sl_rpc_pool_open(struct sl_rpc_pool **pool, const struct sl_rpc_pool_config *config,
                           struct sl_err *err);
/* call: the caller's number for it, < max_calls and free. The message and the headers are copied. timeout_ms < 0: none. */
void sl_rpc_pool_send(struct sl_rpc_pool *pool, uint32_t call, const char *path, const uint8_t *message,
                      size_t bytes, int64_t timeout_ms, const struct sl_rpc_header *headers,
                      uint32_t n_headers);
/* Cancels it; its number is free at once, and nothing is called back for it. Does nothing when none has it. */
void sl_rpc_pool_drop(struct sl_rpc_pool *pool, uint32_t call);
/* Serves what comes until until_ns of sl_clock_ns, to a tenth of a ms, or until something has come. */
void sl_rpc_pool_poll(struct sl_rpc_pool *pool, uint64_t until_ns);
void sl_rpc_pool_close(struct sl_rpc_pool *pool); /* drops what runs; NULL is fine */

#endif
