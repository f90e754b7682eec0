/* How the UCX transport comes up and goes: settings, context, worker, and the one port that it leaves open.
 *
 * UCX's tcp interface listens on the first address of its interface, at a port that its environment names; this is the port by
 * which a node is known (--data-port), and the only one. It is taken from the environment when a worker is made, so one after
 * the other is offered until one is free; UCX itself would draw at random, and for ever when all are taken. */
#include "base/bytes.h"
#include "base/digest.h"
#include "base/log.h"
#include "pipeline/link/data_address.h"
#include "pipeline/link/transport_beside.h"
#include "pipeline/link/transport_ucx.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <ucs/debug/debug.h>
#include <unistd.h>

enum { FIRST_PORT = 13000, LAST_PORT = 13063 };

/* ---- addresses as bytes ---- */

enum { ADDRESS_VERSION = 1, ADDRESS_HEAD = 1 + 1 + 2 + 16, WORKER_BYTES_MIN = 16 };

static void address_write(struct sl_io_address *out, const struct sockaddr_storage *at, uint16_t port,
                          const void *worker, size_t worker_bytes)
{
    bool v4 = at->ss_family == AF_INET;
    memset(out, 0, sizeof *out);
    out->bytes[0] = ADDRESS_VERSION;
    out->bytes[1] = v4 ? 4 : 6;
    sl_put16(out->bytes + 2, port);
    if (v4)
        memcpy(out->bytes + 4, &((const struct sockaddr_in *)at)->sin_addr, 4);
    else
        memcpy(out->bytes + 4, &((const struct sockaddr_in6 *)at)->sin6_addr, 16);
    memcpy(out->bytes + ADDRESS_HEAD, worker, worker_bytes);
    out->n = (uint16_t)(ADDRESS_HEAD + worker_bytes);
}

sl_status sl_ucx_address_read(struct sl_ucx_address *out, const struct sl_io_address *address)
{
    const uint8_t *b = address->bytes;
    memset(out, 0, sizeof *out);
    if (address->n < ADDRESS_HEAD + WORKER_BYTES_MIN || b[0] != ADDRESS_VERSION || (b[1] != 4 && b[1] != 6))
        return SL_E_INVALID;
    if (b[1] == 4) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&out->at;
        v4->sin_family = AF_INET;
        memcpy(&v4->sin_addr, b + 4, 4);
        out->bytes = sizeof *v4;
    } else {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&out->at;
        v6->sin6_family = AF_INET6;
        memcpy(&v6->sin6_addr, b + 4, 16);
        out->bytes = sizeof *v6;
    }
    sl_data_address_set_port(&out->at, sl_get16(b + 2));
    out->worker = b + ADDRESS_HEAD;
    out->worker_bytes = address->n - ADDRESS_HEAD;
    return SL_OK;
}

uint64_t sl_ucx_token(const struct sl_io_address *address)
{
    static const uint8_t key[32] = "sluice: the address of a caller";
    uint8_t digest[32];
    sl_hmac_sha256(key, address->bytes, address->n, digest);
    return sl_get64(digest);
}

/* ---- settings ---- */

/* Settings of the tcp component are read from the environment only (given to ucp_config_modify they are passed over with a
 * warning), so they are put there before any thread runs; what the user has set stays. The last two are changed for each
 * worker, and stand here so that the list itself never moves again. */
__attribute__((constructor)) static void set_tcp_environment(void)
{
    setenv("UCX_TCP_KEEPIDLE", "2s", 0);
    setenv("UCX_TCP_KEEPINTVL", "1s", 0);
    setenv("UCX_TCP_KEEPCNT", "3", 0);
    setenv("UCX_TCP_CONN_NB", "y", 0); /* else the I/O thread would sleep in connect() */
    setenv("UCX_TCP_PORT_RANGE", "0", 1);
    setenv("UCX_TCP_AF_PRIO", "inet,inet6", 1);
}

/* UCX takes over SIGSEGV and its like when it is loaded; a process has its own ideas about those. One that does not (1.22, as PyPI has
 * it) warns of a signal that is given back though it was not taken. */
static void give_signals_back(void)
{
    static const int signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE};
    if (getenv("UCX_ERROR_SIGNALS") || getenv("UCX_HANDLE_ERRORS"))
        return;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction now;
        if (sigaction(signals[i], NULL, &now) == 0 &&
            (now.sa_flags & SA_SIGINFO || now.sa_handler != SIG_DFL))
            ucs_debug_disable_signal(signals[i]);
    }
}

/* The user's own UCX_* environment wins; a setting that this version does not know is passed over. */
static void set(ucp_config_t *config, const char *name, const char *value)
{
    char variable[64];
    snprintf(variable, sizeof variable, "UCX_%s", name);
    if (value[0] && !getenv(variable) && ucp_config_modify(config, name, value) != UCS_OK)
        sl_log_debug("this UCX does not know the setting %s", name);
}

/* ---- memory that RDMA locks ---- */

enum {
    CAP_IPC_LOCK_BIT = 14,
    ENOUGH_MIB = 1024
}; /* of <linux/capability.h>; frames and pages of a small model */

/* The first word of UCX_TLS that names RDMA; NULL: none does. A list that begins with ^ says what not to take. */
static const char *rdma_word(const char *list, char word[16])
{
    static const char *const names[] = {"rc", "ud", "dc", "ib"};
    for (const char *at = list && list[0] != '^' ? list : ""; *at; at += strcspn(at, ","), at += *at == ',') {
        snprintf(word, 16, "%.*s", (int)strcspn(at, ","), at);
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (strncmp(word, names[i], 2) == 0 && (word[2] == '\0' || word[2] == '_'))
                return word;
    }
    return NULL;
}

static bool may_lock_all(void)
{
    char line[128];
    unsigned long long caps = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "CapEff: %llx", &caps) == 1)
            break;
    if (status)
        fclose(status);
    return caps >> CAP_IPC_LOCK_BIT & 1;
}

/* Without it UCX goes on over TCP and says nothing, which is found out by how slow it is. */
static sl_status check_memory_lock(struct sl_err *err)
{
    char word[16];
    struct rlimit limit;
    if (!rdma_word(getenv("UCX_TLS"), word) || may_lock_all() || getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
        limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >> 20 >= ENOUGH_MIB)
        return SL_OK;
    return sl_fail(
        err, SL_E_CONFIG,
        "UCX_TLS asks for RDMA (%s), but this process may lock %llu KiB of memory only; raise the limit "
        "(LimitMEMLOCK=infinity of the container runtime's unit, ulimit -l), or take %s out of UCX_TLS",
        word, (unsigned long long)limit.rlim_cur >> 10, word);
}

/* ---- rows in a GPU's memory ---- */

/* Fragments that are staged lie in the host's memory: else UCX takes 512 MiB of the GPU's for them. Rows are fetched by who wants them
 * (get): of what is written by the other end (put, the default) a receiver that cuts the line never knows when it is over. UCX does not
 * put hooks into the driver's code to learn what memory is whose: it is told, and keeps no cache of what it registered unasked, for
 * which it would (that its environment forbids hooks is read before main begins). */
static sl_status set_for_rows(ucp_config_t *config, struct sl_err *err)
{
    static const struct {
        const char *name, *value;
    } fetching[] = {{"RNDV_SCHEME", "get_zcopy"}, {"CUDA_IPC_ENABLE_GET_ZCOPY", "on"}};
    for (size_t i = 0; i < sizeof fetching / sizeof *fetching; i++) {
        char variable[64];
        snprintf(variable, sizeof variable, "UCX_%s", fetching[i].name);
        const char *asked = getenv(variable);
        if (asked && strcmp(asked, fetching[i].value) != 0)
            return sl_fail(
                err, SL_E_CONFIG,
                "%s=%s: rows by UCX have to be fetched by who receives them, or its memory is written to when "
                "it is another's; unset it, or choose --rows staged",
                variable, asked);
        set(config, fetching[i].name, fetching[i].value);
    }
    unsigned major, minor, release;
    ucp_get_version(&major, &minor, &release);
    set(config, "MEMTYPE_CACHE", "n");
    bool is_new = major > 1 || minor >= 20; /* an older one warns of a name that it does not know */
    set(config, "RCACHE_ENABLE", is_new ? "n" : "");
    set(config, "RNDV_FRAG_MEM_TYPES", is_new ? "host" : "");
    return SL_OK;
}

static sl_status know_device_memory(struct sl_transport *t, struct sl_err *err)
{
    ucp_context_attr_t attr = {.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES};
    if (ucp_context_query(t->context, &attr) == UCS_OK && attr.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA))
        return SL_OK;
    return sl_fail(
        err, SL_E_UNAVAILABLE,
        "UCX %s knows no GPU's memory here (UCX_TLS=%s): rows by UCX need one that was built with CUDA, as "
        "PyPI's libucx-cu13 is, in LD_LIBRARY_PATH; or choose --rows nccl or --rows staged",
        ucp_get_version_string(), t->tls);
}

/* ---- opening ---- */

static sl_status open_context(struct sl_transport *t, const struct sl_data_address *address, const char *host,
                              struct sl_err *err)
{
    ucp_config_t *config;
    SL_TRY(check_memory_lock(err));
    setenv("UCX_TCP_AF_PRIO", address->at.ss_family == AF_INET6 ? "inet6,inet" : "inet,inet6", 1);
    if (ucp_config_read(NULL, NULL, &config) != UCS_OK)
        return sl_fail(err, SL_E_CONFIG,
                       "UCX cannot read its settings; look at the UCX_* environment variables");
    const char *asked = getenv("UCX_TLS");
    snprintf(t->tls, sizeof t->tls, "%s",
             asked                             ? asked
             : t->has_rows && !t->rows_on_twin ? "tcp,cuda_copy,cuda_ipc"
                                               : "tcp");
    set(config, "TLS", t->tls);
    set(config, "NET_DEVICES", address->interface);
    set(config, "KEEPALIVE_INTERVAL", "1s");
    set(config, "MAX_RNDV_RAILS", "1");
    sl_status fetching = t->has_rows && !t->rows_on_twin ? set_for_rows(config, err) : SL_OK;
    if (fetching != SL_OK) {
        ucp_config_release(config);
        return fetching;
    }
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                           .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    ucs_status_t status = ucp_init(&params, config, &t->context);
    ucp_config_release(config);
    if (status != UCS_OK)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "UCX does not start on the interface %s of %s (%s); is it up? UCX_LOG_LEVEL=info tells more",
            address->interface, host, ucs_status_string(status));
    return t->has_rows && !t->rows_on_twin ? know_device_memory(t, err) : SL_OK;
}

/* One process at a time tries a port: a second one that only looks would be in the way of the first, whose UCX then finds it in
 * use. The name is in the network's namespace, as ports are, and gone with its holder. -1: another has it. */
static int claim_port(uint16_t port)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int n = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "sluice-data-port-%u", port);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    if (fd >= 0 && bind(fd, (const struct sockaddr *)&name, bytes) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* As UCX will ask for it: without SO_REUSEADDR. Asked before, so that a port in use draws none of UCX's log lines. */
static bool port_is_free(const struct sl_data_address *address, uint16_t port)
{
    struct sockaddr_storage at = address->at;
    sl_data_address_set_port(&at, port);
    int fd = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return true; /* let UCX say what is wrong */
    bool is_free = bind(fd, (const struct sockaddr *)&at, address->bytes) == 0 && listen(fd, 1) == 0;
    close(fd);
    return is_free;
}

static ucs_status_t create_worker(struct sl_transport *t, uint16_t port)
{
    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    char range[16];
    snprintf(range, sizeof range, "%u-%u", port, port);
    setenv("UCX_TCP_PORT_RANGE", range, 1);
    t->port = port;
    return ucp_worker_create(t->context, &params, &t->worker);
}

static sl_status open_worker(struct sl_transport *t, const struct sl_io_config *config,
                             const struct sl_data_address *address, struct sl_err *err)
{
    ucs_status_t status = UCS_ERR_BUSY;
    uint32_t n_ports = config->port ? 1 : LAST_PORT - FIRST_PORT + 1;
    /* Processes that start together begin at different ones. */
    for (uint32_t i = 0; i < n_ports && status == UCS_ERR_BUSY; i++) {
        uint32_t port = config->port ? config->port : FIRST_PORT + ((uint32_t)getpid() + i) % n_ports;
        int claim = claim_port((uint16_t)port);
        if (claim >= 0 && port_is_free(address, (uint16_t)port))
            status = create_worker(t, (uint16_t)port);
        if (claim >= 0)
            close(claim);
    }
    if (status == UCS_OK)
        return SL_OK;
    t->worker = NULL;
    if (status != UCS_ERR_BUSY)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "UCX cannot make a worker at %s:%u (%s); raise the limit of open files (ulimit -n), or set "
            "UCX_LOG_LEVEL=info to see why",
            config->address, t->port, ucs_status_string(status));
    if (config->port)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "cannot listen on %s:%u (in use); is the address this machine's and the port free?",
                       config->address, config->port);
    return sl_fail(
        err, SL_E_UNAVAILABLE,
        "cannot listen on %s at any port of %d to %d (all in use); stop another node, or give --data-port",
        config->address, FIRST_PORT, LAST_PORT);
}

/* UCX takes the first address of the interface, whatever we were told. */
static sl_status take_port(struct sl_transport *t, const struct sl_data_address *address, struct sl_err *err)
{
    struct sockaddr_storage at = address->at;
    char wanted[SL_IO_HOST_BYTES];
    sl_data_address_text(&address->at, wanted, sizeof wanted);
    t->shielded = sl_shield_open(&t->shield, t->port, &at);
    if (!t->shielded)
        sl_log_warn(
            "the data port %u is not shielded from strangers, because %s: whoever reaches it can end this node and, "
            "with UCX's own requests, read and write its memory; let nobody but the neighbours reach it (a "
            "firewall, a NetworkPolicy, a network of its own)",
            t->port,
            t->shield.fd < 0 ? "its socket is not found in /proc/self/fd"
            : errno == EPERM
                ? "this kernel, or a sandbox, takes a socket filter of nobody but who has CAP_NET_ADMIN"
                : "this kernel takes no socket filter");
    sl_data_address_text(&at, t->host, sizeof t->host);
    if (sl_data_address_same(&at, &address->at))
        return SL_OK;
    return sl_fail(
        err, SL_E_CONFIG,
        "UCX listens at %s on the interface %s, and cannot at %s; give --data-address %s, or give %s an "
        "interface of its own",
        t->host, address->interface, wanted, t->host, wanted);
}

static ucs_status_t hear(struct sl_transport *t, unsigned id, ucp_am_recv_callback_t on_message)
{
    ucp_am_handler_param_t handler = {.field_mask =
                                          UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                                          UCP_AM_HANDLER_PARAM_FIELD_ARG | UCP_AM_HANDLER_PARAM_FIELD_FLAGS,
                                      .id = id,
                                      .cb = on_message,
                                      .arg = t,
                                      .flags = UCP_AM_FLAG_WHOLE_MSG};
    return ucp_worker_set_am_recv_handler(t->worker, &handler);
}

static sl_status tell_address(struct sl_transport *t, const struct sl_data_address *address,
                              ucp_am_recv_callback_t on_frame, ucp_am_recv_callback_t on_rows,
                              struct sl_err *err)
{
    ucp_address_t *worker;
    size_t bytes;
    ucs_status_t status = ucp_worker_get_efd(t->worker, &t->fd);
    if (status == UCS_OK)
        status = hear(t, SL_UCX_AM_ID, on_frame);
    if (status == UCS_OK && on_rows)
        status = hear(t, SL_UCX_ROWS_AM_ID, on_rows);
    if (status == UCS_OK)
        status = ucp_worker_get_address(t->worker, &worker, &bytes);
    if (status != UCS_OK)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "the worker of UCX is of no use (%s); UCX_LOG_LEVEL=info tells more",
                       ucs_status_string(status));
    bool fits = bytes >= WORKER_BYTES_MIN && bytes <= SL_IO_ADDRESS_BYTES - ADDRESS_HEAD;
    if (fits)
        address_write(&t->address, &address->at, t->port, worker, bytes);
    t->token = sl_ucx_token(&t->address);
    ucp_worker_release_address(t->worker, worker);
    return fits
               ? SL_OK
               : sl_fail(
                     err, SL_E_UNAVAILABLE,
                     "the address of UCX has %zu bytes, more than the %d that are sent to peers; let it use one interface and "
                     "one transport (UCX_TLS, UCX_NET_DEVICES)",
                     bytes, SL_IO_ADDRESS_BYTES - ADDRESS_HEAD);
}

sl_status sl_ucx_open(struct sl_transport **out, struct sl_hub *hub, const struct sl_io_config *config,
                      ucp_am_recv_callback_t on_frame, ucp_am_recv_callback_t on_rows, struct sl_err *err)
{
    static pthread_once_t signals_once = PTHREAD_ONCE_INIT;
    static pthread_mutex_t environment =
        PTHREAD_MUTEX_INITIALIZER; /* one worker at a time reads its port from it */
    struct sl_data_address address;
    const char *host = config->address[0] ? config->address : "127.0.0.1";
    SL_TRY(sl_data_address_find(&address, host, err));
    pthread_once(&signals_once, give_signals_back);
    struct sl_transport *t = calloc(1, sizeof *t);
    if (!t)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the UCX transport");
    t->hub = hub;
    t->has_rows = config->transport->carrier == &sl_rows_by_ucx;
    t->rows_on_twin = t->has_rows && config->rows_device->twin;
    sl_shield_none(&t->shield);
    pthread_mutex_lock(&environment);
    sl_status status = open_context(t, &address, host, err);
    if (status == SL_OK)
        status = open_worker(t, config, &address, err);
    pthread_mutex_unlock(&environment);
    if (status == SL_OK)
        status = take_port(t, &address, err);
    if (status == SL_OK)
        status = tell_address(t, &address, on_frame, t->has_rows ? on_rows : NULL, err);
    if (status != SL_OK) {
        sl_ucx_close(t);
        return status;
    }
    *out = t;
    return SL_OK;
}

void sl_ucx_close(struct sl_transport *t)
{
    sl_shield_close(&t->shield);
    if (t->rows && t->context)
        ucp_mem_unmap(t->context, t->rows);
    if (t->worker)
        ucp_worker_destroy(t->worker);
    if (t->context)
        ucp_cleanup(t->context);
    free(t);
}
