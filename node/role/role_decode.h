/* The decode worker as a state machine: KV pages arrive from every stage while prefill still runs; when the coordinator has
 * named the sequence and its last page is here, it is adopted and joins the batch between two token steps.
 *
 *   FRAME (KV, ADOPT) -> queued
 *   SENT              -> a TOKENS buffer is free again
 *   step(NULL)        -> one frame of the queue: a page is copied to its place, a sequence is named or cancelled;
 *                        or one token of every adopted sequence: embed, all layers, logits, sample
 *   TOKENS            <- what came of it, at most one frame a step
 *
 * Whatever a step may have to say fits one TOKENS buffer, and without a free one no work is done: a coordinator that takes no
 * TOKENS stops the tokens, then the frames stay in their slots and credits stop the stages. Nothing is lost or kept beyond that.
 *
 * Several answers to one prompt are sequences of their own: TAKE names index 0 and says how many FORKs follow, each of which names
 * another that shares the pages which the prompt fills and gets a copy of the one that it does not. Index 0 waits for them, so
 * that what is copied is the prompt alone; if its text has ended already it is silent, and ends when they have what they need.
 *
 * The batch never changes a sequence's bits: its row depends on its own pages and its random numbers on (seed, index).
 * One thread; blocks nowhere; knows no io. */
#ifndef SL_NODE_ROLE_ROLE_DECODE_H
#define SL_NODE_ROLE_ROLE_DECODE_H

#include "node/role/step.h"

struct sl_decode_role;
sl_status sl_decode_role_create(struct sl_decode_role **role, const struct sl_role_config *config,
                                struct sl_err *err);
void sl_decode_role_destroy(struct sl_decode_role *role); /* no frame of it is being sent any more */

/* As sl_stage_role_step. A damaged or impossible KV frame ends its one sequence (FAILED, SL_E_CORRUPT); a damaged ADOPT is
 * SL_E_CORRUPT, one that can't be is SL_E_PROTOCOL, and the role is over. */
sl_status sl_decode_role_step(struct sl_decode_role *role, const struct sl_io_event *event,
                              struct sl_role_actions *actions, struct sl_err *err);

#endif
