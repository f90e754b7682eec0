/* What the three files of the feed-forward share: one pass over one chunk. Private to the room. */
#ifndef SL_EXPERTS_EXPERTS_IMPL_H
#define SL_EXPERTS_EXPERTS_IMPL_H

#include "experts/experts.h"

enum {
    SL_EXPERTS_MAX_TOP_K = 64,
    ROUTE_ROWS_PER_MEMBER = 8 /* from here on a member reads the router's matrix for rows of its own */
};

struct pass {
    struct sl_experts *e;
    const struct sl_experts_weights *w;
    float *x;
    uint32_t n_rows;
    struct sl_panel first; /* the matrix that normed8 was quantised for: its rotation is in it */
    bool route_by_rows;
};

void sl_experts_grouped(struct pass *p); /* route and schedule -> outputs [pairs][d_model] */
void sl_experts_single(struct pass *p);  /* dense or shared: onto x */

#endif
