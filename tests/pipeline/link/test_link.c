/* The link layer against a peer that is played by the test: a transport which only notes what it is
 * given, so that every frame, good or hostile, is made by hand, completes when the test says so,
 * and time is a number. The proofs of the handshake are computed here anew, from the words of the
 * specification. */
#include "base/bytes.h"
#include "base/digest.h"
#include "pipeline/link/link_impl.h"
#include "tests/check.h"

#include <sys/mman.h>

enum { START_MS = 5000, WALL_US = 7 };
enum { ID = 99, EPOCH = 3, SLOT_BYTES = 4096, N_SLOTS = 4, MAX_SENT = 256 };

struct sl_line {
    struct sl_conn *conn;
    bool hung_up;
};

static struct {
    struct sl_sending *sent[MAX_SENT];
    int n_sent, n_lines;
    struct sl_line lines[64];
    sl_status connect_status;
    int fd;
} fake;

static void fake_send(struct sl_line *line, struct sl_sending *sending)
{
    (void)line;
    if (fake.n_sent < MAX_SENT)
        fake.sent[fake.n_sent++] = sending;
}

static void fake_hangup(struct sl_line *line)
{
    line->hung_up = true;
}

static sl_status fake_connect(struct sl_transport *t, const char *address, uint16_t port,
                              struct sl_conn *conn, struct sl_line **line)
{
    (void)t, (void)address, (void)port;
    fake.n_lines++;
    if (fake.connect_status != SL_OK)
        return fake.connect_status;
    *line = &fake.lines[fake.n_lines];
    **line = (struct sl_line){.conn = conn};
    return SL_OK;
}

static sl_status fake_map(struct sl_transport *t, void *base, size_t bytes, void **region)
{
    (void)t, (void)base, (void)bytes;
    *region = NULL;
    return SL_OK;
}

static int fake_fd(const struct sl_transport *t)
{
    (void)t;
    return fake.fd;
}

static const struct sl_transport_ops fake_ops = {.name = "fake",
                                                 .silent_loss = true,
                                                 .connect = fake_connect,
                                                 .send = fake_send,
                                                 .hangup = fake_hangup,
                                                 .map = fake_map,
                                                 .fd = fake_fd};

static struct sl_hub hub;
static struct sl_link *links[4];
static int n_links;
static const uint8_t peer_nonce[SL_NONCE_BYTES] = "a peer's nonce!";

/* Time is what the test says. */
static int step_at(uint64_t ms)
{
    sl_hub_turn(&hub, ms, ms * 1000 + WALL_US);
    return sl_hub_step(&hub);
}

/* Lets the hub act on what was noted, at the same time. */
static int step(void)
{
    return sl_hub_step(&hub);
}

static void setup(void)
{
    memset(&fake, 0, sizeof fake);
    memset(&hub, 0, sizeof hub);
    n_links = 0;
    hub.ops = &fake_ops;
    hub.config = (struct sl_io_config){.limits = {1 << 20, 64, 1 << 20},
                                       .heartbeat_ms = 200,
                                       .silent_ms = 1000,
                                       .lost_ms = 1000,
                                       .handshake_ms = 2000};
    CHECK_INT(sl_ring_init(&hub.notes, 1024, sizeof(struct sl_note)), SL_OK);
    CHECK_INT(sl_bell_init(&hub.owner), SL_OK);
    step_at(START_MS);
}

/* Every line that was hung up ends, with what it still had under way. */
static void end_lines(void)
{
    for (int i = 0; i < fake.n_sent; i++) {
        struct sl_sending *sending = fake.sent[i];
        if (sending && sending->conn && sl_conn_line(sending->conn)->hung_up) {
            fake.sent[i] = NULL;
            sl_sending_done(sending, SL_E_CANCELLED);
        }
    }
    for (struct sl_conn *conn = hub.conns, *next; conn; conn = next) {
        next = conn->next;
        if (conn->line->hung_up)
            sl_conn_closed(conn);
    }
}

static void teardown(void)
{
    sl_hub_leave(&hub);
    sl_hub_abort(&hub);
    step();
    end_lines();
    CHECK(sl_hub_idle(&hub));
    for (int i = 0; i < n_links; i++) {
        munmap(links[i]->memory, links[i]->memory_bytes);
        free(links[i]);
    }
    sl_ring_fini(&hub.notes);
    sl_bell_fini(&hub.owner);
}

static struct sl_link *make_link(bool dials)
{
    struct sl_link *link = calloc(1, sizeof *link);
    link->config =
        (struct sl_link_config){.id = ID, .epoch = EPOCH, .n_slots = N_SLOTS, .slot_bytes = SLOT_BYTES};
    memset(link->config.key, 7, sizeof link->config.key);
    link->entry = (uint32_t)n_links;
    link->dials = dials;
    link->port = 1;
    link->stride = SLOT_BYTES;
    link->memory_bytes = (size_t)SLOT_BYTES * N_SLOTS;
    link->memory = mmap(NULL, link->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    links[n_links++] = link;
    sl_link_begin(&hub, link);
    return link;
}

static bool next_note(enum sl_note_kind kind, struct sl_note *note)
{
    memset(note, 0, sizeof *note);
    return sl_ring_pop(&hub.notes, note) == SL_OK && note->kind == kind;
}

static bool no_note(void)
{
    struct sl_note note;
    return sl_ring_pop(&hub.notes, &note) == SL_AGAIN;
}

/* The last frame of a kind that the hub sent; it completes with that. NULL: none. */
static struct sl_sending *take_sent(enum sl_wire_kind kind)
{
    struct sl_sending *found = NULL;
    for (int i = 0; i < fake.n_sent; i++) {
        struct sl_sending *sending = fake.sent[i];
        if (!sending || sending->wire.kind != kind)
            continue;
        fake.sent[i] = NULL;
        found = sending;
        sl_sending_done(sending, SL_OK);
    }
    return found;
}

/* ---- Frames of the peer ---- */

static struct sl_wire peer_frame(enum sl_wire_kind kind, uint64_t sequence, uint64_t bytes)
{
    return (struct sl_wire){.kind = (uint16_t)kind,
                            .flags = SL_WIRE_HAS_CHECKSUM,
                            .epoch = EPOCH,
                            .number = sequence,
                            .payload_bytes = bytes,
                            .meta_bytes = (uint32_t)bytes};
}

/* The frame's beginning: NULL when the hub refuses it. */
static struct sl_landing *begin(struct sl_conn *conn, struct sl_wire wire, const uint8_t *data)
{
    uint8_t header[SL_WIRE_BYTES];
    size_t bytes = (size_t)wire.payload_bytes;
    sl_frame_seal(&wire, data);
    sl_wire_pack(header, &wire);
    struct sl_landing *landing = sl_conn_arrived(conn, header, sizeof header, bytes ? bytes : SL_PAD_BYTES);
    if (landing)
        memcpy(landing->to, data, bytes);
    return landing;
}

static bool give(struct sl_conn *conn, struct sl_wire wire, const uint8_t *data)
{
    struct sl_landing *landing = begin(conn, wire, data);
    if (landing)
        sl_conn_landed(landing, SL_OK);
    return landing != NULL;
}

static bool give_control(struct sl_conn *conn, enum sl_wire_kind kind, uint64_t sequence, const uint8_t *body)
{
    static const uint8_t none[SL_CONTROL_BYTES];
    return give(conn, peer_frame(kind, sequence, SL_CONTROL_BYTES), body ? body : none);
}

static bool give_credit(struct sl_conn *conn, uint64_t count)
{
    uint8_t body[SL_CONTROL_BYTES] = {0};
    sl_put64(body, SLOT_BYTES);
    return give_control(conn, SL_WIRE_CREDIT, count, body);
}

/* HMAC-SHA256 over label, link id, epoch, version, the client's nonce, the server's. */
static void proof(const char *label, const uint8_t *client, const uint8_t *server, uint8_t mac[32])
{
    uint8_t text[58], key[32];
    memcpy(text, label, 8);
    sl_put64(text + 8, ID);
    sl_put64(text + 16, EPOCH);
    sl_put16(text + 24, SL_WIRE_VERSION);
    memcpy(text + 26, client, 16);
    memcpy(text + 42, server, 16);
    memset(key, 7, sizeof key);
    sl_hmac_sha256(key, text, sizeof text, mac);
}

static struct sl_conn *call_in(void)
{
    struct sl_line *line = &fake.lines[++fake.n_lines];
    struct sl_conn *conn = sl_hub_accept(&hub, line);
    *line = (struct sl_line){.conn = conn};
    return conn;
}

static bool say_hello(struct sl_conn *conn, uint64_t id)
{
    uint8_t body[SL_CONTROL_BYTES] = {0};
    sl_put64(body, id);
    memcpy(body + 8, peer_nonce, sizeof peer_nonce);
    return give_control(conn, SL_WIRE_HELLO, 0, body);
}

/* A peer that does everything right, up to LINK_UP and four credits either way. */
static struct sl_conn *come_up(void)
{
    struct sl_note note;
    struct sl_conn *conn = call_in();
    if (!say_hello(conn, ID))
        return NULL;
    struct sl_sending *welcome = take_sent(SL_WIRE_WELCOME);
    uint8_t body[SL_CONTROL_BYTES] = {0}, mac[32];
    if (!welcome)
        return NULL;
    const uint8_t *answer = welcome->payload;
    proof("slserver", peer_nonce, answer, mac);
    CHECK(memcmp(answer + 16, mac, 32) == 0);
    proof("slclient", peer_nonce, answer, body + 16);
    give_control(conn, SL_WIRE_WELCOME, 0, body);
    CHECK(next_note(SL_NOTE_UP, &note));
    struct sl_sending *credit = take_sent(SL_WIRE_CREDIT);
    CHECK(credit && credit->wire.number == N_SLOTS);
    give_credit(conn, N_SLOTS);
    return conn;
}

/* Lets the hub act on the fault, and expects LINK_DOWN with this reason. */
static void expect_down(const char *reason)
{
    struct sl_note note;
    step();
    end_lines();
    CHECK(next_note(SL_NOTE_DOWN, &note));
    if (note.kind == SL_NOTE_DOWN)
        CHECK_CONTAINS(note.reason ? note.reason : "nothing", reason);
    CHECK(no_note());
}

/* ---- Handshake ---- */

SL_TEST(right_peer_comes_up)
{
    setup();
    make_link(false);
    REQUIRE(come_up() != NULL);
    CHECK_INT(atomic_load(&hub.links_up), 1);
    CHECK(no_note());
    teardown();
}

SL_TEST(wrong_proof_is_hung_up)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = call_in();
    REQUIRE(say_hello(conn, ID));
    struct sl_sending *welcome = take_sent(SL_WIRE_WELCOME);
    REQUIRE(welcome != NULL);
    uint8_t body[SL_CONTROL_BYTES] = {0};
    proof("slserver", peer_nonce, welcome->payload, body + 16); /* our own proof, played back */
    give_control(conn, SL_WIRE_WELCOME, 0, body);
    step();
    CHECK(conn->line->hung_up);
    end_lines();
    CHECK(no_note());
    CHECK_INT(link->state, SL_LINK_WAITING); /* the right peer may still come */
    CHECK(come_up() != NULL);
    teardown();
}

SL_TEST(nothing_is_taken_before_the_handshake)
{
    static const enum sl_wire_kind kinds[] = {SL_WIRE_CREDIT, SL_WIRE_PING, SL_WIRE_GOODBYE, SL_WIRE_ORDER};
    setup();
    make_link(false);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct sl_conn *conn = call_in();
        give_control(conn, kinds[i], 0, NULL);
        step();
        CHECK(conn->line->hung_up);
        end_lines();
    }
    CHECK(no_note());
    CHECK_INT(fake.n_sent, 0);
    teardown();
}

SL_TEST(handshake_cannot_be_played_again)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    REQUIRE(conn != NULL);
    say_hello(conn, ID);
    expect_down("HELLO in the middle");
    teardown();
}

/* The proof that a peer with this key gives to the WELCOME on a line. */
static void prove(struct sl_conn *conn, bool right)
{
    struct sl_sending *welcome = take_sent(SL_WIRE_WELCOME);
    uint8_t body[SL_CONTROL_BYTES] = {0};
    REQUIRE(welcome != NULL);
    proof("slclient", peer_nonce, welcome->payload, body + 16);
    body[16] ^= !right;
    give_control(conn, SL_WIRE_WELCOME, 0, body);
}

SL_TEST(link_that_is_up_is_not_taken_over_by_a_stranger)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up(), *second = call_in();
    say_hello(second, ID);
    prove(second, false);
    step();
    CHECK(second->line->hung_up);
    CHECK(link->conn == conn && !conn->line->hung_up);
    end_lines();
    teardown();
}

SL_TEST(a_peer_that_comes_over_another_line_ends_the_one_before)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up(), *second = call_in();
    say_hello(second, ID);
    prove(second, true);
    step();
    CHECK(conn->line->hung_up && second->line->hung_up); /* it will come a third time */
    end_lines();
    CHECK(!link->conn && link->state == SL_LINK_WAITING && link->silent);
    struct sl_conn *third = call_in();
    say_hello(third, ID);
    prove(third, true);
    CHECK(link->conn == third && link->state == SL_LINK_UP && !link->silent);
    CHECK(no_note()); /* the owner need not know */
    teardown();
}

SL_TEST(half_open_lines_are_bounded_and_end)
{
    setup();
    make_link(false);
    for (int i = 0; i < SL_HALF_OPEN_MAX; i++)
        CHECK(call_in() != NULL);
    CHECK(call_in() == NULL);
    for (uint64_t ms = 0; ms <= 2200; ms += 200)
        step_at(START_MS + ms);
    end_lines();
    CHECK(sl_hub_idle(&hub));
    CHECK(come_up() != NULL);
    teardown();
}

SL_TEST(hello_must_name_the_epoch_of_its_link)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = call_in();
    uint8_t body[SL_CONTROL_BYTES] = {0};
    sl_put64(body, ID);
    struct sl_wire hello = peer_frame(SL_WIRE_HELLO, 0, SL_CONTROL_BYTES);
    hello.epoch = EPOCH + 1;
    CHECK(give(conn, hello, body));
    CHECK_STR(conn->reason, "the peer names another epoch of the link");
    step();
    CHECK(conn->line->hung_up);
    end_lines();
    CHECK_INT(atomic_load(&hub.refusals), 1);
    CHECK_INT(fake.n_sent, 0); /* it learns nothing */
    CHECK_INT(link->state, SL_LINK_WAITING);
    CHECK(come_up() != NULL);
    teardown();
}

/* ---- Credits and order ---- */

SL_TEST(credit_repeats_but_never_shrinks)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    give_credit(conn, N_SLOTS);
    give_credit(conn, N_SLOTS + 3);
    step();
    CHECK(!conn->line->hung_up);
    give_credit(conn, N_SLOTS + 2);
    expect_down("credit makes no sense");
    teardown();
}

SL_TEST(credit_beyond_the_bound_is_refused)
{
    setup();
    make_link(false);
    give_credit(come_up(), SL_SLOTS_MAX + 1);
    expect_down("credit makes no sense");
    teardown();
}

SL_TEST(frames_that_end_out_of_order_come_in_order)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_note note;
    struct sl_landing *landing[3];
    static const uint8_t data[3] = "xyz";
    for (uint64_t n = 0; n < 3; n++)
        landing[n] = begin(conn, peer_frame(SL_WIRE_ORDER, n, 1), data + n);
    REQUIRE(landing[0] && landing[1] && landing[2]);
    sl_conn_landed(landing[2], SL_OK);
    sl_conn_landed(landing[1], SL_OK);
    CHECK(no_note());
    sl_conn_landed(landing[0], SL_OK);
    for (int n = 0; n < 3; n++) {
        CHECK(next_note(SL_NOTE_FRAME, &note));
        CHECK_INT(note.slot->landing.wire.number, n);
        CHECK_INT(note.slot->landing.to[0], data[n]);
        sl_link_give_back(&hub, link, note.slot->index);
    }
    /* One CREDIT goes out at once, and after it one for the two that were given back meanwhile. */
    struct sl_sending *credit = take_sent(SL_WIRE_CREDIT);
    CHECK(credit && credit->wire.number == N_SLOTS + 3);
    teardown();
}

SL_TEST(bad_frames_end_the_link)
{
    static const struct {
        const char *reason;
        uint64_t sequence, bytes, epoch;
    } rows[] = {
        {"without credit", N_SLOTS, 8, EPOCH},
        {"twice or leaves a gap", UINT64_MAX, 8, EPOCH},
        {"twice or leaves a gap", SL_SLOTS_MAX, 8, EPOCH},
        {"larger than the slots", 0, SLOT_BYTES + 1, EPOCH},
        {"another epoch", 0, 8, EPOCH - 1},
        {"larger than this node takes", 0, (1 << 20) + 1, EPOCH},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        setup();
        make_link(false);
        struct sl_conn *conn = come_up();
        struct sl_wire wire = peer_frame(SL_WIRE_KV, rows[i].sequence, rows[i].bytes);
        uint8_t header[SL_WIRE_BYTES];
        wire.epoch = rows[i].epoch;
        sl_wire_pack(header, &wire);
        CHECK(sl_conn_arrived(conn, header, sizeof header, (size_t)wire.payload_bytes) == NULL);
        expect_down(rows[i].reason);
        teardown();
    }
}

SL_TEST(frame_number_comes_once)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    static const uint8_t data[8];
    struct sl_landing *first = begin(conn, peer_frame(SL_WIRE_ORDER, 1, 8), data);
    CHECK(first != NULL);
    CHECK(begin(conn, peer_frame(SL_WIRE_ORDER, 1, 8), data) == NULL);
    sl_conn_landed(first, SL_OK);
    expect_down("twice");
    teardown();
}

SL_TEST(length_must_be_the_headers)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_wire wire = peer_frame(SL_WIRE_ORDER, 0, 8);
    uint8_t header[SL_WIRE_BYTES];
    sl_wire_pack(header, &wire);
    CHECK(sl_conn_arrived(conn, header, sizeof header, 9) == NULL);
    expect_down("differs from its header");
    teardown();
}

SL_TEST(damaged_header_ends_the_link)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_wire wire = peer_frame(SL_WIRE_ORDER, 0, 8);
    uint8_t header[SL_WIRE_BYTES];
    sl_wire_pack(header, &wire);
    header[40] ^= 1;
    CHECK(sl_conn_arrived(conn, header, sizeof header, 8) == NULL);
    expect_down("checksum");
    teardown();
}

SL_TEST(frame_that_nobody_sealed_ends_the_link)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_wire wire = peer_frame(SL_WIRE_ORDER, 0, 8);
    uint8_t header[SL_WIRE_BYTES];
    wire.flags = 0;
    sl_wire_pack(header, &wire);
    CHECK(sl_conn_arrived(conn, header, sizeof header, 8) == NULL);
    expect_down("without a checksum");
    teardown();
}

SL_TEST(payload_is_carried_and_not_read)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_note note;
    static const uint8_t data[8] = "payload";
    struct sl_landing *landing = begin(conn, peer_frame(SL_WIRE_KV, 0, 8), data);
    REQUIRE(landing != NULL);
    landing->to[3] ^= 1; /* on the line */
    sl_conn_landed(landing, SL_OK);
    CHECK(next_note(SL_NOTE_FRAME, &note));
    CHECK(!sl_frame_whole(&note.slot->landing.wire, note.slot->landing.to));
    note.slot->landing.to[3] ^= 1;
    CHECK(sl_frame_whole(&note.slot->landing.wire, note.slot->landing.to));
    step();
    CHECK(!conn->line->hung_up);
    teardown();
}

SL_TEST(damaged_control_frame_ends_the_link)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    static const uint8_t body[SL_CONTROL_BYTES];
    struct sl_landing *landing = begin(conn, peer_frame(SL_WIRE_PING, 1, SL_CONTROL_BYTES), body);
    REQUIRE(landing != NULL);
    landing->to[0] ^= 1;
    sl_conn_landed(landing, SL_OK);
    expect_down("control frame is damaged");
    CHECK(take_sent(SL_WIRE_PONG) == NULL);
    teardown();
}

SL_TEST(failed_frame_ends_the_link_and_hides_what_is_behind)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    static const uint8_t data[8];
    struct sl_landing *first = begin(conn, peer_frame(SL_WIRE_ORDER, 0, 8), data),
                      *second = begin(conn, peer_frame(SL_WIRE_ORDER, 1, 8), data);
    sl_conn_landed(second, SL_OK);
    sl_conn_landed(first, SL_E_PEER_LOST);
    step();
    end_lines();
    CHECK(no_note()); /* no FRAME, and another line may come */
    step_at(START_MS + 1001);
    expect_down("could not be received");
    teardown();
}

SL_TEST(tokens_come_home_before_the_link_is_down)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_sending ops[6];
    struct sl_note note;
    memset(ops, 0, sizeof ops);
    for (uint64_t n = 0; n < 6; n++) {
        ops[n] = (struct sl_sending){.link = link, .tag = n, .wire = peer_frame(SL_WIRE_ORDER, 0, 0)};
        sl_link_send(&hub, link, &ops[n]);
    }
    CHECK_INT(link->sent, N_SLOTS); /* two wait for credit */
    sl_conn_broken(conn, SL_E_PEER_LOST, "gone");
    step();
    end_lines();
    CHECK(no_note()); /* another line may take them */
    step_at(START_MS + 1001);
    int seen[6] = {0};
    for (int n = 0; n < 6; n++) {
        REQUIRE(next_note(SL_NOTE_SENT, &note));
        CHECK_INT(note.status, SL_E_PEER_LOST);
        seen[note.sending->tag]++;
    }
    for (int n = 0; n < 6; n++)
        CHECK_INT(seen[n], 1);
    CHECK(next_note(SL_NOTE_DOWN, &note));
    CHECK(no_note());
    teardown();
}

/* ---- Time ---- */

SL_TEST(frames_are_stamped_with_the_time_of_their_round)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_note note;
    static const uint8_t data[8];
    struct sl_landing *frame = begin(conn, peer_frame(SL_WIRE_ORDER, 0, 8), data);
    step_at(START_MS + 40);
    sl_conn_landed(frame, SL_OK);
    CHECK(next_note(SL_NOTE_FRAME, &note));
    CHECK_INT(note.slot->at_us, (START_MS + 40) * 1000 + WALL_US);
    CHECK_INT(conn->heard_ms, START_MS + 40);
    teardown();
}

SL_TEST(silence_ends_the_link)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    for (uint64_t ms = 0; ms <= 1000; ms += 250)
        step_at(START_MS + ms);
    CHECK(!conn->line->hung_up);
    step_at(START_MS + 1001);
    CHECK(conn->line->hung_up);
    expect_down("no heartbeat");
    teardown();
}

SL_TEST(a_silent_peer_is_told_once_and_goes_on_when_it_is_heard_again)
{
    setup();
    hub.config.lost_ms = 3000;
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    for (uint64_t ms = 0; ms <= 1000; ms += 250)
        step_at(START_MS + ms);
    CHECK(!link->silent && !hub.silence_changed);
    CHECK(step_at(START_MS + 1001) <= 2000); /* it looks again when the peer would be lost, at the latest */
    CHECK(link->silent && hub.silence_changed && !conn->line->hung_up);
    hub.silence_changed = false;
    for (uint64_t ms = 1250; ms <= 3000; ms += 250)
        step_at(START_MS + ms);
    CHECK(link->silent && !hub.silence_changed && !conn->line->hung_up);
    give_control(conn, SL_WIRE_PING, 1, NULL);
    step();
    CHECK(!link->silent && hub.silence_changed);
    for (uint64_t ms = 3000; ms <= 6000; ms += 250)
        step_at(START_MS + ms);
    CHECK(link->silent && !conn->line->hung_up);
    step_at(START_MS + 6001);
    CHECK(conn->line->hung_up);
    expect_down("no heartbeat");
    CHECK(!link->silent); /* lost is no more silent */
    teardown();
}

/* ---- A line breaks, and another one carries on ---- */

static struct sl_conn *come_again(void)
{
    struct sl_conn *conn = call_in();
    say_hello(conn, ID);
    prove(conn, true);
    return conn;
}

static bool give_credit_for(struct sl_conn *conn, uint64_t granted, uint64_t delivered)
{
    uint8_t body[SL_CONTROL_BYTES] = {0};
    sl_put64(body, SLOT_BYTES);
    sl_put64(body + 8, delivered);
    return give_control(conn, SL_WIRE_CREDIT, granted, body);
}

static void break_line(struct sl_conn *conn)
{
    sl_conn_broken(conn, SL_E_PEER_LOST, "the cable");
    step();
    end_lines();
}

/* Data frames that the transport was given since the last look, by number; they complete. */
static int take_data(uint64_t *numbers)
{
    int n = 0;
    for (int i = 0; i < fake.n_sent; i++) {
        struct sl_sending *sending = fake.sent[i];
        if (!sending || !sending->link)
            continue;
        fake.sent[i] = NULL;
        numbers[n++] = sending->wire.number;
        sl_sending_done(sending, SL_OK);
    }
    return n;
}

SL_TEST(only_what_the_peers_owner_has_is_sent)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_sending ops[3];
    struct sl_note note;
    uint64_t numbers[8];
    memset(ops, 0, sizeof ops);
    for (uint64_t n = 0; n < 3; n++) {
        ops[n] = (struct sl_sending){.link = link, .tag = n, .wire = peer_frame(SL_WIRE_ORDER, 0, 0)};
        sl_link_send(&hub, link, &ops[n]);
    }
    CHECK_INT(take_data(numbers), 3);
    CHECK(no_note()); /* the bytes have left, and that is all */
    give_credit_for(conn, N_SLOTS + 2, 2);
    for (uint64_t n = 0; n < 2; n++) {
        CHECK(next_note(SL_NOTE_SENT, &note));
        CHECK(note.status == SL_OK && note.sending->tag == n);
    }
    CHECK(no_note());
    give_credit_for(conn, N_SLOTS + 2, 3);
    CHECK(next_note(SL_NOTE_SENT, &note));
    teardown();
}

SL_TEST(what_was_not_delivered_goes_out_again_over_the_next_line)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_sending ops[6];
    struct sl_note note;
    uint64_t numbers[8];
    memset(ops, 0, sizeof ops);
    for (uint64_t n = 0; n < 6; n++) { /* four are sent, two wait for credit */
        ops[n] = (struct sl_sending){.link = link, .tag = n, .wire = peer_frame(SL_WIRE_ORDER, 0, 0)};
        sl_link_send(&hub, link, &ops[n]);
    }
    CHECK_INT(take_data(numbers), 4);
    give_credit_for(conn, N_SLOTS, 1);
    CHECK(next_note(SL_NOTE_SENT, &note));
    break_line(conn);
    conn = come_again();
    CHECK_INT(take_data(numbers), 0); /* not before the peer has said what it has */
    give_credit_for(conn, 3 + N_SLOTS, 3);
    CHECK(next_note(SL_NOTE_SENT, &note) && note.sending->tag == 1);
    CHECK(next_note(SL_NOTE_SENT, &note) && note.sending->tag == 2);
    CHECK_INT(take_data(numbers), 3);
    for (uint64_t n = 0; n < 3; n++)
        CHECK_INT(numbers[n], 3 + n); /* with their old numbers, then those that waited */
    give_credit_for(conn, 3 + N_SLOTS, 6);
    for (uint64_t n = 3; n < 6; n++)
        CHECK(next_note(SL_NOTE_SENT, &note) && note.status == SL_OK && note.sending->tag == n);
    CHECK(no_note());
    teardown();
}

SL_TEST(a_frame_that_came_in_half_comes_again_and_one_that_was_delivered_does_not)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_note note;
    static const uint8_t data[8];
    CHECK(give(conn, peer_frame(SL_WIRE_ORDER, 0, 8), data)); /* the owner keeps it */
    CHECK(next_note(SL_NOTE_FRAME, &note));
    struct sl_slot *held = note.slot;
    struct sl_landing *half = begin(conn, peer_frame(SL_WIRE_ORDER, 1, 8), data);
    CHECK(give(conn, peer_frame(SL_WIRE_ORDER, 2, 8), data)); /* behind a gap */
    sl_conn_landed(half, SL_E_PEER_LOST);
    break_line(conn);
    CHECK(no_note());
    CHECK_INT(link->n_free, N_SLOTS - 1);
    conn = come_again();
    struct sl_sending *credit = take_sent(SL_WIRE_CREDIT);
    REQUIRE(credit != NULL);
    const uint8_t *body = credit->payload;
    CHECK_INT(sl_get64(body + 8), 1);                /* it has one */
    CHECK_INT(credit->wire.number, 1 + N_SLOTS - 1); /* and room for as many as are free */
    give_credit_for(conn, N_SLOTS, 0);
    for (uint64_t n = 1; n < 4; n++) {
        CHECK(give(conn, peer_frame(SL_WIRE_ORDER, n, 8), data));
        CHECK(next_note(SL_NOTE_FRAME, &note) && note.slot->landing.wire.number == n);
    }
    sl_link_give_back(&hub, link, held->index);
    take_sent(SL_WIRE_CREDIT);
    CHECK(give(conn, peer_frame(SL_WIRE_ORDER, 4, 8), data));
    CHECK(next_note(SL_NOTE_FRAME, &note));
    CHECK(!conn->fault);
    CHECK(!give(conn, peer_frame(SL_WIRE_ORDER, 1, 8), data)); /* twice is a fault */
    expect_down("comes twice");
    teardown();
}

SL_TEST(who_dialed_dials_again_and_gives_up_when_the_peer_is_lost)
{
    setup();
    hub.config.lost_ms = 3000;
    struct sl_link *link = make_link(true);
    step();
    struct sl_conn *conn = link->conn;
    REQUIRE(conn != NULL);
    conn->state = SL_CONN_PROVED; /* the handshake is another test's */
    give_credit(conn, N_SLOTS);
    struct sl_note note;
    CHECK(next_note(SL_NOTE_UP, &note));
    int lines = fake.n_lines;
    break_line(conn);
    CHECK(link->silent && no_note());
    step();
    CHECK_INT(fake.n_lines, lines + 1); /* at once */
    fake.connect_status = SL_E_PEER_LOST;
    break_line(link->conn);
    for (uint64_t ms = 0; ms <= 3000; ms += 50)
        step_at(START_MS + ms);
    CHECK(fake.n_lines > lines + 2);
    CHECK(no_note());
    step_at(START_MS + 3001);
    expect_down("the cable");
    teardown();
}

SL_TEST(a_peer_that_has_less_than_it_confirmed_is_none)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_sending op = {.link = link, .wire = peer_frame(SL_WIRE_ORDER, 0, 0)};
    struct sl_note note;
    uint64_t numbers[8];
    sl_link_send(&hub, link, &op);
    CHECK_INT(take_data(numbers), 1);
    give_credit_for(conn, N_SLOTS, 1);
    CHECK(next_note(SL_NOTE_SENT, &note));
    break_line(conn);
    conn = come_again();
    give_credit_for(conn, N_SLOTS, 0); /* a process that was started anew, say */
    expect_down("credit makes no sense");
    teardown();
}

SL_TEST(nobody_confirms_what_was_not_sent)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    give_credit_for(conn, N_SLOTS, 1);
    expect_down("credit makes no sense");
    teardown();
}

SL_TEST(any_frame_is_a_sign_of_life)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    for (uint64_t ms = 0; ms <= 900; ms += 300)
        step_at(START_MS + ms);
    give_control(conn, SL_WIRE_PING, 1, NULL);
    for (uint64_t ms = 900; ms <= 1900; ms += 250)
        step_at(START_MS + ms);
    CHECK(!conn->line->hung_up);
    step_at(START_MS + 1901);
    CHECK(conn->line->hung_up);
    expect_down("no heartbeat");
    teardown();
}

SL_TEST(bytes_under_way_excuse_silence)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    conn->bytes_under_way += 64000000; /* a second at the slowest line that is foreseen */
    for (uint64_t ms = 0; ms <= 2000; ms += 250)
        step_at(START_MS + ms);
    CHECK(!conn->line->hung_up);
    step_at(START_MS + 2001);
    CHECK(conn->line->hung_up);
    conn->bytes_under_way -= 64000000;
    expect_down("no heartbeat");
    teardown();
}

SL_TEST(own_absence_is_forgiven)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    step_at(START_MS + 60000); /* this process was stopped for a minute */
    CHECK(!conn->line->hung_up);
    teardown();
}

SL_TEST(ping_is_answered)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    give_control(conn, SL_WIRE_PING, 12, NULL);
    struct sl_sending *pong = take_sent(SL_WIRE_PONG);
    CHECK(pong && pong->wire.number == 12);
    teardown();
}

SL_TEST(dialing_backs_off)
{
    setup();
    fake.connect_status = SL_E_PEER_LOST;
    struct sl_link *link = make_link(true);
    uint64_t wait_ms = 100, now_ms = START_MS;
    for (int i = 1; i < 8; i++) {
        step_at(now_ms);
        CHECK_INT(fake.n_lines, i);
        CHECK(link->retry_at_ms >= now_ms + wait_ms);
        CHECK(link->retry_at_ms < now_ms + wait_ms + wait_ms / 4); /* jitter is below a quarter */
        CHECK_INT(step_at(link->retry_at_ms - 1), 1);
        CHECK_INT(fake.n_lines, i); /* not a millisecond early */
        now_ms = link->retry_at_ms;
        wait_ms = wait_ms * 2 > 2000 ? 2000 : wait_ms * 2;
        CHECK_INT(link->retry_ms, wait_ms);
    }
    CHECK_INT(link->retry_ms, 2000);
    teardown();
}

SL_TEST(address_that_can_never_work_ends_the_link)
{
    setup();
    fake.connect_status = SL_E_INVALID;
    struct sl_note note;
    make_link(true);
    step();
    CHECK(next_note(SL_NOTE_DOWN, &note));
    CHECK_INT(note.status, SL_E_INVALID);
    teardown();
}

/* The dialing side up to LINK_UP, with two credits. NULL: it did not come so far. */
static struct sl_conn *dial_up(void)
{
    struct sl_note note;
    step();
    struct sl_sending *hello = take_sent(SL_WIRE_HELLO);
    if (!hello || !hub.conns)
        return NULL;
    const uint8_t *sent = hello->payload;
    CHECK_INT(sl_get64(sent), ID);
    CHECK_INT(hello->wire.epoch, EPOCH);
    struct sl_conn *conn = hub.conns;
    uint8_t body[SL_CONTROL_BYTES] = {0}, mac[32];
    memcpy(body, peer_nonce, sizeof peer_nonce);
    proof("slserver", sent + 8, peer_nonce, body + 16);
    proof("slclient", sent + 8, peer_nonce, mac);
    give_control(conn, SL_WIRE_WELCOME, 0, body);
    struct sl_sending *answer = take_sent(SL_WIRE_WELCOME);
    if (!answer)
        return NULL;
    CHECK(memcmp((const uint8_t *)answer->payload + 16, mac, 32) == 0);
    CHECK(no_note());
    give_credit(conn, 2);
    CHECK(next_note(SL_NOTE_UP, &note));
    return conn;
}

/* The one who dials is up only when the peer has lent it slots, so that no refusal can come after
 * LINK_UP. */
SL_TEST(dialing_side_waits_for_credit)
{
    setup();
    make_link(true);
    REQUIRE(dial_up() != NULL);
    CHECK(take_sent(SL_WIRE_CREDIT) != NULL);
    teardown();
}

SL_TEST(dialing_side_pings_by_the_clock)
{
    setup();
    make_link(true);
    struct sl_conn *conn = dial_up();
    REQUIRE(conn != NULL);
    CHECK_INT(step(), 200);
    struct sl_sending *first =
        take_sent(SL_WIRE_PING); /* as soon as it is up: it asks for the peer's clock */
    CHECK(first && first->wire.number == START_MS);
    CHECK_INT(step_at(START_MS + 199), 1); /* the next is due in a millisecond */
    CHECK(take_sent(SL_WIRE_PING) == NULL);
    CHECK_INT(step_at(START_MS + 200), 200);
    struct sl_sending *ping = take_sent(SL_WIRE_PING);
    CHECK(ping && ping->wire.number == START_MS + 200);
    step_at(START_MS + 399);
    CHECK(take_sent(SL_WIRE_PING) == NULL);
    step_at(START_MS + 400);
    CHECK(take_sent(SL_WIRE_PING) != NULL);
    teardown();
}

/* ---- The peer's clock ---- */

enum { ROUND_TRIP_US = 300 };

/* The next ping, sent at `ms`, is answered after rtt_us by a clock that is offset_us ahead of ours; late_us: how much later
 * than the middle of the way the answer was made. */
static void answer_ping(struct sl_conn *conn, uint64_t ms, uint64_t rtt_us, int64_t offset_us,
                        int64_t late_us)
{
    uint8_t body[SL_CONTROL_BYTES] = {0};
    step_at(ms);
    struct sl_sending *ping = take_sent(SL_WIRE_PING);
    REQUIRE(ping != NULL);
    uint64_t sent_us = sl_get64(ping->payload);
    CHECK_INT(sent_us, ms * 1000 + WALL_US);
    sl_put64(body, sent_us);
    sl_put64(body + 8, (uint64_t)((int64_t)(sent_us + rtt_us / 2) + offset_us + late_us));
    sl_hub_turn(&hub, ms + rtt_us / 1000, sent_us + rtt_us);
    CHECK(give_control(conn, SL_WIRE_PONG, ping->wire.number, body));
}

static int64_t offset_of(const struct sl_link *link)
{
    return atomic_load(&link->clock_offset_us);
}

SL_TEST(the_fastest_of_the_last_pings_tells_the_peers_clock)
{
    enum { OFFSET_US = -3000000 };
    setup();
    struct sl_link *link = make_link(true);
    struct sl_conn *conn = dial_up();
    REQUIRE(conn != NULL);
    CHECK(!atomic_load(&link->clock_known));
    uint64_t ms = START_MS;
    answer_ping(conn, ms, 4000, OFFSET_US, 1900); /* held up on one way only */
    CHECK(atomic_load(&link->clock_known));
    CHECK_INT(offset_of(link), OFFSET_US + 1900);
    CHECK_INT(atomic_load(&link->clock_rtt_us), 4000);
    answer_ping(conn, ms += 200, 9000, OFFSET_US, -4000); /* a slower one changes nothing */
    CHECK_INT(offset_of(link), OFFSET_US + 1900);
    answer_ping(conn, ms += 200, ROUND_TRIP_US, OFFSET_US, 20);
    CHECK_INT(offset_of(link), OFFSET_US + 20);
    CHECK_INT(atomic_load(&link->clock_rtt_us), ROUND_TRIP_US);
    for (int i = 1; i < SL_CLOCK_SAMPLES; i++)
        answer_ping(conn, ms += 200, 1000, OFFSET_US + 500, 0);
    CHECK_INT(offset_of(link), OFFSET_US + 20);
    answer_ping(conn, ms += 200, 1000, OFFSET_US + 500, 0); /* too old by now: the clocks drift */
    CHECK_INT(offset_of(link), OFFSET_US + 500);
    teardown();
}

SL_TEST(an_offset_below_its_error_is_none)
{
    setup();
    struct sl_link *link = make_link(true);
    struct sl_conn *conn = dial_up();
    REQUIRE(conn != NULL);
    answer_ping(conn, START_MS, ROUND_TRIP_US, 0, -ROUND_TRIP_US / 2);
    CHECK(atomic_load(&link->clock_known));
    CHECK_INT(offset_of(link), 0);
    answer_ping(conn, START_MS + 200, ROUND_TRIP_US - 1, ROUND_TRIP_US / 2 + 1, 0);
    CHECK_INT(offset_of(link), ROUND_TRIP_US / 2 + 1);
    teardown();
}

SL_TEST(an_answer_that_makes_no_sense_is_no_sample)
{
    const uint64_t now_us = START_MS * 1000 + WALL_US, end_us = UINT64_C(1) << 53;
    const struct {
        uint64_t sent_us, peer_us;
    } rows[] = {
        {0, 1000},   {now_us + 1, 1000}, {UINT64_MAX, 1000},   {now_us - 1000001, 1000},
        {now_us, 0}, {now_us, end_us},   {now_us, UINT64_MAX}, {UINT64_C(1) << 63, UINT64_C(1) << 63},
    };
    setup();
    struct sl_link *link = make_link(true);
    struct sl_conn *conn = dial_up();
    REQUIRE(conn != NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t body[SL_CONTROL_BYTES] = {0};
        sl_put64(body, rows[i].sent_us);
        sl_put64(body + 8, rows[i].peer_us);
        CHECK(give_control(conn, SL_WIRE_PONG, i, body));
        CHECK(!atomic_load(&link->clock_known));
    }
    CHECK_INT(conn->fault, SL_OK);
    uint8_t body[SL_CONTROL_BYTES] = {0}; /* the ends of what is believed */
    sl_put64(body, now_us - 1000000);
    sl_put64(body + 8, end_us - 1);
    CHECK(give_control(conn, SL_WIRE_PONG, 0, body));
    CHECK_INT(offset_of(link), (int64_t)(end_us - 1) - (int64_t)(now_us - 500000));
    sl_hub_turn(&hub, START_MS, end_us); /* our own clock is beyond it */
    sl_put64(body, end_us);
    CHECK(give_control(conn, SL_WIRE_PONG, 0, body));
    CHECK_INT(conn->n_clock_samples, 1);
    teardown();
}

SL_TEST(the_side_that_was_dialed_answers_with_its_clock_and_learns_nothing)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    REQUIRE(conn != NULL);
    uint8_t body[SL_CONTROL_BYTES];
    memset(body, 0xff, sizeof body);
    CHECK(give_control(conn, SL_WIRE_PING, 12, body));
    struct sl_sending *pong = take_sent(SL_WIRE_PONG);
    REQUIRE(pong != NULL);
    CHECK_INT(sl_get64(pong->payload), UINT64_MAX); /* brought back as it is */
    CHECK_INT(sl_get64((const uint8_t *)pong->payload + 8), START_MS * 1000 + WALL_US);
    CHECK_INT(sl_get64((const uint8_t *)pong->payload + 16), 0);
    sl_put64(body, START_MS * 1000);
    sl_put64(body + 8, 1000);
    CHECK(give_control(conn, SL_WIRE_PONG, 12, body));
    CHECK(!atomic_load(&link->clock_known));
    teardown();
}

SL_TEST(one_clock_of_both_ends_is_not_asked_for)
{
    struct sl_transport_ops ops = fake_ops;
    ops.silent_loss = false;
    ops.one_clock = true;
    setup();
    hub.ops = &ops;
    struct sl_link *link = make_link(true);
    CHECK(!atomic_load(&link->clock_known));
    REQUIRE(dial_up() != NULL);
    CHECK(atomic_load(&link->clock_known));
    CHECK_INT(offset_of(link), 0);
    step_at(START_MS + 1000);
    CHECK(take_sent(SL_WIRE_PING) == NULL);
    teardown();
}

/* ---- A transport whose headers and payloads travel apart ---- */

SL_TEST(length_may_be_the_headers_word_alone)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_note note;
    static const uint8_t data[8] = "apart";
    struct sl_wire wire = peer_frame(SL_WIRE_KV, 0, 8);
    uint8_t header[SL_WIRE_BYTES];
    sl_frame_seal(&wire, data);
    sl_wire_pack(header, &wire);
    struct sl_landing *landing = sl_conn_arrived(conn, header, sizeof header, SL_BYTES_UNTOLD);
    REQUIRE(landing != NULL);
    CHECK_INT(landing->bytes, 8); /* what the transport has to receive */
    give_control(conn, SL_WIRE_PING, 1, NULL);
    CHECK(take_sent(SL_WIRE_PONG) != NULL); /* control frames do not wait for it */
    CHECK(no_note());
    memcpy(landing->to, data, 8);
    sl_conn_landed(landing, SL_OK);
    CHECK(next_note(SL_NOTE_FRAME, &note));
    teardown();
}

SL_TEST(calls_that_end_in_silence_are_asked_for)
{
    struct sl_transport_ops ops = fake_ops;
    ops.poll_ms = 3;
    setup();
    hub.ops = &ops;
    make_link(false);
    struct sl_conn *conn = come_up();
    static const uint8_t data[8];
    CHECK_INT(step(), 250); /* a quarter of lost_ms: nothing is under way */
    struct sl_landing *landing = begin(conn, peer_frame(SL_WIRE_ORDER, 0, 8), data);
    CHECK_INT(step(), 3);
    sl_conn_landed(landing, SL_OK);
    CHECK_INT(step(), 250);
    struct sl_sending sending = {.link = links[0], .wire = peer_frame(SL_WIRE_ORDER, 0, 0)};
    sl_link_send(&hub, links[0], &sending);
    CHECK_INT(step(), 3);
    CHECK(take_sent(SL_WIRE_ORDER) == &sending);
    CHECK_INT(step(), 250);
    fake.fd = -1; /* nothing tells of frames that come, either */
    CHECK_INT(step(), 3);
    teardown();
}

/* ---- Leaving ---- */

SL_TEST(goodbye_is_answered_when_all_frames_are_there)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_note note;
    static const uint8_t data[8];
    struct sl_landing *frame = begin(conn, peer_frame(SL_WIRE_ORDER, 0, 8), data);
    give_control(conn, SL_WIRE_GOODBYE, 1, NULL); /* overtakes the frame */
    step();
    CHECK(take_sent(SL_WIRE_GOODBYE) == NULL);
    sl_conn_landed(frame, SL_OK);
    CHECK(next_note(SL_NOTE_FRAME, &note));
    step();
    CHECK(take_sent(SL_WIRE_GOODBYE) != NULL);
    CHECK(!conn->line->hung_up); /* the one who leaves hangs up */
    CHECK(!give(conn, peer_frame(SL_WIRE_ORDER, 1, 8), data));
    expect_down("after the peer's goodbye");
    teardown();
}

SL_TEST(goodbye_without_an_end_is_cut_off)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    give_control(conn, SL_WIRE_GOODBYE, 5, NULL); /* claims frames that never come */
    step_at(START_MS + SL_LEAVE_MS / 2);
    CHECK(!conn->line->hung_up);
    give_control(conn, SL_WIRE_PONG, 0, NULL); /* that it lives is no excuse */
    step_at(START_MS + SL_LEAVE_MS - 1);
    CHECK(!conn->line->hung_up);
    step_at(START_MS + SL_LEAVE_MS);
    CHECK(conn->line->hung_up);
    expect_down("goodbye");
    teardown();
}

SL_TEST(one_who_leaves_waits_for_an_answer_and_no_longer)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    sl_link_cancel(&hub, link);
    step();
    CHECK(take_sent(SL_WIRE_GOODBYE) != NULL);
    step_at(START_MS + SL_LEAVE_MS - 1);
    CHECK(!conn->line->hung_up);
    step_at(START_MS + SL_LEAVE_MS);
    CHECK(conn->line->hung_up);
    expect_down("dropped by its owner");
    teardown();
}
