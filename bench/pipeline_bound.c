/* The arithmetic of pipeline_bound.h: sums, and the walk of chunks through stages in order. */
#include "bench/pipeline_bound.h"
#include "pipeline/decide/flow.h"

void sl_chunk_times_least(struct sl_chunk_times *least, const struct sl_chunk_times *times)
{
    if (least->n_chunks != times->n_chunks || least->n_stages != times->n_stages) {
        *least = *times;
        return;
    }
    for (uint32_t k = 0; k < times->n_stages; k++)
        for (uint32_t i = 0; i < times->n_chunks; i++)
            if (times->us[k][i] < least->us[k][i])
                least->us[k][i] = times->us[k][i];
}

static double work_of(const struct sl_chunk_times *t)
{
    double sum = 0;
    for (uint32_t k = 0; k < t->n_stages; k++)
        for (uint32_t i = 0; i < t->n_chunks; i++)
            sum += t->us[k][i];
    return sum;
}

/* When the last chunk has left the last stage. */
static double makespan_of(const struct sl_chunk_times *t)
{
    double free_at[SL_MAX_STAGES] = {0}, left_at = 0;
    for (uint32_t i = 0; i < t->n_chunks; i++) {
        left_at = 0;
        for (uint32_t k = 0; k < t->n_stages; k++)
            left_at = sl_flow_pass(&free_at[k], left_at, t->us[k][i]);
    }
    return left_at;
}

struct sl_pipeline_bound sl_pipeline_bound_of(const struct sl_chunk_times *alone,
                                              const struct sl_chunk_times *stages)
{
    struct sl_pipeline_bound bound = {1, 1};
    double sum = work_of(alone), most = 0, makespan = makespan_of(stages);
    for (uint32_t i = 0; i < alone->n_chunks; i++)
        most = alone->us[0][i] > most ? alone->us[0][i] : most;
    if (sum > 0 && stages->n_stages > 0)
        bound.fill_drain = sum / (sum + (stages->n_stages - 1) * most);
    if (makespan > 0)
        bound.split = work_of(stages) / stages->n_stages / bound.fill_drain / makespan;
    return bound;
}
