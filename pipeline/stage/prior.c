/* The arithmetic of prior.h: each coefficient of a chunk's cost (pipeline/decide/cost.h) from what a shape has of it. A GPU of which
 * nothing is known is taken for the slowest there is, so that whoever measures it, or waits for it, errs on the side of patience. */
#include "pipeline/stage/prior.h"

enum { AT_WORST = 20 }; /* times the roofline: it may be shared, throttled, and its kernels far from it */
static const double slowest_ops_per_ns = 1; /* of a processor's thread: the reference kernels */
static const double layer_us = 10;          /* that a layer takes for nothing: its barriers, its launches */
/* Less than the smallest cards that are 8.0 or newer were sold with (some 90 GB/s, 2.7 TFLOPS), and than a seventh of a large one. */
static const struct sl_roofline slowest_gpu = {.ops_per_ns = {[SL_PEAK_F32] = 2000, [SL_PEAK_INT8] = 16000},
                                               .bytes_per_ns = 64};

static double compute_us(const struct sl_roofline *r, const struct sl_stage *stage, enum sl_part part,
                         double ops)
{
    double ns = sl_roofline_compute_ns(r, sl_stage_part_peak(stage, part), ops);
    return (ns > 0 ? ns : ops / (slowest_ops_per_ns * sl_stage_share(stage)->n_threads)) / 1000;
}

static double memory_us(const struct sl_roofline *r, double bytes)
{
    return sl_roofline_memory_ns(r, bytes) / 1000;
}

/* Operations of a row: of its projections, of what follows them. */
static void row_ops(const struct sl_stage *stage, double *projections, double *experts)
{
    const struct sl_shape *s = sl_stage_shape(stage);
    const struct sl_share *share = sl_stage_share(stage);
    double heads = (double)s->n_q * s->d_head;
    *projections =
        2 * (share->end - share->begin) * (2 * heads + 2.0 * s->n_kv * s->d_head) * (double)s->d_model;
    *experts = 0;
    for (uint32_t i = share->begin; i < share->end; i++)
        *experts += 2 * (s->is_moe[i] ? 3.0 * s->d_model * ((double)s->top_k * s->d_expert + s->d_shared) +
                                            (double)s->d_model * s->n_experts
                                      : 3.0 * s->d_model * s->d_dense);
}

void sl_stage_prior(struct sl_cost *prior, const struct sl_stage *stage, const struct sl_roofline *roofline)
{
    const struct sl_shape *s = sl_stage_shape(stage);
    const struct sl_share *share = sl_stage_share(stage);
    const struct sl_roofline *r = roofline->bytes_per_ns > 0 ? roofline : &slowest_gpu;
    struct sl_stage_reads reads = sl_stage_reads_of(stage);
    double layers = share->end - share->begin, projections, experts;
    row_ops(stage, &projections, &experts);
    *prior = (struct sl_cost){.hit = reads.routed ? (double)s->top_k / s->n_experts : 0};
    prior->us[SL_COST_C] = layers * layer_us + memory_us(r, (double)reads.always);
    prior->us[SL_COST_GAMMA] = memory_us(r, (double)sl_stage_page_bytes(stage) / SL_PAGE_TOKENS);
    prior->us[SL_COST_B] = compute_us(r, stage, SL_PART_PROJECTION, projections) +
                           compute_us(r, stage, SL_PART_EXPERTS, experts);
    /* a pair of positions is a product of q and k and one with v; the sum counts each pair of a prompt twice */
    prior->us[SL_COST_A] = compute_us(r, stage, SL_PART_ATTENTION, layers * 2 * ((double)s->n_q * s->d_head));
    prior->us[SL_COST_W] = memory_us(r, (double)reads.routed);
    if (share->with_head) /* a row reads the head, and of the last layer's weights what a row hits */
        prior->us[SL_COST_E] = layer_us + memory_us(r, (double)reads.head + (double)reads.always / layers +
                                                           prior->hit * (double)reads.routed / layers);
}

void sl_stage_at_worst(struct sl_cost *cost, const struct sl_stage *stage, const struct sl_roofline *gpu)
{
    sl_stage_prior(cost, stage, gpu);
    for (int i = 0; i < SL_COST_TERMS; i++)
        cost->us[i] *= AT_WORST;
}
