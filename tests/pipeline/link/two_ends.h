/* Two ends of the I/O layer in one process, for tests over real transports. One thread owns both and polls them in turn; nothing here
 * waits for a time to pass, only for events (and gives up after half a minute). */
#ifndef SL_TESTS_PIPELINE_LINK_TWO_ENDS_H
#define SL_TESTS_PIPELINE_LINK_TWO_ENDS_H

#include "base/clock.h"
#include "base/dtype.h"
#include "base/rng.h"
#include "pipeline/link/transport_impl.h"
#include "tests/check.h"
#include "tests/pipeline/link/nccl_host.h"
#include <stdatomic.h>

enum { LINK = 77, EPOCH = 5, GIVE_UP_MS = 30000, MAX_BYTES = 1 << 20, N_TAGS = 256 };

struct side {
    struct sl_io *io;
    int n_up, n_down, n_sent, n_frames, n_nudges, n_silences;
    int sent[N_TAGS]; /* how often each tag came home */
    sl_status sent_status[N_TAGS];
    sl_status down_status;
    const char *down_reason;
    int n_after_down;
    int n_torn; /* frames that were not whole */
    bool keep;  /* do not release frames */
    uint32_t slots[64];
    uint8_t *payloads[64];
    int n_kept;
    const uint8_t *expect; /* what the frames carry, by frame number */
    struct sl_io_event last;
    _Atomic bool over; /* for a thread that works it */
};

struct world {
    struct sl_fabric *fabric;
    struct side a, b; /* a accepts, b connects */
};

static uint8_t pool[MAX_BYTES + 4096];
static bool beside; /* links of the world have their rows carried beside them */

static inline void fill_pool(void)
{
    for (size_t i = 0; i < sizeof pool; i++)
        pool[i] = (uint8_t)sl_rng_at(9, i);
}

static inline uint64_t frame_bytes(uint64_t n)
{
    static const uint64_t sizes[] = {0, 1, 63, 64, 4096, 65535, 65536, 65537, 300000, 100000, MAX_BYTES, 7};
    return sizes[n % (sizeof sizes / sizeof *sizes)];
}

static inline const uint8_t *frame_data(uint64_t n)
{
    return pool + n * 97 % 4096;
}

static inline struct sl_io_config config_of(const struct sl_transport_ops *transport, struct world *world)
{
    return (struct sl_io_config){.transport = transport,
                                 .fabric = world->fabric,
                                 .address = "127.0.0.1",
                                 .limits = {MAX_BYTES, 64, 1 << 20},
                                 .rows_device = transport->inner ? &host_rows : NULL,
                                 .rows_from = 1000, /* so that most frames have such */
                                 .thread_name = "io"};
}

/* Links that are configured from now on have their rows carried beside them when their transport can. */
static inline bool prepare_rows(const struct sl_transport_ops *transport)
{
    beside = transport->inner != NULL;
    return !beside || twin_begin();
}

/* lost_ms: how long a line that broke is waited for; 0: the default. */
static inline bool start_patient(struct world *world, const struct sl_transport_ops *transport,
                                 uint32_t lost_ms)
{
    struct sl_err err;
    memset(world, 0, sizeof *world);
    fill_pool();
    if (!prepare_rows(transport) || sl_fabric_create(&world->fabric) != SL_OK)
        return false;
    struct sl_io_config config = config_of(transport, world);
    config.lost_ms = transport->silent_loss ? lost_ms : 0;
    if (sl_io_create(&world->a.io, &config, &err) != SL_OK ||
        sl_io_create(&world->b.io, &config, &err) != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        return false;
    }
    return true;
}

/* No io comes of it, for a reason that a sentence says, with what always helps. */
static inline void check_refusal(const struct sl_io_config *config, sl_status status, const char *word)
{
    struct sl_io *io = NULL;
    struct sl_err err = {0};
    CHECK_INT(sl_io_create(&io, config, &err), status);
    CHECK_CONTAINS(err.text, word);
    CHECK_CONTAINS(err.text, "--rows staged");
    sl_io_destroy(io);
}

static inline bool start(struct world *world, const struct sl_transport_ops *transport)
{
    return start_patient(world, transport, 0);
}

static inline void stop(struct world *world)
{
    sl_io_destroy(world->b.io);
    sl_io_destroy(world->a.io);
    sl_fabric_destroy(world->fabric);
}

static inline struct sl_link_config link_config(uint64_t id, uint8_t key, uint32_t n_slots)
{
    struct sl_link_config link = {
        .id = id, .epoch = EPOCH, .n_slots = n_slots, .slot_bytes = MAX_BYTES, .rows_beside = beside};
    memset(link.key, key, sizeof link.key);
    return link;
}

static inline void take_frame(struct side *side, const struct sl_io_event *event)
{
    uint64_t n = (uint64_t)side->n_frames++;
    CHECK_INT(event->wire.number, n);
    CHECK_INT((uintptr_t)event->payload % 64, 0);
    side->n_torn += !sl_frame_whole(&event->wire, event->payload);
    if (side->expect) {
        CHECK_INT(event->wire.payload_bytes, frame_bytes(n));
        CHECK_INT(event->wire.seq, n);
        CHECK(memcmp(event->payload, frame_data(n), frame_bytes(n)) == 0);
    }
    if (side->keep && side->n_kept < 64) {
        side->slots[side->n_kept] = event->slot;
        side->payloads[side->n_kept++] = event->payload;
    } else {
        sl_io_release(side->io, event->link, event->slot);
    }
}

static inline void take(struct side *side, const struct sl_io_event *event)
{
    side->last = *event;
    side->n_after_down += side->n_down > 0;
    switch (event->kind) {
    case SL_IO_LINK_UP:
        side->n_up++;
        break;
    case SL_IO_LINK_DOWN:
        side->n_down++;
        side->down_status = event->status;
        side->down_reason = event->reason;
        break;
    case SL_IO_SENT:
        side->n_sent++;
        side->sent[event->tag % N_TAGS]++;
        side->sent_status[event->tag % N_TAGS] = event->status;
        break;
    case SL_IO_FRAME:
        take_frame(side, event);
        break;
    case SL_IO_SILENCE:
        side->n_silences++;
        break;
    case SL_IO_NUDGE:
        side->n_nudges++;
        break;
    }
}

static inline bool take_all(struct side *side, int timeout_ms)
{
    struct sl_io_event event;
    bool any = false;
    while (side->io && sl_io_poll(side->io, &event, any ? 0 : timeout_ms) == SL_OK) {
        take(side, &event);
        any = true;
    }
    return any;
}

/* What a planted fault keeps from coming about is not waited for as long. */
static inline uint64_t give_up_ms(void)
{
    return getenv("SLUICE_MUTATE") ? 2000 : sl_test_patience_ms(GIVE_UP_MS);
}

/* Polls both ends until the condition holds. */
#define UNTIL(world, condition)                                                                              \
    do {                                                                                                     \
        uint64_t until_ = sl_clock_ns() + give_up_ms() * UINT64_C(1000000);                                  \
        while (!(condition) && sl_clock_ns() < until_)                                                       \
            if (!take_all(&(world)->a, 0) && !take_all(&(world)->b, 0))                                      \
                take_all((world)->a.io ? &(world)->a : &(world)->b, 2);                                      \
        if (!(condition))                                                                                    \
            sl_test_fail(__FILE__, __LINE__, "waited in vain for %s", #condition);                           \
    } while (0)

static inline void connect_both(struct world *world, uint32_t slots_a, uint32_t slots_b)
{
    struct sl_link_config a = link_config(LINK, 1, slots_a), b = link_config(LINK, 1, slots_b);
    CHECK_INT(sl_io_accept(world->a.io, &a, sl_io_address(world->b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world->b.io, &b, sl_io_address(world->a.io)), SL_OK);
    UNTIL(world, world->a.n_up == 1 && world->b.n_up == 1);
}

static inline sl_status send_bytes(struct side *side, uint64_t link, const uint8_t *data, uint64_t bytes,
                                   uint64_t tag)
{
    struct sl_wire wire = {.kind = SL_WIRE_ORDER, .seq = tag, .payload_bytes = bytes};
    wire.meta_bytes = (uint32_t)(bytes < 200 ? bytes : tag % 3 * 64); /* a record, or none, and rows */
    if (wire.meta_bytes < bytes) {
        wire.dtype = SL_I8;
        wire.rank = 1;
        wire.shape[0] = (uint32_t)bytes - wire.meta_bytes;
    }
    if (beside)
        sl_frame_seal_by_lanes(&wire, data);
    else
        sl_frame_seal(&wire, data);
    return sl_io_send(side->io, link, &wire, data, tag);
}

static inline void send_frame(struct side *side, uint64_t n)
{
    CHECK_INT(send_bytes(side, LINK, frame_data(n), frame_bytes(n), n), SL_OK);
}

/* Exactly once, each of them. */
static inline void check_tokens(const struct side *side, int n)
{
    CHECK_INT(side->n_sent, n);
    for (int i = 0; i < n; i++)
        if (side->sent[i] != 1)
            sl_test_fail(__FILE__, __LINE__, "tag %d came home %d times", i, side->sent[i]);
}

#endif
