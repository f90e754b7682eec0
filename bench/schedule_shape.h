/* The pipelines of the small simulated world (`sluice bench schedule`): what a chunk really takes on each of their stages. The
 * decider never sees these numbers: it has a prior of another form, and the traces that come with the results.
 *
 *   A   2 stages of 24 layers, Qwen3-30B-A3B at 4 bits on 8 cores each      A8  the same model in 8 stages of 6 layers
 *   B4  4 stages of DeepSeek-V3 on H200 nodes                              B8  8 of them
 *   D   2 stages of 3 layers, the bundled model on one thread each: small, and attention is most of a long prompt's work
 *
 * A layer takes, with u(X) the share of the experts that X rows hit,
 *
 *     max(least, c + γ·Σpos + b·X + a·Σ(2·pos·n + n²) + max(b_experts·X, w·u(X)))
 *
 * on a GPU, where the experts' arithmetic hides the reading of their weights; on a CPU, where it does not, b_experts is 0 and
 * what is written there is the sum that pipeline/decide/cost.h has. Rates are derived, not measured. */
#ifndef SL_BENCH_SCHEDULE_SHAPE_H
#define SL_BENCH_SCHEDULE_SHAPE_H

#include "pipeline/decide/cost.h"

struct sl_bench_shape {
    const char *name;
    uint32_t n_stages;
    double layers;                                   /* of a stage */
    double c, gamma, b, a, w, hit, b_experts, least; /* of a layer; microseconds */
    double hop_us, hop_row_us;   /* what a frame takes to the next node, and a row in it between stages */
    double step_us, step_row_us; /* a decode step, and each sequence in it */
    uint32_t kv_bytes;           /* of a token's pages, of all layers */
    uint32_t context, n_long; /* n_long: long prompts that are outstanding beside the short ones of a mix */
    uint32_t max_chunk;       /* rows that buffers are planned for */
    double target_us;         /* D0: the target of a request is D0 + 3 times its time alone */
    double chunk_us;          /* a chunk's time in the definitions of capacity and of the time alone */
    bool is_large;            /* overload draws long conversations, not short prompts with a few long ones */
};

/* NULL: there is none of that name. */
const struct sl_bench_shape *sl_bench_shape_find(const char *name);
/* Of one stage, without noise. */
double sl_bench_shape_us(const struct sl_bench_shape *shape, const struct sl_cost_chunk *chunk);
/* What dummy chunks before the first request would have shown, in the form of cost.h. */
struct sl_cost sl_bench_shape_prior(const struct sl_bench_shape *shape);
/* What a prompt of n tokens takes of the pipeline's time when it is cut into chunks of chunk_us: the unit of capacity. */
double sl_bench_shape_work(const struct sl_bench_shape *shape, uint32_t n);
/* And until its first token on an idle pipeline: as one chunk, or cut into such. */
double sl_bench_shape_alone(const struct sl_bench_shape *shape, uint32_t n);

#endif
