/* What the three files of the feed-forward share: one pass over one chunk. Private to the room. */
#ifndef SL_EXPERTS_EXPERTS_IMPL_H
#define SL_EXPERTS_EXPERTS_IMPL_H

#include "experts/experts.h"

enum {
    SL_EXPERTS_MAX_TOP_K = 64,
    WIDE_ROWS = 64, /* rows of a product of two digits at once: 64 x 1536 floats stay in the second cache */
    ROUTE_ROWS_PER_MEMBER = 8 /* from here on a member reads the router's matrix for rows of its own */
};

struct experts_pass {
    struct sl_experts *e;
    const struct sl_experts_weights *w;
    float *x;
    uint32_t n_rows;
    struct sl_panel first; /* the matrix that normed8 was quantised for: its rotation is in it */
    bool route_by_rows;
};

static inline struct sl_rows8 normed_second(const struct sl_experts *e)
{
    return sl_rows8_from(&e->normed8, e->max_tokens);
}
/* rows: the most that hidden8 has at its present stride, max_hidden for the routed experts, max_tokens for a single one */
static inline struct sl_rows8 hidden_second(const struct sl_experts *e, uint32_t rows)
{
    return sl_rows8_from(&e->hidden8, rows);
}
/* Columns of y = silu(gate) * up of `g` with the second digits too, in blocks of rows by way of the member's `wide`:
 * SwiGLU is not linear, so it has to wait until both digits are in. */
void sl_experts_swiglu2(struct sl_experts *e, const struct sl_gemm8 *g, const struct sl_rows8 *second,
                        float *wide, void *scratch);

void sl_experts_grouped(struct experts_pass *p); /* route and tasks -> outputs [pairs][d_model] */
void sl_experts_single(struct experts_pass *p);  /* dense or shared: onto x */

#endif
