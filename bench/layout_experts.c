/* A node of experts that are sharded: of each layer it has some, and of each step of the prompt some rows. A step is as many rows
 * as all nodes have at once; of each layer
 *
 *   append | K and V of the own rows to everybody | attend, choose | rows to their experts | experts | and back | sum
 *
 * so three times all wait for all. Weights are mapped whole and pages are kept of all rows, since what is measured is time; what a
 * node reads of the weights is its own part. */
#include "bench/layout_impl.h"
#include "bench/layout_rows.h"
#include "bench/layout_share.h"
#include "pipeline/stage/split.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum frame_kind { FRAME_PAGES, FRAME_ROWS, FRAME_BACK, FRAME_KINDS };

struct experts_node {
    float *x;
    uint32_t *ids;
    struct sl_layout_rows rows;
    bool with_rows;
    struct sl_attention_slice slices[SL_MAX_BATCH];
    struct sl_device_chunk chunk;
    uint32_t step_page, n_step_pages; /* of the sequence */
    size_t page_layer_bytes;
};

static uint32_t step_rows(const struct sl_layout_world *world)
{
    return world->config.rows * world->config.n_nodes;
}

static struct sl_experts_dims dims_of(const struct sl_shape *s)
{
    return (struct sl_experts_dims){
        .d_model = s->d_model, .n_experts = s->n_experts, .top_k = s->top_k, .d_expert = s->d_expert};
}

/* The most of one layer of a page: f32, before the layout rounds it up. */
static size_t page_layer_most(const struct sl_shape *s)
{
    return 2 * (size_t)s->n_kv * (SL_PAGE * s->d_head * sizeof(float) + 4096);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t experts_frame_bytes(const struct sl_layout_world *world)
{
    const struct sl_layout_config *c = &world->config;
    struct sl_experts_dims dims = dims_of(world->shape);
    size_t pages = c->rows / SL_PAGE * page_layer_most(world->shape);
    size_t rows = sl_layout_rows_bytes(&dims, c->n_nodes, c->rows);
    return SL_LAYOUT_HEAD_BYTES +
           larger(larger(pages, rows), sl_layout_back_bytes(&dims, c->n_nodes, c->rows, c->combine));
}

static sl_status experts_open(struct sl_layout_node *node, struct sl_err *err)
{
    const struct sl_layout_world *world = node->world;
    const struct sl_layout_config *c = &world->config;
    struct experts_node *state = calloc(1, sizeof *state);
    node->state = state;
    if (state) {
        state->x = aligned_alloc(64, ((size_t)c->rows * world->shape->d_model + 15) / 16 * 64);
        state->ids = calloc(c->rows, sizeof *state->ids);
    }
    if (!state || !state->x || !state->ids)
        return sl_fail(err, SL_E_NOMEM, "out of memory for %u rows; use a smaller --chunk", c->rows);
    state->page_layer_bytes = sl_stage_page_bytes(node->stage) / world->shape->n_layers;
    assert(state->page_layer_bytes <= page_layer_most(world->shape));
    state->with_rows = true;
    SL_TRY(sl_layout_rows_init(&state->rows, sl_split_experts(node->stage), c->n_nodes, node->index, c->rows,
                               c->combine, err));
    return sl_layout_buffers(node, FRAME_KINDS * c->n_nodes, experts_frame_bytes(world), err);
}

static void experts_close(struct sl_layout_node *node)
{
    struct experts_node *state = node->state;
    if (!state)
        return;
    if (state->with_rows)
        sl_layout_rows_fini(&state->rows);
    free(state->ids);
    free(state->x);
    free(state);
}

/* ---- frames: a buffer for each peer and kind, which says in its head what it is ---- */

static uint32_t buffer_of(uint32_t peer, enum frame_kind kind)
{
    return peer * FRAME_KINDS + kind;
}

static uint32_t what_of(uint32_t layer, enum frame_kind kind)
{
    return layer * FRAME_KINDS + kind;
}

/* Where the contents begin. */
static uint8_t *contents(struct sl_layout_node *node, uint32_t peer, enum frame_kind kind)
{
    return sl_layout_buffer(node, buffer_of(peer, kind)) + SL_LAYOUT_HEAD_BYTES;
}

/* ---- a step ---- */

static uint32_t owner_of(const struct sl_layout_node *node, uint32_t page) /* of the step */
{
    return sl_layout_page_owner(page, node->world->config.n_nodes);
}

static uint32_t page_tokens(const struct sl_layout_node *node, uint32_t page) /* of the sequence */
{
    uint32_t left = node->world->config.n_ids - page * SL_PAGE;
    return left < SL_PAGE ? left : SL_PAGE;
}

/* The own rows: pages that lie side by side are one slice. */
static void make_slices(struct sl_layout_node *node)
{
    struct experts_node *state = node->state;
    struct sl_device_chunk *c = &state->chunk;
    *c = (struct sl_device_chunk){.slices = state->slices, .rows = {(uintptr_t)state->x}};
    for (uint32_t p = 0; p < state->n_step_pages; p++) {
        uint32_t pos = (state->step_page + p) * SL_PAGE, n = page_tokens(node, state->step_page + p);
        if (owner_of(node, p) != node->index)
            continue;
        struct sl_attention_slice *last = c->n_slices > 0 ? &state->slices[c->n_slices - 1] : NULL;
        if (last && last->pos + last->n == pos)
            last->n += n;
        else
            state->slices[c->n_slices++] =
                (struct sl_attention_slice){c->n_rows, n, pos, node->sequence->pages, 0};
        memcpy(state->ids + c->n_rows, node->world->config.ids + pos, n * sizeof *state->ids);
        c->n_rows += n;
    }
}

static void begin_step(struct sl_layout_node *node)
{
    struct experts_node *state = node->state;
    struct sl_device *device = sl_stage_device(node->stage);
    make_slices(node);
    sl_layout_work(node);
    if (state->chunk.n_rows > 0) {
        device->ops->embed(device, state->chunk.rows, (const uint8_t *)state->ids, state->chunk.n_rows);
        device->ops->begin(device, &state->chunk);
    }
    sl_layout_worked(node, SL_TAPE_ENDS, 0);
}

/* ---- K and V ---- */

static void send_pages(struct sl_layout_node *node, uint32_t layer)
{
    struct experts_node *state = node->state;
    for (uint32_t peer = 0; peer < node->world->config.n_nodes; peer++) {
        if (peer == node->index)
            continue;
        uint8_t *at = contents(node, peer, FRAME_PAGES), *begin = at;
        sl_layout_work(node);
        for (uint32_t p = 0; p < state->n_step_pages; p++) {
            if (owner_of(node, p) != node->index)
                continue;
            const uint8_t *page = sl_stage_page_out(node->stage, node->sequence->pages[state->step_page + p]);
            memcpy(at, page + layer * state->page_layer_bytes, state->page_layer_bytes);
            at += state->page_layer_bytes;
        }
        sl_layout_worked(node, SL_TAPE_CARRY, (size_t)(at - begin));
        sl_layout_send(node, peer, buffer_of(peer, FRAME_PAGES), (size_t)(at - begin),
                       what_of(layer, FRAME_PAGES));
    }
}

static bool take_pages(struct sl_layout_node *node, uint32_t layer)
{
    struct experts_node *state = node->state;
    for (uint32_t peer = 0; peer < node->world->config.n_nodes; peer++) {
        if (peer == node->index)
            continue;
        struct sl_layout_frame frame = sl_layout_take(node, peer, what_of(layer, FRAME_PAGES));
        if (!frame.payload)
            return false;
        const uint8_t *at = frame.payload + SL_LAYOUT_HEAD_BYTES;
        sl_layout_work(node);
        for (uint32_t p = 0; p < state->n_step_pages; p++) {
            if (owner_of(node, p) != peer)
                continue;
            sl_stage_page_in(node->stage, node->sequence->pages[state->step_page + p], layer, 1, at);
            at += state->page_layer_bytes;
        }
        sl_layout_worked(node, SL_TAPE_CARRY, frame.wire.payload_bytes);
        sl_layout_give_back(node, &frame);
    }
    return true;
}

static bool attend(struct sl_layout_node *node, uint32_t layer)
{
    struct experts_node *state = node->state;
    bool any = state->chunk.n_rows > 0;
    sl_layout_work(node);
    if (any)
        sl_split_append(node->stage, layer);
    sl_layout_worked(node, SL_TAPE_ATTENTION, state->chunk.n_rows);
    send_pages(node, layer);
    if (!take_pages(node, layer))
        return false;
    sl_layout_work(node);
    if (any)
        sl_split_attend(node->stage, layer);
    sl_layout_worked(node, SL_TAPE_ATTENTION, state->chunk.n_rows);
    return true;
}

/* ---- rows ---- */

/* Of the own node the frame is made, too, and goes nowhere. */
static void send_rows(struct sl_layout_node *node, uint32_t layer, const struct sl_experts_weights *w,
                      size_t *own_bytes)
{
    struct experts_node *state = node->state;
    sl_layout_work(node);
    sl_layout_deal(&state->rows, state->chunk.n_rows);
    sl_layout_worked(node, SL_TAPE_ROUTE, 0);
    for (uint32_t peer = 0; peer < node->world->config.n_nodes; peer++) {
        uint8_t *to = contents(node, peer, FRAME_ROWS);
        sl_layout_work(node);
        size_t bytes = sl_layout_pack_rows(&state->rows, w, peer, to);
        sl_layout_worked(node, SL_TAPE_PACK, bytes);
        if (peer == node->index)
            *own_bytes = bytes;
        else
            sl_layout_send(node, peer, buffer_of(peer, FRAME_ROWS), bytes, what_of(layer, FRAME_ROWS));
    }
}

static bool take_rows(struct sl_layout_node *node, uint32_t layer, const struct sl_experts_weights *w,
                      size_t own_bytes)
{
    struct experts_node *state = node->state;
    sl_layout_guests_begin(&state->rows);
    for (uint32_t peer = 0; peer < node->world->config.n_nodes; peer++) {
        struct sl_layout_frame frame = {.payload = NULL};
        const uint8_t *from = contents(node, node->index, FRAME_ROWS);
        size_t bytes = own_bytes;
        if (peer != node->index) {
            frame = sl_layout_take(node, peer, what_of(layer, FRAME_ROWS));
            if (!frame.payload)
                return false;
            from = frame.payload + SL_LAYOUT_HEAD_BYTES;
            bytes = (size_t)frame.wire.payload_bytes - SL_LAYOUT_HEAD_BYTES;
        }
        sl_layout_work(node);
        bool good = sl_layout_guests_add(&state->rows, w, peer, from, bytes);
        sl_layout_worked(node, SL_TAPE_PACK, bytes);
        if (peer != node->index)
            sl_layout_give_back(node, &frame);
        if (!good) {
            sl_layout_fail(node, "rows that came are not for the experts here");
            return false;
        }
    }
    return true;
}

static void serve(struct sl_layout_node *node, uint32_t layer, const struct sl_experts_weights *w)
{
    struct experts_node *state = node->state;
    uint32_t pairs = state->rows.n_guest_pairs;
    sl_layout_work(node);
    sl_layout_guests_group(&state->rows);
    if (pairs > 0)
        sl_experts_serve(&state->rows.guest, w);
    sl_layout_worked(node, SL_TAPE_EXPERTS, pairs);
    for (uint32_t peer = 0; peer < node->world->config.n_nodes; peer++) {
        uint8_t *to = contents(node, peer, FRAME_BACK);
        sl_layout_work(node);
        size_t bytes = sl_layout_pack_back(&state->rows, peer, to);
        sl_layout_worked(node, SL_TAPE_BACK, bytes);
        if (peer != node->index)
            sl_layout_send(node, peer, buffer_of(peer, FRAME_BACK), bytes, what_of(layer, FRAME_BACK));
    }
}

static bool sum(struct sl_layout_node *node, uint32_t layer)
{
    struct experts_node *state = node->state;
    uint32_t n_nodes = node->world->config.n_nodes;
    struct sl_layout_frame frames[SL_LAYOUT_NODES_MAX];
    const uint8_t *back[SL_LAYOUT_NODES_MAX];
    for (uint32_t peer = 0; peer < n_nodes; peer++) {
        if (peer == node->index) {
            back[peer] = contents(node, peer, FRAME_BACK);
            continue;
        }
        frames[peer] = sl_layout_take(node, peer, what_of(layer, FRAME_BACK));
        if (!frames[peer].payload)
            return false;
        back[peer] = frames[peer].payload + SL_LAYOUT_HEAD_BYTES;
    }
    sl_layout_work(node);
    sl_layout_sum(&state->rows, state->x, state->chunk.n_rows, back);
    sl_layout_worked(node, SL_TAPE_SUM, state->chunk.n_rows);
    for (uint32_t peer = 0; peer < n_nodes; peer++)
        if (peer != node->index)
            sl_layout_give_back(node, &frames[peer]);
    return true;
}

static bool feed_forward(struct sl_layout_node *node, uint32_t layer)
{
    struct experts_node *state = node->state;
    struct sl_experts *experts = sl_split_experts(node->stage);
    const struct sl_experts_weights *w = sl_split_weights(node->stage, layer);
    uint32_t n_rows = state->chunk.n_rows;
    sl_layout_work(node);
    if (n_rows > 0)
        sl_experts_choose(experts, w, state->x, n_rows);
    sl_layout_worked(node, SL_TAPE_ROUTE, n_rows);
    if (w->is_moe) {
        size_t own_bytes = 0;
        send_rows(node, layer, w, &own_bytes);
        if (!take_rows(node, layer, w, own_bytes))
            return false;
        serve(node, layer, w);
        if (!sum(node, layer))
            return false;
    }
    if (!w->has_single)
        return true;
    sl_layout_work(node);
    if (n_rows > 0)
        sl_experts_add_single(experts, w, state->x, n_rows);
    sl_layout_worked(node, SL_TAPE_SUM, n_rows);
    return true;
}

/* Whoever has the prompt's last row. */
static void end_prompt(struct sl_layout_node *node)
{
    struct experts_node *state = node->state;
    uint32_t last = state->n_step_pages - 1;
    if ((state->step_page + state->n_step_pages) * SL_PAGE < node->world->config.n_ids ||
        owner_of(node, last) != node->index)
        return;
    sl_layout_work(node);
    node->logits = sl_stage_logits(
        node->stage, state->x + (size_t)(state->chunk.n_rows - 1) * node->world->shape->d_model, 1);
    sl_layout_worked(node, SL_TAPE_ENDS, 0);
}

static void experts_run(struct sl_layout_node *node)
{
    struct experts_node *state = node->state;
    const struct sl_layout_world *world = node->world;
    uint32_t n_pages = sl_pages_of(world->config.n_ids), per_step = step_rows(world) / SL_PAGE;
    for (uint32_t page = 0; page < n_pages; page += per_step) {
        state->step_page = page;
        state->n_step_pages = n_pages - page < per_step ? n_pages - page : per_step;
        begin_step(node);
        for (uint32_t layer = 0; layer < world->shape->n_layers; layer++)
            if (!attend(node, layer) || !feed_forward(node, layer))
                return;
        end_prompt(node);
    }
}

const struct sl_layout_program sl_layout_experts = {
    .frame_bytes = experts_frame_bytes,
    .open = experts_open,
    .run = experts_run,
    .close = experts_close,
};
