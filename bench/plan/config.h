/* What a planner must know of a model: the sizes in its config.json, and no weight of it. */
#ifndef SL_BENCH_PLAN_CONFIG_H
#define SL_BENCH_PLAN_CONFIG_H

#include "model/shape.h"
#include "pipeline/decide/planner.h"

struct sl_plan_config {
    const char *name;
    uint32_t layers, width, vocab, context;
    uint32_t heads, kv_heads, head;                         /* head: width of one, of q, k and v */
    uint32_t q_rank, kv_rank, rope_head, nope_head, v_head; /* MLA; kv_rank 0: it is not */
    uint32_t experts, top_k, expert;                        /* width of one; experts 0: dense */
    uint32_t shared, dense,
        n_dense; /* width of the shared experts together, of dense layers, and how many come first */
    bool tied;
};

struct sl_plan_format { /* bits of a weight, and bytes of a number in a KV page */
    double bits, expert_bits, kv_bytes;
};

/* The arithmetic of each layer. */
void sl_plan_model_of(struct sl_planner_model *model, const struct sl_plan_config *config,
                      const struct sl_plan_format *format);
/* Of a shape that the engine serves. */
void sl_plan_config_of(struct sl_plan_config *config, const struct sl_shape *shape);
double sl_plan_parameters(const struct sl_plan_config *config);

/* A public model by its name; NULL: it is none of ours. names: all, with commas. */
const struct sl_plan_config *sl_plan_shape_find(const char *name);
void sl_plan_shape_names(char *names, size_t room);

/* A config.json, or YAML with the same keys. Keys that change no size are passed over; those that change what a layer does are
 * refused by name. name: for sentences. */
sl_status sl_plan_config_read(struct sl_plan_config *config, const char *path, struct sl_err *err);
sl_status sl_plan_config_parse(struct sl_plan_config *config, const char *name, const char *text,
                               size_t bytes, struct sl_err *err);

#endif
