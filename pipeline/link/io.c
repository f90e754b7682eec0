/* The I/O thread of a node, and the rings between it and the thread that owns the links.
 *
 * The owner's commands go in through one ring and notes come back through another; neither can
 * overflow, because what can be in them is bounded by the owner's side: at most SL_SENDS_MAX tags
 * are out (a pool of as many sendings), a slot has one frame or one release under way, a link one
 * beginning, one drop, one end. Each ring has a bell (base/bell.h: rung only when the other
 * thread sleeps), so a busy pair of threads makes no system calls for it.
 *
 * LINK_DOWN is held back here until every tag of the link is home: a send may be in the command
 * ring while the I/O thread already notes that the link is over. A link that is down stays in the
 * owner's table for as long as the owner holds slots of it, and its id may be used again meanwhile;
 * slot numbers carry the place in the table, so that a release cannot be misunderstood. */
#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "pipeline/link/link_impl.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

enum { RING_ITEMS = 8192, PROGRESS_ROUNDS = 64, CLOSE_MS = 2000 };
_Static_assert(SL_SENDS_MAX + SL_LINKS_MAX * (SL_SLOTS_MAX + 4) < RING_ITEMS,
               "the rings hold everything that can be under way");

enum command_kind { COMMAND_BEGIN, COMMAND_SEND, COMMAND_RELEASE, COMMAND_DROP, COMMAND_END };

struct command {
    enum command_kind kind;
    uint32_t slot;
    struct sl_link *link;
    struct sl_sending *sending;
};

struct sl_io {
    struct sl_hub hub; /* the I/O thread's, but for the ring's consumer end and the atomics */
    struct sl_ring commands;
    struct sl_bell bell; /* the I/O thread's */
    _Atomic bool stop, nudged;
    bool stepped; /* there is no thread, and no clock is read */
    pthread_t thread;
    sem_t started;
    sl_status start_status;
    struct sl_err *start_err;
    struct sl_io_address address;
    char host[SL_IO_HOST_BYTES];
    bool shielded;
    uint16_t port;

    /* the owner's */
    struct sl_link *links[SL_LINKS_MAX];
    struct sl_sending *sendings, *free_sendings;
    uint32_t n_sendings; /* that were ever used: of the others no page is touched */
    uint32_t n_down_waiting;
};

static bool ring_empty(struct sl_ring *ring)
{
    return atomic_load_explicit(&ring->head, memory_order_acquire) ==
           atomic_load_explicit(&ring->tail, memory_order_acquire);
}

/* ---- The I/O thread ---- */

static void link_free(struct sl_link *link)
{
    free(link->memory);
    free(link);
}

static uint64_t clock_ms(void)
{
    return sl_clock_ns() / 1000000u;
}

/* The hub's time steps here and nowhere else: before each round of commands, progress or timers. */
static void turn(struct sl_io *io)
{
    if (!io->stepped)
        sl_hub_turn(&io->hub, clock_ms(), sl_clock_ns() / 1000u);
}

static bool take_commands(struct sl_io *io)
{
    struct command c;
    bool any = false;
    turn(io);
    while (sl_ring_pop(&io->commands, &c) == SL_OK) {
        any = true;
        switch (c.kind) {
        case COMMAND_BEGIN:
            sl_link_begin(&io->hub, c.link);
            break;
        case COMMAND_SEND:
            sl_link_send(&io->hub, c.link, c.sending);
            break;
        case COMMAND_RELEASE:
            sl_link_give_back(&io->hub, c.link, c.slot);
            break;
        case COMMAND_DROP:
            sl_link_cancel(&io->hub, c.link);
            break;
        case COMMAND_END:
            sl_link_end(&io->hub, c.link);
            link_free(c.link);
            break;
        }
    }
    return any;
}

static bool progress(struct sl_io *io)
{
    struct sl_hub *hub = &io->hub;
    int rounds = 0;
    bool any = true;
    for (; any && rounds < PROGRESS_ROUNDS; rounds++) {
        turn(io);
        any = hub->ops->progress(hub->transport);
    }
    return rounds > 1 || any;
}

static void io_sleep(struct sl_io *io, int wait_ms)
{
    struct sl_hub *hub = &io->hub;
    sl_bell_doze(&io->bell);
    if (ring_empty(&io->commands) && !atomic_load(&io->stop) && hub->ops->arm(hub->transport)) {
        struct pollfd fds[2] = {{.fd = io->bell.fd, .events = POLLIN},
                                {.fd = hub->ops->fd(hub->transport), .events = POLLIN}};
        poll(fds, 2, wait_ms);
    }
    sl_bell_hush(&io->bell);
}

static void run(struct sl_io *io)
{
    while (!atomic_load(&io->stop)) {
        bool busy = take_commands(io);
        busy |= progress(io);
        turn(io);
        int wait_ms = sl_hub_step(&io->hub);
        if (!busy)
            io_sleep(io, wait_ms);
    }
}

static void close_transport(struct sl_hub *hub)
{
    for (uint32_t i = 0; i < SL_LINKS_MAX; i++)
        if (hub->links[i] && hub->links[i]->region)
            hub->ops->unmap(hub->transport, hub->links[i]->region);
    hub->ops->close(hub->transport);
}

/* What was sent before the end still goes out; then every link says goodbye, within a second. */
static void wind_down(struct sl_io *io)
{
    struct sl_hub *hub = &io->hub;
    take_commands(io);
    uint64_t begun_ms = hub->now_ms;
    bool aborted = false;
    sl_hub_leave(hub);
    while (!sl_hub_idle(hub) && hub->now_ms - begun_ms < SL_LEAVE_MS + CLOSE_MS) {
        bool busy = progress(io);
        turn(io);
        int wait_ms = sl_hub_step(hub);
        if (!busy && !sl_hub_idle(hub) && hub->ops->arm(hub->transport)) {
            struct pollfd fd = {.fd = hub->ops->fd(hub->transport), .events = POLLIN};
            poll(&fd, 1, wait_ms);
        }
        if (!aborted && hub->now_ms - begun_ms >= SL_LEAVE_MS) {
            aborted = true;
            sl_hub_abort(hub);
        }
    }
    if (!sl_hub_idle(hub))
        sl_log_warn(
            "a connection of transport %s did not end within %d s and is closed by force; look at the node it led to",
            hub->ops->name, (SL_LEAVE_MS + CLOSE_MS) / 1000);
    close_transport(hub);
}

static void *io_main(void *argument)
{
    struct sl_io *io = argument;
    struct sl_hub *hub = &io->hub;
    if (hub->config.thread_name) {
        char name[16];
        snprintf(name, sizeof name, "%s", hub->config.thread_name);
        pthread_setname_np(pthread_self(), name);
    }
    io->start_status = hub->ops->open(&hub->transport, hub, &hub->config, io->start_err);
    bool opened = io->start_status == SL_OK;
    if (opened)
        hub->ops->where(hub->transport, &io->address, io->host, &io->port, &io->shielded);
    sem_post(&io->started);
    if (opened) {
        run(io);
        wind_down(io);
    }
    return NULL;
}

/* ---- Creation ---- */

/* Under TSan everything takes its time. gcc tells by a macro, clang by a question that gcc does not
 * know. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SL_UNDER_TSAN 1
#endif
#endif
#if defined(SL_UNDER_TSAN) || defined(__SANITIZE_THREAD__)
enum { PATIENCE = 10 };
#else
enum { PATIENCE = 1 };
#endif

static void fill_defaults(struct sl_io_config *config)
{
    if (config->heartbeat_ms == 0)
        config->heartbeat_ms = 200;
    if (config->lost_ms == 0 && config->transport->silent_loss)
        config->lost_ms = 10000 * PATIENCE; /* else a line that breaks is a peer that is gone */
    if (config->silent_ms == 0)
        config->silent_ms = 1000 * PATIENCE;
    if (config->lost_ms > 0 && config->silent_ms > config->lost_ms)
        config->silent_ms = config->lost_ms;
    if (config->handshake_ms == 0)
        config->handshake_ms = 2000 * PATIENCE;
    if (config->join_ms == 0)
        config->join_ms = 10000 * PATIENCE; /* NCCL looks at the machine first, which may take seconds */
}

static void tell_memory(const struct sl_io *io, const struct sl_link *link, bool taken)
{
    const struct sl_io_config *config = &io->hub.config;
    if (config->on_memory)
        config->on_memory(config->memory_user, link->memory, link->memory_bytes, taken);
}

static void io_free(struct sl_io *io)
{
    for (uint32_t i = 0; i < SL_LINKS_MAX; i++)
        if (io->links[i]) {
            tell_memory(io, io->links[i], false);
            link_free(io->links[i]);
        }
    struct sl_hub *hub = &io->hub;
    while (hub->conns) { /* left behind only when a transport could not end them */
        struct sl_conn *conn = hub->conns;
        hub->conns = conn->next;
        sl_conn_forget_keys(conn);
        free(conn);
    }
    sl_ring_fini(&io->commands);
    sl_ring_fini(&hub->notes);
    sl_bell_fini(&io->bell);
    sl_bell_fini(&hub->owner);
    free(io->sendings);
    free(io);
}

static sl_status io_init(struct sl_io *io, const struct sl_io_config *config)
{
    struct sl_hub *hub = &io->hub;
    hub->ops = config->transport;
    hub->config = *config;
    fill_defaults(&hub->config);
    SL_TRY(sl_bell_init(&io->bell));
    SL_TRY(sl_bell_init(&hub->owner));
    SL_TRY(sl_ring_init(&io->commands, RING_ITEMS, sizeof(struct command)));
    SL_TRY(sl_ring_init(&hub->notes, RING_ITEMS, sizeof(struct sl_note)));
    SL_TRY(sl_random_bytes(&hub->jitter.seed, sizeof hub->jitter.seed));
    io->sendings = malloc(SL_SENDS_MAX * sizeof *io->sendings); /* each is cleared when it is used */
    return io->sendings ? SL_OK : SL_E_NOMEM;
}

/* Signals are the main thread's; the I/O thread and what its library starts are created without
 * them. */
static int start_thread(struct sl_io *io)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&io->thread, NULL, io_main, io);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static sl_status io_make(struct sl_io **out, const struct sl_io_config *config, struct sl_err *err)
{
    size_t bytes = (sizeof(struct sl_io) + 63) / 64 * 64;
    struct sl_io *io = aligned_alloc(64, bytes);
    if (!io)
        return sl_fail(err, SL_E_NOMEM, "out of memory for an I/O thread");
    memset(io, 0, bytes);
    io->bell.fd = io->hub.owner.fd = -1;
    sl_status status = io_init(io, config);
    if (status != SL_OK) {
        io_free(io);
        return sl_fail(
            err, status,
            "an I/O thread cannot be set up (%s); free memory, or raise the limit of open files (ulimit -n)",
            sl_status_name(status));
    }
    *out = io;
    return SL_OK;
}

sl_status sl_io_create_stepped(struct sl_io **out, const struct sl_io_config *config, uint64_t seed,
                               struct sl_err *err)
{
    struct sl_io *io;
    SL_TRY(io_make(&io, config, err));
    struct sl_hub *hub = &io->hub;
    io->stepped = true;
    hub->jitter.seed = seed;
    sl_status status = hub->ops->open(&hub->transport, hub, &hub->config, err);
    if (status != SL_OK) {
        io_free(io);
        return status;
    }
    hub->ops->where(hub->transport, &io->address, io->host, &io->port, &io->shielded);
    *out = io;
    return SL_OK;
}

int sl_io_turn(struct sl_io *io, uint64_t now_us)
{
    bool busy;
    sl_hub_turn(&io->hub, now_us / 1000u, now_us);
    do {
        busy = take_commands(io);
        busy |= progress(io);
    } while (busy);
    return sl_hub_step(&io->hub);
}

sl_status sl_io_create(struct sl_io **out, const struct sl_io_config *config, struct sl_err *err)
{
    struct sl_io *io;
    SL_TRY(io_make(&io, config, err));
    sl_status status = SL_OK;
    sem_init(&io->started, 0, 0);
    io->start_err = err;
    int error = start_thread(io);
    if (error) {
        status = sl_fail(err, SL_E_UNAVAILABLE,
                         "an I/O thread cannot be started (%s); raise the limit of processes (ulimit -u)",
                         strerror(error));
    } else {
        while (sem_wait(&io->started) != 0)
            assert(errno == EINTR);
        status = io->start_status;
        io->start_err = NULL;
        if (status != SL_OK)
            pthread_join(io->thread, NULL);
    }
    sem_destroy(&io->started);
    if (status != SL_OK) {
        io_free(io);
        return status;
    }
    *out = io;
    return SL_OK;
}

bool sl_io_address_set(struct sl_io_address *address, const void *bytes, size_t n)
{
    memset(address, 0, sizeof *address);
    if (n == 0 || n > sizeof address->bytes)
        return false;
    address->n = (uint16_t)n;
    memcpy(address->bytes, bytes, n);
    return true;
}

const struct sl_io_address *sl_io_address(const struct sl_io *io)
{
    return &io->address;
}

const char *sl_io_host(const struct sl_io *io)
{
    return io->host;
}

bool sl_io_is_shielded(const struct sl_io *io)
{
    return io->shielded;
}

uint16_t sl_io_port(const struct sl_io *io)
{
    return io->port;
}

void sl_io_destroy(struct sl_io *io)
{
    if (!io)
        return;
    if (io->stepped) {
        struct command c;
        close_transport(&io->hub);
        while (sl_ring_pop(&io->commands, &c) == SL_OK)
            if (c.kind == COMMAND_END) /* nobody has this link any more but its last command */
                link_free(c.link);
        io_free(io);
        return;
    }
    atomic_store(&io->stop, true);
    sl_bell_ring(&io->bell);
    pthread_join(io->thread, NULL);
    io_free(io);
}

/* ---- The owner's calls ---- */

static void command(struct sl_io *io, const struct command *c)
{
    sl_status pushed = sl_ring_push(&io->commands, c);
    assert(pushed == SL_OK); /* the number of commands under way is bounded */
    (void)pushed;
    sl_bell_ring(&io->bell);
}

static struct sl_link *find_link(const struct sl_io *io, uint64_t id)
{
    for (uint32_t i = 0; i < SL_LINKS_MAX; i++) {
        struct sl_link *link = io->links[i];
        if (link && link->config.id == id && (!link->down_noted || link->down_waiting))
            return link;
    }
    return NULL;
}

static sl_status link_create(struct sl_link **out, const struct sl_link_config *config, uint32_t entry)
{
    struct sl_link *link = calloc(1, sizeof *link);
    if (!link)
        return SL_E_NOMEM;
    link->config = *config;
    link->entry = entry;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), total;
    link->stride = (config->slot_bytes + 63) / 64 * 64; /* checked by the caller: no wrap */
    if (__builtin_mul_overflow(link->stride, config->n_slots, &total)) {
        free(link);
        return SL_E_INVALID;
    }
    link->memory_bytes = (total + page - 1) / page * page;
    link->memory = aligned_alloc(page, link->memory_bytes);
    if (!link->memory) {
        free(link);
        return SL_E_NOMEM;
    }
    *out = link;
    return SL_OK;
}

static sl_status link_add(struct sl_io *io, const struct sl_link_config *config, bool dials,
                          const struct sl_io_address *peer)
{
    if (config->n_slots < 1 || config->n_slots > SL_SLOTS_MAX || config->slot_bytes < 1 ||
        config->slot_bytes > (size_t)1 << 46 || peer->n == 0 || peer->n > sizeof peer->bytes ||
        (config->rows_beside && (!io->hub.ops->beside || config->auth == SL_LINK_AUTH_PAYLOAD)))
        return SL_E_INVALID;
    if (find_link(io, config->id))
        return SL_E_EXISTS;
    uint32_t entry = 0;
    while (entry < SL_LINKS_MAX && io->links[entry])
        entry++;
    if (entry == SL_LINKS_MAX)
        return SL_E_EXHAUSTED;
    struct sl_link *link;
    SL_TRY(link_create(&link, config, entry));
    link->dials = dials;
    link->peer = *peer;
    io->links[entry] = link;
    tell_memory(io, link, true);
    command(io, &(struct command){.kind = COMMAND_BEGIN, .link = link});
    return SL_OK;
}

sl_status sl_io_accept(struct sl_io *io, const struct sl_link_config *config,
                       const struct sl_io_address *peer)
{
    return link_add(io, config, false, peer);
}

sl_status sl_io_connect(struct sl_io *io, const struct sl_link_config *config,
                        const struct sl_io_address *peer)
{
    return link_add(io, config, true, peer);
}

void sl_io_drop(struct sl_io *io, uint64_t id)
{
    struct sl_link *link = find_link(io, id);
    if (!link || link->dropped || link->down_noted)
        return;
    link->dropped = true;
    command(io, &(struct command){.kind = COMMAND_DROP, .link = link});
}

uint64_t sl_io_silent(const struct sl_io *io)
{
    for (uint32_t i = 0; i < SL_LINKS_MAX; i++)
        if (io->links[i] && atomic_load_explicit(&io->links[i]->silent, memory_order_relaxed))
            return io->links[i]->config.id;
    return 0;
}

static bool knows(const struct sl_link *link, const struct sl_link *peer)
{
    return link->granted_to_us == peer->granted_to_peer && link->confirmed == peer->delivered &&
           link->sent == link->confirmed;
}

bool sl_io_agrees(const struct sl_io *a, const struct sl_io *b, uint64_t id)
{
    const struct sl_link *at_a = find_link(a, id), *at_b = find_link(b, id);
    if (!at_a || !at_b || at_a->state != SL_LINK_UP || at_b->state != SL_LINK_UP)
        return true;
    return knows(at_a, at_b) && knows(at_b, at_a);
}

bool sl_io_is_silent(const struct sl_io *io, uint64_t id)
{
    const struct sl_link *link = find_link(io, id);
    return link && atomic_load_explicit(&link->silent, memory_order_relaxed);
}

struct sl_link_clock sl_io_clock(const struct sl_io *io, uint64_t id)
{
    const struct sl_link *link = find_link(io, id);
    if (!link || !atomic_load_explicit(&link->clock_known, memory_order_acquire))
        return (struct sl_link_clock){0};
    return (struct sl_link_clock){
        .known = true,
        .offset_us = atomic_load_explicit(&link->clock_offset_us, memory_order_relaxed),
        .rtt_us = atomic_load_explicit(&link->clock_rtt_us, memory_order_relaxed),
    };
}

sl_status sl_io_send(struct sl_io *io, uint64_t id, const struct sl_wire *wire, const void *payload,
                     uint64_t tag)
{
    bool fresh = !io->free_sendings && io->n_sendings < SL_SENDS_MAX;
    struct sl_sending *sending = fresh ? &io->sendings[io->n_sendings] : io->free_sendings;
    if (!sending)
        return SL_AGAIN;
    uint8_t header[SL_WIRE_BYTES];
    struct sl_wire checked;
    sl_wire_pack(header, wire);
    const char *bad = sl_wire_unpack(&checked, header, sizeof header, &io->hub.config.limits);
    if (!bad && wire->kind < SL_WIRE_ORDER)
        bad = "the kind belongs to the transport";
    if (!bad && !(wire->flags & SL_WIRE_HAS_CHECKSUM))
        bad = "nobody has sealed it (sl_frame_seal)";
    if (bad) {
        sl_log_error("a frame of kind %u is not sent: %s; report this", (unsigned)wire->kind, bad);
        return SL_E_INVALID;
    }
    if (fresh)
        io->n_sendings++;
    else
        io->free_sendings = sending->next;
    memset(sending, 0, sizeof *sending);
    sending->link = find_link(io, id);
    sending->link_id = id;
    sending->wire = *wire;
    sending->payload = payload;
    sending->tag = tag;
    if (sending->link)
        sending->link->n_out++;
    command(io, &(struct command){.kind = COMMAND_SEND, .link = sending->link, .sending = sending});
    return SL_OK;
}

/* The owner is through with a link: LINK_DOWN was given out and no slot is held. */
static void end_if_free(struct sl_io *io, struct sl_link *link)
{
    if (!link->down_noted || link->down_waiting || link->held)
        return;
    io->links[link->entry] = NULL;
    tell_memory(io, link, false);
    command(io, &(struct command){.kind = COMMAND_END, .link = link});
}

void sl_io_release(struct sl_io *io, uint64_t id, uint32_t slot)
{
    uint32_t entry = slot / SL_SLOTS_MAX, index = slot % SL_SLOTS_MAX;
    struct sl_link *link = entry < SL_LINKS_MAX ? io->links[entry] : NULL;
    assert(link && link->config.id == id && (link->held >> index & 1)); /* held, and not given back */
    link->held &= ~(UINT64_C(1) << index);
    command(io, &(struct command){.kind = COMMAND_RELEASE, .link = link, .slot = index});
    end_if_free(io, link);
}

static void down_event(struct sl_io *io, struct sl_link *link, struct sl_io_event *event)
{
    *event = (struct sl_io_event){.kind = SL_IO_LINK_DOWN,
                                  .status = link->down_status,
                                  .link = link->config.id,
                                  .reason = link->down_reason};
    end_if_free(io, link);
}

/* false: a LINK_DOWN that has to wait for tags. */
static bool event_of_note(struct sl_io *io, const struct sl_note *n, struct sl_io_event *event)
{
    struct sl_link *link = n->link;
    *event = (struct sl_io_event){.status = n->status, .link = link ? link->config.id : 0};
    switch (n->kind) {
    case SL_NOTE_UP:
        event->kind = SL_IO_LINK_UP;
        break;
    case SL_NOTE_DOWN:
        link->down_noted = true;
        link->down_status = n->status;
        link->down_reason = n->reason;
        if (link->n_out > 0) {
            link->down_waiting = true;
            io->n_down_waiting++;
            return false;
        }
        down_event(io, link, event);
        break;
    case SL_NOTE_SENT:
        event->kind = SL_IO_SENT;
        event->link = n->sending->link_id;
        event->tag = n->sending->tag;
        event->wire = n->sending->wire;
        if (link)
            link->n_out--;
        n->sending->next = io->free_sendings;
        io->free_sendings = n->sending;
        break;
    case SL_NOTE_FRAME:
        event->kind = SL_IO_FRAME;
        event->wire = n->slot->landing.wire;
        event->wire.flags &=
            (uint16_t)~SL_WIRE_HAS_MAC; /* it is of that line, and of no interest beyond it */
        event->wire.mac_number = 0;
        event->payload = n->slot->landing.to;
        event->slot = link->entry * SL_SLOTS_MAX + n->slot->index;
        event->at_us = n->slot->at_us;
        link->held |= UINT64_C(1) << n->slot->index;
        break;
    }
    return true;
}

static bool take_event(struct sl_io *io, struct sl_io_event *event)
{
    for (uint32_t i = 0; io->n_down_waiting > 0 && i < SL_LINKS_MAX; i++) {
        struct sl_link *link = io->links[i];
        if (link && link->down_waiting && link->n_out == 0) {
            link->down_waiting = false;
            io->n_down_waiting--;
            down_event(io, link, event);
            return true;
        }
    }
    struct sl_note n;
    while (sl_ring_pop(&io->hub.notes, &n) == SL_OK)
        if (event_of_note(io, &n, event))
            return true;
    _Atomic bool *changed = &io->hub.silence_changed;
    if (atomic_load_explicit(changed, memory_order_relaxed) && atomic_exchange(changed, false)) {
        *event = (struct sl_io_event){.kind = SL_IO_SILENCE};
        return true;
    }
    if (atomic_load_explicit(&io->nudged, memory_order_relaxed) && atomic_exchange(&io->nudged, false)) {
        *event = (struct sl_io_event){.kind = SL_IO_NUDGE};
        return true;
    }
    return false;
}

sl_status sl_io_poll(struct sl_io *io, struct sl_io_event *event, int timeout_ms)
{
    struct sl_bell *bell = &io->hub.owner;
    uint64_t until_ms = timeout_ms > 0 ? clock_ms() + (uint64_t)timeout_ms : 0;
    for (;;) {
        if (take_event(io, event))
            return SL_OK;
        int left_ms = timeout_ms;
        if (timeout_ms > 0) {
            uint64_t now_ms = clock_ms();
            left_ms = now_ms < until_ms ? (int)(until_ms - now_ms) : 0;
        }
        if (left_ms == 0)
            return SL_AGAIN;
        sl_bell_doze(bell);
        if (ring_empty(&io->hub.notes) && !atomic_load(&io->nudged) &&
            !atomic_load(&io->hub.silence_changed)) {
            struct pollfd fd = {.fd = bell->fd, .events = POLLIN};
            poll(&fd, 1, left_ms);
        }
        sl_bell_hush(bell);
    }
}

void sl_io_nudge(struct sl_io *io)
{
    atomic_store(&io->nudged, true);
    sl_bell_ring(&io->hub.owner);
}

static uint64_t read_count(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void sl_io_stats(const struct sl_io *io, struct sl_io_stats *stats)
{
    const struct sl_hub *hub = &io->hub;
    *stats = (struct sl_io_stats){.bytes_sent = read_count(&hub->bytes_sent),
                                  .bytes_received = read_count(&hub->bytes_received),
                                  .frames_sent = read_count(&hub->frames_sent),
                                  .frames_received = read_count(&hub->frames_received),
                                  .links_up = read_count(&hub->links_up)};
}

void sl_io_fault_corrupt(struct sl_io *io, uint32_t n_frames)
{
    atomic_store(&io->hub.fault_corrupt, n_frames);
}

bool sl_io_fault_damage(struct sl_io *io, uint64_t link, enum sl_wire_kind kind, enum sl_damage where,
                        uint32_t at)
{
    struct sl_hub *hub = &io->hub;
    if (atomic_load_explicit(&hub->fault_armed, memory_order_acquire))
        return false;
    hub->fault = (struct sl_fault){.link = link, .kind = kind, .where = where, .at = at};
    atomic_store_explicit(&hub->fault_armed, true, memory_order_release);
    return true;
}

void sl_io_fault_mute(struct sl_io *io, bool mute)
{
    atomic_store(&io->hub.fault_mute, mute);
}

void sl_io_fault_cut(struct sl_io *io)
{
    atomic_store(&io->hub.fault_cut, true);
    sl_bell_ring(&io->bell);
}

uint64_t sl_io_refusals(const struct sl_io *io)
{
    return read_count(&io->hub.refusals);
}
