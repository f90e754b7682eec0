/* Which node holds which layers, and the edges between them with their buffers: everything that is decided before the
 * first request, computed in one place so that coordinator, stages, decode worker and `inspect` agree. Pure.
 *
 * Nodes are numbered: 0 the coordinator, 1 + k stage k, 1 + n_stages + d the decode worker in place d. Links:
 *   order   0 -> stage 0 -> stage 1 ... -> last      chunks and the order log
 *   result  last -> 0                                what every record produced
 *   kv      stage k -> decode d                      KV pages, pushed as soon as a chunk is done
 *   adopt   0 <-> decode d                           sequences to adopt one way, tokens the other
 * The first-named node connects, the other accepts.
 *
 * A decode worker may be cut by layers into parts, a process each. The last part is its chief: the one that is numbered as above and
 * that the coordinator knows; the others are numbered behind all chiefs. Its links are then
 *   kv      stage k -> part j                        the layers that both have
 *   ring    chief -> part 0 -> part 1 ... -> chief   token steps, and what the chief has heard or has to be told
 *
 * The stages are there from the first to the last moment; decode workers come and go. There is a place for each that may be
 * there at once, and a place has lives: whoever takes it after another has links with other ids. */
#ifndef SL_PIPELINE_DECIDE_PLAN_H
#define SL_PIPELINE_DECIDE_PLAN_H

#include "pipeline/decide/limits.h"
#include "pipeline/decide/share.h"
#include "pipeline/record/rows.h"
#include "pipeline/record/wire.h"

struct sl_plan_model { /* the numbers of a model that count here */
    uint32_t n_layers, max_pos, d_model, vocab;
    size_t kv_layer_bytes; /* a KV page of one layer, in the format of the options */
};

struct sl_plan_options {
    uint32_t n_stages;
    const uint32_t *layers; /* [n_stages]: how many each has; NULL: cut equally (layers.h) */
    uint32_t n_decoders;    /* decode workers that must be there before it is ready; 0: none ever is */
    uint32_t max_decoders;  /* places for them; 0: n_decoders */
    uint32_t n_parts;       /* that each of them is cut into, by layers; 0: 1 */
    enum sl_dtype kv_dtype;
    enum sl_profile profile; /* numerics; a coordinator decides it when all nodes have joined */
    uint32_t chunk_tokens;   /* 0: default per request, prompt/8 within 64..2048, a multiple of 64 */
    uint32_t max_prefill;    /* prompts that are prefilled at once; 0: as many as max_running, at least 128 */
    uint32_t max_running;    /* answers that a decode worker makes at once: places in its batch; 0: 16 */
    uint32_t context_tokens; /* 0: the model's */
    /* size of each KV pool in tokens; 0: max_running contexts, at most max(context, 131072) */
    uint64_t kv_tokens;
    uint64_t epoch;
    enum sl_link_auth link_auth; /* of all links */
    enum sl_rows_way rows;       /* from stage to stage; all stages offer it */
    uint64_t
        rows_from; /* nccl, ucx: bytes of a chunk's rows from which on they go so; 0: SL_ROWS_BESIDE_FROM */
};

struct sl_plan {
    uint64_t epoch;
    uint32_t n_stages, n_layers;
    uint32_t begin[SL_MAX_STAGES + 1]; /* stage k has the layers [begin[k], begin[k + 1]) */
    uint32_t n_decoders, max_decoders;
    uint32_t decoder_life[SL_MAX_DECODERS]; /* of who has the place, or had it last: the owner's to set */
    uint32_t n_parts,
        part_begin[SL_MAX_PARTS + 1]; /* part j of a decode worker has [part_begin[j], part_begin[j + 1]) */
    uint32_t step_rows;               /* of the largest micro-batch */
    enum sl_dtype kv_dtype;
    enum sl_profile profile;
    enum sl_link_auth link_auth;
    enum sl_rows_way rows;
    uint64_t rows_from;                /* as in the options, never 0 */
    uint32_t chunk_tokens;             /* as asked; 0: by prompt */
    uint32_t max_chunk;                /* rows of the largest chunk */
    uint32_t max_prefill, max_running; /* sequences on each stage, and on each decode worker */
    uint32_t context_tokens, n_pages;
    uint32_t d_model, vocab;
    uint32_t steering_bytes; /* of all prompts that end in a record: at most that of one */
    size_t meta_bytes, order_bytes, result_bytes, adopt_bytes, tokens_bytes, ring_bytes;
    size_t kv_layer_bytes;
};

#define SL_NO_DECODER UINT32_MAX

enum sl_plan_link_kind { SL_LINK_ORDER, SL_LINK_RESULT, SL_LINK_KV, SL_LINK_ADOPT, SL_LINK_RING };

struct sl_plan_link {
    uint64_t id;
    enum sl_plan_link_kind kind;
    uint32_t from, to;             /* node numbers */
    uint32_t decoder;              /* the place that it belongs to; SL_NO_DECODER: it is of the chain */
    uint32_t from_slots, to_slots; /* lent by that end to the other */
    size_t from_slot_bytes, to_slot_bytes;
};

/* SL_E_CONFIG: more stages than layers, a context beyond the model's, a chunk of 0, ... */
sl_status sl_plan_make(struct sl_plan *plan, const struct sl_plan_model *model,
                       const struct sl_plan_options *options, struct sl_err *err);
/* Every link of the plan, those of all places, too; returns how many. links has room for SL_MAX_LINKS. */
uint32_t sl_plan_links(const struct sl_plan *plan, struct sl_plan_link *links);
/* Chunks' rows go over it: it is from one stage to the next. */
static inline bool sl_plan_link_has_rows(const struct sl_plan_link *link)
{
    return link->kind == SL_LINK_ORDER && link->from > 0;
}
/* Rows that go from device to device, beside the link: so many of them do, others by way of the host. */
static inline bool sl_plan_rows_beside(const struct sl_plan *plan, uint64_t bytes)
{
    return sl_rows_go_beside(plan->rows) && bytes >= plan->rows_from;
}
/* What a record of this pipeline may hold. */
struct sl_order_limits sl_plan_order_limits(const struct sl_plan *plan);
/* The link between two nodes, the connecting one first; every pair has a name, whether the plan has that link or not. */
uint64_t sl_plan_link_id(const struct sl_plan *plan, uint32_t from, uint32_t to);
/* The node at the other end of a link, as `node` sees it. */
uint32_t sl_plan_link_peer(uint64_t link, uint32_t node);

static inline uint32_t sl_plan_stage_node(uint32_t stage)
{
    return 1 + stage;
}
static inline uint32_t sl_plan_decode_node(const struct sl_plan *plan, uint32_t decoder)
{
    return 1 + plan->n_stages + decoder;
}
/* The place of a node; SL_NO_DECODER: it is no decode worker. */
uint32_t sl_plan_decoder_of(const struct sl_plan *plan, uint32_t node);
/* Which part of its decode worker a node is, and the node of a part. */
uint32_t sl_plan_part_of(const struct sl_plan *plan, uint32_t node);
uint32_t sl_plan_part_node(const struct sl_plan *plan, uint32_t decoder, uint32_t part);
/* Nodes of the plan but the coordinator: node i + 1 is one of them for i below. */
static inline uint32_t sl_plan_n_members(const struct sl_plan *plan)
{
    return plan->n_stages + plan->max_decoders * plan->n_parts;
}
/* The part of the node before and after this one in the ring. */
static inline uint32_t sl_plan_part_before(const struct sl_plan *plan, uint32_t part)
{
    return (part + plan->n_parts - 1) % plan->n_parts;
}
static inline uint32_t sl_plan_part_after(const struct sl_plan *plan, uint32_t part)
{
    return (part + 1) % plan->n_parts;
}
/* Layers [*begin, *end) that stage k has and part j of a decode worker, too; false: none. */
bool sl_plan_overlap(const struct sl_plan *plan, uint32_t k, uint32_t part, uint32_t *begin, uint32_t *end);
const char *sl_plan_node_name(const struct sl_plan *plan, uint32_t node, char buffer[24]); /* "stage 1" */

/* Distinct ids that an output can have. */
static inline uint32_t sl_plan_max_distinct(const struct sl_plan *plan)
{
    return plan->context_tokens + 1 < plan->vocab ? plan->context_tokens + 1 : plan->vocab;
}

/* What stage k (or a decode worker, or a part of one, as k >= n_stages: node k + 1) must be configured with. */
struct sl_share sl_plan_share(const struct sl_plan *plan, uint32_t k, uint32_t n_threads);
/* The receive slots and send buffers of a node, in bytes: part of what it plans beside its stage. */
size_t sl_plan_frame_bytes(const struct sl_plan *plan, uint32_t node);

/* RUN records that may be under way at once, for which buffers are planned: how many there are is decided by what is seen. */
static inline uint32_t sl_plan_max_runs(const struct sl_plan *plan)
{
    return 2 * plan->n_stages + 4;
}

/* In arrival order: one that each stage works at, and one that waits before the first and before the last, so that no stage is
 * idle while a frame travels. */
static inline uint32_t sl_plan_fifo_runs(const struct sl_plan *plan)
{
    return plan->n_stages + 2;
}

/* Rows of a chunk for a prompt: the asked size, or prompt/8 rounded up to 64 within 64..2048. */
uint32_t sl_plan_chunk_for(const struct sl_plan *plan, uint32_t prompt_tokens);

#endif
