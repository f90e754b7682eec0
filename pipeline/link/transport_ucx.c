/* Lines over UCX: UCP active messages, our header as the AM header, rendezvous from 64 KiB on. The only file that includes
 * UCX.
 *
 * The I/O thread owns one single-threaded worker in event mode: the worker's fd is polled, never spun on. Error handling is
 * PEER on every endpoint, so a dead neighbour ends its sends instead of hanging them; that a neighbour is silent but not dead
 * (stopped, unreachable) UCX does not notice: the hub's heartbeat does.
 *
 * UCX forbids closing an endpoint from its callbacks, so hangup only marks a line and progress does the rest; `closed` is told
 * when the close request and every send and receive of the line have ended. */
#include "base/log.h"
#include "pipeline/link/transport_impl.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucp/api/ucp.h>
#include <ucs/debug/debug.h>
#include <unistd.h>

enum { AM_ID = 7, RNDV_BYTES = 64 * 1024, FIRST_PORT = 13000, LAST_PORT = 13063 };

struct sl_line {
    struct sl_line *next;
    struct sl_transport *transport;
    struct sl_conn *conn; /* NULL: turned away */
    ucp_ep_h ep;          /* NULL: closing or closed */
    void *close_request;
    bool hung_up, closing;
    bool failed, told; /* the endpoint reported an error; the hub was told */
    const char *reason;
    uint32_t n_under_way; /* sends and receives */
};

struct sl_transport {
    struct sl_hub *hub;
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_listener_h listener;
    int fd;
    uint16_t port;
    struct sl_line *lines;
};

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

static void line_failed(struct sl_line *line, const char *reason)
{
    line->failed = true;
    if (!line->reason)
        line->reason = reason;
}

static void on_endpoint_error(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    (void)ep;
    line_failed(arg, ucs_status_string(status));
}

/* ---- sending ---- */

static void on_sent(void *request, ucs_status_t status, void *user)
{
    struct sl_sending *sending = user;
    sl_conn_line(sending->conn)->n_under_way--;
    ucp_request_free(request);
    sl_sending_done(sending, status_of(status));
}

static void ucx_send(struct sl_line *line, struct sl_sending *sending)
{
    if (!line->ep || line->failed) {
        sl_sending_done(sending, SL_E_PEER_LOST);
        return;
    }
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK |
                                                 UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                                 .flags = UCP_AM_SEND_FLAG_REPLY,
                                 .cb.send = on_sent,
                                 .user_data = sending,
                                 .memory_type = UCS_MEMORY_TYPE_HOST};
    param.flags |= sending->bytes >= RNDV_BYTES ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER;
    line->n_under_way++;
    ucs_status_ptr_t request = ucp_am_send_nbx(line->ep, AM_ID, sending->header, sizeof sending->header,
                                               sending->payload, sending->bytes, &param);
    if (UCS_PTR_IS_PTR(request))
        return;
    line->n_under_way--;
    if (UCS_PTR_IS_ERR(request))
        line_failed(line, ucs_status_string(UCS_PTR_STATUS(request)));
    sl_sending_done(sending, UCS_PTR_IS_ERR(request) ? status_of(UCS_PTR_STATUS(request)) : SL_OK);
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

static struct sl_line *line_of(struct sl_transport *t, ucp_ep_h ep)
{
    struct sl_line *line = t->lines;
    while (line && line->ep != ep)
        line = line->next;
    return line;
}

/* A frame begins: the hub checks its header and names the slot. Returning UCS_OK without a receive drops it, and the sender
 * will believe that it was delivered; that is why a frame counts only when its credit comes back (ucx-nccl.md 5). */
static ucs_status_t on_frame(void *arg, const void *header, size_t header_bytes, void *data, size_t bytes,
                             const ucp_am_recv_param_t *param)
{
    struct sl_transport *t = arg;
    struct sl_line *line =
        param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP ? line_of(t, param->reply_ep) : NULL;
    if (!line || !line->conn || line->hung_up)
        return UCS_OK;
    struct sl_landing *landing = sl_conn_arrived(line->conn, header, header_bytes, bytes);
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
        line_failed(line, ucs_status_string(UCS_PTR_STATUS(request)));
    sl_conn_landed(landing, UCS_PTR_IS_ERR(request) ? status_of(UCS_PTR_STATUS(request)) : SL_OK);
    return UCS_OK;
}

/* ---- lines ---- */

static struct sl_line *line_new(struct sl_transport *t)
{
    struct sl_line *line = calloc(1, sizeof *line);
    if (!line)
        return NULL;
    line->transport = t;
    line->next = t->lines;
    t->lines = line;
    return line;
}

static void line_unlink(struct sl_line *line)
{
    struct sl_line **at = &line->transport->lines;
    while (*at != line)
        at = &(*at)->next;
    *at = line->next;
    free(line);
}

static sl_status parse_address(const char *address, uint16_t port, struct sockaddr_storage *out,
                               socklen_t *bytes)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        *bytes = sizeof *v4;
        return SL_OK;
    }
    if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        *bytes = sizeof *v6;
        return SL_OK;
    }
    return SL_E_INVALID;
}

static sl_status ucx_connect(struct sl_transport *t, const char *address, uint16_t port, struct sl_conn *conn,
                             struct sl_line **out)
{
    struct sockaddr_storage peer;
    socklen_t bytes;
    SL_TRY(parse_address(address, port, &peer, &bytes));
    struct sl_line *line = line_new(t);
    if (!line)
        return SL_E_NOMEM;
    line->conn = conn;
    ucp_ep_params_t param = {.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                                           UCP_EP_PARAM_FIELD_ERR_HANDLER |
                                           UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
                             .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
                             .sockaddr = {(const struct sockaddr *)&peer, bytes},
                             .err_handler = {on_endpoint_error, line},
                             .err_mode = UCP_ERR_HANDLING_MODE_PEER};
    if (ucp_ep_create(t->worker, &param, &line->ep) != UCS_OK) {
        line_unlink(line);
        return SL_E_PEER_LOST;
    }
    *out = line;
    return SL_OK;
}

static void on_connection(ucp_conn_request_h request, void *arg)
{
    struct sl_transport *t = arg;
    struct sl_line *line = line_new(t);
    if (!line) {
        ucp_listener_reject(t->listener, request);
        return;
    }
    ucp_ep_params_t param = {.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST | UCP_EP_PARAM_FIELD_ERR_HANDLER |
                                           UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
                             .conn_request = request,
                             .err_handler = {on_endpoint_error, line},
                             .err_mode = UCP_ERR_HANDLING_MODE_PEER};
    if (ucp_ep_create(t->worker, &param, &line->ep) != UCS_OK) {
        line_unlink(line);
        return;
    }
    line->conn = sl_hub_accept(t->hub, line);
    line->hung_up = !line->conn; /* turned away */
}

static void ucx_hangup(struct sl_line *line)
{
    line->hung_up = true;
}

/* Begin, and later finish, the close of a line that was hung up. True when it is gone. */
static bool line_close(struct sl_line *line)
{
    if (!line->closing) {
        ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                     .flags = UCP_EP_CLOSE_FLAG_FORCE};
        ucs_status_ptr_t request = ucp_ep_close_nbx(line->ep, &param);
        line->close_request = UCS_PTR_IS_PTR(request) ? request : NULL;
        line->closing = true;
        line->ep = NULL;
    }
    if (line->close_request) {
        if (ucp_request_check_status(line->close_request) == UCS_INPROGRESS)
            return false;
        ucp_request_free(line->close_request);
        line->close_request = NULL;
    }
    if (line->n_under_way > 0)
        return false;
    struct sl_conn *conn = line->conn;
    line_unlink(line);
    if (conn)
        sl_conn_closed(conn);
    return true;
}

static bool ucx_progress(struct sl_transport *t)
{
    bool any = ucp_worker_progress(t->worker) != 0;
    for (struct sl_line *line = t->lines, *next; line; line = next) {
        next = line->next;
        if (line->failed && !line->told && !line->hung_up && line->conn) {
            line->told = true;
            sl_conn_broken(line->conn, SL_E_PEER_LOST, line->reason);
            any = true;
        }
        if (line->hung_up)
            any |= line_close(line);
    }
    return any;
}

/* ---- opening ---- */

/* The interface that owns the address: without it UCX would stripe over all of them. */
static void interface_of(const struct sockaddr_storage *address, char *name, size_t room)
{
    struct ifaddrs *all;
    name[0] = 0;
    if (getifaddrs(&all) != 0)
        return;
    for (struct ifaddrs *i = all; i; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != address->ss_family)
            continue;
        const struct sockaddr_in *a4 = (const struct sockaddr_in *)(const void *)i->ifa_addr,
                                 *b4 = (const struct sockaddr_in *)address;
        const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *)(const void *)i->ifa_addr,
                                  *b6 = (const struct sockaddr_in6 *)address;
        bool same = address->ss_family == AF_INET
                        ? a4->sin_addr.s_addr == b4->sin_addr.s_addr
                        : memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof a6->sin6_addr) == 0;
        bool loopback = address->ss_family == AF_INET && (ntohl(b4->sin_addr.s_addr) >> 24) == 127 &&
                        (i->ifa_flags & IFF_LOOPBACK);
        if (!same && !loopback)
            continue;
        strncat(name, i->ifa_name, room - 1);
        break;
    }
    freeifaddrs(all);
}

/* Settings of the tcp component are read from the environment only (given to ucp_config_modify they draw a warning), so they
 * are put there before any thread runs; what the user has set stays. */
__attribute__((constructor)) static void set_tcp_environment(void)
{
    /* No TCP_PORT_RANGE: with ports in TIME_WAIT UCX 1.13 searches a small range so long that start-up takes seconds. */
    setenv("UCX_TCP_CM_REUSEADDR", "y", 0); /* a restarted node gets its port back */
    setenv("UCX_TCP_KEEPIDLE", "2s", 0);
    setenv("UCX_TCP_KEEPINTVL", "1s", 0);
    setenv("UCX_TCP_KEEPCNT", "3", 0);
}

/* UCX takes over SIGSEGV and its like when it is loaded; a process has its own ideas about those. */
static void give_signals_back(void)
{
    static const int signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE};
    if (getenv("UCX_ERROR_SIGNALS") || getenv("UCX_HANDLE_ERRORS"))
        return;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        ucs_debug_disable_signal(signals[i]);
}

/* The user's own UCX_* environment wins; a setting that this version does not know is passed over. */
static void set(ucp_config_t *config, const char *name, const char *value)
{
    char variable[64];
    snprintf(variable, sizeof variable, "UCX_%s", name);
    if (value[0] && !getenv(variable) && ucp_config_modify(config, name, value) != UCS_OK)
        sl_log_debug("this UCX does not know the setting %s", name);
}

static sl_status open_context(struct sl_transport *t, const char *host,
                              const struct sockaddr_storage *address, struct sl_err *err)
{
    ucp_config_t *config;
    char interface[IF_NAMESIZE];
    interface_of(address, interface, sizeof interface);
    if (!interface[0])
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "no network interface has the data address %s; name the address of the one "
                       "interface that the neighbours use",
                       host);
    if (ucp_config_read(NULL, NULL, &config) != UCS_OK)
        return sl_fail(err, SL_E_CONFIG,
                       "UCX cannot read its settings; look at the UCX_* environment variables");
    set(config, "TLS", "tcp");
    set(config, "NET_DEVICES", interface);
    set(config, "SOCKADDR_TLS_PRIORITY", "tcp");
    set(config, "KEEPALIVE_INTERVAL", "1s");
    set(config, "MAX_RNDV_RAILS", "1");
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                           .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    ucs_status_t status = ucp_init(&params, config, &t->context);
    ucp_config_release(config);
    if (status != UCS_OK)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "UCX does not start on the interface %s of %s (%s); is it up? UCX_LOG_LEVEL=info tells more",
            interface, host, ucs_status_string(status));
    return SL_OK;
}

static sl_status open_worker(struct sl_transport *t, struct sl_err *err)
{
    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    ucp_am_handler_param_t handler = {.field_mask =
                                          UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                                          UCP_AM_HANDLER_PARAM_FIELD_ARG | UCP_AM_HANDLER_PARAM_FIELD_FLAGS,
                                      .id = AM_ID,
                                      .cb = on_frame,
                                      .arg = t,
                                      .flags = UCP_AM_FLAG_WHOLE_MSG};
    ucs_status_t status = ucp_worker_create(t->context, &params, &t->worker);
    if (status == UCS_OK)
        status = ucp_worker_get_efd(t->worker, &t->fd);
    if (status == UCS_OK)
        status = ucp_worker_set_am_recv_handler(t->worker, &handler);
    if (status != UCS_OK)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "UCX cannot make a worker (%s); raise the limit of open files (ulimit -n), or set UCX_LOG_LEVEL=info to see why",
            ucs_status_string(status));
    return SL_OK;
}

static ucs_status_t listen_at(struct sl_transport *t, struct sockaddr_storage *address, socklen_t bytes,
                              uint16_t port)
{
    if (address->ss_family == AF_INET)
        ((struct sockaddr_in *)address)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)address)->sin6_port = htons(port);
    ucp_listener_params_t params = {.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR |
                                                  UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
                                    .sockaddr = {(const struct sockaddr *)address, bytes},
                                    .conn_handler = {on_connection, t}};
    t->port = port;
    return ucp_listener_create(t->worker, &params, &t->listener);
}

/* TCP_CM_REUSEADDR lets two processes share a listening port in the kernel's eyes only when the first has closed it, but a
 * bind of our own tells a port in use without UCX's log lines. */
static bool port_is_free(struct sockaddr_storage *address, socklen_t bytes, uint16_t port)
{
    if (address->ss_family == AF_INET)
        ((struct sockaddr_in *)address)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)address)->sin6_port = htons(port);
    int on = 1, fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return true; /* let UCX say what is wrong */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bool is_free = bind(fd, (const struct sockaddr *)address, bytes) == 0 && listen(fd, 1) == 0;
    close(fd);
    return is_free;
}

static sl_status open_listener(struct sl_transport *t, const struct sl_io_config *config,
                               struct sockaddr_storage *address, socklen_t bytes, struct sl_err *err)
{
    ucs_status_t status = UCS_ERR_BUSY;
    uint32_t first = config->port ? config->port : FIRST_PORT, last = config->port ? config->port : LAST_PORT;
    for (uint32_t port = first; port <= last && status != UCS_OK; port++)
        if (port_is_free(address, bytes, (uint16_t)port))
            status = listen_at(t, address, bytes, (uint16_t)port);
    if (status == UCS_OK)
        return SL_OK;
    if (config->port)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "cannot listen on %s:%u (%s); is the address this machine's and the port free?",
                       config->address, config->port,
                       status == UCS_ERR_BUSY ? "in use" : ucs_status_string(status));
    return sl_fail(err, SL_E_UNAVAILABLE,
                   "cannot listen on %s at any port of %d to %d (%s); is the address this machine's?",
                   config->address, FIRST_PORT, LAST_PORT,
                   status == UCS_ERR_BUSY ? "all in use" : ucs_status_string(status));
}

static void ucx_close(struct sl_transport *t)
{
    if (t->listener)
        ucp_listener_destroy(t->listener); /* nobody calls from here on */
    while (t->lines) {                     /* those which were turned away; the hub's own are gone already */
        t->lines->hung_up = true;
        ucx_progress(t);
    }
    if (t->worker)
        ucp_worker_destroy(t->worker);
    if (t->context)
        ucp_cleanup(t->context);
    free(t);
}

static sl_status ucx_open(struct sl_transport **out, struct sl_hub *hub, const struct sl_io_config *config,
                          struct sl_err *err)
{
    struct sockaddr_storage address;
    socklen_t bytes;
    const char *host = config->address[0] ? config->address : "127.0.0.1";
    if (parse_address(host, 0, &address, &bytes) != SL_OK)
        return sl_fail(err, SL_E_CONFIG,
                       "the data address \"%s\" is not a numeric IP address; give one of this machine's",
                       host);
    static pthread_once_t signals_once = PTHREAD_ONCE_INIT;
    pthread_once(&signals_once, give_signals_back);
    struct sl_transport *t = calloc(1, sizeof *t);
    if (!t)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the UCX transport");
    t->hub = hub;
    sl_status status = open_context(t, host, &address, err);
    if (status == SL_OK)
        status = open_worker(t, err);
    if (status == SL_OK)
        status = open_listener(t, config, &address, bytes, err);
    if (status != SL_OK) {
        ucx_close(t);
        return status;
    }
    *out = t;
    return SL_OK;
}

static uint16_t ucx_port(const struct sl_transport *t)
{
    return t->port;
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
    .port = ucx_port,
    .connect = ucx_connect,
    .send = ucx_send,
    .hangup = ucx_hangup,
    .map = ucx_map,
    .unmap = ucx_unmap,
    .progress = ucx_progress,
    .fd = ucx_fd,
    .arm = ucx_arm,
};
