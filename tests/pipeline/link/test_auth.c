/* pipeline/link/auth.c: frames that prove who sent them, with a peer made by hand (peer.h), and with somebody on the line. */
#include "tests/pipeline/link/peer.h"

static const uint8_t data[512] = "what a frame carries";

/* A link whose frames are proved like this comes up, and a frame of the peer lies before the hub. */
static struct sl_conn *come_up_with(enum sl_link_auth how)
{
    setup();
    auth = how;
    make_link(false);
    return come_up(); /* which has checked that it does */
}

static struct sl_sending signed_frame(enum sl_wire_kind kind, uint64_t number)
{
    struct sl_sending s = {
        .wire = peer_frame(kind, number, sizeof data), .payload = data, .bytes = sizeof data};
    sl_frame_seal(&s.wire, data);
    sl_conn_pack(&peer_end, &s);
    return s;
}

static bool lands(struct sl_conn *conn, const struct sl_sending *s, const uint8_t *payload)
{
    struct sl_landing *landing = sl_conn_arrived(conn, s->header, SL_WIRE_BYTES, s->bytes);
    if (!landing)
        return false;
    memcpy(landing->to, payload, s->bytes);
    sl_conn_landed(landing, SL_OK);
    return !conn->fault;
}

/* Whoever changes bytes can make the CRC right again. */
static void reseal(uint8_t header[SL_WIRE_BYTES])
{
    uint8_t text[SL_WIRE_BYTES], mac[SL_WIRE_MAC_BYTES];
    sl_wire_mac_text(header, text, mac);
    sl_wire_set_mac(header, mac);
}

SL_TEST(what_the_peer_sends_is_taken_in_every_mode_and_told_without_its_proof)
{
    for (int how = 0; how < SL_LINK_AUTHS; how++) {
        struct sl_conn *conn = come_up_with((enum sl_link_auth)how);
        struct sl_note note;
        for (uint64_t number = 0; number < 3; number++) {
            CHECK(give(conn, peer_frame(SL_WIRE_RESULT, number, sizeof data), data));
            CHECK(next_note(SL_NOTE_FRAME, &note));
            CHECK(memcmp(note.slot->landing.to, data, sizeof data) == 0);
        }
        CHECK(give(conn, peer_frame(SL_WIRE_RESULT, 3, 0), data)); /* it carries nothing but padding */
        CHECK(next_note(SL_NOTE_FRAME, &note));
        CHECK(!conn->fault);
        teardown();
    }
}

SL_TEST(a_header_has_the_mac_of_its_text_by_the_key_of_line_and_direction)
{
    struct sl_conn *conn = come_up_with(SL_LINK_AUTH_HEADER);
    uint8_t text[SL_WIRE_BYTES], mac[SL_WIRE_MAC_BYTES], key[32], whole[32];
    proof("slkeysrv", peer_nonce, conn->nonce_server, key);
    sl_conn_on_ping(conn, 7, data);
    struct sl_sending *pong = take_sent(SL_WIRE_PONG);
    REQUIRE(pong != NULL);
    sl_wire_mac_text(pong->header, text, mac);
    sl_hmac_sha256(key, text, sizeof text, whole);
    CHECK(memcmp(mac, whole, sizeof mac) == 0 && pong->wire.mac_number > 0);
    teardown();
}

SL_TEST(every_bit_of_a_header_is_proved)
{
    for (int how = SL_LINK_AUTH_HEADER; how < SL_LINK_AUTHS; how++)
        for (uint32_t bit = 0; bit < SL_WIRE_BYTES * 8; bit++) {
            struct sl_conn *conn = come_up_with((enum sl_link_auth)how);
            struct sl_sending s = signed_frame(SL_WIRE_RESULT, 0);
            s.header[bit / 8] ^= (uint8_t)(1u << bit % 8);
            reseal(s.header);
            bool crc = bit / 32 == 3; /* which is not of the text, and was made right again */
            if (lands(conn, &s, data) != crc)
                sl_test_fail(__FILE__, __LINE__, "bit %u was turned unnoticed", bit);
            teardown();
        }
}

SL_TEST(a_payload_that_fits_its_checksum_is_found_out_by_the_mac_of_all_bytes)
{
    uint8_t other[sizeof data];
    memcpy(other, data, sizeof data);
    other[400] ^= 1;
    struct sl_conn *conn = come_up_with(SL_LINK_AUTH_PAYLOAD);
    struct sl_sending s = signed_frame(SL_WIRE_RESULT, 0);
    CHECK(!lands(conn, &s, other));
    expect_down("was changed on its way");
    teardown();
    conn = come_up_with(SL_LINK_AUTH_HEADER); /* carried; whoever uses it looks at its checksum */
    s = signed_frame(SL_WIRE_RESULT, 0);
    CHECK(lands(conn, &s, other));
    teardown();
}

SL_TEST(who_does_not_know_the_key_proves_nothing)
{
    for (int how = SL_LINK_AUTH_HEADER; how < SL_LINK_AUTHS; how++) {
        struct sl_conn *conn = come_up_with((enum sl_link_auth)how);
        sl_conn_forget_keys(&peer_end);
        CHECK(sl_conn_agree(&peer_end, data, data));
        struct sl_sending s = signed_frame(SL_WIRE_RESULT, 0);
        CHECK(!lands(conn, &s, data));
        expect_down("a frame that the peer did not make");
        teardown();
        conn = come_up_with((enum sl_link_auth)how);
        peer_end.auth = SL_LINK_AUTH_NONE; /* as if it were not asked for */
        s = signed_frame(SL_WIRE_RESULT, 0);
        CHECK(!lands(conn, &s, data));
        expect_down("without proof of its sender");
        teardown();
    }
    struct sl_conn *conn = come_up_with(SL_LINK_AUTH_NONE);
    peer_end.auth = SL_LINK_AUTH_HEADER;
    struct sl_sending s = signed_frame(SL_WIRE_RESULT, 0);
    CHECK(!lands(conn, &s, data));
    expect_down("not agreed on");
    teardown();
}

/* Of another line, of the other direction, of before: all were proved once. */
SL_TEST(what_was_proved_elsewhere_is_no_proof_here)
{
    for (int how = SL_LINK_AUTH_HEADER; how < SL_LINK_AUTHS; how++) {
        come_up_with((enum sl_link_auth)how);
        struct sl_sending before = signed_frame(SL_WIRE_RESULT, 0);
        teardown();
        struct sl_conn *conn = come_up_with((enum sl_link_auth)how);
        CHECK(!lands(conn, &before, data));
        expect_down("did not make");
        teardown();
        conn = come_up_with((enum sl_link_auth)how);
        sl_conn_on_ping(conn, 7, data);
        struct sl_sending *own = take_sent(SL_WIRE_PONG);
        REQUIRE(own != NULL);
        struct sl_sending back = *own;
        CHECK(!lands(conn, &back, back.payload)); /* ours, to ourselves */
        expect_down("did not make");
        teardown();
        conn = come_up_with((enum sl_link_auth)how);
        struct sl_sending twice = signed_frame(SL_WIRE_RESULT, 0);
        CHECK(lands(conn, &twice, data) && !lands(conn, &twice, data));
        teardown();
    }
}

SL_TEST(ends_that_prove_their_frames_differently_do_not_come_up)
{
    setup();
    auth = SL_LINK_AUTH_HEADER;
    make_link(false);
    struct sl_conn *conn = call_in();
    REQUIRE(say_hello(conn, ID));
    auth = SL_LINK_AUTH_PAYLOAD;
    prove(conn, true);
    step();
    CHECK(conn->line->hung_up);
    end_lines();
    CHECK(no_note());
    teardown();
}

SL_TEST(names_are_read_as_they_are_written)
{
    enum sl_link_auth how;
    for (int i = 0; i < SL_LINK_AUTHS; i++)
        CHECK(sl_link_auth_by_name(sl_link_auth_name((enum sl_link_auth)i), &how) && (int)how == i);
    CHECK(!sl_link_auth_by_name("", &how) && !sl_link_auth_by_name("headers", &how));
}
