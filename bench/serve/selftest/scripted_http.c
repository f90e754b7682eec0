/* The HTTP side of the scripted server: /v1/completions and /v1/chat/completions, streamed or whole, /v1/models, /health.
 *
 * libmicrohttpd, one thread per listening socket, in epoll: thousands of streams would cost a poll of all for every token. (That
 * mode of 0.9.75 may miss the end of a connection whose bytes and FIN came together; here such a one is ended by its timeout,
 * or, while it is answered, by the play, which watches the socket.) An answer is a content reader: it asks the scene what is due,
 * writes the message, looks at the clock and gives it away; when nothing is due the connection sleeps (is suspended), and the play
 * wakes it. `woken` closes the gap between the two. */
#include "base/clock.h"
#include "base/log.h"
#include "bench/serve/selftest/openai.h"
#include "bench/serve/selftest/scripted.h"
#include "node/rpc/listen.h"
#include <microhttpd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONNECTIONS = 8192,
    CONNECTION_BYTES = 32 << 10,
    BLOCK_BYTES = 8 << 10,
    TIMEOUT_S = 120, /* of a connection on which nothing happens and nothing is due */
    SLOW_NS = 200000 /* between bytes */
};
static const size_t MAX_BODIES = (size_t)256 << 20; /* of all requests that are being read */

struct sl_scripted_http {
    struct sl_scripted *scripted;
    struct sl_listener listener;
    struct MHD_Daemon *daemons[SL_LISTEN_SOCKETS];
    atomic_size_t body_bytes;
};

struct exchange { /* a request and its answer, on its daemon's thread but for the lock */
    struct sl_scripted_http *http;
    struct MHD_Connection *connection;
    char *body;
    size_t body_bytes, body_room;
    bool too_long, no_room, begun;

    struct sl_turn *turn; /* NULL: none, or it has ended */
    bool include_usage;
    char id[SL_SCRIPTED_ID_BYTES];
    struct sl_openai_frame frame;
    struct sl_send send; /* of what lies in out */
    struct sl_text said, out;
    size_t out_sent;
    bool sending;
    uint64_t next_byte_ns; /* slow */

    pthread_mutex_t lock; /* between the daemon's thread and the play's */
    bool woken, asleep;
};

static const char json[] = "application/json", sse[] = "text/event-stream; charset=utf-8";

/* ---- the turn ---- */

static void on_wake(struct sl_turn *turn)
{
    struct exchange *x = turn->user;
    pthread_mutex_lock(&x->lock);
    x->woken = true;
    if (x->asleep)
        MHD_resume_connection(x->connection);
    x->asleep = false;
    pthread_mutex_unlock(&x->lock);
}

/* False: something has come up since `woken` was taken back. */
static bool fall_asleep(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    bool sleeps = !x->woken;
    x->asleep = sleeps;
    if (sleeps)
        MHD_suspend_connection(x->connection);
    pthread_mutex_unlock(&x->lock);
    return sleeps;
}

static void take_back_woken(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->woken = false;
    pthread_mutex_unlock(&x->lock);
}

static int socket_of(const struct exchange *x)
{
    return MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

static void end(struct exchange *x, const char *ending)
{
    struct sl_turn *turn = x->turn;
    x->turn = NULL;
    if (!turn)
        return;
    sl_play_unwatch(x->http->scripted->play, socket_of(x));
    sl_play_end(x->http->scripted->play, turn, ending);
}

static const char *why_gone(const struct exchange *x)
{
    return sl_play_is_closed(x->http->scripted->play) ? "stopped" : "left";
}

/* ---- what it says ---- */

static void say(struct exchange *x, uint32_t first, uint32_t n)
{
    const struct sl_words *words = x->http->scripted->words;
    x->said.bytes = 0;
    sl_text_add(&x->said, "%s", "");
    for (uint32_t k = first; k < first + n; k++)
        sl_text_add(&x->said, "%s", words->text[sl_words_at(words, x->turn->number, k)]);
}

/* Into out. */
static void write_message(struct exchange *x)
{
    const struct sl_send *send = &x->send;
    uint32_t prompt_tokens, output_tokens;
    x->out.bytes = x->out_sent = 0;
    sl_scripted_usage(x->turn, x->turn->n_tokens, &prompt_tokens, &output_tokens);
    switch (send->kind) {
    case SL_SEND_EMPTY:
        sl_openai_chunk(&x->out, &x->frame, "", NULL);
        break;
    case SL_SEND_TOKENS:
        say(x, send->first, send->n);
        sl_openai_chunk(&x->out, &x->frame, x->said.data, NULL);
        break;
    case SL_SEND_EXTRA:
        say(x, 0, 1);
        sl_openai_chunk(&x->out, &x->frame, x->said.data, NULL);
        break;
    case SL_SEND_GARBAGE:
        sl_text_add(&x->out, "\xff\xfe\x01 {]}data:{\"choices\":[\xc0\xaf\n\n");
        break;
    case SL_SEND_FINISH:
        sl_openai_chunk(&x->out, &x->frame, "", "length");
        if (x->include_usage)
            sl_openai_usage(&x->out, &x->frame, prompt_tokens, output_tokens);
        sl_text_add(&x->out, "data: [DONE]\n\n");
        break;
    case SL_SEND_WHOLE:
        say(x, 0, send->n);
        sl_openai_whole(&x->out, &x->frame, x->said.data, "length", prompt_tokens, output_tokens);
        break;
    case SL_SEND_DROP:
    case SL_SEND_CLOSE:
        break;
    }
}

/* The next piece of out; the message counts as sent with its last byte. 0: not yet, a slow one. */
static size_t give(struct exchange *x, char *to, size_t room)
{
    size_t n = x->out.bytes - x->out_sent;
    n = n < room ? n : room;
    if (x->turn->fault == SL_FAULT_SLOW) {
        if (sl_clock_ns() < x->next_byte_ns) {
            sl_play_wake_at(x->http->scripted->play, x->turn, x->next_byte_ns);
            return 0;
        }
        n = 1;
    }
    memcpy(to, x->out.data + x->out_sent, n);
    x->out_sent += n;
    x->sending = x->out_sent < x->out.bytes;
    uint64_t now_ns = sl_clock_ns();
    x->next_byte_ns = now_ns + SLOW_NS;
    if (!x->sending)
        sl_turn_sent(x->turn, &x->send, now_ns);
    return n;
}

/* The content reader. */
static ssize_t read_answer(void *context, uint64_t pos, char *to, size_t room)
{
    struct exchange *x = context;
    (void)pos;
    for (;;) {
        if (!x->turn)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        take_back_woken(x);
        if (atomic_load(&x->turn->gone)) {
            end(x, why_gone(x));
            return MHD_CONTENT_READER_END_WITH_ERROR;
        }
        if (!x->sending && sl_play_send(x->http->scripted->play, x->turn, &x->send)) {
            if (x->send.kind == SL_SEND_DROP || x->send.kind == SL_SEND_CLOSE) {
                sl_turn_sent(x->turn, &x->send, sl_clock_ns());
                end(x, "done");
                return x->send.kind == SL_SEND_DROP ? MHD_CONTENT_READER_END_WITH_ERROR
                                                    : MHD_CONTENT_READER_END_OF_STREAM;
            }
            write_message(x);
            x->sending = true;
            if (x->out.room == SIZE_MAX || x->said.room == SIZE_MAX || !x->out.bytes) { /* out of memory */
                end(x, "broken");
                return MHD_CONTENT_READER_END_WITH_ERROR;
            }
        }
        size_t n = x->sending ? give(x, to, room) : 0;
        if (n)
            return (ssize_t)n;
        if (fall_asleep(x))
            return 0;
    }
}

/* ---- the answer's head ---- */

static enum MHD_Result answer(struct exchange *x, unsigned status, struct sl_text *text)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(text->bytes, text->data, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text->data);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, json);
    enum MHD_Result result = MHD_queue_response(x->connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result refuse(struct exchange *x, unsigned status, const char *sentence)
{
    struct sl_text text = {0};
    sl_openai_error(&text, status, sentence);
    return answer(x, status, &text);
}

static enum MHD_Result begin_answer(struct exchange *x)
{
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_answer, x, NULL);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, x->frame.stream ? sse : json);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    enum MHD_Result result = MHD_queue_response(x->connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return result;
}

/* Ids go into the answer and into the truth as they are. */
static bool read_id(struct exchange *x)
{
    const char *id = MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "x-request-id");
    if (!id)
        return true;
    if (strlen(id) >= sizeof x->id)
        return false;
    for (const char *c = id; *c; c++)
        if (*c < ' ' || *c >= 0x7f || *c == '"' || *c == '\\')
            return false;
    strcpy(x->id, id);
    return true;
}

static sl_status arrive(struct exchange *x, const struct sl_openai_ask *ask, struct sl_err *err)
{
    struct sl_scripted *scripted = x->http->scripted;
    uint32_t prompt_tokens = ask->n_ids;
    if (!ask->n_ids)
        SL_TRY(sl_words_count(scripted->words, ask->text, ask->text_bytes, &prompt_tokens, err));
    struct sl_turn *turn =
        sl_scripted_turn(x->id, prompt_tokens, ask->max_tokens ? ask->max_tokens : scripted->default_tokens);
    if (!turn)
        return sl_fail(err, SL_E_EXHAUSTED, "out of memory for this request; try again later");
    turn->http = true;
    turn->unary = !ask->stream;
    turn->user = x;
    turn->on_wake = on_wake;
    sl_status status = sl_play_arrive(scripted->play, turn, err);
    if (status != SL_OK) {
        sl_turn_fini(turn);
        free(turn);
        return status;
    }
    x->turn = turn;
    x->include_usage = ask->include_usage;
    snprintf(x->id, sizeof x->id, "%s", turn->id); /* of one without an id its number */
    x->frame = (struct sl_openai_frame){scripted->model, x->id, ask->chat, ask->stream};
    sl_play_watch(scripted->play, turn, socket_of(x));
    return SL_OK;
}

static enum MHD_Result generate(struct exchange *x, bool chat)
{
    struct sl_openai_ask ask = {0};
    struct sl_err err = {0};
    if (x->too_long)
        return refuse(x, MHD_HTTP_CONTENT_TOO_LARGE, "the body is longer than 8 MiB");
    if (x->no_room)
        return refuse(x, MHD_HTTP_SERVICE_UNAVAILABLE, "other requests took all room; try again later");
    if (!read_id(x))
        return refuse(
            x, MHD_HTTP_BAD_REQUEST,
            "x-request-id must be printable ASCII without quotes and backslashes, at most 127 bytes");
    sl_status status = sl_openai_ask_read(&ask, chat, x->body ? x->body : "", x->body_bytes, &err);
    if (status == SL_OK)
        status = arrive(x, &ask, &err);
    sl_openai_fini(&ask);
    if (status != SL_OK)
        return refuse(x, status == SL_E_INVALID ? MHD_HTTP_BAD_REQUEST : MHD_HTTP_SERVICE_UNAVAILABLE,
                      err.text);
    x->begun = true;
    if (x->turn->fault == SL_FAULT_REFUSE) {
        end(x, "refused");
        return refuse(x, MHD_HTTP_SERVICE_UNAVAILABLE, "refused, as the script has it");
    }
    if (x->turn->fault != SL_FAULT_NEVER)
        return begin_answer(x);
    return !atomic_load(&x->turn->gone) && fall_asleep(x) ? MHD_YES : MHD_NO;
}

/* ---- requests ---- */

static enum MHD_Result route(struct exchange *x, const char *method, const char *url)
{
    static const struct {
        const char *method, *url;
    } routes[] = {{"GET", "/health"},
                  {"GET", "/v1/models"},
                  {"POST", "/v1/completions"},
                  {"POST", "/v1/chat/completions"}};
    struct sl_text text = {0};
    size_t i = 0, n = sizeof routes / sizeof *routes;
    while (i < n && strcmp(url, routes[i].url) != 0)
        i++;
    if (i == n)
        return refuse(x, MHD_HTTP_NOT_FOUND,
                      "not here; there are /health, /v1/models, /v1/completions and /v1/chat/completions");
    if (strcmp(method, routes[i].method) != 0)
        return refuse(x, MHD_HTTP_METHOD_NOT_ALLOWED,
                      i < 2 ? "only GET is served here" : "only POST is served here");
    if (i >= 2)
        return generate(x, i == 3);
    if (i == 1)
        sl_openai_models(&text, x->http->scripted->model);
    else
        sl_text_add(&text, "{}\n");
    return answer(x, MHD_HTTP_OK, &text);
}

static void add_body(struct exchange *x, const char *bytes, size_t n)
{
    x->too_long = x->too_long || x->body_bytes + n > SL_SCRIPTED_MESSAGE_BYTES;
    if (x->too_long || x->no_room)
        return;
    if (x->body_bytes + n > x->body_room) {
        size_t room = 2 * x->body_room > x->body_bytes + n ? 2 * x->body_room : x->body_bytes + n;
        size_t more = room - x->body_room;
        char *grown = NULL;
        if (atomic_fetch_add(&x->http->body_bytes, more) + more <= MAX_BODIES)
            grown = realloc(x->body, room);
        if (!grown) {
            atomic_fetch_sub(&x->http->body_bytes, more);
            x->no_room = true;
            return;
        }
        x->body = grown;
        x->body_room = room;
    }
    memcpy(x->body + x->body_bytes, bytes, n);
    x->body_bytes += n;
}

static void drop_body(struct exchange *x)
{
    free(x->body);
    atomic_fetch_sub(&x->http->body_bytes, x->body_room);
    x->body = NULL;
    x->body_bytes = x->body_room = 0;
}

/* MHD calls this once with the headers, for every piece of the body, at its end, and when who has no answer yet is resumed. */
static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *body,
                                  size_t *body_bytes, void **seen)
{
    struct exchange *x = *seen;
    (void)version;
    if (!x) {
        x = calloc(1, sizeof *x);
        if (!x)
            return MHD_NO;
        x->http = context;
        x->connection = connection;
        pthread_mutex_init(&x->lock, NULL);
        *seen = x;
        return MHD_YES;
    }
    if (*body_bytes) {
        add_body(x, body, *body_bytes);
        *body_bytes = 0;
        return MHD_YES;
    }
    if (!x->begun) {
        enum MHD_Result result = route(x, method, url);
        drop_body(x);
        return result;
    }
    if (x->turn && !atomic_load(&x->turn->gone)) { /* never answered, and woken by nothing that matters */
        take_back_woken(x);
        return fall_asleep(x) ? MHD_YES : MHD_NO;
    }
    return MHD_NO; /* on_completed ends its turn */
}

static void on_completed(void *context, struct MHD_Connection *connection, void **seen,
                         enum MHD_RequestTerminationCode code)
{
    struct exchange *x = *seen;
    (void)context, (void)connection, (void)code;
    if (!x)
        return;
    if (x->turn)
        end(x, why_gone(x));
    drop_body(x);
    free(x->said.data);
    free(x->out.data);
    pthread_mutex_destroy(&x->lock);
    free(x);
    *seen = NULL;
}

static void on_log(void *context, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
static void on_log(void *context, const char *format, va_list args)
{
    char line[256];
    (void)context;
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = 0;
    sl_log_debug("scripted http: %s", line);
}

/* ---- life ---- */

static struct MHD_Daemon *start_daemon(struct sl_scripted_http *http, int fd)
{
    return MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0,
                            NULL, NULL, on_request, http, MHD_OPTION_LISTEN_SOCKET, fd,
                            MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_CONNECTION_LIMIT,
                            (unsigned)CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                            (size_t)CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT_S,
                            MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_END);
}

sl_status sl_scripted_http_start(struct sl_scripted_http **out, struct sl_scripted *scripted,
                                 const char *listen, struct sl_err *err)
{
    struct sl_scripted_http *http = calloc(1, sizeof *http);
    if (!http)
        return sl_fail(err, SL_E_NOMEM, "out of memory for HTTP on %s", listen);
    http->scripted = scripted;
    sl_status status = sl_listener_open(&http->listener, listen, err);
    if (status != SL_OK) {
        free(http);
        return status;
    }
    sigset_t all, old; /* the process's signals are its main thread's */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (uint32_t i = 0; status == SL_OK && i < http->listener.n; i++)
        if (!(http->daemons[i] = start_daemon(http, http->listener.fds[i])))
            status = sl_fail(err, SL_E_UNAVAILABLE,
                             "HTTP on %s did not start: raise the limits on threads and files", listen);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (status != SL_OK) {
        sl_scripted_http_quiesce(http);
        sl_scripted_http_stop(http);
        return status;
    }
    *out = http;
    return SL_OK;
}

int sl_scripted_http_port(const struct sl_scripted_http *http)
{
    return http->listener.port;
}

void sl_scripted_http_quiesce(struct sl_scripted_http *http)
{
    for (uint32_t i = 0; i < http->listener.n; i++)
        if (http->daemons[i])
            MHD_quiesce_daemon(http->daemons[i]); /* the socket is the listener's again */
}

void sl_scripted_http_stop(struct sl_scripted_http *http)
{
    if (!http)
        return;
    for (uint32_t i = 0; i < http->listener.n; i++)
        if (http->daemons[i])
            MHD_stop_daemon(http->daemons[i]);
    sl_listener_close(&http->listener);
    free(http);
}
