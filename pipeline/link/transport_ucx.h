/* What transport_ucx.c (lines) and transport_ucx_open.c (context, worker, port) share; private to the two. */
#ifndef SL_PIPELINE_LINK_TRANSPORT_UCX_H
#define SL_PIPELINE_LINK_TRANSPORT_UCX_H

#include "pipeline/link/shield.h"
#include "pipeline/link/transport_impl.h"

#include <ucp/api/ucp.h>

enum { SL_UCX_AM_ID = 7, SL_ENDS_MAX = 16 };

struct sl_end { /* a line's end on its way to the peer */
    bool busy;
    uint8_t label[SL_LABEL_BYTES];
};

struct sl_transport {
    struct sl_hub *hub;
    ucp_context_h context;
    ucp_worker_h worker;
    int fd;
    uint16_t port;
    char host[SL_IO_HOST_BYTES];
    struct sl_io_address address;
    uint64_t token; /* of the address: sl_ucx_token */
    struct sl_shield shield;
    bool shielded;      /* it was taken at the start */
    uint32_t n_wanted;  /* peers that may come */
    uint64_t wanted_ms; /* when some last were; 0: never */
    uint64_t looked_ms;
    bool said_lost, said_other;
    uint64_t said[SL_SHIELD_PEERS]; /* tokens of peers that do not hear us, as the log says */
    uint32_t n_said;
    struct sl_trunk *trunks;
    struct sl_line *lines;
    struct sl_end ends[SL_ENDS_MAX];
};

/* An address of ours, as bytes: a version, where the tcp port is (to probe it, and to let its owner in), the worker's address. */
struct sl_ucx_address {
    struct sockaddr_storage at;
    socklen_t bytes;
    const uint8_t *worker; /* within what was read */
    size_t worker_bytes;
};
sl_status sl_ucx_address_read(struct sl_ucx_address *out, const struct sl_io_address *address);
/* By which one who calls is known to be at that address: a digest of it. A worker's address has a random number in it, so
 * nobody guesses the token of one that he was not told. */
uint64_t sl_ucx_token(const struct sl_io_address *address);

sl_status sl_ucx_open(struct sl_transport **transport, struct sl_hub *hub, const struct sl_io_config *config,
                      ucp_am_recv_callback_t on_frame, struct sl_err *err);
void sl_ucx_close(struct sl_transport *transport); /* after every line and trunk */

#endif
