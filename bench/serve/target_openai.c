/* OpenAI's HTTP with server-sent events, by libcurl's multi interface: its sockets in an epoll set of ours, so that a wait ends at
 * the nanosecond at which the next request is due, and a thousand idle streams cost nothing.
 *
 * Counts: a piece with text is one arrival. How many tokens it held the server says at the end (usage), or never; then pieces are
 * counted. A count that cannot be is not believed, and said so. */
#include "base/clock.h"
#include "base/http/curl.h"
#include "bench/serve/openai.h"
#include "bench/serve/sse.h"
#include "bench/serve/target_impl.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { ASK_TIMEOUT_MS = 5000, RETRY_NS = 20000000, EVENTS_AT_ONCE = 128, BODY_MAX = 16 << 20, NOBODY = -1 };

static const struct sl_curl *curl; /* since the first target was opened */

struct http_call {
    struct http_target *target;
    int64_t number; /* NOBODY: dropped */
    CURL *easy;
    struct curl_slist *headers;
    char *request, why[CURL_ERROR_SIZE];
    struct sl_sse sse;
    char *body; /* of an answer that is no stream */
    size_t body_used;
    uint32_t n_pieces, n_tokens, wanted;
    uint32_t input_tokens, told_tokens;
    uint64_t at_ns; /* of the piece that is being read */
    bool is_stream, is_typed, finished, done, running;
    char sentence[200];
    struct http_call *next; /* free, or to be removed */
};

struct http_target {
    struct sl_target base;
    CURLM *multi;
    int epoll;
    uint64_t timer_ns;        /* curl wants to be called then; SL_NEVER: not */
    uint32_t n_events;        /* told since the last poll began */
    struct http_call **calls; /* [max_calls], by number */
    struct http_call *free_calls, *leaving;
    char *url, *base_url;
    bool in_callback;
};

/* ---- curl's sockets and clock ---- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *known)
{
    struct http_target *t = user;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(t->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    struct epoll_event event = {.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) |
                                          (what & CURL_POLL_OUT ? EPOLLOUT : 0u),
                                .data.fd = fd};
    if (epoll_ctl(t->epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) != 0 && errno == EEXIST)
        epoll_ctl(t->epoll, EPOLL_CTL_MOD, fd, &event);
    curl->multi_assign(t->multi, fd, t);
    return 0;
}

static int on_timer(CURLM *multi, long timeout_ms, void *user)
{
    struct http_target *t = user;
    (void)multi;
    t->timer_ns = timeout_ms < 0 ? SL_NEVER : sl_clock_ns() + (uint64_t)timeout_ms * 1000000;
    return 0;
}

/* ---- what comes ---- */

static void tell_piece(struct http_call *call, const struct sl_openai_piece *piece)
{
    const struct sl_target_config *config = &call->target->base.config;
    uint32_t n = 1;
    if (piece->has_usage && piece->output_tokens > call->n_tokens && piece->output_tokens <= call->wanted)
        n = piece->output_tokens - call->n_tokens; /* some servers keep count with each piece */
    call->n_pieces++;
    call->n_tokens += n;
    call->target->n_events++;
    if (call->n_pieces > call->wanted)
        snprintf(call->sentence, sizeof call->sentence, "more pieces came than the %u tokens asked for",
                 call->wanted);
    else if (call->number != NOBODY)
        config->on_tokens(config->user, (uint32_t)call->number, call->at_ns, n, NULL,
                          config->keep_answers ? piece->text : NULL);
}

static void take_json(struct http_call *call, const char *data, size_t bytes)
{
    struct sl_openai_piece piece;
    if (sl_openai_read(&piece, data, bytes) != SL_OK) {
        snprintf(call->sentence, sizeof call->sentence, "what came is no JSON object: %.60s", data);
        return;
    }
    if (piece.failed) {
        snprintf(call->sentence, sizeof call->sentence, "%.190s", piece.text);
    } else if (call->done) {
        snprintf(call->sentence, sizeof call->sentence, "the stream went on after [DONE]");
    } else {
        if (piece.text && call->finished)
            snprintf(call->sentence, sizeof call->sentence, "text came after its finish_reason");
        else if (piece.text)
            tell_piece(call, &piece);
        call->finished |= piece.finished;
        if (piece.has_usage) {
            call->input_tokens = piece.input_tokens;
            call->told_tokens = piece.output_tokens;
        }
    }
    sl_openai_free(&piece);
}

static void on_event(void *user, char *data, size_t bytes)
{
    struct http_call *call = user;
    if (bytes == 0 || call->sentence[0])
        return;
    if (strcmp(data, "[DONE]") == 0)
        call->done = true;
    else
        take_json(call, data, bytes);
}

static bool keep_body(struct http_call *call, const char *bytes, size_t n)
{
    char *more = n < BODY_MAX - call->body_used ? realloc(call->body, call->body_used + n + 1) : NULL;
    if (!more) {
        snprintf(call->sentence, sizeof call->sentence, "an answer of more than 16 MiB came");
        return false;
    }
    memcpy(more + call->body_used, bytes, n);
    call->body = more;
    call->body_used += n;
    more[call->body_used] = 0;
    return true;
}

static size_t on_bytes(char *bytes, size_t size, size_t n, void *user)
{
    struct http_call *call = user;
    struct http_target *t = call->target;
    (void)size;
    if (call->number == NOBODY)
        return 0; /* ends the transfer */
    if (!call->is_typed) {
        char *type = NULL;
        curl->easy_getinfo(call->easy, CURLINFO_CONTENT_TYPE, &type);
        call->is_stream = type && strncasecmp(type, "text/event-stream", 17) == 0;
        call->is_typed = true;
    }
    if (!call->is_stream)
        return keep_body(call, bytes, n) ? n : 0;
    call->at_ns = sl_clock_ns();
    t->in_callback = true;
    sl_status status = sl_sse_feed(&call->sse, bytes, n, on_event, call);
    t->in_callback = false;
    if (status != SL_OK && !call->sentence[0])
        snprintf(call->sentence, sizeof call->sentence, "an event of more than 4 MiB came");
    return call->sentence[0] || call->number == NOBODY ? 0 : n;
}

/* ---- the end ---- */

static void judge(struct http_call *call, CURLcode code)
{
    long http = 0;
    curl->easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &http);
    if (call->sentence[0])
        return;
    if (code != CURLE_OK) {
        snprintf(call->sentence, sizeof call->sentence, "%.190s",
                 call->why[0] ? call->why : curl->easy_strerror(code));
        return;
    }
    call->at_ns = sl_clock_ns();
    if (call->is_stream)
        sl_sse_end(&call->sse, on_event, call);
    else if (call->body)
        take_json(call, call->body, call->body_used);
    if (http != 200) {
        char said[160];
        snprintf(said, sizeof said, "%.150s", call->sentence);
        snprintf(call->sentence, sizeof call->sentence, "HTTP %ld%s%s", http, said[0] ? ": " : "", said);
    } else if (!call->sentence[0] && !call->done && !call->finished) {
        snprintf(call->sentence, sizeof call->sentence, "the answer ended without its end");
    }
}

/* Counts that cannot be are not believed. */
static const char *doubt(const struct http_call *call, char *room, size_t bytes)
{
    if (call->told_tokens == 0 || (call->told_tokens >= call->n_pieces && call->told_tokens <= call->wanted))
        return NULL;
    snprintf(room, bytes, "usage says %u tokens of at most %u, but %u pieces came; pieces are counted",
             call->told_tokens, call->wanted, call->n_pieces);
    return room;
}

static void set_free(struct http_call *call)
{
    struct http_target *t = call->target;
    curl->multi_remove_handle(t->multi, call->easy);
    curl->slist_free_all(call->headers);
    free(call->request);
    free(call->body);
    sl_sse_reset(&call->sse);
    struct sl_sse sse = call->sse;
    *call = (struct http_call){
        .target = t, .easy = call->easy, .sse = sse, .number = NOBODY, .next = t->free_calls};
    t->free_calls = call;
}

static void end_call(struct http_call *call, CURLcode code)
{
    struct http_target *t = call->target;
    char room[200];
    if (call->number == NOBODY)
        return; /* it is among the leaving */
    uint32_t number = (uint32_t)call->number;
    t->in_callback = true;
    judge(call, code);
    t->in_callback = false;
    if (call->number == NOBODY)
        return; /* cancelled by what its last event brought */
    const char *doubts = doubt(call, room, sizeof room);
    struct sl_call_end end = {.ending = call->sentence[0] ? SL_ENDING_FAILED : SL_ENDING_DONE,
                              .sentence = call->sentence[0] ? call->sentence : doubts,
                              .input_tokens = call->input_tokens,
                              .output_tokens = doubts ? call->n_pieces : call->told_tokens};
    char sentence[sizeof call->sentence];
    memcpy(sentence, call->sentence, sizeof sentence);
    if (sentence[0])
        end.sentence = sentence;
    t->calls[number] = NULL;
    set_free(call);
    t->n_events++;
    t->base.config.on_end(t->base.config.user, number, sl_clock_ns(), &end);
}

static void finish(struct http_target *t)
{
    int left;
    for (CURLMsg *message; (message = curl->multi_info_read(t->multi, &left));) {
        struct http_call *call = NULL;
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode code = message->data.result; /* gone once the handle is removed */
        curl->easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        end_call(call, code);
    }
    while (t->leaving) {
        struct http_call *call = t->leaving;
        t->leaving = call->next;
        set_free(call);
    }
}

static void http_poll(struct sl_target *target, uint64_t until_ns)
{
    struct http_target *t = (struct http_target *)target;
    struct epoll_event events[EVENTS_AT_ONCE];
    int running;
    t->n_events = 0;
    for (;;) {
        uint64_t now = sl_clock_ns(), wake = until_ns < t->timer_ns ? until_ns : t->timer_ns;
        uint64_t left = wake > now ? wake - now : 0;
        struct timespec timeout = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
        int n = epoll_pwait2(t->epoll, events, EVENTS_AT_ONCE, &timeout, NULL);
        for (int i = 0; i < n; i++)
            curl->multi_socket_action(t->multi, events[i].data.fd,
                                      (events[i].events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
                                          (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                                          (events[i].events & EPOLLERR ? CURL_CSELECT_ERR : 0),
                                      &running);
        now = sl_clock_ns();
        if (now >= t->timer_ns) {
            t->timer_ns = SL_NEVER;
            curl->multi_socket_action(t->multi, CURL_SOCKET_TIMEOUT, 0, &running);
        }
        finish(t);
        if (t->n_events > 0 || now >= until_ns)
            return;
    }
}

/* ---- a request ---- */

static bool add_header(struct http_call *call, const char *name, const char *value)
{
    char line[2048];
    snprintf(line, sizeof line, "%s: %s", name, value);
    struct curl_slist *more = curl->slist_append(call->headers, line);
    if (more)
        call->headers = more;
    return more != NULL;
}

static void set_common(struct http_target *t, CURL *easy)
{
    const struct sl_target_config *config = &t->base.config;
    const char *const pems[] = {config->tls_ca, config->tls_cert, config->tls_key};
    static const CURLoption options[] = {CURLOPT_CAINFO_BLOB, CURLOPT_SSLCERT_BLOB, CURLOPT_SSLKEY_BLOB};
    curl->easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl->easy_setopt(easy, CURLOPT_PROXY, "");
    curl->easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl->easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    for (size_t i = 0; i < sizeof pems / sizeof *pems; i++) {
        struct curl_blob blob = {(void *)(uintptr_t)pems[i], pems[i] ? strlen(pems[i]) : 0, CURL_BLOB_NOCOPY};
        if (pems[i])
            curl->easy_setopt(easy, options[i], &blob);
    }
    if (config->token) {
        curl->easy_setopt(easy, CURLOPT_XOAUTH2_BEARER, config->token);
        curl->easy_setopt(easy, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
    }
}

static struct http_call *take_free(struct http_target *t)
{
    struct http_call *call = t->free_calls;
    if (call) {
        t->free_calls = call->next;
        return call;
    }
    call = calloc(1, sizeof *call);
    if (call && !(call->easy = curl->easy_init())) {
        free(call);
        return NULL;
    }
    if (call)
        call->target = t;
    return call;
}

static bool prepare(struct http_call *call, const struct sl_call_ask *ask)
{
    struct http_target *t = call->target;
    bool made = add_header(call, "Content-Type", "application/json") && add_header(call, "Expect", "") &&
                add_header(call, "X-Request-Id", ask->request_id);
    for (uint32_t i = 0; made && i < ask->headers->n; i++)
        made = add_header(call, ask->headers->names[i], ask->headers->values[i]);
    call->request = sl_openai_body(ask, t->base.model, t->base.config.chat, t->base.config.extra_body);
    if (!made || !call->request)
        return false;
    curl->easy_reset(call->easy);
    set_common(t, call->easy);
    curl->easy_setopt(call->easy, CURLOPT_URL, t->url);
    curl->easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers);
    curl->easy_setopt(call->easy, CURLOPT_POSTFIELDS, call->request);
    curl->easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(call->request));
    curl->easy_setopt(call->easy, CURLOPT_WRITEFUNCTION, on_bytes);
    curl->easy_setopt(call->easy, CURLOPT_WRITEDATA, call);
    curl->easy_setopt(call->easy, CURLOPT_ERRORBUFFER, call->why);
    curl->easy_setopt(call->easy, CURLOPT_PRIVATE, call);
    return true;
}

static void http_send(struct sl_target *target, uint32_t number, const struct sl_call_ask *ask)
{
    struct http_target *t = (struct http_target *)target;
    struct http_call *call = take_free(t);
    int running;
    if (!call) {
        sl_target_fail(target, number, sl_clock_ns(), "no memory for a call");
        return;
    }
    call->number = number;
    call->wanted = ask->max_tokens;
    if (!prepare(call, ask) || curl->multi_add_handle(t->multi, call->easy) != CURLM_OK) {
        call->number = NOBODY;
        set_free(call);
        sl_target_fail(target, number, sl_clock_ns(), "no memory for the request");
        return;
    }
    t->calls[number] = call;
    if (!t->in_callback)
        curl->multi_socket_action(t->multi, CURL_SOCKET_TIMEOUT, 0, &running);
}

static void http_cancel(struct sl_target *target, uint32_t number)
{
    struct http_target *t = (struct http_target *)target;
    struct http_call *call = t->calls[number];
    if (!call)
        return;
    t->calls[number] = NULL;
    call->number = NOBODY;
    call->next = t->leaving; /* its handle may be the one that is calling */
    t->leaving = call;
    if (!t->in_callback)
        finish(t);
}

/* ---- before the load ---- */

static size_t on_answer(char *bytes, size_t size, size_t n, void *user)
{
    (void)size;
    return keep_body(user, bytes, n) ? n : 0;
}

static sl_status ask_models(struct http_target *t, uint64_t until_ns, struct sl_err *err)
{
    struct http_call answer = {.target = t};
    char url[1024], name[sizeof t->base.model] = "";
    uint64_t now = sl_clock_ns();
    long left_ms = until_ns > now ? (long)((until_ns - now) / 1000000) + 1 : 1, http = 0;
    CURL *easy = curl->easy_init();
    if (!easy)
        return sl_fail(err, SL_E_NOMEM, "no memory for a client");
    snprintf(url, sizeof url, "%s/models", t->base_url);
    set_common(t, easy);
    curl->easy_setopt(easy, CURLOPT_URL, url);
    curl->easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_answer);
    curl->easy_setopt(easy, CURLOPT_WRITEDATA, &answer);
    curl->easy_setopt(easy, CURLOPT_ERRORBUFFER, answer.why);
    curl->easy_setopt(easy, CURLOPT_TIMEOUT_MS, left_ms < ASK_TIMEOUT_MS ? left_ms : (long)ASK_TIMEOUT_MS);
    CURLcode code = curl->easy_perform(easy);
    curl->easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &http);
    curl->easy_cleanup(easy);
    bool listed = answer.body && sl_openai_model(answer.body, answer.body_used, name, sizeof name);
    free(answer.body);
    if (code != CURLE_OK)
        return sl_fail(err, SL_E_UNAVAILABLE, "%.160s",
                       answer.why[0] ? answer.why : curl->easy_strerror(code));
    if (http == 401 || http == 403)
        return sl_fail(err, SL_E_DENIED, "it answers HTTP %ld; is --token right?", http);
    if (http != 200 && http != 404)
        return sl_fail(err, SL_E_UNAVAILABLE, "it answers HTTP %ld", http);
    if (t->base.config.model)
        snprintf(name, sizeof name, "%s", t->base.config.model);
    else if (http == 404)
        return sl_fail(err, SL_E_USAGE, "it has no /models to list one; name the model with --served-model");
    else if (!listed)
        return sl_fail(err, SL_E_UNAVAILABLE, "it lists no model yet; name one with --served-model");
    memcpy(t->base.model, name, sizeof name);
    return SL_OK;
}

static sl_status http_ready(struct sl_target *target, uint64_t until_ns, struct sl_err *err)
{
    sl_status status;
    while ((status = ask_models((struct http_target *)target, until_ns, err)) == SL_E_UNAVAILABLE) {
        if (sl_clock_ns() + RETRY_NS > until_ns) {
            struct sl_err why = *err;
            return sl_fail(err, SL_E_UNAVAILABLE, "%.100s was not ready in time (%.180s)",
                           target->config.endpoint, why.text);
        }
        sl_target_nap(sl_clock_ns() + RETRY_NS);
    }
    return status == SL_OK ? SL_OK : sl_err_prefix(err, "%.100s", target->config.endpoint);
}

static void free_list(struct http_call *call)
{
    while (call) {
        struct http_call *next = call->next;
        sl_sse_free(&call->sse);
        curl->easy_cleanup(call->easy);
        free(call);
        call = next;
    }
}

static void http_close(struct sl_target *target)
{
    struct http_target *t = (struct http_target *)target;
    for (uint32_t i = 0; t->calls && i < target->config.max_calls; i++)
        http_cancel(target, i);
    if (t->multi)
        finish(t);
    free_list(t->free_calls);
    if (t->multi)
        curl->multi_cleanup(t->multi);
    if (t->epoll >= 0)
        close(t->epoll);
    free(t->calls);
    free(t->url);
    free(t->base_url);
    free(t);
}

/* http://host:port, with or without a slash or the /v1 that every server has. */
static sl_status name_urls(struct http_target *t, struct sl_err *err)
{
    const char *given = t->base.config.endpoint;
    size_t n = strlen(given);
    if (strncmp(given, "http://", 7) != 0 && strncmp(given, "https://", 8) != 0)
        return sl_fail(err, SL_E_USAGE, "--openai %.100s is no URL; say http://HOST:PORT/v1", given);
    while (n > 0 && given[n - 1] == '/')
        n--;
    bool versioned = n >= 3 && memcmp(given + n - 3, "/v1", 3) == 0;
    if (asprintf(&t->base_url, "%.*s%s", (int)n, given, versioned ? "" : "/v1") < 0 ||
        asprintf(&t->url, "%s/%s", t->base_url, t->base.config.chat ? "chat/completions" : "completions") < 0)
        return sl_fail(err, SL_E_NOMEM, "no memory for a client");
    return SL_OK;
}

sl_status sl_target_open_openai(struct sl_target **target, const struct sl_target_config *config,
                                struct sl_err *err)
{
    static const struct sl_target_ways ways = {http_ready, http_send, http_cancel, http_poll, http_close};
    *target = NULL;
    SL_TRY(sl_curl_open(&curl, "--openai", err));
    struct http_target *t = calloc(1, sizeof *t);
    if (!t)
        return sl_fail(err, SL_E_NOMEM, "no memory for a client");
    t->base.ways = &ways;
    t->base.config = *config;
    t->timer_ns = SL_NEVER;
    t->epoll = epoll_create1(EPOLL_CLOEXEC);
    t->multi = curl->multi_init();
    t->calls = calloc(config->max_calls, sizeof *t->calls);
    sl_status status = t->epoll >= 0 && t->multi && t->calls
                           ? name_urls(t, err)
                           : sl_fail(err, SL_E_NOMEM, "no memory for %u calls", config->max_calls);
    if (status != SL_OK) {
        http_close(&t->base);
        return status;
    }
    curl->multi_setopt(t->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl->multi_setopt(t->multi, CURLMOPT_SOCKETDATA, t);
    curl->multi_setopt(t->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl->multi_setopt(t->multi, CURLMOPT_TIMERDATA, t);
    curl->multi_setopt(t->multi, CURLMOPT_MAXCONNECTS, (long)config->max_calls); /* connections are kept */
    *target = &t->base;
    return SL_OK;
}
