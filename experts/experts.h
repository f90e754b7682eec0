/* The feed-forward of one layer over one chunk: norm, then either a dense gated feed-forward or the routed experts
 * (all resident) with an optional shared expert; the result is added onto the residual.
 *
 * Routed, two runs of the team: (1) by rows: norm, quantise, gate logits, top-k; (2) the experts, cut by tasks.h:
 * gate|up, SwiGLU, quantise, down. What is left is by rows, too, and is done by whoever reads them next, before the norm
 * of the next layer: the sum over a token's top_k experts in rank order, one FMA chain that starts from the residual. No
 * atomics on data: every (token, expert) pair has its own row. (Few rows share out the router's matrix in a third run.)
 *
 * Weights may be floats or integers (kernels/quant.h), each matrix by itself: an integer matrix takes its rows in s8, and
 * a token is quantised once, however many experts it goes to. */
#ifndef SL_EXPERTS_EXPERTS_H
#define SL_EXPERTS_EXPERTS_H

#include "experts/tasks.h"
#include "kernels/blocks.h"
#include "kernels/observe.h"
#include "kernels/team_ops.h"
#include <stdatomic.h>

struct sl_experts {
    const struct sl_ops *ops;
    struct sl_team *team;
    struct sl_experts_dims dims;
    struct sl_route route;
    struct sl_expert_tasks tasks;
    const struct sl_observer *observer; /* or NULL */
    struct sl_row_finish finish;        /* of the rows below: what the routed experts add to them */
    float *x;
    uint32_t n_rows;
    float *normed;  /* [max_tokens][d_model] */
    float *logits;  /* [max_tokens][n_experts] */
    float *hidden;  /* [pairs][d_expert], or [max_tokens][d_single] */
    float *outputs; /* [pairs][d_model], or [max_tokens][d_model] */
    /* the same in s8; second digits (kernels/panel.h) follow the first ones of all rows */
    struct sl_rows8 normed8;
    struct sl_rows8 hidden8;
    uint32_t max_tokens, max_hidden; /* rows of normed8 and of hidden8 */
    float *wide;        /* [members][WIDE_ROWS][gate and up]: a product of two digits before SwiGLU */
    size_t wide_floats; /* of one member */
    /* [tasks]: by columns, gate|up pieces not yet done; LEFT_READY when hidden8 is there too */
    _Atomic uint32_t *left;
};

size_t sl_experts_bytes(const struct sl_experts_dims *dims, uint32_t max_tokens, uint32_t n_members);
sl_status sl_experts_init(struct sl_experts *e, struct sl_arena *arena, const struct sl_ops *ops,
                          struct sl_team *team, const struct sl_experts_dims *dims, uint32_t max_tokens);

/* x: [n_rows][d_model], in place. The team's scratch holds at least a row of floats of the widest input. The outputs of
 * routed experts are not in x before e->finish has been run: by the next layer's first work on rows (attention.h), or by
 * sl_experts_finish after the last layer. */
void sl_experts_run(struct sl_experts *e, const struct sl_experts_weights *w, float *x, uint32_t n_rows);
void sl_experts_finish(struct sl_experts *e);

/* The same in pieces, for who has the experts of a layer on several nodes (bench/layout_experts.c): rows are chosen for where
 * they lie, their pairs computed where the experts are, and summed where the rows are, by ops->combine in rank order.
 * choose: normed, normed8 (as the routed experts want it, else as the single one) and of the route experts and gates.
 * serve: the caller has put rows into normed or normed8 and filled the route's offsets and rows; their pairs go to outputs.
 * add_single: behind choose, and when all else is in x; nothing where there is none. */
void sl_experts_choose(struct sl_experts *e, const struct sl_experts_weights *w, float *x, uint32_t n_rows);
void sl_experts_serve(struct sl_experts *e, const struct sl_experts_weights *w);
void sl_experts_add_single(struct sl_experts *e, const struct sl_experts_weights *w, float *x,
                           uint32_t n_rows);

#endif
