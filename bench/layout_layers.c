/* A pipeline's node: its layers over one chunk after the other, whose rows come from the node before and go to the next one, as
 * the stages of the product do it, and with their code: sl_stage_run. All rows go through the last layer, too (the product leaves
 * out those that nobody wants), as they do in the other layout. */
#include "bench/layout_impl.h"
#include <stdlib.h>
#include <string.h>

enum { BUFFERS = 4, WHAT = 0x726f7773 };

struct layers_node {
    float *x;
    struct sl_chunk chunk;
};

static void layers_narrow(const struct sl_layout_world *world, uint32_t index, struct sl_share *share)
{
    uint32_t n_layers = world->shape->n_layers, n = world->config.n_nodes;
    share->begin = n_layers * index / n;
    share->end = n_layers * (index + 1) / n;
    share->with_embed = index == 0;
    share->with_head = index + 1 == n;
}

static size_t layers_frame_bytes(const struct sl_layout_world *world)
{
    return SL_LAYOUT_HEAD_BYTES + (size_t)world->config.rows * world->shape->d_model * sizeof(float);
}

static sl_status layers_open(struct sl_layout_node *node, struct sl_err *err)
{
    const struct sl_layout_world *world = node->world;
    struct layers_node *state = calloc(1, sizeof *state);
    node->state = state;
    if (state)
        state->x = aligned_alloc(64, ((size_t)world->config.rows * world->shape->d_model + 15) / 16 * 64);
    if (!state || !state->x)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a chunk of %u rows; use a smaller --chunk",
                       world->config.rows);
    if (node->index + 1 == world->config.n_nodes)
        return SL_OK;
    return sl_layout_buffers(node, BUFFERS, layers_frame_bytes(world), err);
}

static void layers_close(struct sl_layout_node *node)
{
    struct layers_node *state = node->state;
    if (state)
        free(state->x);
    free(state);
}

/* The chunk's rows: of its ids, or from the node before. */
static bool take_rows(struct sl_layout_node *node, uint32_t pos, uint32_t n)
{
    struct layers_node *state = node->state;
    if (node->index == 0) {
        sl_layout_work(node);
        sl_stage_embed(node->stage, &state->chunk, (const uint8_t *)(node->world->config.ids + pos));
        sl_layout_worked(node, SL_TAPE_ENDS, 0);
        return true;
    }
    struct sl_layout_frame frame = sl_layout_take(node, node->index - 1, WHAT);
    if (!frame.payload)
        return false;
    size_t bytes = (size_t)n * node->world->shape->d_model * sizeof(float);
    sl_layout_work(node);
    memcpy(state->x, frame.payload + SL_LAYOUT_HEAD_BYTES, bytes);
    sl_layout_worked(node, SL_TAPE_CARRY, bytes);
    sl_layout_give_back(node, &frame);
    return true;
}

static void pass_on(struct sl_layout_node *node, uint32_t index, uint32_t n)
{
    struct layers_node *state = node->state;
    size_t bytes = (size_t)n * node->world->shape->d_model * sizeof(float);
    uint8_t *to = sl_layout_buffer(node, index % BUFFERS);
    sl_layout_work(node);
    memcpy(to + SL_LAYOUT_HEAD_BYTES, state->x, bytes);
    sl_layout_worked(node, SL_TAPE_CARRY, bytes);
    sl_layout_send(node, node->index + 1, index % BUFFERS, bytes, WHAT);
}

static void layers_run(struct sl_layout_node *node)
{
    struct layers_node *state = node->state;
    const struct sl_layout_config *c = &node->world->config;
    uint32_t d_model = node->world->shape->d_model;
    for (uint32_t pos = 0, index = 0; pos < c->n_ids; pos += c->rows, index++) {
        uint32_t n = c->n_ids - pos < c->rows ? c->n_ids - pos : c->rows;
        state->chunk.n_tokens = n;
        state->chunk.n_slices = 1;
        state->chunk.slices[0] = (struct sl_chunk_slice){node->sequence, pos, n, 0};
        state->chunk.x = state->x;
        if (!take_rows(node, pos, n))
            return;
        sl_layout_work(node);
        sl_stage_run(node->stage, &state->chunk);
        sl_layout_worked(node, SL_TAPE_STAGE, n);
        if (node->index + 1 < c->n_nodes) {
            pass_on(node, index, n);
        } else if (pos + n == c->n_ids) {
            sl_layout_work(node);
            node->logits = sl_stage_logits(node->stage, state->x + (size_t)(n - 1) * d_model, 1);
            sl_layout_worked(node, SL_TAPE_ENDS, 0);
        }
    }
}

const struct sl_layout_program sl_layout_layers = {
    .narrow = layers_narrow,
    .frame_bytes = layers_frame_bytes,
    .open = layers_open,
    .run = layers_run,
    .close = layers_close,
};
