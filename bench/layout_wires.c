/* The links of a layout's nodes, each with each, and what goes over them: a payload begins with what it is, so a node that is out of
 * step with another is found at once. */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/digest.h"
#include "bench/layout_impl.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { EPOCH = 1, PATIENCE_MS = 60000, LOOK_MS = 100 };

static uint64_t link_of(uint32_t a, uint32_t b)
{
    return 1 + (uint64_t)(a < b ? a : b) * SL_LAYOUT_NODES_MAX + (a < b ? b : a);
}

static uint32_t peer_of(const struct sl_layout_node *node, uint64_t link)
{
    uint32_t low = (uint32_t)((link - 1) / SL_LAYOUT_NODES_MAX),
             high = (uint32_t)((link - 1) % SL_LAYOUT_NODES_MAX);
    return low == node->index ? high : low;
}

static bool is_local(const struct sl_layout_world *world)
{
    return strcmp(world->config.transport, "local") == 0;
}

/* ---- up and down ---- */

static sl_status make_ios(struct sl_layout_world *world, struct sl_err *err)
{
    const struct sl_layout_config *c = &world->config;
    bool local = is_local(world);
    struct sl_io_config config = {.transport = local ? &sl_transport_local : &sl_transport_ucx,
                                  .address = "127.0.0.1",
                                  .thread_name = "io",
                                  .delay_us = c->real ? c->delay_us : 0,
                                  .gbit = c->real ? c->gbit : 0,
                                  .limits = {UINT64_C(1) << 32, world->shape->n_layers, UINT32_MAX}};
    if (sl_fabric_create(&world->fabric) != SL_OK)
        return sl_fail(err, SL_E_NOMEM, "out of memory for links");
    config.fabric = world->fabric;
    for (uint32_t k = 0; k < c->n_nodes; k++)
        SL_TRY(sl_io_create(&world->nodes[k].io, &config, err));
    return SL_OK;
}

static sl_status make_link(struct sl_layout_world *world, uint32_t a, uint32_t b, struct sl_err *err)
{
    struct sl_link_config link = {.id = link_of(a, b),
                                  .epoch = EPOCH,
                                  .n_slots = SL_LAYOUT_SLOTS,
                                  .slot_bytes = world->program->frame_bytes(world)};
    sl_status status = sl_random_bytes(link.key, sizeof link.key);
    if (status == SL_OK)
        status = sl_io_accept(world->nodes[a].io, &link, sl_io_address(world->nodes[b].io));
    if (status == SL_OK)
        status = sl_io_connect(world->nodes[b].io, &link, sl_io_address(world->nodes[a].io));
    if (status != SL_OK)
        return sl_fail(err, status,
                       "cannot set up links with frames of %zu bytes (%s); use a smaller --chunk",
                       link.slot_bytes, sl_status_name(status));
    return SL_OK;
}

static bool is_linked(const struct sl_layout_world *world, uint32_t a, uint32_t b) /* a < b */
{
    return world->config.kind == SL_LAYOUT_EXPERTS || b == a + 1;
}

/* Until every node has heard of all its links. */
static sl_status await_links(struct sl_layout_world *world, struct sl_err *err)
{
    uint32_t n_nodes = world->config.n_nodes, n_up = 0, n_links = 0;
    for (uint32_t a = 0; a < n_nodes; a++)
        for (uint32_t b = a + 1; b < n_nodes; b++)
            n_links += is_linked(world, a, b);
    uint64_t until_ns = sl_clock_ns() + PATIENCE_MS * UINT64_C(1000000);
    while (n_up < 2 * n_links) {
        struct sl_io_event event;
        for (uint32_t k = 0; k < n_nodes; k++)
            while (sl_io_poll(world->nodes[k].io, &event, 1) == SL_OK)
                n_up += event.kind == SL_IO_LINK_UP;
        if (sl_clock_ns() > until_ns)
            return sl_fail(err, SL_E_UNAVAILABLE, "the links of %u nodes did not come up; see the log",
                           n_nodes);
    }
    return SL_OK;
}

sl_status sl_layout_wire(struct sl_layout_world *world, struct sl_err *err)
{
    SL_TRY(make_ios(world, err));
    for (uint32_t a = 0; a < world->config.n_nodes; a++)
        for (uint32_t b = a + 1; b < world->config.n_nodes; b++)
            if (is_linked(world, a, b))
                SL_TRY(make_link(world, a, b, err));
    return await_links(world, err);
}

void sl_layout_unwire(struct sl_layout_world *world)
{
    for (uint32_t k = 0; k < world->config.n_nodes; k++)
        if (world->nodes[k].io)
            sl_io_destroy(world->nodes[k].io);
    for (uint32_t k = 0; k < world->config.n_nodes; k++) {
        struct sl_layout_node *node = &world->nodes[k];
        for (uint32_t i = 0; i < node->n_buffers; i++)
            free(node->buffers[i].data);
        free(node->buffers);
    }
    sl_fabric_destroy(world->fabric);
}

/* ---- events ---- */

void sl_layout_fail(struct sl_layout_node *node, const char *why)
{
    if (!atomic_exchange(&node->world->failed, true))
        sl_fail(&node->err, SL_E_INTERNAL, "node %u of a layout: %s", node->index, why);
}

static void take_event(struct sl_layout_node *node, const struct sl_io_event *event)
{
    if (event->kind == SL_IO_SENT) {
        node->buffers[event->tag].out = false;
        if (event->status != SL_OK)
            sl_layout_fail(node, "a frame did not arrive");
    } else if (event->kind == SL_IO_LINK_DOWN) {
        sl_layout_fail(node, "a link ended");
    } else if (event->kind == SL_IO_FRAME) {
        struct sl_layout_inbox *inbox = &node->inbox[peer_of(node, event->link)];
        assert(inbox->n < SL_LAYOUT_SLOTS);
        inbox->frames[(inbox->first + inbox->n++) % SL_LAYOUT_SLOTS] =
            (struct sl_layout_frame){event->link, event->wire, event->payload, event->slot};
    }
}

/* Waits for an event, and lets others work meanwhile. false: the world has failed. */
static bool await_event(struct sl_layout_node *node)
{
    struct sl_io_event event;
    sl_status status = sl_io_poll(node->io, &event, 0);
    while (status != SL_OK && !atomic_load(&node->world->failed)) {
        sl_layout_rest(node);
        status = sl_io_poll(node->io, &event, LOOK_MS);
    }
    if (status == SL_OK)
        take_event(node, &event);
    return !atomic_load(&node->world->failed);
}

/* ---- out ---- */

sl_status sl_layout_buffers(struct sl_layout_node *node, uint32_t n, size_t bytes, struct sl_err *err)
{
    node->buffers = calloc(n, sizeof *node->buffers);
    for (uint32_t i = 0; node->buffers && i < n; i++) {
        node->buffers[i] = (struct sl_layout_buffer){aligned_alloc(64, (bytes + 63) / 64 * 64), bytes, false};
        if (!node->buffers[i].data)
            break;
        node->n_buffers++;
    }
    if (node->n_buffers < n)
        return sl_fail(err, SL_E_NOMEM, "out of memory for frames of %zu bytes; use a smaller --chunk",
                       bytes);
    return SL_OK;
}

uint8_t *sl_layout_buffer(struct sl_layout_node *node, uint32_t buffer)
{
    assert(buffer < node->n_buffers);
    while (node->buffers[buffer].out && await_event(node))
        ;
    return node->buffers[buffer].data;
}

/* UCX knows no delay and no rate, so a frame says itself when it would be there, and who takes it waits until then: this has no
 * less of either than asked for, and what UCX takes itself is part of it. 0: as soon as it comes. */
static uint64_t there_ns(struct sl_layout_node *node, size_t bytes)
{
    const struct sl_layout_config *c = &node->world->config;
    if (!c->real || is_local(node->world))
        return 0;
    uint64_t now_ns = sl_clock_ns(), begin_ns = node->line_free_ns > now_ns ? node->line_free_ns : now_ns;
    node->line_free_ns = begin_ns + (c->gbit > 0 ? (uint64_t)((double)bytes * 8 / c->gbit) : 0);
    return node->line_free_ns + c->delay_us * UINT64_C(1000);
}

void sl_layout_send(struct sl_layout_node *node, uint32_t to, uint32_t buffer, size_t bytes, uint32_t what)
{
    uint8_t *payload = node->buffers[buffer].data;
    size_t whole = SL_LAYOUT_HEAD_BYTES + bytes;
    assert(whole <= node->buffers[buffer].bytes && whole <= UINT32_MAX);
    sl_layout_work(node);
    memset(payload, 0, SL_LAYOUT_HEAD_BYTES);
    sl_put32(payload, what);
    sl_put64(payload + 8, there_ns(node, whole + SL_WIRE_BYTES));
    struct sl_wire wire = {.kind = SL_WIRE_ORDER, .payload_bytes = whole, .meta_bytes = (uint32_t)whole};
    sl_frame_seal(&wire, payload);
    sl_layout_worked(node, SL_TAPE_CARRY, whole);
    node->buffers[buffer].out = true;
    if (sl_io_send(node->io, link_of(node->index, to), &wire, payload, buffer) != SL_OK)
        sl_layout_fail(node, "a frame is not sent");
    sl_tape_add(&node->tape, (struct sl_tape_event){.kind = SL_TAPE_SEND,
                                                    .peer = (uint16_t)to,
                                                    .amount = (uint32_t)(whole + SL_WIRE_BYTES)});
}

/* ---- in ---- */

/* A sleep ends up to a tenth of a millisecond late. */
static void await_ns(uint64_t there_ns)
{
    enum { LATE_NS = 150000 };
    for (uint64_t now_ns = sl_clock_ns(); now_ns < there_ns; now_ns = sl_clock_ns())
        if (there_ns - now_ns > LATE_NS)
            nanosleep(&(struct timespec){.tv_nsec = (long)(there_ns - now_ns - LATE_NS) % 1000000000}, NULL);
}

struct sl_layout_frame sl_layout_take(struct sl_layout_node *node, uint32_t from, uint32_t what)
{
    struct sl_layout_inbox *inbox = &node->inbox[from];
    uint64_t since_ns = sl_clock_ns();
    while (inbox->n == 0)
        if (!await_event(node))
            return (struct sl_layout_frame){0};
    struct sl_layout_frame frame = inbox->frames[inbox->first];
    await_ns(sl_get64(frame.payload + 8));
    inbox->first = (inbox->first + 1) % SL_LAYOUT_SLOTS;
    inbox->n--;
    sl_tape_add(&node->tape, (struct sl_tape_event){.kind = SL_TAPE_TAKE,
                                                    .peer = (uint16_t)from,
                                                    .ns = (double)(sl_clock_ns() - since_ns)});
    sl_layout_work(node);
    bool good = sl_frame_whole(&frame.wire, frame.payload) && sl_get32(frame.payload) == what;
    sl_layout_worked(node, SL_TAPE_CARRY, (size_t)frame.wire.payload_bytes);
    if (!good) {
        sl_layout_fail(node, "a frame is not what was waited for");
        return (struct sl_layout_frame){0};
    }
    return frame;
}

void sl_layout_give_back(struct sl_layout_node *node, const struct sl_layout_frame *frame)
{
    sl_io_release(node->io, frame->link, frame->slot);
}
