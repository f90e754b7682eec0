/* pipeline/link/life.c: time, silence, lines that break and are made again, leaving, with a peer made by hand (peer.h). */
#include "tests/pipeline/link/peer.h"

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
    hub.config.lost_ms = 2000; /* half of it is not silence yet: the line is not doubted before */
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    for (uint64_t ms = 0; ms <= 1000; ms += 250)
        step_at(START_MS + ms);
    CHECK(!link->silent && !hub.silence_changed);
    CHECK(step_at(START_MS + 1001) <= 1000); /* it looks again when the peer would be lost, at the latest */
    CHECK(link->silent && hub.silence_changed && !conn->line->hung_up);
    hub.silence_changed = false;
    for (uint64_t ms = 1250; ms <= 2000; ms += 250)
        step_at(START_MS + ms);
    CHECK(link->silent && !hub.silence_changed && !conn->line->hung_up);
    give_control(conn, SL_WIRE_PING, 1, NULL);
    step();
    CHECK(!link->silent && hub.silence_changed);
    for (uint64_t ms = 2000; ms <= 4000; ms += 250)
        step_at(START_MS + ms);
    CHECK(link->silent && !conn->line->hung_up);
    step_at(START_MS + 4001);
    CHECK(conn->line->hung_up);
    expect_down("no heartbeat");
    CHECK(!link->silent); /* lost is no more silent */
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

SL_TEST(who_sleeps_as_long_as_it_was_told_was_not_away)
{
    struct sl_transport_ops ops = fake_ops;
    ops.silent_loss = false; /* it is told more than silence takes */
    setup();
    hub.ops = &ops;
    make_link(false);
    struct sl_conn *conn = call_in(); /* and says nothing */
    uint64_t ms = START_MS;
    for (int i = 0; i < 20 && !conn->line->hung_up; i++)
        ms += (uint64_t)step_at(ms);
    CHECK(conn->line->hung_up && ms == START_MS + hub.config.handshake_ms + 1);
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
    uint8_t body[SL_WELCOME_BYTES] = {0}, mac[32];
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

SL_TEST(who_comes_while_some_go_out_again_goes_behind_them)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_sending ops[5];
    struct sl_note note;
    uint64_t numbers[8];
    memset(ops, 0, sizeof ops);
    for (uint64_t n = 0; n < 5; n++) {
        if (n == 3) { /* three are sent, nothing waits, and the next line has room for one of them */
            CHECK_INT(take_data(numbers), 3);
            break_line(conn);
            conn = come_again();
            give_credit_for(conn, 1, 0);
        }
        ops[n] = (struct sl_sending){.link = link, .tag = n, .wire = peer_frame(SL_WIRE_ORDER, 0, 0)};
        sl_link_send(&hub, link, &ops[n]);
    }
    CHECK(take_data(numbers) == 1 && numbers[0] == 0);
    give_credit_for(conn, 1 + N_SLOTS, 1);
    CHECK_INT(take_data(numbers), 4);
    for (uint64_t n = 0; n < 4; n++)
        CHECK_INT(numbers[n], 1 + n);
    give_credit_for(conn, 1 + N_SLOTS, 5);
    for (uint64_t n = 0; n < 5; n++)
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

SL_TEST(a_line_that_carries_nothing_is_broken_in_time_for_another)
{
    setup();
    hub.config.lost_ms = 3000;
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    for (uint64_t ms = 0; ms <= 1500; ms += 250)
        step_at(START_MS + ms);
    CHECK(link->silent && !conn->line->hung_up);
    step_at(START_MS + 1501);
    CHECK(conn->line->hung_up && conn->line->how == SL_HANGUP_BROKEN); /* not over the same way again */
    end_lines();
    CHECK(no_note() && link->silent);
    step_at(START_MS + 2900);
    conn = come_again();
    CHECK(link->state == SL_LINK_UP && !link->silent && no_note());
    for (uint64_t ms = 2900; ms <= 4400; ms += 250)
        step_at(START_MS + ms);
    step_at(START_MS + 4401);
    end_lines();
    CHECK(no_note());
    run_from(START_MS + 4401, START_MS + 5900);
    CHECK(no_note());
    step_at(START_MS + 5901); /* nobody came */
    expect_down("no heartbeat");
    teardown();
}

/* Stopped for a minute, behind which the transport is the first to see what time it is. */
SL_TEST(own_absence_is_forgiven_while_another_line_is_awaited)
{
    enum { MINUTE_MS = 60000 };
    for (int before = 0; before < 2; before++) { /* before or after the line that broke has ended */
        setup();
        hub.config.lost_ms = 3000;
        struct sl_link *link = make_link(false);
        struct sl_conn *conn = come_up();
        uint64_t now_ms = START_MS + MINUTE_MS;
        sl_conn_broken(conn, SL_E_PEER_LOST, "the cable");
        int wait_ms = step();
        if (!before) {
            end_lines();
            wait_ms = step();
        }
        sl_hub_turn(&hub, now_ms, now_ms * 1000 + WALL_US);
        end_lines();
        CHECK(no_note() && link->state == SL_LINK_WAITING);
        step();
        CHECK(no_note());
        uint64_t lost_ms = now_ms + 3001 - (uint64_t)wait_ms; /* it slept by itself so long */
        CHECK_INT(link->lost_at_ms, lost_ms);
        run_from(now_ms, lost_ms - 1);
        CHECK(no_note());
        if (before) {
            conn = come_again();
            CHECK(link->state == SL_LINK_UP && no_note());
        } else {
            step_at(lost_ms);
            expect_down("the cable");
        }
        teardown();
    }
}

SL_TEST(bytes_under_way_excuse_a_line_that_broke)
{
    setup();
    hub.config.lost_ms = 3000;
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    conn->bytes_under_way += 128000000; /* two seconds */
    for (uint64_t ms = 0; ms <= 3250; ms += 250)
        step_at(START_MS + ms);
    CHECK(!conn->line->hung_up);
    sl_conn_broken(conn, SL_E_PEER_LOST, "the cable");
    conn->bytes_under_way -= 128000000; /* they come home before it is closed */
    step();
    end_lines();
    CHECK(no_note() && link->state == SL_LINK_WAITING);
    run_from(START_MS + 3250, START_MS + 5000);
    CHECK(no_note());
    step_at(START_MS + 5001);
    expect_down("the cable");
    teardown();
}

static void send_one(struct sl_link *link, struct sl_sending *op)
{
    *op = (struct sl_sending){.link = link, .wire = peer_frame(SL_WIRE_ORDER, 0, 0)};
    sl_link_send(&hub, link, op);
}

SL_TEST(a_frame_that_breaks_every_line_ends_the_link)
{
    setup();
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_sending op;
    struct sl_note note;
    uint64_t numbers[8];
    for (int i = 0; i < 4 * SL_BREAKS_MAX; i++) { /* nothing is on its way: no frame's fault */
        break_line(conn);
        conn = come_again();
        give_credit_for(conn, N_SLOTS, 0);
    }
    for (int round = 0; round < 2; round++) {
        send_one(link, &op);
        for (int i = 0; i < SL_BREAKS_MAX - 1; i++) {
            CHECK_INT(take_data(numbers), 1);
            break_line(conn);
            conn = come_again();
            give_credit_for(conn, N_SLOTS + (uint64_t)round, (uint64_t)round);
        }
        CHECK_INT(take_data(numbers), 1);
        CHECK(no_note());
        if (round == 0) { /* it gets through: all is forgotten */
            give_credit_for(conn, N_SLOTS + 1, 1);
            CHECK(next_note(SL_NOTE_SENT, &note));
        }
    }
    sl_conn_broken(conn, SL_E_PEER_LOST, "the cable");
    step();
    CHECK(conn->line->how == SL_HANGUP_OVER);
    end_lines();
    CHECK(next_note(SL_NOTE_SENT, &note) && note.status == SL_E_PEER_LOST);
    expect_down("again and again");
    teardown();
}

SL_TEST(a_frame_that_never_lands_ends_the_link)
{
    setup();
    make_link(false);
    struct sl_conn *conn = come_up();
    static const uint8_t data[8];
    for (int i = 0; i < SL_BREAKS_MAX; i++) {
        CHECK(conn->link != NULL && no_note());
        sl_conn_landed(begin(conn, peer_frame(SL_WIRE_ORDER, 0, 8), data), SL_E_PEER_LOST);
        step();
        CHECK_INT(conn->line->how, i < SL_BREAKS_MAX - 1 ? SL_HANGUP_BROKEN : SL_HANGUP_OVER);
        end_lines();
        if (i < SL_BREAKS_MAX - 1)
            conn = come_again();
    }
    expect_down("again and again");
    teardown();
}

SL_TEST(who_ends_a_link_says_so_and_who_is_told_does_not_wait)
{
    setup();
    hub.config.lost_ms = 3000;
    struct sl_link *link = make_link(false);
    struct sl_conn *conn = come_up();
    struct sl_conn *stranger = call_in();
    say_hello(stranger, ID + 1);
    step();
    CHECK_INT(stranger->line->how, SL_HANGUP_END); /* it never was of this link */
    end_lines();
    sl_conn_fail(conn, SL_E_PROTOCOL, "a mistake of the peer's");
    step();
    CHECK_INT(conn->line->how, SL_HANGUP_OVER);
    expect_down("a mistake");
    link = make_link(true);
    step();
    conn = link->conn;
    REQUIRE(conn != NULL);
    sl_conn_over(conn); /* before the link was up: the peer does not know it yet */
    step();
    end_lines();
    CHECK(link->state == SL_LINK_WAITING && no_note());
    step_at(link->retry_at_ms);
    REQUIRE(link->conn != NULL);
    link->conn->state = SL_CONN_PROVED;
    give_credit(link->conn, N_SLOTS);
    struct sl_note note;
    CHECK(next_note(SL_NOTE_UP, &note));
    break_line(link->conn);
    CHECK(no_note());
    step();
    REQUIRE(link->conn != NULL); /* dials again, and hears that there is no such link any more */
    sl_conn_over(link->conn);
    step();
    expect_down("the peer has ended the link");
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
