/* A part of a decode worker that is not its chief, as a state machine: the pages of its layers arrive as they do at a decode worker that
 * has all layers, the chief passes on what the coordinator asks for, and token steps go through.
 *
 *   FRAME (KV from stages; ADOPT, STEP, ENDS and what other parts tell from the part before) -> queued
 *   SENT         -> a slot is free again, which is the credit of the part before
 *   step(NULL)   -> one frame: a page is copied to its place; a sequence is named, or gone; the rows of a step go through the layers
 *                   and on to the next part in the slot in which they came
 *   TOKENS       <- what the chief would tell of itself: ARRIVED, ADOPTED (all pages of these layers are here), FAILED
 *
 * It decides nothing: which sequences step, grow or end is the chief's to say, and comes in order.
 * One thread; blocks nowhere; knows no io. */
#ifndef SL_NODE_ROLE_ROLE_PART_H
#define SL_NODE_ROLE_ROLE_PART_H

#include "node/role/step.h"

struct sl_part_role;
sl_status sl_part_role_create(struct sl_part_role **role, const struct sl_role_config *config,
                              struct sl_err *err);
void sl_part_role_destroy(struct sl_part_role *role); /* no frame of it is being sent any more */

/* As sl_decode_role_step: a KV frame that can't be ends its one sequence, anything else that can't be ends the role. */
sl_status sl_part_role_step(struct sl_part_role *role, const struct sl_io_event *event,
                            struct sl_role_actions *actions, struct sl_err *err);

#endif
