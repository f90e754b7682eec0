/* The delay and the rate that the local transport can be asked for: what arrives has been under way so long, in order, and whole;
 * and links end as ever. Only what has to have passed at least is looked at: a busy machine adds to it. */
#include "base/clock.h"
#include "base/log.h"
#include "pipeline/link/transport.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

enum { LINK = 3, EPOCH = 1, FRAMES = 20, BYTES = 100000, GIVE_UP_MS = 30000 };

struct two_ios {
    struct sl_fabric *fabric;
    struct sl_io *from, *to;
    uint32_t n_up, n_down, n_sent, n_arrived, n_torn, n_late_number;
    uint64_t first_us, last_us; /* arrivals, on the clock of sl_clock_ns */
};

static uint8_t payload[BYTES];

static void take(struct two_ios *p, struct sl_io *io, const struct sl_io_event *event)
{
    p->n_up += event->kind == SL_IO_LINK_UP;
    p->n_down += event->kind == SL_IO_LINK_DOWN;
    p->n_sent += event->kind == SL_IO_SENT && event->status == SL_OK;
    if (event->kind != SL_IO_FRAME)
        return;
    p->n_torn += !sl_frame_whole(&event->wire, event->payload);
    p->n_late_number += event->wire.chunk_index != p->n_arrived;
    if (p->n_arrived++ == 0)
        p->first_us = event->at_us;
    p->last_us = event->at_us;
    sl_io_release(io, event->link, event->slot);
}

static bool until(struct two_ios *p, const uint32_t *count, uint32_t n)
{
    uint64_t give_up_ns = sl_clock_ns() + sl_test_patience_ms(GIVE_UP_MS) * UINT64_C(1000000);
    struct sl_io_event event;
    while (*count < n && sl_clock_ns() < give_up_ns) {
        while (sl_io_poll(p->from, &event, 0) == SL_OK)
            take(p, p->from, &event);
        if (sl_io_poll(p->to, &event, 1) == SL_OK)
            take(p, p->to, &event);
    }
    return *count == n;
}

static bool begin(struct two_ios *p, uint32_t delay_us, double gbit)
{
    struct sl_err err = {0};
    *p = (struct two_ios){0};
    sl_log_init("test", SL_LOG_ERROR);
    sl_fabric_create(&p->fabric);
    struct sl_io_config config = {.transport = &sl_transport_local,
                                  .fabric = p->fabric,
                                  .delay_us = delay_us,
                                  .gbit = gbit,
                                  .limits = {BYTES, 1, 1},
                                  .thread_name = "io"};
    struct sl_link_config link = {.id = LINK, .epoch = EPOCH, .n_slots = 4, .slot_bytes = BYTES};
    if (sl_io_create(&p->from, &config, &err) != SL_OK || sl_io_create(&p->to, &config, &err) != SL_OK ||
        sl_io_accept(p->to, &link, sl_io_address(p->from)) != SL_OK ||
        sl_io_connect(p->from, &link, sl_io_address(p->to)) != SL_OK)
        return false;
    return until(p, &p->n_up, 2);
}

static void end(struct two_ios *p)
{
    sl_io_destroy(p->from);
    sl_io_destroy(p->to);
    sl_fabric_destroy(p->fabric);
}

/* Returns when the first was handed over, in us. */
static uint64_t send_all(struct two_ios *p, uint32_t n, uint32_t bytes)
{
    uint64_t begin_us = sl_clock_ns() / 1000;
    for (uint32_t i = 0; i < n; i++) {
        struct sl_wire wire = {
            .kind = SL_WIRE_ORDER, .payload_bytes = bytes, .meta_bytes = bytes, .chunk_index = i};
        sl_frame_seal(&wire, payload);
        CHECK_INT(sl_io_send(p->from, LINK, &wire, payload, i), SL_OK);
    }
    return begin_us;
}

SL_TEST(what_arrives_has_been_under_way_for_the_delay)
{
    struct two_ios p;
    CHECK(begin(&p, 20000, 0));
    uint64_t begin_us = send_all(&p, FRAMES, 1000);
    CHECK(until(&p, &p.n_arrived, FRAMES) && until(&p, &p.n_sent, FRAMES));
    CHECK(p.first_us >= begin_us + 20000);
    CHECK_INT(p.n_torn + p.n_late_number, 0);
    end(&p);
}

SL_TEST(frames_leave_one_behind_the_other_at_the_rate)
{
    struct two_ios p;
    CHECK(begin(&p, 0, 0.2)); /* 100,000 bytes: 4 ms */
    uint64_t begin_us = send_all(&p, FRAMES, BYTES);
    CHECK(until(&p, &p.n_arrived, FRAMES) && until(&p, &p.n_sent, FRAMES));
    CHECK(p.first_us >= begin_us + 4000 && p.last_us >= begin_us + FRAMES * UINT64_C(4000));
    CHECK_INT(p.n_torn + p.n_late_number, 0);
    end(&p);
}

SL_TEST(a_link_ends_while_frames_are_under_way_and_all_come_home)
{
    struct two_ios p;
    CHECK(begin(&p, 50000, 1));
    send_all(&p, FRAMES, BYTES);
    sl_io_drop(p.from, LINK);
    CHECK(until(&p, &p.n_down, 2));
    CHECK(p.n_arrived <= FRAMES && p.n_torn == 0);
    end(&p);
    CHECK(begin(&p, 50000, 1)); /* and when nobody waits for it */
    send_all(&p, FRAMES, BYTES);
    end(&p);
}
