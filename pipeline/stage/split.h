/* A layer of a stage in pieces, for who has a layer's rows and experts on several nodes and so has something to exchange in
 * between. No pipeline does: it is what bench/layout_experts.c measures against one, with the same kernels, weights and pages.
 *
 * Only for a stage on the CPU, walked by hand: sl_device_ops.begin of its device with the rows and their slices, then for each
 * layer the pieces below. Nothing is left to the next layer or to finish, as it is in sl_stage_run. */
#ifndef SL_PIPELINE_STAGE_SPLIT_H
#define SL_PIPELINE_STAGE_SPLIT_H

#include "experts/experts.h"
#include "kernels/device.h"
#include "pipeline/stage/stage.h"

/* Of the rows begun. append: up to K and V in the pages; attend: what is left, when every page of those before is there. */
void sl_split_append(struct sl_stage *stage, uint32_t layer);
void sl_split_attend(struct sl_stage *stage, uint32_t layer);
/* The feed-forward block of the stage's device, and its weights: experts.h has the pieces. */
struct sl_experts *sl_split_experts(struct sl_stage *stage);
const struct sl_experts_weights *sl_split_weights(struct sl_stage *stage, uint32_t layer);

#endif
