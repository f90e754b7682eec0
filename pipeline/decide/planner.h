/* What a pipeline of these nodes would do with this model and this load, before there is one: the cut, the chunk, decode workers,
 * the time to a first token, requests a second, memory, and what holds it up.
 *
 * It is made of the pieces that decide when there is one: the cost of a chunk (cost.h), the budget and the cut of a prompt that is
 * alone (budget.h, rank.h), the layers' cut (layers.h). What is added is where costs come from when nobody has measured them:
 * operations over rates, bytes over the speed of memory, layer by layer; and the walk of chunks through stages and links.
 *
 *   layer:   c = launch + always/B,   γ = kv/B + G/R,   b = (F + F_experts·skew)/R + inner links,   a = A/R_attention,   w = W/B,   e = head/B
 *   chunk i leaves stage s at   max(its rows are here, chunk i−1 has left) + t_s(i);   rows travel rows·d·bytes/link + latency
 *
 * Pure; all times are microseconds, all rates of a node are of all its devices together, as achieved and not as advertised. */
#ifndef SL_PIPELINE_DECIDE_PLANNER_H
#define SL_PIPELINE_DECIDE_PLANNER_H

#include "pipeline/decide/budget.h"
#include "pipeline/decide/layers.h"
#include "pipeline/decide/limits.h"

enum { SL_PLANNER_NODES = 1024, SL_PLANNER_NAME = 64 };

/* ---- what is given ---- */

struct sl_planner_layer {
    double row_flop;                   /* of each row: projections, dense and shared widths */
    double expert_flop;                /* of each row, of its k experts */
    double position_flop;              /* of each position before a slice: what is made anew of its pages */
    double pair_flop;                  /* of each pair of 2·pos·n + n² */
    double decode_pair_flop;           /* the same where nothing is made anew of pages; 0: as pair_flop */
    double always_bytes, expert_bytes; /* weights: what every chunk reads, and all experts */
    double kv_bytes;                   /* of a position */
};

struct sl_planner_model {
    char name[SL_PLANNER_NAME];
    uint32_t n_layers, d_model, context;
    uint32_t n_experts, top_k; /* 0: dense */
    double embed_bytes, head_bytes;
    double scratch_row_bytes; /* of a stage, for each row of its largest chunk */
    struct sl_planner_layer layers[SL_LAYERS_MOST];
};

struct sl_planner_node {
    char name[SL_PLANNER_NAME];
    uint32_t devices; /* that share every layer */
    double memory_bytes;
    double matrix_flops, attention_flops, memory_speed; /* a second */
    double inner_speed; /* bytes a second that a device exchanges with those of its node; 0: not counted */
    double skew;        /* the fullest device's experts to the mean */
    double layer_us;    /* that a layer takes for nothing */
    double link_speed,
        link_us;       /* bytes a second to other nodes, 0: not counted; and what a frame takes at least */
    const char *rates; /* where they are from, a few words for who reads the plan; NULL: they were given */
    bool is_measured;
    struct sl_cost
        layer; /* then what a layer costs here, and e what a prompt that ends costs the last; rates are not asked */
};

struct sl_planner_load {
    double prompt, output; /* tokens of a request; output 0: no decode worker is wanted */
    double longest;        /* tokens of the longest request, both together; 0: those of any */
    double rate;           /* requests a second; 0: as many as can be */
};

struct sl_planner_wish { /* 0: what is best */
    uint32_t n_stages, n_decoders;
    const uint32_t *begin; /* [n_stages + 1] of a cut that is there already; NULL: the best is looked for */
    const struct sl_cost *costs; /* [n_stages] that its stages have then; NULL: as their nodes say */
    uint32_t chunk_rows;         /* of each chunk; else what the scheduler finds by cost */
    double chunk_us;             /* of each chunk, likewise */
    uint32_t running;            /* answers that a decode worker makes at once */
    double slo_ttft_us, slo_tpot_us;
    double row_bytes;      /* of a number in rows that travel; 0: 4 */
    bool decodes;          /* costs are of token steps */
    bool whole_last_layer; /* the last layer is made of all rows, as others do it; here of few */
};

/* ---- what comes of it ---- */

enum sl_planner_bound { SL_BOUND_COMPUTE, SL_BOUND_MEMORY, SL_BOUND_LINK, SL_BOUND_BUBBLE, SL_BOUNDS };

struct sl_planner_stage {
    uint32_t node; /* index */
    struct sl_cost cost;
    double work_us;                                          /* of a prompt of the load */
    double weight_bytes, kv_bytes, buffer_bytes, room_bytes; /* room: what the node has */
};

struct sl_planner_decode {
    uint32_t n, parts; /* workers, and nodes of each */
    bool beside;       /* on the nodes of the stages, whose time they share */
    double step_us;    /* with `running` answers, in the middle of their length */
    double tokens_s;   /* of all */
    uint32_t running;  /* that fit */
};

struct sl_forecast {
    uint32_t n_stages, begin[SL_MAX_STAGES + 1];
    struct sl_planner_stage stages[SL_MAX_STAGES];
    struct sl_planner_decode decode;
    uint32_t n_nodes;    /* that it takes */
    uint32_t chunk_rows; /* 0: by time */
    uint32_t max_rows;
    struct sl_budget budget;
    double row_bytes; /* of a number in rows that travel */
    double kv_tokens; /* that the pool of the weakest stage can have */
    double ttft_us;   /* of a prompt of the load that is alone */
    double wait_us;   /* before it, at the load's rate; 0 without one */
    double prefill_requests_s, requests_s;
    enum sl_planner_bound bound;
    double shares[SL_BOUNDS]; /* of ttft_us */
    double hop_us;            /* of a full chunk, to the next stage */
};

/* ---- the functions ---- */

/* One layer on a node, or, unless all of it is wished for, what is made of the last one. */
void sl_planner_layer_cost(struct sl_cost *cost, const struct sl_planner_model *model, uint32_t layer,
                           const struct sl_planner_node *node, const struct sl_planner_wish *wish);
/* What of it a row costs on the way between devices of a node: half of it in attention, half in the experts. */
double sl_planner_inner_us(const struct sl_planner_model *model, const struct sl_planner_node *node);
/* Layers [begin, end). */
void sl_planner_stage_cost(struct sl_cost *cost, const struct sl_planner_model *model, uint32_t begin,
                           uint32_t end, const struct sl_planner_node *node,
                           const struct sl_planner_wish *wish);

/* The best of what these nodes allow, in their order: stages on the first, decode workers on those behind. SL_E_CONFIG: nothing
 * fits, or nothing keeps the targets; the sentence says what is missing. */
sl_status sl_planner_make(struct sl_forecast *forecast, const struct sl_planner_model *model,
                          const struct sl_planner_node *nodes, uint32_t n_nodes,
                          const struct sl_planner_load *load, const struct sl_planner_wish *wish,
                          struct sl_err *err);
/* The same of so many stages and no others, whatever the targets say. */
sl_status sl_planner_try(struct sl_forecast *forecast, const struct sl_planner_model *model,
                         const struct sl_planner_node *nodes, uint32_t n_nodes, uint32_t n_stages,
                         const struct sl_planner_load *load, const struct sl_planner_wish *wish,
                         struct sl_err *err);

/* A chunk of a prompt on a stage, as it would happen; NULL: nobody looks. */
typedef void sl_planner_see(void *user, uint32_t chunk, uint32_t stage, double begin_us, double end_us,
                            uint32_t pos, uint32_t rows);
/* From submit to first token of a prompt that is alone, cut as the scheduler would. Returns microseconds. */
double sl_planner_ttft(const struct sl_forecast *forecast, const struct sl_planner_model *model,
                       const struct sl_planner_node *nodes, uint32_t prompt, sl_planner_see *see, void *user);

/* The same with chunks that somebody else has cut: rows[i] of the i-th. */
double sl_planner_walk(const struct sl_forecast *forecast, const struct sl_planner_model *model,
                       const struct sl_planner_node *nodes, const uint32_t *rows, uint32_t n_chunks);

/* ---- the other layout ---- */

/* A prompt over n nodes that have every layer, attention split evenly among all devices and experts dealt out to them: tokens go to
 * their experts and come back in each layer. It is the best that layout can do: what is sold has its attention on one device. */
struct sl_planner_experts {
    double ttft_us,
        overlapped_us;    /* without overlap; with all of the exchange hidden that compute can hide */
    double one_device_us; /* one device has a prompt's attention, as in most deployments */
    double exchange_us;   /* of a layer, there and back */
    double bytes;         /* that cross between nodes, of the whole prompt */
    double node_bytes;    /* weights on each node */
    bool from_table;      /* the exchange is interpolated between measurements; else bytes over the link */
};
/* Of nodes like this one. A model without experts: all zero. */
void sl_planner_experts(struct sl_planner_experts *experts, const struct sl_planner_model *model,
                        const struct sl_planner_node *node, uint32_t n_nodes, double prompt);
/* Dispatch and combine of one layer, for so many tokens a device. *from_table: may be NULL. */
double sl_planner_exchange_us(const struct sl_planner_model *model, const struct sl_planner_node *node,
                              uint32_t n_nodes, double tokens, bool *from_table);
/* What a pipeline's chunks would take one after the other on one node that is as fast as all of its stages together: of a dense model
 * that is what a pipeline can at best come to. */
double sl_planner_one_node(const struct sl_forecast *forecast, const struct sl_planner_model *model,
                           const struct sl_planner_node *nodes, uint32_t prompt);

const char *sl_planner_bound_name(enum sl_planner_bound bound);

#endif
