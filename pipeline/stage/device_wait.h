/* A stage without arithmetic: its chunks take what cost.h says of given coefficients, waited and not computed, and its rows are zeros.
 * Frames, pages, seals, credits and times are those of any stage. So pipelines of more stages than a machine has processors for
 * run as real processes (bench/figures/plan.py). What comes out of them is no text.
 *
 * Not a kind of device that a plan could name: a process says it of itself, once, before it makes a stage. */
#ifndef SL_PIPELINE_STAGE_DEVICE_WAIT_H
#define SL_PIPELINE_STAGE_DEVICE_WAIT_H

#include "kernels/device.h"
#include "pipeline/decide/cost.h"

/* Every stage that this process makes from now on waits so. Before any other thread is there. */
void sl_stage_waits(const struct sl_cost *cost);
/* What they wait for; false: none waits. */
bool sl_stage_waited(struct sl_cost *cost);
/* NULL: nobody has said so. */
const struct sl_device_ops *sl_device_wait(void);

#endif
