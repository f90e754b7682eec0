/* The gRPC server: completion queues with their workers, slots, and an orderly end. Connections come through the door (door.h),
 * which counts and bounds what they send before the core sees it.
 *
 * Limits are set here once. Compression is identity only: the core inflates a message before it
 * checks the size, so 64 KB of gzip would cost 64 MiB. Its own metadata limit takes the whole
 * connection down with the other streams on it, so it is only the outer wall; ours refuses the one
 * call. Windows are fixed (no probing of bandwidth): a stream without a granted message holds 64 KiB, not what the line could.
 *
 * The end has one order that neither aborts nor leaks, and ends no call as CANCELLED: no new connections, and those
 * without a call are told to go (leave) - shutdown begins - grace - cancel what is left - wait for every end marker -
 * the door lets the last bytes go - completion queues down - workers joined - server and queues destroyed. */
#include "base/clock.h"
#include "base/log.h"
#include "base/metric.h"
#include "node/rpc/frames.h"
#include "node/rpc/rpc_impl.h"
#include <assert.h>
#include <grpc/grpc_posix.h>
#include <grpc/impl/codegen/compression_types.h>
#include <grpc/support/time.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    LEAVE_LOOK_MS = 2,
    LEAVE_REST_MS = 100,
    KEEPALIVE_MS = 30000,
    KEEPALIVE_TIMEOUT_MS = 10000,
    MIN_PING_MS = 5000
};

static void *worker_main(void *argument)
{
    sl_rpc_current = argument;
    struct sl_rpc_server *server = sl_rpc_current->server;
    pthread_mutex_lock(&server->lock); /* the slots are filled by the thread that starts the server */
    while (!server->open)
        pthread_cond_wait(&server->change, &server->lock);
    pthread_mutex_unlock(&server->lock);
    for (;;) {
        grpc_event event =
            grpc_completion_queue_next(sl_rpc_current->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        struct sl_rpc_tag *tag = event.tag;
        tag->fn(tag, event.success != 0);
    }
}

static void open_workers(struct sl_rpc_server *server)
{
    pthread_mutex_lock(&server->lock);
    server->open = true;
    pthread_cond_broadcast(&server->change);
    pthread_mutex_unlock(&server->lock);
}

static void on_shut(struct sl_rpc_tag *tag, bool ok)
{
    struct sl_rpc_server *server =
        (struct sl_rpc_server *)(void *)((char *)tag - offsetof(struct sl_rpc_server, shut));
    (void)ok;
    pthread_mutex_lock(&server->lock);
    server->down = true;
    pthread_cond_signal(&server->change);
    pthread_mutex_unlock(&server->lock);
}

static grpc_server *make_core(const struct sl_rpc_server_config *config)
{
    grpc_arg args[] = {
        sl_rpc_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)config->max_message_bytes),
        sl_rpc_arg(GRPC_ARG_MAX_METADATA_SIZE, SL_RPC_CORE_METADATA),
        sl_rpc_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, SL_FRAMES_STREAMS),
        sl_rpc_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0),
        sl_rpc_arg(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, SL_FRAMES_WINDOW),
        sl_rpc_arg(GRPC_ARG_ENABLE_CHANNELZ, 0), /* nobody asks for it, and every connection would pay */
        sl_rpc_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
        sl_rpc_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS),
        sl_rpc_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        sl_rpc_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, MIN_PING_MS),
        sl_rpc_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
    };
    grpc_channel_args list = {sizeof args / sizeof *args, args};
    return grpc_server_create(&list, NULL);
}

/* Queues down, workers joined, everything freed: the tail of stop, and the way out of a failed
 * start (the core wants a shutdown even of a server that never ran). No call may be left. */
static void take_down(struct sl_rpc_server *server)
{
    for (uint32_t i = 0; i < server->n_workers; i++) {
        struct sl_rpc_worker *worker = &server->workers[i];
        grpc_completion_queue_shutdown(worker->queue);
        if (i < server->n_started)
            pthread_join(worker->thread, NULL);
        else
            while (
                grpc_completion_queue_next(worker->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
                GRPC_QUEUE_SHUTDOWN) {
            }
    }
    grpc_server_destroy(server->core);
    grpc_server_credentials_release(server->credentials);
    for (uint32_t i = 0; i < server->n_workers; i++) {
        grpc_completion_queue_destroy(server->workers[i].queue);
        pthread_mutex_destroy(&server->workers[i].lock);
    }
    pthread_mutex_destroy(&server->lock);
    pthread_cond_destroy(&server->change);
    free(server->workers);
    free(server->routes);
    free(server);
}

static struct sl_rpc_server *make_server(const struct sl_rpc_server_config *config,
                                         const struct sl_rpc_method *methods, uint32_t n_methods)
{
    struct sl_rpc_server *server = calloc(1, sizeof *server);
    if (!server)
        return NULL;
    server->n_workers = config->n_workers ? config->n_workers : 1;
    server->n_routes = n_methods;
    server->queue_messages = config->queue_messages ? config->queue_messages : 64;
    server->max_metadata_bytes = config->max_metadata_bytes;
    server->max_message_bytes = config->max_message_bytes;
    server->on_door = config->on_door;
    server->context = config->context;
    server->shut.fn = on_shut;
    server->workers = calloc(server->n_workers, sizeof *server->workers);
    server->routes = calloc(n_methods ? n_methods : 1, sizeof *server->routes);
    if (!server->workers || !server->routes) {
        free(server->workers);
        free(server->routes);
        free(server);
        return NULL;
    }
    pthread_mutex_init(&server->lock, NULL);
    sl_clock_cond_init(&server->change);
    server->core = make_core(config);
    server->credentials = grpc_insecure_server_credentials_create();
    for (uint32_t i = 0; i < server->n_workers; i++) {
        struct sl_rpc_worker *worker = &server->workers[i];
        worker->server = server;
        worker->kick.fn = sl_rpc_worker_kicked;
        pthread_mutex_init(&worker->lock, NULL);
        worker->queue = grpc_completion_queue_create_for_next(NULL);
        grpc_server_register_completion_queue(server->core, worker->queue, NULL);
    }
    for (uint32_t i = 0; i < n_methods; i++)
        server->routes[i].method = methods[i];
    return server;
}

static sl_status register_methods(struct sl_rpc_server *server, struct sl_err *err)
{
    for (uint32_t i = 0; i < server->n_routes; i++) {
        struct sl_rpc_route *route = &server->routes[i];
        if (!(route->method.roles & SL_RPC_ALL))
            return sl_fail(err, SL_E_INTERNAL, "the method %s does not say who may call it",
                           route->method.path);
        /* Calls come with their headers; their message waits for the door's word. */
        route->handle =
            grpc_server_register_method(server->core, route->method.path, NULL, GRPC_SRM_PAYLOAD_NONE, 0);
        if (!route->handle)
            return sl_fail(err, SL_E_INTERNAL, "the method %s is registered twice", route->method.path);
    }
    return SL_OK;
}

static void on_connected(void *context, int fd)
{
    struct sl_rpc_server *server = context;
    grpc_server_add_channel_from_fd(server->core, fd, server->credentials);
}

static void on_door(void *context, const char *why)
{
    struct sl_rpc_server *server = context;
    if (server->on_door)
        server->on_door(server->context, why);
}

static sl_status open_door(struct sl_rpc_server *server, const struct sl_rpc_server_config *given,
                           struct sl_err *err)
{
    const struct sl_door_config config = {.listen = given->listen,
                                          .tls = given->tls,
                                          .socket = given->socket,
                                          .max_message_bytes = (uint32_t)server->max_message_bytes,
                                          .context = server,
                                          .connected = on_connected,
                                          .verdict = sl_rpc_on_verdict,
                                          .patient = sl_rpc_is_patient,
                                          .changed = on_door};
    SL_TRY(sl_door_open(&server->door, &config, err));
    server->port = sl_door_port(server->door);
    return SL_OK;
}

static sl_status start_workers(struct sl_rpc_server *server, struct sl_err *err)
{
    for (uint32_t i = 0; i < server->n_workers; i++) {
        struct sl_rpc_worker *worker = &server->workers[i];
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0)
            return sl_fail(err, SL_E_NOMEM, "cannot start a thread for gRPC: raise the limit on threads");
        pthread_setname_np(worker->thread, "sl-rpc");
        server->n_started++;
    }
    return SL_OK;
}

sl_status sl_rpc_server_start(struct sl_rpc_server **out, const struct sl_rpc_server_config *config,
                              const struct sl_rpc_method *methods, uint32_t n_methods, struct sl_err *err)
{
    sigset_t before;
    sl_rpc_signals_block(&before);
    struct sl_rpc_server *server = make_server(config, methods, n_methods);
    sl_status status = SL_OK;
    if (!server)
        status = sl_fail(err, SL_E_NOMEM, "out of memory for the gRPC server on %s", config->listen);
    if (status == SL_OK)
        status = register_methods(server, err);
    if (status == SL_OK)
        status = open_door(server, config, err);
    if (status == SL_OK)
        status = start_workers(server, err);
    if (status != SL_OK) {
        if (server) {
            grpc_server_shutdown_and_notify(server->core, server->workers[0].queue, &server->shut);
            open_workers(server);
            sl_door_close(server->door);
            take_down(server);
        }
        sl_rpc_signals_restore(&before);
        return status;
    }
    grpc_server_start(server->core);
    for (uint32_t i = 0; i < server->n_workers; i++)
        for (uint32_t k = 0; k < SL_RPC_SLOTS; k++) {
            for (uint32_t j = 0; j < n_methods; j++)
                sl_rpc_call_arm(&server->workers[i], &server->routes[j]);
            sl_rpc_call_arm(&server->workers[i], NULL); /* or unknown methods hang for ever */
        }
    open_workers(server);
    status = sl_door_start(server->door, err);
    sl_rpc_signals_restore(&before);
    if (status != SL_OK) {
        sl_rpc_server_stop(server, 0);
        return status;
    }
    *out = server;
    return SL_OK;
}

int sl_rpc_server_port(const struct sl_rpc_server *server)
{
    return server->port;
}

void sl_rpc_server_metrics(const struct sl_rpc_server *server, struct sl_text *text)
{
    static const char *const names[SL_RPC_PLACES] = {"work", "admin", "watch", "control"};
    sl_metric_head(text, "gauge", "sluice_grpc_calls", "gRPC calls that are open.");
    for (int i = 0; i < SL_RPC_PLACES; i++)
        sl_text_add(text, "sluice_grpc_calls{kind=\"%s\"} %u\n", names[i], atomic_load(&server->places[i]));
    sl_metric_head(text, "counter", "sluice_grpc_calls_denied",
                   "Calls that their caller's role may not make.");
    for (int i = SL_CALLER_STRANGER; i < SL_CALLER_ROLES; i++)
        sl_text_add(text, "sluice_grpc_calls_denied_total{role=\"%s\"} %llu\n", sl_caller_roles[i],
                    atomic_load(&server->n_denied[i]));
    sl_door_metrics(server->door, text);
}

/* A call that reaches the core after its shutdown began is reset with CANCEL, which a client takes for its own doing and does not
 * send again; until a GOAWAY is acknowledged, a whole round trip, such calls come. So before it who still calls is answered (the
 * services refuse by then), and a connection goes as soon as it has no call: what it sends then is UNAVAILABLE everywhere. */
static void leave(const struct sl_rpc_server *server, uint32_t grace_ms)
{
    uint64_t until_ns = sl_clock_ns() + (uint64_t)grace_ms * 1000000u;
    sl_door_drain(server->door);
    while (!sl_door_is_left(server->door) && sl_clock_ns() < until_ns) {
        usleep(LEAVE_LOOK_MS * 1000);
        sl_door_drain(server->door);
    }
}

void sl_rpc_server_stop(struct sl_rpc_server *server, uint32_t grace_ms)
{
    assert(!sl_rpc_current); /* a worker would wait for itself */
    leave(server, grace_ms);
    struct timespec until = sl_clock_in_ms(LEAVE_REST_MS); /* for what the grace did not end */
    grpc_server_shutdown_and_notify(server->core, server->workers[0].queue, &server->shut);
    pthread_mutex_lock(&server->lock);
    while (!server->down && pthread_cond_timedwait(&server->change, &server->lock, &until) == 0) {
    }
    if (!server->down) {
        pthread_mutex_unlock(&server->lock);
        grpc_server_cancel_all_calls(server->core);
        pthread_mutex_lock(&server->lock);
    }
    /* A batch that starts after its queue went down aborts the process: wait for every slot to come
     * back and for every call's end marker. */
    while (!server->down || server->active)
        pthread_cond_wait(&server->change, &server->lock);
    pthread_mutex_unlock(&server->lock);
    sl_door_close(server->door);
    take_down(server);
}
