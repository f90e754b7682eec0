/* Ops HTTP over a real socket: every page, both verbs, what is refused, and an address that is
 * taken. */
#include "tests/check.h"

#include "node/edge/admin_http.h"
#include "node/rpc/listen.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sl_admin_state shown;

static void on_state(void *context, struct sl_admin_state *state)
{
    (void)context;
    *state = shown;
}

static void on_metrics(void *context, struct sl_text *text)
{
    (void)context;
    sl_text_add(text, "# TYPE test_answer gauge\ntest_answer %d\n", 42);
}

static struct sl_admin *start(void)
{
    struct sl_err err = {0};
    struct sl_admin *ops = NULL;
    const struct sl_admin_config config = {.listen = "127.0.0.1:0", .state = on_state, .metrics = on_metrics};
    if (sl_admin_start(&ops, &config, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return ops;
}

/* Sends a request as it stands and returns everything until the server closes. */
static const char *ask(const struct sl_admin *ops, const char *request)
{
    static char reply[32768];
    size_t bytes = 0;
    struct sockaddr_in to = {.sin_family = AF_INET};
    to.sin_port = htons((uint16_t)sl_admin_port(ops));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (const struct sockaddr *)(const void *)&to, sizeof to) == 0 &&
        send(fd, request, strlen(request), MSG_NOSIGNAL) == (ssize_t)strlen(request)) {
        ssize_t n;
        while (bytes < sizeof reply - 1 && (n = recv(fd, reply + bytes, sizeof reply - 1 - bytes, 0)) > 0)
            bytes += (size_t)n;
    }
    close(fd);
    reply[bytes] = 0;
    return reply;
}

static const char *get(const struct sl_admin *ops, const char *path)
{
    char request[128];
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    return ask(ops, request);
}

SL_TEST(probes_follow_the_state)
{
    struct sl_admin *ops = start();
    REQUIRE(ops);
    shown = (struct sl_admin_state){.reason = "waiting for stages"};
    CHECK_CONTAINS(get(ops, "/livez"), "HTTP/1.1 200 OK");
    CHECK_CONTAINS(get(ops, "/startupz"), "HTTP/1.1 503");
    CHECK_CONTAINS(get(ops, "/readyz"), "HTTP/1.1 503");
    CHECK_CONTAINS(get(ops, "/readyz"), "\r\n\r\nwaiting for stages\n");
    shown = (struct sl_admin_state){.started = true, .ready = true};
    CHECK_CONTAINS(get(ops, "/startupz"), "HTTP/1.1 200 OK");
    CHECK_CONTAINS(get(ops, "/readyz"), "HTTP/1.1 200 OK");
    shown.ready = false; /* draining: started stays */
    CHECK_CONTAINS(get(ops, "/startupz"), "HTTP/1.1 200 OK");
    CHECK_CONTAINS(get(ops, "/readyz"), "HTTP/1.1 503");
    sl_admin_stop(ops);
}

SL_TEST(metrics_are_openmetrics_with_an_end_mark)
{
    struct sl_admin *ops = start();
    REQUIRE(ops);
    const char *page = get(ops, "/metrics");
    CHECK_CONTAINS(page, "application/openmetrics-text; version=1.0.0");
    const char *start = strstr(page, "\nprocess_start_time_seconds ");
    CHECK(start != NULL);
    double began = strtod(start + strlen("\nprocess_start_time_seconds "), NULL), now = (double)time(NULL);
    CHECK(began > now - 3600 &&
          began < now + 60); /* the kernel keeps the time of the boot in whole seconds */
    CHECK_CONTAINS(page, "\ntest_answer 42\n");
    CHECK_CONTAINS(page, "\nsluice_build_info{version=\"");
    CHECK_CONTAINS(page, "\nprocess_resident_memory_bytes ");
    CHECK(strlen(page) > 6 && strcmp(page + strlen(page) - 6, "# EOF\n") == 0);
    CHECK_CONTAINS(get(ops, "/version"), "{\"name\":\"sluice\",\"version\":\"");
    sl_admin_stop(ops);
}

SL_TEST(other_paths_and_verbs_are_refused)
{
    struct sl_admin *ops = start();
    REQUIRE(ops);
    CHECK_CONTAINS(get(ops, "/"), "HTTP/1.1 404");
    CHECK_CONTAINS(get(ops, "/metricsx"), "/metrics"); /* the sentence lists what there is */
    const char *post = ask(ops, "POST /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                                "Content-Length: 5\r\n\r\nhello");
    CHECK_CONTAINS(post, "HTTP/1.1 405");
    CHECK_CONTAINS(post, "Allow: GET, HEAD");
    const char *head = ask(ops, "HEAD /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CHECK_CONTAINS(head, "HTTP/1.1 200 OK");
    CHECK(strlen(head) > 4 && strcmp(head + strlen(head) - 4, "\r\n\r\n") == 0);
    ask(ops, "\x16\x03\x01garbage\r\n\r\n");
    CHECK_CONTAINS(get(ops, "/livez"), "HTTP/1.1 200 OK");
    sl_admin_stop(ops);
}

static bool there_is_one;

static bool on_schedule(void *context, struct sl_text *text)
{
    (void)context;
    if (there_is_one)
        sl_text_add(text, "{\"queue\":[]}\n");
    return there_is_one;
}

SL_TEST(the_schedule_is_shown_to_this_machine_where_there_is_one)
{
    struct sl_admin *ops = start();
    REQUIRE(ops);
    const char *missing = get(ops, "/debug/schedule");
    CHECK_CONTAINS(missing, "HTTP/1.1 404");
    CHECK(strstr(missing, " /debug") == NULL);
    sl_admin_stop(ops);
    struct sl_err err = {0};
    const struct sl_admin_config config = {
        .listen = "127.0.0.1:0", .state = on_state, .schedule = on_schedule, .records = on_schedule};
    REQUIRE(sl_admin_start(&ops, &config, &err) == SL_OK);
    CHECK_CONTAINS(get(ops, "/debug/schedule"), "HTTP/1.1 503");
    CHECK_CONTAINS(get(ops, "/debug/records"), "HTTP/1.1 503");
    there_is_one = true;
    CHECK_CONTAINS(get(ops, "/debug/schedule"), "HTTP/1.1 200");
    CHECK_CONTAINS(get(ops, "/debug/schedule"), "application/json");
    CHECK_CONTAINS(get(ops, "/debug/schedule"), "\r\n\r\n{\"queue\":[]}\n");
    CHECK_CONTAINS(get(ops, "/nothing"), " /debug/schedule");
    CHECK_CONTAINS(get(ops, "/debug/records"), "application/x-ndjson");
    CHECK_CONTAINS(get(ops, "/debug/records"), "\r\n\r\n{\"queue\":[]}\n");
    const char *proxied = ask(ops, "GET /debug/schedule HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.9\r\n"
                                   "Connection: close\r\n\r\n");
    CHECK_CONTAINS(proxied, "HTTP/1.1 403");
    CHECK_CONTAINS(proxied, "\r\n\r\n/debug/schedule is answered to this machine alone");
    sl_admin_stop(ops);
}

static uint32_t n_flushed;

static bool on_flush(void *context)
{
    (void)context;
    n_flushed++;
    return n_flushed != 2;
}

SL_TEST(a_flush_is_asked_for_by_post_from_this_machine)
{
    struct sl_admin *ops = start();
    REQUIRE(ops);
    static const char post[] =
        "POST /debug/flush_prefix_cache HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n";
    char asked[300];
    snprintf(asked, sizeof asked, "%s\r\n", post);
    CHECK_CONTAINS(ask(ops, asked), "HTTP/1.1 405"); /* there is none: any POST is refused */
    sl_admin_stop(ops);
    struct sl_err err = {0};
    const struct sl_admin_config config = {.listen = "127.0.0.1:0", .state = on_state, .flush = on_flush};
    REQUIRE(sl_admin_start(&ops, &config, &err) == SL_OK);
    const char *got = get(ops, "/debug/flush_prefix_cache");
    CHECK_CONTAINS(got, "HTTP/1.1 405");
    CHECK_CONTAINS(got, "Allow: POST");
    CHECK_INT(n_flushed, 0);
    CHECK_CONTAINS(ask(ops, asked), "HTTP/1.1 200");
    CHECK_CONTAINS(ask(ops, asked), "HTTP/1.1 409");
    snprintf(asked, sizeof asked, "%sX-Forwarded-For: 10.0.0.9\r\n\r\n", post);
    CHECK_CONTAINS(ask(ops, asked), "HTTP/1.1 403");
    CHECK_INT(n_flushed, 2);
    sl_admin_stop(ops);
}

SL_TEST(an_address_that_is_taken_or_malformed_is_named)
{
    struct sl_admin *ops = start(), *second = NULL;
    struct sl_err err = {0};
    char address[32];
    REQUIRE(ops);
    snprintf(address, sizeof address, "127.0.0.1:%d", sl_admin_port(ops));
    const struct sl_admin_config config = {.listen = address, .state = on_state};
    CHECK_INT(sl_admin_start(&second, &config, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, address);
    sl_admin_stop(ops);
}

SL_TEST(addresses_are_parsed_strictly)
{
    static const char *const bad[] = {"",      ":",       "127.0.0.1", ":80",    "a:",   "a:x",
                                      "a:80x", "a:65536", "a:-1",      "::1:80", "[]:80"};
    char host[SL_HOST_BYTES];
    uint16_t port;
    struct sl_err err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_INT(sl_listen_parse(bad[i], host, &port, &err), SL_E_CONFIG);
    CHECK_INT(sl_listen_parse("127.0.0.1:8081", host, &port, &err), SL_OK);
    CHECK_STR(host, "127.0.0.1");
    CHECK_INT(port, 8081);
    CHECK_INT(sl_listen_parse("[::1]:0", host, &port, &err), SL_OK);
    CHECK_STR(host, "::1");
    CHECK_INT(port, 0);
}

SL_TEST(text_grows_over_many_additions)
{
    struct sl_text text = {0};
    for (int i = 0; i < 5000; i++)
        sl_text_add(&text, "%04d,", i);
    CHECK_INT(text.bytes, 25000);
    REQUIRE(text.data);
    CHECK_STR(text.data + 24995, "4999,");
    free(text.data);
}
