/* Gating and grouping (route.h). Selection is a plain insertion into the k best: k is at most 64 and the scan keeps
 * the lower id on ties because it goes upwards and replaces only on strictly greater. */
#include "router/route.h"

size_t sl_route_bytes(uint32_t max_tokens, uint32_t n_experts, uint32_t top_k)
{
    size_t pairs = sl_arena_round((size_t)max_tokens * top_k * sizeof(uint32_t));
    return 4 * pairs + sl_arena_round((n_experts + 1) * sizeof(uint32_t)) +
           sl_arena_round(n_experts * sizeof(uint64_t));
}

sl_status sl_route_init(struct sl_route *route, struct sl_arena *arena, uint32_t max_tokens,
                        uint32_t n_experts, uint32_t top_k)
{
    size_t pairs = (size_t)max_tokens * top_k;
    *route = (struct sl_route){.n_experts = n_experts, .top_k = top_k};
    route->experts = sl_arena_take(arena, pairs * sizeof(uint32_t));
    route->gates = sl_arena_take(arena, pairs * sizeof(float));
    route->rows = sl_arena_take(arena, pairs * sizeof(uint32_t));
    route->pairs = sl_arena_take(arena, pairs * sizeof(uint32_t));
    route->offsets = sl_arena_take(arena, (n_experts + 1) * sizeof(uint32_t));
    route->load = sl_arena_take(arena, n_experts * sizeof(uint64_t));
    return route->experts && route->gates && route->rows && route->pairs && route->offsets && route->load
               ? SL_OK
               : SL_E_NOMEM;
}

void sl_route_choose(const struct sl_ops *ops, float *logits, uint32_t n_experts, uint32_t top_k, bool renorm,
                     uint32_t *experts, float *gates)
{
    ops->softmax(logits, n_experts);
    uint32_t n = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        float score = logits[e];
        if (n == top_k && !(score > gates[n - 1]))
            continue;
        uint32_t at = n < top_k ? n++ : n - 1;
        for (; at > 0 && score > gates[at - 1]; at--) {
            gates[at] = gates[at - 1];
            experts[at] = experts[at - 1];
        }
        gates[at] = score;
        experts[at] = e;
    }
    if (!renorm)
        return;
    float sum = 0;
    for (uint32_t i = 0; i < top_k; i++)
        sum += gates[i];
    for (uint32_t i = 0; i < top_k; i++)
        gates[i] /= sum;
}

void sl_route_group(struct sl_route *route, uint32_t n_tokens)
{
    uint32_t k = route->top_k;
    route->n_tokens = n_tokens;
    memset(route->offsets, 0, (route->n_experts + 1) * sizeof(uint32_t));
    for (uint32_t i = 0; i < n_tokens * k; i++)
        route->offsets[route->experts[i] + 1]++;
    for (uint32_t e = 0; e < route->n_experts; e++) {
        route->load[e] += route->offsets[e + 1];
        route->offsets[e + 1] += route->offsets[e];
    }
    /* offsets[e] serves as the cursor of expert e while pairs are dealt out, and is shifted back after it */
    for (uint32_t i = 0; i < n_tokens * k; i++) {
        uint32_t to = route->offsets[route->experts[i]]++;
        route->rows[to] = i / k;
        route->pairs[i] = to;
    }
    for (uint32_t e = route->n_experts; e > 0; e--)
        route->offsets[e] = route->offsets[e - 1];
    route->offsets[0] = 0;
}
