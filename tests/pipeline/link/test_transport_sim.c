/* pipeline/link/transport_sim.c with the real link layer above it, stepped: frames come in their order whatever the network does, a line
 * that breaks is made anew and nothing is lost or comes twice, and who vanishes is missed. */
#include "base/rng.h"
#include "pipeline/link/transport_sim.h"
#include "tests/check.h"
#include <stdlib.h>

enum { LINK = 7, FRAMES = 200, BIG = 20000, SLOTS = 4, PORT_A = 1, PORT_B = 2 };

static struct {
    struct sl_net *net;
    struct sl_io *a, *b; /* a connects */
    uint64_t now_us, wake_us[2];
    struct sl_rng rng;
    uint32_t most_us, n_up, n_down, n_sent, n_got, n_bad, next;
    uint64_t held_until_us;
    sl_status sent_status, down_status;
    uint64_t sum; /* of all that happened, and when */
    uint8_t out[FRAMES][BIG];
} w;

static uint64_t arrives(void *user, uint16_t from, uint16_t to, size_t bytes, uint64_t now_us)
{
    (void)user, (void)from, (void)to, (void)bytes;
    uint64_t at_us = now_us + 10 + (w.most_us ? sl_rng_next(&w.rng) % w.most_us : 0);
    return at_us < w.held_until_us ? w.held_until_us : at_us;
}

static uint64_t lands(void *user, size_t bytes)
{
    (void)user;
    return w.most_us && bytes > 4096 ? sl_rng_next(&w.rng) % w.most_us : 0;
}

static struct sl_io *make_io(uint16_t port)
{
    struct sl_io *io = NULL;
    struct sl_io_config config = {.transport = &sl_transport_sim,
                                  .net = w.net,
                                  .port = port,
                                  .silent_ms = 1000, /* said: what goes without saying is longer under TSan */
                                  .lost_ms = 10000,
                                  .limits = {1 << 20, 64, 1 << 20}};
    CHECK(sl_io_create_stepped(&io, &config, port, NULL) == SL_OK);
    return io;
}

static void begin(uint64_t seed, uint32_t most_us)
{
    memset(&w, 0, sizeof w);
    w.rng = (struct sl_rng){seed, 0};
    w.most_us = most_us;
    struct sl_net_config net = {.arrives_us = arrives, .lands_us = lands, .all_late = seed % 2 == 0};
    REQUIRE(sl_net_create(&w.net, &net) == SL_OK);
    w.a = make_io(PORT_A);
    w.b = make_io(PORT_B);
    struct sl_link_config config = {.id = LINK, .epoch = 3, .n_slots = SLOTS, .slot_bytes = BIG};
    REQUIRE(sl_io_accept(w.b, &config, sl_io_address(w.a)) == SL_OK);
    REQUIRE(sl_io_connect(w.a, &config, sl_io_address(w.b)) == SL_OK);
}

static void end(void)
{
    CHECK(w.n_bad == 0 && sl_net_touched(w.net) == 0);
    sl_io_destroy(w.a);
    sl_io_destroy(w.b);
    sl_net_destroy(w.net);
}

static size_t bytes_of(uint32_t i)
{
    return i % 3 == 0 ? BIG : i % 3 == 1 ? 100 : 4000;
}

static void send_one(uint32_t i)
{
    struct sl_wire wire = {.kind = SL_WIRE_ORDER, .seq = i, .payload_bytes = bytes_of(i)};
    wire.meta_bytes = (uint32_t)wire.payload_bytes;
    memset(w.out[i], (int)i, sizeof w.out[i]);
    sl_frame_seal(&wire, w.out[i]);
    REQUIRE(sl_io_send(w.a, LINK, &wire, w.out[i], i) == SL_OK);
}

static void on_event(struct sl_io *io, const struct sl_io_event *e)
{
    w.sum = sl_rng_at(w.sum ^ w.now_us, (uint64_t)e->kind << 32 | (uint32_t)e->tag);
    w.n_up += e->kind == SL_IO_LINK_UP;
    if (e->kind == SL_IO_LINK_DOWN) {
        w.n_down++;
        w.down_status = e->status;
    }
    if (e->kind == SL_IO_SENT) {
        CHECK(e->status != SL_OK || e->tag == w.n_sent); /* home in their order */
        memset(w.out[e->tag], 0xdd, sizeof w.out[0]);    /* the buffer is ours again */
        w.sent_status = e->status;
        w.n_sent++;
    }
    if (e->kind == SL_IO_FRAME) {
        CHECK_INT(e->wire.seq, w.n_got);
        CHECK(e->wire.payload_bytes == bytes_of(w.n_got));
        w.n_bad += !sl_frame_whole(&e->wire, e->payload);
        w.n_got++;
        sl_io_release(io, e->link, e->slot);
    }
}

static void turn(struct sl_io *io, int side)
{
    struct sl_io_event event;
    if (!io || (w.wake_us[side] > w.now_us && sl_net_due_us(w.net, side ? PORT_B : PORT_A) > w.now_us))
        return;
    bool any;
    do {
        any = false;
        w.wake_us[side] = w.now_us + 1000 * (uint64_t)sl_io_turn(io, w.now_us + 5000000);
        for (; sl_io_poll(io, &event, 0) == SL_OK; any = true)
            on_event(io, &event);
    } while (any);
}

/* Until so much time has passed, or `done` frames are there. */
static void run(uint64_t until_us, uint32_t done)
{
    while (w.now_us < until_us && w.n_got < done) {
        uint64_t at_us = until_us, due_us;
        for (int side = 0; side < 2; side++) {
            due_us = sl_net_due_us(w.net, side ? PORT_B : PORT_A);
            due_us = due_us < w.wake_us[side] ? due_us : w.wake_us[side];
            at_us = (side ? w.b : w.a) && due_us < at_us ? due_us : at_us;
        }
        w.now_us = at_us > w.now_us ? at_us : w.now_us;
        sl_net_set_now(w.net, w.now_us);
        while (w.b && w.next < FRAMES && w.next < w.n_sent + 8 && w.n_up == 2)
            send_one(w.next++);
        turn(w.a, 0);
        turn(w.b, 1);
    }
}

SL_TEST(frames_come_in_their_order_whatever_the_network_does)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        begin(seed, (uint32_t)(seed * 400));
        run(60000000, FRAMES);
        CHECK(w.n_up == 2 && w.n_got == FRAMES && w.n_down == 0);
        run(w.now_us + 100000, UINT32_MAX); /* the last credit comes home */
        CHECK(w.n_sent == FRAMES && sl_io_agrees(w.a, w.b, LINK) && sl_io_agrees(w.b, w.a, LINK));
        end();
    }
}

/* Each frame as soon as it is sent; those that wait for credit are sent as they are by then. */
SL_TEST(whoever_writes_to_what_is_under_way_is_found)
{
    begin(4, 20000);
    run(60000000, 1);
    CHECK(sl_net_touched(w.net) == 0);
    for (uint64_t at_us = w.now_us; w.n_got < FRAMES && at_us < 60000000; at_us += 500) {
        run(at_us, FRAMES);
        if (w.n_sent < w.next)
            w.out[w.n_sent][0] ^= 0xff;
    }
    CHECK(sl_net_touched(w.net) > 0 && w.n_bad > 0);
    sl_io_destroy(w.a);
    sl_io_destroy(w.b);
    sl_net_destroy(w.net);
}

SL_TEST(while_frames_are_under_way_two_ends_do_not_agree)
{
    begin(4, 2000);
    run(60000000, FRAMES / 2);
    CHECK(w.n_up == 2 && w.n_got >= FRAMES / 2 && !sl_io_agrees(w.a, w.b, LINK));
    end();
}

SL_TEST(a_line_that_breaks_again_and_again_loses_nothing_and_nothing_comes_twice)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        begin(seed, 2000);
        for (uint64_t at_us = 20000; w.n_got < FRAMES && at_us < 60000000; at_us += 15000 + 1000 * seed) {
            run(at_us, FRAMES);
            sl_net_break(w.net, PORT_A, PORT_B);
        }
        CHECK(w.n_got == FRAMES && w.n_down == 0);
        end();
    }
}

SL_TEST(what_is_held_up_for_seconds_goes_on_where_it_was)
{
    begin(3, 500);
    run(30000, FRAMES);
    uint32_t before = w.n_got;
    w.held_until_us = 7000000; /* longer than the line is believed in, and shorter than the peer is */
    run(6900000, FRAMES);
    CHECK(before < FRAMES && w.n_got < FRAMES && w.n_down == 0);
    run(60000000, FRAMES);
    CHECK(w.n_got == FRAMES && w.n_down == 0);
    end();
}

SL_TEST(who_is_killed_is_missed_at_once_and_who_has_no_power_after_a_while)
{
    for (int power = 0; power < 2; power++) {
        begin(5, 500);
        run(30000, FRAMES);
        CHECK(w.n_up == 2 && w.n_got > 0 && w.n_got < FRAMES);
        if (!power)
            sl_net_cut_power(w.net, PORT_B);
        sl_io_destroy(w.b);
        w.b = NULL;
        run(1000000, FRAMES);
        CHECK_INT(w.n_down, power); /* its port refuses: nobody else is going to answer */
        run(20000000, FRAMES);
        CHECK_INT(w.n_down, 1);
        CHECK_INT(w.down_status, SL_E_PEER_LOST);
        CHECK(w.n_sent == w.next && w.sent_status == SL_E_PEER_LOST); /* every tag came home */
        end();
    }
}

SL_TEST(the_same_seed_is_the_same_history)
{
    uint64_t sums[2];
    for (int turn_of = 0; turn_of < 2; turn_of++) {
        begin(9, 3000);
        run(100000, FRAMES);
        sl_net_break(w.net, PORT_A, PORT_B);
        run(60000000, FRAMES);
        sums[turn_of] = w.sum;
        end();
    }
    CHECK(sums[0] == sums[1]);
}
