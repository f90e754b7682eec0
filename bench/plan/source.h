/* Where what is planned with comes from: a model from a pack, a checkpoint or by its name; what its layers cost from a file of
 * `sluice calibrate --json`, or measured on this machine. */
#ifndef SL_BENCH_PLAN_SOURCE_H
#define SL_BENCH_PLAN_SOURCE_H

#include "bench/plan/report.h"
#include "model/pack/pack.h"

struct sl_plan_model_options {
    const char *path;         /* a pack, or a directory with a config.json; NULL: by its name, */
    const char *shape;        /* of a public model, or of a file with the keys of a config.json */
    double bits, expert_bits; /* of a weight, where no pack says; 0: 8, and as bits */
    const char *kv;
};
/* report's model, parameters and assumed. *pack: opened when it is one, else NULL. */
sl_status sl_plan_source_model(struct sl_plan_report *report, struct sl_pack **pack,
                               const struct sl_plan_model_options *options, struct sl_err *err);

/* What a layer costs, in the mean of the stages of a calibration; the last stage counts only when there is no other, because its last
 * layer is less than one. */
struct sl_plan_measured {
    struct sl_cost layer;
    uint32_t n_stages, n_layers;
    uint32_t begin[SL_MAX_STAGES + 1];                           /* and of each stage, with its layers: */
    struct sl_cost stages[SL_MAX_STAGES], layers[SL_MAX_STAGES]; /* all of it, and a layer */
};
/* From what n_layers take together; has_last: the model's last is one of them. */
void sl_plan_layer_of(struct sl_cost *cost, double n_layers, bool has_last);
sl_status sl_plan_cost_read(struct sl_plan_measured *measured, const char *path, struct sl_err *err);
sl_status sl_plan_cost_parse(struct sl_plan_measured *measured, const char *name, const char *text,
                             size_t bytes, struct sl_err *err);

/* This machine as n_stages nodes, each with its share of processors and memory. With a pack its layers are measured, for a second or
 * two; without, they are what the instructions could do. threads: of a stage; 0: its share. */
sl_status sl_plan_machine(struct sl_planner_node *node, const struct sl_pack *pack, uint32_t n_stages,
                          uint32_t threads, const char *kv, struct sl_err *err);

#endif
