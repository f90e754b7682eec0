/* The chief's side of the ring (decode_ring.h). */
#include "node/role/decode_ring.h"
#include <stdlib.h>
#include <string.h>

enum ring_tag { TAG_PASSED = 1, TAG_STEP, TAG_ENDS }; /* 0: of a TOKENS frame, elsewhere */

static void send_frame(struct sl_decode_ring *ring, struct sl_wire *wire, const void *payload, uint64_t tag,
                       struct sl_role_actions *actions)
{
    sl_frame_seal(wire, payload);
    sl_role_act(
        actions,
        &(struct sl_role_action){
            .kind = SL_ROLE_SEND, .link = ring->out_link, .wire = *wire, .payload = payload, .tag = tag});
}

static size_t ends_room(const struct sl_plan *plan)
{
    return ((size_t)plan->max_running + SL_ORPHANS) * SL_PARTS_END_BYTES;
}

sl_status sl_decode_ring_init(struct sl_decode_ring *ring, const struct sl_plan *plan, uint32_t node)
{
    *ring = (struct sl_decode_ring){.plan = plan};
    if (plan->n_parts < 2)
        return SL_OK;
    uint32_t d = sl_plan_decoder_of(plan, node);
    ring->out_link = sl_plan_link_id(plan, node, sl_plan_part_node(plan, d, 0));
    ring->in_link = sl_plan_link_id(plan, sl_plan_part_node(plan, d, plan->n_parts - 2), node);
    ring->step_bytes = calloc(SL_STEP_BUFFERS, sl_step_bytes(plan->step_rows));
    ring->ends_bytes = calloc(SL_ENDS_BUFFERS, ends_room(plan));
    ring->ends = calloc(plan->max_running + SL_ORPHANS, sizeof *ring->ends);
    bool whole = ring->step_bytes && ring->ends_bytes && ring->ends;
    for (uint32_t i = 0; i < plan->n_parts; i++) {
        ring->steps[i].rows = calloc(plan->step_rows, sizeof *ring->steps[i].rows);
        whole = whole && ring->steps[i].rows;
    }
    for (uint32_t i = 0; i < SL_STEP_BUFFERS; i++)
        ring->free_steps[ring->n_free_steps++] = i;
    for (uint32_t i = 0; i < SL_ENDS_BUFFERS; i++)
        ring->free_ends[ring->n_free_ends++] = i;
    return whole ? SL_OK : SL_E_NOMEM;
}

void sl_decode_ring_free(struct sl_decode_ring *ring)
{
    free(ring->step_bytes);
    free(ring->ends_bytes);
    free(ring->ends);
    for (uint32_t i = 0; i < SL_MAX_PARTS; i++)
        free(ring->steps[i].rows);
}

void sl_decode_ring_pass(struct sl_decode_ring *ring, const struct sl_io_event *frame,
                         struct sl_role_actions *actions)
{
    struct sl_wire wire = frame->wire;
    send_frame(ring, &wire, frame->payload, sl_role_tag(TAG_PASSED, frame->slot), actions);
}

/* ---- steps ---- */

void sl_decode_ring_begin(struct sl_decode_ring *ring, const struct sl_step_row *rows, uint32_t n,
                          uint32_t n_sharing, uint64_t now_us, struct sl_role_actions *actions)
{
    struct sl_begun_step *step = &ring->steps[ring->begun % ring->plan->n_parts];
    uint32_t buffer = ring->free_steps[--ring->n_free_steps];
    size_t bytes = sl_step_bytes(ring->plan->step_rows);
    uint8_t *at = ring->step_bytes + buffer * bytes;
    step->number = ring->begun++;
    step->n = n;
    step->n_sharing = n_sharing;
    step->begun_us = now_us;
    memcpy(step->rows, rows, n * sizeof *rows);
    sl_step_pack(at, &(struct sl_step){step->number, n, step->rows}, ring->plan->step_rows);
    struct sl_wire wire = {.kind = SL_WIRE_STEP, .payload_bytes = bytes, .meta_bytes = (uint32_t)bytes};
    send_frame(ring, &wire, at, sl_role_tag(TAG_STEP, buffer), actions);
}

/* Rows of `step` are some of those that were begun, in the same order. */
static bool is_of(const struct sl_step *step, const struct sl_begun_step *begun)
{
    uint32_t i = 0;
    for (uint32_t j = 0; i < step->n && j < begun->n; j++)
        i += step->rows[i].seq == begun->rows[j].seq && step->rows[i].pos == begun->rows[j].pos;
    return i == step->n;
}

const struct sl_begun_step *sl_decode_ring_returned(struct sl_decode_ring *ring,
                                                    const struct sl_io_event *frame, struct sl_step *step,
                                                    const char **bad)
{
    const struct sl_plan *plan = ring->plan;
    struct sl_step_limits limits = {plan->step_rows, plan->context_tokens, plan->vocab};
    *bad = sl_step_unpack(step, frame->payload, frame->wire.meta_bytes, &limits);
    if (*bad)
        return NULL;
    const struct sl_begun_step *begun = &ring->steps[ring->back % plan->n_parts];
    if (ring->back == ring->begun || step->number != ring->back || !is_of(step, begun))
        *bad = "it is not the step that is to come back next";
    else if (!sl_step_has_rows(step, &frame->wire, plan->d_model))
        *bad = "rows do not fit the step";
    else
        ring->back++;
    return *bad ? NULL : begun;
}

/* ---- ends ---- */

void sl_decode_ring_end(struct sl_decode_ring *ring, const struct sl_parts_end *end, bool is_orphan)
{
    assert(ring->n_ends < ring->plan->max_running + SL_ORPHANS);
    ring->ends[ring->n_ends++] = *end;
    ring->n_orphans += is_orphan;
}

void sl_decode_ring_send_ends(struct sl_decode_ring *ring, struct sl_role_actions *actions)
{
    if (!sl_decode_ring_any_to_send(ring))
        return;
    uint32_t buffer = ring->free_ends[--ring->n_free_ends];
    uint8_t *at = ring->ends_bytes + buffer * ends_room(ring->plan);
    struct sl_cursor c = sl_cursor_over(at, ends_room(ring->plan));
    for (uint32_t i = 0; i < ring->n_ends; i++)
        sl_parts_end_put(&c, &ring->ends[i]);
    assert(!c.bad);
    ring->n_ends = ring->n_orphans = 0;
    struct sl_wire wire = {.kind = SL_WIRE_ENDS, .payload_bytes = (uint64_t)(c.at - at)};
    wire.meta_bytes = (uint32_t)wire.payload_bytes;
    send_frame(ring, &wire, at, sl_role_tag(TAG_ENDS, buffer), actions);
}

bool sl_decode_ring_sent(struct sl_decode_ring *ring, uint64_t tag, uint32_t *slot)
{
    uint32_t value = (uint32_t)tag;
    *slot = SL_NO_SLOT;
    switch (tag >> 56) {
    case TAG_PASSED:
        *slot = value;
        return true;
    case TAG_STEP:
        ring->free_steps[ring->n_free_steps++] = value;
        return true;
    case TAG_ENDS:
        ring->free_ends[ring->n_free_ends++] = value;
        return true;
    }
    return false;
}
