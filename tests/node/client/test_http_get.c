/* Tests of the GET of an ops port: what is a whole answer, and what is said of those that are none. Servers are threads that say
 * one thing and close. */
#include "node/client/http_get.h"
#include "node/rpc/listen.h"
#include "tests/check.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static bool whole(const char *text, int *status, const char **body)
{
    size_t at = 0;
    bool is = sl_http_read(text, strlen(text), status, &at);
    *body = text + at;
    return is;
}

SL_TEST(an_answer_is_whole_when_all_its_length_is_there)
{
    int status;
    const char *body;
    CHECK(whole("HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 2\r\n\r\nhi", &status, &body));
    CHECK_INT(status, 200);
    CHECK_STR(body, "hi");
    CHECK(whole("HTTP/1.0 404 Not Found\n\nno", &status, &body));
    CHECK_INT(status, 404);
    CHECK_STR(body, "no");
    CHECK(!whole("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi", &status, &body));
    CHECK(!whole("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nhi", &status, &body));
    CHECK(!whole("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", &status, &body));
    CHECK(!whole("HTTP/1.1 20x OK\r\n\r\n", &status, &body));
    CHECK(!whole("SSH-2.0-OpenSSH_9.2\r\n\r\n", &status, &body));
    CHECK(!whole("", &status, &body));
}

struct server {
    struct sl_listener listener;
    const char *answer;
    char heard[1024];
    pthread_t thread;
};

static void *serve_one(void *argument)
{
    struct server *s = argument;
    struct pollfd ready = {s->listener.fds[0], POLLIN, 0};
    int fd = -1;
    poll(&ready, 1, -1);
    if (sl_listener_accept(&s->listener, 0, &fd) != SL_ACCEPTED)
        return NULL;
    ready = (struct pollfd){fd, POLLIN, 0};
    poll(&ready, 1, -1);
    ssize_t n = read(fd, s->heard, sizeof s->heard - 1);
    s->heard[n > 0 ? n : 0] = 0;
    if (s->answer) {
        if (write(fd, s->answer, strlen(s->answer)) < 0)
            s->heard[0] = 0;
        close(fd);
    } /* without one it is silent, and stays open */
    return NULL;
}

static sl_status ask(struct server *s, struct sl_http_reply *reply, uint32_t timeout_ms, struct sl_err *err)
{
    char address[40];
    if (sl_listener_open(&s->listener, "127.0.0.1:0", err) != SL_OK)
        return err->status;
    pthread_create(&s->thread, NULL, serve_one, s);
    snprintf(address, sizeof address, "127.0.0.1:%d", s->listener.port);
    sl_status status = sl_http_get(reply, address, "/metrics", timeout_ms, err);
    pthread_join(s->thread, NULL);
    sl_listener_close(&s->listener);
    return status;
}

SL_TEST(a_page_comes_with_its_status_and_a_zero_behind_it)
{
    struct server s = {.answer = "HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nlater"};
    struct sl_http_reply reply;
    struct sl_err err = {0};
    REQUIRE(ask(&s, &reply, 60000, &err) == SL_OK);
    CHECK_INT(reply.status, 503);
    CHECK_INT(reply.bytes, 5);
    CHECK_STR(reply.body, "later");
    CHECK_CONTAINS(s.heard, "GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:");
    sl_http_reply_free(&reply);
}

SL_TEST(half_an_answer_another_protocol_silence_and_nobody_get_a_sentence)
{
    struct sl_http_reply reply;
    struct sl_err err = {0};
    struct server half = {.answer = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf"};
    CHECK_INT(ask(&half, &reply, 60000, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "not HTTP, or not whole; is it the port of --ops?");
    struct server other = {.answer = "SSH-2.0-OpenSSH_9.2\r\n"};
    CHECK_INT(ask(&other, &reply, 60000, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "not HTTP");
    struct server silent = {.answer = NULL};
    CHECK_INT(ask(&silent, &reply, 50, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "it came too slowly");
    CHECK_INT(sl_http_get(&reply, "127.0.0.1:1", "/", 1000, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "nobody answers at the ops port 127.0.0.1:1");
    CHECK_INT(sl_http_get(&reply, "nonsense", "/", 1000, &err), SL_E_CONFIG);
    CHECK(reply.body == NULL);
}
