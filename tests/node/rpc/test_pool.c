/* The client of many calls (rpc_pool.c) against a server of the same process: every call ends once, what is dropped is silent, and
 * messages come in order, of hundreds of calls at once. */
#include "tests/check.h"

#include "base/clock.h"
#include "node/rpc/rpc.h"
#include "node/rpc/rpc_impl.h"
#include <stdlib.h>

enum { CALLS = 300, MESSAGES = 5 };
#define SECOND_NS 1000000000ull

static void on_count(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    (void)message, (void)bytes, (void)context;
    for (uint8_t i = 0; i < MESSAGES; i++)
        sl_rpc_write(call, &i, 1);
    sl_rpc_finish(call, SL_OK, NULL);
}

static void on_fail(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    (void)message, (void)bytes, (void)context;
    sl_rpc_finish(call, SL_E_EXHAUSTED, "the queue is full");
}

static void on_hang_end(struct sl_rpc_call *call, void *user, bool cancelled)
{
    (void)user, (void)cancelled;
    sl_rpc_unref(call);
}

static void on_hang(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    (void)message, (void)bytes, (void)context;
    sl_rpc_ref(call);
    sl_rpc_hooks(call, NULL, on_hang_end, NULL);
}

static const struct sl_rpc_method methods[] = {
    {.path = "/t.T/Count", .streaming = true, .on_message = on_count, .roles = SL_RPC_ALL},
    {.path = "/t.T/Fail", .streaming = true, .on_message = on_fail, .roles = SL_RPC_ALL},
    {.path = "/t.T/Hang", .streaming = true, .on_message = on_hang, .roles = SL_RPC_ALL},
};

struct pool_world {
    struct sl_rpc_server *server;
    struct sl_rpc_pool *pool;
    char endpoint[32];
    struct {
        uint32_t n_messages, n_ends;
        sl_status status;
        char sentence[96];
    } calls[CALLS];
    uint32_t n_ends;
    bool drops; /* each call, at its first message */
};

static void on_message(void *user, uint32_t call, uint64_t at_ns, const uint8_t *message, size_t bytes)
{
    struct pool_world *w = user;
    CHECK(at_ns <= sl_clock_ns());
    CHECK(bytes == 1 && message[0] == w->calls[call].n_messages);
    w->calls[call].n_messages++;
    if (w->drops)
        sl_rpc_pool_drop(w->pool, call);
}

static void on_end(void *user, uint32_t call, uint64_t at_ns, sl_status status, const char *sentence)
{
    struct pool_world *w = user;
    (void)at_ns;
    w->n_ends++;
    w->calls[call].n_ends++;
    w->calls[call].status = status;
    snprintf(w->calls[call].sentence, sizeof w->calls[call].sentence, "%s", sentence);
}

static bool begin(struct pool_world *w)
{
    struct sl_err err = {0};
    struct sl_rpc_server_config server = {.listen = "127.0.0.1:0",
                                          .n_workers = 2,
                                          .max_message_bytes = 1 << 20,
                                          .max_metadata_bytes = 8192,
                                          .queue_messages = 8};
    sl_rpc_init();
    if (sl_rpc_server_start(&w->server, &server, methods, sizeof methods / sizeof *methods, &err) != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        return false;
    }
    snprintf(w->endpoint, sizeof w->endpoint, "127.0.0.1:%d", sl_rpc_server_port(w->server));
    struct sl_rpc_pool_config pool = {
        .endpoint = w->endpoint, .max_calls = CALLS, .user = w, .on_message = on_message, .on_end = on_end};
    return sl_rpc_pool_open(&w->pool, &pool, &err) == SL_OK;
}

static void end(struct pool_world *w)
{
    sl_rpc_pool_close(w->pool);
    sl_rpc_server_stop(w->server, 10000);
    CHECK_INT(sl_rpc_live_calls(), 0);
    sl_rpc_fini();
    free(w);
}

static void send_all(struct pool_world *w, const char *path, uint32_t n, int64_t timeout_ms)
{
    struct sl_rpc_header header = {"x-tenant-id", "a"};
    for (uint32_t i = 0; i < n; i++)
        sl_rpc_pool_send(w->pool, i, path, (const uint8_t *)"x", 1, timeout_ms, &header, 1);
}

SL_TEST(hundreds_of_calls_come_in_order_and_end_once_each)
{
    struct pool_world *w = calloc(1, sizeof *w);
    REQUIRE(w && begin(w));
    for (int round = 0; round < 3; round++) { /* numbers are used again */
        w->n_ends = 0;
        memset(w->calls, 0, sizeof w->calls);
        send_all(w, "/t.T/Count", CALLS, -1);
        while (w->n_ends < CALLS)
            sl_rpc_pool_poll(w->pool, sl_clock_ns() + SECOND_NS);
        for (uint32_t i = 0; i < CALLS; i++) {
            CHECK_INT(w->calls[i].n_messages, MESSAGES);
            CHECK_INT(w->calls[i].n_ends, 1);
            CHECK_INT(w->calls[i].status, SL_OK);
        }
    }
    end(w);
}

SL_TEST(a_refusal_brings_its_status_and_sentence)
{
    struct pool_world *w = calloc(1, sizeof *w);
    REQUIRE(w && begin(w));
    send_all(w, "/t.T/Fail", 1, -1);
    while (w->n_ends < 1)
        sl_rpc_pool_poll(w->pool, sl_clock_ns() + SECOND_NS);
    CHECK_INT(w->calls[0].status, SL_E_EXHAUSTED);
    CHECK_STR(w->calls[0].sentence, "the queue is full");
    end(w);
}

SL_TEST(a_deadline_ends_a_call_that_hangs)
{
    struct pool_world *w = calloc(1, sizeof *w);
    REQUIRE(w && begin(w));
    send_all(w, "/t.T/Hang", 2, 30);
    while (w->n_ends < 2)
        sl_rpc_pool_poll(w->pool, sl_clock_ns() + SECOND_NS);
    CHECK_INT(w->calls[0].status, SL_E_DEADLINE);
    end(w);
}

SL_TEST(what_is_dropped_is_silent_and_its_number_is_free)
{
    struct pool_world *w = calloc(1, sizeof *w);
    REQUIRE(w && begin(w));
    send_all(w, "/t.T/Hang", CALLS, -1);
    for (uint32_t i = 0; i < CALLS; i++)
        sl_rpc_pool_drop(w->pool, i);
    w->drops = true; /* from within the callback, too */
    send_all(w, "/t.T/Count", CALLS, -1);
    for (uint32_t n = 0; n < CALLS;) {
        sl_rpc_pool_poll(w->pool, sl_clock_ns() + SECOND_NS);
        n = 0;
        for (uint32_t i = 0; i < CALLS; i++)
            n += w->calls[i].n_messages;
    }
    sl_rpc_pool_poll(w->pool, sl_clock_ns() + 1000000);
    CHECK_INT(w->n_ends, 0);
    for (uint32_t i = 0; i < CALLS; i++)
        CHECK_INT(w->calls[i].n_messages, 1);
    send_all(w, "/t.T/Hang", CALLS, -1); /* the pool is closed while they run */
    end(w);
}

SL_TEST(nobody_there_is_unavailable)
{
    struct pool_world *w = calloc(1, sizeof *w);
    REQUIRE(w && begin(w));
    sl_rpc_server_stop(w->server, 0);
    w->server = NULL;
    send_all(w, "/t.T/Count", 1, -1);
    while (w->n_ends < 1)
        sl_rpc_pool_poll(w->pool, sl_clock_ns() + SECOND_NS);
    CHECK_INT(w->calls[0].status, SL_E_UNAVAILABLE);
    CHECK(w->calls[0].sentence[0] != 0);
    sl_rpc_pool_close(w->pool);
    sl_rpc_fini();
    free(w);
}

SL_TEST(a_certificate_that_is_none_is_refused)
{
    struct sl_rpc_pool *pool;
    struct sl_err err = {0};
    struct sl_rpc_tls tls = {.cert = "rubbish", .key = "rubbish"};
    struct sl_rpc_pool_config config = {
        .endpoint = "127.0.0.1:1", .tls = &tls, .max_calls = 1, .on_message = on_message, .on_end = on_end};
    sl_rpc_init();
    if (sl_rpc_pool_open(&pool, &config, &err) == SL_OK)
        sl_rpc_pool_close(pool); /* this core looks at it when it connects */
    else
        CHECK_CONTAINS(err.text, "PEM");
    sl_rpc_fini();
}
