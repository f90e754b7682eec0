/* How fast a pipeline of N stages can be at all, by the chunks that were measured: what `sluice bench pipeline` holds its
 * figure against. Pure arithmetic.
 *
 * When chunks take t_1 to t_C on one stage, N stages that share the work of each equally need
 *
 *     sum(t)/N + (N-1) * max(t)/N
 *
 * of which the first term is work and the second the time in which the pipeline fills and drains: it allows
 * sum / (sum + (N-1) * max) of N stages that are never idle; C/(C+N-1) when all chunks take the same, which they do not,
 * because later chunks of a prompt see more of it.
 *
 * Stages do not share the work equally either: layers are not divisible, one stage has the embedding, another one the head,
 * and the model's last layer is little work. The time that the measured chunks need on the measured stages, if each begins
 * as soon as it has come and its stage is free, is the bound; what it allows of the one above is the split's share. What is
 * left is what the pipeline itself costs: copies, checksums, waking up, stages that wait although there is work. */
#ifndef SL_BENCH_PIPELINE_BOUND_H
#define SL_BENCH_PIPELINE_BOUND_H

#include "pipeline/decide/limits.h"

enum { SL_CHUNK_TIMES_MAX = 256 };

struct sl_chunk_times { /* microseconds, by stage and chunk */
    uint32_t n_stages, n_chunks;
    uint32_t us[SL_MAX_STAGES][SL_CHUNK_TIMES_MAX];
};

/* Of each chunk the least that was seen, because neighbours on the machine only add to it. `least` begins as zeros; times
 * of another number of chunks replace it. */
void sl_chunk_times_least(struct sl_chunk_times *least, const struct sl_chunk_times *times);

struct sl_pipeline_bound {
    double fill_drain; /* of N stages that are never idle, when they share the work equally */
    double
        split; /* of that, as the work is shared; more than 1: the last chunk leaves faster than an equal share */
};
/* alone: of one stage with all layers; stages: of the pipeline. Without chunks nothing is taken away: 1. */
struct sl_pipeline_bound sl_pipeline_bound_of(const struct sl_chunk_times *alone,
                                              const struct sl_chunk_times *stages);

#endif
