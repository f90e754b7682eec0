/* How well a stage uses its machine: what it did since the last look, beside what the machine can
 * do at most.
 *
 * MFU is the time that the operations would take at the peaks of their instructions, over the time
 * in the layers and the head. A part that memory holds up cannot come near it; so there is the
 * roofline, which takes for each part the larger of the two limits, and says how much of the time
 * each limit explains. What neither explains is overhead, waiting, or kernels that could be better.
 * Ratios are of the recent past: each look counts nine tenths of what the next one counts.
 *
 * The peaks of a CPU are measured, those of a GPU are its kind's (kernels/cuda/kinds.h), and there MFU has a second ceiling for
 * integers, that of mma.sync. Of a GPU that is a twin nothing is a figure: all of it is 0. */
#ifndef SL_PIPELINE_STAGE_UTILISATION_H
#define SL_PIPELINE_STAGE_UTILISATION_H

#include "pipeline/stage/stage.h"

struct sl_utilisation {
    struct sl_roofline roofline; /* of the stage's threads, measured once a process, or of its GPU */
    struct sl_parts seen;        /* at the last look */
    uint64_t seen_run_ns;
    bool idle;                 /* a stage without weights, whose device computes nothing that has a peak */
    double run_ns, compute_ns; /* of the recent past, as are the next three */
    double mma_ns;             /* compute_ns, by mma.sync alone */
    double compute_bound_ns, memory_bound_ns;
};

/* Takes some 20 ms in a process that has not measured so many threads before. */
sl_status sl_utilisation_init(struct sl_utilisation *u, const struct sl_stage *stage, struct sl_err *err);

/* Between runs, the stage's thread. Returns the microseconds that the operations since the last
 * look take at the peaks of their instructions; 0 where the machine has only the reference kernels.
 */
uint64_t sl_utilisation_look(struct sl_utilisation *u, const struct sl_stage *stage);

static inline double sl_utilisation_ratio(const struct sl_utilisation *u, double ns)
{
    return u->run_ns > 0 ? ns / u->run_ns : 0;
}

#endif
