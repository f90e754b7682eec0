/* Rows by NCCL, everything else by another transport: what decorates that one for links whose rows travel beside the line.
 *
 * A frame of an ORDER with enough rows is split where its record ends: header and record go over the inner transport as any frame
 * does, and so the host has them; its rows go by ncclSend from the sender's memory and by ncclRecv into the slot that the header was
 * given. Neither call has a length, a name or a refusal, so a receive is posted when the header is there, of just so many bytes, and in
 * the order in which the frames are numbered, which is that of the sends; headers may overtake each other. A credit precedes every send,
 * so one never waits for a slot. A frame has landed, or its buffer is free, when both halves are through.
 *
 * A line has two communicators of two ranks, one each way, so that one way never waits for the other. Who sends draws the id, the
 * handshake tells it (handshake.c), and with every line come new ones: a communicator is never used again after an error. None of
 * NCCL's calls waits (blocking = 0); what they began is asked for in `progress`, and when an operation is through says an event behind
 * it on its stream.
 *
 * Whether a peer lives is for the heartbeat to say and never for NCCL, which mostly tells nothing when one is gone. What takes too
 * long, and every error that it does tell, breaks the line. Then both communicators are aborted, each on a thread of its own, because the
 * call waits for the device and may hang; only when it has returned are buffers given back, since before that the device may write
 * into them. One that has not returned within a second ends the process, whose supervisor starts it again: there is no way to have
 * those buffers back. */
#include "base/clock.h"
#include "base/log.h"
#include "base/mutate.h"
#include "base/rows_device.h"
#include "pipeline/link/link_impl.h"
#include "pipeline/link/transport_nccl_api.h"
#include "pipeline/record/rows.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    POLL_MS = 1,
    ABORT_MS = 1000, /* for a communicator to end */
    QUIET_MS = 10000 /* between two words in the log about the same */
};

enum op_stage { OP_WAITS, OP_CALLED, OP_RUNS };

struct beside_op { /* a frame of which the rows go beside; while they do, in its way's list */
    struct beside_op *next;
    enum op_stage stage;
    bool busy, inner_over, rows_over;
    sl_status status;
    struct sl_sending *sending; /* out, with what the hub had put into it */
    const void *payload;
    size_t bytes;
    struct sl_landing *whole, record; /* in: the hub's, and where the inner transport puts its half */
    uint8_t pad[SL_PAD_BYTES];        /* instead of a record of no bytes */
    void *rows;
    size_t n_rows;
    void *event;
};

enum way_state { WAY_NONE, WAY_JOINING, WAY_UP, WAY_ENDING, WAY_OVER };

struct beside_way { /* one direction of a line */
    struct sl_nccl_comm *comm;
    void *stream;
    enum way_state state;
    struct beside_op *first, **last; /* in the order of the frames */
    uint64_t moved_ms;               /* when something got through, or there was nothing */
    struct beside_op ops[SL_SLOTS_MAX];
    int (*abort)(struct sl_nccl_comm *comm);
    bool has_thread;
    uint64_t ending_ms;
    _Atomic bool aborted;
};

struct beside_side { /* what a line has more than the inner transport knows */
    struct beside_side *next;
    struct sl_transport *transport;
    struct sl_line *line; /* the inner transport's; NULL: closed */
    struct sl_conn *conn;
    struct sl_nccl_id id; /* under which the peer meets us, for the rows that we send */
    struct beside_way out, in;
    bool joined, failed, hung_up;
    uint64_t join_by_ms;
    struct beside_op
        *early[SL_SLOTS_MAX]; /* by number: headers that have come, from the first that has not */
    uint64_t next_number;
    bool counts; /* next_number is known */
};

struct sl_transport {
    struct sl_transport *inner; /* another's, which only that one knows */
    const struct sl_transport_ops *ops;
    struct sl_hub *hub;
    struct sl_nccl nccl;
    const struct sl_rows_device *device;
    struct sl_wire_limits limits;
    uint64_t rows_from;
    uint32_t patience_ms, join_ms;
    struct beside_side *sides;
    struct sl_nccl_id
        first_id; /* drawn at the start, since the first one makes NCCL look at the machine's networks */
    bool first_used;
    uint64_t said_ms;
};

static struct beside_op no_rows; /* stands in `early` for a frame all of which goes over the line */

static uint64_t clock_ms(void)
{
    return sl_clock_ns() / 1000000u;
}

static struct beside_side *side_of(const struct sl_transport *t, const struct sl_conn *conn)
{
    struct beside_side *side = t->sides;
    while (side && side->conn != conn)
        side = side->next;
    return side;
}

/* One word every few seconds; the line breaks whether it is said or not. */
static void side_failed(struct beside_side *side, const char *reason, const char *detail)
{
    struct sl_transport *t = side->transport;
    uint64_t now_ms = clock_ms();
    if (side->failed || side->hung_up)
        return;
    side->failed = true;
    if (t->said_ms == 0 || now_ms - t->said_ms >= QUIET_MS) {
        t->said_ms = now_ms;
        sl_log_warn(
            "rows by NCCL: %s (%s); NCCL_DEBUG=WARN in the environment of both nodes makes it say more",
            reason, detail);
    }
    sl_conn_broken(side->conn, SL_E_PEER_LOST, reason);
}

/* ---- Frames of two halves ---- */

static bool goes_beside(const struct sl_transport *t, const struct sl_wire *wire)
{
    return wire->kind == SL_WIRE_ORDER && wire->payload_bytes - wire->meta_bytes >= t->rows_from;
}

static size_t record_bytes(const struct sl_wire *wire)
{
    return wire->meta_bytes > 0 ? wire->meta_bytes : SL_PAD_BYTES;
}

static struct beside_op *op_take(struct beside_way *way, const struct sl_wire *wire)
{
    struct beside_op *op = way->ops;
    while (op < way->ops + SL_SLOTS_MAX && op->busy)
        op++;
    assert(op < way->ops + SL_SLOTS_MAX); /* a frame under way has a slot of the receiver */
    *op = (struct beside_op){
        .busy = true, .event = op->event, .n_rows = (size_t)(wire->payload_bytes - wire->meta_bytes)};
    return op;
}

static void op_append(struct beside_way *way, struct beside_op *op)
{
    if (!way->first)
        way->moved_ms = clock_ms();
    op->next = NULL;
    *way->last = op;
    way->last = &op->next;
}

/* One of its halves is through, or will never be. The hub learns of the frame with the second. */
static void op_half(struct beside_op *op, bool *half, sl_status status)
{
    *half = true;
    if (op->status == SL_OK)
        op->status = status;
    if (!op->inner_over || !(op->rows_over || SL_MUTATED(ROWS_UNAWAITED)))
        return;
    op->busy = SL_MUTATED(ROWS_UNAWAITED) && !op->rows_over;
    if (op->sending) {
        struct sl_sending *sending = op->sending;
        op->sending = NULL;
        sending->payload = op->payload;
        sending->bytes = op->bytes;
        sl_hub_sent(sending, op->status);
    } else if (op->whole) {
        struct sl_landing *whole = op->whole;
        op->whole = NULL;
        sl_hub_landed(whole, op->status);
    }
}

/* ---- One way ---- */

static int call(const struct beside_side *side, const struct beside_way *way, const struct beside_op *op)
{
    const struct sl_transport *t = side->transport;
    if (way == &side->in)
        return t->nccl.recv(op->rows, op->n_rows, SL_NCCL_UINT8, 0, way->comm, way->stream);
    if (!SL_MUTATED(ROWS_UNREADY) && !t->device->await_rows(t->device->user, way->stream, op->rows))
        return SL_NCCL_INTERNAL_ERROR;
    return t->nccl.send(op->rows, op->n_rows, SL_NCCL_UINT8, 1, way->comm, way->stream);
}

/* Calls what waits, in order; at most one is being begun. True: something moved. */
static bool way_call(struct beside_side *side, struct beside_way *way)
{
    struct sl_transport *t = side->transport;
    bool any = false;
    for (struct beside_op *op = way->first; op; op = op->next) {
        if (op->stage == OP_RUNS)
            continue;
        int result = op->stage == OP_CALLED ? SL_NCCL_SUCCESS : call(side, way, op);
        any = true;
        if (result == SL_NCCL_IN_PROGRESS && !SL_MUTATED(ROWS_IN_PROGRESS)) {
            op->stage = OP_CALLED;
            break;
        }
        if ((result != SL_NCCL_SUCCESS && result != SL_NCCL_IN_PROGRESS) ||
            !t->device->record(t->device->user, way->stream, op->event)) {
            side_failed(side, "a transfer of rows could not be begun", t->nccl.get_error_string(result));
            break;
        }
        op->stage = OP_RUNS;
    }
    return any;
}

static bool way_take_over(struct beside_side *side, struct beside_way *way)
{
    const struct sl_rows_device *device = side->transport->device;
    bool any = false;
    while (way->first && way->first->stage == OP_RUNS) {
        struct beside_op *op = way->first;
        int passed = device->passed(device->user, op->event);
        if (passed < 0)
            side_failed(side, "the device that has the rows is lost", "its event fails");
        if (passed <= 0)
            break;
        way->first = op->next;
        if (!way->first)
            way->last = &way->first;
        way->moved_ms = clock_ms();
        op_half(op, &op->rows_over, SL_OK);
        any = true;
    }
    return any;
}

static bool is_late(const struct beside_side *side, const struct beside_way *way)
{
    uint64_t now_ms = clock_ms();
    if (way->state == WAY_JOINING)
        return now_ms >= side->join_by_ms;
    return way->first && !SL_MUTATED(ROWS_PATIENT) &&
           now_ms - way->moved_ms >=
               side->transport->patience_ms + way->first->n_rows / (1000u * SL_SLOWEST_MB_PER_S);
}

static bool way_step(struct beside_side *side, struct beside_way *way)
{
    struct sl_transport *t = side->transport;
    int state = SL_NCCL_SUCCESS;
    bool any = false;
    if (way->state != WAY_JOINING && way->state != WAY_UP)
        return false;
    int result = t->nccl.comm_get_async_error(way->comm, &state);
    if (result != SL_NCCL_SUCCESS)
        state = result;
    if (state != SL_NCCL_SUCCESS && state != SL_NCCL_IN_PROGRESS && !SL_MUTATED(ROWS_DEAF)) {
        side_failed(side,
                    way->state == WAY_JOINING ? "the two ends of a link do not meet"
                                              : "a transfer of rows has failed",
                    t->nccl.get_error_string(state));
        return true;
    }
    if (way->state == WAY_JOINING && state == SL_NCCL_SUCCESS) {
        way->state = WAY_UP;
        way->moved_ms = clock_ms();
        any = true;
    }
    if (way->state == WAY_UP && state == SL_NCCL_SUCCESS)
        any |= way_call(side, way);
    any |= way_take_over(side, way);
    if (is_late(side, way))
        side_failed(side, "rows do not get through in time, or their ways do not come up", "no answer");
    return any;
}

/* ---- The end of a way ---- */

static void *abort_main(void *argument)
{
    struct beside_way *way = argument;
    pthread_setname_np(pthread_self(), "nccl-abort");
    way->abort(way->comm);
    atomic_store_explicit(&way->aborted, true, memory_order_release);
    return NULL;
}

/* What NCCL was asked for comes home: the device touches none of it any more. */
static void way_give_back(struct beside_way *way)
{
    way->first = NULL;
    way->last = &way->first;
    for (int i = 0; i < SL_SLOTS_MAX; i++) /* also those that wait for a header before them */
        if (way->ops[i].busy && !way->ops[i].rows_over)
            op_half(&way->ops[i], &way->ops[i].rows_over, SL_E_CANCELLED);
}

static void way_end(struct beside_side *side, struct beside_way *way)
{
    if (way->state == WAY_ENDING || way->state == WAY_OVER)
        return;
    way->state = way->comm && !SL_MUTATED(ROWS_UNABORTED) ? WAY_ENDING : WAY_OVER;
    way->ending_ms = clock_ms();
    way->abort = side->transport->nccl.comm_abort;
    if (way->state == WAY_OVER)
        way_give_back(way);
}

static void way_fini(const struct sl_transport *t, struct beside_way *way)
{
    const struct sl_rows_device *device = t->device;
    for (int i = 0; i < SL_SLOTS_MAX; i++)
        if (way->ops[i].event)
            device->event_close(device->user, way->ops[i].event);
    if (way->stream)
        device->stream_close(device->user, way->stream);
}

/* A thread that could not be had is asked for again, as long as there is time. */
static bool way_end_step(struct beside_way *way)
{
    if (way->state != WAY_ENDING)
        return false;
    if (!way->has_thread) {
        pthread_t thread;
        way->has_thread = pthread_create(&thread, NULL, abort_main, way) == 0;
        if (way->has_thread)
            pthread_detach(thread);
    }
    if (atomic_load_explicit(&way->aborted, memory_order_acquire)) {
        way->state = WAY_OVER;
        way_give_back(way);
        return true;
    }
    if (clock_ms() - way->ending_ms >= ABORT_MS && !SL_MUTATED(ROWS_NO_WATCHDOG)) {
        sl_log_error(
            "NCCL has not ended a transfer of rows within %d ms, and the device may still write into their buffers: "
            "this process ends, and has to be started again",
            ABORT_MS);
        _exit(EX_UNAVAILABLE);
    }
    return false;
}

/* ---- Sides ---- */

static void side_free(struct beside_side *side)
{
    struct beside_side **at = &side->transport->sides;
    while (*at != side)
        at = &(*at)->next;
    *at = side->next;
    way_fini(side->transport, &side->out);
    way_fini(side->transport, &side->in);
    free(side);
}

static bool side_step(struct beside_side *side)
{
    bool any = false;
    if (!side->hung_up) {
        any = way_step(side, &side->out);
        any |= way_step(side, &side->in);
        if (!side->joined && side->out.state == WAY_UP && side->in.state == WAY_UP) {
            side->joined = true;
            sl_conn_joined(side->conn);
        }
        return any;
    }
    any = way_end_step(&side->out);
    any |= way_end_step(&side->in);
    if (side->line || side->out.state != WAY_OVER || side->in.state != WAY_OVER)
        return any;
    struct sl_conn *conn = side->conn;
    side_free(side);
    sl_hub_closed(conn);
    return true;
}

static bool way_open(struct beside_side *side, struct beside_way *way)
{
    const struct sl_rows_device *device = side->transport->device;
    way->last = &way->first;
    way->stream = device->stream_open(device->user);
    bool whole = way->stream != NULL;
    for (int i = 0; i < SL_SLOTS_MAX && whole; i++) {
        way->ops[i].event = device->event_open(device->user);
        whole = way->ops[i].event != NULL;
    }
    return whole;
}

static int draw_id(struct sl_transport *t, struct sl_nccl_id *id)
{
    if (t->first_used)
        return t->nccl.get_unique_id(id);
    t->first_used = true;
    *id = t->first_id;
    return SL_NCCL_SUCCESS;
}

static bool nccl_offer(struct sl_line *line, struct sl_conn *conn, uint8_t id[SL_BESIDE_ID_BYTES])
{
    struct sl_transport *t = conn->hub->transport;
    struct beside_side *side = calloc(1, sizeof *side);
    _Static_assert(sizeof side->id == SL_BESIDE_ID_BYTES, "an id is an id of NCCL");
    if (!side)
        return false;
    side->transport = t;
    side->line = line;
    side->conn = conn;
    side->next = t->sides;
    t->sides = side;
    bool ready = way_open(side, &side->out) && way_open(side, &side->in);
    int result = ready ? draw_id(t, &side->id) : SL_NCCL_SYSTEM_ERROR;
    if (result != SL_NCCL_SUCCESS) {
        side_failed(side, ready ? "there is no id to be had" : "the device has no streams or events left",
                    t->nccl.get_error_string(result));
        return false;
    }
    memcpy(id, side->id.bytes, SL_BESIDE_ID_BYTES);
    return true;
}

/* minCTAs and maxCTAs: a link takes few of the device's processors from those that compute. */
static int way_join(struct beside_side *side, struct beside_way *way, const struct sl_nccl_id *id, int rank)
{
    struct sl_nccl_config config = {.size = sizeof config,
                                    .magic = SL_NCCL_CONFIG_MAGIC,
                                    .version = SL_NCCL_CONFIG_VERSION,
                                    .blocking = 0,
                                    .cga_cluster_size = SL_NCCL_UNDEFINED,
                                    .min_ctas = 1,
                                    .max_ctas = 4,
                                    .net_name = NULL,
                                    .split_share = SL_NCCL_UNDEFINED};
    int result = side->transport->nccl.comm_init_rank_config(&way->comm, 2, *id, rank, &config);
    if (way->comm)
        way->state = WAY_JOINING;
    return result == SL_NCCL_IN_PROGRESS ? SL_NCCL_SUCCESS : result;
}

static sl_status nccl_join(struct sl_conn *conn, const uint8_t id[SL_BESIDE_ID_BYTES])
{
    struct sl_transport *t = conn->hub->transport;
    struct beside_side *side = side_of(t, conn);
    struct sl_nccl_id theirs;
    assert(side);
    memcpy(theirs.bytes, id, sizeof theirs.bytes);
    side->join_by_ms = clock_ms() + t->join_ms;
    int result = way_join(side, &side->out, &side->id, 0);
    if (result == SL_NCCL_SUCCESS)
        result = way_join(side, &side->in, SL_MUTATED(ROWS_OLD_ID) ? &side->id : &theirs, 1);
    if (result == SL_NCCL_SUCCESS)
        return SL_AGAIN;
    side_failed(side, "the two ends of a link do not meet", t->nccl.get_error_string(result));
    return SL_E_UNAVAILABLE;
}

/* ---- The table: going out ---- */

static void nccl_send(struct sl_line *line, struct sl_sending *sending)
{
    static const uint8_t padding[SL_PAD_BYTES];
    struct sl_transport *t = sending->conn->hub->transport;
    struct beside_side *side = side_of(t, sending->conn);
    if (side && sending->link && goes_beside(t, &sending->wire)) {
        struct beside_op *op = op_take(&side->out, &sending->wire);
        size_t meta = sending->wire.meta_bytes;
        op->sending = sending;
        op->payload = sending->payload;
        op->bytes = sending->bytes;
        op->rows = t->device->address(t->device->user, (const uint8_t *)sending->payload + meta, op->n_rows);
        assert(op->rows); /* the owner has written to them there */
        sending->payload = meta > 0 ? sending->payload : padding;
        sending->bytes = record_bytes(&sending->wire);
        op_append(&side->out, op);
    }
    t->ops->inner->send(line, sending);
}

/* The inner transport is through with a frame, or with the half that it has. */
static void nccl_sent(struct sl_transport *t, struct sl_sending *sending, sl_status status)
{
    struct beside_side *side = sending->link ? side_of(t, sending->conn) : NULL;
    for (int i = 0; side && i < SL_SLOTS_MAX; i++) {
        struct beside_op *op = &side->out.ops[i];
        if (!op->busy || op->sending != sending)
            continue;
        if (status != SL_OK) /* its rows keep it until the line is closed, so that is said now */
            sl_conn_broken(side->conn, status, "a frame could not be sent");
        op_half(op, &op->inner_over, status);
        return;
    }
    sl_hub_sent(sending, status);
}

/* ---- The table: coming in ---- */

/* Receives are posted in the order of the sends: a header that came too early waits for those before it. */
static void queue_in_order(struct beside_side *side)
{
    struct beside_op **at;
    while (*(at = &side->early[side->next_number % SL_SLOTS_MAX])) {
        if (*at != &no_rows)
            op_append(&side->in, *at);
        *at = NULL;
        side->next_number++;
    }
}

static struct sl_landing *take_rows(struct beside_side *side, struct sl_landing *whole)
{
    const struct sl_rows_device *device = side->transport->device;
    size_t meta = whole->wire.meta_bytes;
    void *rows = device->address(device->user, whole->to + meta, (size_t)whole->wire.payload_bytes - meta);
    if (!rows) {
        sl_conn_broken(side->conn, SL_E_PROTOCOL, "rows come for which the device has no place");
        sl_hub_landed(whole, SL_E_PROTOCOL);
        return NULL;
    }
    struct beside_op *op = op_take(&side->in, &whole->wire);
    op->whole = whole;
    op->rows = rows;
    op->record = (struct sl_landing){.conn = side->conn,
                                     .to = meta > 0 ? whole->to : op->pad,
                                     .bytes = record_bytes(&whole->wire),
                                     .region = meta > 0 ? whole->region : NULL};
    if (SL_MUTATED(ROWS_AS_THEY_COME)) {
        op_append(&side->in, op);
        side->early[whole->wire.number % SL_SLOTS_MAX] = &no_rows;
    } else {
        side->early[whole->wire.number % SL_SLOTS_MAX] = op;
    }
    return &op->record;
}

static struct sl_landing *nccl_arrived(struct sl_transport *t, struct sl_conn *conn, const void *header,
                                       size_t header_bytes, size_t payload_bytes)
{
    struct beside_side *side = side_of(t, conn);
    struct sl_wire wire;
    bool is_data =
        side && !sl_wire_unpack(&wire, header, header_bytes, &t->limits) && wire.kind >= SL_WIRE_ORDER;
    bool beside = is_data && goes_beside(t, &wire);
    if (beside && payload_bytes != record_bytes(&wire) && payload_bytes != SL_BYTES_UNTOLD) {
        sl_conn_broken(conn, SL_E_PROTOCOL, "the length of a record differs from its header");
        return NULL;
    }
    struct sl_landing *whole =
        sl_hub_arrived(conn, header, header_bytes, beside ? SL_BYTES_UNTOLD : payload_bytes);
    if (!whole || !is_data)
        return whole;
    if (!side->counts) { /* the first of this line: none has landed over it */
        side->counts = true;
        side->next_number = sl_conn_delivered(conn);
    }
    struct sl_landing *landing = whole;
    if (beside && !(landing = take_rows(side, whole)))
        return NULL;
    if (!beside)
        side->early[wire.number % SL_SLOTS_MAX] = &no_rows;
    queue_in_order(side);
    return landing;
}

static void nccl_landed(struct sl_transport *t, struct sl_landing *landing, sl_status status)
{
    struct beside_side *side = side_of(t, landing->conn);
    for (int i = 0; side && i < SL_SLOTS_MAX; i++) {
        struct beside_op *op = &side->in.ops[i];
        if (landing != &op->record)
            continue;
        if (status != SL_OK)
            sl_conn_broken(side->conn, status, "a frame could not be received");
        op_half(op, &op->inner_over, status);
        return;
    }
    sl_hub_landed(landing, status);
}

/* ---- The table: lines ---- */

static void nccl_leave(struct sl_conn *conn)
{
    struct beside_side *side = side_of(conn->hub->transport, conn);
    if (!side)
        return;
    side->hung_up = true;
    way_end(side, &side->out);
    way_end(side, &side->in);
}

/* The inner transport has nothing of this line any more. */
static void nccl_closed(struct sl_transport *t, struct sl_conn *conn)
{
    struct beside_side *side = side_of(t, conn);
    if (!side) {
        sl_hub_closed(conn);
        return;
    }
    side->line = NULL;
    side_step(side);
}

static bool nccl_progress(struct sl_transport *t)
{
    bool any = t->ops->inner->progress(t->inner);
    for (struct beside_side *side = t->sides, *next; side; side = next) {
        next = side->next;
        any |= side_step(side);
    }
    return any;
}

static sl_status nccl_connect(struct sl_transport *t, uint64_t link, const struct sl_io_address *peer,
                              struct sl_conn *conn, struct sl_line **line)
{
    return t->ops->inner->connect(t->inner, link, peer, conn, line);
}

/* ---- The table: the rest ---- */

static uint64_t nccl_beside(const struct sl_transport *t)
{
    return t->rows_from;
}

/* For rows to get through on a line that lives, before it is tried anew over another. */
static uint32_t patience_of(const struct sl_io_config *config)
{
    uint32_t by_silence_ms = 5 * config->silent_ms, by_loss_ms = config->lost_ms / 2;
    return by_loss_ms > 0 && by_loss_ms < by_silence_ms ? by_loss_ms : by_silence_ms;
}

static sl_status nccl_open(struct sl_transport **out, struct sl_hub *hub, const struct sl_io_config *config,
                           struct sl_err *err)
{
    struct sl_nccl nccl;
    int version;
    if (!config->rows_device)
        return sl_fail(
            err, SL_E_CONFIG,
            "--rows nccl is for rows in a GPU's memory, and this stage computes in the host's; choose "
            "--rows staged");
    SL_TRY(sl_nccl_open(&nccl, &version, err));
    if (config->rows_device->twin != sl_nccl_is_twin())
        return sl_fail(
            err, SL_E_CONFIG,
            config->rows_device->twin
                ? "--rows nccl on the twin of a GPU is for the twin of NCCL, which SLUICE_NCCL names; "
                  "choose --rows staged"
                : "SLUICE_NCCL names the twin of NCCL, which does not know a GPU's memory; unset it, or "
                  "choose --rows staged");
    struct sl_nccl_id id;
    int result = nccl.get_unique_id(&id);
    if (result != SL_NCCL_SUCCESS)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "NCCL does not start (%s): look at NCCL_SOCKET_IFNAME and the network, or choose --rows "
            "staged",
            nccl.get_error_string(result));
    struct sl_transport *t = calloc(1, sizeof *t);
    if (!t)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a transport");
    *t = (struct sl_transport){.ops = config->transport,
                               .hub = hub,
                               .nccl = nccl,
                               .first_id = id,
                               .device = config->rows_device,
                               .limits = config->limits,
                               .rows_from = config->rows_from ? config->rows_from : SL_ROWS_BESIDE_FROM,
                               .patience_ms = patience_of(config),
                               .join_ms = config->handshake_ms};
    sl_status status = t->ops->inner->open(&t->inner, hub, config, err);
    if (status != SL_OK) {
        free(t);
        return status;
    }
    *out = t;
    return SL_OK;
}

/* What the hub has given up on still has to end, before its memory goes. */
static void nccl_close(struct sl_transport *t)
{
    for (struct beside_side *side = t->sides; side; side = side->next) {
        nccl_leave(side->conn);
        while (side->out.state == WAY_ENDING || side->in.state == WAY_ENDING) {
            way_end_step(&side->out);
            way_end_step(&side->in);
            usleep(1000);
        }
    }
    t->ops->inner->close(t->inner);
    while (t->sides)
        side_free(t->sides);
    free(t);
}

static void nccl_where(const struct sl_transport *t, struct sl_io_address *address,
                       char host[SL_IO_HOST_BYTES], uint16_t *port, bool *shielded)
{
    t->ops->inner->where(t->inner, address, host, port, shielded);
}

static void nccl_admit(struct sl_transport *t, const struct sl_io_address *const *peers, uint32_t n_peers)
{
    if (t->ops->inner->admit)
        t->ops->inner->admit(t->inner, peers, n_peers);
}

static sl_status nccl_map(struct sl_transport *t, void *base, size_t bytes, void **region)
{
    return t->ops->inner->map(t->inner, base, bytes, region);
}

static void nccl_unmap(struct sl_transport *t, void *region)
{
    t->ops->inner->unmap(t->inner, region);
}

static int nccl_fd(const struct sl_transport *t)
{
    return t->ops->inner->fd(t->inner);
}

static bool nccl_arm(struct sl_transport *t)
{
    return t->ops->inner->arm(t->inner);
}

#define TABLE                                                                                                \
    .poll_ms = POLL_MS, .open = nccl_open, .close = nccl_close, .where = nccl_where, .admit = nccl_admit,    \
    .connect = nccl_connect, .send = nccl_send, .leave = nccl_leave, .map = nccl_map, .unmap = nccl_unmap,   \
    .progress = nccl_progress, .fd = nccl_fd, .arm = nccl_arm, .beside = nccl_beside, .offer = nccl_offer,   \
    .join = nccl_join, .arrived = nccl_arrived, .landed = nccl_landed, .sent = nccl_sent,                    \
    .closed = nccl_closed

const struct sl_transport_ops sl_transport_ucx_nccl = {
    .name = "ucx+nccl", .inner = &sl_transport_ucx, .silent_loss = true, TABLE};

const struct sl_transport_ops sl_transport_local_nccl = {
    .name = "local+nccl", .inner = &sl_transport_local, .one_clock = true, TABLE};
