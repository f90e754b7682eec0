/* A link layer against a peer that is played by the test: a transport which only notes what it is given, so that every frame, good
 * or hostile, is made by hand, completes when the test says so, and time is a number. The proofs of the handshake are computed
 * here anew, from the words of the specification. For the test programs of link.c, handshake.c and life.c. */
#ifndef SL_TESTS_PIPELINE_LINK_PEER_H
#define SL_TESTS_PIPELINE_LINK_PEER_H

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
    enum sl_hangup how;
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

static void fake_hangup(struct sl_line *line, enum sl_hangup how)
{
    line->how = how;
    line->hung_up = true;
}

static sl_status fake_connect(struct sl_transport *t, uint64_t link, const struct sl_io_address *peer,
                              struct sl_conn *conn, struct sl_line **line)
{
    (void)t, (void)link, (void)peer;
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
static enum sl_link_auth auth;  /* of links that are made from now on */
static struct sl_conn peer_end; /* what proves the peer's frames, once it is up */
static struct {                 /* of handshakes, where rows go beside; else zeros */
    uint64_t from;
    uint8_t server[SL_BESIDE_ID_BYTES], client[SL_BESIDE_ID_BYTES];
} beside_told;

/* Time is what the test says. */
static int step_at(uint64_t ms)
{
    sl_hub_turn(&hub, ms, ms * 1000 + WALL_US);
    return sl_hub_step(&hub);
}

/* As a thread does that is never kept from running. */
static inline void run_from(uint64_t ms, uint64_t until_ms)
{
    for (; ms < until_ms; ms += 250)
        step_at(ms);
    step_at(until_ms);
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
    auth = SL_LINK_AUTH_NONE;
    memset(&peer_end, 0, sizeof peer_end);
    memset(&beside_told, 0, sizeof beside_told);
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
    sl_conn_forget_keys(&peer_end);
    sl_ring_fini(&hub.notes);
    sl_bell_fini(&hub.owner);
}

static struct sl_link *make_link(bool dials)
{
    struct sl_link *link = calloc(1, sizeof *link);
    link->config = (struct sl_link_config){
        .id = ID, .epoch = EPOCH, .auth = auth, .n_slots = N_SLOTS, .slot_bytes = SLOT_BYTES};
    memset(link->config.key, 7, sizeof link->config.key);
    link->entry = (uint32_t)n_links;
    link->dials = dials;
    CHECK(sl_io_address_set(&link->peer, "peer", 4));
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
    static const uint8_t padding[SL_PAD_BYTES];
    size_t bytes = (size_t)wire.payload_bytes;
    sl_frame_seal(&wire, data);
    struct sl_sending sending = {
        .wire = wire, .payload = bytes ? (const void *)data : padding, .bytes = bytes ? bytes : SL_PAD_BYTES};
    sl_conn_pack(&peer_end, &sending);
    struct sl_landing *landing = sl_conn_arrived(conn, sending.header, SL_WIRE_BYTES, sending.bytes);
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
    static const uint8_t none[SL_WELCOME_BYTES];
    return give(conn, peer_frame(kind, sequence, sl_control_bytes(kind)), body ? body : none);
}

static bool give_credit(struct sl_conn *conn, uint64_t count)
{
    uint8_t body[SL_CONTROL_BYTES] = {0};
    sl_put64(body, SLOT_BYTES);
    return give_control(conn, SL_WIRE_CREDIT, count, body);
}

/* HMAC-SHA256 over label, link id, epoch, how frames are proved, version, the client's nonce, the server's, from how many bytes on
 * rows go beside, the server's id and the client's. */
static void proof(const char *label, const uint8_t *client, const uint8_t *server, uint8_t mac[32])
{
    uint8_t text[59 + 8 + 2 * 128], key[32];
    memcpy(text, label, 8);
    sl_put64(text + 8, ID);
    sl_put64(text + 16, EPOCH);
    text[24] = (uint8_t)auth;
    sl_put16(text + 25, SL_WIRE_VERSION);
    memcpy(text + 27, client, 16);
    memcpy(text + 43, server, 16);
    sl_put64(text + 59, beside_told.from);
    memcpy(text + 67, beside_told.server, 128);
    memcpy(text + 195, beside_told.client, 128);
    memset(key, 7, sizeof key);
    sl_hmac_sha256(key, text, sizeof text, mac);
}

static struct sl_conn *call_in(void)
{
    struct sl_line *line = &fake.lines[++fake.n_lines];
    struct sl_conn *conn = sl_hub_accept(&hub, line, ID);
    *line = (struct sl_line){.conn = conn};
    return conn;
}

static bool say_hello(struct sl_conn *conn, uint64_t id)
{
    uint8_t body[SL_CONTROL_BYTES] = {0};
    sl_put64(body, id);
    memcpy(body + 8, peer_nonce, sizeof peer_nonce);
    sl_put64(body + 24, beside_told.from);
    return give_control(conn, SL_WIRE_HELLO, 0, body);
}

/* A peer that does everything right, up to LINK_UP and four credits either way. */
static inline struct sl_conn *come_up(void)
{
    struct sl_note note;
    struct sl_conn *conn = call_in();
    if (!say_hello(conn, ID))
        return NULL;
    struct sl_sending *welcome = take_sent(SL_WIRE_WELCOME);
    uint8_t body[SL_WELCOME_BYTES] = {0}, mac[32];
    if (!welcome)
        return NULL;
    const uint8_t *answer = welcome->payload;
    proof("slserver", peer_nonce, answer, mac);
    CHECK(memcmp(answer + 16, mac, 32) == 0);
    proof("slclient", peer_nonce, answer, body + 16);
    uint8_t own[32], others[32];
    proof("slkeycli", peer_nonce, answer, own);
    proof("slkeysrv", peer_nonce, answer, others);
    give_control(conn, SL_WIRE_WELCOME, 0, body);
    peer_end.auth = auth;
    CHECK(sl_conn_agree(&peer_end, own, others));
    CHECK(next_note(SL_NOTE_UP, &note));
    struct sl_sending *credit = take_sent(SL_WIRE_CREDIT);
    CHECK(credit && credit->wire.number == N_SLOTS);
    give_credit(conn, N_SLOTS);
    return conn;
}

/* Lets the hub act on the fault, and expects LINK_DOWN with this reason. */
static inline void expect_down(const char *reason)
{
    struct sl_note note;
    step();
    end_lines();
    CHECK(next_note(SL_NOTE_DOWN, &note));
    if (note.kind == SL_NOTE_DOWN)
        CHECK_CONTAINS(note.reason ? note.reason : "nothing", reason);
    CHECK(no_note());
}

/* The proof that a peer with this key gives to the WELCOME on a line. */
static inline void prove(struct sl_conn *conn, bool right)
{
    struct sl_sending *welcome = take_sent(SL_WIRE_WELCOME);
    uint8_t body[SL_WELCOME_BYTES] = {0};
    REQUIRE(welcome != NULL);
    proof("slclient", peer_nonce, welcome->payload, body + 16);
    body[16] ^= !right;
    give_control(conn, SL_WIRE_WELCOME, 0, body);
}

#endif
