/* Whose rows and whose experts: how a layer's work is dealt to N nodes. Pure.
 *
 * Rows by pages, back and forth (0 1 2 2 1 0 0 1 ..), so that everybody has as many, and of the causal triangle as much: later rows
 * attend to more. Experts in ranges. */
#ifndef SL_BENCH_LAYOUT_SHARE_H
#define SL_BENCH_LAYOUT_SHARE_H

#include <stdint.h>

static inline uint32_t sl_layout_page_owner(uint32_t page, uint32_t n_nodes) /* page of a step */
{
    uint32_t at = page % (2 * n_nodes);
    return at < n_nodes ? at : 2 * n_nodes - 1 - at;
}
static inline uint32_t sl_layout_expert_begin(uint32_t node, uint32_t n_nodes, uint32_t n_experts)
{
    return (uint32_t)((uint64_t)n_experts * node / n_nodes);
}
static inline uint32_t sl_layout_expert_owner(uint32_t expert, uint32_t n_nodes, uint32_t n_experts)
{
    uint32_t node = (uint32_t)((uint64_t)expert * n_nodes / n_experts);
    while (node + 1 < n_nodes && sl_layout_expert_begin(node + 1, n_nodes, n_experts) <= expert)
        node++;
    while (sl_layout_expert_begin(node, n_nodes, n_experts) > expert)
        node--;
    return node;
}

#endif
