/* Ops HTTP over libmicrohttpd: one thread in poll(2), nothing until somebody asks. Not in epoll:
 * there 0.9.75 misses the end of a connection whose bytes and FIN came together, and 64 of those
 * kept every probe out until they timed out, 15 s later (tests/e2e/test_endpoint.py throws such
 * connections at it). Who is let in, and who must go for a probe: admin_http_crowd.c.
 *
 * A probe answers 200 or 503 with one line that says why. Liveness is of
 * this process alone and never of its peers: a restart does not bring a lost neighbour back. */
#include "node/edge/admin_http.h"
#include "base/log.h"
#include "kernels/isa.h"
#include "node/edge/admin_http_crowd.h"
#include <microhttpd.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONNECTION_BYTES = 16 << 10 };

struct sl_admin {
    struct MHD_Daemon *daemon;
    struct sl_crowd *crowd;
    struct sl_admin_config config;
};

struct page {
    unsigned status;
    const char *type;
    struct sl_text text;
    const char *allow; /* with METHOD_NOT_ALLOWED */
};

static const char plain[] = "text/plain; charset=utf-8";

static void page_livez(const struct sl_admin *ops, struct page *page)
{
    (void)ops;
    sl_text_add(&page->text, "ok\n");
}

static void page_readyz(const struct sl_admin *ops, struct page *page)
{
    struct sl_admin_state state = {0};
    ops->config.state(ops->config.context, &state);
    if (!state.ready)
        page->status = MHD_HTTP_SERVICE_UNAVAILABLE;
    sl_text_add(&page->text, "%s\n", state.ready ? "ok" : state.reason ? state.reason : "not ready");
}

static void page_startupz(const struct sl_admin *ops, struct page *page)
{
    struct sl_admin_state state = {0};
    ops->config.state(ops->config.context, &state);
    if (!state.started)
        page->status = MHD_HTTP_SERVICE_UNAVAILABLE;
    sl_text_add(&page->text, "%s\n", state.started ? "ok" : "starting");
}

static void page_version(const struct sl_admin *ops, struct page *page)
{
    struct sl_admin_state state = {0};
    char offered[64];
    ops->config.state(ops->config.context, &state);
    page->type = "application/json";
    sl_text_add(&page->text,
                "{\"name\":\"sluice\",\"version\":\"%s\",\"git\":\"%s\",\"numerics\":", SLUICE_VERSION,
                SLUICE_GIT);
    sl_text_add(&page->text, state.profile ? "\"%s\"" : "%s", state.profile ? state.profile : "null");
    sl_text_add(&page->text, ",\"machine_numerics\":\"%s\"}\n",
                sl_profile_list(sl_ops_profiles(), offered, sizeof offered));
}

static void page_metrics(const struct sl_admin *ops, struct page *page)
{
    page->type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    if (ops->config.metrics)
        ops->config.metrics(ops->config.context, &page->text);
    sl_process_metrics(&page->text);
    sl_text_add(&page->text, "# EOF\n");
}

/* Whose requests there are is not for a network that may read metrics. A proxy on this machine speaks for others. */
static bool is_near(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *from = info ? info->client_addr : NULL;
    if (MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "X-Forwarded-For") ||
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Forwarded"))
        return false;
    if (from && from->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)from)->sin_addr.s_addr) >> 24 == 127;
    if (!from || from->sa_family != AF_INET6)
        return false;
    const struct in6_addr *at = &((const struct sockaddr_in6 *)(const void *)from)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(at) || (IN6_IS_ADDR_V4MAPPED(at) && at->s6_addr[12] == 127);
}

static void no_answer(struct page *page)
{
    page->status = MHD_HTTP_SERVICE_UNAVAILABLE;
    page->type = plain;
    sl_text_add(&page->text, "the deciding thread did not answer; try again\n");
}

static void page_schedule(const struct sl_admin *ops, struct page *page)
{
    page->type = "application/json";
    if (!ops->config.schedule(ops->config.context, &page->text))
        no_answer(page);
}

static void page_records(const struct sl_admin *ops, struct page *page)
{
    page->type = "application/x-ndjson";
    if (!ops->config.records(ops->config.context, &page->text))
        no_answer(page);
}

static void page_flush(const struct sl_admin *ops, struct page *page)
{
    bool flushed = ops->config.flush(ops->config.context);
    if (!flushed)
        page->status = MHD_HTTP_CONFLICT;
    sl_text_add(&page->text, flushed ? "ok\n" : "there is no prefix cache: --prefix-cache is off\n");
}

static const struct {
    const char *path;
    void (*fill)(const struct sl_admin *ops, struct page *page);
    bool near; /* asked for from this machine alone, where there is one */
    bool post; /* it changes something */
} pages[] = {
    {"/livez", page_livez, false, false},          {"/readyz", page_readyz, false, false},
    {"/startupz", page_startupz, false, false},    {"/version", page_version, false, false},
    {"/metrics", page_metrics, false, false},      {"/debug/schedule", page_schedule, true, false},
    {"/debug/records", page_records, true, false}, {"/debug/flush_prefix_cache", page_flush, true, true},
};

static bool has_page(const struct sl_admin *ops, size_t i)
{
    return (pages[i].fill != page_schedule || ops->config.schedule) &&
           (pages[i].fill != page_records || ops->config.records) &&
           (pages[i].fill != page_flush || ops->config.flush);
}

static enum MHD_Result answer(struct MHD_Connection *connection, struct page *page)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(page->text.bytes, page->text.data, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(page->text.data);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, page->type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (page->status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, page->allow);
    enum MHD_Result result = MHD_queue_response(connection, page->status, response);
    MHD_destroy_response(response);
    return result;
}

static bool is_method(const char *method, bool post)
{
    return post ? strcmp(method, "POST") == 0 : strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
}

static size_t find_page(const struct sl_admin *ops, const char *url)
{
    size_t i = 0;
    while (i < sizeof pages / sizeof *pages && (strcmp(url, pages[i].path) != 0 || !has_page(ops, i)))
        i++;
    return i;
}

/* MHD calls this once with the headers and again for every piece of a body, which nobody here
 * wants. */
static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *body,
                                  size_t *body_bytes, void **seen)
{
    static char mark;
    const struct sl_admin *ops = context;
    (void)version, (void)body;
    if (!*seen) {
        *seen = &mark;
        sl_crowd_asked(ops->crowd, connection);
        return MHD_YES;
    }
    if (*body_bytes) {
        *body_bytes = 0;
        return MHD_YES;
    }
    struct page page = {.status = MHD_HTTP_OK, .type = plain};
    size_t at = find_page(ops, url);
    bool found = at < sizeof pages / sizeof *pages, post = found && pages[at].post;
    if (!is_method(method, post)) {
        page.status = MHD_HTTP_METHOD_NOT_ALLOWED;
        page.allow = post ? "POST" : "GET, HEAD";
        sl_text_add(&page.text, post ? "only POST is served here\n" : "only GET and HEAD are served here\n");
        return answer(connection, &page);
    }
    if (found && pages[at].near && !is_near(connection)) {
        page.status = MHD_HTTP_FORBIDDEN;
        sl_text_add(&page.text, "%s is answered to this machine alone: ask from it, without a proxy\n", url);
        return answer(connection, &page);
    }
    if (found) {
        pages[at].fill(ops, &page);
        return answer(connection, &page);
    }
    page.status = MHD_HTTP_NOT_FOUND;
    sl_text_add(&page.text, "not here; there are");
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        sl_text_add(&page.text, "%s%s", has_page(ops, i) ? " " : "", has_page(ops, i) ? pages[i].path : "");
    sl_text_add(&page.text, "\n");
    return answer(connection, &page);
}

static void on_log(void *context, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
static void on_log(void *context, const char *format, va_list args)
{
    char line[256];
    (void)context;
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = 0;
    sl_log_debug("ops http: %s", line);
}

static struct MHD_Daemon *start_daemon(struct sl_admin *ops)
{
    return MHD_start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_ERROR_LOG | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC, 0, NULL,
        NULL, on_request, ops, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)(SL_CROWD_CONNECTIONS + SL_CROWD_EXTRA), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_BYTES, MHD_OPTION_NOTIFY_CONNECTION, sl_crowd_on_connection, ops->crowd,
        MHD_OPTION_NOTIFY_COMPLETED, sl_crowd_on_completed, ops->crowd, MHD_OPTION_END);
}

sl_status sl_admin_start(struct sl_admin **out, const struct sl_admin_config *config, struct sl_err *err)
{
    struct sl_admin *ops = calloc(1, sizeof *ops);
    if (!ops)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the ops listener on %s", config->listen);
    ops->config = *config;
    sl_status status = sl_crowd_open(&ops->crowd, config->listen, err);
    if (status != SL_OK) {
        free(ops);
        return status;
    }
    sigset_t all, before; /* the process's signals are its main thread's */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    ops->daemon = start_daemon(ops);
    if (!ops->daemon)
        status = sl_fail(err, SL_E_UNAVAILABLE,
                         "the ops listener on %s did not start: raise the limits on threads and files",
                         config->listen);
    else
        status = sl_crowd_start(ops->crowd, ops->daemon, err);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status != SL_OK) {
        sl_admin_stop(ops);
        return status;
    }
    *out = ops;
    return SL_OK;
}

int sl_admin_port(const struct sl_admin *ops)
{
    return sl_crowd_port(ops->crowd);
}

void sl_admin_stop(struct sl_admin *ops)
{
    if (!ops)
        return;
    sl_crowd_stop(ops->crowd);
    if (ops->daemon)
        MHD_stop_daemon(ops->daemon);
    sl_crowd_close(ops->crowd);
    free(ops);
}
