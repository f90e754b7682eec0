/* The gRPC wrapper against itself over loopback: every promise of node/rpc/rpc.h that needs no foreign
 * client (tests/e2e has those). Each test has a server of its own on a free port, and ends with the
 * check that no call is left. Threads meet at latches, never by sleeping. */
#include "tests/check.h"

#include "base/rng.h"
#include "node/rpc/rpc.h"
#include "node/rpc/rpc_impl.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MESSAGE_LIMIT = 1 << 20, QUEUE = 8, FLOOD_BYTES = 64 << 10, FLOOD_MESSAGES = 400 };

struct latch { /* counts up; a waiter sees it reach a number */
    pthread_mutex_t lock;
    pthread_cond_t change;
    uint32_t count;
};
#define LATCH                                                                                                \
    {                                                                                                        \
        PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0                                               \
    }

static void latch_add(struct latch *latch)
{
    pthread_mutex_lock(&latch->lock);
    latch->count++;
    pthread_cond_broadcast(&latch->change);
    pthread_mutex_unlock(&latch->lock);
}

static void latch_wait(struct latch *latch, uint32_t count)
{
    pthread_mutex_lock(&latch->lock);
    while (latch->count < count)
        pthread_cond_wait(&latch->change, &latch->lock);
    pthread_mutex_unlock(&latch->lock);
}

/* ---- the methods of the test server ---- */

static struct latch arrived, ended, ended_cancelled, was_full;

static void on_end(struct sl_rpc_call *call, void *user, bool cancelled)
{
    (void)user;
    if (cancelled)
        latch_add(&ended_cancelled);
    latch_add(&ended);
    sl_rpc_unref(call);
}

static void on_echo(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    (void)context;
    sl_rpc_write(call, message, bytes);
    sl_rpc_finish(call, SL_OK, NULL);
    sl_rpc_finish(call, SL_E_INTERNAL, "the first finish counts");
}

/* The request is a status as text: it comes back as that status, with a sentence. */
static void on_fail(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    char text[16] = "";
    (void)context;
    memcpy(text, message, bytes < 15 ? bytes : 15);
    sl_rpc_pushback(call, 250);
    sl_rpc_write(call, (const uint8_t *)"dropped", 7);
    sl_rpc_finish(call, (sl_status)atoi(text), "\xc3\xa9 50 % of it");
}

static void *produce(void *argument)
{
    struct sl_rpc_call *call = argument;
    for (uint32_t i = 0; i < QUEUE; i++) { /* fits the queue whether or not anybody reads */
        char text[16];
        int n = snprintf(text, sizeof text, "%u", i);
        if (sl_rpc_write(call, (const uint8_t *)text, (size_t)n) != SL_OK)
            sl_test_fail(__FILE__, __LINE__, "message %u was not taken", i);
    }
    sl_rpc_finish(call, SL_OK, NULL);
    sl_rpc_unref(call);
    latch_add(&was_full);
    return NULL;
}

static void on_count(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    pthread_t thread;
    (void)message, (void)bytes, (void)context;
    sl_rpc_ref(call);
    if (pthread_create(&thread, NULL, produce, call) == 0)
        pthread_detach(thread);
}

/* Pushes from a foreign thread whatever becomes of the call. */
static void *push(void *argument)
{
    struct sl_rpc_call *call = argument;
    for (uint32_t i = 0; i < 200; i++)
        (void)sl_rpc_write(call, (const uint8_t *)"token", 5);
    sl_rpc_finish(call, SL_OK, NULL);
    sl_rpc_unref(call);
    latch_add(&was_full);
    return NULL;
}

static void on_push(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    pthread_t thread;
    (void)message, (void)bytes, (void)context;
    latch_add(&arrived);
    sl_rpc_ref(call);
    if (pthread_create(&thread, NULL, push, call) == 0)
        pthread_detach(thread);
}

/* Says "here" and never ends by itself. */
static void on_hold(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    (void)message, (void)bytes, (void)context;
    sl_rpc_ref(call);
    sl_rpc_hooks(call, NULL, on_end, NULL);
    sl_rpc_write(call, (const uint8_t *)"here", 4);
    latch_add(&arrived);
}

struct flood {
    uint8_t message[FLOOD_BYTES];
    uint32_t sent;
};

static void flood_on(struct sl_rpc_call *call, void *user)
{
    struct flood *flood = user;
    while (flood->sent < FLOOD_MESSAGES) {
        flood->message[0] = (uint8_t)flood->sent;
        sl_status status = sl_rpc_write(call, flood->message, sizeof flood->message);
        if (status == SL_AGAIN)
            latch_add(&was_full);
        if (status != SL_OK)
            return;
        flood->sent++;
    }
    sl_rpc_finish(call, SL_OK, NULL);
}

static void flood_end(struct sl_rpc_call *call, void *user, bool cancelled)
{
    free(user);
    on_end(call, NULL, cancelled);
}

static void on_flood(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    (void)message, (void)bytes, (void)context;
    struct flood *flood = calloc(1, sizeof *flood);
    sl_rpc_ref(call);
    sl_rpc_hooks(call, flood, flood_end, flood_on);
    flood_on(call, flood);
}

/* The request names a field of its metadata: how often it is there, and its bytes. */
static void on_field(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    char name[32] = "", text[80];
    const char *value = "";
    size_t n_bytes = 0;
    (void)context;
    memcpy(name, message, bytes < sizeof name - 1 ? bytes : sizeof name - 1);
    uint32_t n = sl_rpc_field(call, name, &value, &n_bytes);
    int length = snprintf(text, sizeof text, "%u %.*s", n, (int)n_bytes, value);
    sl_rpc_write(call, (const uint8_t *)text, (size_t)length);
    sl_rpc_finish(call, SL_OK, NULL);
}

static const struct sl_rpc_method methods[] = {
    {.path = "/test.T/Field", .on_message = on_field, .roles = SL_RPC_ALL},
    {.path = "/test.T/Echo", .on_message = on_echo, .roles = SL_RPC_ALL},
    {.path = "/test.T/Fail", .on_message = on_fail, .roles = SL_RPC_ALL},
    {.path = "/test.T/Count", .streaming = true, .on_message = on_count, .roles = SL_RPC_ALL},
    {.path = "/test.T/Push", .streaming = true, .on_message = on_push, .roles = SL_RPC_ALL},
    {.path = "/test.T/Hold", .streaming = true, .on_message = on_hold, .roles = SL_RPC_ALL},
    {.path = "/test.T/Flood", .streaming = true, .on_message = on_flood, .roles = SL_RPC_ALL},
};

struct rpc_fixture {
    struct sl_rpc_server *server;
    struct sl_rpc_channel *channel;
    char address[32];
};

static sl_status fixture_open(struct rpc_fixture *f)
{
    static const struct latch fresh = LATCH;
    struct sl_err err = {0};
    arrived = ended = ended_cancelled = was_full = fresh;
    sl_rpc_init();
    struct sl_rpc_server_config config = {.listen = "127.0.0.1:0",
                                          .n_workers = 2,
                                          .max_message_bytes = MESSAGE_LIMIT,
                                          .max_metadata_bytes = 8 << 10,
                                          .queue_messages = QUEUE};
    sl_status status =
        sl_rpc_server_start(&f->server, &config, methods, sizeof methods / sizeof *methods, &err);
    if (status == SL_OK) {
        snprintf(f->address, sizeof f->address, "127.0.0.1:%d", sl_rpc_server_port(f->server));
        status = sl_rpc_channel_open(&f->channel, f->address, &err);
    }
    if (status != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return status;
}

static void fixture_close(struct rpc_fixture *f)
{
    if (f->server)
        sl_rpc_server_stop(f->server, 0);
    sl_rpc_channel_close(f->channel);
    CHECK_INT(sl_rpc_live_calls(), 0);
    sl_rpc_fini();
}

static sl_status call(struct rpc_fixture *f, const char *path, const char *text, uint32_t timeout_ms,
                      struct sl_err *err)
{
    uint8_t *reply;
    size_t bytes;
    sl_status status = sl_rpc_unary(f->channel, path, (const uint8_t *)text, strlen(text),
                                    sl_test_patience_ms(timeout_ms), &reply, &bytes, err);
    if (status == SL_OK)
        CHECK(bytes == strlen(text) && memcmp(reply, text, bytes) == 0);
    free(reply);
    return status;
}

/* ---- tests ---- */

SL_TEST(unary_brings_the_reply_and_the_first_finish_counts)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    if (fixture_open(&f) == SL_OK)
        for (int i = 0; i < 100; i++)
            CHECK_INT(call(&f, "/test.T/Echo", "hello", 10000, &err), SL_OK);
    fixture_close(&f);
}

SL_TEST(every_status_comes_back_as_itself_with_its_sentence)
{
    static const sl_status statuses[] = {SL_E_CORRUPT,   SL_E_INVALID,   SL_E_NOT_FOUND,   SL_E_EXISTS,
                                         SL_E_EXHAUSTED, SL_E_CANCELLED, SL_E_DEADLINE,    SL_E_UNIMPLEMENTED,
                                         SL_E_REFUSED,   SL_E_INTERNAL,  SL_E_UNAVAILABLE, SL_E_DENIED};
    struct rpc_fixture f = {0};
    if (fixture_open(&f) == SL_OK)
        for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
            struct sl_err err = {0};
            char text[16];
            snprintf(text, sizeof text, "%d", statuses[i]);
            CHECK_INT(call(&f, "/test.T/Fail", text, 10000, &err), statuses[i]);
            CHECK_STR(err.text, "\xc3\xa9 50 % of it");
        }
    fixture_close(&f);
}

SL_TEST(metadata_of_a_call_is_there_and_counted)
{
    static const struct sl_rpc_header headers[] = {
        {"x-once", "a"}, {"x-twice", "b"}, {"x-twice", "c"}, {"x-empty", ""}};
    static const struct {
        const char *name, *answer;
    } asked[] = {{"x-once", "1 a"}, {"x-twice", "2 c"}, {"x-empty", "1 "}, {"x-never", "0 "}};
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    bool open = fixture_open(&f) == SL_OK;
    for (size_t i = 0; open && i < sizeof asked / sizeof *asked; i++) {
        struct sl_rpc_stream *stream = NULL;
        uint8_t *message = NULL;
        size_t bytes = 0;
        CHECK_INT(sl_rpc_stream_open_with(&stream, f.channel, "/test.T/Field", (const uint8_t *)asked[i].name,
                                          strlen(asked[i].name), sl_test_patience_ms(10000), headers, 4,
                                          &err),
                  SL_OK);
        CHECK_INT(sl_rpc_stream_next(stream, &message, &bytes, &err), SL_OK);
        if (!message || bytes != strlen(asked[i].answer) || memcmp(message, asked[i].answer, bytes) != 0)
            sl_test_fail(__FILE__, __LINE__, "of %s: \"%.*s\"", asked[i].name, (int)bytes,
                         (const char *)message);
        free(message);
        sl_rpc_stream_close(stream);
    }
    fixture_close(&f);
}

SL_TEST(a_foreign_thread_streams_in_order)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    uint32_t runs = 0;
    for (bool open = fixture_open(&f) == SL_OK; open && runs < 50; runs++) {
        struct sl_rpc_stream *stream = NULL;
        uint8_t *message;
        size_t bytes;
        uint32_t n = 0;
        if (sl_rpc_stream_open(&stream, f.channel, "/test.T/Count", NULL, 0, sl_test_patience_ms(10000),
                               &err) != SL_OK)
            break;
        while (sl_rpc_stream_next(stream, &message, &bytes, &err) == SL_OK) {
            char want[16];
            int length = snprintf(want, sizeof want, "%u", n++);
            CHECK(bytes == (size_t)length && memcmp(message, want, bytes) == 0);
            free(message);
        }
        CHECK_INT(n, QUEUE);
        CHECK_INT(sl_rpc_stream_next(stream, &message, &bytes, &err), SL_AGAIN);
        sl_rpc_stream_close(stream);
    }
    CHECK_INT(runs, 50);
    latch_wait(&was_full, runs); /* the producers have let go of their calls */
    fixture_close(&f);
}

SL_TEST(a_client_that_cancels_ends_the_call_on_the_server)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    struct sl_rpc_stream *stream = NULL;
    uint8_t *message;
    size_t bytes;
    if (fixture_open(&f) == SL_OK &&
        sl_rpc_stream_open(&stream, f.channel, "/test.T/Hold", NULL, 0, -1, &err) == SL_OK) {
        CHECK_INT(sl_rpc_stream_next(stream, &message, &bytes, &err), SL_OK);
        free(message);
        sl_rpc_stream_cancel(stream);
        CHECK_INT(sl_rpc_stream_next(stream, &message, &bytes, &err), SL_E_CANCELLED);
        latch_wait(&ended_cancelled, 1);
    }
    sl_rpc_stream_close(stream);
    fixture_close(&f);
}

SL_TEST(a_deadline_ends_both_sides)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    struct sl_rpc_stream *stream = NULL;
    uint8_t *message;
    size_t bytes;
    if (fixture_open(&f) == SL_OK &&
        sl_rpc_stream_open(&stream, f.channel, "/test.T/Hold", NULL, 0, 300, &err) == SL_OK) {
        sl_status status;
        bool arrived_there = false; /* a busy machine may let the deadline pass before the call is there */
        while ((status = sl_rpc_stream_next(stream, &message, &bytes, &err)) == SL_OK) {
            arrived_there = true;
            free(message);
        }
        CHECK_INT(status, SL_E_DEADLINE);
        if (arrived_there)
            latch_wait(&ended_cancelled, 1);
    }
    sl_rpc_stream_close(stream);
    fixture_close(&f);
}

SL_TEST(an_unknown_method_is_refused_by_name)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    if (fixture_open(&f) == SL_OK) {
        CHECK_INT(call(&f, "/test.T/Nowhere", "x", 10000, &err), SL_E_UNIMPLEMENTED);
        CHECK_CONTAINS(err.text, "/test.T/Nowhere");
        CHECK_INT(call(&f, "/test.T/Echo", "x", 10000, &err), SL_OK);
    }
    fixture_close(&f);
}

SL_TEST(a_message_over_the_limit_is_refused_and_the_connection_lives)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    uint8_t *big = calloc(1, MESSAGE_LIMIT + 1), *reply;
    size_t bytes;
    if (big && fixture_open(&f) == SL_OK) {
        CHECK_INT(sl_rpc_unary(f.channel, "/test.T/Echo", big, MESSAGE_LIMIT + 1, sl_test_patience_ms(20000),
                               &reply, &bytes, &err),
                  SL_E_EXHAUSTED);
        CHECK_INT(sl_rpc_unary(f.channel, "/test.T/Echo", big, MESSAGE_LIMIT, sl_test_patience_ms(20000),
                               &reply, &bytes, &err),
                  SL_OK);
        CHECK_INT(bytes, MESSAGE_LIMIT);
        free(reply);
    }
    free(big);
    fixture_close(&f);
}

SL_TEST(a_reader_that_stops_fills_the_queue_and_loses_nothing)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    struct sl_rpc_stream *stream = NULL;
    uint8_t *message;
    size_t bytes;
    uint32_t n = 0;
    if (fixture_open(&f) == SL_OK &&
        sl_rpc_stream_open(&stream, f.channel, "/test.T/Flood", NULL, 0, -1, &err) == SL_OK) {
        latch_wait(&was_full, 1); /* before anything is read */
        while (sl_rpc_stream_next(stream, &message, &bytes, &err) == SL_OK) {
            CHECK(bytes == FLOOD_BYTES && message[0] == (uint8_t)n);
            n++;
            free(message);
        }
        CHECK_INT(n, FLOOD_MESSAGES);
        latch_wait(&ended, 1);
        CHECK_INT(ended_cancelled.count, 0);
    }
    sl_rpc_stream_close(stream);
    fixture_close(&f);
}

SL_TEST(a_port_in_use_and_a_bad_address_are_named)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    struct sl_rpc_server *second = NULL;
    if (fixture_open(&f) == SL_OK) {
        struct sl_rpc_server_config config = {.listen = f.address,
                                              .n_workers = 1,
                                              .max_message_bytes = MESSAGE_LIMIT,
                                              .max_metadata_bytes = 8 << 10,
                                              .queue_messages = QUEUE};
        CHECK_INT(sl_rpc_server_start(&second, &config, methods, 1, &err), SL_E_UNAVAILABLE);
        CHECK_CONTAINS(err.text, f.address);
        config.listen = "127.0.0.1";
        CHECK_INT(sl_rpc_server_start(&second, &config, methods, 1, &err), SL_E_CONFIG);
        config.listen = "no.such.host.invalid:0";
        CHECK_INT(sl_rpc_server_start(&second, &config, methods, 1, &err), SL_E_UNAVAILABLE);
        CHECK_CONTAINS(err.text, "no.such.host.invalid");
    }
    fixture_close(&f);
}

SL_TEST(nobody_listening_is_unavailable)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    if (fixture_open(&f) == SL_OK) {
        sl_rpc_server_stop(f.server, 0);
        f.server = NULL;
        CHECK_INT(call(&f, "/test.T/Echo", "x", 10000, &err), SL_E_UNAVAILABLE);
        CHECK(err.text[0] != 0);
    }
    fixture_close(&f);
}

SL_TEST(garbage_connections_do_not_stop_the_server)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    struct sl_rng rng = {.seed = 4};
    bool open = fixture_open(&f) == SL_OK;
    for (int i = 0; open && i < 200; i++) {
        uint8_t bytes[256];
        struct sockaddr_in to = {.sin_family = AF_INET};
        to.sin_port = htons((uint16_t)sl_rpc_server_port(f.server));
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        for (size_t k = 0; k < sizeof bytes; k++)
            bytes[k] = (uint8_t)sl_rng_next(&rng);
        if (i % 4 == 0)
            memcpy(bytes, preface, sizeof preface - 1); /* frames of garbage after a good start */
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(fd >= 0 && connect(fd, (const struct sockaddr *)(const void *)&to, sizeof to) == 0);
        CHECK(send(fd, bytes, sl_rng_next(&rng) % sizeof bytes, MSG_NOSIGNAL) >= 0);
        close(fd);
    }
    if (open)
        CHECK_INT(call(&f, "/test.T/Echo", "still here", 10000, &err), SL_OK);
    fixture_close(&f);
}

SL_TEST(stop_cancels_what_the_grace_did_not_end)
{
    enum { STREAMS = 16 };
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    struct sl_rpc_stream *streams[STREAMS] = {0};
    uint8_t *message;
    size_t bytes;
    bool open = fixture_open(&f) == SL_OK;
    for (int i = 0; open && i < STREAMS; i++)
        CHECK_INT(sl_rpc_stream_open(&streams[i], f.channel, "/test.T/Hold", NULL, 0, -1, &err), SL_OK);
    if (open) {
        latch_wait(&arrived, STREAMS);
        sl_rpc_server_stop(f.server, 1);
        f.server = NULL;
        CHECK_INT(ended_cancelled.count, STREAMS);
    }
    for (int i = 0; open && i < STREAMS; i++) {
        sl_status status;
        while ((status = sl_rpc_stream_next(streams[i], &message, &bytes, &err)) == SL_OK)
            free(message);
        CHECK_INT(status, SL_E_UNAVAILABLE);
        sl_rpc_stream_close(streams[i]);
    }
    fixture_close(&f);
}

SL_TEST(stop_waits_for_running_calls_within_the_grace)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    struct sl_rpc_stream *stream = NULL;
    uint8_t *message;
    size_t bytes;
    uint32_t n = 0;
    if (fixture_open(&f) == SL_OK &&
        sl_rpc_stream_open(&stream, f.channel, "/test.T/Count", NULL, 0, -1, &err) == SL_OK) {
        latch_wait(&was_full, 1);
        sl_rpc_server_stop(f.server, sl_test_patience_ms(20000));
        f.server = NULL;
        while (sl_rpc_stream_next(stream, &message, &bytes, &err) == SL_OK) {
            n++;
            free(message);
        }
        CHECK_INT(n, QUEUE);
    }
    sl_rpc_stream_close(stream);
    fixture_close(&f);
}

/* Writers on foreign threads against calls that their clients cancel: for the sanitizers. */
SL_TEST(writers_race_with_cancel)
{
    struct rpc_fixture f = {0};
    struct sl_err err = {0};
    bool open = fixture_open(&f) == SL_OK;
    uint32_t n = 0;
    for (; open && n < 50; n++) {
        struct sl_rpc_stream *stream = NULL;
        uint8_t *message;
        size_t bytes;
        if (sl_rpc_stream_open(&stream, f.channel, "/test.T/Push", NULL, 0, -1, &err) != SL_OK)
            break;
        if (n % 3 == 0 && sl_rpc_stream_next(stream, &message, &bytes, &err) == SL_OK)
            free(message);
        if (n % 3 == 1)
            sl_rpc_stream_cancel(stream);
        sl_rpc_stream_close(stream);
    }
    CHECK_INT(n, 50);
    if (open) {
        sl_rpc_server_stop(f.server, 0); /* every call that arrived has its thread by now */
        f.server = NULL;
        latch_wait(&was_full, arrived.count);
    }
    fixture_close(&f);
}
