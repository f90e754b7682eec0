/* This machine as the nodes of a pipeline (source.h). */
#include "base/cpu.h"
#include "bench/plan/source.h"
#include "kernels/roofline.h"
#include "model/pack/cache_store.h"
#include "model/pack/pack_cache.h"
#include "pipeline/stage/calibrate.h"
#include <math.h>
#include <unistd.h>

enum { BUDGET_US = 1000000, LAYER_US = 10 };
/* Of peaks: what kernels reach of the instructions that they are made of, as `sluice bench kernels` shows; and what a frame and its
 * bytes take between processes of one machine. */
static const double of_matrices = 0.6, of_attention = 0.4, hop_us = 300, hop_speed = 1e9;

/* A stage on as many threads as each has. */
static sl_status measure_stage(struct sl_cost *cost, const struct sl_pack *pack, const struct sl_share *share,
                               struct sl_err *err)
{
    struct sl_stage_calibration c;
    struct sl_stage *stage;
    char dir[4000];
    SL_TRY(sl_cache_dir(dir, sizeof dir, err));
    SL_TRY(sl_stage_create(&stage, pack, share, &(struct sl_loading){.verify = SL_VERIFY_FAST}, err));
    sl_status status = sl_stage_calibrate(&c, stage, pack,
                                          &(struct sl_stage_trial){.budget_us = BUDGET_US, .dir = dir}, err);
    sl_stage_destroy(stage);
    *cost = c.measured.cost;
    return status;
}

/* A layer by the first stage, and what a prompt that ends costs by the last. */
static sl_status measure(struct sl_planner_node *node, const struct sl_pack *pack, uint32_t n_stages,
                         uint32_t threads, const char *kv, struct sl_err *err)
{
    struct sl_plan_options options = {
        .n_stages = n_stages, .kv_dtype = sl_pack_kv_dtype(pack, kv), .max_running = 1, .epoch = 1};
    struct sl_plan plan;
    struct sl_cost last;
    SL_TRY(sl_plan_for_shape(&plan, sl_pack_shape(pack), &options, err));
    sl_tune_for(pack, plan.profile);
    struct sl_share share = sl_plan_share(&plan, 0, threads),
                    of_last = sl_plan_share(&plan, n_stages - 1, threads);
    SL_TRY(measure_stage(&node->layer, pack, &share, err));
    last = node->layer;
    if (n_stages > 1)
        SL_TRY(measure_stage(&last, pack, &of_last, err));
    sl_plan_layer_of(&node->layer, share.end - share.begin, share.with_head);
    node->layer.us[SL_COST_E] = last.us[SL_COST_E];
    node->is_measured = true;
    return SL_OK;
}

static sl_status by_peaks(struct sl_planner_node *node, uint32_t threads, struct sl_err *err)
{
    const struct sl_ops *ops;
    struct sl_roofline roofline;
    SL_TRY(sl_ops_select(&ops, err));
    SL_TRY(sl_roofline_measure(&roofline, ops, threads, 1, err));
    double matrices = fmax(roofline.ops_per_ns[SL_PEAK_INT8], roofline.ops_per_ns[SL_PEAK_F32]);
    if (!(matrices > 0) || !(roofline.bytes_per_ns > 0))
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "this machine has only the reference kernels, of which no rates are known; give a --nodes file");
    node->matrix_flops = of_matrices * matrices * 1e9;
    node->attention_flops = of_attention * roofline.ops_per_ns[SL_PEAK_F32] * 1e9;
    node->memory_speed = roofline.bytes_per_ns * 1e9;
    node->layer_us = LAYER_US;
    return SL_OK;
}

sl_status sl_plan_machine(struct sl_planner_node *node, const struct sl_pack *pack, uint32_t n_stages,
                          uint32_t threads, const char *kv, struct sl_err *err)
{
    double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    threads = sl_cpu_threads(threads, n_stages);
    *node = (struct sl_planner_node){.name = "this machine",
                                     .devices = 1,
                                     .memory_bytes = floor(memory / n_stages),
                                     .skew = 1,
                                     .link_us = hop_us,
                                     .link_speed = hop_speed};
    return pack ? measure(node, pack, n_stages, threads, kv, err) : by_peaks(node, threads, err);
}
