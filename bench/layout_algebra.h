/* What the two layouts should take, from what one node takes: pure.
 *
 *   layers    end(i,s) = max(end(i,s-1) + hop, end(i-1,s)) + t(i,s),   t(i,s) = t(i) · layers(s)/layers + what carrying a chunk costs
 *   experts   sum over steps and layers of   (attention + router)/N + skew · experts/N + hit · (pack + back + sums) + carrying
 *                                          + 3 · delay + what leaves a node, at the rate
 *
 * t(i), attention, router, experts, pack, back and sums are one node's for the same rows. A row goes to the nodes that its k of E
 * experts are spread over as if drawn at random: a node is hit by a part of them, so there are N · hit times as many to be packed,
 * brought back and summed as on one node, which N nodes share (exact: pairs come back, and they are no more). The skew, how much more
 * than its share the busiest node has, is counted, not guessed. With ideal overlap the exchange costs nothing. */
#ifndef SL_BENCH_LAYOUT_ALGEBRA_H
#define SL_BENCH_LAYOUT_ALGEBRA_H

#include "bench/layout_tape.h"

struct sl_layout_model {
    uint32_t n_layers, n_routed; /* layers, and those of them with experts */
    uint32_t n_experts, top_k;
    double row_bytes;    /* of a row between stages */
    double kv_row_bytes; /* of a layer's K and V of a row */
    double out_bytes;    /* of a row to its experts */
    double pair_bytes;   /* beside it, for each expert it goes to */
    double back_bytes;   /* of what comes back, of each row or, exact, of each pair */
    bool exact;
};

struct sl_layout_one { /* one node, ns */
    const double *chunk_ns;
    uint32_t n_chunks, chunk_rows, n_rows;
    double embed_ns, head_ns;                          /* of a row; of the last one */
    double attention_ns, route_ns, experts_ns, sum_ns; /* of the prompt, at step_rows at once */
    double pack_ns, back_ns;                           /* likewise: each row once there, and once back */
    double seal_ns_per_byte, copy_ns_per_byte;
};

struct sl_layout_foretold {
    double latency_ns, ideal_ns, bytes; /* ideal: with all of the exchange hidden */
};

/* The chance that one of n_nodes has any of a row's experts. */
double sl_layout_hit(uint32_t n_experts, uint32_t top_k, uint32_t n_nodes);
struct sl_layout_foretold sl_layout_foretell_layers(const struct sl_layout_model *model,
                                                    const struct sl_layout_one *one, uint32_t n_nodes,
                                                    const struct sl_layout_net *net);
struct sl_layout_foretold sl_layout_foretell_experts(const struct sl_layout_model *model,
                                                     const struct sl_layout_one *one, uint32_t n_nodes,
                                                     uint32_t step_rows, double skew,
                                                     const struct sl_layout_net *net);

#endif
