/* Joining, and staying joined (member.h).
 *
 * Each stream has a channel of its own: one that failed is only looked after while a call waits on it. Reports go over that of
 * the stream, so that a coordinator without room for another connection hears them. */
#include "node/role/member.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "node/coordinator/members.h"
#include "sluice.pb-c.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELLO_MS = 5000, REPORT_MS = 2000, REPORT_AGAIN_MS = 200, AGAIN_MIN_MS = 50, AGAIN_MAX_MS = 1000 };

enum member_report { REPORT_NONE, REPORT_READY, REPORT_SILENCE, REPORT_LEAVE };

struct sl_member {
    struct sl_member_config config;
    uint8_t id[SL_JOIN_NONCE]; /* drawn once: by it we are the same in every Join */
    uint8_t own_key[32];
    uint64_t epoch;                 /* of the plan; 0: none yet */
    struct sl_rpc_channel *channel; /* the leash's thread makes it */
    pthread_mutex_t channel_lock;   /* held by a report while it uses it, and by who takes it away */
    pthread_t leash_thread, watch_thread, report_thread;
    uint32_t n_threads;

    pthread_mutex_t lock;   /* of all below */
    pthread_cond_t changed; /* there is something to tell, or it is over */
    pthread_cond_t end;     /* it is over */
    bool over, stopped;
    struct sl_rpc_stream *leash;
    uint32_t patience; /* beats that may still be missed */
    uint64_t heard_ns; /* when the last one came */
    bool ready, told_ready, leaving, told_leaving, has_cost;
    struct sl_cost cost; /* that is told with ready */
    uint64_t leaving_ns;
    bool silent, told_silent, sure; /* not sure: what was told last may have arrived, or not */
    char peer[24];
    uint64_t silences; /* how often that was told */
};

static uint32_t beats_in(uint32_t lost_after_ms, uint32_t part)
{
    return lost_after_ms / part / sl_members_beat_ms(lost_after_ms) + 1;
}

static bool is_over(struct sl_member *m)
{
    pthread_mutex_lock(&m->lock);
    bool over = m->over;
    pthread_mutex_unlock(&m->lock);
    return over;
}

/* True: it is over. */
static bool wait_ms(struct sl_member *m, uint32_t ms)
{
    struct timespec until = sl_clock_in_ms(ms);
    pthread_mutex_lock(&m->lock);
    while (!m->over && pthread_cond_timedwait(&m->end, &m->lock, &until) == 0)
        ;
    bool over = m->over;
    pthread_mutex_unlock(&m->lock);
    return over;
}

static char *role_of(const struct sl_member *m)
{
    static char roles[2][8] = {"stage", "decode"};
    return roles[m->config.decode];
}

/* ---- one attempt ---- */

/* The first time it may be busy with much; later there is no time to wait for one answer that may be lost. */
static uint32_t hello_ms(const struct sl_member *m)
{
    uint32_t ms = m->config.lost_after_ms / 4;
    return m->epoch == 0 || ms > HELLO_MS ? HELLO_MS : ms < HELLO_MS / 10 ? HELLO_MS / 10 : ms;
}

/* A ticket of the coordinator, and a session with it if it knows the join key as we do. */
static sl_status say_hello(struct sl_member *m, uint8_t nonce[SL_JOIN_NONCE], uint8_t ticket[SL_JOIN_TICKET],
                           struct sl_err *err)
{
    Sluice__V1__HelloRequest request = SLUICE__V1__HELLO_REQUEST__INIT;
    uint8_t packed[32], expected[SL_JOIN_PROOF], *message = NULL;
    size_t bytes = 0;
    if (sl_random_bytes(nonce, SL_JOIN_NONCE) != SL_OK)
        return sl_fail(err, SL_E_INTERNAL, "no random bytes for the join request");
    request.nonce = (ProtobufCBinaryData){SL_JOIN_NONCE, nonce};
    size_t n = sluice__v1__hello_request__pack(&request, packed);
    SL_TRY(
        sl_rpc_unary(m->channel, "/sluice.v1.Control/Hello", packed, n, hello_ms(m), &message, &bytes, err));
    Sluice__V1__HelloReply *reply = sluice__v1__hello_reply__unpack(NULL, bytes, message);
    free(message);
    sl_status status = SL_OK;
    if (!reply || reply->ticket.len != SL_JOIN_TICKET || reply->proof.len != sizeof expected) {
        status = sl_fail(err, SL_E_PROTOCOL,
                         "the coordinator's answer to hello is malformed; run the same version");
    } else {
        memcpy(ticket, reply->ticket.data, SL_JOIN_TICKET);
        sl_join_welcome(&m->config.key, nonce, ticket, expected);
        if (!sl_equal_constant_time(expected, reply->proof.data, sizeof expected))
            status =
                sl_fail(err, SL_E_DENIED,
                        "the join key differs; give both the same --join-key-file, and run the same version");
    }
    if (reply)
        sluice__v1__hello_reply__free_unpacked(reply, NULL);
    return status;
}

/* From here on the watch may cancel it. */
static void set_leash(struct sl_member *m, struct sl_rpc_stream *leash)
{
    pthread_mutex_lock(&m->lock);
    struct sl_rpc_stream *before = m->leash;
    m->leash = leash;
    m->patience = beats_in(m->config.lost_after_ms, 4);
    if (leash && m->over)
        sl_rpc_stream_cancel(leash);
    pthread_mutex_unlock(&m->lock);
    sl_rpc_stream_close(before);
}

/* Another channel reads the files of TLS and asks for the name again, and has a connection of which no byte is lost. One that has got
 * no answer yet goes on: where names are answered late, several domains in turn, no attempt alone is long enough. */
static sl_status renew_channel(struct sl_member *m, struct sl_err *err)
{
    if (m->channel && sl_rpc_channel_is_connecting(m->channel))
        return SL_OK; /* until it is given up by the resolver, or by whoever it connects to */
    pthread_mutex_lock(&m->channel_lock);
    sl_rpc_channel_close(m->channel);
    m->channel = NULL;
    sl_status status = sl_rpc_channel_open(&m->channel, m->config.coordinator, err);
    pthread_mutex_unlock(&m->channel_lock);
    return status;
}

static sl_status open_leash(struct sl_member *m, struct sl_err *err)
{
    Sluice__V1__JoinRequest j = SLUICE__V1__JOIN_REQUEST__INIT;
    uint8_t node[1024], packed[1280], nonce[SL_JOIN_NONCE], ticket[SL_JOIN_TICKET] = {0},
                                                            proof[SL_JOIN_PROOF], session[32];
    struct sl_rpc_stream *leash;
    size_t n = m->config.pack_node(m->config.user, m->id, m->epoch, node, sizeof node);
    if (n == 0)
        return sl_fail(err, SL_E_CONFIG, "the data address or host name is too long");
    set_leash(m, NULL);
    SL_TRY(renew_channel(m, err));
    SL_TRY(say_hello(m, nonce, ticket, err));
    sl_join_session(&m->config.key, nonce, ticket, session);
    sl_join_proof(session, "join", node, n, proof);
    j.node = (ProtobufCBinaryData){n, node};
    j.nonce = (ProtobufCBinaryData){sizeof nonce, nonce};
    j.ticket = (ProtobufCBinaryData){sizeof ticket, ticket};
    j.proof = (ProtobufCBinaryData){sizeof proof, proof};
    n = sluice__v1__join_request__pack(&j, packed);
    SL_TRY(sl_rpc_stream_open(&leash, m->channel, "/sluice.v1.Control/Join", packed, n, -1, err));
    set_leash(m, leash);
    return SL_OK;
}

/* SL_OK: an event, whatever it is, says that the stream stands. */
static sl_status next_event(struct sl_member *m, Sluice__V1__JoinEvent **event, struct sl_err *err)
{
    uint8_t *message;
    size_t bytes;
    sl_status status = sl_rpc_stream_next(m->leash, &message, &bytes, err);
    if (status == SL_AGAIN)
        return sl_fail(err, SL_E_UNAVAILABLE, "the coordinator closed the stream");
    if (status != SL_OK)
        return status;
    *event = sluice__v1__join_event__unpack(NULL, bytes, message);
    free(message);
    if (!*event)
        return sl_fail(err, SL_E_PROTOCOL,
                       "the coordinator sent something that is not a join event; run the same version");
    pthread_mutex_lock(&m->lock);
    m->patience = beats_in(m->config.lost_after_ms, 2);
    m->heard_ns = sl_clock_ns();
    pthread_mutex_unlock(&m->lock);
    return SL_OK;
}

/* ---- the first stream ---- */

/* A refusal is about this process, not about a request: its place is taken, or there is something else at that address. */
static sl_status as_refusal(sl_status status)
{
    return sl_status_exit_code(status) == 1 || status == SL_E_INVALID ? SL_E_UNAVAILABLE : status;
}

/* What a coordinator that is not there, or not heard, looks like. */
static bool is_absence(sl_status status)
{
    return status == SL_E_UNAVAILABLE || status == SL_E_PEER_LOST || status == SL_E_DEADLINE ||
           status == SL_E_CANCELLED;
}

static sl_status await_plan(struct sl_member *m, Sluice__V1__JoinEvent **event, struct sl_err *err)
{
    SL_TRY(open_leash(m, err));
    for (;;) {
        SL_TRY(next_event(m, event, err));
        if ((*event)->event_case == SLUICE__V1__JOIN_EVENT__EVENT_PLAN ||
            (*event)->event_case == SLUICE__V1__JOIN_EVENT__EVENT_STOP)
            return SL_OK;
        sluice__v1__join_event__free_unpacked(*event, NULL);
    }
}

sl_status sl_member_join(struct sl_member *m, Sluice__V1__JoinEvent **event, struct sl_err *err)
{
    const struct sl_member_config *config = &m->config;
    uint64_t until = sl_clock_ns() + (uint64_t)config->join_timeout_s * 1000000000u;
    char told[sizeof err->text] = ""; /* of what TLS lacks, which may come: said when it changes */
    for (uint32_t again_ms = AGAIN_MIN_MS;;) {
        m->heard_ns = 0;
        sl_status status = await_plan(m, event, err);
        if (status == SL_OK)
            return SL_OK;
        bool crowded = status == SL_E_EXHAUSTED && sl_clock_ns() <= until; /* its places come back */
        if (!is_absence(status) && !crowded) {
            sl_err_prefix(err, "%s was refused by the coordinator at %s", config->name, config->coordinator);
            return err->status = as_refusal(status);
        }
        if (m->heard_ns) { /* it was there: it is waited for anew */
            sl_log_warn("the Join stream broke (%s); joining again", err->text);
            until = sl_clock_ns() + (uint64_t)config->join_timeout_s * 1000000000u;
            again_ms = AGAIN_MIN_MS;
        }
        bool tls = sl_rpc_is_tls_trouble(err);
        if (tls && strcmp(told, err->text) != 0)
            sl_log_warn("%s; trying again", err->text);
        snprintf(told, sizeof told, "%s", tls ? err->text : "");
        if (tls && sl_clock_ns() > until)
            return sl_err_prefix(err, "%s could not join within %u s", config->name, config->join_timeout_s);
        if (sl_clock_ns() > until)
            return sl_fail(
                err, SL_E_UNAVAILABLE,
                "no coordinator answers at %s after %u s; start it first, or give its address with --coordinator",
                config->coordinator, config->join_timeout_s);
        wait_ms(m, again_ms);
        again_ms = again_ms < AGAIN_MAX_MS ? 2 * again_ms : AGAIN_MAX_MS;
    }
}

/* ---- the leash ---- */

/* What our coordinator says when it means it; anything else is what a broken line, or whoever stands in it, says. */
static bool is_verdict(sl_status status)
{
    return status == SL_E_DENIED || status == SL_E_REFUSED || status == SL_E_CONFIG ||
           status == SL_E_EXISTS || status == SL_E_INVALID || status == SL_E_PROTOCOL;
}

/* Returns true for a stop. */
static bool take_event(struct sl_member *m, Sluice__V1__JoinEvent *event)
{
    bool stop = event->event_case == SLUICE__V1__JOIN_EVENT__EVENT_STOP;
    if (stop) {
        pthread_mutex_lock(&m->lock);
        m->stopped = true;
        pthread_mutex_unlock(&m->lock);
        m->config.on_stop(m->config.user, event->stop->reason);
    } else if (event->event_case == SLUICE__V1__JOIN_EVENT__EVENT_DECODER) {
        m->config.on_decoder(m->config.user, event->decoder);
    } else if (event->event_case == SLUICE__V1__JOIN_EVENT__EVENT_CANCELLED) {
        m->config.on_cancelled(m->config.user, event->cancelled);
    }
    sluice__v1__join_event__free_unpacked(event, NULL);
    return stop;
}

/* Reads until the stream ends. SL_OK: it was told to stop. */
static sl_status follow(struct sl_member *m, struct sl_err *err)
{
    for (;;) {
        Sluice__V1__JoinEvent *event;
        SL_TRY(next_event(m, &event, err));
        if (take_event(m, event))
            return SL_OK;
    }
}

/* Opens the stream again and sees that it stands. SL_OK: *event. */
static sl_status take_up(struct sl_member *m, Sluice__V1__JoinEvent **event, struct sl_err *err)
{
    const uint32_t lost_after_ms = m->config.lost_after_ms;
    uint64_t now_ns = sl_clock_ns(), heard_until_ns = m->heard_ns + lost_after_ms * UINT64_C(1000000),
             until_ns = now_ns + lost_after_ms * UINT64_C(500000); /* we may have been stopped ourselves */
    until_ns = heard_until_ns > until_ns ? heard_until_ns : until_ns;
    sl_log_warn("the Join stream broke (%s); taking it up again, for %.3g s at most", err->text,
                (double)(until_ns - now_ns) * 1e-9);
    for (uint32_t again_ms = AGAIN_MIN_MS;;) {
        if (wait_ms(m, again_ms))
            return sl_fail(err, SL_E_CANCELLED, "this node ends");
        sl_status status = open_leash(m, err);
        if (status == SL_OK)
            status = next_event(m, event, err);
        if (status == SL_OK)
            return SL_OK;
        if (is_verdict(status)) {
            sl_err_prefix(err, "the coordinator at %s does not take it back", m->config.coordinator);
            return status;
        }
        if (sl_clock_ns() >= until_ns) {
            sl_err_prefix(err, "the Join stream to %s could not be taken up again within %.3g s",
                          m->config.coordinator, lost_after_ms * 1e-3);
            return SL_E_PEER_LOST;
        }
        again_ms = again_ms < AGAIN_MAX_MS ? 2 * again_ms : AGAIN_MAX_MS;
    }
}

static void *leash_loop(void *arg)
{
    struct sl_member *m = arg;
    struct sl_err err;
    for (;;) {
        sl_status status = follow(m, &err);
        if (status == SL_OK || is_over(m))
            return NULL;
        Sluice__V1__JoinEvent *event;
        if (!is_verdict(status))
            status = take_up(m, &event, &err);
        if (is_over(m)) {
            if (status == SL_OK)
                sluice__v1__join_event__free_unpacked(event, NULL);
            return NULL;
        }
        if (status != SL_OK)
            break;
        sl_log_info("the Join stream was taken up again");
        if (take_event(m, event))
            return NULL;
    }
    m->config.on_lost(m->config.user, err.text);
    return NULL;
}

/* Counts beats that did not come, rather than time: a process that was stopped has not listened. */
static void *watch_loop(void *arg)
{
    struct sl_member *m = arg;
    while (!wait_ms(m, sl_members_beat_ms(m->config.lost_after_ms))) {
        pthread_mutex_lock(&m->lock);
        if (m->leash && !m->stopped && m->patience > 0 && --m->patience == 0) {
            sl_log_warn("no beat comes over the Join stream");
            sl_rpc_stream_cancel(m->leash);
        }
        pthread_mutex_unlock(&m->lock);
    }
    return NULL;
}

/* ---- reports ---- */

/* That this is the member which joined; about the plan's epoch. */
static ProtobufCBinaryData prove(const struct sl_member *m, const char *kind, uint64_t number,
                                 uint8_t proof[SL_JOIN_PROOF])
{
    uint8_t about[SL_JOIN_ABOUT];
    sl_join_about(m->epoch, number, about);
    sl_join_proof(m->own_key, kind, about, sizeof about, proof);
    return (ProtobufCBinaryData){SL_JOIN_PROOF, proof};
}

static size_t pack_ready(const struct sl_member *m, uint8_t *packed)
{
    Sluice__V1__ReadyRequest request = SLUICE__V1__READY_REQUEST__INIT;
    uint8_t proof[SL_JOIN_PROOF];
    request.role = role_of(m);
    request.stage = m->config.stage;
    request.epoch = m->epoch;
    request.proof = prove(m, "ready", 0, proof);
    double cost[SL_COST_NUMBERS];
    if (m->has_cost) {
        sl_cost_put(&m->cost, cost);
        request.n_cost = SL_COST_NUMBERS;
        request.cost = cost;
    }
    return sluice__v1__ready_request__pack(&request, packed);
}

static size_t pack_leave(const struct sl_member *m, uint8_t *packed)
{
    Sluice__V1__LeaveRequest request = SLUICE__V1__LEAVE_REQUEST__INIT;
    uint8_t proof[SL_JOIN_PROOF];
    request.role = role_of(m);
    request.stage = m->config.stage;
    request.epoch = m->epoch;
    request.all = m->config.whole;
    request.proof = prove(m, request.all ? "leave all" : "leave", 0, proof);
    return sluice__v1__leave_request__pack(&request, packed);
}

static size_t pack_silence(struct sl_member *m, uint8_t *packed, bool silent, char *peer)
{
    Sluice__V1__SilenceRequest request = SLUICE__V1__SILENCE_REQUEST__INIT;
    uint8_t proof[SL_JOIN_PROOF];
    request.role = role_of(m);
    request.stage = m->config.stage;
    request.epoch = m->epoch;
    request.silent = silent;
    request.peer = peer;
    request.number = ++m->silences;
    request.proof = prove(m, silent ? "silent" : "heard", request.number, proof);
    return sluice__v1__silence_request__pack(&request, packed);
}

static sl_status tell(struct sl_member *m, const char *path, const uint8_t *packed, size_t n,
                      struct sl_err *err)
{
    uint8_t *reply = NULL;
    size_t reply_bytes = 0;
    pthread_mutex_lock(&m->channel_lock);
    sl_status status = m->channel
                           ? sl_rpc_unary(m->channel, path, packed, n, REPORT_MS, &reply, &reply_bytes, err)
                           : sl_fail(err, SL_E_UNAVAILABLE, "there is no channel to the coordinator");
    pthread_mutex_unlock(&m->channel_lock);
    free(reply);
    return status;
}

static enum member_report next_report(const struct sl_member *m) /* lock held */
{
    if (m->leaving && !m->told_leaving)
        return REPORT_LEAVE;
    if (m->ready && !m->told_ready)
        return REPORT_READY;
    return m->silent == m->told_silent && m->sure ? REPORT_NONE : REPORT_SILENCE;
}

/* The coordinator can't be asked to let the pipeline drain. */
static void give_up_leaving(struct sl_member *m, sl_status status, const struct sl_err *err)
{
    char sentence[400];
    if (!is_verdict(status) && sl_clock_ns() - m->leaving_ns < m->config.lost_after_ms * UINT64_C(1000000))
        return;
    snprintf(sentence, sizeof sentence, "the coordinator can't be told that this node was told to stop (%s)",
             err->text);
    m->told_leaving = true;
    m->config.on_lost(m->config.user, sentence);
}

static void report(struct sl_member *m, enum member_report what) /* lock held */
{
    static const char *const paths[] = {[REPORT_READY] = "/sluice.v1.Control/Ready",
                                        [REPORT_SILENCE] = "/sluice.v1.Control/Silence",
                                        [REPORT_LEAVE] = "/sluice.v1.Control/Leave"};
    uint8_t packed[192];
    struct sl_err err;
    bool silent = m->silent;
    char peer[sizeof m->peer];
    memcpy(peer, m->peer, sizeof peer);
    size_t n = what == REPORT_READY   ? pack_ready(m, packed)
               : what == REPORT_LEAVE ? pack_leave(m, packed)
                                      : pack_silence(m, packed, silent, peer);
    pthread_mutex_unlock(&m->lock);
    sl_status status = tell(m, paths[what], packed, n, &err);
    if (status == SL_OK && what == REPORT_READY)
        sl_log_info("ready");
    if (status != SL_OK)
        wait_ms(m, REPORT_AGAIN_MS);
    pthread_mutex_lock(&m->lock);
    if (what == REPORT_SILENCE) {
        m->told_silent = silent;
        m->sure = status == SL_OK;
    } else if (what == REPORT_READY) {
        m->told_ready = status == SL_OK;
    } else {
        m->told_leaving = status == SL_OK;
        if (status != SL_OK && !m->over)
            give_up_leaving(m, status, &err);
    }
}

static void *report_loop(void *arg)
{
    struct sl_member *m = arg;
    pthread_mutex_lock(&m->lock);
    while (!m->over) {
        enum member_report what = next_report(m);
        if (what == REPORT_NONE)
            pthread_cond_wait(&m->changed, &m->lock);
        else
            report(m, what);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

void sl_member_say_ready(struct sl_member *m, const struct sl_cost *cost)
{
    pthread_mutex_lock(&m->lock);
    m->ready = true;
    m->has_cost = cost != NULL;
    if (cost)
        m->cost = *cost;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

void sl_member_say_silent(struct sl_member *m, bool silent, const char *peer)
{
    pthread_mutex_lock(&m->lock);
    m->silent = silent;
    snprintf(m->peer, sizeof m->peer, "%s", peer);
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

void sl_member_say_leaving(struct sl_member *m)
{
    pthread_mutex_lock(&m->lock);
    m->leaving = true;
    m->leaving_ns = sl_clock_ns();
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

/* ---- life ---- */

sl_status sl_member_create(struct sl_member **out, const struct sl_member_config *config, struct sl_err *err)
{
    struct sl_member *m = calloc(1, sizeof *m);
    if (!m)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a member");
    m->config = *config;
    m->sure = true;
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->channel_lock, NULL);
    sl_clock_cond_init(&m->changed);
    sl_clock_cond_init(&m->end);
    if (sl_random_bytes(m->id, sizeof m->id) != SL_OK) {
        sl_member_destroy(m);
        return sl_fail(err, SL_E_INTERNAL, "no random bytes to be a member by");
    }
    sl_join_own_key(&m->config.key, m->id, m->own_key);
    *out = m;
    return SL_OK;
}

sl_status sl_member_begin(struct sl_member *m, uint64_t epoch, struct sl_err *err)
{
    pthread_t *const threads[] = {&m->leash_thread, &m->watch_thread, &m->report_thread};
    void *(*const loops[])(void *) = {leash_loop, watch_loop, report_loop};
    m->epoch = epoch;
    for (; m->n_threads < 3; m->n_threads++)
        if (pthread_create(threads[m->n_threads], NULL, loops[m->n_threads], m) != 0)
            return sl_fail(err, SL_E_NOMEM, "cannot start a thread");
    return SL_OK;
}

void sl_member_destroy(struct sl_member *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    m->over = true;
    if (m->leash)
        sl_rpc_stream_cancel(m->leash);
    pthread_cond_broadcast(&m->changed);
    pthread_cond_broadcast(&m->end);
    pthread_mutex_unlock(&m->lock);
    const pthread_t threads[] = {m->leash_thread, m->watch_thread, m->report_thread};
    for (uint32_t i = 0; i < m->n_threads; i++)
        pthread_join(threads[i], NULL);
    sl_rpc_stream_close(m->leash);
    sl_rpc_channel_close(m->channel);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->channel_lock);
    pthread_cond_destroy(&m->changed);
    pthread_cond_destroy(&m->end);
    free(m);
}
