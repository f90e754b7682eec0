/* Two link layers and a simulated network between them on a virtual clock: frames take random time, land out of order, lines break with
 * a word or without, nodes freeze, or wake and find that an hour has passed, the network stalls or is gone. Whatever happens, the peer's
 * owner gets every frame once, in order and whole; what is said to have been sent it has; nobody writes to a slot that is held; every
 * buffer comes home once, before the last word; and while nobody was gone for too long, all frames arrive. 200 seeds, or as many as
 * SLUICE_SEEDS says. */
#include "pipeline/link/link_impl.h"
#include "tests/check.h"

#include <stdlib.h>

enum {
    SEEDS = 200,
    ID = 99,
    SLOT = 512,
    MOST_OUT = 24,
    LOST_MS = 10000,
    START_US = 5000000,
    END_US = 180000000
};

enum kind { ARRIVE, LEFT, LAND, CALL, CLOSE, BROKEN, OVER, PUT, RELEASE, FAULT, WAKE };

struct sl_line { /* one end of a pair */
    struct sl_line *peer, *next;
    struct sl_conn *conn;
    uint32_t node;
    bool hung_up, closed;
    bool dead;            /* nothing comes over it any more */
    uint64_t last_us;     /* when the newest of what was sent arrives: it is a line */
    uint64_t last_end_us; /* and lands */
};

struct carried { /* a frame on its way */
    struct carried *next;
    struct sl_line *from;
    struct sl_sending *sending; /* until it has left */
    struct sl_landing *landing; /* from its header's arrival on */
    uint8_t header[SL_WIRE_BYTES], *bytes;
    size_t n;
    bool at_end; /* the last event about it is over */
    bool lost;   /* on its way */
};

struct event {
    uint64_t at_us, number;
    enum kind kind;
    struct sl_line *line;
    struct carried *flight;
    uint32_t node, slot;
};

struct sl_transport {
    uint32_t node;
};

struct out {
    struct sl_sending sending;
    uint8_t bytes[SLOT];
    bool used;
};

struct world_node {
    struct sl_hub hub;
    struct sl_transport transport;
    struct sl_link *link;
    struct out outs[MOST_OUT];
    uint64_t n_put, n_home, n_received;
    uint64_t held, held_number[SL_SLOTS_MAX];
    uint64_t frozen_until_us, step_at_us, ahead_us;
    bool up, down, was_silent;
};

static struct {
    struct sl_rng rng;
    uint64_t now_us, n_made, n_lines;
    struct event events[4096];
    uint32_t n_events;
    struct carried *flights;
    struct sl_line *lines;
    struct world_node nodes[2];
    uint64_t n_frames, pause_us, max_delay_us, stalled_until_us, gone_until_us;
    uint32_t n_slots, n_faults;
    bool fails_to_leave, fails_to_land; /* the next frame does, and its transport says so at that end */
    bool calm, deadly;
    char broken[200];
} w;

static void broken(const char *what, uint32_t node)
{
    if (!w.broken[0])
        snprintf(w.broken, sizeof w.broken, "node %u: %s", node, what);
}

static uint64_t draw(uint64_t below)
{
    return sl_rng_next(&w.rng) % below;
}

static struct event *at(uint64_t at_us, enum kind kind, struct sl_line *line)
{
    if (w.n_events == sizeof w.events / sizeof *w.events) {
        broken("more is under way than can be", 0);
        w.n_events--;
    }
    struct event *e = &w.events[w.n_events++];
    *e = (struct event){.at_us = at_us, .number = w.n_made++, .kind = kind, .line = line};
    return e;
}

static struct event next_event(void)
{
    uint32_t least = 0;
    for (uint32_t i = 1; i < w.n_events; i++)
        if (w.events[i].at_us < w.events[least].at_us ||
            (w.events[i].at_us == w.events[least].at_us && w.events[i].number < w.events[least].number))
            least = i;
    struct event e = w.events[least];
    w.events[least] = w.events[--w.n_events];
    return e;
}

/* ---- what frames carry ---- */

static uint64_t bytes_of(uint32_t node, uint64_t number)
{
    return sl_rng_at(7 + node, number) % 8 ? sl_rng_at(17 + node, number) % (SLOT + 1) : 0;
}

static void fill(uint8_t *bytes, uint32_t node, uint64_t number)
{
    for (uint64_t i = 0; i < bytes_of(node, number); i++)
        bytes[i] = (uint8_t)sl_rng_at(27 + node, number * 1024 + i / 8) ^ (uint8_t)i;
}

static bool is_filled(const uint8_t *bytes, uint32_t node, uint64_t number)
{
    uint8_t expected[SLOT];
    fill(expected, node, number);
    return memcmp(bytes, expected, bytes_of(node, number)) == 0;
}

/* ---- the network ---- */

static uint64_t delay_us(void)
{
    uint64_t from = w.now_us > w.stalled_until_us ? w.now_us : w.stalled_until_us;
    return from - w.now_us + 1 + draw(w.max_delay_us);
}

static uint64_t arrives_us(struct sl_line *from)
{
    uint64_t us = w.now_us + delay_us();
    from->last_us = us > from->last_us ? us : from->last_us + 1;
    return from->last_us;
}

static void world_send(struct sl_line *line, struct sl_sending *sending)
{
    struct carried *f = calloc(1, sizeof *f);
    f->from = line;
    f->sending = sending;
    f->n = sending->bytes;
    f->bytes = malloc(f->n);
    memcpy(f->header, sending->header, sizeof f->header);
    f->next = w.flights;
    w.flights = f;
    uint64_t arrive = arrives_us(line), land = arrive; /* a control frame comes as a whole */
    if (sending->link && draw(2))
        land += draw(w.max_delay_us);
    line->last_end_us = land > line->last_end_us ? land : line->last_end_us;
    at(w.now_us + draw(land - w.now_us), LEFT, line)->flight = f;
    at(arrive, ARRIVE, line)->flight = f;
    at(land, LAND, line)->flight = f;
}

static void world_hangup(struct sl_line *line, enum sl_hangup how)
{
    line->hung_up = true;
    at(w.now_us + draw(20000), CLOSE, line);
    if (!line->dead) {
        uint64_t us = arrives_us(line);
        at(us > line->last_end_us ? us : line->last_end_us + 1, how == SL_HANGUP_OVER ? OVER : BROKEN,
           line->peer);
    }
}

static struct sl_line *line_of(uint32_t node, struct sl_conn *conn)
{
    struct sl_line *line = calloc(1, sizeof *line);
    line->node = node;
    line->conn = conn;
    line->next = w.lines;
    w.lines = line;
    return line;
}

static sl_status world_connect(struct sl_transport *t, uint64_t link, const struct sl_io_address *peer,
                               struct sl_conn *conn, struct sl_line **line)
{
    (void)link, (void)peer;
    if (w.now_us < w.gone_until_us)
        return SL_E_UNAVAILABLE;
    w.n_lines++;
    struct sl_line *a = line_of(t->node, conn), *b = line_of(!t->node, NULL);
    a->peer = b;
    b->peer = a;
    *line = a;
    at(arrives_us(a), CALL, b);
    return SL_OK;
}

static sl_status world_map(struct sl_transport *t, void *base, size_t bytes, void **region)
{
    (void)t, (void)base, (void)bytes;
    *region = NULL;
    return SL_OK;
}

static int world_fd(const struct sl_transport *t)
{
    (void)t;
    return 0;
}

static const struct sl_transport_ops world_ops = {.name = "world",
                                                  .silent_loss = true,
                                                  .connect = world_connect,
                                                  .send = world_send,
                                                  .hangup = world_hangup,
                                                  .map = world_map,
                                                  .fd = world_fd};

/* Its bytes have left, and are as they were then. */
static void leave(struct carried *f, sl_status status)
{
    struct sl_sending *sending = f->sending;
    if (!sending)
        return;
    memcpy(f->bytes, sending->payload, f->n);
    f->sending = NULL;
    sl_sending_done(sending, status);
}

static void left(struct carried *f)
{
    if (f->from->dead)
        return; /* it never leaves */
    f->lost = w.fails_to_leave && f->sending && f->sending->link;
    w.fails_to_leave = w.fails_to_leave && !f->lost;
    leave(f, f->lost ? SL_E_PEER_LOST : SL_OK);
}

static void arrive(struct carried *f)
{
    struct sl_line *to = f->from->peer;
    if (f->from->dead || f->lost || to->closed || to->hung_up || !to->conn)
        return;
    f->landing = sl_conn_arrived(to->conn, f->header, sizeof f->header, f->n);
    if (f->landing)
        memset(f->landing->to, 0xa5, f->n); /* bytes come one by one */
}

static void land(struct carried *f)
{
    f->at_end = true;
    struct sl_landing *landing = f->landing;
    if (!landing || f->from->dead || f->lost)
        return; /* it comes home with the end of the line */
    f->landing = NULL;
    if (w.fails_to_land && landing->wire.kind >= SL_WIRE_ORDER) {
        w.fails_to_land = false;
        sl_conn_landed(landing, SL_E_PEER_LOST);
        return;
    }
    if (f->sending) /* its node is frozen, and its transport is not */
        memcpy(f->bytes, f->sending->payload, f->n);
    memcpy(landing->to, f->bytes, f->n);
    sl_conn_landed(landing, SL_OK);
}

static void close_line(struct sl_line *line)
{
    for (struct carried *f = w.flights; f; f = f->next) {
        struct sl_landing *landing = f->from->peer == line ? f->landing : NULL;
        if (f->from == line)
            leave(f, SL_E_CANCELLED);
        if (landing) {
            f->landing = NULL;
            sl_conn_landed(landing, SL_E_CANCELLED);
        }
    }
    line->closed = true;
    sl_conn_closed(line->conn);
}

static void call(struct sl_line *line)
{
    struct sl_hub *hub = &w.nodes[line->node].hub;
    if (line->dead || line->peer->closed)
        return;
    if (sl_hub_awaits(hub, ID))
        line->conn = sl_hub_accept(hub, line, ID);
    if (!line->conn) {
        line->closed = true;
        at(w.now_us + delay_us(), BROKEN, line->peer);
    }
}

/* ---- faults ---- */

static void kill_lines(bool told)
{
    for (struct sl_line *line = w.lines; line; line = line->next) {
        if (line->dead || line->closed)
            continue;
        line->dead = true;
        if (told)
            at(w.now_us + draw(300000), BROKEN, line);
    }
}

static void fault(void)
{
    uint64_t lasts_us = 1000 + draw(3000000);
    switch (w.deadly ? 7 : draw(7)) {
    case 0:
        kill_lines(true);
        break;
    case 1:
        kill_lines(false); /* nobody is told: it is found out */
        break;
    case 2:
        w.stalled_until_us = w.now_us + lasts_us;
        break;
    case 3:
        w.nodes[draw(2)].frozen_until_us = w.now_us + lasts_us;
        break;
    case 4:
        w.fails_to_leave = true;
        break;
    case 5:
        w.fails_to_land = true;
        break;
    case 6: /* everybody was stopped, while a line was being made anew */
        kill_lines(true);
        for (uint32_t i = 0; i < 2; i++)
            at(w.now_us + draw(300000), WAKE, NULL)->node = i;
        break;
    default:
        kill_lines(draw(2));
        w.gone_until_us = w.now_us + 2000 * LOST_MS;
    }
}

/* ---- owners ---- */

static void put(uint32_t i)
{
    struct world_node *n = &w.nodes[i];
    struct out *out = n->outs;
    if (n->down || n->n_put == w.n_frames)
        return;
    while (out < n->outs + MOST_OUT && out->used)
        out++;
    if (n->up && out < n->outs + MOST_OUT) {
        uint64_t bytes = bytes_of(i, n->n_put);
        *out = (struct out){.used = true};
        fill(out->bytes, i, n->n_put);
        out->sending = (struct sl_sending){
            .link = n->link,
            .tag = n->n_put++,
            .payload = out->bytes,
            .wire = {
                .kind = SL_WIRE_ORDER, .epoch = 1, .payload_bytes = bytes, .meta_bytes = (uint32_t)bytes}};
        sl_frame_seal(&out->sending.wire, out->bytes);
        sl_link_send(&n->hub, n->link, &out->sending);
    }
    at(w.now_us + (draw(20) ? draw(20000) : draw(w.pause_us)), PUT, NULL)->node = i;
}

static void release(uint32_t i, uint32_t slot)
{
    struct world_node *n = &w.nodes[i];
    if (!is_filled(n->link->slots[slot].landing.to, !i, n->held_number[slot]))
        broken("a slot was written to while its frame was read", i);
    n->held &= ~(UINT64_C(1) << slot);
    sl_link_give_back(&n->hub, n->link, slot);
}

static void on_frame(uint32_t i, const struct sl_slot *slot)
{
    struct world_node *n = &w.nodes[i];
    uint64_t number = n->n_received++;
    if (slot->landing.wire.number != number || slot->landing.wire.payload_bytes != bytes_of(!i, number))
        broken("a frame came twice, not at all, or before another", i);
    else if (!is_filled(slot->landing.to, !i, number) ||
             !sl_frame_whole(&slot->landing.wire, slot->landing.to))
        broken("a frame is not what was sent", i);
    if (n->held >> slot->index & 1)
        broken("a slot that is held has another frame", i);
    n->held |= UINT64_C(1) << slot->index;
    n->held_number[slot->index] = number;
    struct event *e = at(w.now_us + draw(draw(8) ? 5000 : 400000), RELEASE, NULL);
    e->node = i;
    e->slot = slot->index;
}

static void on_sent(uint32_t i, const struct sl_note *note)
{
    struct world_node *n = &w.nodes[i];
    struct out *out = (struct out *)(void *)((char *)note->sending - offsetof(struct out, sending));
    if (!out->used)
        broken("a buffer came home twice", i);
    out->used = false;
    n->n_home++;
    if (note->status == SL_OK && note->sending->tag >= w.nodes[!i].n_received)
        broken("a frame is said to have been sent that the peer's owner has not", i);
    if (note->status != SL_OK && !w.deadly)
        broken("a frame was not sent, and nobody was gone for long", i);
}

static void take_notes(uint32_t i)
{
    struct world_node *n = &w.nodes[i];
    struct sl_note note;
    while (sl_ring_pop(&n->hub.notes, &note) == SL_OK) {
        if (n->down || (note.kind == SL_NOTE_UP && n->up))
            broken("there is a word after the last, or the first comes twice", i);
        n->up = n->up || note.kind == SL_NOTE_UP;
        if (note.kind == SL_NOTE_FRAME)
            on_frame(i, note.slot);
        else if (note.kind == SL_NOTE_SENT)
            on_sent(i, &note);
        n->down = note.kind == SL_NOTE_DOWN;
        if (n->down && n->n_home != n->n_put)
            broken("a link is down and has buffers yet", i);
        if (n->down && !w.deadly && !w.nodes[0].hub.closing)
            broken(note.reason, i);
    }
    n->was_silent = n->was_silent || atomic_load(&n->link->silent);
}

/* ---- the world ---- */

static void turn(uint32_t i)
{
    uint64_t now_us = w.now_us + w.nodes[i].ahead_us;
    sl_hub_turn(&w.nodes[i].hub, now_us / 1000, now_us + i * 12345);
}

/* Its transport is the first to see what time it is. */
static void wake(uint32_t i)
{
    w.nodes[i].ahead_us += 1000000 + draw(3600000000);
    turn(i);
    for (struct sl_line *line = w.lines; line; line = line->next)
        if (line->node == i && line->hung_up && !line->closed)
            close_line(line);
}

static bool is_frozen(uint32_t i)
{
    return w.now_us < w.nodes[i].frozen_until_us;
}

static void step(uint32_t i)
{
    struct world_node *n = &w.nodes[i];
    if (is_frozen(i))
        return;
    turn(i);
    int wait_ms = sl_hub_step(&n->hub);
    n->step_at_us = w.now_us + 1000 * (uint64_t)(wait_ms > 0 ? wait_ms : 1);
    take_notes(i);
}

static uint32_t node_of(const struct event *e)
{
    if (e->kind == ARRIVE || e->kind == LAND)
        return e->flight->from->peer->node;
    return e->line ? e->line->node : e->node;
}

static void happen(const struct event *e)
{
    bool ends = e->line && !e->line->closed && e->line->conn;
    switch (e->kind) {
    case ARRIVE:
        arrive(e->flight);
        break;
    case LEFT:
        left(e->flight);
        break;
    case LAND:
        land(e->flight);
        break;
    case CALL:
        call(e->line);
        break;
    case CLOSE:
        if (!e->line->closed)
            close_line(e->line);
        break;
    case BROKEN:
        if (ends)
            sl_conn_broken(e->line->conn, SL_E_PEER_LOST, "the line broke");
        break;
    case OVER:
        if (ends)
            sl_conn_over(e->line->conn);
        break;
    case PUT:
        put(e->node);
        break;
    case RELEASE:
        release(e->node, e->slot);
        break;
    case FAULT:
        fault();
        break;
    case WAKE:
        wake(e->node);
        break;
    }
}

static void forget_flights(void)
{
    for (struct carried **at_f = &w.flights, *f; (f = *at_f);) {
        if (!f->at_end || f->sending || f->landing) {
            at_f = &f->next;
            continue;
        }
        *at_f = f->next;
        free(f->bytes);
        free(f);
    }
}

/* Everything that was to happen has: the first of the two leaves, and the other when it hears of it. */
static bool go_when_done(void)
{
    struct world_node *a = &w.nodes[0], *b = &w.nodes[1];
    bool all = a->n_home == w.n_frames && b->n_home == w.n_frames && !a->held && !b->held &&
               a->n_received == w.n_frames && b->n_received == w.n_frames,
         past_faults = w.now_us > START_US + 30000000;
    for (uint32_t i = 0; i < 2; i++) {
        struct world_node *n = &w.nodes[i];
        bool leaves = w.deadly ? a->down && b->down : i == 0 ? all && past_faults : n->down;
        if (leaves && !n->hub.closing)
            sl_hub_leave(&n->hub);
    }
    return a->down && b->down && sl_hub_idle(&a->hub) && sl_hub_idle(&b->hub) && !a->held && !b->held;
}

static void make_node(uint32_t i, uint64_t seed)
{
    struct world_node *n = &w.nodes[i];
    n->transport.node = i;
    n->hub.ops = &world_ops;
    n->hub.transport = &n->transport;
    n->hub.jitter = (struct sl_rng){seed, 1 + i};
    n->hub.config = (struct sl_io_config){.limits = {1 << 20, 64, 1 << 20},
                                          .heartbeat_ms = 200,
                                          .silent_ms = 1000,
                                          .lost_ms = LOST_MS,
                                          .handshake_ms = 2000};
    REQUIRE(sl_ring_init(&n->hub.notes, 1024, sizeof(struct sl_note)) == SL_OK);
    REQUIRE(sl_bell_init(&n->hub.owner) == SL_OK);
    n->step_at_us = w.now_us;
    turn(i);
    n->link = calloc(1, sizeof *n->link);
    n->link->config = (struct sl_link_config){
        .id = ID, .epoch = 1, .auth = (enum sl_link_auth)draw(3), .n_slots = w.n_slots, .slot_bytes = SLOT};
    n->link->config.auth = seed % 3 ? SL_LINK_AUTH_NONE : SL_LINK_AUTH_PAYLOAD;
    n->link->dials = i == 0;
    sl_io_address_set(&n->link->peer, "peer", 4);
    n->link->stride = SLOT;
    n->link->memory_bytes = (size_t)SLOT * w.n_slots;
    n->link->memory = calloc(1, n->link->memory_bytes);
    sl_link_begin(&n->hub, n->link);
    at(w.now_us + draw(1000), PUT, NULL)->node = i;
}

static void make_world(uint64_t seed)
{
    memset(&w, 0, sizeof w);
    w.rng = (struct sl_rng){seed, 0};
    w.now_us = START_US;
    w.calm = seed % 5 == 0;
    w.deadly = seed % 5 == 1;
    w.n_slots = 1 + (uint32_t)draw(8);
    w.n_frames = 20 + draw(200);
    w.max_delay_us = 1 + draw(draw(2) ? 2000 : 60000);
    w.pause_us = 1 + draw(2000000);
    w.n_faults = w.calm ? 0 : 1 + (uint32_t)draw(w.deadly ? 1 : 3);
    for (uint32_t i = 0; i < w.n_faults; i++) /* what is found out by silence takes half of LOST_MS */
        at(w.now_us + 200000 + i * 8000000 + draw(1500000), FAULT, NULL);
    make_node(0, seed);
    make_node(1, seed);
}

static void end_world(void)
{
    for (uint32_t i = 0; i < 2; i++) {
        struct world_node *n = &w.nodes[i];
        sl_ring_fini(&n->hub.notes);
        sl_bell_fini(&n->hub.owner);
        free(n->link->memory);
        free(n->link);
    }
    for (struct carried *f = w.flights, *next; f; f = next) {
        next = f->next;
        free(f->bytes);
        free(f);
    }
    for (struct sl_line *line = w.lines, *next; line; line = next) {
        next = line->next;
        free(line);
    }
}

static void run_world(void)
{
    while (!w.broken[0] && !go_when_done()) {
        uint64_t next_us =
            w.nodes[0].step_at_us < w.nodes[1].step_at_us ? w.nodes[0].step_at_us : w.nodes[1].step_at_us;
        struct event e = {.at_us = UINT64_MAX};
        if (w.n_events > 0)
            e = next_event();
        bool is_event = e.at_us <= next_us;
        if (w.n_events < sizeof w.events / sizeof *w.events && !is_event && e.at_us != UINT64_MAX)
            w.events[w.n_events++] = e;
        w.now_us = is_event ? e.at_us > w.now_us ? e.at_us : w.now_us : next_us;
        for (uint32_t i = 0; i < 2; i++) {
            if (is_frozen(i) && w.nodes[i].step_at_us < w.nodes[i].frozen_until_us)
                w.nodes[i].step_at_us = w.nodes[i].frozen_until_us;
            turn(i);
        }
        if (is_event && e.kind != FAULT && is_frozen(node_of(&e))) {
            e.at_us = w.nodes[node_of(&e)].frozen_until_us;
            w.events[w.n_events++] = e;
            continue;
        }
        if (is_event)
            happen(&e);
        step(0);
        step(1);
        forget_flights();
        if (w.now_us > END_US)
            broken("not all that was sent arrives", 0);
    }
    if (w.calm && (w.n_lines != 1 || w.nodes[0].was_silent || w.nodes[1].was_silent))
        broken("nothing happened, and a peer was silent, or a line was made anew", 0);
}

SL_TEST(whatever_happens_frames_come_once_in_order_and_whole_and_buffers_come_home)
{
    const char *more = getenv("SLUICE_SEEDS");
    uint64_t n_lines = 0, n_calm = 0, n_deadly = 0, n_silent = 0,
             last = more ? strtoull(more, NULL, 10) : SEEDS;
    for (uint64_t seed = 1; seed <= last; seed++) {
        make_world(seed);
        run_world();
        if (w.broken[0])
            sl_test_fail(__FILE__, __LINE__, "seed %llu: %s (at %llu us)", (unsigned long long)seed, w.broken,
                         (unsigned long long)(w.now_us - START_US));
        n_lines += w.n_lines;
        n_calm += w.calm;
        n_deadly += w.deadly;
        n_silent += w.nodes[0].was_silent;
        end_world();
    }
    CHECK(2 * n_lines > 3 * last && n_calm >= last / 5 && n_deadly >= last / 5 && n_silent > last / 2);
}
