/* The machines that a pipeline is planned for, as a file says them:
 *
 *     link: {gbit: 400, latency-us: 10}     # of every node, to the others; a node may have its own
 *     nodes:                                # in the order of the pipeline: stages on the first, decode workers behind
 *       - kind: h20                         # its rates are known (kinds.c); what stands beside it counts instead
 *         count: 4
 *       - name: old                         # or all of them:
 *         devices: 2                        # that share each layer
 *         memory-gb: 96                     # of each device, as are the next four
 *         matrix-tflops: 120                # achieved, not advertised
 *         attention-tflops: 90
 *         memory-gbs: 2000
 *         inner-gbs: 200                    # between devices of the node; 0: not counted
 *         layer-us: 100                     # that a layer takes for nothing
 *         skew: 1.3                         # the fullest device's experts to the mean */
#ifndef SL_BENCH_PLAN_NODES_H
#define SL_BENCH_PLAN_NODES_H

#include "pipeline/decide/planner.h"

struct sl_plan_kind { /* of each device, as achieved */
    const char *name;
    uint32_t devices;
    const char *rates; /* where they are from, a few words; NULL: who wrote the file knows */
    double memory_gb, matrix_tflops, attention_tflops, memory_gbs, inner_gbs, layer_us, gbit;
};
const struct sl_plan_kind *sl_plan_kind_find(const char *name); /* NULL: none of ours */
void sl_plan_kind_names(char *names, size_t room);

/* nodes: room for SL_PLANNER_NODES. SL_E_CONFIG: one sentence with the line. */
sl_status sl_plan_nodes_read(struct sl_planner_node *nodes, uint32_t *n_nodes, const char *path,
                             struct sl_err *err);
sl_status sl_plan_nodes_parse(struct sl_planner_node *nodes, uint32_t *n_nodes, const char *name,
                              const char *text, size_t bytes, struct sl_err *err);
/* So many of a kind, linked by so many gigabits a second (0: the kind's). */
void sl_plan_nodes_of(struct sl_planner_node *node, const struct sl_plan_kind *kind);

#endif
