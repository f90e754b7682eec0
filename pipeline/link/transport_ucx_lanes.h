/* Which of its transports UCX has taken for an endpoint, where rows of a GPU's memory go over it. What it cannot use for a peer it
 * leaves out without a word, tcp in the end, so its own words about the endpoint are read (ucp_ep_print_info). Pure functions of texts. */
#ifndef SL_PIPELINE_LINK_TRANSPORT_UCX_LANES_H
#define SL_PIPELINE_LINK_TRANSPORT_UCX_LANES_H

#include <stdbool.h>

struct sl_ucx_lanes {
    char list
        [128]; /* "tcp/lo, cuda_ipc/cuda": transport and device of each, as many as fit; "": there is none */
    bool more,
        reaches; /* one of them is not tcp; and can read and write memory there without copies on the way (rma_bw) */
};
/* Of the words of UCX 1.13 to 1.22. */
struct sl_ucx_lanes sl_ucx_lanes_read(const char *text);
/* Whether UCX_TLS so written asks for anything that brings rows to another process but tcp. */
bool sl_ucx_tls_has_more(const char *tls);

#endif
