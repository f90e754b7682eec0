/* The worker process of worker.h. Threads: main (the role's loop), the I/O thread of sl_io, the leash (reads the Join
 * stream), the signal thread, the team. */
#include "node/role/worker.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/signals.h"
#include "model/pack/pack_cache.h"
#include "node/coordinator/links.h"
#include "node/coordinator/members.h"
#include "node/edge/admin_http.h"
#include "node/role/role.h"
#include "pipeline/stage/stage.h"
#include "sluice.pb-c.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HELLO_MS = 5000, REPORT_AGAIN_MS = 200 };

struct worker {
    struct sl_worker_config config;
    char name[24];
    struct sl_pack *pack;
    struct sl_stage *stage;
    struct sl_io *io;
    struct sl_plan plan;
    uint32_t profiles; /* numerics that we offer */
    _Atomic bool has_plan;
    uint32_t n_links;
    struct sl_rpc_channel *channel;
    uint8_t session[32];     /* with the coordinator: join_key.h */
    uint8_t link_secret[32]; /* of the plan's links */
    struct sl_rpc_stream *leash;
    struct sl_admin *ops;
    struct sl_role *role;
    struct sl_role_state state;
    _Atomic bool over; /* the threads beside the role may go */
    pthread_t leash_thread, signal_thread, report_thread;
    bool leash_started, signals_started, reports_started;

    /* what the role's thread has seen and the reporting one tells the coordinator */
    pthread_mutex_t lock;
    pthread_cond_t seen;
    bool silent;
    uint32_t silent_peer;
};

/* STOP: the coordinator says so, a clean end. LOSE: it is gone. */
static void end_role(struct worker *w, enum sl_life_event event)
{
    sl_role_step_life(&w->state, event);
    if (w->io)
        sl_io_nudge(w->io);
}

static char *role_of(const struct worker *w)
{
    static char roles[2][8] = {"stage", "decode"};
    return roles[w->config.decode];
}

/* That this is the member which joined; about the plan's epoch. */
static ProtobufCBinaryData prove(const struct worker *w, const char *kind, uint8_t proof[SL_JOIN_PROOF])
{
    uint8_t about[8];
    sl_put64(about, w->plan.epoch);
    sl_join_proof(w->session, kind, about, sizeof about, proof);
    return (ProtobufCBinaryData){SL_JOIN_PROOF, proof};
}

/* ---- signals ---- */

static void leave(struct worker *w)
{
    Sluice__V1__LeaveRequest request = SLUICE__V1__LEAVE_REQUEST__INIT;
    uint8_t packed[128], proof[SL_JOIN_PROOF], *reply = NULL;
    size_t reply_bytes = 0;
    request.role = role_of(w);
    request.stage = w->config.stage;
    request.epoch = w->plan.epoch;
    request.proof = prove(w, "leave", proof);
    size_t n = sluice__v1__leave_request__pack(&request, packed);
    struct sl_err err;
    if (sl_rpc_unary(w->channel, "/sluice.v1.Control/Leave", packed, n, 2000, &reply, &reply_bytes, &err) !=
        SL_OK) {
        sl_log_warn("the coordinator does not answer (%s); stopping at once", err.text);
        end_role(w, SL_LIFE_LOSE);
    }
    free(reply);
}

/* First signal: the pipeline drains through the coordinator, which tells us when to stop. Second: out at once. */
static void *signal_loop(void *arg)
{
    struct worker *w = arg;
    uint32_t signals = 0;
    sigset_t set;
    sl_signals_of_end(&set);
    for (;;) {
        int number;
        if (sigwait(&set, &number) != 0 || atomic_load(&w->over))
            return NULL;
        enum sl_life life = atomic_load(&w->state.life);
        if (life == SL_LIFE_FORMING)
            sl_log_info("stopping before the pipeline was complete");
        if (life == SL_LIFE_FORMING || (sl_signal_insists(number) && signals++ > 0))
            _exit(128 + number);
        if (life != SL_LIFE_READY)
            continue; /* it is ending by itself */
        sl_role_step_life(&w->state, SL_LIFE_DRAIN);
        sl_log_info("draining: the coordinator lets running requests finish");
        leave(w);
    }
}

/* ---- the leash ---- */

static sl_status next_event(struct worker *w, Sluice__V1__JoinEvent **event, struct sl_err *err)
{
    uint8_t *message;
    size_t bytes;
    sl_status status = sl_rpc_stream_next(w->leash, &message, &bytes, err);
    if (status != SL_OK)
        return status;
    *event = sluice__v1__join_event__unpack(NULL, bytes, message);
    free(message);
    return *event ? SL_OK
                  : sl_fail(err, SL_E_PROTOCOL,
                            "the coordinator sent something that is not a join event; run the same version");
}

static void *leash_loop(void *arg)
{
    struct worker *w = arg;
    struct sl_err err;
    Sluice__V1__JoinEvent *event;
    sl_status status;
    while ((status = next_event(w, &event, &err)) == SL_OK) {
        bool stop = event->event_case == SLUICE__V1__JOIN_EVENT__EVENT_STOP;
        if (stop)
            sl_log_info("stopping: %s", event->stop->reason);
        sluice__v1__join_event__free_unpacked(event, NULL);
        if (stop)
            end_role(w, SL_LIFE_STOP);
    }
    if (sl_role_goes_on(&w->state) && !atomic_load(&w->over))
        sl_log_error("the coordinator is gone (%s); this node stops",
                     status == SL_AGAIN ? "it closed the stream" : err.text);
    end_role(w, SL_LIFE_LOSE);
    return NULL;
}

/* ---- silence ---- */

static void on_silence(void *user, bool silent, uint32_t peer)
{
    struct worker *w = user;
    pthread_mutex_lock(&w->lock);
    w->silent = silent;
    w->silent_peer = peer;
    pthread_cond_signal(&w->seen);
    pthread_mutex_unlock(&w->lock);
}

static sl_status report_silence(struct worker *w, bool silent, uint32_t peer)
{
    Sluice__V1__SilenceRequest request = SLUICE__V1__SILENCE_REQUEST__INIT;
    uint8_t packed[192], proof[SL_JOIN_PROOF], *reply = NULL;
    size_t reply_bytes = 0;
    char name[24];
    struct sl_err err;
    request.role = role_of(w);
    request.stage = w->config.stage;
    request.epoch = w->plan.epoch;
    request.silent = silent;
    request.peer = (char *)(uintptr_t)sl_plan_node_name(&w->plan, peer, name);
    request.proof = prove(w, silent ? "silent" : "heard", proof);
    size_t n = sluice__v1__silence_request__pack(&request, packed);
    sl_status status = sl_rpc_unary(w->channel, "/sluice.v1.Control/Silence", packed, n, HELLO_MS, &reply,
                                    &reply_bytes, &err);
    free(reply);
    return status;
}

/* Tells what is, not all that was; a report that did not arrive (the silent one may be the coordinator) is made again as long
 * as it holds. */
static void *report_loop(void *arg)
{
    struct worker *w = arg;
    bool told = false, sure = true; /* not sure: what was told last may have arrived, or not */
    pthread_mutex_lock(&w->lock);
    while (!atomic_load(&w->over)) {
        if (w->silent == told && sure) {
            pthread_cond_wait(&w->seen, &w->lock);
            continue;
        }
        bool silent = w->silent;
        uint32_t peer = w->silent_peer;
        pthread_mutex_unlock(&w->lock);
        sl_status status = report_silence(w, silent, peer);
        sure = status == SL_OK;
        told = silent;
        if (!sure)
            usleep(REPORT_AGAIN_MS * 1000);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* ---- join ---- */

/* This node in bytes. Returns how many; 0: room is too small. */
static size_t pack_node(const struct worker *w, uint8_t *packed, size_t room)
{
    Sluice__V1__Node j = SLUICE__V1__NODE__INIT;
    static char version[] = SLUICE_VERSION;
    char profiles[SL_PROFILES][16], *offered[SL_PROFILES];
    char host[64] = "", address[SL_IO_HOST_BYTES], digest[72];
    struct sl_io_address at = *sl_io_address(w->io);
    gethostname(host, sizeof host - 1);
    snprintf(address, sizeof address, "%s", sl_io_host(w->io));
    snprintf(digest, sizeof digest, "%s", sl_pack_digest(w->pack));
    j.role = role_of(w);
    j.stage = w->config.stage;
    j.model_digest = digest;
    j.version = version;
    for (unsigned i = 0; i < SL_PROFILES; i++) {
        if (!(w->profiles & 1u << i))
            continue;
        snprintf(profiles[i], sizeof profiles[i], "%s", sl_profile_name((enum sl_profile)i));
        offered[j.n_profiles++] = profiles[i];
    }
    j.profiles = offered;
    j.data_address = address;
    j.data_port = sl_io_port(w->io);
    j.data = (ProtobufCBinaryData){at.n, at.bytes};
    j.wire_version = SL_WIRE_VERSION;
    j.node_name = host;
    j.threads = w->config.n_threads;
    j.pid = (uint64_t)getpid();
    j.n_layers = sl_pack_shape(w->pack)->n_layers;
    return sluice__v1__node__get_packed_size(&j) <= room ? sluice__v1__node__pack(&j, packed) : 0;
}

/* A ticket of the coordinator, and a session with it if it knows the join key as we do. */
static sl_status say_hello(struct worker *w, uint8_t nonce[SL_JOIN_NONCE], uint8_t ticket[SL_JOIN_TICKET],
                           struct sl_err *err)
{
    Sluice__V1__HelloRequest request = SLUICE__V1__HELLO_REQUEST__INIT;
    uint8_t packed[32], expected[SL_JOIN_PROOF], *message = NULL;
    size_t bytes = 0;
    if (sl_random_bytes(nonce, SL_JOIN_NONCE) != SL_OK)
        return sl_fail(err, SL_E_INTERNAL, "no random bytes for the join request");
    request.nonce = (ProtobufCBinaryData){SL_JOIN_NONCE, nonce};
    size_t n = sluice__v1__hello_request__pack(&request, packed);
    SL_TRY(sl_rpc_unary(w->channel, "/sluice.v1.Control/Hello", packed, n, HELLO_MS, &message, &bytes, err));
    Sluice__V1__HelloReply *reply = sluice__v1__hello_reply__unpack(NULL, bytes, message);
    free(message);
    sl_status status = SL_OK;
    if (!reply || reply->ticket.len != SL_JOIN_TICKET || reply->proof.len != sizeof expected) {
        status = sl_fail(err, SL_E_PROTOCOL,
                         "the coordinator's answer to hello is malformed; run the same version");
    } else {
        memcpy(ticket, reply->ticket.data, SL_JOIN_TICKET);
        sl_join_welcome(&w->config.key, nonce, ticket, expected);
        if (!sl_equal_constant_time(expected, reply->proof.data, sizeof expected))
            status =
                sl_fail(err, SL_E_DENIED,
                        "the join key differs; give both the same --join-key-file, and run the same version");
    }
    if (reply)
        sluice__v1__hello_reply__free_unpacked(reply, NULL);
    sl_join_session(&w->config.key, nonce, ticket, w->session);
    return status;
}

static sl_status open_leash(struct worker *w, struct sl_err *err)
{
    Sluice__V1__JoinRequest j = SLUICE__V1__JOIN_REQUEST__INIT;
    uint8_t node[1024], packed[1280], nonce[SL_JOIN_NONCE], ticket[SL_JOIN_TICKET] = {0},
                                                            proof[SL_JOIN_PROOF];
    size_t n = pack_node(w, node, sizeof node);
    if (n == 0)
        return sl_fail(err, SL_E_CONFIG, "the data address or host name is too long");
    SL_TRY(say_hello(w, nonce, ticket, err));
    sl_join_proof(w->session, "join", node, n, proof);
    j.node = (ProtobufCBinaryData){n, node};
    j.nonce = (ProtobufCBinaryData){sizeof nonce, nonce};
    j.ticket = (ProtobufCBinaryData){sizeof ticket, ticket};
    j.proof = (ProtobufCBinaryData){sizeof proof, proof};
    n = sluice__v1__join_request__pack(&j, packed);
    return sl_rpc_stream_open(&w->leash, w->channel, "/sluice.v1.Control/Join", packed, n, -1, err);
}

/* A refusal is about this process, not about a request: its place is taken, or there is something else at that address. */
static sl_status as_refusal(sl_status status)
{
    return sl_status_exit_code(status) == 1 || status == SL_E_INVALID ? SL_E_UNAVAILABLE : status;
}

/* Try until the coordinator answers; a refusal is final, an absent coordinator is waited for. */
static sl_status join(struct worker *w, Sluice__V1__JoinEvent **event, struct sl_err *err)
{
    uint64_t until = sl_clock_ns() + (uint64_t)w->config.join_timeout_s * 1000000000u;
    for (uint32_t wait_ms = 50;;) {
        sl_status status = open_leash(w, err);
        if (status == SL_OK)
            status = next_event(w, event, err);
        if (status == SL_OK)
            return SL_OK;
        sl_rpc_stream_close(w->leash);
        w->leash = NULL;
        if (status == SL_AGAIN)
            status =
                sl_fail(err, SL_E_UNAVAILABLE, "the coordinator closed the stream before it sent a plan");
        bool crowded = status == SL_E_EXHAUSTED && sl_clock_ns() <= until; /* its places come back */
        if (status != SL_E_UNAVAILABLE && status != SL_E_PEER_LOST && !crowded) {
            sl_err_prefix(err, "%s was refused by the coordinator at %s", w->name, w->config.coordinator);
            return err->status = as_refusal(status);
        }
        if (sl_clock_ns() > until)
            return sl_fail(
                err, SL_E_UNAVAILABLE,
                "no coordinator answers at %s after %u s; start it first, or give its address with --coordinator",
                w->config.coordinator, w->config.join_timeout_s);
        /* a new channel each time: one that failed is only looked after while a call waits on it */
        sl_rpc_channel_close(w->channel);
        w->channel = NULL;
        usleep(wait_ms * 1000);
        wait_ms = wait_ms < 1000 ? 2 * wait_ms : 1000;
        SL_TRY(sl_rpc_channel_open(&w->channel, w->config.coordinator, err));
    }
}

/* On the scrubber's thread. The role has the last word; here it is woken. */
static void on_spoiled(void *user, const struct sl_spoiled *spoiled)
{
    struct worker *w = user;
    sl_log_error("%s; what was computed with it can't be trusted, so this node stops", spoiled->sentence);
    sl_io_nudge(w->io);
}

/* The plan is computed here again from its few numbers; what the coordinator says of it must agree. */
static sl_status accept_plan(struct worker *w, const Sluice__V1__Plan *p, struct sl_err *err)
{
    enum sl_dtype kv_dtype;
    if (!sl_dtype_parse(&kv_dtype, p->kv_dtype) ||
        (kv_dtype != SL_F32 && kv_dtype != SL_BF16 && kv_dtype != SL_I8))
        return sl_fail(
            err, SL_E_PROTOCOL,
            "the coordinator's plan has KV pages in '%.20s', which is unknown here; run the same version",
            p->kv_dtype);
    struct sl_plan_options options = {.n_stages = p->n_stages,
                                      .has_decode = true,
                                      .kv_dtype = kv_dtype,
                                      .chunk_tokens = p->chunk_tokens,
                                      .max_prefill = p->max_prefill,
                                      .max_running = p->max_running,
                                      .context_tokens = p->context_tokens,
                                      .epoch = p->epoch,
                                      .kv_tokens = p->kv_pages * SL_PAGE_TOKENS};
    if (!sl_profile_parse(&options.profile, p->profile) || !(w->profiles & 1u << options.profile))
        return sl_fail(
            err, SL_E_PROTOCOL,
            "the coordinator asks for the numerics profile %.20s, which this node did not offer; run the same version",
            p->profile);
    SL_TRY(sl_plan_for_shape(&w->plan, sl_pack_shape(w->pack), &options, err));
    if (p->salt.len != SL_JOIN_NONCE)
        return sl_fail(err, SL_E_PROTOCOL, "the coordinator's plan has no salt; run the same version");
    sl_join_link_secret(&w->config.key, p->epoch, p->salt.data, w->link_secret);
    uint32_t k = w->config.decode ? w->plan.n_stages : w->config.stage;
    struct sl_share config = sl_plan_share(&w->plan, k, w->config.n_threads);
    if (p->stage != k || p->layer_begin != config.begin || p->layer_end != config.end ||
        p->kv_pages != w->plan.n_pages)
        return sl_fail(
            err, SL_E_PROTOCOL,
            "the coordinator's plan (layers [%u, %u)) is not what this version computes ([%u, %u)); run the same version",
            p->layer_begin, p->layer_end, config.begin, config.end);
    sl_log_info("loading layers [%u, %u) of %u", config.begin, config.end, w->plan.n_layers);
    sl_tune_for(w->pack, config.profile);
    SL_TRY(sl_stage_create(&w->stage, w->pack, &config, &w->config.load, err));
    sl_log_info("loaded %.1f MiB of weights; %u threads, %s kernels, profile %s",
                (double)sl_stage_weight_bytes(w->stage) / 1048576.0, w->config.n_threads,
                sl_stage_isa(w->stage), sl_profile_name(w->plan.profile));
    SL_TRY(sl_role_create(&w->role, w->stage, &w->plan, k, &w->state, err));
    SL_TRY(sl_stage_watch(w->stage, &(struct sl_scrub_config){on_spoiled, w}, err));
    atomic_store(&w->has_plan, true);
    return SL_OK;
}

static sl_status open_link(struct worker *w, const Sluice__V1__Link *l, bool connects, struct sl_err *err)
{
    struct sl_link_config config = {
        .id = l->id, .epoch = w->plan.epoch, .n_slots = l->n_slots, .slot_bytes = l->slot_bytes};
    struct sl_io_address peer;
    if (!sl_io_address_set(&peer, l->data.data, l->data.len))
        return sl_fail(err, SL_E_PROTOCOL,
                       "the coordinator's plan has a malformed link; run the same version");
    sl_link_key(w->link_secret, l->id, config.key);
    sl_status status = connects ? sl_io_connect(w->io, &config, &peer) : sl_io_accept(w->io, &config, &peer);
    if (status != SL_OK)
        return sl_fail(err, status, "cannot set up the link with %s (%s)", l->peer, sl_status_name(status));
    w->n_links++;
    return SL_OK;
}

static void report_ready(void *user)
{
    struct worker *w = user;
    Sluice__V1__ReadyRequest request = SLUICE__V1__READY_REQUEST__INIT;
    uint8_t packed[128], proof[SL_JOIN_PROOF], *reply = NULL;
    size_t reply_bytes = 0;
    struct sl_err err;
    request.role = role_of(w);
    request.stage = w->config.stage;
    request.epoch = w->plan.epoch;
    request.proof = prove(w, "ready", proof);
    size_t n = sluice__v1__ready_request__pack(&request, packed);
    for (int tries = 0; tries < 5; tries++) { /* without it the pipeline is never ready */
        if (sl_rpc_unary(w->channel, "/sluice.v1.Control/Ready", packed, n, 2000, &reply, &reply_bytes,
                         &err) == SL_OK)
            break;
        sl_log_warn("could not report to the coordinator: %s", err.text);
        usleep(200000);
    }
    free(reply);
    sl_log_info("ready");
}

/* ---- ops ---- */

static void ops_state(void *context, struct sl_admin_state *state)
{
    struct worker *w = context;
    enum sl_life life = atomic_load(&w->state.life);
    state->started = life != SL_LIFE_FORMING;
    state->ready = life == SL_LIFE_READY || life == SL_LIFE_DRAINING; /* draining, it still works */
    if (atomic_load(&w->has_plan) && sl_stage_spoiled(w->stage)) {
        state->ready = false;
        state->reason = "the weights of this node are not what was loaded";
        return;
    }
    state->reason = state->ready              ? NULL
                    : life == SL_LIFE_FORMING ? "not every link of this node is up"
                                              : "this node is stopping";
    state->profile = atomic_load(&w->has_plan) ? sl_profile_name(w->plan.profile) : NULL;
}

static void ops_metrics(void *context, struct sl_text *t)
{
    struct worker *w = context;
    struct sl_role_meter *m = &w->state.meter;
    const struct {
        const char *name, *help;
        _Atomic uint64_t *value;
        double unit;
    } rows[] = {
        {"sluice_stage_chunks", "Chunks run.", &m->chunks, 1},
        {"sluice_stage_tokens", "Tokens run through the layers.", &m->tokens, 1},
        {"sluice_stage_busy_seconds", "Time in the layers and the head.", &m->busy_us, 1e-6},
        {"sluice_stage_queue_seconds", "Time that chunks waited here before they ran.", &m->waited_us, 1e-6},
        {"sluice_stage_records", "Records of the order log applied.", &m->records, 1},
        {"sluice_stage_decode_steps", "Decode steps.", &m->steps, 1},
        {"sluice_kv_frames", "KV frames pushed (stage) or taken (decode).", &m->kv_frames, 1},
        {"sluice_kv_bytes", "Bytes of them.", &m->kv_bytes, 1},
        {"sluice_checksum_failures", "Frames whose checksum did not match.", &m->checksum_failures, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        sl_text_add(t, "# TYPE %s counter\n# HELP %s %s\n%s_total{role=\"%s\"} %.9g\n", rows[i].name,
                    rows[i].name, rows[i].help, rows[i].name, w->name,
                    (double)atomic_load(rows[i].value) * rows[i].unit);
    sl_text_add(
        t,
        "# TYPE sluice_kv_pages gauge\n# HELP sluice_kv_pages KV pages in use and in all.\n"
        "sluice_kv_pages{role=\"%s\",state=\"used\"} %llu\nsluice_kv_pages{role=\"%s\",state=\"total\"} %llu\n",
        w->name, (unsigned long long)atomic_load(&m->pages_used), w->name,
        (unsigned long long)atomic_load(&m->pages_total));
    sl_role_meter_text(t, w->name, m);
}

/* ---- life ---- */

static sl_status load(struct worker *w, struct sl_err *err)
{
    sigset_t set;
    SL_TRY(
        sl_pack_open_any(&w->pack, w->config.model, err)); /* it may have to be made, and Ctrl-C ends that */
    sl_signals_of_end(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* before any thread: the signal thread alone takes them */
    struct sl_io_config io = {
        .transport = &sl_transport_ucx,
        .port = w->config.data_port,
        .thread_name = "io",
        .lost_ms = w->config.lost_after_s * 1000u,
        .limits = {.max_payload_bytes = 1ull << 30, .max_layers = SL_MAX_LAYERS, .max_tokens = 1ull << 32}};
    snprintf(io.address, sizeof io.address, "%s", w->config.data_address);
    SL_TRY(sl_io_create(&w->io, &io, err));
    sl_log_info(
        "data port %s:%u (UCX; heard by the hosts of its neighbours while links form, by nobody when they are up; not "
        "encrypted: keep it on a private network)",
        sl_io_host(w->io), sl_io_port(w->io));
    if (w->config.ops) {
        struct sl_admin_config ops = {w->config.ops, ops_state, ops_metrics, w};
        SL_TRY(sl_admin_start(&w->ops, &ops, err));
        sl_log_info("ops HTTP on %s", w->config.ops);
    }
    if (pthread_create(&w->signal_thread, NULL, signal_loop, w) != 0)
        return sl_fail(err, SL_E_NOMEM, "cannot start a thread");
    w->signals_started = true;
    return sl_rpc_channel_open(&w->channel, w->config.coordinator, err);
}

static sl_status become_ready(struct worker *w, struct sl_err *err)
{
    Sluice__V1__JoinEvent *event;
    SL_TRY(join(w, &event, err));
    sl_status status = SL_OK;
    if (event->event_case != SLUICE__V1__JOIN_EVENT__EVENT_PLAN)
        status = sl_fail(err, SL_E_UNAVAILABLE, "the coordinator is stopping; start this node again with it");
    else
        status = accept_plan(w, event->plan, err);
    for (size_t i = 0; status == SL_OK && i < event->plan->n_accept; i++)
        status = open_link(w, event->plan->accept[i], false, err);
    for (size_t i = 0; status == SL_OK && i < event->plan->n_connect; i++)
        status = open_link(w, event->plan->connect[i], true, err);
    sluice__v1__join_event__free_unpacked(event, NULL);
    SL_TRY(status);
    if (pthread_create(&w->leash_thread, NULL, leash_loop, w) != 0)
        return sl_fail(err, SL_E_NOMEM, "cannot start a thread");
    w->leash_started = true;
    if (pthread_create(&w->report_thread, NULL, report_loop, w) != 0)
        return sl_fail(err, SL_E_NOMEM, "cannot start a thread");
    w->reports_started = true;
    return SL_OK;
}

static void clean_up(struct worker *w)
{
    atomic_store(&w->over, true);
    if (w->leash)
        sl_rpc_stream_cancel(w->leash);
    if (w->leash_started)
        pthread_join(w->leash_thread, NULL);
    if (w->reports_started) {
        on_silence(w, false, 0); /* wakes it */
        pthread_join(w->report_thread, NULL);
    }
    if (w->signals_started) {
        pthread_kill(w->signal_thread, SIGTERM);
        pthread_join(w->signal_thread, NULL);
    }
    sl_admin_stop(w->ops);
    if (w->leash)
        sl_rpc_stream_close(w->leash);
    if (w->channel)
        sl_rpc_channel_close(w->channel);
    if (w->stage)
        sl_stage_unwatch(w->stage);
    if (w->io)
        sl_io_destroy(w->io);
    sl_role_destroy(w->role);
    sl_stage_destroy(w->stage);
    sl_pack_close(w->pack);
}

sl_status sl_worker_run(const struct sl_worker_config *config, struct sl_err *err)
{
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return sl_fail(err, SL_E_NOMEM, "out of memory");
    w->config = *config;
    w->config.n_threads = sl_cpu_threads(config->n_threads, 1);
    snprintf(w->name, sizeof w->name, config->decode ? "decode" : "stage %u", config->stage);
    w->profiles = sl_ops_profiles() & sl_profile_allowed(config->numerics);
    sl_log_set_role(w->name);
    w->state.on_ready = report_ready;
    w->state.on_silence = on_silence;
    pthread_mutex_init(&w->lock, NULL);
    sl_clock_cond_init(&w->seen);
    w->state.user = w;
    sl_rpc_init();
    sl_status status = load(w, err);
    if (status == SL_OK)
        status = become_ready(w, err);
    if (status == SL_OK)
        status = sl_role_run(w->role, w->io, w->n_links, err);
    /* a neighbour may be told to stop, and close its links, a moment before we are */
    if (status == SL_E_PEER_LOST && w->leash_started)
        for (int i = 0; i < 50 && atomic_load(&w->state.life) != SL_LIFE_STOPPED; i++)
            usleep(20000);
    if (status != SL_E_DATA &&
        atomic_load(&w->state.life) == SL_LIFE_STOPPED) /* its weights' fault stays one */
        status = SL_OK;
    else if (status == SL_OK && w->leash_started)
        status = sl_fail(err, SL_E_PEER_LOST, "the coordinator went away; start this node again with it");
    clean_up(w);
    sl_rpc_fini();
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->seen);
    free(w);
    return status;
}
