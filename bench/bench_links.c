/* Frames of one size from one io to another over UCX on loopback, one link for each way of proving them. A round sends as many over
 * each link in turn, so that what the machine does meanwhile hits all alike; compared is within a round. The payload is sealed once,
 * and nobody looks at it: what is timed is carrying it, and its proof. */
#include "bench/bench_links.h"
#include "base/clock.h"
#include "base/digest.h"
#include "bench/samples.h"
#include "pipeline/link/transport.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 4, EPOCH = 1, PATIENCE_MS = 10000 };

struct links_bench {
    const struct sl_bench_links *asked;
    struct sl_io *from, *to;
    uint8_t *payload;
    size_t bytes;
    uint32_t n_up, n_sent, n_arrived;
    bool down;
};

static uint64_t id_of(uint32_t auth)
{
    return 1 + auth;
}

static void take(struct links_bench *b, struct sl_io *io, const struct sl_io_event *event)
{
    b->n_up += event->kind == SL_IO_LINK_UP;
    b->down = b->down || event->kind == SL_IO_LINK_DOWN;
    b->n_sent += event->kind == SL_IO_SENT && event->status == SL_OK;
    if (event->kind != SL_IO_FRAME)
        return;
    b->n_arrived++;
    sl_io_release(io, event->link, event->slot);
}

/* Events of both, until so many of the counted came. */
static sl_status wait_for(struct links_bench *b, const uint32_t *count, uint32_t n, struct sl_err *err)
{
    uint64_t until_ns = sl_clock_ns() + PATIENCE_MS * UINT64_C(1000000);
    struct sl_io_event event;
    while (*count < n) {
        bool any = false;
        for (; sl_io_poll(b->to, &event, 0) == SL_OK; any = true)
            take(b, b->to, &event);
        for (; sl_io_poll(b->from, &event, 0) == SL_OK; any = true)
            take(b, b->from, &event);
        if (b->down)
            return sl_fail(err, SL_E_UNAVAILABLE, "a link of this process to itself ended; see the log");
        if (!any && sl_clock_ns() > until_ns)
            return sl_fail(err, SL_E_UNAVAILABLE, "no frame came for %d s; try again", PATIENCE_MS / 1000);
        if (!any && sl_io_poll(b->to, &event, 1) == SL_OK)
            take(b, b->to, &event);
    }
    return SL_OK;
}

static sl_status open_links(struct links_bench *b, struct sl_err *err)
{
    struct sl_io_config config = {.transport = &sl_transport_ucx,
                                  .address = "127.0.0.1",
                                  .thread_name = "io",
                                  .limits = {1ull << 30, 1, 1}};
    SL_TRY(sl_io_create(&b->from, &config, err));
    SL_TRY(sl_io_create(&b->to, &config, err));
    for (uint32_t auth = 0; auth < SL_LINK_AUTHS; auth++) {
        struct sl_link_config link = {.id = id_of(auth),
                                      .epoch = EPOCH,
                                      .auth = (enum sl_link_auth)auth,
                                      .n_slots = SLOTS,
                                      .slot_bytes = b->bytes};
        if (sl_random_bytes(link.key, sizeof link.key) != SL_OK)
            return sl_fail(err, SL_E_INTERNAL, "no random bytes for a key");
        sl_status status = sl_io_accept(b->to, &link, sl_io_address(b->from));
        if (status == SL_OK)
            status = sl_io_connect(b->from, &link, sl_io_address(b->to));
        if (status != SL_OK)
            return sl_fail(err, status, "cannot set up a link to this process itself (%s)",
                           sl_status_name(status));
    }
    return wait_for(b, &b->n_up, 2 * SL_LINK_AUTHS, err);
}

/* Microseconds a frame. */
static sl_status time_link(struct links_bench *b, uint32_t auth, double *us, struct sl_err *err)
{
    struct sl_wire wire = {
        .kind = SL_WIRE_ORDER, .payload_bytes = b->bytes, .meta_bytes = (uint32_t)b->bytes};
    b->n_sent = b->n_arrived = 0;
    sl_frame_seal(&wire, b->payload);
    uint64_t begin_ns = sl_clock_ns();
    for (uint32_t i = 0; i < b->asked->frames; i++)
        if (sl_io_send(b->from, id_of(auth), &wire, b->payload, i) != SL_OK)
            return sl_fail(err, SL_E_INTERNAL, "a frame of %zu bytes is not sent", b->bytes);
    SL_TRY(wait_for(b, &b->n_arrived, b->asked->frames, err));
    *us = (double)(sl_clock_ns() - begin_ns) / 1000 / b->asked->frames;
    return wait_for(b, &b->n_sent, b->asked->frames, err);
}

static void report(const struct links_bench *b, double us[SL_LINK_AUTHS][SL_SAMPLES_MAX])
{
    uint32_t n = b->asked->rounds;
    if (b->asked->json)
        printf("{\"kib\": %u, \"rounds\": %u, \"links\": [", b->asked->kib, n);
    else
        printf("frames of %u KiB between two ios over UCX on loopback, medians of %u rounds of %u\n"
               "  --link-auth    us a frame    MiB/s    of none\n",
               b->asked->kib, n, b->asked->frames);
    for (uint32_t auth = 0; auth < SL_LINK_AUTHS; auth++) {
        double ratios[SL_SAMPLES_MAX], median = sl_median(us[auth], n);
        for (uint32_t i = 0; i < n; i++)
            ratios[i] = us[auth][i] / us[SL_LINK_AUTH_NONE][i];
        const char *name = sl_link_auth_name((enum sl_link_auth)auth);
        if (b->asked->json)
            printf("%s{\"auth\": \"%s\", \"us\": %.2f, \"of_none\": %.4f}", auth > 0 ? ", " : "", name,
                   median, sl_median(ratios, n));
        else
            printf("  %-12s %12.1f %8.0f %9.3fx\n", name, median, (double)b->bytes / median * 1e6 / 1048576,
                   sl_median(ratios, n));
    }
    if (b->asked->json)
        puts("]}");
}

static sl_status run(struct links_bench *b, struct sl_err *err)
{
    double us[SL_LINK_AUTHS][SL_SAMPLES_MAX], warm;
    SL_TRY(open_links(b, err));
    for (uint32_t auth = 0; auth < SL_LINK_AUTHS; auth++)
        SL_TRY(time_link(b, auth, &warm, err));
    for (uint32_t round = 0; round < b->asked->rounds; round++)
        for (uint32_t i = 0; i < SL_LINK_AUTHS; i++) {
            uint32_t auth = (i + round) % SL_LINK_AUTHS;
            SL_TRY(time_link(b, auth, &us[auth][round], err));
        }
    report(b, us);
    return SL_OK;
}

sl_status sl_bench_links(const struct sl_bench_links *asked, struct sl_err *err)
{
    struct links_bench b = {.asked = asked, .bytes = (size_t)asked->kib * 1024};
    b.payload = malloc(b.bytes);
    if (!b.payload)
        return sl_fail(err, SL_E_NOMEM, "out of memory for frames of %u KiB", asked->kib);
    memset(b.payload, 0x5a, b.bytes);
    sl_status status = run(&b, err);
    if (b.to)
        sl_io_destroy(b.to);
    if (b.from)
        sl_io_destroy(b.from);
    free(b.payload);
    return status;
}
