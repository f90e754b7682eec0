/* A stage as a state machine: records of the order log come in, are checked, applied in order and exactly once, and passed on
 * in the very frame they came in. Hidden rows are worked on in place, so a chunk is copied only by the network.
 *
 *   FRAME (ORDER)  -> queued
 *   SENT           -> the slot goes back upstream (its credit), the page's reader is done, the result's buffer is free
 *   step(NULL)     -> the record at the head, when pages, sends and buffers allow. RUN: embed (first), layers, KV pages to their
 *                     decode workers, then the next stage, or logits and RESULT (last). CANCEL, FREE: pages go back
 *
 * One thread; blocks nowhere; knows no io. */
#ifndef SL_NODE_ROLE_ROLE_STAGE_H
#define SL_NODE_ROLE_ROLE_STAGE_H

#include "node/role/step.h"
#include "pipeline/decide/foretold.h"

struct sl_stage_role;
sl_status sl_stage_role_create(struct sl_stage_role **role, const struct sl_role_config *config,
                               struct sl_err *err);
void sl_stage_role_destroy(struct sl_stage_role *role); /* no frame of it is being sent any more */

/* Who has a place of a decode worker, and over which link to that part of it; link 0: nobody any more. At creation: whom the plan has
 * from the start. */
void sl_stage_role_set_decoder(struct sl_stage_role *role, uint32_t decoder, uint32_t part, uint32_t life,
                               uint64_t link);

/* It need not run what only this CANCEL's sequence, and others that are cancelled, want. */
void sl_stage_role_foretell(struct sl_stage_role *role, struct sl_foretold_cancel cancel);

/* event: FRAME or SENT, or NULL for the next piece of work. Empties *actions first. After an error the role is over: SL_E_CORRUPT
 * (a frame failed its checksum) and SL_E_PROTOCOL (a record that can't be, a frame that does not belong here). */
sl_status sl_stage_role_step(struct sl_stage_role *role, const struct sl_io_event *event,
                             struct sl_role_actions *actions, struct sl_err *err);

#endif
