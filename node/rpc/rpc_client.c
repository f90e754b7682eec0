/* The gRPC client of a command: blocking unary calls and server streams that are read one message at a time.
 *
 * Every call has a completion queue of its own to pluck from, so the thread that waits is the
 * thread that polls: no worker, no callback, and any number of calls may run on one channel. A
 * channel has its own connection (a local subchannel pool): two channels of one process must not
 * share the fate of a socket. TLS is the process's (sl_rpc_use_tls): its files are read for each channel, and one that lives for
 * long is opened anew when its connection breaks (node/role/member.c). The status is received in its own batch, since the success of
 * operations paired with it says nothing. */
#include "node/rpc/rpc_impl.h"
#include "node/rpc/tls.h"
#include <assert.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/impl/codegen/compression_types.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdlib.h>
#include <string.h>

enum { EXPLAIN_MS = 2000 };
enum { RECONNECT_MIN_MS = 100, RECONNECT_MAX_MS = 2000, CLIENT_KEEPALIVE_MS = 30000 };

static const struct sl_tls_files *tls_files; /* set by main before there are channels */

struct sl_rpc_channel {
    grpc_channel *core;
    char *endpoint;
    const struct sl_tls_files *tls; /* NULL: in the clear */
};

struct sl_rpc_stream { /* also the state of a unary call, whose stream has one message */
    grpc_call *core;
    grpc_completion_queue *queue;
    char *endpoint;
    const struct sl_tls_files *tls;
    grpc_metadata_array initial, trailing;
    grpc_status_code code;
    grpc_slice details;
    bool status_plucked, first_asked;
    char sent_tag, message_tag, status_tag; /* their addresses name the batches */
};

/* A pair of certificate and key, or none. */
static grpc_channel_credentials *credentials_of(const struct sl_rpc_tls *tls)
{
    if (!tls)
        return grpc_insecure_credentials_create();
    grpc_ssl_pem_key_cert_pair pair = {tls->key, tls->cert};
    return grpc_ssl_credentials_create(tls->ca, tls->cert && tls->key ? &pair : NULL, NULL, NULL);
}

void sl_rpc_use_tls(const struct sl_tls_files *files)
{
    tls_files = files;
}

bool sl_rpc_is_tls_trouble(const struct sl_err *err)
{
    return tls_files && err->status == SL_E_UNAVAILABLE &&
           (strstr(err->text, " TLS") || strstr(err->text, "certificate"));
}

/* Checked first: the core would take a key of another certificate, and fail at each connection. */
static sl_status open_core_by(const struct sl_tls_files *files, struct sl_rpc_channel *channel,
                              struct sl_err *err)
{
    char *ca = NULL, *cert = NULL, *key = NULL;
    sl_status status = sl_tls_files_check(files, err);
    if (status == SL_OK && files->ca)
        status = sl_tls_file_read(files->ca, "CA", &ca, err);
    if (status == SL_OK && files->cert)
        status = sl_tls_file_read(files->cert, "certificate", &cert, err);
    if (status == SL_OK && files->key)
        status = sl_tls_file_read(files->key, "key", &key, err);
    const struct sl_rpc_tls tls = {ca, cert, key, files->name};
    if (status == SL_OK && !(channel->core = sl_rpc_channel_core(channel->endpoint, &tls)))
        status =
            sl_fail(err, SL_E_CONFIG, "gRPC cannot use the certificates of --tls-ca, --tls-cert, --tls-key");
    free(ca);
    free(cert);
    if (key)
        explicit_bzero(key, strlen(key));
    free(key);
    return status;
}

static sl_status open_core(struct sl_rpc_channel *channel, struct sl_err *err)
{
    channel->tls = strncmp(channel->endpoint, "unix", 4) == 0 ? NULL : tls_files;
    if (channel->tls)
        return open_core_by(channel->tls, channel, err);
    channel->core = sl_rpc_channel_core(channel->endpoint, NULL);
    return SL_OK;
}

grpc_channel *sl_rpc_channel_core(const char *endpoint, const struct sl_rpc_tls *tls)
{
    grpc_arg args[] = {
        sl_rpc_arg("grpc.use_local_subchannel_pool", 1),
        sl_rpc_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        sl_rpc_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        sl_rpc_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        sl_rpc_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, SL_RPC_REPLY_BYTES),
        sl_rpc_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_MIN_MS),
        sl_rpc_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, RECONNECT_MAX_MS),
        sl_rpc_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MAX_MS),
        sl_rpc_arg(GRPC_ARG_KEEPALIVE_TIME_MS, CLIENT_KEEPALIVE_MS),
        sl_rpc_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        {.type = GRPC_ARG_STRING,
         .key = (char *)(uintptr_t)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
         .value.string = (char *)(uintptr_t)(tls ? tls->name : NULL)},
    };
    grpc_channel_args list = {sizeof args / sizeof *args - !(tls && tls->name), args};
    sigset_t before;
    sl_rpc_signals_block(&before);
    grpc_channel_credentials *credentials = credentials_of(tls);
    grpc_channel *core = credentials ? grpc_channel_create(endpoint, credentials, &list) : NULL;
    if (credentials)
        grpc_channel_credentials_release(credentials);
    sl_rpc_signals_restore(&before);
    return core;
}

sl_status sl_rpc_channel_open(struct sl_rpc_channel **out, const char *endpoint, struct sl_err *err)
{
    if (endpoint[0] == '*')
        return sl_fail(err, SL_E_CONFIG,
                       "%s is where a server listens; name the host to ask, as in 127.0.0.1%s", endpoint,
                       endpoint + 1);
    struct sl_rpc_channel *channel = calloc(1, sizeof *channel);
    if (!channel || !(channel->endpoint = strdup(endpoint))) {
        free(channel);
        return sl_fail(err, SL_E_NOMEM, "out of memory for a channel to %s", endpoint);
    }
    sl_status status = open_core(channel, err);
    if (status == SL_OK)
        *out = channel;
    else
        sl_rpc_channel_close(channel);
    return status;
}

void sl_rpc_channel_close(struct sl_rpc_channel *channel)
{
    if (!channel)
        return;
    if (channel->core)
        grpc_channel_destroy(channel->core);
    free(channel->endpoint);
    free(channel);
}

bool sl_rpc_channel_is_connecting(const struct sl_rpc_channel *channel)
{
    return grpc_channel_check_connectivity_state(channel->core, 0) == GRPC_CHANNEL_CONNECTING;
}

static bool pluck(struct sl_rpc_stream *stream, void *tag)
{
    grpc_event event =
        grpc_completion_queue_pluck(stream->queue, tag, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    return event.type == GRPC_OP_COMPLETE && event.success;
}

/* Starts a batch that only a mistake of ours could make fail. */
static void start(struct sl_rpc_stream *stream, const grpc_op *ops, size_t n, void *tag)
{
    grpc_call_error error = grpc_call_start_batch(stream->core, ops, n, tag, NULL);
    assert(error == GRPC_CALL_OK);
    (void)error;
}

static void send_request(struct sl_rpc_stream *stream, const uint8_t *message, size_t bytes,
                         const struct sl_rpc_header *headers, uint32_t n_headers)
{
    grpc_op ops[3];
    grpc_metadata fields[SL_RPC_MAX_HEADERS];
    memset(fields, 0, sizeof fields);
    for (uint32_t i = 0; i < n_headers; i++) {
        fields[i].key = grpc_slice_from_copied_string(headers[i].name);
        fields[i].value = grpc_slice_from_copied_string(headers[i].value);
    }
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[0].data.recv_status_on_client.trailing_metadata = &stream->trailing;
    ops[0].data.recv_status_on_client.status = &stream->code;
    ops[0].data.recv_status_on_client.status_details = &stream->details;
    start(stream, ops, 1, &stream->status_tag);

    grpc_slice slice = grpc_slice_from_copied_buffer((const char *)message, bytes);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].data.send_initial_metadata.metadata = fields;
    ops[0].data.send_initial_metadata.count = n_headers;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = buffer;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    start(stream, ops, 3, &stream->sent_tag);
    pluck(stream, &stream->sent_tag); /* a failure shows in the status */
    grpc_byte_buffer_destroy(buffer);
    for (uint32_t i = 0; i < n_headers; i++) {
        grpc_slice_unref(fields[i].key);
        grpc_slice_unref(fields[i].value);
    }
}

sl_status sl_rpc_stream_open(struct sl_rpc_stream **out, struct sl_rpc_channel *channel, const char *path,
                             const uint8_t *message, size_t bytes, int64_t timeout_ms, struct sl_err *err)
{
    return sl_rpc_stream_open_with(out, channel, path, message, bytes, timeout_ms, NULL, 0, err);
}

sl_status sl_rpc_stream_open_with(struct sl_rpc_stream **out, struct sl_rpc_channel *channel,
                                  const char *path, const uint8_t *message, size_t bytes, int64_t timeout_ms,
                                  const struct sl_rpc_header *headers, uint32_t n_headers, struct sl_err *err)
{
    assert(n_headers <= SL_RPC_MAX_HEADERS);
    struct sl_rpc_stream *stream = calloc(1, sizeof *stream);
    if (!stream || !(stream->endpoint = strdup(channel->endpoint))) {
        free(stream);
        return sl_fail(err, SL_E_NOMEM, "out of memory for a call to %s", channel->endpoint);
    }
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (timeout_ms >= 0)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
    stream->tls = channel->tls;
    stream->queue = grpc_completion_queue_create_for_pluck(NULL);
    grpc_metadata_array_init(&stream->initial);
    grpc_metadata_array_init(&stream->trailing);
    stream->details = grpc_empty_slice();
    grpc_slice method = grpc_slice_from_copied_string(path);
    stream->core = grpc_channel_create_call(channel->core, NULL, GRPC_PROPAGATE_DEFAULTS, stream->queue,
                                            method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    send_request(stream, message, bytes, headers, n_headers);
    *out = stream;
    return SL_OK;
}

sl_status sl_rpc_end(struct sl_err *err, grpc_status_code code, grpc_slice details, const char *endpoint)
{
    size_t bytes = GRPC_SLICE_LENGTH(details);
    sl_status status = sl_rpc_status(code);
    if (status == SL_OK)
        return SL_OK;
    if (bytes == 0)
        return sl_fail(err, status, "%s answered with gRPC status %d and no message", endpoint, (int)code);
    return sl_fail(err, status, "%.*s", (int)(bytes < 300 ? bytes : 300),
                   (const char *)GRPC_SLICE_START_PTR(details));
}

/* What the core says of connections, and our servers of nothing else. */
static bool is_the_lines(const struct sl_rpc_stream *stream)
{
    static const char *const said[] = {"failed to connect", "Socket closed", "Connection reset", "recvmsg",
                                       "Broken pipe",       "handshake",     "empty address"};
    char text[512];
    size_t n = GRPC_SLICE_LENGTH(stream->details) < sizeof text - 1 ? GRPC_SLICE_LENGTH(stream->details)
                                                                    : sizeof text - 1;
    memcpy(text, GRPC_SLICE_START_PTR(stream->details), n);
    text[n] = 0;
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        if (strstr(text, said[i]))
            return true;
    return false;
}

/* The stream has ended: its status becomes ours, its message the sentence. */
static sl_status take_status(struct sl_rpc_stream *stream, struct sl_err *err)
{
    if (!stream->status_plucked) {
        pluck(stream, &stream->status_tag);
        stream->status_plucked = true;
    }
    if (stream->code == GRPC_STATUS_OK)
        return SL_AGAIN;
    if (stream->code == GRPC_STATUS_UNAVAILABLE && stream->tls && is_the_lines(stream))
        SL_TRY(sl_tls_explain(stream->endpoint, stream->tls, EXPLAIN_MS, err));
    return sl_rpc_end(err, stream->code, stream->details, stream->endpoint);
}

uint8_t *sl_rpc_buffer_copy(grpc_byte_buffer *buffer, size_t *bytes)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return NULL;
    *bytes = grpc_byte_buffer_length(buffer);
    uint8_t *message = malloc(*bytes ? *bytes : 1);
    size_t at = 0;
    grpc_slice slice;
    while (grpc_byte_buffer_reader_next(&reader, &slice)) {
        size_t n = GRPC_SLICE_LENGTH(slice);
        assert(n <= *bytes - at);
        if (message && n)
            memcpy(message + at, GRPC_SLICE_START_PTR(slice), n);
        at += n;
        grpc_slice_unref(slice);
    }
    grpc_byte_buffer_reader_destroy(&reader);
    return message;
}

sl_status sl_rpc_stream_next(struct sl_rpc_stream *stream, uint8_t **message, size_t *bytes,
                             struct sl_err *err)
{
    *message = NULL;
    *bytes = 0;
    if (stream->status_plucked)
        return take_status(stream, err);
    grpc_byte_buffer *buffer = NULL;
    grpc_op ops[2];
    size_t n = 0;
    memset(ops, 0, sizeof ops);
    if (!stream->first_asked) { /* the server sends its metadata with its first message */
        ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
        ops[n++].data.recv_initial_metadata.recv_initial_metadata = &stream->initial;
        stream->first_asked = true;
    }
    ops[n].op = GRPC_OP_RECV_MESSAGE;
    ops[n++].data.recv_message.recv_message = &buffer;
    start(stream, ops, n, &stream->message_tag);
    pluck(stream, &stream->message_tag);
    if (!buffer)
        return take_status(stream, err);
    *message = sl_rpc_buffer_copy(buffer, bytes);
    grpc_byte_buffer_destroy(buffer);
    return *message ? SL_OK : sl_fail(err, SL_E_NOMEM, "no memory for a reply, or it cannot be unpacked");
}

void sl_rpc_stream_cancel(struct sl_rpc_stream *stream)
{
    grpc_call_cancel(stream->core, NULL);
}

void sl_rpc_stream_close(struct sl_rpc_stream *stream)
{
    if (!stream)
        return;
    if (!stream->status_plucked) {
        grpc_call_cancel(stream->core, NULL);
        pluck(stream, &stream->status_tag);
    }
    grpc_slice_unref(stream->details);
    grpc_metadata_array_destroy(&stream->initial);
    grpc_metadata_array_destroy(&stream->trailing);
    grpc_call_unref(stream->core);
    grpc_completion_queue_shutdown(stream->queue);
    while (grpc_completion_queue_pluck(stream->queue, NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(stream->queue);
    free(stream->endpoint);
    free(stream);
}

sl_status sl_rpc_unary(struct sl_rpc_channel *channel, const char *path, const uint8_t *message, size_t bytes,
                       int64_t timeout_ms, uint8_t **reply, size_t *reply_bytes, struct sl_err *err)
{
    struct sl_rpc_stream *stream;
    *reply = NULL;
    *reply_bytes = 0;
    SL_TRY(sl_rpc_stream_open(&stream, channel, path, message, bytes, timeout_ms, err));
    sl_status status = sl_rpc_stream_next(stream, reply, reply_bytes, err);
    if (status == SL_AGAIN)
        status = sl_fail(err, SL_E_PROTOCOL, "%s answered %s without a message", channel->endpoint, path);
    if (status == SL_OK) {
        status = take_status(stream, err);
        if (status == SL_AGAIN) {
            status = SL_OK;
        } else {
            free(*reply);
            *reply = NULL;
            *reply_bytes = 0;
        }
    }
    sl_rpc_stream_close(stream);
    return status;
}
