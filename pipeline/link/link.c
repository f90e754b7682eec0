/* Links: who may talk, how much, and whether the other side is still there.
 *
 * Everything here runs on one I/O thread and is the same over every transport.
 * Handshake: HELLO(link id, nonce) -> WELCOME(nonce, MAC) -> WELCOME(MAC) -> CREDIT. Both MACs are
 * taken with the link's key over a label, the link id, the epoch, the wire version and both nonces;
 * no slot is lent and no data frame is taken before. It keeps out mistakes and stale peers, not an
 * attacker on the wire. Credits: one slot is one credit; counts are cumulative, so that a repeated
 * one does no harm and only the newest has to travel. Order: frames may end out of order (a small
 * one overtakes a large one); they are delivered in the order of their numbers, through a window as
 * wide as the slots. Heartbeat: the side that dialed pings, the other answers; any frame counts as
 * a sign of life. Leaving: GOODBYE names how many frames were sent; the peer delivers those,
 * answers GOODBYE, and the line is closed by the one who left. A fault is noted where it is seen
 * and acted upon in sl_hub_step, because a transport must not be closed from inside its own
 * callbacks. */
#include "pipeline/link/link_impl.h"

#include "base/bytes.h"
#include "base/digest.h"

#include <assert.h>

static const uint8_t padding[SL_PAD_BYTES];

static void note(struct sl_hub *hub, const struct sl_note *n)
{
    sl_status pushed = sl_ring_push(&hub->notes, n);
    assert(pushed == SL_OK); /* tags, slots and links are bounded below its size */
    (void)pushed;
    sl_bell_ring(&hub->owner);
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static void conn_fail(struct sl_conn *conn, sl_status status, const char *reason)
{
    if (conn->fault == SL_OK) {
        conn->fault = status;
        conn->reason = reason;
    }
}

void sl_conn_broken(struct sl_conn *conn, sl_status status, const char *reason)
{
    if (conn->heard_goodbye)
        reason = "the peer said goodbye";
    conn_fail(conn, status, reason);
}

struct sl_line *sl_conn_line(const struct sl_conn *conn)
{
    return conn->line;
}

/* ---- Frames going out ---- */

static void sending_home(struct sl_hub *hub, struct sl_sending *sending, sl_status status)
{
    sending->status = status;
    struct sl_note n = {.kind = SL_NOTE_SENT, .status = status, .link = sending->link, .sending = sending};
    note(hub, &n);
}

static uint32_t checksum_of(const void *data, size_t bytes)
{
    return (uint32_t)sl_xxh3(data, bytes);
}

/* At most one control frame of a kind is under way; credit is cumulative and may wait for its turn.
 */
static void control(struct sl_conn *conn, enum sl_wire_kind kind, uint64_t number,
                    const uint8_t body[SL_CONTROL_BYTES])
{
    struct sl_control_frame *out = &conn->control_out[kind];
    if (conn->fault || conn->hung_up)
        return;
    if (out->sending.busy) {
        out->sending.again = true;
        return;
    }
    if (body)
        memcpy(out->body, body, sizeof out->body);
    struct sl_sending *sending = &out->sending;
    sending->conn = conn;
    sending->busy = true;
    sending->again = false;
    sending->payload = out->body;
    sending->bytes = sizeof out->body;
    sending->wire = (struct sl_wire){.kind = (uint16_t)kind,
                                     .flags = SL_WIRE_HAS_CHECKSUM,
                                     .epoch = conn->epoch,
                                     .number = number,
                                     .payload_bytes = sizeof out->body,
                                     .meta_bytes = sizeof out->body,
                                     .checksum = checksum_of(out->body, sizeof out->body)};
    sl_wire_pack(sending->header, &sending->wire);
    conn->hub->ops->send(conn->line, sending);
}

static void send_credit(struct sl_conn *conn)
{
    struct sl_link *link = conn->link;
    uint8_t body[SL_CONTROL_BYTES] = {0};
    sl_put64(body, link->config.slot_bytes);
    control(conn, SL_WIRE_CREDIT, link->granted_to_peer, body);
}

static void transmit(struct sl_hub *hub, struct sl_link *link, struct sl_sending *sending)
{
    struct sl_conn *conn = link->conn;
    sending->conn = conn;
    sending->wire.flags |= SL_WIRE_HAS_CHECKSUM;
    sending->wire.epoch = link->config.epoch;
    sending->wire.number = link->sent++;
    sending->bytes = (size_t)sending->wire.payload_bytes;
    if (sending->bytes == 0) {
        sending->payload = padding;
        sending->bytes = sizeof padding;
    }
    sending->wire.checksum = checksum_of(sending->payload, (size_t)sending->wire.payload_bytes);
    if (atomic_load_explicit(&hub->fault_corrupt, memory_order_relaxed) > 0) {
        atomic_fetch_sub_explicit(&hub->fault_corrupt, 1, memory_order_relaxed);
        sending->wire.checksum ^= 1;
    }
    sl_wire_pack(sending->header, &sending->wire);
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

static void return_waiting(struct sl_hub *hub, struct sl_link *link, sl_status status)
{
    while (link->waiting) {
        struct sl_sending *sending = link->waiting;
        link->waiting = sending->next;
        sending_home(hub, sending, status);
    }
    link->waiting_end = &link->waiting;
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
    struct sl_conn *conn = sending->conn;
    sending->conn = NULL;
    if (!sending->link) {
        sending->busy = false;
        if (status != SL_OK)
            sl_conn_broken(conn, status, "a control frame could not be sent");
        else if (sending->again && sending->wire.kind == SL_WIRE_CREDIT)
            send_credit(conn);
        return;
    }
    conn->n_sends--;
    conn->bytes_under_way -= sending->bytes;
    if (status == SL_OK) {
        count(&conn->hub->frames_sent, 1);
        count(&conn->hub->bytes_sent, sending->wire.payload_bytes);
    } else {
        sl_conn_broken(conn, status, "a frame could not be sent");
        status = conn->fault; /* what broke the line says more than the cancelled request */
    }
    sending_home(conn->hub, sending, status);
}

/* ---- Connections ---- */

static struct sl_conn *conn_new(struct sl_hub *hub, enum sl_conn_state state)
{
    struct sl_conn *conn = calloc(1, sizeof *conn);
    if (!conn)
        return NULL;
    conn->hub = hub;
    conn->state = state;
    conn->opened_ms = conn->heard_ms = conn->pinged_ms = sl_now_ms();
    conn->control_in.conn = conn;
    conn->control_in.to = conn->control_body;
    uint8_t *nonce = state == SL_CONN_ACCEPTED ? conn->nonce_server : conn->nonce_client;
    if (sl_random_bytes(nonce, SL_NONCE_BYTES) != SL_OK) {
        free(conn);
        return NULL;
    }
    return conn;
}

static void conn_insert(struct sl_conn *conn)
{
    conn->next = conn->hub->conns;
    conn->hub->conns = conn;
}

struct sl_conn *sl_hub_accept(struct sl_hub *hub, struct sl_line *line)
{
    uint32_t half_open = 0;
    for (struct sl_conn *c = hub->conns; c; c = c->next)
        half_open += c->state == SL_CONN_ACCEPTED || c->state == SL_CONN_GREETED;
    if (half_open >= SL_HALF_OPEN_MAX || hub->closing)
        return NULL;
    struct sl_conn *conn = conn_new(hub, SL_CONN_ACCEPTED);
    if (!conn)
        return NULL;
    conn->line = line;
    conn_insert(conn);
    return conn;
}

static void mac_of(const struct sl_conn *conn, const uint8_t key[32], const char *label,
                   uint8_t mac[SL_MAC_BYTES])
{
    uint8_t text[8 + 8 + 8 + 2 + 2 * SL_NONCE_BYTES] = {0};
    struct sl_cursor c = sl_cursor_over(text, sizeof text);
    sl_cursor_put(&c, label, 8);
    sl_cursor_put64(&c, conn->link_id);
    sl_cursor_put64(&c, conn->epoch);
    sl_cursor_put16(&c, SL_WIRE_VERSION);
    sl_cursor_put(&c, conn->nonce_client, SL_NONCE_BYTES);
    sl_cursor_put(&c, conn->nonce_server, SL_NONCE_BYTES);
    assert(!c.bad && c.at == c.end);
    sl_hmac_sha256(key, text, sizeof text, mac);
}

static bool mac_is(const struct sl_conn *conn, const uint8_t key[32], const char *label, const uint8_t *mac)
{
    uint8_t expected[SL_MAC_BYTES];
    mac_of(conn, key, label, expected);
    return sl_equal_constant_time(expected, mac, sizeof expected);
}

/* Labels of eight bytes, one for each direction, so that no proof can be played back to its maker.
 */
static const char server_label[] = "slserver", client_label[] = "slclient";

static struct sl_link *find_expected(struct sl_hub *hub, uint64_t id)
{
    for (uint32_t i = 0; i < SL_LINKS_MAX; i++) {
        struct sl_link *link = hub->links[i];
        if (link && link->config.id == id && !link->dials && link->state == SL_LINK_WAITING && !link->leaving)
            return link;
    }
    return NULL;
}

static void refuse(struct sl_conn *conn, const char *reason)
{
    count(&conn->hub->refusals, 1);
    conn_fail(conn, SL_E_REFUSED, reason);
}

static void conn_open(struct sl_conn *conn, struct sl_link *link)
{
    conn->state = SL_CONN_OPEN;
    conn->link = link;
    link->conn = conn;
    link->state = SL_LINK_UP;
    link->granted_to_peer = link->config.n_slots;
    count(&conn->hub->links_up, 1);
    struct sl_note n = {.kind = SL_NOTE_UP, .link = link};
    note(conn->hub, &n);
    send_credit(conn);
}

static void handle_hello(struct sl_conn *conn, const struct sl_wire *wire, const uint8_t *body)
{
    if (conn->state != SL_CONN_ACCEPTED) {
        conn_fail(conn, SL_E_PROTOCOL, "HELLO in the middle of a connection");
        return;
    }
    conn->link_id = sl_get64(body);
    memcpy(conn->nonce_client, body + 8, SL_NONCE_BYTES);
    struct sl_link *link = find_expected(conn->hub, conn->link_id);
    if (!link || wire->epoch != link->config.epoch) {
        refuse(conn, link ? "the peer names another epoch of the link" : "the peer names an unknown link");
        return;
    }
    conn->epoch = link->config.epoch;
    uint8_t answer[SL_CONTROL_BYTES] = {0};
    memcpy(answer, conn->nonce_server, SL_NONCE_BYTES);
    mac_of(conn, link->config.key, server_label, answer + SL_NONCE_BYTES);
    conn->state = SL_CONN_GREETED;
    control(conn, SL_WIRE_WELCOME, 0, answer);
}

static void handle_welcome(struct sl_conn *conn, const uint8_t *body)
{
    if (conn->state == SL_CONN_GREETED) {
        /* The link may have gone, or come up over another line, since the HELLO. */
        struct sl_link *link = find_expected(conn->hub, conn->link_id);
        if (link && mac_is(conn, link->config.key, client_label, body + SL_NONCE_BYTES))
            conn_open(conn, link);
        else
            refuse(conn, "the peer has another key");
    } else if (conn->state == SL_CONN_DIALED) {
        memcpy(conn->nonce_server, body, SL_NONCE_BYTES);
        if (!mac_is(conn, conn->link->config.key, server_label, body + SL_NONCE_BYTES)) {
            refuse(conn, "the peer has another key");
            return;
        }
        uint8_t proof[SL_CONTROL_BYTES] = {0};
        mac_of(conn, conn->link->config.key, client_label, proof + SL_NONCE_BYTES);
        conn->state = SL_CONN_PROVED;
        control(conn, SL_WIRE_WELCOME, 0, proof);
    } else {
        conn_fail(conn, SL_E_PROTOCOL, "WELCOME in the middle of a connection");
    }
}

static void handle_credit(struct sl_conn *conn, uint64_t granted, const uint8_t *body)
{
    struct sl_link *link = conn->link;
    if (conn->state == SL_CONN_PROVED)
        conn_open(conn, link);
    uint64_t slot_bytes = sl_get64(body);
    bool sane = granted >= link->granted_to_us && granted - link->sent <= SL_SLOTS_MAX && slot_bytes > 0 &&
                (!link->peer_slot_bytes || link->peer_slot_bytes == slot_bytes);
    if (!sane) {
        conn_fail(conn, SL_E_PROTOCOL, "the peer's credit makes no sense");
        return;
    }
    link->granted_to_us = granted;
    link->peer_slot_bytes = slot_bytes;
    pump(conn->hub, link);
}

static void handle_goodbye(struct sl_conn *conn, uint64_t peer_sent)
{
    conn->heard_goodbye = true;
    conn->peer_sent = peer_sent;
    conn->goodbye_by_ms = sl_now_ms() + SL_LEAVE_MS;
    return_waiting(conn->hub, conn->link, SL_E_PEER_LOST);
}

static void handle_control(struct sl_conn *conn, const struct sl_wire *wire, const uint8_t *body)
{
    if (checksum_of(body, SL_CONTROL_BYTES) != wire->checksum) {
        conn_fail(conn, SL_E_PROTOCOL, "a control frame is damaged");
        return;
    }
    if (wire->kind == SL_WIRE_HELLO) {
        handle_hello(conn, wire, body);
        return;
    }
    if (wire->kind == SL_WIRE_WELCOME) {
        handle_welcome(conn, body);
        return;
    }
    bool first_credit = wire->kind == SL_WIRE_CREDIT && conn->state == SL_CONN_PROVED;
    if (conn->state != SL_CONN_OPEN && !first_credit) {
        conn_fail(conn, SL_E_PROTOCOL, "a frame before the handshake is over");
        return;
    }
    if (wire->kind == SL_WIRE_CREDIT)
        handle_credit(conn, wire->number, body);
    else if (wire->kind == SL_WIRE_GOODBYE)
        handle_goodbye(conn, wire->number);
    else if (wire->kind == SL_WIRE_PING && !atomic_load(&conn->hub->fault_mute))
        control(conn, SL_WIRE_PONG, wire->number, NULL);
}

/* ---- Frames coming in ---- */

static struct sl_landing *land_control(struct sl_conn *conn, const struct sl_wire *wire)
{
    if (wire->payload_bytes != SL_CONTROL_BYTES || conn->control_in.busy) {
        conn_fail(conn, SL_E_PROTOCOL, "a control frame has the wrong size");
        return NULL;
    }
    conn->control_in.wire = *wire;
    conn->control_in.bytes = SL_CONTROL_BYTES;
    conn->control_in.busy = true;
    return &conn->control_in;
}

static const char *why_not_land(const struct sl_conn *conn, const struct sl_wire *wire)
{
    const struct sl_link *link = conn->link;
    if (conn->state != SL_CONN_OPEN)
        return "a frame before the handshake is over";
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
    if (conn->fault || conn->hung_up)
        return NULL;
    struct sl_wire wire;
    const char *bad = sl_wire_unpack(&wire, header, header_bytes, &conn->hub->config.limits);
    size_t on_line = bad || wire.payload_bytes ? (size_t)wire.payload_bytes : SL_PAD_BYTES;
    if (!bad && payload_bytes != on_line)
        bad = "the length of a frame differs from its header";
    if (!bad && conn->state != SL_CONN_ACCEPTED && wire.epoch != conn->epoch)
        bad = "a frame of another epoch";
    if (bad) {
        conn_fail(conn, SL_E_PROTOCOL, bad);
        return NULL;
    }
    conn->heard_ms = sl_now_ms();
    if (wire.kind < SL_WIRE_ORDER)
        return land_control(conn, &wire);
    bad = why_not_land(conn, &wire);
    if (bad) {
        conn_fail(conn, SL_E_PROTOCOL, bad);
        return NULL;
    }
    struct sl_link *link = conn->link;
    struct sl_slot *slot = &link->slots[link->free_slots[--link->n_free]];
    slot->whole = false;
    slot->landing.conn = conn;
    slot->landing.wire = wire;
    slot->landing.bytes = on_line;
    slot->landing.region = link->region;
    link->window[wire.number % SL_SLOTS_MAX] = slot;
    conn->n_landings++;
    conn->bytes_under_way += on_line;
    return &slot->landing;
}

static void deliver(struct sl_hub *hub, struct sl_link *link)
{
    struct sl_slot **next = &link->window[link->delivered % SL_SLOTS_MAX];
    while (*next && (*next)->whole) {
        struct sl_note n = {.kind = SL_NOTE_FRAME, .status = (*next)->status, .link = link, .slot = *next};
        *next = NULL;
        link->delivered++;
        note(hub, &n);
        next = &link->window[link->delivered % SL_SLOTS_MAX];
    }
}

static void landed_data(struct sl_conn *conn, struct sl_slot *slot, sl_status status)
{
    struct sl_hub *hub = conn->hub;
    struct sl_landing *landing = &slot->landing;
    conn->n_landings--;
    conn->bytes_under_way -= landing->bytes;
    if (status != SL_OK) {
        /* The slot stays in the window, where nothing behind it is delivered: the line is broken.
         */
        sl_conn_broken(conn, status, "a frame could not be received");
        return;
    }
    slot->status = SL_OK;
    slot->at_us = sl_clock_wall_us();
    size_t bytes = (size_t)landing->wire.payload_bytes;
    if ((landing->wire.flags & SL_WIRE_HAS_CHECKSUM) &&
        checksum_of(landing->to, bytes) != landing->wire.checksum) {
        slot->status = SL_E_CORRUPT;
        count(&hub->checksum_failures, 1);
    }
    count(&hub->frames_received, 1);
    count(&hub->bytes_received, bytes);
    slot->whole = true;
    deliver(hub, conn->link);
}

void sl_conn_landed(struct sl_landing *landing, sl_status status)
{
    struct sl_conn *conn = landing->conn;
    conn->heard_ms = sl_now_ms();
    if (landing != &conn->control_in) {
        struct sl_slot *slot = (struct sl_slot *)((char *)landing - offsetof(struct sl_slot, landing));
        landed_data(conn, slot, status);
        return;
    }
    landing->busy = false;
    if (status != SL_OK)
        sl_conn_broken(conn, status, "a control frame could not be received");
    else if (!conn->fault)
        handle_control(conn, &landing->wire, landing->to);
}

void sl_link_give_back(struct sl_hub *hub, struct sl_link *link, uint32_t index)
{
    (void)hub;
    assert(index < link->config.n_slots && link->n_free < link->config.n_slots);
    link->free_slots[link->n_free++] = (uint8_t)index;
    if (link->state != SL_LINK_UP)
        return;
    link->granted_to_peer++;
    send_credit(link->conn);
}

/* ---- The life of a link ---- */

static void link_over(struct sl_hub *hub, struct sl_link *link, sl_status status, const char *reason)
{
    if (link->state == SL_LINK_UP)
        atomic_fetch_sub_explicit(&hub->links_up, 1, memory_order_relaxed);
    if (link->cancelled) {
        status = SL_E_CANCELLED;
        reason = "dropped by its owner";
    }
    return_waiting(hub, link, status);
    link->state = SL_LINK_OVER;
    struct sl_note n = {.kind = SL_NOTE_DOWN, .status = status, .link = link, .reason = reason};
    note(hub, &n);
}

void sl_link_begin(struct sl_hub *hub, struct sl_link *link)
{
    hub->links[link->entry] = link;
    link->waiting_end = &link->waiting;
    link->retry_ms = SL_RETRY_MIN_MS;
    for (uint32_t i = 0; i < link->config.n_slots; i++) {
        link->slots[i].index = (uint8_t)i;
        link->slots[i].landing.to = link->memory + i * link->stride;
        link->free_slots[link->n_free++] = (uint8_t)(link->config.n_slots - 1 - i);
    }
    if (hub->ops->map(hub->transport, link->memory, link->memory_bytes, &link->region) != SL_OK)
        link_over(hub, link, SL_E_NOMEM, "the slots could not be registered with the transport");
}

void sl_link_end(struct sl_hub *hub, struct sl_link *link)
{
    assert(!link->conn);
    hub->links[link->entry] = NULL;
    if (link->region)
        hub->ops->unmap(hub->transport, link->region);
}

static void link_leave(struct sl_link *link, uint64_t now_ms)
{
    if (!link->leaving) {
        link->leaving = true;
        link->leave_by_ms = now_ms + SL_LEAVE_MS;
    }
}

void sl_link_cancel(struct sl_hub *hub, struct sl_link *link)
{
    if (link->state == SL_LINK_OVER)
        return;
    link->cancelled = true;
    return_waiting(hub, link, SL_E_CANCELLED);
    link_leave(link, sl_now_ms());
}

static void link_retry_later(struct sl_hub *hub, struct sl_link *link)
{
    uint32_t jitter = (uint32_t)(sl_rng_next(&hub->jitter) % (link->retry_ms / 4));
    link->retry_at_ms = sl_now_ms() + link->retry_ms + jitter;
    link->retry_ms = link->retry_ms * 2 > SL_RETRY_MAX_MS ? SL_RETRY_MAX_MS : link->retry_ms * 2;
}

static void link_dial(struct sl_hub *hub, struct sl_link *link)
{
    struct sl_conn *conn = conn_new(hub, SL_CONN_DIALED);
    sl_status status = SL_E_NOMEM;
    if (conn)
        status = hub->ops->connect(hub->transport, link->address, link->port, conn, &conn->line);
    if (status != SL_OK) {
        free(conn);
        if (status == SL_E_INVALID)
            link_over(hub, link, status, "the peer's address is not a numeric address");
        else
            link_retry_later(hub, link);
        return;
    }
    conn_insert(conn);
    conn->link = link;
    conn->link_id = link->config.id;
    conn->epoch = link->config.epoch;
    link->conn = conn;
    uint8_t hello[SL_CONTROL_BYTES] = {0};
    sl_put64(hello, conn->link_id);
    memcpy(hello + 8, conn->nonce_client, SL_NONCE_BYTES);
    control(conn, SL_WIRE_HELLO, 0, hello);
}

void sl_conn_closed(struct sl_conn *conn)
{
    struct sl_hub *hub = conn->hub;
    assert(conn->n_sends == 0 && conn->n_landings == 0);
    struct sl_conn **at = &hub->conns;
    while (*at != conn)
        at = &(*at)->next;
    *at = conn->next;
    struct sl_link *link = conn->link;
    if (link) {
        link->conn = NULL;
        if (link->state == SL_LINK_UP || link->leaving)
            link_over(hub, link, conn->fault, conn->reason);
        else
            link_retry_later(hub, link);
    }
    free(conn);
}

/* ---- Time ---- */

static void due(int *wait_ms, uint64_t now_ms, uint64_t at_ms)
{
    uint64_t left = at_ms > now_ms ? at_ms - now_ms : 0;
    if (left < (uint64_t)*wait_ms)
        *wait_ms = (int)left;
}

static void conn_heartbeat(struct sl_hub *hub, struct sl_conn *conn, uint64_t now_ms, int *wait_ms)
{
    uint64_t allowed_ms = hub->config.lost_ms + conn->bytes_under_way / (1000u * SL_SLOWEST_MB_PER_S);
    if (now_ms > conn->heard_ms + allowed_ms) { /* not a difference: a frame may be newer than now_ms */
        conn_fail(conn, SL_E_PEER_LOST, "no heartbeat");
        return;
    }
    due(wait_ms, now_ms, conn->heard_ms + allowed_ms + 1);
    if (!conn->link->dials)
        return;
    if (now_ms >= conn->pinged_ms + hub->config.heartbeat_ms) {
        conn->pinged_ms = now_ms;
        if (!atomic_load(&hub->fault_mute))
            control(conn, SL_WIRE_PING, now_ms, NULL);
    }
    due(wait_ms, now_ms, conn->pinged_ms + hub->config.heartbeat_ms);
}

/* One side or the other says goodbye: flush, tell how much was sent, wait for the answer, hang up.
 */
static void conn_goodbyes(struct sl_conn *conn, uint64_t now_ms, int *wait_ms)
{
    struct sl_link *link = conn->link;
    if (!link->leaving && !conn->heard_goodbye)
        return;
    uint64_t by_ms = link->leaving ? link->leave_by_ms : conn->goodbye_by_ms;
    bool late = now_ms >= by_ms;
    bool got_all = !conn->heard_goodbye || link->delivered == conn->peer_sent;
    bool sent_all = !link->waiting && conn->n_sends == 0;
    if (!conn->said_goodbye && (late || (sent_all && got_all))) {
        conn->said_goodbye = true;
        control(conn, SL_WIRE_GOODBYE, link->sent, NULL);
    }
    if (late || (link->leaving && conn->said_goodbye && conn->heard_goodbye && got_all))
        conn_fail(conn, SL_E_PEER_LOST,
                  conn->heard_goodbye ? "the peer said goodbye" : "left without an answer");
    due(wait_ms, now_ms, by_ms);
}

static void conn_step(struct sl_hub *hub, struct sl_conn *conn, uint64_t now_ms, int *wait_ms)
{
    if (!conn->fault) {
        uint64_t handshake_by_ms = conn->opened_ms + hub->config.handshake_ms;
        if (conn->state != SL_CONN_OPEN && now_ms >= handshake_by_ms)
            refuse(conn, "the handshake took too long");
        else if (conn->state != SL_CONN_OPEN && conn->link && conn->link->leaving)
            conn_fail(conn, SL_E_CANCELLED, "the link was given up");
        else if (conn->state != SL_CONN_OPEN)
            due(wait_ms, now_ms, handshake_by_ms);
        else {
            conn_goodbyes(conn, now_ms, wait_ms);
            if (hub->ops->silent_loss)
                conn_heartbeat(hub, conn, now_ms, wait_ms);
        }
    }
    if (conn->fault && !conn->hung_up) {
        conn->hung_up = true;
        hub->ops->hangup(conn->line);
    }
    if (conn->hung_up) /* the end of a closing line does not always wake the thread */
        due(wait_ms, now_ms, now_ms + 1);
}

/* A thread that was not run for a while (a stopped process, a busy machine) has not listened
 * either: that time is not held against the peers. */
static void forgive_own_absence(struct sl_hub *hub, uint64_t now_ms)
{
    uint64_t away_ms = hub->stepped_ms ? now_ms - hub->stepped_ms : 0;
    hub->stepped_ms = now_ms;
    if (away_ms <= hub->config.lost_ms / 2)
        return;
    for (struct sl_conn *conn = hub->conns; conn; conn = conn->next) {
        conn->heard_ms = now_ms;
        conn->opened_ms += conn->state == SL_CONN_OPEN ? 0 : away_ms;
    }
}

int sl_hub_step(struct sl_hub *hub, uint64_t now_ms)
{
    int wait_ms = 1000; /* even with nothing due: some event fds have been seen to miss a wake-up */
    forgive_own_absence(hub, now_ms);
    for (uint32_t i = 0; i < SL_LINKS_MAX; i++) {
        struct sl_link *link = hub->links[i];
        if (!link || link->state != SL_LINK_WAITING || link->conn)
            continue;
        if (link->leaving)
            link_over(hub, link, SL_E_CANCELLED, "the link was given up");
        else if (link->dials && now_ms >= link->retry_at_ms)
            link_dial(hub, link);
        if (link->dials && link->state == SL_LINK_WAITING && !link->conn)
            due(&wait_ms, now_ms, link->retry_at_ms);
    }
    for (struct sl_conn *conn = hub->conns, *next; conn; conn = next) {
        next = conn->next;
        conn_step(hub, conn, now_ms, &wait_ms);
    }
    if (hub->ops->silent_loss && hub->conns && wait_ms > (int)hub->config.lost_ms / 4)
        wait_ms = (int)hub->config.lost_ms / 4;
    return wait_ms;
}

void sl_hub_leave(struct sl_hub *hub, uint64_t now_ms)
{
    hub->closing = true;
    for (uint32_t i = 0; i < SL_LINKS_MAX; i++)
        if (hub->links[i] && hub->links[i]->state != SL_LINK_OVER)
            link_leave(hub->links[i], now_ms);
    for (struct sl_conn *conn = hub->conns; conn; conn = conn->next)
        if (!conn->link)
            conn_fail(conn, SL_E_CANCELLED, "this node is leaving");
}

void sl_hub_abort(struct sl_hub *hub)
{
    for (struct sl_conn *conn = hub->conns; conn; conn = conn->next)
        conn_fail(conn, SL_E_CANCELLED, "this node has left");
}

bool sl_hub_idle(const struct sl_hub *hub)
{
    return hub->conns == NULL;
}
