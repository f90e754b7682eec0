/* The I/O layer, the same suite over every transport: links with keys, credits, order, damage, and above all what comes home when
 * something ends (two_ends.h). What only one over UCX has to do is in test_transport_ucx.c. */
#include "tests/pipeline/link/two_ends.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

/* One body, one test a transport. */
#define ON_EACH(name)                                                                                        \
    static void name(const struct sl_transport_ops *transport);                                              \
    SL_TEST(local_##name)                                                                                    \
    {                                                                                                        \
        name(&sl_transport_local);                                                                           \
    }                                                                                                        \
    SL_TEST(ucx_##name)                                                                                      \
    {                                                                                                        \
        name(&sl_transport_ucx);                                                                             \
    }                                                                                                        \
    SL_TEST(local_nccl_##name)                                                                               \
    {                                                                                                        \
        name(&sl_transport_local_nccl);                                                                      \
    }                                                                                                        \
    SL_TEST(ucx_nccl_##name)                                                                                 \
    {                                                                                                        \
        name(&sl_transport_ucx_nccl);                                                                        \
    }                                                                                                        \
    SL_TEST(ucx_device_##name)                                                                               \
    {                                                                                                        \
        name(&sl_transport_ucx_device);                                                                      \
    }                                                                                                        \
    static void name(const struct sl_transport_ops *transport)

ON_EACH(frames_of_all_sizes_both_ways)
{
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 2, 3);
    world.a.expect = world.b.expect = pool;
    for (uint64_t n = 0; n < 200; n++) {
        send_frame(&world.a, n);
        send_frame(&world.b, n);
    }
    UNTIL(&world, world.a.n_frames == 200 && world.b.n_frames == 200);
    UNTIL(&world, world.a.n_sent == 200 && world.b.n_sent == 200);
    check_tokens(&world.a, 200);
    check_tokens(&world.b, 200);
    struct sl_io_stats stats;
    sl_io_stats(world.a.io, &stats);
    CHECK_INT(stats.frames_sent, 200);
    CHECK_INT(stats.frames_received, 200);
    CHECK_INT(stats.bytes_sent, stats.bytes_received);
    CHECK_INT(stats.links_up, 1);
    CHECK_INT(world.a.n_torn + world.b.n_torn, 0);
    stop(&world);
}

ON_EACH(without_credit_a_frame_waits)
{
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 1, 1);
    world.a.keep = true;
    for (uint64_t n = 0; n < 3; n++)
        CHECK_INT(send_bytes(&world.b, LINK, pool, 5000, n), SL_OK);
    UNTIL(&world, world.a.n_frames == 1 && world.b.n_sent == 1);
    for (int i = 1; i < 3; i++) {
        /* A frame the other way and its credit back show that both threads had their turn
         * meanwhile. */
        CHECK_INT(send_bytes(&world.a, LINK, pool, 10, 100), SL_OK);
        CHECK_INT(send_bytes(&world.a, LINK, pool, 10, 100), SL_OK);
        UNTIL(&world, world.b.n_frames == 2 * i && world.a.n_sent == 2 * i);
        CHECK_INT(world.a.n_frames, i);
        CHECK_INT(world.b.n_sent, i);
        sl_io_release(world.a.io, LINK, world.a.slots[i - 1]);
        UNTIL(&world, world.a.n_frames == i + 1 && world.b.n_sent == i + 1);
    }
    stop(&world);
}

ON_EACH(wrong_key_never_comes_up)
{
    struct world world;
    REQUIRE(start(&world, transport));
    struct sl_link_config a = link_config(LINK, 1, 2), b = link_config(LINK, 2, 2);
    CHECK_INT(sl_io_accept(world.a.io, &a, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.b.io, &b, sl_io_address(world.a.io)), SL_OK);
    send_frame(&world.b, 0);
    UNTIL(&world, sl_io_refusals(world.b.io) >= 3);
    CHECK_INT(world.a.n_up + world.b.n_up, 0);
    CHECK_INT(world.b.n_sent, 0);
    sl_io_drop(world.b.io, LINK);
    sl_io_drop(world.a.io, LINK);
    UNTIL(&world, world.b.n_down == 1 && world.a.n_down == 1);
    check_tokens(&world.b, 1);
    CHECK_INT(world.b.sent_status[0], SL_E_CANCELLED);
    CHECK_INT(world.b.down_status, SL_E_CANCELLED);
    CHECK_INT(world.b.n_after_down, 0);
    stop(&world);
}

ON_EACH(unknown_link_is_refused_until_it_is_expected)
{
    struct world world;
    REQUIRE(start(&world, transport));
    struct sl_link_config a = link_config(LINK, 1, 2), b = a, other = link_config(LINK + 1, 1, 2);
    CHECK_INT(sl_io_accept(world.a.io, &other, sl_io_address(world.b.io)),
              SL_OK); /* else nobody is heard at all */
    CHECK_INT(sl_io_connect(world.b.io, &b, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, sl_io_refusals(world.a.io) >= 2);
    CHECK_INT(world.b.n_up, 0);
    CHECK_INT(sl_io_accept(world.a.io, &a, sl_io_address(world.b.io)), SL_OK);
    UNTIL(&world, world.a.n_up == 1 && world.b.n_up == 1);
    CHECK_INT(world.b.n_down, 0); /* the refused tries are no business of the owner */
    stop(&world);
}

/* Its address is another one then, and comes by other means. */
ON_EACH(peer_that_dies_and_comes_back_is_found)
{
    struct world world;
    struct sl_err err;
    REQUIRE(start(&world, transport));
    struct sl_io_address before = *sl_io_address(world.a.io);
    for (int life = 0; life < 3; life++) {
        struct sl_link_config a = link_config(LINK, 1, 2), b = a;
        if (life > 0) { /* the old address leads nowhere */
            CHECK_INT(sl_io_connect(world.b.io, &b, &before), SL_OK);
            struct sl_io_event event;
            CHECK_INT(sl_io_poll(world.b.io, &event, 150), SL_AGAIN); /* at least one try in vain */
            sl_io_drop(world.b.io, LINK);
            UNTIL(&world, world.b.n_down == 2 * life);
            struct sl_io_config config = config_of(transport, &world);
            REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK);
        }
        CHECK_INT(sl_io_accept(world.a.io, &a, sl_io_address(world.b.io)), SL_OK);
        CHECK_INT(sl_io_connect(world.b.io, &b, sl_io_address(world.a.io)), SL_OK);
        UNTIL(&world, world.a.n_up == 1 && world.b.n_up == life + 1);
        world.b.n_frames = 0;
        CHECK_INT(send_bytes(&world.a, LINK, pool, 70000, 0), SL_OK);
        UNTIL(&world, world.b.n_frames == 1 && world.a.n_sent == 1);
        before = *sl_io_address(world.a.io);
        sl_io_destroy(world.a.io);
        world.a = (struct side){0};
        UNTIL(&world, world.b.n_down == 2 * life + 1);
    }
    stop(&world);
}

ON_EACH(stranger_that_knows_id_and_key_is_not_answered)
{
    struct world world;
    struct side stranger = {0};
    struct sl_err err;
    REQUIRE(start(&world, transport));
    struct sl_link_config link = link_config(LINK, 1, 2);
    struct sl_io_config config = config_of(transport, &world);
    config.handshake_ms = 300;
    REQUIRE(sl_io_create(&stranger.io, &config, &err) == SL_OK);
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(stranger.io, &link, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, (take_all(&stranger, 0), sl_io_refusals(world.a.io) >= 3));
    CHECK_INT(stranger.n_up + world.a.n_up, 0);
    CHECK_INT(sl_io_connect(world.b.io, &link, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, world.a.n_up == 1 && world.b.n_up == 1);
    CHECK_INT(send_bytes(&world.a, LINK, pool, 70000, 0), SL_OK);
    UNTIL(&world, world.b.n_frames == 1);
    CHECK_INT(world.a.n_down + world.b.n_down + stranger.n_up, 0);
    sl_io_destroy(stranger.io);
    stop(&world);
}

/* Both ways between one pair, whoever declares what first: nothing may hang on the order in which ends are made. */
ON_EACH(two_links_between_a_pair_in_every_order)
{
    for (unsigned order = 0; order < 24; order++) {
        struct world world;
        REQUIRE(start(&world, transport));
        struct sl_link_config there = link_config(1, 1, 2), back = link_config(2, 2, 2);
        unsigned left = 15, rest = order;
        for (unsigned n = 4; n > 0; n--) {
            unsigned skip = rest % n, which = 0;
            rest /= n;
            for (; !(left >> which & 1) || skip-- > 0; which++)
                ;
            left &= ~(1u << which);
            const struct sl_io_address *at_a = sl_io_address(world.a.io), *at_b = sl_io_address(world.b.io);
            CHECK_INT(which == 0   ? sl_io_accept(world.a.io, &there, at_b)
                      : which == 1 ? sl_io_connect(world.a.io, &back, at_b)
                      : which == 2 ? sl_io_connect(world.b.io, &there, at_a)
                                   : sl_io_accept(world.b.io, &back, at_a),
                      SL_OK);
        }
        UNTIL(&world, world.a.n_up == 2 && world.b.n_up == 2);
        for (uint64_t id = 1; id <= 2; id++) {
            world.a.n_frames = world.b.n_frames = 0;
            CHECK_INT(send_bytes(&world.a, id, pool, 100000, id), SL_OK);
            CHECK_INT(send_bytes(&world.b, id, pool, 100, id), SL_OK);
            int sent = (int)id; /* the last event is the frame, or of it */
            UNTIL(&world, world.a.n_frames == 1 && world.b.n_frames == 1 && world.a.n_sent == sent &&
                              world.b.n_sent == sent);
            CHECK_INT(world.a.last.link, id);
        }
        sl_io_drop(order % 2 ? world.a.io : world.b.io, 1);
        UNTIL(&world, world.a.n_down == 1 && world.b.n_down == 1);
        world.b.n_frames = 1;
        CHECK_INT(send_bytes(&world.a, 2, pool, 100000, 3), SL_OK); /* the other goes on */
        UNTIL(&world, world.b.n_frames == 2);
        CHECK_INT(world.a.n_down + world.b.n_down, 2);
        stop(&world);
    }
}

ON_EACH(other_epoch_is_refused)
{
    struct world world;
    REQUIRE(start(&world, transport));
    struct sl_link_config a = link_config(LINK, 1, 2), b = a;
    b.epoch = EPOCH - 1; /* a node of the plan before this one */
    CHECK_INT(sl_io_accept(world.a.io, &a, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.b.io, &b, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, sl_io_refusals(world.a.io) >= 2);
    CHECK_INT(world.a.n_up + world.b.n_up, 0);
    stop(&world);
}

ON_EACH(links_of_two_epochs_live_on_one_io)
{
    struct world world;
    REQUIRE(start(&world, transport));
    for (uint64_t i = 0; i < 2; i++) {
        struct sl_link_config link = link_config(LINK + i, 1, 2);
        link.epoch = EPOCH + i;
        CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_OK);
        CHECK_INT(sl_io_connect(world.b.io, &link, sl_io_address(world.a.io)), SL_OK);
    }
    UNTIL(&world, world.a.n_up == 2 && world.b.n_up == 2);
    for (uint64_t i = 0; i < 2; i++) {
        world.b.n_frames = 0;
        CHECK_INT(send_bytes(&world.a, LINK + i, pool, 100, i), SL_OK);
        UNTIL(&world, world.b.n_frames == 1);
        CHECK_INT(world.b.last.link, LINK + i);
        CHECK_INT(world.b.last.wire.epoch, EPOCH + i);
    }
    sl_io_drop(world.a.io, LINK); /* the old epoch goes, the new one stays */
    UNTIL(&world, world.a.n_down == 1 && world.b.n_down == 1);
    CHECK_INT(send_bytes(&world.a, LINK + 1, pool, 100, 2), SL_OK);
    world.b.n_frames = 1;
    UNTIL(&world, world.b.n_frames == 2);
    CHECK_INT(world.b.n_up - world.b.n_down, 1);
    stop(&world);
}

ON_EACH(peer_destroyed_brings_everything_home)
{
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 2, 2);
    world.b.keep = true;
    for (uint64_t n = 0; n < 20; n++)
        CHECK_INT(send_bytes(&world.a, LINK, pool, 200000, n), SL_OK);
    UNTIL(&world, world.b.n_frames == 2);
    sl_io_destroy(world.b.io);
    world.b.io = NULL;
    UNTIL(&world, world.a.n_down == 1);
    check_tokens(&world.a, 20);
    CHECK_INT(world.a.sent_status[0], SL_OK);
    CHECK_INT(world.a.sent_status[19], SL_E_PEER_LOST);
    CHECK_INT(world.a.down_status, SL_E_PEER_LOST);
    CHECK_CONTAINS(world.a.down_reason, "goodbye");
    /* The link is gone: a frame for it comes home as well, and says so. */
    CHECK_INT(send_bytes(&world.a, LINK, pool, 10, 20), SL_OK);
    UNTIL(&world, world.a.n_sent == 21);
    CHECK_INT(world.a.sent_status[20], SL_E_NOT_FOUND);
    CHECK_INT(world.a.n_down, 1);
    stop(&world);
}

static void *destroy_main(void *io)
{
    sl_io_destroy(io);
    return NULL;
}

ON_EACH(frames_sent_before_the_end_arrive)
{
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 8, 8);
    world.b.expect = pool;
    for (uint64_t n = 0; n < 30; n++)
        send_frame(&world.a, n);
    /* The destroying end flushes while this thread sits in destroy, so another thread must take the
     * frames. */
    pthread_t thread;
    struct sl_io *io = world.a.io;
    world.a.io = NULL;
    REQUIRE(pthread_create(&thread, NULL, destroy_main, io) == 0);
    UNTIL(&world, world.b.n_down == 1);
    pthread_join(thread, NULL);
    CHECK_INT(world.b.n_frames, 30);
    CHECK_CONTAINS(world.b.down_reason, "goodbye");
    stop(&world);
}

ON_EACH(held_slots_outlive_their_link)
{
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 2, 2);
    world.b.keep = true;
    for (uint64_t n = 0; n < 2; n++)
        CHECK_INT(send_bytes(&world.a, LINK, pool + n, 200000, n), SL_OK);
    UNTIL(&world, world.b.n_frames == 2);
    sl_io_drop(world.a.io, LINK);
    UNTIL(&world, world.a.n_down == 1 && world.b.n_down == 1);
    CHECK_INT(world.a.down_status, SL_E_CANCELLED);
    CHECK(memcmp(world.b.payloads[1], pool + 1, 200000) == 0);
    /* The same id may be used again while the old slots are out. */
    world.a.n_up = world.b.n_up = world.b.n_frames = 0;
    world.b.keep = false;
    connect_both(&world, 2, 2);
    CHECK_INT(send_bytes(&world.a, LINK, pool, 1000, 2), SL_OK);
    UNTIL(&world, world.b.n_frames == 1);
    CHECK(memcmp(world.b.payloads[0], pool, 200000) == 0);
    sl_io_release(world.b.io, LINK, world.b.slots[0]);
    sl_io_release(world.b.io, LINK, world.b.slots[1]);
    CHECK_INT(send_bytes(&world.a, LINK, pool, 1000, 3), SL_OK);
    UNTIL(&world, world.b.n_frames == 2);
    stop(&world);
}

ON_EACH(drop_cancels_what_waits)
{
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 1, 1);
    world.a.keep = true;
    for (uint64_t n = 0; n < 10; n++)
        CHECK_INT(send_bytes(&world.b, LINK, pool, 70000, n), SL_OK);
    UNTIL(&world, world.a.n_frames == 1);
    sl_io_drop(world.b.io, LINK);
    sl_io_drop(world.b.io, LINK); /* once is enough */
    CHECK_INT(send_bytes(&world.b, LINK, pool, 70000, 10), SL_OK);
    UNTIL(&world, world.b.n_down == 1 && world.a.n_down == 1);
    check_tokens(&world.b, 11);
    CHECK_INT(world.b.sent_status[0], SL_OK);
    CHECK_INT(world.b.sent_status[9], SL_E_CANCELLED);
    CHECK_INT(world.b.sent_status[10], SL_E_CANCELLED);
    CHECK_INT(world.b.down_status, SL_E_CANCELLED);
    CHECK_INT(world.a.down_status, SL_E_PEER_LOST);
    CHECK_INT(world.a.n_after_down + world.b.n_after_down, 0);
    stop(&world);
}

static void *nudge_main(void *io)
{
    sl_io_nudge(io);
    return NULL;
}

ON_EACH(nudge_wakes_the_owner)
{
    struct world world;
    struct sl_io_event event;
    pthread_t thread;
    REQUIRE(start(&world, transport));
    CHECK_INT(sl_io_poll(world.a.io, &event, 0), SL_AGAIN);
    REQUIRE(pthread_create(&thread, NULL, nudge_main, world.a.io) == 0);
    CHECK_INT(sl_io_poll(world.a.io, &event, -1), SL_OK);
    CHECK_INT(event.kind, SL_IO_NUDGE);
    pthread_join(thread, NULL);
    CHECK_INT(sl_io_poll(world.a.io, &event, 0), SL_AGAIN); /* several nudges are one */
    stop(&world);
}

ON_EACH(two_links_on_one_io)
{
    struct world world;
    REQUIRE(start(&world, transport));
    struct sl_link_config one = link_config(1, 1, 2), two = link_config(2, 2, 2);
    CHECK_INT(sl_io_accept(world.a.io, &one, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.a.io, &two, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_accept(world.b.io, &two, sl_io_address(world.a.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.b.io, &one, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, world.a.n_up == 2 && world.b.n_up == 2);
    CHECK_INT(send_bytes(&world.a, 1, pool, 100, 0), SL_OK);
    UNTIL(&world, world.b.n_frames == 1);
    CHECK_INT(world.b.last.link, 1);
    world.b.n_frames = 0;
    CHECK_INT(send_bytes(&world.a, 2, pool, 100, 1), SL_OK);
    UNTIL(&world, world.b.n_frames == 1);
    CHECK_INT(world.b.last.link, 2);
    sl_io_drop(world.a.io, 1);
    UNTIL(&world, world.a.n_down == 1 && world.b.n_down == 1);
    CHECK_INT(send_bytes(&world.a, 2, pool, 100, 2), SL_OK); /* the other link is unhurt */
    world.b.n_frames = 1;
    UNTIL(&world, world.b.n_frames == 2);
    stop(&world);
}

/* A frame of a record and rows, as stages send them. */
static void send_rows(struct side *side, enum sl_wire_kind kind, uint64_t tag)
{
    struct sl_wire wire = {.kind = (uint16_t)kind,
                           .seq = tag,
                           .rank = 1,
                           .dtype = SL_F32,
                           .shape = {25000},
                           .meta_bytes = 100,
                           .payload_bytes = 100 + 25000 * 4};
    sl_frame_seal(&wire, pool);
    CHECK_INT(sl_io_send(side->io, LINK, &wire, pool, tag), SL_OK);
}

ON_EACH(wrong_checksum_is_the_users_to_see_and_the_link_lives)
{
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 4, 4);
    sl_io_fault_corrupt(world.a.io, 1);
    send_rows(&world.a, SL_WIRE_ORDER, 0);
    UNTIL(&world, world.b.n_frames == 1);
    CHECK_INT(world.b.last.status, SL_OK);
    CHECK_INT(world.b.n_torn, 1);
    send_rows(&world.a, SL_WIRE_ORDER, 1);
    UNTIL(&world, world.b.n_frames == 2);
    CHECK_INT(world.b.n_torn, 1);
    CHECK_INT(world.b.n_down, 0);
    stop(&world);
}

ON_EACH(damaged_payload_is_the_users_to_see_and_the_link_lives)
{
    static const struct {
        enum sl_damage where;
        uint32_t at, in_payload;
    } rows[] = {{SL_DAMAGE_META, 0, 0},
                {SL_DAMAGE_META, 99, 99},
                {SL_DAMAGE_ROWS, 0, 100},
                {SL_DAMAGE_ROWS, 99999, 100099}};
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 4, 4);
    world.b.keep = true;
    for (int i = 0; i < 4; i++) {
        CHECK(sl_io_fault_damage(world.a.io, LINK, SL_WIRE_KV, rows[i].where, rows[i].at));
        CHECK(!sl_io_fault_damage(world.a.io, LINK, SL_WIRE_KV, rows[i].where, 0)); /* one at a time */
        send_rows(&world.a, SL_WIRE_ORDER, 0);                                      /* not of that kind */
        send_rows(&world.a, SL_WIRE_KV, 1);
        UNTIL(&world, world.b.n_frames == 2 * i + 2);
        CHECK_INT(world.b.n_torn, i + 1);
        CHECK_INT(world.b.last.wire.kind, SL_WIRE_KV);
        world.b.payloads[1][rows[i].in_payload] ^= 1; /* that bit and no other */
        CHECK(sl_frame_whole(&world.b.last.wire, world.b.payloads[1]));
        for (int k = 0; k < 2; k++)
            sl_io_release(world.b.io, LINK, world.b.slots[k]);
        world.b.n_kept = 0;
    }
    UNTIL(&world, world.a.n_sent == 8);
    CHECK_INT(world.b.n_down, 0);
    stop(&world);
}

ON_EACH(damaged_header_ends_the_link)
{
    struct world world;
    REQUIRE(start_patient(&world, transport, 3000)); /* the other end does not know that it is for good */
    connect_both(&world, 4, 4);
    CHECK(sl_io_fault_damage(world.a.io, 0, SL_WIRE_RESULT, SL_DAMAGE_HEADER, 40));
    send_rows(&world.a, SL_WIRE_RESULT, 0);
    UNTIL(&world, world.b.n_down == 1 && world.a.n_down == 1);
    CHECK_INT(world.b.n_frames, 0);
    CHECK_INT(world.b.down_status, SL_E_PROTOCOL);
    CHECK_CONTAINS(world.b.down_reason, "header checksum");
    CHECK_INT(world.a.n_sent, 1);
    stop(&world);
}

ON_EACH(frame_larger_than_the_peers_slots_comes_back)
{
    struct world world;
    REQUIRE(start(&world, transport));
    struct sl_link_config a = link_config(LINK, 1, 2), b = a;
    a.slot_bytes = 5000;
    CHECK_INT(sl_io_accept(world.a.io, &a, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.b.io, &b, sl_io_address(world.a.io)), SL_OK);
    CHECK_INT(send_bytes(&world.b, LINK, pool, 5001, 0), SL_OK);
    CHECK_INT(send_bytes(&world.b, LINK, pool, 5000, 1), SL_OK);
    UNTIL(&world, world.b.n_sent == 2 && world.a.n_frames == 1);
    CHECK_INT(world.b.sent_status[0], SL_E_INVALID);
    CHECK_INT(world.b.sent_status[1], SL_OK);
    CHECK_INT(world.b.n_down, 0);
    stop(&world);
}

ON_EACH(bad_calls_are_refused)
{
    struct world world;
    REQUIRE(start(&world, transport));
    struct sl_link_config link = link_config(LINK, 1, 0);
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_E_INVALID);
    link.n_slots = 65;
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_E_INVALID);
    link.n_slots = 64;
    link.slot_bytes = SIZE_MAX;
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_E_INVALID);
    link.slot_bytes = 64;
    struct sl_io_address nowhere = {0};
    CHECK_INT(sl_io_connect(world.a.io, &link, &nowhere), SL_E_INVALID);
    CHECK(!sl_io_address_set(&nowhere, pool, 0));
    CHECK(!sl_io_address_set(&nowhere, pool, SL_IO_ADDRESS_BYTES + 1));
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_E_EXISTS);
    struct sl_wire wire = {.kind = SL_WIRE_PING};
    CHECK_INT(sl_io_send(world.a.io, LINK, &wire, NULL, 1), SL_E_INVALID);
    wire = (struct sl_wire){.kind = SL_WIRE_ORDER, .payload_bytes = 1};
    CHECK_INT(sl_io_send(world.a.io, LINK, &wire, NULL, 1), SL_E_INVALID);
    wire = (struct sl_wire){.kind = SL_WIRE_ORDER, .payload_bytes = 1, .meta_bytes = 1};
    CHECK_INT(sl_io_send(world.a.io, LINK, &wire, pool, 1), SL_E_INVALID); /* not sealed */
    CHECK_INT(send_bytes(&world.a, 999, pool, 10, 7), SL_OK);
    UNTIL(&world, world.a.n_sent == 1);
    CHECK_INT(world.a.sent_status[7], SL_E_NOT_FOUND);
    stop(&world);
}

ON_EACH(tokens_out_are_bounded)
{
    struct world world;
    REQUIRE(start(&world, transport));
    struct sl_link_config link = link_config(LINK, 1, 1);
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_OK);
    uint64_t n = 0;
    while (n < 5000 && send_bytes(&world.a, LINK, pool, 10, n) == SL_OK)
        n++;
    CHECK_INT(n, 1024);
    sl_io_drop(world.a.io, LINK);
    UNTIL(&world, world.a.n_down == 1);
    CHECK_INT(world.a.n_sent, 1024);
    CHECK_INT(world.a.n_after_down, 0);
    stop(&world);
}

ON_EACH(port_in_use_is_named)
{
    struct world world;
    REQUIRE(start(&world, transport));
    struct sl_io_config config = config_of(transport, &world);
    config.port = sl_io_port(world.a.io);
    struct sl_io *third;
    struct sl_err err;
    CHECK_INT(sl_io_create(&third, &config, &err), SL_E_UNAVAILABLE);
    char port[8];
    snprintf(port, sizeof port, "%u", (unsigned)config.port);
    CHECK_CONTAINS(err.text, port);
    stop(&world);
}

ON_EACH(bytes_that_are_no_address_end_the_link)
{
    struct world world;
    struct sl_io_address wrong;
    REQUIRE(start(&world, transport));
    struct sl_link_config link = link_config(LINK, 1, 1);
    CHECK(sl_io_address_set(&wrong, pool, 100));
    CHECK_INT(sl_io_connect(world.a.io, &link, &wrong), SL_OK);
    UNTIL(&world, world.a.n_down == 1);
    CHECK_INT(world.a.down_status, SL_E_INVALID);
    CHECK_CONTAINS(world.a.down_reason, "address");
    stop(&world);
}

/* However long a peer would be waited for, who ends a link says so. */
ON_EACH(who_ends_a_link_tells_the_other)
{
    for (int who = 0; who < 2; who++) { /* by the one who was dialed, and by the one who dialed */
        struct world world;
        REQUIRE(start_patient(&world, transport, 600000));
        connect_both(&world, 2, 2);
        struct side *ends = who ? &world.b : &world.a, *hears = who ? &world.a : &world.b;
        CHECK(sl_io_fault_damage(hears->io, LINK, SL_WIRE_ORDER, SL_DAMAGE_HEADER, 0));
        send_frame(hears, 0);
        UNTIL(&world, ends->n_down == 1 && hears->n_down == 1);
        CHECK_INT(ends->down_status, SL_E_PROTOCOL);
        CHECK_INT(hears->down_status, SL_E_PEER_LOST);
        check_tokens(hears, 1);
        stop(&world);
    }
}

/* Lines break again and again while frames of all sizes go both ways: each comes once and in order, each tag comes home. */
ON_EACH(links_carry_on_over_new_lines)
{
    enum { FRAMES = 200, CUTS = 12 };
    struct world world = {0};
    struct sl_err err;
    fill_pool();
    REQUIRE(prepare_rows(transport) && sl_fabric_create(&world.fabric) == SL_OK);
    struct sl_io_config config = config_of(transport, &world);
    config.lost_ms = 600000;
    REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK);
    REQUIRE(sl_io_create(&world.b.io, &config, &err) == SL_OK);
    connect_both(&world, 3, 4);
    world.a.expect = world.b.expect = pool;
    int cuts = 0;
    for (uint64_t n = 0; n < FRAMES; n++) {
        send_frame(&world.a, n);
        send_frame(&world.b, n);
        if (n % (FRAMES / CUTS) == 7) {
            int heard = world.a.n_frames;
            UNTIL(&world, world.a.n_frames > heard || world.a.n_frames == (int)n + 1);
            sl_io_fault_cut(cuts++ % 2 ? world.a.io : world.b.io);
        }
    }
    UNTIL(&world, world.a.n_frames == FRAMES && world.b.n_frames == FRAMES);
    UNTIL(&world, world.a.n_sent == FRAMES && world.b.n_sent == FRAMES);
    check_tokens(&world.a, FRAMES);
    check_tokens(&world.b, FRAMES);
    for (int n = 0; n < FRAMES; n++)
        CHECK(world.a.sent_status[n] == SL_OK && world.b.sent_status[n] == SL_OK);
    CHECK_INT(world.a.n_torn + world.b.n_torn + world.a.n_down + world.b.n_down, 0);
    CHECK_INT(world.a.n_up + world.b.n_up, 2);
    CHECK(world.a.n_silences + world.b.n_silences > 0);
    stop(&world);
}

static int count_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Both ends read the clock of this machine. */
ON_EACH(clock_of_the_peer_is_ours)
{
    struct world world;
    REQUIRE(start(&world, transport));
    CHECK(!sl_io_clock(world.b.io, LINK).known);
    connect_both(&world, 1, 1);
    UNTIL(&world, sl_io_clock(world.b.io, LINK).known);
    struct sl_link_clock clock = sl_io_clock(world.b.io, LINK);
    CHECK(clock.rtt_us <= 1000000);
    /* Stamps are of the begin of a round, and how long one takes on a busy machine nobody knows. */
    CHECK(clock.offset_us > -1000000 && clock.offset_us < 1000000);
    if (transport->one_clock)
        CHECK(sl_io_clock(world.a.io, LINK).known && clock.offset_us == 0 && clock.rtt_us == 0);
    else
        CHECK(!sl_io_clock(world.a.io, LINK).known); /* it was dialed */
    sl_io_drop(world.b.io, LINK);
    UNTIL(&world, world.a.n_down == 1 && world.b.n_down == 1);
    CHECK(!sl_io_clock(world.b.io, LINK).known);
    stop(&world);
}

ON_EACH(many_lives_leak_no_descriptor)
{
    int before = 0;
    for (int round = 0; round < 6; round++) {
        struct world world;
        REQUIRE(start(&world, transport));
        connect_both(&world, 1, 1);
        CHECK_INT(send_bytes(&world.a, LINK, pool, 70000, 0), SL_OK);
        sl_io_drop(world.b.io, LINK);
        UNTIL(&world, world.a.n_down == 1 && world.b.n_down == 1);
        check_tokens(&world.a, 1);
        stop(&world);
        if (round == 0)
            before = count_fds();
    }
    CHECK_INT(count_fds(), before);
}

/* Threads of this process that bear a name, as top shows it. */
static int count_threads(const char *name)
{
    int n = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (const struct dirent *task; tasks && (task = readdir(tasks));) {
        char path[300], line[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        FILE *comm = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (comm && fgets(line, sizeof line, comm))
            n += strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == '\n';
        if (comm)
            fclose(comm);
    }
    if (tasks)
        closedir(tasks);
    return n;
}

ON_EACH(the_thread_has_the_name_that_it_was_given)
{
    struct world world;
    CHECK_INT(count_threads("io"), 0);
    REQUIRE(start(&world, transport));
    CHECK_INT(count_threads("io"), 2);
    stop(&world);
}
