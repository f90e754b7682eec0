/* Which token goes to which expert: integers and gates, no weights.
 *
 * From router logits (f32) to a route: softmax over all experts, the top_k largest with ties to the lower expert id,
 * gates optionally divided by their sum (renorm), then the (token, rank) pairs regrouped by expert with a stable counting
 * sort: within an expert, tokens keep their order. */
#ifndef SL_ROUTER_ROUTE_H
#define SL_ROUTER_ROUTE_H

#include "base/arena.h"
#include "kernels/isa.h"

struct sl_route {
    uint32_t n_tokens, n_experts, top_k;
    uint32_t *experts; /* [n_tokens][top_k], by descending score */
    float *gates;      /* [n_tokens][top_k] */
    uint32_t *offsets; /* [n_experts + 1]: expert e owns pairs [offsets[e], offsets[e+1]) */
    uint32_t *rows;    /* [n_tokens * top_k]: token of each pair, grouped by expert */
    uint32_t *pairs;   /* [n_tokens][top_k]: where the pair of (token, rank) went */
    uint64_t *load;    /* [n_experts]: pairs since the start, for metrics */
};

size_t sl_route_bytes(uint32_t max_tokens, uint32_t n_experts, uint32_t top_k);
sl_status sl_route_init(struct sl_route *route, struct sl_arena *arena, uint32_t max_tokens,
                        uint32_t n_experts, uint32_t top_k);

/* One token: logits [n_experts] are overwritten by scores; experts and gates get top_k entries. */
void sl_route_choose(const struct sl_ops *ops, float *logits, uint32_t n_experts, uint32_t top_k, bool renorm,
                     uint32_t *experts, float *gates);
/* Fill offsets, rows, pairs from experts for n_tokens. */
void sl_route_group(struct sl_route *route, uint32_t n_tokens);

#endif
