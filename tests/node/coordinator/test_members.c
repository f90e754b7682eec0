/* node/coordinator/members.c and members_away.c over a real server, against members that are played by hand: they join, lose their
 * stream, take it up again, and some are not who they say. The deciding thread is real, too; links never come up. */
#include "base/log.h"
#include "base/text.h"
#include "node/coordinator/links.h"
#include "node/coordinator/members.h"
#include "sluice.pb-c.h"
#include "tests/check.h"
#include "tests/node/coordinator/listener.h"
#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* LATER: a decode worker that comes when the others have their plan */
enum { STAGE = 0, DECODE = 1, MEMBERS = 2, LATER = 2, HANDS = 3, LAYERS = 4, HOUR_MS = 3600000 };

struct hand {
    bool hears_of_decoders;                            /* next_event gives these out, too */
    uint32_t number, life;                             /* of its plan */
    uint32_t n_told, told_place, told_part, told_life; /* the last word about a decode worker */
    uint64_t cancelled, cancelled_by;                  /* and about a sequence */
    bool told_gone;
    /* a member's process */
    uint8_t id[SL_JOIN_NONCE];
    struct sl_join_key key;
    bool decode;
    struct sl_io_address data;
    uint16_t port;
    uint64_t epoch;
    uint8_t join[1280]; /* the last one, as it was sent */
    size_t n_join;
    struct sl_rpc_channel *channel;
    struct sl_rpc_stream *stream;
};

struct meeting {
    struct sl_fabric *fabric;
    struct sl_plan plan;
    struct sl_io *io[1 + HANDS];
    struct sl_coordinator *coordinator;
    struct sl_members *members;
    struct sl_rpc_server *server;
    char endpoint[32];
    int ears[HANDS]; /* data ports */
    struct hand hands[HANDS];
    _Atomic uint32_t n_leaves;
};

static void on_leave(void *user, const char *who)
{
    struct meeting *w = user;
    CHECK_STR(who, "stage 0");
    atomic_fetch_add(&w->n_leaves, 1);
}

static uint32_t n_parts = 1; /* of each decode worker */

static bool open_meeting_for(struct meeting *w, uint32_t lost_after_ms, uint32_t max_decoders)
{
    struct sl_err err = {.text = "no memory"};
    struct sl_plan_model model = {
        .n_layers = LAYERS, .max_pos = 128, .d_model = 64, .vocab = 100, .kv_layer_bytes = 4096};
    struct sl_plan_options options = {.n_stages = 1,
                                      .n_decoders = 1,
                                      .max_decoders = max_decoders,
                                      .n_parts = n_parts,
                                      .max_running = 2,
                                      .context_tokens = 128,
                                      .epoch = 77};
    static const struct sl_shape shape = {.vocab = 100, .max_pos = 128, .d_model = 64, .n_layers = LAYERS};
    struct sl_tokenizer *none;
    struct sl_rpc_method methods[SL_MEMBERS_METHODS];
    sl_log_init("test", SL_LOG_ERROR);
    sl_rpc_init();
    *w = (struct meeting){0};
    bool ready = sl_plan_make(&w->plan, &model, &options, &err) == SL_OK &&
                 sl_fabric_create(&w->fabric) == SL_OK && sl_tokenizer_none(&none, &err) == SL_OK;
    struct sl_io_config io = {.transport = &sl_transport_local,
                              .fabric = w->fabric,
                              .limits = {1 << 24, LAYERS, 128},
                              .thread_name = "io"};
    for (uint32_t k = 0; k <= HANDS; k++)
        ready = ready && sl_io_create(&w->io[k], &io, &err) == SL_OK;
    struct sl_coordinator_config coordinator = {.plan = &w->plan,
                                                .shape = &shape,
                                                .tokenizer = none,
                                                .model_path = "none",
                                                .model_name = "none",
                                                .io = w->io[0],
                                                .n_links = 100};
    ready = ready && sl_coordinator_create(&w->coordinator, &coordinator, &err) == SL_OK;
    struct sl_members_config config = {.plan = &w->plan,
                                       .model_digest = "digest",
                                       .data = ready ? sl_io_address(w->io[0]) : NULL,
                                       .key = {.bytes = {9}},
                                       .lost_after_ms = lost_after_ms,
                                       .on_leave = on_leave,
                                       .user = w};
    ready = ready && sl_members_create(&w->members, &config, &err) == SL_OK;
    struct sl_rpc_server_config server = {.listen = "127.0.0.1:0",
                                          .n_workers = 2,
                                          .max_message_bytes = 1 << 20,
                                          .max_metadata_bytes = 8192,
                                          .queue_messages = 64};
    ready = ready && sl_rpc_server_start(&w->server, &server, methods,
                                         sl_members_methods(w->members, methods), &err) == SL_OK;
    if (!ready) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        return false;
    }
    sl_members_attach(w->members, w->coordinator, w->io[0]);
    snprintf(w->endpoint, sizeof w->endpoint, "127.0.0.1:%d", sl_rpc_server_port(w->server));
    for (uint32_t i = 0; i < HANDS; i++)
        w->hands[i] = (struct hand){.id = {(uint8_t)(1 + i)},
                                    .key = config.key,
                                    .decode = i != STAGE,
                                    .data = *sl_io_address(w->io[1 + i]),
                                    .port = listen_somewhere(&w->ears[i])};
    return true;
}

static void hang_up(struct hand *h)
{
    sl_rpc_stream_close(h->stream);
    sl_rpc_channel_close(h->channel);
    h->stream = NULL;
    h->channel = NULL;
}

static bool open_meeting(struct meeting *w, uint32_t lost_after_ms)
{
    return open_meeting_for(w, lost_after_ms, 1);
}

static void close_meeting(struct meeting *w)
{
    for (uint32_t i = 0; i < HANDS; i++)
        hang_up(&w->hands[i]);
    sl_members_stop(w->members, "the test is over");
    sl_rpc_server_stop(w->server, 0);
    sl_coordinator_destroy(w->coordinator);
    sl_members_destroy(w->members);
    for (uint32_t i = 0; i < HANDS; i++) {
        sl_io_destroy(w->io[1 + i]);
        if (w->ears[i] >= 0)
            close(w->ears[i]);
    }
    sl_fabric_destroy(w->fabric);
    sl_rpc_fini();
}

/* ---- what a member says ---- */

static size_t pack_node(const struct hand *h, uint8_t *packed)
{
    Sluice__V1__Node j = SLUICE__V1__NODE__INIT;
    static char roles[2][8] = {"stage", "decode"}, version[] = SLUICE_VERSION, digest[] = "digest",
                f32[] = "f32", host[] = "127.0.0.1", name[] = "hand";
    char *profiles[] = {f32};
    struct sl_io_address data = h->data;
    uint8_t id[SL_JOIN_NONCE];
    memcpy(id, h->id, sizeof id);
    j.role = roles[h->decode];
    j.model_digest = digest;
    j.version = version;
    j.wire_version = SL_WIRE_VERSION;
    j.profiles = profiles;
    j.n_profiles = 1;
    j.data_address = host;
    j.data_port = h->port;
    j.node_name = name;
    j.n_layers = LAYERS;
    j.data = (ProtobufCBinaryData){data.n, data.bytes};
    j.member = (ProtobufCBinaryData){sizeof id, id};
    j.epoch = h->epoch;
    return sluice__v1__node__pack(&j, packed);
}

static sl_status unary(struct hand *h, const char *path, const uint8_t *packed, size_t n, uint8_t **reply,
                       size_t *bytes, struct sl_err *err)
{
    return sl_rpc_unary(h->channel, path, packed, n, sl_test_patience_ms(30000), reply, bytes, err);
}

/* A Join with a ticket of its own, packed into h->join. */
static void make_join(struct meeting *w, struct hand *h)
{
    Sluice__V1__HelloRequest hello = SLUICE__V1__HELLO_REQUEST__INIT;
    Sluice__V1__JoinRequest j = SLUICE__V1__JOIN_REQUEST__INIT;
    uint8_t nonce[SL_JOIN_NONCE] = {5}, packed[32], node[1024], session[32], proof[SL_JOIN_PROOF], *message;
    size_t bytes, n;
    struct sl_err err;
    hang_up(h);
    if (sl_rpc_channel_open(&h->channel, w->endpoint, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    hello.nonce = (ProtobufCBinaryData){sizeof nonce, nonce};
    n = sluice__v1__hello_request__pack(&hello, packed);
    if (unary(h, "/sluice.v1.Control/Hello", packed, n, &message, &bytes, &err) != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        return;
    }
    Sluice__V1__HelloReply *reply = sluice__v1__hello_reply__unpack(NULL, bytes, message);
    free(message);
    n = pack_node(h, node);
    sl_join_session(&h->key, nonce, reply->ticket.data, session);
    sl_join_proof(session, "join", node, n, proof);
    j.node = (ProtobufCBinaryData){n, node};
    j.nonce = hello.nonce;
    j.ticket = reply->ticket;
    j.proof = (ProtobufCBinaryData){sizeof proof, proof};
    h->n_join = sluice__v1__join_request__pack(&j, h->join);
    sluice__v1__hello_reply__free_unpacked(reply, NULL);
}

static void send_join(struct hand *h)
{
    struct sl_err err;
    if (sl_rpc_stream_open(&h->stream, h->channel, "/sluice.v1.Control/Join", h->join, h->n_join, 60000,
                           &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
}

/* Which event comes next (of the oneof), but for beats unless they are wanted; 0: the stream ends, *err says how. */
static int next_event(struct hand *h, bool beats, uint64_t *epoch, struct sl_err *err)
{
    for (;;) {
        uint8_t *message;
        size_t bytes;
        *err = (struct sl_err){0};
        if (!h->stream || sl_rpc_stream_next(h->stream, &message, &bytes, err) != SL_OK)
            return 0;
        Sluice__V1__JoinEvent *event = sluice__v1__join_event__unpack(NULL, bytes, message);
        free(message);
        int kind = event ? (int)event->event_case : 0;
        if (epoch && kind == SLUICE__V1__JOIN_EVENT__EVENT_PLAN)
            *epoch = event->plan->epoch;
        if (kind == SLUICE__V1__JOIN_EVENT__EVENT_PLAN) {
            h->number = event->plan->stage;
            CHECK_INT(event->plan->n_layers, event->plan->n_stages);
            h->life = event->plan->decoder_life;
        }
        if (kind == SLUICE__V1__JOIN_EVENT__EVENT_DECODER) {
            h->n_told++;
            h->told_place = event->decoder->place;
            h->told_part = event->decoder->part;
            h->told_life = event->decoder->life;
            h->told_gone = event->decoder->gone;
        }
        if (kind == SLUICE__V1__JOIN_EVENT__EVENT_CANCELLED) {
            h->cancelled = event->cancelled->seq;
            h->cancelled_by = event->cancelled->record;
        }
        if (event)
            sluice__v1__join_event__free_unpacked(event, NULL);
        if (kind == SLUICE__V1__JOIN_EVENT__EVENT_DECODER && !h->hears_of_decoders)
            continue;
        if (beats || kind != SLUICE__V1__JOIN_EVENT__EVENT_BEAT)
            return kind;
    }
}

/* Joins and reads the first word. SL_OK: it is a beat. */
static sl_status join(struct meeting *w, struct hand *h, struct sl_err *err)
{
    make_join(w, h);
    send_join(h);
    int kind = next_event(h, true, NULL, err);
    if (kind)
        CHECK_INT(kind, SLUICE__V1__JOIN_EVENT__EVENT_BEAT);
    return kind ? SL_OK : err->status;
}

static bool all_join(struct meeting *w)
{
    struct sl_err err;
    for (uint32_t i = 0; i < MEMBERS; i++)
        if (join(w, &w->hands[i], &err) != SL_OK) {
            sl_test_fail(__FILE__, __LINE__, "%s", err.text);
            return false;
        }
    for (uint32_t i = 0; i < MEMBERS; i++)
        CHECK_INT(next_event(&w->hands[i], false, &w->hands[i].epoch, &err),
                  SLUICE__V1__JOIN_EVENT__EVENT_PLAN);
    CHECK_INT(w->hands[STAGE].epoch, 77);
    return true;
}

static sl_status say_silent(struct hand *h, bool silent, uint64_t number)
{
    Sluice__V1__SilenceRequest s = SLUICE__V1__SILENCE_REQUEST__INIT;
    static char stage[] = "stage", peer[] = "decode";
    uint8_t packed[192], own[32], about[SL_JOIN_ABOUT], proof[SL_JOIN_PROOF], *reply = NULL;
    size_t bytes;
    struct sl_err err;
    s.role = stage;
    s.epoch = h->epoch;
    s.silent = silent;
    s.number = number;
    s.peer = peer;
    sl_join_about(h->epoch, number, about);
    sl_join_own_key(&h->key, h->id, own);
    sl_join_proof(own, silent ? "silent" : "heard", about, sizeof about, proof);
    s.proof = (ProtobufCBinaryData){sizeof proof, proof};
    size_t n = sluice__v1__silence_request__pack(&s, packed);
    sl_status status = unary(h, "/sluice.v1.Control/Silence", packed, n, &reply, &bytes, &err);
    free(reply);
    return status;
}

static sl_status say_ready(struct hand *h, const double *cost, size_t n_cost)
{
    Sluice__V1__ReadyRequest r = SLUICE__V1__READY_REQUEST__INIT;
    static char roles[2][8] = {"stage", "decode"};
    uint8_t packed[512], own[32], about[SL_JOIN_ABOUT], proof[SL_JOIN_PROOF], *reply = NULL;
    double numbers[32];
    size_t bytes;
    struct sl_err err;
    memcpy(numbers, cost, n_cost * sizeof *cost);
    r.role = roles[h->decode];
    r.epoch = h->epoch;
    sl_join_about(h->epoch, 0, about);
    sl_join_own_key(&h->key, h->id, own);
    sl_join_proof(own, "ready", about, sizeof about, proof);
    r.proof = (ProtobufCBinaryData){sizeof proof, proof};
    r.cost = numbers;
    r.n_cost = n_cost;
    size_t n = sluice__v1__ready_request__pack(&r, packed);
    sl_status status = unary(h, "/sluice.v1.Control/Ready", packed, n, &reply, &bytes, &err);
    free(reply);
    return status;
}

/* all: the pipeline goes with it. kind: what it proves. */
static sl_status leave_as(struct hand *h, bool all, const char *kind)
{
    Sluice__V1__LeaveRequest l = SLUICE__V1__LEAVE_REQUEST__INIT;
    static char stage[] = "stage";
    uint8_t packed[192], own[32], about[SL_JOIN_ABOUT], proof[SL_JOIN_PROOF], *reply = NULL;
    size_t bytes;
    struct sl_err err;
    l.role = stage;
    l.epoch = h->epoch;
    sl_join_about(h->epoch, 0, about);
    sl_join_own_key(&h->key, h->id, own);
    l.all = all;
    sl_join_proof(own, kind, about, sizeof about, proof);
    l.proof = (ProtobufCBinaryData){sizeof proof, proof};
    size_t n = sluice__v1__leave_request__pack(&l, packed);
    sl_status status = unary(h, "/sluice.v1.Control/Leave", packed, n, &reply, &bytes, &err);
    free(reply);
    return status;
}

static sl_status leave(struct hand *h)
{
    return leave_as(h, false, "leave");
}

/* ---- what the decider knows ---- */

static void wait_silent(struct meeting *w, bool silent)
{
    while (sl_coordinator_silent(w->coordinator) != silent)
        sched_yield();
}

static void wait_lost(struct meeting *w, char sentence[320])
{
    while (sl_coordinator_life(w->coordinator) != SL_LIFE_LOST)
        sched_yield();
    sl_coordinator_lost_sentence(w->coordinator, sentence, 320);
}

static void on_call(void *user)
{
    atomic_fetch_add((_Atomic uint32_t *)user, 1);
}

/* Whatever was told the decider before has been decided. */
static bool is_silent_now(struct meeting *w)
{
    _Atomic uint32_t n = 0;
    for (uint32_t i = 1; i <= 2; i++) {
        CHECK_INT(sl_coordinator_call(w->coordinator, on_call, &n), SL_OK);
        while (atomic_load(&n) < i)
            sched_yield();
    }
    return sl_coordinator_silent(w->coordinator);
}

/* ---- tests ---- */

SL_TEST(a_member_whose_stream_broke_is_silent_until_it_takes_it_up_again)
{
    struct meeting w;
    struct sl_err err;
    REQUIRE(open_meeting(&w, HOUR_MS));
    if (all_join(&w))
        for (int i = 0; i < 3; i++)
            for (uint32_t k = 0; k < MEMBERS; k++) {
                CHECK(!is_silent_now(&w));
                hang_up(&w.hands[k]);
                wait_silent(&w, true);
                CHECK_INT(join(&w, &w.hands[k], &err), SL_OK);
                wait_silent(&w, false);
            }
    CHECK_INT(sl_coordinator_life(w.coordinator), SL_LIFE_FORMING); /* never lost */
    sl_members_stop(w.members, "enough"); /* over the streams that are there now; no plan came again */
    for (uint32_t k = 0; k < MEMBERS; k++)
        CHECK_INT(next_event(&w.hands[k], false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_STOP);
    close_meeting(&w);
}

/* What reading all experts of stage 0 costs, when all that was told the decider has been taken; -1: nothing is said of it. */
static double experts_ms(struct meeting *w)
{
    static const char line[] = "sluice_stage_cost_seconds{role=\"stage 0\",of=\"experts\"} ";
    struct sl_text text = {0};
    is_silent_now(w);
    sl_coordinator_metrics(w->coordinator, &text);
    const char *at = strstr(text.data, line);
    double ms = at ? 1000 * atof(at + sizeof line - 1) : -1;
    free(text.data);
    return ms;
}

SL_TEST(what_a_stage_says_of_its_cost_is_heard_once_and_nonsense_is_not)
{
    static const double cost[] = {200, 0.5, 70, 0.01, 17000, 250, 0.25}, other[] = {1, 1, 1, 1, 1, 1, 1},
                        negative[] = {200, -1, 70, 0.01, 17000, 250, 0.25},
                        infinite[] = {INFINITY, 0, 0, 0, 0, 0, 0}, none[] = {NAN, 0, 1, 0, 0, 0, 0},
                        hits[] = {1, 1, 1, 1, 1, 1, 1.5}, many[32] = {1, 1, 1, 1, 1, 1, 1, 1};
    static const struct {
        const double *numbers;
        size_t n;
    } bad[] = {{negative, 7}, {infinite, 7}, {none, 7}, {hits, 7}, {cost, 6}, {many, 32}};
    double guessed_ms = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct meeting w;
        REQUIRE(open_meeting(&w, HOUR_MS));
        if (all_join(&w)) {
            guessed_ms = experts_ms(&w);
            CHECK(guessed_ms > 0);
            CHECK_INT(say_ready(&w.hands[STAGE], bad[i].numbers, bad[i].n),
                      SL_OK); /* it is ready, all the same */
            CHECK(experts_ms(&w) == guessed_ms);
        }
        close_meeting(&w);
    }
    struct meeting w;
    REQUIRE(open_meeting(&w, HOUR_MS));
    if (all_join(&w)) {
        CHECK_INT(say_ready(&w.hands[DECODE], other, 7), SL_OK); /* has no chunks */
        CHECK(experts_ms(&w) == guessed_ms);
        CHECK_INT(say_ready(&w.hands[STAGE], cost, 7), SL_OK);
        CHECK(fabs(experts_ms(&w) - 17) < 1e-6);
        CHECK_INT(say_ready(&w.hands[STAGE], other, 7),
                  SL_OK); /* again, since the answer was lost: what it learnt stays */
        CHECK(fabs(experts_ms(&w) - 17) < 1e-6);
    }
    close_meeting(&w);
}

SL_TEST(an_impostor_takes_up_nothing_and_changes_nothing)
{
    struct meeting w;
    struct sl_err err;
    REQUIRE(open_meeting(&w, HOUR_MS));
    if (all_join(&w))
        for (int away = 0; away < 2; away++) {
            struct hand other_id = w.hands[STAGE], other_key = w.hands[STAGE], other_data = w.hands[STAGE],
                        other_place = w.hands[STAGE],
                        *all[] = {&other_id, &other_key, &other_data, &other_place};
            other_id.id[15] ^= 1;
            other_key.key.bytes[0] ^= 1;
            other_data.data.bytes[0] ^= 1;
            other_place.decode = true;
            if (away) {
                hang_up(&w.hands[STAGE]);
                wait_silent(&w, true);
            }
            for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
                all[i]->channel = NULL;
                all[i]->stream = NULL;
                CHECK_INT(join(&w, all[i], &err), SL_E_DENIED);
                CHECK_CONTAINS(err.text, all[i] == &other_key ? "the join key differs"
                                                              : "only the process that has this place");
                CHECK_INT(is_silent_now(&w), away);
                hang_up(all[i]);
            }
        }
    CHECK_INT(join(&w, &w.hands[STAGE], &err), SL_OK);
    wait_silent(&w, false);
    close_meeting(&w);
}

SL_TEST(a_join_that_was_overheard_takes_up_nothing)
{
    struct meeting w;
    struct sl_err err;
    REQUIRE(open_meeting(&w, HOUR_MS));
    if (all_join(&w)) {
        hang_up(&w.hands[STAGE]);
        wait_silent(&w, true);
        CHECK_INT(join(&w, &w.hands[STAGE], &err), SL_OK);
        wait_silent(&w, false);
        hang_up(&w.hands[STAGE]);
        wait_silent(&w, true);
        CHECK_INT(sl_rpc_channel_open(&w.hands[STAGE].channel, w.endpoint, &err), SL_OK);
        send_join(&w.hands[STAGE]); /* byte by byte what was taken before */
        CHECK_INT(next_event(&w.hands[STAGE], true, NULL, &err), 0);
        CHECK_INT(err.status, SL_E_DENIED);
        CHECK_CONTAINS(err.text, "the ticket was used before");
        CHECK(is_silent_now(&w));
    }
    close_meeting(&w);
}

SL_TEST(who_is_part_of_another_pipeline_is_told_so)
{
    struct meeting w;
    struct sl_err err;
    REQUIRE(open_meeting(&w, HOUR_MS));
    w.hands[STAGE].epoch = 78; /* this coordinator has just begun */
    CHECK_INT(join(&w, &w.hands[STAGE], &err), SL_E_REFUSED);
    CHECK_CONTAINS(err.text, "does not know the pipeline that the node is part of");
    w.hands[STAGE].epoch = 77; /* even if he guesses it: nobody was sent a plan */
    CHECK_INT(join(&w, &w.hands[STAGE], &err), SL_E_DENIED);
    w.hands[STAGE].epoch = 0;
    if (all_join(&w)) {
        hang_up(&w.hands[STAGE]);
        wait_silent(&w, true);
        w.hands[STAGE].epoch = 78;
        CHECK_INT(join(&w, &w.hands[STAGE], &err), SL_E_REFUSED);
        CHECK(is_silent_now(&w));
    }
    close_meeting(&w);
}

/* Two streams of one member: true when the first ends, false when the second does. The other has beats on and on. */
static bool first_ends(struct hand *first, struct hand *second)
{
    struct sl_err err;
    bool is_first = true;
    for (struct hand *h = first; next_event(h, true, NULL, &err); h = is_first ? first : second)
        is_first = !is_first;
    CHECK_INT(err.status, SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "another Join stream");
    return is_first;
}

SL_TEST(of_two_streams_at_once_one_stays)
{
    struct meeting w;
    struct sl_err err;
    REQUIRE(open_meeting(&w, 5000)); /* beats come often */
    if (all_join(&w))
        for (int i = 0; i < 3; i++) {
            struct hand twin = w.hands[STAGE], *two[] = {&w.hands[STAGE], &twin};
            twin.stream = NULL;
            twin.channel = NULL;
            make_join(&w, two[0]); /* leaves the old stream, at whatever moment that is noticed */
            make_join(&w, two[1]);
            send_join(two[0]);
            send_join(two[1]);
            CHECK_INT(next_event(two[0], true, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_BEAT);
            CHECK_INT(next_event(two[1], true, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_BEAT);
            wait_silent(&w, false);
            bool first = first_ends(two[0], two[1]);
            hang_up(first ? two[0] : two[1]);
            if (first)
                w.hands[STAGE] = twin;
            CHECK(!is_silent_now(&w));
        }
    close_meeting(&w);
}

SL_TEST(who_comes_back_too_late_is_told_that_the_pipeline_ends)
{
    struct meeting w;
    struct sl_err err;
    char sentence[320];
    REQUIRE(open_meeting(&w, 150));
    if (all_join(&w)) {
        hang_up(&w.hands[DECODE]);
        wait_lost(&w, sentence);
        CHECK_STR(
            sentence,
            "decode is gone: its Join stream broke, and it did not take it up again within 0.15 s; the request "
            "was not finished, send it again");
        CHECK_INT(join(&w, &w.hands[DECODE], &err), SL_E_REFUSED);
        CHECK_CONTAINS(err.text, "the pipeline has lost a node and ends");
    }
    close_meeting(&w);
}

SL_TEST(whose_data_port_refuses_is_lost_at_once)
{
    struct meeting w;
    char sentence[320], says[64];
    REQUIRE(open_meeting(&w, HOUR_MS));
    if (all_join(&w)) {
        hang_up(&w.hands[DECODE]); /* its port stays */
        wait_silent(&w, true);
        close(w.ears[STAGE]);
        w.ears[STAGE] = -1;
        hang_up(&w.hands[STAGE]);
        wait_lost(&w, sentence);
        snprintf(says, sizeof says, "data port 127.0.0.1:%u refuses connections", w.hands[STAGE].port);
        CHECK_CONTAINS(sentence, "stage 0 is gone: its Join stream broke, and its");
        CHECK_CONTAINS(sentence, says);
    }
    close_meeting(&w);
}

SL_TEST(a_plan_that_was_lost_on_its_way_is_sent_again)
{
    struct meeting w;
    struct sl_err err;
    uint64_t epoch = 0;
    REQUIRE(open_meeting(&w, HOUR_MS));
    CHECK_INT(join(&w, &w.hands[STAGE], &err), SL_OK);
    CHECK_INT(join(&w, &w.hands[DECODE], &err), SL_OK);
    CHECK_INT(next_event(&w.hands[DECODE], false, &epoch, &err), SLUICE__V1__JOIN_EVENT__EVENT_PLAN);
    hang_up(&w.hands[STAGE]); /* it has read nothing of it */
    epoch = 0;
    CHECK_INT(join(&w, &w.hands[STAGE], &err), SL_OK);
    CHECK_INT(next_event(&w.hands[STAGE], false, &epoch, &err), SLUICE__V1__JOIN_EVENT__EVENT_PLAN);
    CHECK_INT(epoch, 77);
    wait_silent(&w, false);
    close_meeting(&w);
}

SL_TEST(before_the_plan_a_member_joins_anew_and_nobody_else_in_its_place)
{
    struct meeting w;
    struct sl_err err;
    REQUIRE(open_meeting(&w, HOUR_MS));
    struct hand other = w.hands[STAGE], again = w.hands[STAGE];
    other.id[0] ^= 1;
    CHECK_INT(join(&w, &w.hands[STAGE], &err), SL_OK);
    CHECK_INT(join(&w, &other, &err), SL_E_EXISTS);
    CHECK_INT(join(&w, &again, &err), SL_OK); /* its old stream is dead, and only it knows */
    CHECK_INT(next_event(&w.hands[STAGE], false, NULL, &err), 0);
    CHECK_INT(err.status, SL_E_UNAVAILABLE);
    CHECK_INT(join(&w, &w.hands[DECODE], &err), SL_OK);
    CHECK_INT(next_event(&again, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_PLAN);
    hang_up(&other);
    hang_up(&again);
    close_meeting(&w);
}

SL_TEST(what_a_member_says_counts_whether_or_not_its_stream_stands)
{
    struct meeting w;
    struct sl_err err;
    REQUIRE(open_meeting(&w, HOUR_MS));
    if (all_join(&w)) {
        struct hand *stage = &w.hands[STAGE], stranger = *stage;
        CHECK_INT(say_silent(stage, true, 1), SL_OK);
        wait_silent(&w, true);
        hang_up(stage);
        CHECK_INT(join(&w, stage, &err), SL_OK);
        CHECK(is_silent_now(&w)); /* it is here, and still hears nothing of its neighbour */
        CHECK_INT(say_silent(stage, false, 3), SL_OK);
        wait_silent(&w, false);
        CHECK_INT(say_silent(stage, true, 2), SL_OK); /* it was overtaken */
        CHECK_INT(say_silent(stage, true, 1), SL_OK); /* or said again by one who heard it */
        CHECK(!is_silent_now(&w));
        sl_rpc_stream_close(stage->stream);
        stage->stream = NULL;
        wait_silent(&w, true);
        stranger.channel = stage->channel;
        stranger.id[0] ^= 1;
        CHECK_INT(leave(&stranger), SL_E_DENIED);
        CHECK_INT(leave_as(stage, true, "leave"), SL_E_DENIED); /* that it all ends was not what was proved */
        CHECK_INT(leave_as(stage, false, "leave all"), SL_E_DENIED);
        CHECK_INT(atomic_load(&w.n_leaves), 0);
        CHECK_INT(leave(stage), SL_OK);
        while (atomic_load(&w.n_leaves) == 0) /* it is answered first */
            sched_yield();
        CHECK_INT(atomic_load(&w.n_leaves), 1);
    }
    close_meeting(&w);
}

SL_TEST(who_is_away_is_awaited_and_who_comes_after_the_stop_is_told)
{
    struct meeting w;
    struct sl_err err;
    REQUIRE(open_meeting(&w, HOUR_MS));
    if (all_join(&w)) {
        CHECK(!sl_members_await(w.members));
        hang_up(&w.hands[STAGE]);
        wait_silent(&w, true);
        CHECK(sl_members_await(w.members));
        sl_members_stop(w.members, "enough"); /* all the same: a second signal */
        CHECK(!sl_members_await(w.members));
        CHECK_INT(join(&w, &w.hands[STAGE], &err), SL_OK);
        CHECK_INT(next_event(&w.hands[STAGE], false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_STOP);
        CHECK_INT(next_event(&w.hands[STAGE], false, NULL, &err), 0); /* and that was all */
        CHECK_INT(err.status, SL_OK);
    }
    close_meeting(&w);
}

SL_TEST(stages_that_are_ready_are_told_of_a_cancel_and_nobody_else_is)
{
    struct meeting w;
    struct sl_err err;
    REQUIRE(open_meeting_for(&w, HOUR_MS, 1));
    if (all_join(&w)) {
        const double none[1] = {0};
        struct hand *stage = &w.hands[STAGE], *decode = &w.hands[DECODE];
        sl_members_foretell(w.members, 32, 5); /* it has nothing to spare yet */
        CHECK_INT(say_ready(stage, none, 0), SL_OK);
        CHECK_INT(say_ready(decode, none, 0), SL_OK);
        sl_members_foretell(w.members, 48, 9);
        CHECK_INT(next_event(stage, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_CANCELLED);
        CHECK(stage->cancelled == 48 && stage->cancelled_by == 9);
        hang_up(stage); /* who is away is told nothing, then or later */
        wait_silent(&w, true);
        sl_members_foretell(w.members, 64, 10);
        CHECK_INT(join(&w, stage, &err), SL_OK);
        sl_members_foretell(w.members, 80, 11);
        CHECK_INT(next_event(stage, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_CANCELLED);
        CHECK(stage->cancelled == 80 && stage->cancelled_by == 11);
        sl_members_stop(w.members, "the test is over");
        CHECK_INT(next_event(decode, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_STOP);
    }
    close_meeting(&w);
}

/* What the stage is told next of a place for decode workers. */
static void check_told(struct meeting *w, uint32_t place, uint32_t life, bool gone)
{
    struct hand *h = &w->hands[STAGE];
    struct sl_err err;
    h->hears_of_decoders = true;
    CHECK_INT(next_event(h, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_DECODER);
    CHECK_INT(h->told_place, place);
    CHECK_INT(h->told_life, life);
    CHECK_INT(h->told_gone, gone);
}

SL_TEST(a_decode_worker_joins_while_it_runs_and_leaves_its_place_to_the_next)
{
    struct meeting w;
    struct sl_err err;
    REQUIRE(open_meeting_for(&w, HOUR_MS, 2));
    if (all_join(&w)) {
        struct hand *later = &w.hands[LATER], third = *later, late;
        CHECK_INT(w.hands[DECODE].number, 1);
        check_told(&w, 0, 0, false);
        check_told(&w, 1, SL_DECODER_LIVES - 1, true);
        CHECK_INT(join(&w, later, &err), SL_OK);
        CHECK_INT(next_event(later, false, &later->epoch, &err), SLUICE__V1__JOIN_EVENT__EVENT_PLAN);
        CHECK(later->number == 2 && later->life == 0 && later->epoch == 77);
        check_told(&w, 1, 0, false);
        third.id[0] = 9;
        CHECK_INT(join(&w, &third, &err), SL_E_EXISTS);
        CHECK_CONTAINS(err.text, "there are 2 decode workers already");
        hang_up(&w.hands[STAGE]); /* it is told again, as it is */
        wait_silent(&w, true);
        CHECK_INT(join(&w, &w.hands[STAGE], &err), SL_OK);
        check_told(&w, 0, 0, false);
        check_told(&w, 1, 0, false);

        late = *later;
        late.stream = NULL;
        late.channel = NULL;
        sl_members_decoder_gone(w.members, 1, 7, "of another life");
        sl_members_decoder_gone(w.members, 1, 0, NULL);
        CHECK_INT(next_event(later, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_STOP);
        check_told(&w, 1, 0, true);
        CHECK_INT(join(&w, &late, &err), SL_E_REFUSED); /* it has not heard of it */
        CHECK_CONTAINS(err.text, "goes on without it");
        CHECK_INT(join(&w, &third, &err), SL_OK);
        CHECK_INT(next_event(&third, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_PLAN);
        CHECK(third.number == 2 && third.life == 1);
        check_told(&w, 1, 1, false);
        hang_up(&third);
        hang_up(&late);
    }
    close_meeting(&w);
}

static void check_told_part(struct meeting *w, uint32_t part, uint32_t life, bool gone)
{
    check_told(w, 0, life, gone);
    CHECK_INT(w->hands[STAGE].told_part, part);
}

static void check_planned(struct hand *h, uint32_t number, uint32_t life)
{
    struct sl_err err;
    CHECK_INT(next_event(h, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_PLAN);
    CHECK_INT(h->number, number);
    CHECK_INT(h->life, life);
}

/* Numbers: 0 the stage, 1 the chief, 2 the part before it. */
SL_TEST(the_parts_of_a_decode_worker_come_one_by_one_and_go_together)
{
    struct meeting w;
    struct sl_err err;
    n_parts = 2;
    bool open = open_meeting_for(&w, HOUR_MS, 1);
    n_parts = 1;
    REQUIRE(open);
    struct hand *stage = &w.hands[STAGE], *first = &w.hands[DECODE], *second = &w.hands[LATER],
                third = *second;
    third.id[0] = 9;
    char missing[100];
    CHECK_INT(join(&w, stage, &err), SL_OK);
    CHECK_INT(join(&w, first, &err), SL_OK);
    hang_up(first); /* before there is a plan: whoever comes takes its place */
    while (!strstr(sl_members_missing(w.members, false, missing, sizeof missing), "decode part 0"))
        sched_yield();
    CHECK_INT(join(&w, second, &err), SL_OK);
    CHECK_STR(sl_members_missing(w.members, false, missing, sizeof missing), "decode");
    CHECK_INT(join(&w, first, &err), SL_OK);
    check_planned(stage, 0, 0);
    check_planned(second, 2, 0);
    check_planned(first, 1, 0);
    check_told_part(&w, 1, 0, false);
    check_told_part(&w, 0, 0, false);
    CHECK_INT(join(&w, &third, &err), SL_E_EXISTS);
    CHECK_CONTAINS(err.text, "there are 1 decode workers already");

    sl_members_decoder_gone(w.members, 0, 0, "a part of it was lost");
    CHECK_INT(next_event(first, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_STOP);
    CHECK_INT(next_event(second, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_STOP);
    check_told_part(&w, 0, 0, true);
    check_told_part(&w, 1, 0, true);
    hang_up(first);
    hang_up(second);
    CHECK_INT(join(&w, &third, &err), SL_OK); /* and waits for its other part */
    first->id[0] = 10;
    first->epoch = 0;
    CHECK_INT(join(&w, first, &err), SL_OK);
    check_planned(&third, 2, 1);
    check_planned(first, 1, 1);
    check_told_part(&w, 0, 1, false);
    check_told_part(&w, 1, 1, false);
    hang_up(&third);
    close_meeting(&w);
}

/* One that is started again comes before the others of its place are told to go: they join it, wherever it is. */
SL_TEST(the_parts_of_one_decode_worker_do_not_end_up_in_two_places)
{
    struct meeting w;
    struct sl_err err;
    n_parts = 2;
    bool open = open_meeting_for(&w, HOUR_MS, 2);
    n_parts = 1;
    REQUIRE(open);
    struct hand *stage = &w.hands[STAGE], *first = &w.hands[DECODE], *second = &w.hands[LATER],
                third = *second;
    third.id[0] = 9;
    CHECK_INT(join(&w, stage, &err), SL_OK);
    CHECK_INT(join(&w, second, &err), SL_OK);
    CHECK_INT(join(&w, first, &err), SL_OK);
    check_planned(second, 3, 0); /* numbers: 1 and 2 the chiefs of both places, 3 and 4 their other parts */
    check_planned(first, 1, 0);
    CHECK_INT(join(&w, &third, &err), SL_OK);
    sl_members_decoder_gone(w.members, 0, 0, "a part of it was lost");
    CHECK_INT(next_event(first, false, NULL, &err), SLUICE__V1__JOIN_EVENT__EVENT_STOP);
    hang_up(first);
    first->id[0] = 10;
    first->epoch = 0;
    CHECK_INT(join(&w, first, &err), SL_OK);
    check_planned(&third, 4, 0);
    check_planned(first, 2, 0);
    hang_up(&third);
    close_meeting(&w);
}
