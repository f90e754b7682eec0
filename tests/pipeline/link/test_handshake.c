/* pipeline/link/handshake.c: where rows travel beside a line, with a peer made by hand (peer.h). What else a handshake has to do is in
 * test_link.c and test_life.c. */
#include "tests/pipeline/link/peer.h"

/* A transport that carries rows beside its lines, as the test says. */
static struct {
    int n_offers, n_joins;
    sl_status join;
    bool has_id;
    uint8_t joined[SL_BESIDE_ID_BYTES];
} beside;

static uint64_t fake_beside(const struct sl_transport *t)
{
    (void)t;
    return 5000;
}

static bool fake_offer(struct sl_line *line, struct sl_conn *conn, uint8_t id[SL_BESIDE_ID_BYTES])
{
    CHECK(conn->line == line);
    beside.n_offers++;
    memset(id, beside.has_id ? 0x5a : 0, SL_BESIDE_ID_BYTES);
    return beside.has_id;
}

static sl_status fake_join(struct sl_conn *conn, const uint8_t id[SL_BESIDE_ID_BYTES])
{
    (void)conn;
    beside.n_joins++;
    memcpy(beside.joined, id, sizeof beside.joined);
    return beside.join;
}

static struct sl_transport_ops ops;

static struct sl_link *setup_beside(bool dials)
{
    setup();
    ops = fake_ops;
    ops.poll_ms = 3;
    ops.beside = fake_beside;
    ops.offer = fake_offer;
    ops.join = fake_join;
    hub.ops = &ops;
    memset(&beside, 0, sizeof beside);
    beside.has_id = true;
    beside.join = SL_AGAIN;
    beside_told.from = 5000;
    struct sl_link *link = make_link(dials);
    link->config.rows_beside = true;
    return link;
}

/* Up to the peer's proof, which names its id. */
static struct sl_conn *call_and_prove(bool right_id)
{
    uint8_t body[SL_WELCOME_BYTES] = {0}, mac[32];
    struct sl_conn *conn = call_in();
    CHECK(say_hello(conn, ID));
    struct sl_sending *welcome = take_sent(SL_WIRE_WELCOME);
    if (!welcome)
        return NULL;
    const uint8_t *answer = welcome->payload;
    memset(beside_told.server, 0x5a, sizeof beside_told.server);
    CHECK(memcmp(answer + 48, beside_told.server, 128) == 0);
    proof("slserver", peer_nonce, answer, mac);
    CHECK(memcmp(answer + 16, mac, 32) == 0);
    memset(beside_told.client, 0xc1, sizeof beside_told.client);
    memcpy(body + 48, beside_told.client, 128);
    proof("slclient", peer_nonce, answer, body + 16);
    body[48 + 127] ^= !right_id;
    give_control(conn, SL_WIRE_WELCOME, 0, body);
    return conn;
}

SL_TEST(a_line_is_up_when_its_rows_have_a_way)
{
    struct sl_note note;
    struct sl_link *link = setup_beside(false);
    struct sl_conn *conn = call_and_prove(true);
    REQUIRE(conn != NULL);
    CHECK_INT(beside.n_joins, 1);
    CHECK(memcmp(beside.joined, beside_told.client, 128) == 0);
    CHECK_INT(conn->state, SL_CONN_JOINING);
    CHECK(no_note());
    CHECK(!take_sent(SL_WIRE_CREDIT)); /* so the peer is not up either */
    CHECK_INT(step(), 3);              /* the transport is asked */
    sl_conn_joined(conn);
    CHECK(next_note(SL_NOTE_UP, &note) && note.link == link);
    CHECK(take_sent(SL_WIRE_CREDIT) != NULL);
    sl_conn_joined(conn); /* once is enough */
    CHECK(no_note() && !conn->fault);
    teardown();
}

SL_TEST(a_way_that_is_there_at_once_is_not_waited_for)
{
    struct sl_note note;
    setup_beside(false);
    beside.join = SL_OK;
    REQUIRE(call_and_prove(true) != NULL);
    CHECK(next_note(SL_NOTE_UP, &note));
    teardown();
}

SL_TEST(an_id_that_was_changed_on_its_way_is_not_the_peers)
{
    setup_beside(false);
    struct sl_conn *conn = call_and_prove(false);
    REQUIRE(conn != NULL);
    CHECK_STR(conn->reason, "the peer has another key");
    CHECK_INT(beside.n_joins, 0);
    teardown();
}

SL_TEST(ends_that_differ_in_what_goes_beside_are_no_link)
{
    static const uint64_t told[] = {0, 4999, 5001};
    for (int i = 0; i < 3; i++) {
        setup_beside(false);
        beside_told.from = told[i];
        struct sl_conn *conn = call_in();
        say_hello(conn, ID);
        CHECK_STR(conn->reason, "the peer has rows travel another way (--rows)");
        CHECK(!take_sent(SL_WIRE_WELCOME));
        CHECK_INT(beside.n_offers, 0);
        teardown();
    }
}

SL_TEST(a_way_that_cannot_be_had_is_no_line)
{
    for (int what = 0; what < 3; what++) {
        setup_beside(false);
        beside.has_id = what != 0;
        beside.join = what == 1 ? SL_E_UNAVAILABLE : SL_AGAIN;
        struct sl_conn *conn = what ? call_and_prove(true) : call_in();
        REQUIRE(conn != NULL);
        if (what == 0)
            say_hello(conn, ID);
        if (what == 2) {
            CHECK(!conn->fault);
            run_from(START_MS, START_MS + 2400);
        }
        CHECK_CONTAINS(conn->reason, what == 0   ? "there is no id for rows"
                                     : what == 1 ? "cannot be opened"
                                                 : "did not come up in time");
        CHECK_INT(atomic_load(&hub.refusals), 1);
        CHECK(no_note());
        teardown();
    }
}

/* A link that is dropped meanwhile does not come up. */
SL_TEST(a_way_that_comes_too_late_opens_nothing)
{
    struct sl_note note;
    struct sl_link *link = setup_beside(false);
    struct sl_conn *conn = call_and_prove(true);
    REQUIRE(conn != NULL);
    sl_link_cancel(&hub, link);
    sl_conn_joined(conn);
    CHECK_STR(conn->reason, "the link is not expected any more");
    step();
    CHECK(next_note(SL_NOTE_DOWN, &note));
    teardown();
}

/* The side that dials proves with its own id, and joins before it does. */
SL_TEST(who_dials_meets_the_other_under_the_id_of_its_welcome)
{
    struct sl_note note;
    uint8_t body[SL_WELCOME_BYTES] = {0}, mac[32];
    setup_beside(true);
    step();
    struct sl_sending *hello = take_sent(SL_WIRE_HELLO);
    REQUIRE(hello != NULL);
    const uint8_t *said = hello->payload;
    CHECK_INT(sl_get64(said + 24), 5000);
    struct sl_conn *conn = hub.conns;
    memset(beside_told.server, 0x77, sizeof beside_told.server);
    memcpy(body, peer_nonce, 16);
    memcpy(body + 48, beside_told.server, 128);
    proof("slserver", said + 8, peer_nonce, body + 16);
    give_control(conn, SL_WIRE_WELCOME, 0, body);
    CHECK(memcmp(beside.joined, beside_told.server, 128) == 0);
    struct sl_sending *answer = take_sent(SL_WIRE_WELCOME);
    REQUIRE(answer != NULL);
    memset(beside_told.client, 0x5a, sizeof beside_told.client);
    CHECK(memcmp((const uint8_t *)answer->payload + 48, beside_told.client, 128) == 0);
    proof("slclient", said + 8, peer_nonce, mac);
    CHECK(memcmp((const uint8_t *)answer->payload + 16, mac, 32) == 0);
    sl_conn_joined(conn); /* the other's credit is the word that counts */
    CHECK(no_note());
    give_credit(conn, N_SLOTS);
    CHECK(next_note(SL_NOTE_UP, &note));
    teardown();
}
