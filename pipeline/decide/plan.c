/* The plan of plan.h: splits, sizes and links as arithmetic. */
#include "pipeline/decide/plan.h"
#include "pipeline/decide/layers.h"
#include "pipeline/record/messages.h"
#include "pipeline/record/parts.h"
#include <stdio.h>

static uint32_t default_chunk(uint32_t prompt_tokens)
{
    uint32_t chunk = sl_pages_of((prompt_tokens + 7) / 8) * SL_PAGE;
    if (chunk < SL_PAGE)
        chunk = SL_PAGE;
    return chunk > SL_MAX_CHUNK ? SL_MAX_CHUNK : chunk;
}

static sl_status check_options(const struct sl_plan_model *model, const struct sl_plan_options *o,
                               struct sl_err *err)
{
    if (o->n_stages == 0 || o->n_stages > model->n_layers || o->n_stages > SL_MAX_STAGES)
        return sl_fail(err, SL_E_CONFIG, "%u stages cannot share %u layers; ask for 1 to %u stages",
                       o->n_stages, model->n_layers,
                       model->n_layers < SL_MAX_STAGES ? model->n_layers : SL_MAX_STAGES);
    if (o->context_tokens > model->max_pos)
        return sl_fail(err, SL_E_CONFIG,
                       "a context of %u tokens is more than the model's %u; ask for at most that, or add "
                       "the rope_scaling of its card to config.json",
                       o->context_tokens, model->max_pos);
    if (o->chunk_tokens > SL_MAX_CHUNK_ASKED)
        return sl_fail(err, SL_E_CONFIG,
                       "a chunk of %u tokens is more than the %u that buffers are planned for; ask for less",
                       o->chunk_tokens, SL_MAX_CHUNK_ASKED);
    if (o->max_prefill > SL_MAX_BATCH)
        return sl_fail(
            err, SL_E_CONFIG,
            "%u prompts prefilled at once are more than the %u that a stage has tables for; ask for less",
            o->max_prefill, SL_MAX_BATCH);
    if (o->max_running > SL_MAX_BATCH)
        return sl_fail(err, SL_E_CONFIG,
                       "%u answers at once are more than the %u that a decode step can batch; ask for less",
                       o->max_running, SL_MAX_BATCH);
    if (o->n_decoders > SL_MAX_DECODERS || o->max_decoders > SL_MAX_DECODERS)
        return sl_fail(err, SL_E_CONFIG,
                       "%u decode workers are more than the %d that there are places for; ask for less",
                       o->n_decoders > o->max_decoders ? o->n_decoders : o->max_decoders, SL_MAX_DECODERS);
    if (o->max_decoders && o->max_decoders < o->n_decoders)
        return sl_fail(
            err, SL_E_CONFIG,
            "%u decode workers are to be there, and there are places for %u; ask for as many places at least",
            o->n_decoders, o->max_decoders);
    if (sl_rows_go_beside(o->rows) && !sl_rows_may_go_beside(model->d_model))
        return sl_fail(
            err, SL_E_CONFIG,
            "rows of %u numbers cannot go by %s, since a GPU sums them up by four; choose --rows staged",
            model->d_model, sl_rows_name(o->rows));
    uint32_t most = model->n_layers < SL_MAX_PARTS ? model->n_layers : SL_MAX_PARTS;
    if (o->n_parts > most)
        return sl_fail(err, SL_E_CONFIG,
                       "a decode worker of %u parts cannot share %u layers; ask for 1 to %u decode stages",
                       o->n_parts, model->n_layers, most);
    return SL_OK;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Equal, as all nodes are thought to be alike, or as somebody said who knows better. */
static sl_status cut_stages(struct sl_plan *plan, const struct sl_plan_options *o, struct sl_err *err)
{
    uint64_t sum = 0;
    for (uint32_t k = 0; o->layers && k < plan->n_stages; k++) {
        sum += o->layers[k];
        if (o->layers[k] == 0)
            return sl_fail(err, SL_E_CONFIG, "a cut leaves stage %u without a layer; give each at least one",
                           k);
    }
    if (o->layers && sum != plan->n_layers)
        return sl_fail(
            err, SL_E_CONFIG,
            "a cut gives the stages %llu layers together, and the model has %u; `sluice plan` finds one",
            (unsigned long long)sum, plan->n_layers);
    sl_layers_equal(plan->begin, plan->n_layers, plan->n_stages);
    for (uint32_t k = 0; o->layers && k < plan->n_stages; k++)
        plan->begin[k + 1] = plan->begin[k] + o->layers[k];
    return SL_OK;
}

/* Equal cuts; what goes around in the ring of the parts. */
static void cut_decoders(struct sl_plan *plan)
{
    sl_layers_equal(plan->part_begin, plan->n_layers, plan->n_parts);
    plan->step_rows = (plan->max_running + plan->n_parts - 1) / plan->n_parts;
    size_t rows = (size_t)plan->step_rows * plan->d_model * sizeof(float);
    size_t ends = ((size_t)plan->max_running + SL_ORPHANS) * SL_PARTS_END_BYTES;
    plan->ring_bytes = larger(larger(plan->adopt_bytes, plan->tokens_bytes),
                              larger(sl_step_bytes(plan->step_rows) + rows, larger(ends, SL_SPOILED_BYTES)));
}

/* An io has a bound for its links: a stage has one to each part with layers of it, a part one to each such stage. */
static sl_status check_links(const struct sl_plan *plan, struct sl_err *err)
{
    struct sl_plan_link links[SL_MAX_LINKS];
    uint32_t n = sl_plan_links(plan, links), count[1 + SL_MAX_STAGES + SL_MAX_DECODERS * SL_MAX_PARTS] = {0};
    for (uint32_t i = 0; i < n; i++)
        if (++count[links[i].from] > SL_IO_LINKS || ++count[links[i].to] > SL_IO_LINKS)
            return sl_fail(err, SL_E_CONFIG,
                           "with %u stages and places for %u decode workers of %u parts a node has more than "
                           "%d links; ask for fewer places or parts",
                           plan->n_stages, plan->max_decoders, plan->n_parts, SL_IO_LINKS);
    return SL_OK;
}

sl_status sl_plan_make(struct sl_plan *plan, const struct sl_plan_model *model,
                       const struct sl_plan_options *o, struct sl_err *err)
{
    SL_TRY(check_options(model, o, err));
    *plan = (struct sl_plan){.epoch = o->epoch,
                             .n_stages = o->n_stages,
                             .n_layers = model->n_layers,
                             .n_decoders = o->n_decoders,
                             .max_decoders = o->max_decoders ? o->max_decoders : o->n_decoders,
                             .n_parts = o->n_parts ? o->n_parts : 1,
                             .kv_dtype = o->kv_dtype,
                             .profile = o->profile,
                             .link_auth = o->link_auth,
                             .rows = o->rows,
                             .rows_from = o->rows_from ? o->rows_from : SL_ROWS_BESIDE_FROM,
                             .chunk_tokens = o->chunk_tokens,
                             .d_model = model->d_model,
                             .vocab = model->vocab};
    plan->max_running = o->max_running ? o->max_running : SL_DEFAULT_RUNNING;
    plan->max_prefill = plan->max_running > SL_LEAST_PREFILL ? plan->max_running : SL_LEAST_PREFILL;
    if (o->max_prefill)
        plan->max_prefill = o->max_prefill;
    plan->context_tokens = o->context_tokens ? o->context_tokens : model->max_pos;
    plan->max_chunk = o->chunk_tokens ? o->chunk_tokens : default_chunk(plan->context_tokens);
    if (plan->max_chunk > plan->context_tokens)
        plan->max_chunk = plan->context_tokens;
    uint64_t tokens = o->kv_tokens, ample = plan->context_tokens > 131072 ? plan->context_tokens : 131072;
    if (tokens == 0) {
        tokens = (uint64_t)plan->max_running * sl_pages_of(plan->context_tokens) * SL_PAGE;
        tokens = tokens < ample ? tokens : ample;
    }
    if (tokens < plan->context_tokens || tokens / SL_PAGE >= UINT32_MAX / 2)
        return sl_fail(err, SL_E_CONFIG,
                       "a KV pool of %llu tokens cannot hold one context of %u; ask for at least that",
                       (unsigned long long)tokens, plan->context_tokens);
    plan->n_pages = (uint32_t)((tokens + SL_PAGE - 1) / SL_PAGE);
    plan->kv_layer_bytes = model->kv_layer_bytes;
    SL_TRY(cut_stages(plan, o, err));
    struct sl_order_limits limits = sl_plan_order_limits(plan);
    plan->meta_bytes = sl_order_meta_bytes(&limits);
    plan->order_bytes = plan->meta_bytes + (size_t)plan->max_chunk * model->d_model * sizeof(float);
    plan->result_bytes = sl_result_max_bytes(plan->n_stages, plan->max_chunk);
    plan->adopt_bytes = sl_adopt_max_bytes(plan->context_tokens, plan->vocab);
    plan->steering_bytes = sl_order_steering_bytes(plan->vocab);
    plan->tokens_bytes = sl_tokens_max_bytes(plan->max_running, plan->n_stages, plan->context_tokens);
    cut_decoders(plan);
    return check_links(plan, err);
}

struct sl_order_limits sl_plan_order_limits(const struct sl_plan *plan)
{
    return (struct sl_order_limits){.n_stages = plan->n_stages,
                                    .max_tokens = plan->max_chunk,
                                    .context_tokens = plan->context_tokens,
                                    .vocab = plan->vocab,
                                    .n_pages = plan->n_pages,
                                    .n_decode_pages = plan->max_decoders ? plan->n_pages : 0,
                                    .max_decoders = plan->max_decoders};
}

/* ---- nodes ---- */

uint32_t sl_plan_decoder_of(const struct sl_plan *plan, uint32_t node)
{
    if (node <= plan->n_stages)
        return SL_NO_DECODER;
    uint32_t i = node - 1 - plan->n_stages;
    return i < plan->max_decoders || plan->n_parts < 2 ? i : (i - plan->max_decoders) / (plan->n_parts - 1);
}

uint32_t sl_plan_part_of(const struct sl_plan *plan, uint32_t node)
{
    uint32_t i = node - 1 - plan->n_stages;
    if (plan->n_parts < 2)
        return 0;
    return i < plan->max_decoders ? plan->n_parts - 1 : (i - plan->max_decoders) % (plan->n_parts - 1);
}

uint32_t sl_plan_part_node(const struct sl_plan *plan, uint32_t decoder, uint32_t part)
{
    if (plan->n_parts < 2 || part == plan->n_parts - 1)
        return sl_plan_decode_node(plan, decoder);
    return 1 + plan->n_stages + plan->max_decoders + decoder * (plan->n_parts - 1) + part;
}

bool sl_plan_overlap(const struct sl_plan *plan, uint32_t k, uint32_t part, uint32_t *begin, uint32_t *end)
{
    *begin = plan->begin[k];
    *end = plan->begin[k + 1];
    if (plan->n_parts < 2)
        return true;
    if (*begin < plan->part_begin[part])
        *begin = plan->part_begin[part];
    if (*end > plan->part_begin[part + 1])
        *end = plan->part_begin[part + 1];
    return *begin < *end;
}

/* ---- links ---- */

enum { NODE_BITS = 7 };
_Static_assert(1 + SL_MAX_STAGES + SL_MAX_DECODERS * SL_MAX_PARTS <= 1 << NODE_BITS &&
                   SL_DECODER_LIVES <= 1 << (24 - 2 * NODE_BITS),
               "a link's id has room for both nodes and the life of a decode worker");

uint64_t sl_plan_link_id(const struct sl_plan *plan, uint32_t from, uint32_t to)
{
    uint32_t decoder = sl_plan_decoder_of(plan, from > to ? from : to);
    uint64_t life = decoder < SL_MAX_DECODERS ? plan->decoder_life[decoder] : 0;
    return plan->epoch << 24 | life << 2 * NODE_BITS | (uint64_t)from << NODE_BITS | to;
}

uint32_t sl_plan_link_peer(uint64_t link, uint32_t node)
{
    const uint32_t mask = (1u << NODE_BITS) - 1;
    uint32_t from = (uint32_t)(link >> NODE_BITS) & mask, to = (uint32_t)link & mask;
    return from == node ? to : from;
}

static struct sl_plan_link make_link(const struct sl_plan *plan, enum sl_plan_link_kind kind, uint32_t from,
                                     uint32_t to, uint32_t to_slots, size_t to_slot_bytes)
{
    return (struct sl_plan_link){sl_plan_link_id(plan, from, to),
                                 kind,
                                 from,
                                 to,
                                 sl_plan_decoder_of(plan, to),
                                 1,
                                 to_slots,
                                 SL_NO_SLOT_BYTES,
                                 to_slot_bytes};
}

static uint32_t kv_links(const struct sl_plan *plan, uint32_t d, struct sl_plan_link *links)
{
    uint32_t n = 0, begin, end;
    for (uint32_t k = 0; k < plan->n_stages; k++)
        for (uint32_t part = 0; part < (plan->n_parts ? plan->n_parts : 1); part++)
            if (sl_plan_overlap(plan, k, part, &begin, &end))
                links[n++] =
                    make_link(plan, SL_LINK_KV, sl_plan_stage_node(k), sl_plan_part_node(plan, d, part),
                              SL_KV_SLOTS, (end - begin) * plan->kv_layer_bytes);
    return n;
}

static uint32_t ring_links(const struct sl_plan *plan, uint32_t d, struct sl_plan_link *links)
{
    uint32_t n = 0;
    for (uint32_t part = 0; plan->n_parts > 1 && part < plan->n_parts; part++)
        links[n++] = make_link(plan, SL_LINK_RING, sl_plan_part_node(plan, d, part),
                               sl_plan_part_node(plan, d, sl_plan_part_after(plan, part)), SL_RING_SLOTS,
                               plan->ring_bytes);
    return n;
}

uint32_t sl_plan_links(const struct sl_plan *plan, struct sl_plan_link *links)
{
    uint32_t n = 0, last = sl_plan_stage_node(plan->n_stages - 1);
    for (uint32_t node = 1; node <= last; node++)
        links[n++] = make_link(plan, SL_LINK_ORDER, node - 1, node, SL_ORDER_SLOTS, plan->order_bytes);
    links[n++] = make_link(plan, SL_LINK_RESULT, last, 0, SL_RESULT_SLOTS, plan->result_bytes);
    for (uint32_t d = 0; d < plan->max_decoders; d++) {
        n += kv_links(plan, d, links + n);
        links[n] = make_link(plan, SL_LINK_ADOPT, 0, sl_plan_decode_node(plan, d), SL_ADOPT_SLOTS,
                             plan->adopt_bytes);
        links[n].from_slots = SL_RESULT_SLOTS;
        links[n++].from_slot_bytes = plan->tokens_bytes;
        n += ring_links(plan, d, links + n);
    }
    return n;
}

const char *sl_plan_node_name(const struct sl_plan *plan, uint32_t node, char buffer[24])
{
    uint32_t d = sl_plan_decoder_of(plan, node);
    char part[16] = "";
    if (d != SL_NO_DECODER && node != sl_plan_decode_node(plan, d))
        snprintf(part, sizeof part, " part %u", sl_plan_part_of(plan, node));
    if (node == 0)
        snprintf(buffer, 24, "coordinator");
    else if (d == SL_NO_DECODER)
        snprintf(buffer, 24, "stage %u", node - 1);
    else if (plan->max_decoders == 1)
        snprintf(buffer, 24, "decode%s", part);
    else
        snprintf(buffer, 24, "decode %u%s", d, part);
    return buffer;
}

struct sl_share sl_plan_share(const struct sl_plan *plan, uint32_t k, uint32_t n_threads)
{
    bool decode = k >= plan->n_stages;
    uint32_t i = decode ? sl_plan_part_of(plan, 1 + k) : k, n = decode ? plan->n_parts : plan->n_stages;
    const uint32_t *begin = decode ? plan->part_begin : plan->begin;
    return (struct sl_share){
        .begin = begin[i],
        .end = begin[i + 1],
        .with_embed = i == 0,
        .with_head = i + 1 == n,
        .n_threads = n_threads,
        .kv_dtype = plan->kv_dtype,
        .profile = plan->profile,
        .n_pages = plan->n_pages,
        .max_tokens = decode ? plan->step_rows : plan->max_chunk,
        .max_sequences = decode ? plan->max_running : plan->max_prefill,
        .context_tokens = plan->context_tokens,
        .n_places = !decode && plan->n_stages > 1 && sl_rows_go_beside(plan->rows) ? SL_ORDER_SLOTS : 0,
        .token_steps = decode,
    };
}

size_t sl_plan_frame_bytes(const struct sl_plan *plan, uint32_t node)
{
    struct sl_plan_link links[SL_MAX_LINKS];
    size_t bytes = 0;
    for (uint32_t i = 0, n = sl_plan_links(plan, links); i < n; i++) {
        if (links[i].to == node)
            bytes += links[i].to_slots * links[i].to_slot_bytes;
        if (links[i].from == node)
            bytes += links[i].from_slots * links[i].from_slot_bytes;
        if (links[i].kind == SL_LINK_RESULT && links[i].from == node)
            /* send buffers: everything else is sent from where it lies */
            bytes += SL_RESULT_SLOTS * plan->result_bytes;
    }
    return bytes;
}

uint32_t sl_plan_chunk_for(const struct sl_plan *plan, uint32_t prompt_tokens)
{
    uint32_t chunk = plan->chunk_tokens ? plan->chunk_tokens : default_chunk(prompt_tokens);
    return chunk < plan->max_chunk ? chunk : plan->max_chunk;
}
