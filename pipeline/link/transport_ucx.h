/* What transport_ucx.c (lines), transport_ucx_open.c (context, worker, port) and transport_ucx_rows.c (rows in a device's memory) share;
 * private to the three. */
#ifndef SL_PIPELINE_LINK_TRANSPORT_UCX_H
#define SL_PIPELINE_LINK_TRANSPORT_UCX_H

#include "pipeline/link/link_impl.h"
#include "pipeline/link/shield.h"

#include <ucp/api/ucp.h>

enum { SL_UCX_AM_ID = 7, SL_UCX_ROWS_AM_ID = 8, SL_ENDS_MAX = 16 };

struct sl_end { /* a line's end on its way to the peer */
    bool busy;
    uint8_t label[SL_LABEL_BYTES];
};

struct sl_line {
    struct sl_line *next;
    struct sl_transport *transport;
    struct sl_trunk *trunk; /* NULL: there is no way to the peer */
    struct sl_conn *conn;
    ucp_ep_h from; /* over which its frames come; NULL: none has */
    uint64_t link, number;
    bool called; /* the peer was told that the line exists; who answers a call does not tell */
    bool hung_up, ended;
    bool over;         /* so is its link, as the peer is told */
    bool failed, told; /* the line is of no use any more; the hub was told */
    uint64_t hung_up_ms;
    const char *reason;
    uint32_t n_under_way; /* sends and receives */
    struct sl_way *rows;  /* of the frames that come; NULL: none have theirs beside */
};

struct sl_trunk {
    struct sl_trunk *next;
    struct sl_transport *transport;
    struct sl_io_address peer;
    int probe;                    /* a connection that is only tried; -1: none */
    uint64_t probed_ms, tried_ms; /* last, and since when */
    ucp_ep_h ep;                  /* NULL: not yet, or closing */
    bool failed, closing;
    bool stale; /* lines that are there stay, new ones take another */
    bool wired; /* the peer's end of it was there once: something was sent over it */
    uint64_t opened_ms;
    const char *reason;
    void *close_request;
    uint32_t n_lines;
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
    bool shielded;       /* it was taken at the start */
    bool has_rows;       /* in a device's memory, which its lines carry beside their frames */
    bool rows_on_twin;   /* whose memory is the host's */
    ucp_mem_h rows;      /* that memory; NULL: it is not registered */
    char tls[128];       /* what UCX may use, as UCX_TLS is written */
    uint64_t fell_ms;    /* when the log said last that rows would go by tcp; 0: never */
    uint64_t refused_ms; /* and that some were refused */
    uint32_t n_wanted;   /* peers that may come */
    uint64_t wanted_ms;  /* when some last were; 0: never */
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
                      ucp_am_recv_callback_t on_frame, ucp_am_recv_callback_t on_rows, struct sl_err *err);
void sl_ucx_close(struct sl_transport *transport); /* after every line and trunk */

void sl_ucx_line_failed(struct sl_line *line, const char *reason); /* static; the first one counts */

/* transport_ucx_rows.c. The peer has the rows of the frame of that number ready. */
ucs_status_t sl_ucx_rows_arrived(struct sl_line *line, uint64_t number, void *data, size_t bytes);
void sl_ucx_rows_refused(struct sl_line *line, const char *reason); /* static; the line is of no use */

#endif
