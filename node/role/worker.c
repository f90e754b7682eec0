/* The worker process of worker.h. Threads: main (the role's loop), the I/O thread of sl_io, those of its membership (member.h), the
 * signal thread, the team. */
#include "node/role/worker.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/metric.h"
#include "base/notify.h"
#include "base/rows_device.h"
#include "base/signals.h"
#include "kernels/device.h"
#include "model/pack/pack_cache.h"
#include "node/coordinator/links.h"
#include "node/coordinator/members.h"
#include "node/edge/admin_http.h"
#include "node/role/member.h"
#include "node/role/role.h"
#include "pipeline/stage/calibrate.h"
#include "pipeline/stage/device_kind.h"
#include "sluice.pb-c.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct worker {
    struct sl_worker_config config;
    char name[24];
    struct sl_pack *pack;
    struct sl_stage *stage;
    struct sl_io *io;
    uint32_t ways;              /* for rows, that this stage offers: a bit each of enum sl_rows_way */
    struct sl_rows_device rows; /* for the io, filled before any link is opened that has such */
    struct sl_plan plan;
    uint32_t profiles; /* numerics that we offer */
    enum sl_device_kind device;
    _Atomic bool has_plan;
    uint32_t n_links;
    struct sl_member *member;
    uint8_t link_secret[32]; /* of the plan's links */
    uint32_t k;              /* which stage; else the decode worker, or the part of one, that is node 1 + k */
    struct sl_admin *ops;
    struct sl_role *role;
    struct sl_role_state state;
    _Atomic bool over; /* the signal thread may go */
    pthread_t signal_thread;
    bool is_member, signals_started, has_cost;
    struct sl_cost cost; /* of this stage's chunks */
    pthread_mutex_t lock;
    char lost[320]; /* why the coordinator is; with the lock */
};

/* STOP: the coordinator says so, a clean end. LOSE: it is gone. */
static void end_role(struct worker *w, enum sl_life_event event)
{
    sl_role_step_life(&w->state, event);
    if (w->io)
        sl_io_nudge(w->io);
}

/* First signal: the pipeline (or this decode worker alone) drains through the coordinator, which tells us when to stop. Second: out
 * at once. */
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
        sl_notify("STOPPING=1\nSTATUS=draining");
        sl_log_info(w->config.decode && !w->config.whole
                        ? "draining: what is decoded here goes on for a while, new requests go to others"
                        : "draining: the coordinator lets running requests finish");
        sl_member_say_leaving(w->member);
    }
}

/* ---- membership ---- */

static void on_stop(void *user, const char *reason)
{
    struct worker *w = user;
    sl_log_info("stopping: %s", reason);
    sl_notify("STOPPING=1\nSTATUS=stopping: %s", reason);
    end_role(w, SL_LIFE_STOP);
}

/* On the leash's thread, perhaps before there is a role. */
static void on_decoder(void *user, const Sluice__V1__Decoder *d)
{
    struct worker *w = user;
    struct sl_role_decoder decoder = {.decoder = d->place, .part = d->part, .life = d->life, .gone = d->gone};
    memcpy(decoder.secret, w->link_secret, sizeof decoder.secret);
    bool known = d->gone || sl_io_address_set(&decoder.at, d->data.data, d->data.len);
    if (known && sl_role_tell_decoder(&w->state, &decoder) == SL_OK)
        sl_io_nudge(w->io);
    else
        sl_log_error("decode worker %u can't be reached: %s; it gets no pages from here", d->place,
                     known ? "out of memory" : "its address is malformed");
}

static void on_cancelled(void *user, const Sluice__V1__Cancelled *c)
{
    struct worker *w = user;
    if (!atomic_load(&w->has_plan))
        return; /* there is no role yet */
    sl_role_foretell(w->role, (struct sl_foretold_cancel){c->seq, c->record});
    sl_io_nudge(w->io);
}

static void on_coordinator_lost(void *user, const char *sentence)
{
    struct worker *w = user;
    if (sl_role_goes_on(&w->state))
        sl_log_error("the coordinator is gone (%s); this node stops", sentence);
    pthread_mutex_lock(&w->lock);
    snprintf(w->lost, sizeof w->lost, "%s", sentence);
    pthread_mutex_unlock(&w->lock);
    end_role(w, SL_LIFE_LOSE);
}

static void on_ready(void *user)
{
    struct worker *w = user;
    sl_member_say_ready(w->member, w->has_cost ? &w->cost : NULL);
    sl_notify("READY=1\nSTATUS=%s of a pipeline of %u stages", w->name, w->plan.n_stages);
}

static void on_silence(void *user, bool silent, uint32_t peer)
{
    struct worker *w = user;
    char name[24];
    sl_member_say_silent(w->member, silent, sl_plan_node_name(&w->plan, peer, name));
}

/* Whose memory this node's rows lie in; "": the host's. */
static const char *driver_of(enum sl_device_kind device)
{
    return device == SL_DEVICE_CUDA ? "cuda" : device == SL_DEVICE_TWIN ? "twin" : "";
}

/* This node in bytes. Returns how many; 0: room is too small. */
static size_t pack_node(void *user, const uint8_t id[SL_JOIN_NONCE], uint64_t epoch, uint8_t *packed,
                        size_t room)
{
    struct worker *w = user;
    uint8_t member[SL_JOIN_NONCE];
    Sluice__V1__Node j = SLUICE__V1__NODE__INIT;
    static char version[] = SLUICE_VERSION, roles[2][8] = {"stage", "decode"};
    char ways[SL_ROWS_WAYS][8], *offered_ways[SL_ROWS_WAYS], driver[8];
    char profiles[SL_PROFILES][16], *offered[SL_PROFILES];
    char host[64] = "", address[SL_IO_HOST_BYTES], digest[72];
    struct sl_io_address at = *sl_io_address(w->io);
    gethostname(host, sizeof host - 1);
    snprintf(address, sizeof address, "%s", sl_io_host(w->io));
    snprintf(digest, sizeof digest, "%s", sl_pack_digest(w->pack));
    memcpy(member, id, sizeof member);
    j.member = (ProtobufCBinaryData){sizeof member, member};
    j.epoch = epoch;
    j.role = roles[w->config.decode];
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
    for (unsigned i = 0; i < SL_ROWS_WAYS; i++) {
        if (!(w->ways & 1u << i))
            continue;
        snprintf(ways[i], sizeof ways[i], "%s", sl_rows_name((enum sl_rows_way)i));
        offered_ways[j.n_rows++] = ways[i];
    }
    j.rows = offered_ways;
    snprintf(driver, sizeof driver, "%s", driver_of(w->device));
    j.driver = driver;
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

/* On the scrubber's thread. The role has the last word; here it is woken. */
static void on_spoiled(void *user, const struct sl_spoiled *spoiled)
{
    struct worker *w = user;
    sl_log_error("%s; what was computed with it can't be trusted, so this node stops", spoiled->sentence);
    sl_io_nudge(w->io);
}

/* How the stages are cut, of a plan that says it. */
static sl_status cut_of(const uint32_t **layers, const Sluice__V1__Plan *p, struct sl_err *err)
{
    *layers = p->n_layers ? p->layers : NULL;
    return p->n_layers == 0 || p->n_layers == p->n_stages
               ? SL_OK
               : sl_fail(err, SL_E_PROTOCOL,
                         "the coordinator's plan has %u stages and the layers of %zu; run the same version",
                         p->n_stages, p->n_layers);
}

/* How rows get from stage to stage: what the plan says of links that have them. */
static sl_status way_of(const struct worker *w, const Sluice__V1__Plan *p, enum sl_rows_way *way,
                        struct sl_err *err)
{
    *way = SL_ROWS_STAGED;
    for (size_t i = 0; i < p->n_accept + p->n_connect; i++) {
        const Sluice__V1__Link *l = i < p->n_accept ? p->accept[i] : p->connect[i - p->n_accept];
        if (!l->rows[0])
            continue;
        if (!sl_rows_by_name(l->rows, way))
            return sl_fail(
                err, SL_E_PROTOCOL,
                "the coordinator's plan has rows travel as '%.20s', which is unknown here; run the same version",
                l->rows);
        if (!(w->ways & 1u << *way))
            return sl_fail(
                err, SL_E_PROTOCOL,
                "the plan has rows between this stage and %s travel as %s, which it did not offer; run "
                "the same version",
                l->peer, l->rows);
    }
    return SL_OK;
}

/* The stage with its weights, and the role on it. */
static sl_status load_share(struct worker *w, const struct sl_share *share, struct sl_err *err)
{
    sl_log_info("loading layers [%u, %u) of %u", share->begin, share->end, w->plan.n_layers);
    sl_tune_for(w->pack, share->profile);
    SL_TRY(sl_stage_create(&w->stage, w->pack, share, &w->config.load, err));
    sl_log_info("loaded %.1f MiB of weights; %u threads, %s kernels, profile %s",
                (double)sl_stage_weight_bytes(w->stage) / 1048576.0, w->config.n_threads,
                sl_stage_isa(w->stage), sl_profile_name(w->plan.profile));
    if (!w->config.decode && w->plan.n_stages > 1)
        sl_log_info("rows to and from the stages beside this one: %s", sl_rows_name(w->plan.rows));
    if (sl_stage_links(w->stage))
        w->rows = *sl_stage_links(w->stage);
    w->has_cost = !w->config.decode && sl_stage_cost(&w->cost, w->stage, w->pack);
    struct sl_device_identity gpu;
    sl_stage_identify(w->stage, &gpu);
    if (gpu.name[0])
        sl_log_info("the device is %s, %s, at %s", gpu.name, gpu.uuid, gpu.bus);
    SL_TRY(sl_role_create(&w->role, w->stage, &w->plan, w->k, &w->state, err));
    SL_TRY(sl_stage_watch(w->stage, &(struct sl_scrub_config){on_spoiled, w}, err));
    atomic_store(&w->has_plan, true);
    return SL_OK;
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
                                      .max_decoders =
                                          p->max_decoders, /* a stage is told who is there as they come */
                                      .n_parts = p->n_parts,
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
    if (!sl_link_auth_by_name(p->link_auth, &options.link_auth))
        return sl_fail(
            err, SL_E_PROTOCOL,
            "the coordinator's plan has links with the proof '%.20s', which is unknown here; run the same version",
            p->link_auth);
    SL_TRY(cut_of(&options.layers, p, err));
    SL_TRY(way_of(w, p, &options.rows, err));
    SL_TRY(sl_plan_for_shape(&w->plan, sl_pack_shape(w->pack), &options, err));
    uint32_t k = w->k = w->config.decode ? p->stage : w->config.stage,
             decoder = sl_plan_decoder_of(&w->plan, 1 + k);
    if (w->config.decode && (k >= sl_plan_n_members(&w->plan) || decoder >= w->plan.max_decoders ||
                             p->decoder_life >= SL_DECODER_LIVES))
        return sl_fail(err, SL_E_PROTOCOL,
                       "the coordinator's plan has no place for a decode worker; run the same version");
    if (w->config.decode) {
        w->plan.decoder_life[decoder] = p->decoder_life;
        sl_plan_node_name(&w->plan, 1 + k, w->name);
        sl_log_set_role(w->name);
    }
    struct sl_share config = sl_plan_share(&w->plan, k, w->config.n_threads);
    if (p->stage != k || p->layer_begin != config.begin || p->layer_end != config.end ||
        p->kv_pages != w->plan.n_pages)
        return sl_fail(
            err, SL_E_PROTOCOL,
            "the coordinator's plan (layers [%u, %u)) is not what this version computes ([%u, %u)); run the same version",
            p->layer_begin, p->layer_end, config.begin, config.end);
    config.device = w->device;
    config.which = w->config.device;
    return load_share(w, &config, err);
}

static sl_status open_link(struct worker *w, const Sluice__V1__Link *l, bool connects, struct sl_err *err)
{
    struct sl_link_config config = {.id = l->id,
                                    .epoch = w->plan.epoch,
                                    .auth = w->plan.link_auth,
                                    .n_slots = l->n_slots,
                                    .slot_bytes = l->slot_bytes,
                                    .rows_beside = l->rows[0] && sl_rows_go_beside(w->plan.rows)};
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

/* What computes: with its driver's names, so that it can be found among others' metrics and in the kernel's log. */
static void device_metric(const struct worker *w, struct sl_text *t)
{
    struct sl_device_identity gpu;
    const char *kind = sl_stage_identify(w->stage, &gpu);
    sl_metric_head(t, "info", "sluice_stage_device", "What runs the chunks; of a GPU, which one.");
    sl_text_add(
        t,
        "sluice_stage_device_info{role=\"%s\",device=\"%s\",kernels=\"%s\",gpu=\"%s\",uuid=\"%s\",bus=\"%s\"} 1\n",
        w->name, kind, sl_stage_isa(w->stage), gpu.name, gpu.uuid, gpu.bus);
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
        {"sluice_stage_chunks_given_up", "Chunks not run, since all that they run was cancelled.",
         &m->given_up, 1},
        {"sluice_stage_cancels_foretold", "Cancels that were told here before their records came.",
         &m->foretold, 1},
        {"sluice_stage_tokens", "Tokens run through the layers.", &m->tokens, 1},
        {"sluice_stage_busy_seconds", "Time in the layers and the head.", &m->busy_us, 1e-6},
        {"sluice_stage_queue_seconds", "Time that chunks waited here before they ran.", &m->waited_us, 1e-6},
        {"sluice_stage_records", "Records of the order log applied.", &m->records, 1},
        {"sluice_stage_decode_steps", "Decode steps.", &m->steps, 1},
        {"sluice_kv_frames", "KV frames pushed (stage) or taken (decode).", &m->kv_frames, 1},
        {"sluice_kv_bytes", "Bytes of KV frames pushed (stage) or taken (decode).", &m->kv_bytes, 1},
        {"sluice_checksum_failures", "Frames whose checksum did not match.", &m->checksum_failures, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        sl_metric_head(t, "counter", rows[i].name, rows[i].help);
        sl_text_add(t, "%s_total{role=\"%s\"} %.9g\n", rows[i].name, w->name,
                    (double)atomic_load(rows[i].value) * rows[i].unit);
    }
    sl_metric_head(t, "gauge", "sluice_kv_pages", "KV pages in use and in all.");
    sl_text_add(t,
                "sluice_kv_pages{role=\"%s\",state=\"used\"} %llu\n"
                "sluice_kv_pages{role=\"%s\",state=\"total\"} %llu\n",
                w->name, (unsigned long long)atomic_load(&m->pages_used), w->name,
                (unsigned long long)atomic_load(&m->pages_total));
    struct sl_io_stats io;
    sl_io_stats(w->io, &io);
    sl_metric_head(t, "counter", "sluice_peer_bytes", "Payload bytes moved over data links.");
    sl_text_add(t,
                "sluice_peer_bytes_total{role=\"%s\",dir=\"sent\"} %llu\n"
                "sluice_peer_bytes_total{role=\"%s\",dir=\"received\"} %llu\n",
                w->name, (unsigned long long)io.bytes_sent, w->name, (unsigned long long)io.bytes_received);
    if (atomic_load(&w->has_plan))
        device_metric(w, t);
    if (atomic_load(&w->has_plan) && w->plan.n_parts > 1 && w->k >= w->plan.n_stages &&
        w->k < w->plan.n_stages + w->plan.max_decoders)
        sl_role_meter_steps_text(t, w->name, m);
    sl_role_meter_text(t, w->name, m);
}

/* ---- life ---- */

static void on_memory(void *user, void *memory, size_t bytes, bool taken)
{
    const struct worker *w = user; /* there are no links before there is a stage */
    sl_stage_frames(w->stage, memory, bytes, taken);
}

static sl_status open_io_by(struct worker *w, const struct sl_transport_ops *transport, struct sl_err *err)
{
    bool on_gpu = driver_of(w->device)[0] != '\0';
    struct sl_io_config io = {
        .transport = transport,
        .rows_device = on_gpu ? &w->rows : NULL,
        .port = w->config.data_port,
        .thread_name = "io",
        .lost_ms = w->config.lost_after_s * 1000u,
        .on_memory = on_memory,
        .memory_user = w,
        .limits = {.max_payload_bytes = 1ull << 30, .max_layers = SL_MAX_LAYERS, .max_tokens = 1ull << 32}};
    snprintf(io.address, sizeof io.address, "%s", w->config.data_address);
    w->rows.twin = w->device == SL_DEVICE_TWIN;
    return sl_io_create(&w->io, &io, err);
}

/* With the ways for rows that this node can offer. */
static sl_status open_io(struct worker *w, struct sl_err *err)
{
    bool on_gpu = driver_of(w->device)[0] != '\0';
    bool shared = sl_device_is_shared(w->config.device); /* NCCL takes no two ranks on one GPU */
    if (w->config.rows == SL_ROWS_NCCL && shared)
        return sl_fail(err, SL_E_CONFIG,
                       "--rows nccl is for stages that have a GPU each, and this one shares %s; choose "
                       "--rows staged",
                       w->config.device);
    w->ways = w->config.rows_auto ? 1u << SL_ROWS_STAGED : 1u << w->config.rows;
    if (w->config.rows_auto && on_gpu && !shared && !w->config.decode) {
        if (open_io_by(w, &sl_transport_ucx_nccl, err) == SL_OK) {
            w->ways |= 1u << SL_ROWS_NCCL;
            return SL_OK;
        }
        sl_log_info("rows of this stage go by way of the host: %s", err->text);
    }
    return open_io_by(w,
                      w->config.rows == SL_ROWS_NCCL  ? &sl_transport_ucx_nccl
                      : w->config.rows == SL_ROWS_UCX ? &sl_transport_ucx_device
                                                      : &sl_transport_ucx,
                      err);
}

static sl_status load(struct worker *w, struct sl_err *err)
{
    sigset_t set;
    SL_TRY(
        sl_pack_open_any(&w->pack, w->config.model, err)); /* it may have to be made, and Ctrl-C ends that */
    sl_signals_of_end(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* before any thread: the signal thread alone takes them */
    SL_TRY(open_io(w, err));
    sl_log_info("data port %s:%u (UCX; heard by %s; not encrypted: keep it on a private network)",
                sl_io_host(w->io), sl_io_port(w->io),
                sl_io_is_shielded(w->io)
                    ? "the hosts of its neighbours while links form, by nobody when they are up"
                    : "whoever reaches it");
    SL_TRY(sl_device_look(w->device, err)); /* now, for nobody should wait for a node that can't be one */
    if (w->config.ops) {
        struct sl_admin_config ops = {
            .listen = w->config.ops, .state = ops_state, .metrics = ops_metrics, .context = w};
        SL_TRY(sl_admin_start(&w->ops, &ops, err));
        sl_log_info("ops HTTP on %s", w->config.ops);
    }
    if (pthread_create(&w->signal_thread, NULL, signal_loop, w) != 0)
        return sl_fail(err, SL_E_NOMEM, "cannot start a thread");
    w->signals_started = true;
    return SL_OK;
}

static sl_status follow_plan(struct worker *w, const Sluice__V1__Plan *plan, struct sl_err *err)
{
    if (plan->salt.len != SL_JOIN_NONCE)
        return sl_fail(err, SL_E_PROTOCOL, "the coordinator's plan has no salt; run the same version");
    sl_join_link_secret(&w->config.key, plan->epoch, plan->salt.data,
                        w->link_secret); /* before the leash's thread */
    SL_TRY(sl_member_begin(w->member, plan->epoch,
                           err)); /* while weights load the stream may break, or say stop */
    w->is_member = true;
    SL_TRY(accept_plan(w, plan, err));
    for (size_t i = 0; i < plan->n_accept; i++)
        SL_TRY(open_link(w, plan->accept[i], false, err));
    for (size_t i = 0; i < plan->n_connect; i++)
        SL_TRY(open_link(w, plan->connect[i], true, err));
    return SL_OK;
}

static sl_status become_ready(struct worker *w, struct sl_err *err)
{
    Sluice__V1__JoinEvent *event;
    SL_TRY(sl_member_join(w->member, &event, err));
    sl_status status;
    if (event->event_case != SLUICE__V1__JOIN_EVENT__EVENT_PLAN)
        status = sl_fail(err, SL_E_UNAVAILABLE, "the coordinator is stopping; start this node again with it");
    else
        status = follow_plan(w, event->plan, err);
    sluice__v1__join_event__free_unpacked(event, NULL);
    return status;
}

static void wake_loop(void *user)
{
    struct worker *w = user;
    sl_io_nudge(w->io);
}

static void clean_up(struct worker *w)
{
    sl_notify_unwatch();
    atomic_store(&w->over, true);
    if (w->signals_started) {
        pthread_kill(w->signal_thread, SIGTERM);
        pthread_join(w->signal_thread, NULL);
    }
    sl_admin_stop(w->ops);
    sl_member_destroy(w->member);
    if (w->stage)
        sl_stage_unwatch(w->stage);
    if (w->io)
        sl_io_destroy(w->io);
    sl_role_destroy(w->role);
    sl_stage_destroy(w->stage);
    sl_pack_close(w->pack);
}

static sl_status coordinator_lost(struct worker *w, struct sl_err *err)
{
    pthread_mutex_lock(&w->lock);
    sl_status status =
        sl_fail(err, SL_E_PEER_LOST, "the coordinator went away%s%.240s; start this node again with it",
                w->lost[0] ? ": " : "", w->lost);
    pthread_mutex_unlock(&w->lock);
    return status;
}

sl_status sl_worker_run(const struct sl_worker_config *config, struct sl_err *err)
{
    enum sl_device_kind device;
    SL_TRY(sl_device_kind_read(&device, config->device, err));
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return sl_fail(err, SL_E_NOMEM, "out of memory");
    w->config = *config;
    w->device = device;
    w->config.n_threads = sl_cpu_threads(config->n_threads, 1);
    snprintf(w->name, sizeof w->name, config->decode ? "decode" : "stage %u", config->stage);
    w->profiles = sl_device_profiles(w->device) & sl_profile_allowed(config->numerics);
    sl_log_set_role(w->name);
    w->state.on_ready = on_ready;
    w->state.on_silence = on_silence;
    w->state.user = w;
    pthread_mutex_init(&w->lock, NULL);
    struct sl_member_config member = {.name = w->name,
                                      .coordinator = config->coordinator,
                                      .key = config->key,
                                      .decode = config->decode,
                                      .whole = config->whole,
                                      .stage = config->stage,
                                      .join_timeout_s = config->join_timeout_s,
                                      .lost_after_ms = config->lost_after_s * 1000u,
                                      .pack_node = pack_node,
                                      .on_stop = on_stop,
                                      .on_decoder = on_decoder,
                                      .on_cancelled = on_cancelled,
                                      .on_lost = on_coordinator_lost,
                                      .user = w};
    sl_rpc_init();
    sl_status status = load(w, err);
    if (status == SL_OK)
        status = sl_member_create(&w->member, &member, err);
    if (status == SL_OK)
        status = become_ready(w, err);
    if (status == SL_OK) {
        sl_notify_watch(wake_loop, w);
        status = sl_role_run(w->role, w->io, w->n_links, err);
    }
    /* a neighbour may be told to stop, and close its links, a moment before we are */
    if (status == SL_E_PEER_LOST && w->is_member)
        for (int i = 0; i < 50 && atomic_load(&w->state.life) != SL_LIFE_STOPPED; i++)
            usleep(20000);
    if (status != SL_E_DATA &&
        atomic_load(&w->state.life) == SL_LIFE_STOPPED) /* its weights' fault stays one */
        status = SL_OK;
    else if (status == SL_OK && w->is_member)
        status = coordinator_lost(w, err);
    clean_up(w);
    sl_rpc_fini();
    pthread_mutex_destroy(&w->lock);
    free(w);
    return status;
}
