/* pipeline/link/link.c and handshake.c: who may talk, and frames, credits and order, with a peer made by hand (peer.h). */
#include "tests/pipeline/link/peer.h"

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
    uint8_t body[SL_WELCOME_BYTES] = {0};
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
    run_from(START_MS, START_MS + 1001);
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
    run_from(START_MS, START_MS + 1001);
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
