/* Rows beside a line, everything else over it: what decorates the transport of links whose rows another carries (transport_beside.h).
 *
 * A frame of an ORDER with enough rows is split where its record ends: header and record go over the inner transport as any frame
 * does, and so the host has them; its rows go from the sender's memory into the slot that the header was given. They are called for
 * when the header is there, in the order in which the frames are numbered, which is that of the sends; headers may overtake each other.
 * A frame has landed, or its buffer is free, when both halves are through.
 *
 * What takes too long, and every error that a carrier tells, breaks the line: the link carries on over another one, with ways of its
 * own. Buffers are given back when the carrier has ended what it began. */
#include "pipeline/link/transport_beside.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mutate.h"
#include "pipeline/record/rows.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    POLL_MS = 1,
    CLOSE_MS = 2000, /* for rows to come home when all lines have been given up */
    QUIET_MS = 10000 /* between two words in the log about the same */
};

struct beside_side { /* what a line has more than the inner transport knows */
    struct beside_side *next;
    struct sl_transport *transport;
    struct sl_line *line; /* the inner transport's; NULL: closed */
    struct sl_conn *conn;
    uint8_t id[SL_BESIDE_ID_BYTES]; /* under which the peer meets us, for the rows that we send */
    struct sl_way out, in;
    bool joined, failed, hung_up;
    uint64_t join_by_ms;
    struct sl_rows_op
        *early[SL_SLOTS_MAX]; /* by number: headers that have come, from the first that has not */
    uint64_t next_number;
    bool counts; /* next_number is known */
};

struct sl_transport {
    struct sl_transport *inner; /* another's, which only that one knows */
    const struct sl_transport_ops *ops;
    struct sl_hub *hub;
    void *carrier;
    const struct sl_rows_device *device;
    struct sl_wire_limits limits;
    uint64_t rows_from;
    uint32_t patience_ms, join_ms;
    struct beside_side *sides;
    uint64_t said_ms;
};

static struct sl_rows_op no_rows; /* stands in `early` for a frame all of which goes over the line */

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

static const struct sl_rows_carrier *carrier_of(const struct beside_side *side)
{
    return side->transport->ops->carrier;
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
        sl_log_warn("rows by %s: %s (%s); %s", carrier_of(side)->name, reason, detail,
                    carrier_of(side)->hint);
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

/* NULL: rows of as many frames as there are slots are under way. */
static struct sl_rows_op *op_take(struct sl_way *way, const struct sl_wire *wire)
{
    struct sl_rows_op *op = way->ops;
    while (op < way->ops + SL_SLOTS_MAX && op->busy)
        op++;
    if (op == way->ops + SL_SLOTS_MAX)
        return NULL;
    *op = (struct sl_rows_op){.busy = true,
                              .event = op->event,
                              .copy = op->copy,
                              .copy_bytes = op->copy_bytes,
                              .number = wire->number,
                              .n_rows = (size_t)(wire->payload_bytes - wire->meta_bytes)};
    return op;
}

static void op_append(struct sl_way *way, struct sl_rows_op *op)
{
    if (!way->first)
        way->moved_ms = clock_ms();
    op->next = NULL;
    *way->last = op;
    way->last = &op->next;
}

/* One of its halves is through, or will never be. The hub learns of the frame with the second. */
static void op_half(struct sl_rows_op *op, bool *half, sl_status status)
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

/* Begins what waits, in order. True: something moved. */
static bool way_begin(struct beside_side *side, struct sl_way *way)
{
    bool any = false;
    for (struct sl_rows_op *op = way->first; op; op = op->next) {
        const char *detail = "";
        if (op->stage == SL_ROWS_RUN)
            continue;
        int begun = carrier_of(side)->begin(way, op, &detail);
        any |= begun != 0;
        if (begun < 0)
            side_failed(side, "a transfer of rows could not be begun", detail);
        if (begun <= 0)
            break;
        op->stage = SL_ROWS_RUN;
    }
    return any;
}

static bool way_take_over(struct beside_side *side, struct sl_way *way)
{
    bool any = false;
    while (way->first && way->first->stage == SL_ROWS_RUN) {
        struct sl_rows_op *op = way->first;
        const char *detail = "";
        int through = carrier_of(side)->is_through(way, op, &detail);
        if (through < 0)
            side_failed(side, "rows are lost on their way, or the device that has them is", detail);
        if (through <= 0)
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

static bool is_late(const struct beside_side *side, const struct sl_way *way)
{
    uint64_t now_ms = clock_ms();
    if (way->state == SL_WAY_JOINING)
        return now_ms >= side->join_by_ms;
    return way->first && !SL_MUTATED(ROWS_PATIENT) &&
           now_ms - way->moved_ms >=
               side->transport->patience_ms + way->first->n_rows / (1000u * SL_SLOWEST_MB_PER_S);
}

static bool way_step(struct beside_side *side, struct sl_way *way)
{
    const char *detail = "";
    bool any = false;
    if (way->state != SL_WAY_JOINING && way->state != SL_WAY_UP)
        return false;
    int up = carrier_of(side)->is_up(way, &detail);
    if (up < 0) {
        side_failed(side,
                    way->state == SL_WAY_JOINING ? "the two ends of a link do not meet"
                                                 : "a transfer of rows has failed",
                    detail);
        return true;
    }
    if (way->state == SL_WAY_JOINING && up) {
        way->state = SL_WAY_UP;
        way->moved_ms = clock_ms();
        any = true;
    }
    if (way->state == SL_WAY_UP && up)
        any |= way_begin(side, way);
    any |= way_take_over(side, way);
    if (is_late(side, way))
        side_failed(side, "rows do not get through in time, or their ways do not come up", "no answer");
    return any;
}

/* ---- The end of a way ---- */

/* What was asked for comes home: nobody touches any of it any more. */
static void way_give_back(struct sl_way *way)
{
    way->first = NULL;
    way->last = &way->first;
    for (int i = 0; i < SL_SLOTS_MAX; i++) /* also those that wait for a header before them */
        if (way->ops[i].busy && !way->ops[i].rows_over)
            op_half(&way->ops[i], &way->ops[i].rows_over, SL_E_CANCELLED);
}

static bool way_end_step(struct beside_side *side, struct sl_way *way)
{
    if (way->state != SL_WAY_ENDING || !carrier_of(side)->end(way))
        return false;
    way->state = SL_WAY_OVER;
    way_give_back(way);
    return true;
}

static void way_end(struct beside_side *side, struct sl_way *way)
{
    if (way->state == SL_WAY_ENDING || way->state == SL_WAY_OVER)
        return;
    way->state = SL_WAY_ENDING;
    way->ending_ms = clock_ms();
    way_end_step(side, way);
}

static void way_fini(struct sl_way *way)
{
    const struct sl_rows_device *device = way->device;
    for (int i = 0; i < SL_SLOTS_MAX; i++) {
        if (way->ops[i].event)
            device->event_close(device->user, way->ops[i].event);
        free(way->ops[i].copy);
    }
    if (way->stream)
        device->stream_close(device->user, way->stream);
}

/* ---- Sides ---- */

static void side_free(struct beside_side *side)
{
    struct beside_side **at = &side->transport->sides;
    while (*at != side)
        at = &(*at)->next;
    *at = side->next;
    way_fini(&side->out);
    way_fini(&side->in);
    free(side);
}

static bool side_step(struct beside_side *side)
{
    bool any = false;
    if (!side->hung_up) {
        any = way_step(side, &side->out);
        any |= way_step(side, &side->in);
        if (!side->joined && side->out.state == SL_WAY_UP && side->in.state == SL_WAY_UP) {
            side->joined = true;
            sl_conn_joined(side->conn);
        }
        return any;
    }
    any = way_end_step(side, &side->out);
    any |= way_end_step(side, &side->in);
    if (side->line || side->out.state != SL_WAY_OVER || side->in.state != SL_WAY_OVER)
        return any;
    struct sl_conn *conn = side->conn;
    side_free(side);
    sl_hub_closed(conn);
    return true;
}

static bool way_open(struct beside_side *side, struct sl_way *way, bool out)
{
    const struct sl_rows_device *device = side->transport->device;
    way->carrier = side->transport->carrier;
    way->device = device;
    way->line = side->line;
    way->out = out;
    way->last = &way->first;
    way->stream = device->stream_open(device->user);
    bool whole = way->stream != NULL;
    for (int i = 0; i < SL_SLOTS_MAX && whole; i++) {
        way->ops[i].event = device->event_open(device->user);
        whole = way->ops[i].event != NULL;
    }
    return whole;
}

static bool beside_offer(struct sl_line *line, struct sl_conn *conn, uint8_t id[SL_BESIDE_ID_BYTES])
{
    struct sl_transport *t = conn->hub->transport;
    struct beside_side *side = calloc(1, sizeof *side);
    const char *detail = "";
    if (!side)
        return false;
    side->transport = t;
    side->line = line;
    side->conn = conn;
    side->next = t->sides;
    t->sides = side;
    if (t->ops->carrier->draw(t->carrier, side->id, &detail) < 0) {
        side_failed(side, "there is no id to be had", detail);
        return false;
    }
    memcpy(id, side->id, SL_BESIDE_ID_BYTES);
    return true;
}

static bool way_meet(struct beside_side *side, struct sl_way *way, const uint8_t id[SL_BESIDE_ID_BYTES],
                     const char **detail)
{
    bool begun = carrier_of(side)->meet(way, id, detail) > 0;
    way->state = begun ? SL_WAY_JOINING : way->state;
    return begun;
}

/* Who calls has proved by now who it is: nobody else takes the device's streams. */
static sl_status beside_join(struct sl_conn *conn, const uint8_t id[SL_BESIDE_ID_BYTES])
{
    struct sl_transport *t = conn->hub->transport;
    struct beside_side *side = side_of(t, conn);
    const char *detail = "";
    assert(side);
    side->join_by_ms = clock_ms() + t->join_ms;
    if (!way_open(side, &side->out, true) || !way_open(side, &side->in, false)) {
        side_failed(side, "the device has no streams or events left", "each line takes two");
        return SL_E_UNAVAILABLE;
    }
    if (way_meet(side, &side->out, side->id, &detail) &&
        way_meet(side, &side->in, SL_MUTATED(ROWS_OLD_ID) ? side->id : id, &detail))
        return SL_AGAIN;
    side_failed(side, "the two ends of a link do not meet", detail);
    return SL_E_UNAVAILABLE;
}

/* ---- The table: going out ---- */

static void beside_send(struct sl_line *line, struct sl_sending *sending)
{
    static const uint8_t padding[SL_PAD_BYTES];
    struct sl_transport *t = sending->conn->hub->transport;
    struct beside_side *side = side_of(t, sending->conn);
    if (side && sending->link && goes_beside(t, &sending->wire)) {
        struct sl_rows_op *op = op_take(&side->out, &sending->wire);
        size_t meta = sending->wire.meta_bytes;
        if (!op) { /* it has lent the slots of rows again that it has not taken */
            side_failed(side, "the peer's credit makes no sense",
                        "more rows are under way than it has slots");
            sl_hub_sent(sending, SL_E_PEER_LOST);
            return;
        }
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
static void beside_sent(struct sl_transport *t, struct sl_sending *sending, sl_status status)
{
    struct beside_side *side = sending->link ? side_of(t, sending->conn) : NULL;
    for (int i = 0; side && i < SL_SLOTS_MAX; i++) {
        struct sl_rows_op *op = &side->out.ops[i];
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
    struct sl_rows_op **at;
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
    struct sl_rows_op *op = op_take(&side->in, &whole->wire);
    assert(op); /* it has a slot of ours */
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

static struct sl_landing *beside_arrived(struct sl_transport *t, struct sl_conn *conn, const void *header,
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

static void beside_landed(struct sl_transport *t, struct sl_landing *landing, sl_status status)
{
    struct beside_side *side = side_of(t, landing->conn);
    for (int i = 0; side && i < SL_SLOTS_MAX; i++) {
        struct sl_rows_op *op = &side->in.ops[i];
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

static void beside_leave(struct sl_conn *conn)
{
    struct beside_side *side = side_of(conn->hub->transport, conn);
    if (!side)
        return;
    side->hung_up = true;
    way_end(side, &side->out);
    way_end(side, &side->in);
}

/* The inner transport has nothing of this line any more. */
static void beside_closed(struct sl_transport *t, struct sl_conn *conn)
{
    struct beside_side *side = side_of(t, conn);
    if (!side) {
        sl_hub_closed(conn);
        return;
    }
    side->line = side->out.line = side->in.line = NULL;
    side_step(side);
}

static bool beside_progress(struct sl_transport *t)
{
    bool any = t->ops->inner->progress(t->inner);
    for (struct beside_side *side = t->sides, *next; side; side = next) {
        next = side->next;
        any |= side_step(side);
    }
    return any;
}

static sl_status beside_connect(struct sl_transport *t, uint64_t link, const struct sl_io_address *peer,
                                struct sl_conn *conn, struct sl_line **line)
{
    return t->ops->inner->connect(t->inner, link, peer, conn, line);
}

/* ---- The table: the rest ---- */

static uint64_t beside_beside(const struct sl_transport *t)
{
    return t->rows_from;
}

/* For rows to get through on a line that lives, before it is tried anew over another. */
static uint32_t patience_of(const struct sl_io_config *config)
{
    uint32_t by_silence_ms = 5 * config->silent_ms, by_loss_ms = config->lost_ms / 2;
    return by_loss_ms > 0 && by_loss_ms < by_silence_ms ? by_loss_ms : by_silence_ms;
}

static sl_status beside_open(struct sl_transport **out, struct sl_hub *hub, const struct sl_io_config *config,
                             struct sl_err *err)
{
    const struct sl_transport_ops *ops = config->transport;
    void *carrier = NULL;
    if (!config->rows_device)
        return sl_fail(
            err, SL_E_CONFIG,
            "--rows %s is for rows in a GPU's memory, and this stage computes in the host's; choose --rows "
            "staged",
            ops->carrier->option);
    if (ops->carrier->open)
        SL_TRY(ops->carrier->open(&carrier, config, err));
    struct sl_transport *t = calloc(1, sizeof *t);
    sl_status status = t ? SL_OK : sl_fail(err, SL_E_NOMEM, "out of memory for a transport");
    if (status == SL_OK) {
        *t = (struct sl_transport){.ops = ops,
                                   .hub = hub,
                                   .carrier = carrier,
                                   .device = config->rows_device,
                                   .limits = config->limits,
                                   .rows_from = config->rows_from ? config->rows_from : SL_ROWS_BESIDE_FROM,
                                   .patience_ms = patience_of(config),
                                   .join_ms = config->join_ms};
        status = ops->inner->open(&t->inner, hub, config, err);
    }
    if (status != SL_OK) {
        free(t);
        if (ops->carrier->close)
            ops->carrier->close(carrier);
        return status;
    }
    *out = t;
    return SL_OK;
}

static bool some_way_ends(const struct sl_transport *t)
{
    const struct beside_side *side = t->sides;
    while (side && side->out.state != SL_WAY_ENDING && side->in.state != SL_WAY_ENDING)
        side = side->next;
    return side != NULL;
}

/* What the hub has given up on still has to end, before its memory goes; rows that go over the lines themselves come home by their
 * progress only. */
static void beside_close(struct sl_transport *t)
{
    uint64_t begun_ms = clock_ms();
    for (struct beside_side *side = t->sides; side; side = side->next)
        beside_leave(side->conn);
    while (some_way_ends(t)) {
        if (clock_ms() - begun_ms >= CLOSE_MS) {
            sl_log_error(
                "rows by %s have not come home within %d s of their link's end, and may still be written to: this "
                "process ends, and has to be started again",
                t->ops->carrier->name, CLOSE_MS / 1000);
            _exit(EX_UNAVAILABLE);
        }
        if (!beside_progress(t))
            usleep(1000);
    }
    t->ops->inner->close(t->inner);
    while (t->sides)
        side_free(t->sides);
    if (t->ops->carrier->close)
        t->ops->carrier->close(t->carrier);
    free(t);
}

static void beside_where(const struct sl_transport *t, struct sl_io_address *address,
                         char host[SL_IO_HOST_BYTES], uint16_t *port, bool *shielded)
{
    t->ops->inner->where(t->inner, address, host, port, shielded);
}

static void beside_admit(struct sl_transport *t, const struct sl_io_address *const *peers, uint32_t n_peers)
{
    if (t->ops->inner->admit)
        t->ops->inner->admit(t->inner, peers, n_peers);
}

static sl_status beside_map(struct sl_transport *t, void *base, size_t bytes, void **region)
{
    return t->ops->inner->map(t->inner, base, bytes, region);
}

static void beside_unmap(struct sl_transport *t, void *region)
{
    t->ops->inner->unmap(t->inner, region);
}

static int beside_fd(const struct sl_transport *t)
{
    return t->ops->inner->fd(t->inner);
}

static bool beside_arm(struct sl_transport *t)
{
    return t->ops->inner->arm(t->inner);
}

#define TABLE                                                                                                \
    .poll_ms = POLL_MS, .open = beside_open, .close = beside_close, .where = beside_where,                   \
    .admit = beside_admit, .connect = beside_connect, .send = beside_send, .leave = beside_leave,            \
    .map = beside_map, .unmap = beside_unmap, .progress = beside_progress, .fd = beside_fd,                  \
    .arm = beside_arm, .beside = beside_beside, .offer = beside_offer, .join = beside_join,                  \
    .arrived = beside_arrived, .landed = beside_landed, .sent = beside_sent, .closed = beside_closed

const struct sl_transport_ops sl_transport_ucx_nccl = {
    .name = "ucx+nccl", .inner = &sl_transport_ucx, .carrier = &sl_rows_by_nccl, .silent_loss = true, TABLE};

const struct sl_transport_ops sl_transport_local_nccl = {.name = "local+nccl",
                                                         .inner = &sl_transport_local,
                                                         .carrier = &sl_rows_by_nccl,
                                                         .one_clock = true,
                                                         TABLE};

const struct sl_transport_ops sl_transport_ucx_device = {
    .name = "ucx+device", .inner = &sl_transport_ucx, .carrier = &sl_rows_by_ucx, .silent_loss = true, TABLE};
