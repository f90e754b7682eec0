/* What chunks of a stage should take, by its shape and the peaks of what computes them, when nobody has measured one yet: operations
 * over the peaks of their instructions, bytes over the speed of memory. It is what measuring begins with (calibrate.h), and how long
 * a GPU is waited for. Pure. */
#ifndef SL_PIPELINE_STAGE_PRIOR_H
#define SL_PIPELINE_STAGE_PRIOR_H

#include "kernels/roofline.h"
#include "pipeline/stage/stage.h"

/* roofline: of the stage's threads, or of its GPU; all zeros, as of one that is a twin or of no known kind: of the slowest GPU that
 * has kernels of ours. */
void sl_stage_prior(struct sl_cost *prior, const struct sl_stage *stage, const struct sl_roofline *roofline);
/* What chunks take on a GPU of which kernels get no more than a small part: many times what is to be expected, and no figure. */
void sl_stage_at_worst(struct sl_cost *cost, const struct sl_stage *stage, const struct sl_roofline *gpu);

#endif
