/* The gRPC client of a load: thousands of server streams on one thread and one completion queue.
 *
 * A call's memory belongs to the core until all of its batches are over, and its number to the caller until on_end or drop; so a call that
 * was dropped lives on without a number. A stream has ended when its messages have ended and its status is known, whichever the core
 * tells first.
 *
 * The core waits in whole milliseconds and rounds up. A load is sent on time, so the last four before a moment are waited for in short
 * sleeps with a look at the queue between them: up to a tenth of a millisecond late, and nearly no processor time. */
#include "base/clock.h"
#include "node/rpc/rpc_impl.h"
#include <assert.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/support/time.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    CALLS_OF_CONNECTION = 100, /* servers allow 100 streams and more */
    CONNECTIONS_MAX = 64,
    HEADERS_MAX = 32,
    EVENTS_AT_ONCE = 256, /* then the caller has a look at what is due */
    FINE_NS = 4000000,
    COARSE_NS = 3000000, /* the core rounds up, and up again */
    NAP_NS = 50000,
    NOBODY = -1
};

struct pooled {
    struct sl_rpc_tag sent, received, ended;
    struct sl_rpc_pool *pool;
    struct connection *connection;
    int64_t number; /* NOBODY: dropped, or told of its end */
    grpc_call *core;
    grpc_metadata_array initial, trailing;
    grpc_byte_buffer *request, *message;
    grpc_status_code code;
    grpc_slice details;
    uint32_t pending; /* batches */
    bool messages_over, status_known;
};

struct connection {
    grpc_channel *core;
    uint32_t n_calls;
};

struct sl_rpc_pool {
    struct sl_rpc_pool_config config;
    char *endpoint;
    grpc_completion_queue *queue;
    struct connection connections[CONNECTIONS_MAX];
    uint32_t n_connections, n_live; /* calls whose memory is still the core's */
    struct pooled **calls;          /* [max_calls], by number */
};

static struct pooled *call_of(struct sl_rpc_tag *tag, size_t offset)
{
    return (struct pooled *)((char *)tag - offset);
}

static void start(struct pooled *call, const grpc_op *ops, size_t n, struct sl_rpc_tag *tag)
{
    grpc_call_error error = grpc_call_start_batch(call->core, ops, n, tag, NULL);
    assert(error == GRPC_CALL_OK);
    (void)error;
    call->pending++;
}

/* One batch less: tells the end when it is known, and frees what the core is through with. */
static void settle(struct pooled *call)
{
    struct sl_rpc_pool *pool = call->pool;
    call->pending--;
    if (call->number != NOBODY && call->messages_over && call->status_known) {
        uint32_t number = (uint32_t)call->number;
        struct sl_err err = {0};
        sl_status status = sl_rpc_end(&err, call->code, call->details, pool->endpoint);
        call->number = NOBODY;
        pool->calls[number] = NULL;
        pool->config.on_end(pool->config.user, number, sl_clock_ns(), status, err.text);
    }
    if (call->pending > 0)
        return;
    grpc_call_unref(call->core);
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details);
    grpc_byte_buffer_destroy(call->request);
    call->connection->n_calls--;
    pool->n_live--;
    free(call);
}

static void receive(struct pooled *call, bool first)
{
    grpc_op ops[2];
    size_t n = 0;
    memset(ops, 0, sizeof ops);
    if (first) {
        ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
        ops[n++].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    }
    ops[n].op = GRPC_OP_RECV_MESSAGE;
    ops[n++].data.recv_message.recv_message = &call->message;
    start(call, ops, n, &call->received);
}

static void tell_message(struct pooled *call)
{
    const struct sl_rpc_pool_config *config = &call->pool->config;
    grpc_byte_buffer_reader reader;
    if (call->number != NOBODY && grpc_byte_buffer_reader_init(&reader, call->message)) {
        grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
        config->on_message(config->user, (uint32_t)call->number, sl_clock_ns(), GRPC_SLICE_START_PTR(all),
                           GRPC_SLICE_LENGTH(all));
        grpc_slice_unref(all);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(call->message);
    call->message = NULL;
}

static void on_received(struct sl_rpc_tag *tag, bool ok)
{
    struct pooled *call = call_of(tag, offsetof(struct pooled, received));
    if (ok && call->message) {
        tell_message(call);
        receive(call, false);
    } else {
        call->messages_over = true;
    }
    settle(call);
}

static void on_ended(struct sl_rpc_tag *tag, bool ok)
{
    struct pooled *call = call_of(tag, offsetof(struct pooled, ended));
    (void)ok;
    call->status_known = true;
    settle(call);
}

static void on_sent(struct sl_rpc_tag *tag, bool ok)
{
    (void)ok; /* a failure shows in the status */
    settle(call_of(tag, offsetof(struct pooled, sent)));
}

/* ---- connections ---- */

static struct connection *connection_for(struct sl_rpc_pool *pool)
{
    struct connection *least = &pool->connections[0];
    for (uint32_t i = 1; i < pool->n_connections; i++)
        if (pool->connections[i].n_calls < least->n_calls)
            least = &pool->connections[i];
    if (least->n_calls < CALLS_OF_CONNECTION || pool->n_connections == CONNECTIONS_MAX)
        return least;
    struct connection *fresh = &pool->connections[pool->n_connections];
    fresh->core = sl_rpc_channel_core(pool->endpoint, pool->config.tls);
    if (!fresh->core)
        return least;
    pool->n_connections++;
    return fresh;
}

sl_status sl_rpc_pool_open(struct sl_rpc_pool **out, const struct sl_rpc_pool_config *config,
                           struct sl_err *err)
{
    struct sl_rpc_pool *pool = calloc(1, sizeof *pool);
    *out = NULL;
    if (!pool || !(pool->endpoint = strdup(config->endpoint)) ||
        !(pool->calls = calloc(config->max_calls, sizeof(struct pooled *)))) {
        sl_rpc_pool_close(pool);
        return sl_fail(err, SL_E_NOMEM, "no memory for %u calls", config->max_calls);
    }
    pool->config = *config;
    pool->queue = grpc_completion_queue_create_for_next(NULL);
    pool->connections[0].core = sl_rpc_channel_core(pool->endpoint, config->tls);
    if (!pool->connections[0].core) {
        sl_rpc_pool_close(pool);
        return sl_fail(
            err, SL_E_CONFIG,
            "the TLS certificate or key cannot be used; are both PEM, and do they belong together?");
    }
    pool->n_connections = 1;
    *out = pool;
    return SL_OK;
}

/* ---- calls ---- */

static void begin(struct pooled *call, grpc_metadata *metadata, size_t n_metadata)
{
    grpc_op ops[3];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[0].data.recv_status_on_client.trailing_metadata = &call->trailing;
    ops[0].data.recv_status_on_client.status = &call->code;
    ops[0].data.recv_status_on_client.status_details = &call->details;
    start(call, ops, 1, &call->ended);
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].data.send_initial_metadata.metadata = metadata;
    ops[0].data.send_initial_metadata.count = n_metadata;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = call->request;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    start(call, ops, 3, &call->sent);
    receive(call, true);
}

static void send_call(struct pooled *call, const struct sl_rpc_header *headers, uint32_t n)
{
    grpc_metadata metadata[HEADERS_MAX];
    memset(metadata, 0, sizeof metadata);
    for (uint32_t i = 0; i < n; i++) {
        metadata[i].key = grpc_slice_from_copied_string(headers[i].name);
        metadata[i].value = grpc_slice_from_copied_string(headers[i].value);
    }
    begin(call, metadata, n);
    for (uint32_t i = 0; i < n; i++) {
        grpc_slice_unref(metadata[i].key);
        grpc_slice_unref(metadata[i].value);
    }
}

void sl_rpc_pool_send(struct sl_rpc_pool *pool, uint32_t number, const char *path, const uint8_t *message,
                      size_t bytes, int64_t timeout_ms, const struct sl_rpc_header *headers,
                      uint32_t n_headers)
{
    assert(number < pool->config.max_calls && !pool->calls[number] && n_headers <= HEADERS_MAX);
    struct pooled *call = calloc(1, sizeof *call);
    if (!call) {
        pool->config.on_end(pool->config.user, number, sl_clock_ns(), SL_E_NOMEM, "no memory for a call");
        return;
    }
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (timeout_ms >= 0)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
    *call = (struct pooled){.sent = {on_sent},
                            .received = {on_received},
                            .ended = {on_ended},
                            .pool = pool,
                            .connection = connection_for(pool),
                            .number = number,
                            .details = grpc_empty_slice()};
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    grpc_slice method = grpc_slice_from_copied_string(path);
    call->core = grpc_channel_create_call(call->connection->core, NULL, GRPC_PROPAGATE_DEFAULTS, pool->queue,
                                          method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    grpc_slice slice = grpc_slice_from_copied_buffer((const char *)message, bytes);
    call->request = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    call->connection->n_calls++;
    pool->n_live++;
    pool->calls[number] = call;
    send_call(call, headers, n_headers);
}

void sl_rpc_pool_drop(struct sl_rpc_pool *pool, uint32_t number)
{
    struct pooled *call = pool->calls[number];
    if (!call)
        return;
    pool->calls[number] = NULL;
    call->number = NOBODY;
    grpc_call_cancel(call->core, NULL);
}

/* ---- waiting ---- */

/* Takes one event; false: none until then. wait_ms 0: has a look. */
static bool serve(struct sl_rpc_pool *pool, int64_t wait_ms)
{
    gpr_timespec deadline = gpr_inf_past(GPR_CLOCK_MONOTONIC);
    if (wait_ms > 0)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(wait_ms, GPR_TIMESPAN));
    grpc_event event = grpc_completion_queue_next(pool->queue, deadline, NULL);
    if (event.type != GRPC_OP_COMPLETE)
        return false;
    struct sl_rpc_tag *tag = event.tag;
    tag->fn(tag, event.success);
    return true;
}

static void nap(uint64_t ns)
{
    struct timespec time = {0, (long)(ns < NAP_NS ? ns : NAP_NS)};
    nanosleep(&time, NULL);
}

void sl_rpc_pool_poll(struct sl_rpc_pool *pool, uint64_t until_ns)
{
    uint32_t n = 0;
    for (;;) {
        while (n < EVENTS_AT_ONCE && serve(pool, 0))
            n++;
        uint64_t now = sl_clock_ns();
        if (n > 0 || now >= until_ns)
            return;
        uint64_t left = until_ns - now;
        if (left > FINE_NS)
            n += serve(pool, (int64_t)((left - COARSE_NS) / 1000000));
        else
            nap(left);
    }
}

void sl_rpc_pool_close(struct sl_rpc_pool *pool)
{
    if (!pool)
        return;
    for (uint32_t i = 0; pool->calls && i < pool->config.max_calls; i++)
        sl_rpc_pool_drop(pool, i);
    while (pool->n_live > 0)
        serve(pool, 1000);
    for (uint32_t i = 0; i < pool->n_connections; i++)
        grpc_channel_destroy(pool->connections[i].core);
    if (pool->queue) {
        grpc_completion_queue_shutdown(pool->queue);
        while (grpc_completion_queue_next(pool->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
               GRPC_QUEUE_SHUTDOWN) {
        }
        grpc_completion_queue_destroy(pool->queue);
    }
    free(pool->calls);
    free(pool->endpoint);
    free(pool);
}
