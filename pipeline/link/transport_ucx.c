/* Lines over UCX: UCP active messages, our header as the AM header, rendezvous from 64 KiB on. One of the files that include
 * UCX; transport_ucx_open.c makes what this one uses.
 *
 * The I/O thread owns one single-threaded worker in event mode: the worker's fd is polled, never spun on. Error handling is
 * PEER on every endpoint, so a dead neighbour ends its sends instead of hanging them; that a neighbour is silent but not dead
 * (stopped, unreachable) UCX does not notice: the hub's heartbeat does.
 *
 * There is no UCX listener. Nodes know each other's worker addresses before they speak, and an endpoint is made to such an
 * address only: one that calls is answered at the address where the peer of its link was planned to be, not at the one it came
 * from. Between two workers there is one endpoint, the trunk, and lines share it: UCX pairs the endpoints of two workers by the
 * order in which each side made them, so with one endpoint for each line, the end of one line would take the wrong other one
 * with it. Which line a frame is of says the label before its header: the link, and a number that the caller drew. A line that
 * ends says so (LABEL_END, or LABEL_OVER when its link ends with it); the trunk ends with its last line, or when one of them cannot get its buffers back.
 *
 * What is left open is the tcp port of UCX itself, where peers connect for a trunk. It is shielded (shield.h): connections are
 * taken from the addresses of planned peers only, and from nobody once all links are up. The same shield drops the first packet
 * of a peer that is early; as an endpoint would wait a second or more to try again, a connection is tried with a socket of our
 * own before one is made.
 *
 * UCX forbids closing an endpoint from its callbacks, so those only mark a trunk and progress does the rest; `closed` is told
 * when every send and receive of the line has ended. */
#include "pipeline/link/transport_ucx.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "pipeline/link/data_address.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    RNDV_BYTES = 64 * 1024,
    LOOK_MS = 200,          /* at the listener, while peers may come */
    PROBE_MS = 200,         /* for a connection that is only tried */
    UNHEARD_MS = 60 * 1000, /* a peer that is early loads its weights first; longer is worth a word */
    QUIET_MS = 100,         /* nothing was heard for so long: nobody is connecting any more */
    PATIENCE_MS = 1000      /* for a line that has hung up to get its buffers back, before its trunk is cut */
};
enum label_kind { LABEL_CALL = 1, LABEL_FRAME, LABEL_END, LABEL_OVER };

static uint64_t clock_ms(void)
{
    return sl_clock_ns() / 1000000u;
}

static sl_status status_of(ucs_status_t status)
{
    switch (status) {
    case UCS_OK:
        return SL_OK;
    case UCS_ERR_CANCELED:
        return SL_E_CANCELLED;
    case UCS_ERR_NO_MEMORY:
        return SL_E_NOMEM;
    default:
        return SL_E_PEER_LOST;
    }
}

void sl_ucx_line_failed(struct sl_line *line, const char *reason)
{
    line->failed = true;
    if (!line->reason)
        line->reason = reason;
}

static void trunk_failed(struct sl_trunk *trunk, const char *reason)
{
    trunk->failed = true;
    if (!trunk->reason)
        trunk->reason = reason;
}

static void on_endpoint_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    (void)ep;
    trunk_failed(arg, ucs_status_string(status));
}

/* ---- labels ---- */

static void label_put(uint8_t out[SL_LABEL_BYTES], const struct sl_transport *from, uint64_t link,
                      uint64_t number, enum label_kind kind)
{
    sl_put64(out, link);
    sl_put64(out + 8, number);
    sl_put64(out + 16, kind);
    sl_put64(out + 24, from->token);
}

static void on_end_said(void *request, ucs_status_t status, void *user)
{
    struct sl_end *end = user;
    (void)status; /* a peer that does not hear it finds out by its heartbeat */
    end->busy = false;
    ucp_request_free(request);
}

/* Best effort: at most so many are under way, and what is not told is found out by the peer's timers. */
static void say_end(struct sl_transport *t, ucp_ep_h ep, uint64_t link, uint64_t number, enum label_kind kind)
{
    static const uint8_t padding[8];
    struct sl_end *end = t->ends;
    while (end < t->ends + SL_ENDS_MAX && end->busy)
        end++;
    if (end == t->ends + SL_ENDS_MAX)
        return;
    label_put(end->label, t, link, number, kind);
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK |
                                                 UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                                 .flags = UCP_AM_SEND_FLAG_EAGER,
                                 .cb.send = on_end_said,
                                 .user_data = end,
                                 .memory_type = UCS_MEMORY_TYPE_HOST};
    ucs_status_ptr_t request =
        ucp_am_send_nbx(ep, SL_UCX_AM_ID, end->label, sizeof end->label, padding, sizeof padding, &param);
    end->busy = UCS_PTR_IS_PTR(request);
}

/* ---- sending ---- */

static void on_sent(void *request, ucs_status_t status, void *user)
{
    struct sl_sending *sending = user;
    struct sl_line *line = sl_conn_line(sending->conn);
    line->n_under_way--;
    line->trunk->wired |= status == UCS_OK;
    ucp_request_free(request);
    sl_sending_done(sending, status_of(status));
}

static void ucx_send(struct sl_line *line, struct sl_sending *sending)
{
    struct sl_trunk *trunk = line->trunk;
    if (!trunk || !trunk->ep || trunk->failed || line->failed) {
        sl_sending_done(sending, SL_E_PEER_LOST);
        return;
    }
    label_put(sending->label, line->transport, line->link, line->number,
              line->called ? LABEL_FRAME : LABEL_CALL);
    line->called = true;
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK |
                                                 UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                                 .flags = UCP_AM_SEND_FLAG_REPLY,
                                 .cb.send = on_sent,
                                 .user_data = sending,
                                 .memory_type = UCS_MEMORY_TYPE_HOST};
    param.flags |= sending->bytes >= RNDV_BYTES ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER;
    line->n_under_way++;
    const uint8_t *whole = (const uint8_t *)sending + offsetof(struct sl_sending, label);
    ucs_status_ptr_t request =
        ucp_am_send_nbx(trunk->ep, SL_UCX_AM_ID, whole, SL_LABEL_BYTES + sizeof sending->header,
                        sending->payload, sending->bytes, &param);
    if (UCS_PTR_IS_PTR(request))
        return;
    line->n_under_way--;
    if (UCS_PTR_IS_ERR(request))
        sl_ucx_line_failed(line, ucs_status_string(UCS_PTR_STATUS(request)));
    else
        trunk->wired = true;
    sl_sending_done(sending, UCS_PTR_IS_ERR(request) ? status_of(UCS_PTR_STATUS(request)) : SL_OK);
}

/* ---- trunks ---- */

static struct sl_trunk *trunk_to(struct sl_transport *t, const struct sl_io_address *peer)
{
    for (struct sl_trunk *trunk = t->trunks; trunk; trunk = trunk->next)
        if (!trunk->closing && !trunk->failed && !trunk->stale && trunk->peer.n == peer->n &&
            memcmp(trunk->peer.bytes, peer->bytes, peer->n) == 0)
            return trunk;
    struct sl_trunk *trunk = calloc(1, sizeof *trunk);
    if (!trunk)
        return NULL;
    trunk->transport = t;
    trunk->peer = *peer;
    trunk->probe = -1;
    trunk->tried_ms = clock_ms();
    trunk->next = t->trunks;
    t->trunks = trunk;
    return trunk;
}

static void probe_end(struct sl_trunk *trunk)
{
    if (trunk->probe >= 0)
        close(trunk->probe);
    trunk->probe = -1;
}

static bool is_first_word_about(struct sl_transport *t, const struct sl_io_address *peer)
{
    uint64_t token = sl_ucx_token(peer);
    for (uint32_t i = 0; i < t->n_said; i++)
        if (t->said[i] == token)
            return false;
    if (t->n_said == SL_SHIELD_PEERS)
        return false;
    t->said[t->n_said++] = token;
    return true;
}

/* A peer hears this node at the address that it was told, and drops all else without a word. Whether connections leave from there
 * is seen here only. */
static void look_at_source(struct sl_trunk *trunk, const struct sockaddr_storage *to)
{
    struct sl_transport *t = trunk->transport;
    struct sockaddr_storage from;
    struct sl_ucx_address own;
    socklen_t bytes = sizeof from;
    char source[SL_IO_HOST_BYTES], peer[SL_IO_HOST_BYTES];
    if (sl_ucx_address_read(&own, &t->address) != SL_OK ||
        getsockname(trunk->probe, (struct sockaddr *)&from, &bytes) != 0)
        return;
    bool differs = !sl_data_address_same(&from, &own.at);
    bool long_unheard = clock_ms() - trunk->tried_ms >= UNHEARD_MS;
    if (!(differs || long_unheard) || !is_first_word_about(t, &trunk->peer))
        return;
    sl_data_address_text(&from, source, sizeof source);
    sl_data_address_text(to, peer, sizeof peer);
    if (differs)
        sl_log_warn(
            "data connections to %s leave this machine from %s, but the node there hears this one from %s only; "
            "start this node with --data-address %s, or change the route to %s",
            peer, source, t->host, source, peer);
    else
        sl_log_warn(
            "the node at %s has taken no data connection from %s for %d s: it may be loading its weights, or what "
            "this node sends arrives from another address (address translation), from which it hears nobody",
            peer, source, UNHEARD_MS / 1000);
}

/* Does the peer take connections? SL_AGAIN: not known yet, or not yet; SL_E_REFUSED: nobody listens there. */
static sl_status trunk_probe(struct sl_trunk *trunk, const struct sockaddr_storage *at, socklen_t bytes)
{
    if (trunk->probe < 0) {
        trunk->probe = socket(at->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        trunk->probed_ms = clock_ms();
        if (trunk->probe < 0)
            return SL_E_EXHAUSTED;
        if (connect(trunk->probe, (const struct sockaddr *)at, bytes) != 0 && errno != EINPROGRESS) {
            int error = errno;
            probe_end(trunk);
            return error == ECONNREFUSED ? SL_E_REFUSED : SL_E_PEER_LOST;
        }
        look_at_source(trunk, at);
    }
    struct pollfd fd = {.fd = trunk->probe, .events = POLLOUT};
    int error = 0;
    socklen_t error_bytes = sizeof error;
    if (poll(&fd, 1, 0) == 0) {
        if (clock_ms() - trunk->probed_ms >= PROBE_MS)
            probe_end(trunk); /* the next one is heard at once, this one's second try comes after a second */
        return SL_AGAIN;
    }
    getsockopt(trunk->probe, SOL_SOCKET, SO_ERROR, &error, &error_bytes);
    probe_end(trunk);
    return error == ECONNREFUSED ? SL_E_REFUSED : error ? SL_E_PEER_LOST : SL_OK;
}

static sl_status trunk_open(struct sl_trunk *trunk, const struct sl_ucx_address *peer)
{
    ucp_ep_params_t param = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                                           UCP_EP_PARAM_FIELD_ERR_HANDLER |
                                           UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
                             .address = (const ucp_address_t *)peer->worker,
                             .err_handler = {on_endpoint_error, trunk},
                             .err_mode = UCP_ERR_HANDLING_MODE_PEER};
    trunk->opened_ms = clock_ms();
    if (ucp_ep_create(trunk->transport->worker, &param, &trunk->ep) == UCS_OK)
        return SL_OK;
    trunk->ep = NULL;
    trunk_failed(trunk, "UCX makes no endpoint to the peer");
    return SL_E_PEER_LOST;
}

/* Its other end is being made: what is sent waits for that. It must not be closed now: in UCX 1.13 it is an assertion at the
 * peer when its answer finds the endpoint that called it closed. */
static bool is_being_wired(const struct sl_trunk *trunk)
{
    return trunk->ep && !trunk->failed && !trunk->wired && clock_ms() - trunk->opened_ms < PATIENCE_MS;
}

/* From here on its sends and receives come home, those which cannot go on with an error. */
static void trunk_close(struct sl_trunk *trunk, const char *reason)
{
    if (trunk->closing)
        return;
    trunk_failed(trunk, reason);
    trunk->closing = true;
    probe_end(trunk);
    if (!trunk->ep)
        return;
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_EP_CLOSE_FLAG_FORCE};
    ucs_status_ptr_t request = ucp_ep_close_nbx(trunk->ep, &param);
    trunk->close_request = UCS_PTR_IS_PTR(request) ? request : NULL;
    trunk->ep = NULL;
}

/* True: it is gone. */
static bool trunk_step(struct sl_trunk *trunk)
{
    bool tried_in_vain = !trunk->ep && clock_ms() - trunk->probed_ms > PATIENCE_MS;
    if (!trunk->closing && trunk->n_lines == 0 && (trunk->ep || trunk->failed || tried_in_vain) &&
        !is_being_wired(trunk))
        trunk_close(trunk, "its last line has ended");
    if (trunk->failed && !trunk->closing)
        trunk_close(trunk, NULL);
    if (!trunk->closing || trunk->n_lines > 0)
        return false;
    if (trunk->close_request) {
        if (ucp_request_check_status(trunk->close_request) == UCS_INPROGRESS)
            return false;
        ucp_request_free(trunk->close_request);
    }
    struct sl_trunk **at = &trunk->transport->trunks;
    while (*at != trunk)
        at = &(*at)->next;
    *at = trunk->next;
    free(trunk);
    return true;
}

/* ---- lines ---- */

static struct sl_line *line_new(struct sl_transport *t, uint64_t link, uint64_t number)
{
    struct sl_line *line = calloc(1, sizeof *line);
    if (!line)
        return NULL;
    line->transport = t;
    line->link = link;
    line->number = number;
    line->next = t->lines;
    t->lines = line;
    return line;
}

static void line_use(struct sl_line *line, struct sl_trunk *trunk)
{
    line->trunk = trunk;
    trunk->n_lines++;
}

static void line_unlink(struct sl_line *line)
{
    struct sl_line **at = &line->transport->lines;
    while (*at != line)
        at = &(*at)->next;
    *at = line->next;
    if (line->trunk)
        line->trunk->n_lines--;
    free(line);
}

static struct sl_line *line_of(struct sl_transport *t, uint64_t link, uint64_t number)
{
    struct sl_line *line = t->lines;
    while (line && (line->link != link || line->number != number))
        line = line->next;
    return line;
}

static sl_status ucx_connect(struct sl_transport *t, uint64_t link, const struct sl_io_address *address,
                             struct sl_conn *conn, struct sl_line **out)
{
    struct sl_ucx_address peer;
    uint64_t number;
    SL_TRY(sl_ucx_address_read(&peer, address));
    struct sl_trunk *trunk = trunk_to(t, address);
    if (!trunk)
        return SL_E_NOMEM;
    if (!trunk->ep) {
        SL_TRY(trunk_probe(trunk, &peer.at, peer.bytes));
        SL_TRY(trunk_open(trunk, &peer));
    }
    SL_TRY(sl_random_bytes(&number, sizeof number));
    struct sl_line *line = line_new(t, link, number);
    if (!line)
        return SL_E_NOMEM;
    line->conn = conn;
    line_use(line, trunk);
    *out = line;
    return SL_OK;
}

/* Who waits for this link expects it from somewhere: a caller that is elsewhere is turned away, and answers go there only. */
static struct sl_line *answer_call(struct sl_transport *t, uint64_t link, uint64_t number, uint64_t token,
                                   ucp_ep_h from)
{
    struct sl_ucx_address peer;
    const struct sl_io_address *address = sl_hub_awaits(t->hub, link);
    if (!address || sl_ucx_address_read(&peer, address) != SL_OK)
        return NULL;
    if (sl_ucx_token(address) != token) {
        char host[SL_IO_HOST_BYTES];
        sl_hub_refused(t->hub);
        sl_data_address_text(&peer.at, host, sizeof host);
        if (!t->said_other)
            sl_log_warn(
                "a call for the link with the node at %s came from another node and was turned away; one of an old "
                "plan or of another cluster may still run there: stop it",
                host);
        t->said_other = true;
        return NULL;
    }
    struct sl_trunk *trunk = trunk_to(t, address);
    if (trunk && trunk->ep &&
        trunk->ep != from) { /* the peer has made a new endpoint: what it answers to is not this one */
        trunk->stale = true;
        trunk = trunk_to(t, address);
    }
    if (!trunk || (!trunk->ep && trunk_open(trunk, &peer) != SL_OK))
        return NULL;
    probe_end(trunk); /* it came to us first */
    struct sl_line *line = line_new(t, link, number);
    if (!line)
        return NULL;
    line->called = true;
    line->from = from;
    line_use(line, trunk);
    line->conn = sl_hub_accept(t->hub, line, link);
    if (!line->conn) {
        line_unlink(line);
        return NULL;
    }
    return line;
}

static void ucx_hangup(struct sl_line *line, enum sl_hangup how)
{
    line->hung_up = true;
    line->over = how == SL_HANGUP_OVER;
    if (how == SL_HANGUP_BROKEN && line->trunk)
        line->trunk->stale = true; /* packets may vanish on it: the next line takes another */
    line->hung_up_ms = clock_ms();
}

static bool is_last_of_trunk(const struct sl_line *line)
{
    for (const struct sl_line *other = line->transport->lines; other; other = other->next)
        if (other->trunk == line->trunk && !other->hung_up)
            return false;
    return true;
}

/* Ends a line that was hung up, when all that is under way has come home. True when it is gone. */
static bool line_close(struct sl_line *line)
{
    struct sl_trunk *trunk = line->trunk;
    if (!line->ended && trunk && trunk->ep && !trunk->failed && line->called)
        say_end(line->transport, trunk->ep, line->link, line->number, line->over ? LABEL_OVER : LABEL_END);
    line->ended = true;
    if (line->n_under_way > 0) {
        if (trunk && ((is_last_of_trunk(line) && !is_being_wired(trunk)) ||
                      clock_ms() - line->hung_up_ms > PATIENCE_MS))
            trunk_close(trunk, "another link with this peer could not be ended");
        return false;
    }
    struct sl_conn *conn = line->conn;
    line_unlink(line);
    if (conn)
        sl_conn_closed(conn);
    return true;
}

/* While somebody may come: is there still a listener? */
static void look_at_listener(struct sl_transport *t)
{
    t->looked_ms = clock_ms();
    if (sl_shield_lives(&t->shield) || t->said_lost)
        return;
    t->said_lost = true;
    sl_log_error(
        "UCX has closed its data port %u, as it does when file descriptors run out: links that are up go on, new ones "
        "cannot come; raise the limit of open files (ulimit -n) and start this node again",
        t->port);
}

static bool ucx_progress(struct sl_transport *t)
{
    bool any = ucp_worker_progress(t->worker) != 0;
    for (struct sl_line *line = t->lines, *next; line; line = next) {
        next = line->next;
        if (line->trunk && line->trunk->failed)
            sl_ucx_line_failed(line, line->trunk->reason);
        if (line->failed && !line->told && !line->hung_up && line->conn) {
            line->told = true;
            sl_conn_broken(line->conn, SL_E_PEER_LOST, line->reason);
            any = true;
        }
        if (line->hung_up)
            any |= line_close(line);
    }
    for (struct sl_trunk *trunk = t->trunks, *next; trunk; trunk = next) {
        next = trunk->next;
        any |= trunk_step(trunk);
    }
    if (t->n_wanted > 0) {
        t->wanted_ms = clock_ms();
        if (t->wanted_ms - t->looked_ms >= LOOK_MS)
            look_at_listener(t);
    }
    return any;
}

/* ---- receiving ---- */

static void on_received(void *request, ucs_status_t status, size_t bytes, void *user)
{
    struct sl_landing *landing = user;
    (void)bytes; /* the hub compared the announced length with the header before it named a place */
    sl_conn_line(landing->conn)->n_under_way--;
    ucp_request_free(request);
    sl_conn_landed(landing, status_of(status));
}

/* All frames of a line come over one endpoint, the one that brought its call or the first answer to it: who has learned a line's
 * number speaks over another. */
static bool is_of_its_peer(struct sl_line *line, const ucp_am_recv_param_t *param)
{
    ucp_ep_h from = param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP ? param->reply_ep : NULL;
    if (!line->from)
        line->from = from;
    return from && line->from == from;
}

/* The line of a frame by its label; a call for a link that waits makes one. */
static struct sl_line *line_by_label(struct sl_transport *t, const uint8_t *label, size_t bytes,
                                     const ucp_am_recv_param_t *param)
{
    if (bytes < SL_LABEL_BYTES)
        return NULL;
    uint64_t link = sl_get64(label), number = sl_get64(label + 8), kind = sl_get64(label + 16);
    struct sl_line *line = line_of(t, link, number);
    if (kind == LABEL_END || kind == LABEL_OVER) {
        if (line)
            sl_ucx_line_failed(line, "the peer closed the line");
        if (line && line->conn && kind == LABEL_OVER)
            sl_conn_over(line->conn);
        return NULL;
    }
    if (line && !is_of_its_peer(line, param)) {
        sl_hub_refused(t->hub);
        return NULL;
    }
    bool awaited = !line && kind == LABEL_CALL && sl_hub_awaits(t->hub, link);
    if (awaited)
        line = answer_call(t, link, number, sl_get64(label + 24),
                           param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP ? param->reply_ep : NULL);
    if (!line && param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP)
        say_end(t, param->reply_ep, link, number, kind == LABEL_CALL && !awaited ? LABEL_OVER : LABEL_END);
    return line && line->conn && !line->hung_up ? line : NULL;
}

/* A frame begins: the hub checks its header and names the slot. Returning UCS_OK without a receive drops it, and the sender
 * will believe that it was delivered; that is why a frame counts only when its credit comes back (ucx-nccl.md 5). */
static ucs_status_t on_frame(void *arg, const void *header, size_t header_bytes, void *data, size_t bytes,
                             const ucp_am_recv_param_t *param)
{
    struct sl_transport *t = arg;
    struct sl_line *line = line_by_label(t, header, header_bytes, param);
    if (!line)
        return UCS_OK;
    struct sl_landing *landing = sl_conn_arrived(line->conn, (const uint8_t *)header + SL_LABEL_BYTES,
                                                 header_bytes - SL_LABEL_BYTES, bytes);
    if (!landing)
        return UCS_OK;
    if (!(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
        memcpy(landing->to, data, bytes);
        sl_conn_landed(landing, SL_OK);
        return UCS_OK;
    }
    ucp_request_param_t recv = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                                                UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                                .cb.recv_am = on_received,
                                .user_data = landing,
                                .memory_type = UCS_MEMORY_TYPE_HOST};
    if (landing->region) {
        recv.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
        recv.memh = landing->region;
    }
    line->n_under_way++;
    ucs_status_ptr_t request = ucp_am_recv_data_nbx(t->worker, data, landing->to, bytes, &recv);
    if (UCS_PTR_IS_PTR(request))
        return UCS_INPROGRESS;
    line->n_under_way--;
    if (UCS_PTR_IS_ERR(request))
        sl_ucx_line_failed(line, ucs_status_string(UCS_PTR_STATUS(request)));
    sl_conn_landed(landing, UCS_PTR_IS_ERR(request) ? status_of(UCS_PTR_STATUS(request)) : SL_OK);
    return UCS_OK;
}

/* Rows of a frame that came, or is about to. */
static ucs_status_t on_rows(void *arg, const void *label, size_t label_bytes, void *data, size_t bytes,
                            const ucp_am_recv_param_t *param)
{
    struct sl_transport *t = arg;
    struct sl_line *line = label_bytes == SL_LABEL_BYTES
                               ? line_of(t, sl_get64(label), sl_get64((const uint8_t *)label + 8))
                               : NULL;
    if (!line || !line->conn || line->hung_up)
        return UCS_OK;
    if (!is_of_its_peer(line, param)) {
        sl_hub_refused(t->hub);
        return UCS_OK;
    }
    if (!(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
        sl_ucx_rows_refused(line, "rows came without being asked for");
        return UCS_OK;
    }
    return sl_ucx_rows_arrived(line, sl_get64((const uint8_t *)label + 16), data, bytes);
}

/* ---- the table ---- */

static void ucx_admit(struct sl_transport *t, const struct sl_io_address *const *peers, uint32_t n_peers)
{
    struct sockaddr_storage at[SL_SHIELD_PEERS];
    struct sl_ucx_address peer;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_peers && n < SL_SHIELD_PEERS; i++)
        if (sl_ucx_address_read(&peer, peers[i]) == SL_OK)
            at[n++] = peer.at;
    t->n_wanted = n;
    sl_shield_admit(&t->shield, at, n);
    look_at_listener(t);
}

/* What is still told, trunks that are closing. */
static bool is_busy(const struct sl_transport *t)
{
    bool busy = t->trunks != NULL;
    for (int i = 0; i < SL_ENDS_MAX; i++)
        busy |= t->ends[i].busy;
    return busy;
}

/* May somebody be connecting who does not know yet that this node ends? In UCX 1.13 it is an assertion, there, when the other end
 * is gone in the middle of that, and here, when an answer to it is still to be sent. */
static bool may_be_called(const struct sl_transport *t, uint64_t now_ms)
{
    return !t->shielded || (t->wanted_ms > 0 && now_ms - t->wanted_ms < PATIENCE_MS);
}

/* A flush of the worker is over when none of its connections is still being made. Returns the request of one that is not. */
static ucs_status_ptr_t flush(struct sl_transport *t, ucs_status_ptr_t begun)
{
    static const ucp_request_param_t none = {.op_attr_mask = 0};
    ucs_status_ptr_t request = begun ? begun : ucp_worker_flush_nbx(t->worker, &none);
    if (!UCS_PTR_IS_PTR(request))
        return NULL;
    if (ucp_request_check_status(request) == UCS_INPROGRESS)
        return request;
    ucp_request_free(request);
    return NULL;
}

static void ucx_close(struct sl_transport *t)
{
    uint64_t begun_ms = clock_ms(), now_ms = begun_ms, heard_ms = begun_ms;
    bool called = may_be_called(t, begun_ms);
    ucs_status_ptr_t flushing = NULL;
    while (t->worker && now_ms - begun_ms < PATIENCE_MS &&
           ((flushing = flush(t, flushing)) || is_busy(t) || (called && now_ms - heard_ms < QUIET_MS))) {
        struct pollfd fd = {.fd = t->fd, .events = POLLIN};
        if (ucx_progress(t))
            heard_ms = clock_ms();
        else if (ucp_worker_arm(t->worker) == UCS_OK)
            poll(&fd, 1, 1);
        now_ms = clock_ms();
    }
    while (t->lines) { /* which the hub has given up */
        struct sl_line *line = t->lines;
        t->lines = line->next;
        free(line);
    }
    while (t->trunks) {
        struct sl_trunk *trunk = t->trunks;
        t->trunks = trunk->next;
        probe_end(trunk);
        free(trunk);
    }
    if (flushing) /* who has called is not heard; to destroy the worker now would end the process: its end does that */
        t->worker = NULL, t->context = NULL;
    sl_ucx_close(t);
}

static sl_status ucx_open(struct sl_transport **out, struct sl_hub *hub, const struct sl_io_config *config,
                          struct sl_err *err)
{
    return sl_ucx_open(out, hub, config, on_frame, on_rows, err);
}

static void ucx_where(const struct sl_transport *t, struct sl_io_address *address,
                      char host[SL_IO_HOST_BYTES], uint16_t *port, bool *shielded)
{
    *address = t->address;
    memcpy(host, t->host, SL_IO_HOST_BYTES);
    *port = t->port;
    *shielded = t->shielded;
}

/* A region left mapped at cleanup aborts the process, so the hub unmaps before close. */
static sl_status ucx_map(struct sl_transport *t, void *base, size_t bytes, void **region)
{
    ucp_mem_map_params_t params = {.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS |
                                                 UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                                                 UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE,
                                   .address = base,
                                   .length = bytes,
                                   .memory_type = UCS_MEMORY_TYPE_HOST};
    ucp_mem_h handle;
    if (ucp_mem_map(t->context, &params, &handle) != UCS_OK)
        return SL_E_NOMEM;
    *region = handle;
    return SL_OK;
}

static void ucx_unmap(struct sl_transport *t, void *region)
{
    if (region)
        ucp_mem_unmap(t->context, region);
}

static int ucx_fd(const struct sl_transport *t)
{
    return t->fd;
}

static bool ucx_arm(struct sl_transport *t)
{
    return ucp_worker_arm(t->worker) == UCS_OK; /* busy: there is something to progress */
}

const struct sl_transport_ops sl_transport_ucx = {
    .name = "ucx",
    .silent_loss = true,
    .open = ucx_open,
    .close = ucx_close,
    .where = ucx_where,
    .admit = ucx_admit,
    .connect = ucx_connect,
    .send = ucx_send,
    .hangup = ucx_hangup,
    .map = ucx_map,
    .unmap = ucx_unmap,
    .progress = ucx_progress,
    .fd = ucx_fd,
    .arm = ucx_arm,
};
