/* One call on the server: its life from slot to end marker, its bounded send queue, and the kick.
 *
 * The rules of the core that shape this file:
 * - one send batch of a call is in flight at a time: a second one is only sometimes refused;
 * - initial metadata rides with the first message or with the status, never before: until then a
 * failure goes out as Trailers-Only and a client may retry it; the status rides with the last
 * message;
 * - the end marker (RECV_CLOSE) is started at once in its own batch and always completes exactly
 * once;
 * - it may come before the request's message does, and a handler must not start after it;
 * - request metadata and the method's name point into the call and go before it. */
#include "base/clock.h"
#include "base/log.h"
#include "node/rpc/frames.h"
#include "node/rpc/rpc_impl.h"
#include "node/rpc/status_details.h"
#include <assert.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Thread_local struct sl_rpc_worker *sl_rpc_current;
static atomic_uint live_calls;

#define CALL_OF(tag, member)                                                                                 \
    ((struct sl_rpc_call *)(void *)((char *)(tag)-offsetof(struct sl_rpc_call, member)))

uint32_t sl_rpc_live_calls(void)
{
    return atomic_load(&live_calls);
}

void sl_rpc_ref(struct sl_rpc_call *call)
{
    atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
}

void sl_rpc_unref(struct sl_rpc_call *call)
{
    if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (; call->queue_used; call->queue_used--) {
        grpc_slice_unref(call->queue[call->queue_head]);
        call->queue_head = (call->queue_head + 1) % call->queue_room;
    }
    free(call->queue);
    grpc_byte_buffer_destroy(call->send_buffer); /* NULL is fine for both */
    grpc_byte_buffer_destroy(call->request);
    while (call->n_trailers)
        grpc_slice_unref(call->trailers[--call->n_trailers].value);
    grpc_slice_unref(call->sentence);
    grpc_metadata_array_destroy(&call->metadata);
    grpc_call_details_destroy(&call->details);
    if (call->core) {
        grpc_call_unref(call->core);
        atomic_fetch_sub(&live_calls, 1);
    }
    pthread_mutex_destroy(&call->lock);
    free(call);
}

/* ---- sending ---- */

/* With the lock: takes the oldest message of the queue into the send buffer. */
static void take_message(struct sl_rpc_call *call, grpc_op *op)
{
    grpc_slice slice = call->queue[call->queue_head];
    call->queue_head = (call->queue_head + 1) % call->queue_room;
    call->queue_used--;
    call->queue_bytes -= GRPC_SLICE_LENGTH(slice);
    call->send_buffer = grpc_raw_byte_buffer_create(&slice, 1); /* has a reference of its own */
    grpc_slice_unref(slice);
    op->op = GRPC_OP_SEND_MESSAGE;
    op->data.send_message.send_message = call->send_buffer;
}

/* With the lock: starts the next send batch when none is in flight and there is something to say. A
 * unary reply waits for its status, so that both leave in one batch. */
static void pump(struct sl_rpc_call *call)
{
    if (call->sending || call->status_sent || atomic_load(&call->over))
        return;
    if (!call->finishing && (call->queue_used == 0 || (call->route && !call->route->method.streaming)))
        return;
    grpc_op ops[3];
    size_t n = 0;
    memset(ops, 0, sizeof ops); /* garbage in the flags would poison the call */
    if (!call->initial_sent) {
        ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
        call->initial_sent = true;
    }
    if (call->queue_used)
        take_message(call, &ops[n++]);
    if (call->finishing && call->queue_used == 0) {
        ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        ops[n].data.send_status_from_server.status = call->code;
        ops[n].data.send_status_from_server.status_details = &call->sentence;
        ops[n].data.send_status_from_server.trailing_metadata = call->trailers;
        ops[n++].data.send_status_from_server.trailing_metadata_count = call->n_trailers;
        call->status_sent = true;
    }
    call->sending = true;
    atomic_store(&call->sending_ms, sl_clock_ns() / 1000000);
    sl_rpc_ref(call);
    grpc_call_error error = grpc_call_start_batch(call->core, ops, n, &call->sent, NULL);
    if (error != GRPC_CALL_OK) { /* never retried: a refused batch poisons the call */
        sl_log_error("grpc refused a send batch: %s", grpc_call_error_to_string(error));
        call->sending = false;
        atomic_store(&call->over, true);
        grpc_call_cancel(call->core, NULL);
        sl_rpc_unref(call); /* never the last: the caller holds one */
    }
}

/* With the lock: the call goes onto its worker's list, and the worker is woken with an empty batch, the only public way to
 * post to a completion queue. The queue is still up: the call is not over, and stop waits for every call's end marker. */
static void kick(struct sl_rpc_call *call)
{
    struct sl_rpc_worker *worker = call->worker;
    if (call->is_dirty || atomic_load(&call->over))
        return;
    call->is_dirty = true;
    sl_rpc_ref(call);
    pthread_mutex_lock(&worker->lock);
    call->dirty_next = worker->dirty;
    worker->dirty = call;
    bool asleep = !worker->kicked;
    worker->kicked = true;
    pthread_mutex_unlock(&worker->lock);
    if (asleep) {
        grpc_call_error error = grpc_call_start_batch(call->core, NULL, 0, &worker->kick, NULL);
        assert(error == GRPC_CALL_OK);
        (void)error;
    }
}

/* With the lock. On the call's own worker the batch starts at once; any other thread leaves that to the worker, and a batch
 * that is in flight to its completion, which pumps again. */
static void pump_or_kick(struct sl_rpc_call *call)
{
    if (sl_rpc_current == call->worker)
        pump(call);
    else if (!call->sending)
        kick(call);
}

void sl_rpc_wake(struct sl_rpc_call *call)
{
    pthread_mutex_lock(&call->lock);
    call->woken = true;
    kick(call);
    pthread_mutex_unlock(&call->lock);
}

static void receive_next(struct sl_rpc_call *call);

/* On the worker: what the door has decided about the call's message. */
static void obey(struct sl_rpc_call *call, enum sl_door_verdict verdict)
{
    char sentence[160];
    switch (verdict) {
    case SL_DOOR_GRANTED:
        receive_next(call);
        break;
    case SL_DOOR_TOO_LONG:
        snprintf(
            sentence, sizeof sentence, "the message has %u bytes; at most %zu are accepted", call->length,
            call->route->method.client_streaming ? SL_FRAMES_WINDOW - 5 : call->server->max_message_bytes);
        sl_rpc_finish(call, SL_E_EXHAUSTED, sentence);
        break;
    case SL_DOOR_LATE:
        sl_rpc_finish(call, SL_E_DEADLINE, "the request's message stopped coming; send it whole");
        break;
    case SL_DOOR_BUSY:
        sl_rpc_pushback(call, 1000);
        sl_rpc_finish(call, SL_E_EXHAUSTED,
                      "other messages took all room for messages on their way in; try again later");
        break;
    case SL_DOOR_UNREAD: /* the core waits for a window; the status needs none, and a client that reads at all sees why */
        grpc_call_cancel_with_status(
            call->core, GRPC_STATUS_DEADLINE_EXCEEDED,
            "the client took nothing of the answer for too long; read it, and give it a window", NULL);
        break;
    case SL_DOOR_WAIT:
        break;
    case SL_DOOR_GONE: /* the door knows no such stream: it has ended, or its client hid the door's field and must not stay */
        grpc_call_cancel(call->core, NULL);
        break;
    }
}

/* From whichever thread made the decision, with the door's lock. */
void sl_rpc_on_verdict(void *server, void *of, enum sl_door_verdict verdict, uint32_t length)
{
    struct sl_rpc_call *call = of;
    (void)server;
    pthread_mutex_lock(&call->lock);
    call->verdict = verdict;
    call->length = length;
    kick(call);
    pthread_mutex_unlock(&call->lock);
}

/* Places that are few and asked for by everyone come back sooner. */
bool sl_rpc_is_patient(void *server, void *of, uint64_t moved_ms, uint64_t now_ms)
{
    struct sl_rpc_call *call = of;
    const struct sl_rpc_method *method = &call->route->method;
    uint64_t since = atomic_load(&call->sending_ms);
    uint64_t most =
        method->streaming || method->place == SL_RPC_WORK ? SL_DOOR_UNREAD_MS : SL_DOOR_UNREAD_SHORT_MS;
    (void)server;
    if (since == 0)
        return true;
    since = since > moved_ms ? since : moved_ms;
    return now_ms <= since || now_ms - since <= most;
}

void sl_rpc_worker_kicked(struct sl_rpc_tag *tag, bool ok)
{
    struct sl_rpc_worker *worker =
        (struct sl_rpc_worker *)(void *)((char *)tag - offsetof(struct sl_rpc_worker, kick));
    (void)ok;
    pthread_mutex_lock(&worker->lock);
    struct sl_rpc_call *call = worker->dirty;
    worker->dirty = NULL;
    worker->kicked = false;
    pthread_mutex_unlock(&worker->lock);
    while (call) {
        struct sl_rpc_call *next = call->dirty_next;
        pthread_mutex_lock(&call->lock);
        call->is_dirty = false;
        bool woken = call->woken && !atomic_load(&call->over);
        enum sl_door_verdict verdict = call->verdict;
        call->woken = false;
        call->verdict = SL_DOOR_WAIT;
        pump(call);
        pthread_mutex_unlock(&call->lock);
        if (verdict != SL_DOOR_WAIT && !atomic_load(&call->over))
            obey(call, verdict);
        if (woken && call->on_writable)
            call->on_writable(call, call->user);
        sl_rpc_unref(call);
        call = next;
    }
}

sl_status sl_rpc_write(struct sl_rpc_call *call, const uint8_t *message, size_t bytes)
{
    sl_status status = SL_OK;
    pthread_mutex_lock(&call->lock);
    bool full = call->queue_used == call->queue_room || call->queue_bytes + bytes > SL_RPC_QUEUE_BYTES;
    if (atomic_load(&call->over) || call->finishing) {
        status = SL_E_CANCELLED;
    } else if (!call->queue && !(call->queue = calloc(call->queue_room, sizeof *call->queue))) {
        status = SL_E_NOMEM;
    } else if (full && call->queue_used) { /* one message of any size always fits */
        call->want_writable = true;
        status = SL_AGAIN;
    } else {
        uint32_t at = (call->queue_head + call->queue_used++) % call->queue_room;
        call->queue[at] = grpc_slice_from_copied_buffer((const char *)message, bytes);
        call->queue_bytes += bytes;
        pump_or_kick(call);
    }
    pthread_mutex_unlock(&call->lock);
    return status;
}

static void add_trailer(struct sl_rpc_call *call, const char *name, grpc_slice value)
{
    grpc_metadata *trailer = &call->trailers[call->n_trailers++];
    trailer->key = grpc_slice_from_static_string(name);
    trailer->value = value;
}

/* With the lock, when the status is known. */
static void add_pushback(struct sl_rpc_call *call, const char *sentence)
{
    char text[16];
    uint8_t details[SL_STATUS_DETAILS_BYTES];
    snprintf(text, sizeof text, "%u", call->pushback_ms);
    add_trailer(call, "grpc-retry-pushback-ms", grpc_slice_from_copied_string(text));
    size_t bytes =
        sl_status_details_pack(details, (int)call->code, sentence ? sentence : "", call->pushback_ms);
    if (bytes)
        add_trailer(call, "grpc-status-details-bin",
                    grpc_slice_from_copied_buffer((const char *)details, bytes));
}

void sl_rpc_finish(struct sl_rpc_call *call, sl_status status, const char *sentence)
{
    pthread_mutex_lock(&call->lock);
    if (!call->finishing && !atomic_load(&call->over)) {
        bool unary = call->route && !call->route->method.streaming;
        assert(status != SL_OK || !unary || call->queue_used == 1);
        if (status != SL_OK && unary) { /* no reply goes with an error */
            for (; call->queue_used; call->queue_used--)
                grpc_slice_unref(call->queue[call->queue_head]);
            call->queue_bytes = 0;
        }
        call->finishing = true;
        call->code = sl_rpc_code(status);
        if (sentence)
            call->sentence = grpc_slice_from_copied_string(sentence);
        if (call->pushes_back && status != SL_OK)
            add_pushback(call, sentence);
        pump_or_kick(call);
    }
    pthread_mutex_unlock(&call->lock);
}

void sl_rpc_pushback(struct sl_rpc_call *call, uint32_t ms)
{
    pthread_mutex_lock(&call->lock);
    if (!call->pushes_back && !call->finishing) {
        call->pushes_back = true;
        call->pushback_ms = ms;
    }
    pthread_mutex_unlock(&call->lock);
}

bool sl_rpc_is_over(const struct sl_rpc_call *call)
{
    return atomic_load(&call->over);
}

uint32_t sl_rpc_field(const struct sl_rpc_call *call, const char *name, const char **bytes, size_t *n_bytes)
{
    uint32_t n = 0;
    for (size_t i = 0; i < call->metadata.count; i++) {
        const grpc_metadata *field = &call->metadata.metadata[i];
        if (grpc_slice_str_cmp(field->key, name) != 0)
            continue;
        *bytes =
            (const char *)GRPC_SLICE_START_PTR(field->value); /* of an inlined slice it lies in the array */
        *n_bytes = GRPC_SLICE_LENGTH(field->value);
        n++;
    }
    return n;
}

int64_t sl_rpc_time_left_ms(const struct sl_rpc_call *call)
{
    if (gpr_time_cmp(call->deadline, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0)
        return -1;
    gpr_timespec left = gpr_time_sub(call->deadline, gpr_now(GPR_CLOCK_MONOTONIC));
    int64_t ms = left.tv_sec * 1000 + left.tv_nsec / 1000000;
    return ms < 0 ? 0 : ms;
}

void sl_rpc_hooks(struct sl_rpc_call *call, void *user, void (*on_done)(struct sl_rpc_call *, void *, bool),
                  void (*on_writable)(struct sl_rpc_call *, void *))
{
    assert(sl_rpc_current == call->worker);
    call->user = user;
    call->on_done = on_done;
    call->on_writable = on_writable;
}

/* ---- on the worker ---- */

static void one_less(struct sl_rpc_server *server)
{
    pthread_mutex_lock(&server->lock);
    if (--server->active == 0)
        pthread_cond_signal(&server->change);
    pthread_mutex_unlock(&server->lock);
}

static void receive_next(struct sl_rpc_call *call)
{
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_MESSAGE;
    op.data.recv_message.recv_message = &call->request;
    call->want_receive = false;
    sl_rpc_ref(call);
    grpc_call_error error = grpc_call_start_batch(call->core, &op, 1, &call->received, NULL);
    if (error != GRPC_CALL_OK) {
        sl_log_error("grpc refused a receive batch: %s", grpc_call_error_to_string(error));
        grpc_call_cancel(call->core, NULL);
        sl_rpc_unref(call);
    }
}

static void on_sent(struct sl_rpc_tag *tag, bool ok)
{
    struct sl_rpc_call *call = CALL_OF(tag, sent);
    bool writable = false;
    pthread_mutex_lock(&call->lock);
    call->sending = false;
    atomic_store(&call->sending_ms, 0);
    grpc_byte_buffer_destroy(call->send_buffer);
    call->send_buffer = NULL;
    if (!ok)
        atomic_store(&call->over, true);
    pump(call);
    if (call->want_writable && call->queue_used <= call->queue_room / 2 &&
        call->queue_bytes <= SL_RPC_QUEUE_BYTES / 2 && !atomic_load(&call->over)) {
        call->want_writable = false;
        writable = true;
    }
    bool drained = call->queue_used == 0;
    pthread_mutex_unlock(&call->lock);
    if (writable && call->on_writable)
        call->on_writable(call, call->user);
    if (drained && call->want_receive && !atomic_load(&call->over))
        receive_next(call);
    sl_rpc_unref(call);
}

/* Every kind of call has places of its own. One is taken with the message: who never sends it is the door's concern. */
static bool take_place(struct sl_rpc_call *call)
{
    enum sl_rpc_place place = call->route->method.place;
    unsigned limit = place == SL_RPC_WORK ? SL_RPC_MAX_CALLS : SL_RPC_MAX_ADMIN;
    char sentence[160];
    call->placed = true;
    if (atomic_fetch_add(&call->server->places[place], 1) < limit)
        return true;
    snprintf(sentence, sizeof sentence, "%u such calls are open already; try again later", limit);
    sl_rpc_pushback(call, 1000);
    sl_rpc_finish(call, SL_E_EXHAUSTED, sentence);
    return false;
}

/* The request's bytes go to the method's handler; the handler of a streaming client gets its next
 * message only when its replies are out, so a client that never reads cannot make us queue. */
static void deliver(struct sl_rpc_call *call)
{
    const struct sl_rpc_method *method = &call->route->method;
    grpc_byte_buffer *buffer = call->request;
    call->request = NULL;
    if (atomic_load(&call->over)) {
        grpc_byte_buffer_destroy(buffer);
        return;
    }
    if (buffer && !call->placed && !take_place(call)) {
        grpc_byte_buffer_destroy(buffer);
        return;
    }
    if (!buffer) {
        if (method->client_streaming)
            sl_rpc_finish(call, SL_OK, NULL);
        else
            sl_rpc_finish(call, SL_E_INVALID, "the call has no request message");
        return;
    }
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer)) {
        grpc_byte_buffer_destroy(buffer);
        sl_rpc_finish(call, SL_E_INVALID, "the request message cannot be read: send it uncompressed");
        return;
    }
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(buffer);
    method->on_message(call, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all), method->context);
    grpc_slice_unref(all);
    sl_door_delivered(call->server->door, &call->ticket);
    if (!method->client_streaming || atomic_load(&call->over))
        return;
    pthread_mutex_lock(&call->lock);
    bool drained = call->queue_used == 0;
    pthread_mutex_unlock(&call->lock);
    if (drained)
        receive_next(call);
    else
        call->want_receive = true;
}

static void on_received(struct sl_rpc_tag *tag, bool ok)
{
    struct sl_rpc_call *call = CALL_OF(tag, received);
    if (ok || call->request)
        deliver(call); /* a broken stream has neither, and its end marker follows */
    sl_rpc_unref(call);
}

static void on_closed(struct sl_rpc_tag *tag, bool ok)
{
    struct sl_rpc_call *call = CALL_OF(tag, closed);
    struct sl_rpc_server *server = call->server;
    (void)ok;
    sl_door_forget(server->door, &call->ticket);
    if (call->placed)
        atomic_fetch_sub(&server->places[call->route->method.place], 1);
    pthread_mutex_lock(&call->lock); /* a writer that saw the call alive has kicked by now */
    atomic_store(&call->over, true);
    pthread_mutex_unlock(&call->lock);
    if (call->on_done)
        call->on_done(call, call->user, call->cancelled != 0);
    sl_rpc_unref(call);
    one_less(server);
}

/* The last field of the door's name is the door's own. */
static void read_ticket(struct sl_rpc_call *call)
{
    for (size_t i = call->metadata.count; i-- > 0 && call->ticket.stream == 0;) {
        const grpc_metadata *field = &call->metadata.metadata[i];
        if (grpc_slice_str_cmp(field->key, sl_frames_field()) == 0)
            sl_frames_read_ticket(GRPC_SLICE_START_PTR(field->value), GRPC_SLICE_LENGTH(field->value),
                                  &call->ticket);
    }
}

static size_t metadata_bytes(const grpc_metadata_array *array)
{
    size_t bytes = 0; /* 32 a field: what HTTP/2 counts, RFC 7540 6.5.2 */
    for (size_t i = 0; i < array->count; i++)
        bytes += grpc_slice_str_cmp(array->metadata[i].key, sl_frames_field()) == 0
                     ? 0
                     : GRPC_SLICE_LENGTH(array->metadata[i].key) +
                           GRPC_SLICE_LENGTH(array->metadata[i].value) + 32;
    return bytes;
}

static void refuse_unknown(struct sl_rpc_call *call)
{
    size_t bytes = GRPC_SLICE_LENGTH(call->details.method), n = 0;
    const uint8_t *path = GRPC_SLICE_START_PTR(call->details.method);
    char sentence[300];
    while (n < bytes && n < 200 && path[n] > ' ' && path[n] < 0x7f &&
           path[n] != '@') /* what a path is made of */
        n++;
    snprintf(sentence, sizeof sentence, "%.*s is not served here; grpc.reflection.v1 lists what is", (int)n,
             (const char *)path);
    sl_rpc_finish(call, SL_E_UNIMPLEMENTED, sentence);
}

/* Whatever can be said before the message is looked at. */
static bool admit(struct sl_rpc_call *call)
{
    struct sl_rpc_server *server = call->server;
    char sentence[160];
    size_t bytes = metadata_bytes(&call->metadata);
    if (bytes > server->max_metadata_bytes) {
        snprintf(sentence, sizeof sentence, "the request's metadata has %zu bytes; at most %zu are accepted",
                 bytes, server->max_metadata_bytes);
        sl_rpc_finish(call, SL_E_EXHAUSTED, sentence);
        return false;
    }
    if (!call->route) {
        refuse_unknown(call);
        return false;
    }
    return true;
}

/* A line a second, however many there are. */
static void note_denial(struct sl_rpc_call *call, const char *sentence)
{
    struct sl_rpc_server *server = call->server;
    unsigned long long now = sl_clock_ns() / 1000000, before = atomic_load(&server->denied_logged_ms);
    atomic_fetch_add(&server->n_denied[call->caller.role], 1);
    if (now - before >= 1000 && atomic_compare_exchange_strong(&server->denied_logged_ms, &before, now))
        sl_log_warn("a call was refused: %s", sentence);
}

/* Whether who calls may call this; before anything of the message is received. */
static bool is_allowed(struct sl_rpc_call *call)
{
    char sentence[260];
    const struct sl_caller *who = &call->caller;
    if (!sl_door_caller(call->server->door, &call->ticket, &call->caller)) {
        obey(call, SL_DOOR_GONE);
        return false;
    }
    if (who->role == SL_CALLER_OPEN || (call->route->method.roles >> who->role & 1))
        return true;
    if (who->role == SL_CALLER_STRANGER)
        snprintf(sentence, sizeof sentence, "your certificate has no role here: %s", who->why);
    else
        snprintf(sentence, sizeof sentence, "%s%s, whose role is %s, may not call %s",
                 who->name[0] ? who->name : "a client", who->name[0] ? "" : " without a certificate",
                 sl_caller_roles[who->role], call->route->method.path);
    note_denial(call, sentence);
    sl_rpc_finish(call, SL_E_DENIED, sentence);
    return false;
}

const struct sl_caller *sl_rpc_caller(const struct sl_rpc_call *call)
{
    return &call->caller;
}

static void on_arrived(struct sl_rpc_tag *tag, bool ok)
{
    struct sl_rpc_call *call = CALL_OF(tag, arrived);
    struct sl_rpc_server *server = call->server;
    if (!ok) { /* shutting down: this slot never held a call */
        sl_rpc_unref(call);
        one_less(server);
        return;
    }
    atomic_fetch_add(&live_calls, 1);
    sl_rpc_call_arm(call->worker, call->route); /* first fill the slot, then work */
    if (!call->route)
        call->deadline = call->details.deadline;
    /* The client sent a duration (grpc-timeout), which core 1.51 makes a moment on the monotonic clock; another one that uses the
     * wall's is converted here, once. */
    call->deadline = gpr_convert_clock_type(call->deadline, GPR_CLOCK_MONOTONIC);
    grpc_op op;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    op.data.recv_close_on_server.cancelled = &call->cancelled;
    sl_rpc_ref(call);
    grpc_call_error error = grpc_call_start_batch(call->core, &op, 1, &call->closed, NULL);
    assert(error == GRPC_CALL_OK); /* without an end marker stop would wait for ever */
    (void)error;
    read_ticket(call);
    if (admit(call) && is_allowed(call))
        obey(call, sl_door_claim(server->door, &call->ticket, call, call->route->method.client_streaming,
                                 &call->length));
    sl_rpc_unref(call); /* the slot's */
}

void sl_rpc_call_arm(struct sl_rpc_worker *worker, const struct sl_rpc_route *route)
{
    struct sl_rpc_server *server = worker->server;
    struct sl_rpc_call *call = calloc(1, sizeof *call);
    if (!call) { /* a slot lost is a method that hangs one day: better to end here and be started
                    anew */
        sl_log_error("out of memory for a %zu-byte call", sizeof *call);
        abort();
    }
    atomic_init(&call->refs, 1);
    call->server = server;
    call->worker = worker;
    call->route = route;
    call->queue_room = server->queue_messages;
    call->arrived.fn = on_arrived;
    call->received.fn = on_received;
    call->sent.fn = on_sent;
    call->closed.fn = on_closed;
    call->sentence = grpc_empty_slice();
    pthread_mutex_init(&call->lock, NULL);
    grpc_call_details_init(&call->details);
    grpc_metadata_array_init(&call->metadata);
    pthread_mutex_lock(&server->lock);
    server->active++;
    pthread_mutex_unlock(&server->lock);
    grpc_call_error error;
    if (route)
        error = grpc_server_request_registered_call(server->core, route->handle, &call->core, &call->deadline,
                                                    &call->metadata, NULL, worker->queue, worker->queue,
                                                    &call->arrived);
    else
        error = grpc_server_request_call(server->core, &call->core, &call->details, &call->metadata,
                                         worker->queue, worker->queue, &call->arrived);
    if (error != GRPC_CALL_OK) { /* shutdown has begun */
        sl_rpc_unref(call);
        one_less(server);
    }
}
