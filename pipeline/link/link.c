/* Frames of a link: out and in, as far as credit goes, in order.
 *
 * Everything in link.c, handshake.c and life.c runs on one I/O thread, is the same over every transport, and reads no clock:
 * whoever drives the hub sets its time (sl_hub_turn) before each round.
 *
 * Credits: one slot is one credit; counts are cumulative, so that a repeated one does no harm and only the newest has to
 * travel. CREDIT also says how many frames were delivered to the peer's owner: only those are confirmed, and SENT; the bytes of
 * the others stay as they are, and go out again when the line breaks and another one carries on. Order: frames may end out of order (a small one overtakes a large one); they are delivered in the order of their
 * numbers, through a window as wide as the slots. A fault is noted where it is seen and acted upon in sl_hub_step (life.c),
 * because a transport must not be closed from inside its own callbacks. Payloads are carried and never read: their checksum
 * is their maker's and their user's (pipeline/record/wire.h). Control frames, 64 bytes of our own making, are sealed and
 * checked here. */
#include "pipeline/link/link_impl.h"

#include "base/bytes.h"
#include "base/mutate.h"

#include <assert.h>
#include <stdlib.h>

static const uint8_t padding[SL_PAD_BYTES];

void sl_hub_note(struct sl_hub *hub, const struct sl_note *n)
{
    sl_status pushed = sl_ring_push(&hub->notes, n);
    assert(pushed == SL_OK); /* tags, slots and links are bounded below its size */
    (void)pushed;
    sl_bell_ring(&hub->owner);
}

void sl_conn_fail(struct sl_conn *conn, sl_status status, const char *reason)
{
    if (conn->fault == SL_OK) {
        conn->fault = status;
        conn->reason = reason;
        conn->excused_ms =
            sl_conn_excuse_ms(conn); /* what is under way comes home before the line is closed */
    }
}

void sl_conn_broken(struct sl_conn *conn, sl_status status, const char *reason)
{
    if (conn->heard_goodbye)
        reason = "the peer said goodbye";
    sl_conn_fail(conn, status, reason);
}

void sl_conn_over(struct sl_conn *conn)
{
    sl_conn_broken(conn, SL_E_PEER_LOST, "the peer has ended the link; its log says why");
    conn->for_good = true;
}

struct sl_line *sl_conn_line(const struct sl_conn *conn)
{
    return conn->line;
}

uint64_t sl_conn_delivered(const struct sl_conn *conn)
{
    return conn->link->delivered;
}

/* ---- Frames going out ---- */

static void sending_home(struct sl_hub *hub, struct sl_sending *sending, sl_status status)
{
    sending->status = status;
    struct sl_note n = {.kind = SL_NOTE_SENT, .status = status, .link = sending->link, .sending = sending};
    sl_hub_note(hub, &n);
}

/* At most one control frame of a kind is under way; credit is cumulative and may wait for its turn.
 */
void sl_conn_control(struct sl_conn *conn, enum sl_wire_kind kind, uint64_t number, const uint8_t *body)
{
    struct sl_control_frame *out = &conn->control_out[kind];
    size_t bytes = sl_control_bytes(kind);
    if (conn->fault || conn->hung_up)
        return;
    if (out->sending.busy) {
        out->sending.again = !SL_MUTATED(LOST_CREDIT);
        return;
    }
    if (body)
        memcpy(out->body, body, bytes);
    struct sl_sending *sending = &out->sending;
    sending->conn = conn;
    sending->busy = true;
    sending->again = false;
    sending->payload = out->body;
    sending->bytes = bytes;
    sending->wire = (struct sl_wire){.kind = (uint16_t)kind,
                                     .epoch = conn->epoch,
                                     .number = number,
                                     .payload_bytes = bytes,
                                     .meta_bytes = (uint32_t)bytes};
    sl_frame_seal(&sending->wire, out->body);
    sl_conn_pack(conn, sending);
    conn->hub->ops->send(conn->line, sending);
}

void sl_conn_credit(struct sl_conn *conn)
{
    struct sl_link *link = conn->link;
    uint8_t body[SL_CONTROL_BYTES] = {0};
    sl_put64(body, link->config.slot_bytes);
    sl_put64(body + 8, link->delivered);
    sl_conn_control(conn, SL_WIRE_CREDIT, link->granted_to_peer, body);
}

/* For tests. The owner's bytes are his to read meanwhile, so it is a copy that is damaged. */
static void damage(struct sl_hub *hub, const struct sl_link *link, struct sl_sending *sending)
{
    const struct sl_fault *fault = &hub->fault;
    const struct sl_wire *wire = &sending->wire;
    size_t meta = wire->meta_bytes, rows = (size_t)wire->payload_bytes - meta;
    size_t bytes = fault->where == SL_DAMAGE_HEADER ? SL_WIRE_BYTES
                   : fault->where == SL_DAMAGE_META ? meta
                                                    : rows;
    if (fault->kind != wire->kind || (fault->link && fault->link != link->config.id) || fault->at >= bytes)
        return;
    if (fault->where == SL_DAMAGE_HEADER) {
        sending->header[fault->at] ^= 1;
    } else {
        sending->damaged = malloc(sending->bytes);
        assert(sending->damaged);
        memcpy(sending->damaged, sending->payload, sending->bytes);
        sending->damaged[fault->at + (fault->where == SL_DAMAGE_ROWS ? meta : 0)] ^= 1;
        sending->payload = sending->damaged;
    }
    atomic_store_explicit(&hub->fault_armed, false, memory_order_release);
}

static void transmit(struct sl_hub *hub, struct sl_link *link, struct sl_sending *sending)
{
    struct sl_conn *conn = link->conn;
    sending->conn = conn;
    sending->wire.epoch = link->config.epoch;
    sending->wire.number = link->sent++;
    sending->bytes = (size_t)sending->wire.payload_bytes;
    if (sending->bytes == 0) {
        sending->payload = padding;
        sending->bytes = sizeof padding;
    }
    if (atomic_load_explicit(&hub->fault_corrupt, memory_order_relaxed) > 0) {
        atomic_fetch_sub_explicit(&hub->fault_corrupt, 1, memory_order_relaxed);
        sending->wire.checksum ^= 1;
    }
    sl_conn_pack(conn, sending);
    if (atomic_load_explicit(&hub->fault_armed, memory_order_acquire))
        damage(hub, link, sending);
    sending->next = NULL;
    *link->unconfirmed_end = sending;
    link->unconfirmed_end = &sending->next;
    conn->n_sends++;
    conn->bytes_under_way += sending->bytes;
    hub->ops->send(conn->line, sending);
}

/* Sends what credit allows, in order. */
static void pump(struct sl_hub *hub, struct sl_link *link)
{
    struct sl_conn *conn = link->conn;
    while (link->state == SL_LINK_UP && link->waiting && !conn->fault && !conn->hung_up &&
           !conn->said_goodbye) {
        struct sl_sending *sending = link->waiting;
        bool fits = sending->wire.payload_bytes <= link->peer_slot_bytes;
        if (link->peer_slot_bytes == 0 || (fits && link->sent == link->granted_to_us))
            return;
        link->waiting = sending->next;
        if (!link->waiting)
            link->waiting_end = &link->waiting;
        if (fits)
            transmit(hub, link, sending);
        else
            sending_home(hub, sending, SL_E_INVALID); /* no slot of the peer could ever hold it */
    }
}

void sl_link_return_waiting(struct sl_hub *hub, struct sl_link *link, sl_status status)
{
    while (link->waiting) {
        struct sl_sending *sending = link->waiting;
        link->waiting = sending->next;
        sending_home(hub, sending, status);
    }
    link->waiting_end = &link->waiting;
}

/* ---- Frames that were sent and may have to be sent again ---- */

static struct sl_sending *take_first_unconfirmed(struct sl_link *link)
{
    struct sl_sending *sending = link->unconfirmed;
    link->unconfirmed = sending->next;
    if (!link->unconfirmed)
        link->unconfirmed_end = &link->unconfirmed;
    return sending;
}

/* Home are those that the peer's owner has, and that the transport is through with: its word alone means that the bytes have
 * left, not that they came. */
static void send_confirmed_home(struct sl_hub *hub, struct sl_link *link)
{
    while (link->unconfirmed && !link->unconfirmed->conn &&
           (link->unconfirmed->wire.number < link->confirmed || SL_MUTATED(EARLY_SENT)))
        sending_home(hub, take_first_unconfirmed(link), SL_OK);
}

void sl_link_return_unconfirmed(struct sl_hub *hub, struct sl_link *link, sl_status status)
{
    send_confirmed_home(hub, link);
    while (link->unconfirmed) {
        assert(!link->unconfirmed->conn); /* a line is gone when it has nothing left */
        sending_home(hub, take_first_unconfirmed(link), status);
    }
}

/* Another line carries on: what the peer does not have goes out again, with the same numbers, before what waits. */
static void send_again(struct sl_link *link)
{
    if (link->unconfirmed && !SL_MUTATED(NOT_AGAIN)) {
        *link->unconfirmed_end = link->waiting;
        if (!link->waiting)
            link->waiting_end = link->unconfirmed_end;
        link->waiting = link->unconfirmed;
        link->unconfirmed = NULL;
        link->unconfirmed_end = &link->unconfirmed;
    }
    link->sent = link->confirmed;
}

void sl_link_break(struct sl_link *link, const char *reason)
{
    for (uint32_t i = 0; i < SL_SLOTS_MAX; i++)
        if (link->window[i] && !SL_MUTATED(HALF_FRAME)) {
            link->free_slots[link->n_free++] = link->window[i]->index;
            link->window[i] = NULL;
        }
    link->granted_to_us = link->peer_slot_bytes = 0; /* nothing goes out before the peer says what it has */
    link->broken = true;
    link->broken_reason = reason;
}

void sl_link_send(struct sl_hub *hub, struct sl_link *link, struct sl_sending *sending)
{
    sl_status status = SL_OK;
    if (!link)
        status = SL_E_NOT_FOUND;
    else if (link->cancelled)
        status = SL_E_CANCELLED;
    else if (link->state == SL_LINK_OVER || (link->conn && link->conn->heard_goodbye))
        status = SL_E_PEER_LOST;
    if (status != SL_OK) {
        sending_home(hub, sending, status);
        return;
    }
    sending->next = NULL;
    *link->waiting_end = sending;
    link->waiting_end = &sending->next;
    pump(hub, link);
}

void sl_sending_done(struct sl_sending *sending, sl_status status)
{
    struct sl_hub *hub = sending->conn->hub;
    if (hub->ops->inner)
        hub->ops->sent(hub->transport, sending, status);
    else
        sl_hub_sent(sending, status);
}

void sl_hub_sent(struct sl_sending *sending, sl_status status)
{
    struct sl_conn *conn = sending->conn;
    sending->conn = NULL;
    if (!sending->link) {
        sending->busy = false;
        if (status != SL_OK)
            sl_conn_broken(conn, status, "a control frame could not be sent");
        else if (sending->again && sending->wire.kind == SL_WIRE_CREDIT)
            sl_conn_credit(conn);
        return;
    }
    conn->n_sends--;
    free(sending->damaged);
    sending->damaged = NULL;
    if (status == SL_OK) {
        sl_hub_count(&conn->hub->frames_sent, 1);
        sl_hub_count(&conn->hub->bytes_sent, sending->wire.payload_bytes);
    } else {
        sl_conn_broken(conn, status, "a frame could not be sent");
    }
    conn->bytes_under_way -= sending->bytes;
    send_confirmed_home(conn->hub, sending->link);
}

/* ---- Frames coming in ---- */

static void handle_credit(struct sl_conn *conn, uint64_t granted, const uint8_t *body)
{
    struct sl_link *link = conn->link;
    if (conn->state == SL_CONN_PROVED)
        sl_conn_on_first_credit(conn);
    uint64_t slot_bytes = sl_get64(body), delivered = sl_get64(body + 8);
    bool sane = granted >= link->granted_to_us && granted >= delivered &&
                granted - delivered <= SL_SLOTS_MAX && delivered >= link->confirmed &&
                delivered <= link->sent && slot_bytes > 0 &&
                (!link->peer_slot_bytes || link->peer_slot_bytes == slot_bytes);
    if (!sane) {
        sl_conn_fail(conn, SL_E_PROTOCOL, "the peer's credit makes no sense");
        return;
    }
    bool first = !link->peer_slot_bytes; /* of this line */
    link->granted_to_us = granted;
    link->peer_slot_bytes = slot_bytes;
    link->confirmed = delivered;
    send_confirmed_home(conn->hub, link);
    if (first)
        send_again(link);
    pump(conn->hub, link);
}

static void handle_control(struct sl_conn *conn, const struct sl_wire *wire, const uint8_t *body)
{
    if (!sl_frame_whole(wire, body)) {
        sl_conn_fail(conn, SL_E_PROTOCOL, "a control frame is damaged");
        return;
    }
    if (wire->kind == SL_WIRE_HELLO) {
        sl_conn_on_hello(conn, wire, body);
        return;
    }
    if (wire->kind == SL_WIRE_WELCOME) {
        sl_conn_on_welcome(conn, body);
        return;
    }
    bool first_credit = wire->kind == SL_WIRE_CREDIT && conn->state == SL_CONN_PROVED;
    if (conn->state != SL_CONN_OPEN && !first_credit) {
        sl_conn_fail(conn, SL_E_PROTOCOL, "a frame before the handshake is over");
        return;
    }
    if (wire->kind == SL_WIRE_CREDIT)
        handle_credit(conn, wire->number, body);
    else if (wire->kind == SL_WIRE_GOODBYE)
        sl_conn_on_goodbye(conn, wire->number);
    else if (wire->kind == SL_WIRE_PING)
        sl_conn_on_ping(conn, wire->number, body);
    else
        sl_conn_on_pong(conn, body);
}

static struct sl_landing *land_control(struct sl_conn *conn, const struct sl_wire *wire, const void *header)
{
    if (wire->payload_bytes != sl_control_bytes((enum sl_wire_kind)wire->kind) || conn->control_in.busy) {
        sl_conn_fail(conn, SL_E_PROTOCOL, "a control frame has the wrong size");
        return NULL;
    }
    conn->control_in.wire = *wire;
    memcpy(conn->control_in.header, header, SL_WIRE_BYTES);
    conn->control_in.bytes = (size_t)wire->payload_bytes;
    conn->control_in.busy = true;
    return &conn->control_in;
}

static const char *why_not_land(const struct sl_conn *conn, const struct sl_wire *wire)
{
    const struct sl_link *link = conn->link;
    if (conn->state != SL_CONN_OPEN)
        return "a frame before the handshake is over";
    if (!(wire->flags & SL_WIRE_HAS_CHECKSUM))
        return "a frame without a checksum of its payload";
    if (conn->heard_goodbye && wire->number >= conn->peer_sent)
        return "a frame after the peer's goodbye";
    if (wire->number - link->delivered >= SL_SLOTS_MAX || link->window[wire->number % SL_SLOTS_MAX])
        return "a frame number comes twice or leaves a gap";
    if (wire->number >= link->granted_to_peer || link->n_free == 0)
        return "a frame without credit";
    if (wire->payload_bytes > link->config.slot_bytes)
        return "a frame is larger than the slots lent for it";
    return NULL;
}

struct sl_landing *sl_conn_arrived(struct sl_conn *conn, const void *header, size_t header_bytes,
                                   size_t payload_bytes)
{
    struct sl_hub *hub = conn->hub;
    return hub->ops->inner ? hub->ops->arrived(hub->transport, conn, header, header_bytes, payload_bytes)
                           : sl_hub_arrived(conn, header, header_bytes, payload_bytes);
}

struct sl_landing *sl_hub_arrived(struct sl_conn *conn, const void *header, size_t header_bytes,
                                  size_t payload_bytes)
{
    if (conn->fault || conn->hung_up)
        return NULL;
    struct sl_wire wire;
    const char *bad = sl_wire_unpack(&wire, header, header_bytes, &conn->hub->config.limits);
    size_t on_line = bad || wire.payload_bytes ? (size_t)wire.payload_bytes : SL_PAD_BYTES;
    if (!bad && payload_bytes != on_line && payload_bytes != SL_BYTES_UNTOLD)
        bad = "the length of a frame differs from its header";
    if (!bad && conn->state != SL_CONN_ACCEPTED && wire.epoch != conn->epoch)
        bad = "a frame of another epoch";
    if (!bad)
        bad = sl_conn_doubt_header(conn, &wire, header);
    if (bad) {
        sl_conn_fail(conn, SL_E_PROTOCOL, bad);
        return NULL;
    }
    if (!SL_MUTATED(NO_SIGN))
        conn->heard_ms = conn->hub->now_ms;
    if (wire.kind < SL_WIRE_ORDER)
        return land_control(conn, &wire, header);
    bad = why_not_land(conn, &wire);
    if (bad) {
        sl_conn_fail(conn, SL_E_PROTOCOL, bad);
        return NULL;
    }
    struct sl_link *link = conn->link;
    struct sl_slot *slot = &link->slots[link->free_slots[--link->n_free]];
    slot->whole = false;
    slot->landing.conn = conn;
    slot->landing.wire = wire;
    memcpy(slot->landing.header, header, SL_WIRE_BYTES);
    slot->landing.bytes = on_line;
    slot->landing.region = link->region;
    link->window[wire.number % SL_SLOTS_MAX] = slot;
    conn->n_landings++;
    conn->bytes_under_way += on_line;
    return &slot->landing;
}

static void deliver(struct sl_hub *hub, struct sl_link *link)
{
    uint64_t before = link->delivered;
    struct sl_slot **next = &link->window[link->delivered % SL_SLOTS_MAX];
    while (*next && ((*next)->whole || SL_MUTATED(HALF_THERE))) {
        struct sl_note n = {.kind = SL_NOTE_FRAME, .link = link, .slot = *next};
        *next = NULL;
        link->delivered++;
        sl_hub_note(hub, &n);
        next = &link->window[link->delivered % SL_SLOTS_MAX];
    }
    if (link->delivered != before)
        sl_conn_credit(link->conn); /* it is confirmed, whenever the slot comes back */
}

static void landed_data(struct sl_conn *conn, struct sl_slot *slot, sl_status status)
{
    struct sl_hub *hub = conn->hub;
    struct sl_landing *landing = &slot->landing;
    conn->n_landings--;
    if (status != SL_OK) /* the slot stays in the window, where nothing behind it is delivered */
        sl_conn_broken(conn, status, "a frame could not be received");
    conn->bytes_under_way -= landing->bytes;
    const char *bad = status == SL_OK ? sl_conn_doubt_payload(conn, landing) : NULL;
    if (bad)
        sl_conn_fail(conn, SL_E_PROTOCOL, bad);
    if (status != SL_OK || bad)
        return;
    slot->at_us = hub->now_us;
    sl_hub_count(&hub->frames_received, 1);
    sl_hub_count(&hub->bytes_received, landing->wire.payload_bytes);
    slot->whole = true;
    deliver(hub, conn->link);
}

void sl_conn_landed(struct sl_landing *landing, sl_status status)
{
    struct sl_hub *hub = landing->conn->hub;
    if (hub->ops->inner)
        hub->ops->landed(hub->transport, landing, status);
    else
        sl_hub_landed(landing, status);
}

void sl_hub_landed(struct sl_landing *landing, sl_status status)
{
    struct sl_conn *conn = landing->conn;
    /* what comes home because the line ends is no sign of life */
    if (status == SL_OK && !SL_MUTATED(NO_SIGN))
        conn->heard_ms = conn->hub->now_ms;
    if (landing != &conn->control_in) {
        struct sl_slot *slot = (struct sl_slot *)((char *)landing - offsetof(struct sl_slot, landing));
        landed_data(conn, slot, status);
        return;
    }
    landing->busy = false;
    const char *bad = status == SL_OK ? sl_conn_doubt_payload(conn, landing) : NULL;
    if (status != SL_OK)
        sl_conn_broken(conn, status, "a control frame could not be received");
    else if (bad)
        sl_conn_fail(conn, SL_E_PROTOCOL, bad);
    else if (!conn->fault)
        handle_control(conn, &landing->wire, landing->to);
}

void sl_link_give_back(struct sl_hub *hub, struct sl_link *link, uint32_t index)
{
    (void)hub;
    assert(index < link->config.n_slots && link->n_free < link->config.n_slots);
    link->free_slots[link->n_free++] = (uint8_t)((index + SL_MUTATED(WRONG_SLOT)) % link->config.n_slots);
    if (link->state != SL_LINK_UP)
        return; /* if another line comes, it is told of all free slots */
    link->granted_to_peer += 1 + SL_MUTATED(FREE_CREDIT);
    sl_conn_credit(link->conn);
}

/* ---- Slots ---- */

void sl_link_begin(struct sl_hub *hub, struct sl_link *link)
{
    hub->links[link->entry] = link;
    hub->n_entries = link->entry < hub->n_entries ? hub->n_entries : link->entry + 1;
    hub->admit_stale = true;
    link->waiting_end = &link->waiting;
    link->unconfirmed_end = &link->unconfirmed;
    link->retry_ms = SL_RETRY_MIN_MS;
    for (uint32_t i = 0; i < link->config.n_slots; i++) {
        link->slots[i].index = (uint8_t)i;
        link->slots[i].landing.to = link->memory + i * link->stride;
        link->free_slots[link->n_free++] = (uint8_t)(link->config.n_slots - 1 - i);
    }
    if (hub->ops->map(hub->transport, link->memory, link->memory_bytes, &link->region) != SL_OK)
        sl_link_over(hub, link, SL_E_NOMEM, "the slots could not be registered with the transport");
}

void sl_link_end(struct sl_hub *hub, struct sl_link *link)
{
    assert(!link->conn);
    hub->links[link->entry] = NULL;
    if (link->region)
        hub->ops->unmap(hub->transport, link->region);
}
