/* `sluice coordinator | stage | decode`: the roles one by one, for a cluster. */
#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/signals.h"
#include "model/pack/pack_cache.h"
#include "node/command/commands.h"
#include "node/command/serving_options.h"
#include "node/coordinator/members.h"
#include "node/edge/edge.h"
#include "node/edge/traces.h"
#include "node/local/cluster.h"
#include "node/role/role.h"
#include "node/role/worker.h"
#include "node/rpc/listen.h"
#include "pipeline/stage/device_wait.h"
#include "pipeline/stage/stage.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- workers ---- */

struct worker_values {
    const char *waits;
    const char *coordinator, *data_address, *ops, *numerics, *rows, *device, *join_key_file, *join_socket,
        *index;
    uint32_t stage, stages, threads, data_port, join_timeout, lost_after;
    bool insecure_network;
    struct sl_client_tls tls;
    struct sl_loading_values load;
};

#define WORKER_ROWS                                                                                          \
    SL_OPTION_TEXT("coordinator", SL_OPT_ADDRESS, worker_values, coordinator, "127.0.0.1:50051", NULL,       \
                   "The coordinator's gRPC port."),                                                          \
        SL_OPTION_DATA_ADDRESS(worker_values, data_address), SL_OPTION_DATA_PORT(worker_values, data_port),  \
        SL_OPTION_THREADS(worker_values, threads, "0"), SL_OPTION_DEVICE(worker_values, device),             \
        SL_OPTION_NUMERICS(worker_values, numerics, "auto"), SL_OPTION_OPS(worker_values, ops, NULL),        \
        SL_OPTION_JOIN_TIMEOUT(worker_values, join_timeout, "60"),                                           \
        SL_OPTION_JOIN_KEY_FILE(worker_values, join_key_file),                                               \
        SL_OPTION_JOIN_SOCKET(worker_values, join_socket), SL_CLIENT_TLS_ROWS(worker_values, tls),           \
        SL_OPTION_LOST_AFTER(worker_values, lost_after),                                                     \
        SL_OPTION_INSECURE_NETWORK(worker_values, insecure_network), SL_LOADING_ROWS(worker_values)

static const struct sl_option stage_options[] = {
    SL_OPTION_NUMBER("stage", worker_values, stage, "0", 0, SL_MAX_STAGES - 1, NULL,
                     "Which stage this is, from 0."),
    SL_OPTION_TEXT(
        "waits", SL_OPT_STRING, worker_values, waits, NULL, "COST",
        "For measuring: chunks are not computed but waited for, c,gamma,b,a,w,e,p as `sluice calibrate` prints "
        "them; what is answered is no text."),
    SL_OPTION_ROWS(worker_values, rows),
    WORKER_ROWS,
    {0},
};
static const struct sl_option decode_options[] = {WORKER_ROWS, {0}};
static const struct sl_option worker_options[] = {
    SL_OPTION_TEXT(
        "index", SL_OPT_STRING, worker_values, index, "hostname", "hostname|N",
        "Which of the group this is, from 0: those below --stages are its stages, those after them decode "
        "workers. hostname: the number behind the last dash of this machine's name, as a StatefulSet gives it."),
    SL_OPTION_STAGES(worker_values, stages, "2"),
    SL_OPTION_ROWS(worker_values, rows),
    WORKER_ROWS,
    {0},
};

/* A data address has no port: "127.0.0.1", "::1", "[::1]", a name. */
static bool data_is_local(const char *host)
{
    char address[SL_HOST_BYTES + 8];
    bool bare = strchr(host, ':') && host[0] != '[';
    snprintf(address, sizeof address, "%s%s%s:1", bare ? "[" : "", host, bare ? "]" : "");
    return sl_listen_is_local(address);
}

static int run_role(const struct worker_values *v, const char *model, bool decode, bool whole)
{
    struct sl_worker_config config = {.model = model,
                                      .coordinator = v->coordinator,
                                      .data_address = v->data_address,
                                      .data_port = (uint16_t)v->data_port,
                                      .ops = v->ops,
                                      .decode = decode,
                                      .whole = whole,
                                      .stage = v->stage,
                                      .n_threads = v->threads,
                                      .device = v->device,
                                      .join_timeout_s = v->join_timeout,
                                      .lost_after_s = v->lost_after,
                                      .load = sl_loading_of(&v->load, SL_PROGRESS_LOG),
                                      .numerics = v->numerics};
    if (!decode)
        config.rows_auto = !sl_rows_by_name(v->rows, &config.rows);
    struct sl_err err;
    char socket[SL_HOST_BYTES];
    if (v->join_socket) {
        snprintf(socket, sizeof socket, "unix-abstract:%s", v->join_socket);
        config.coordinator = socket;
    }
    signal(SIGPIPE, SIG_IGN);
    sl_no_cores();
    sl_log_init(decode ? "decode" : "stage", SL_LOG_INFO);
    if (sl_join_key_load(&config.key, v->join_key_file, &err) == SL_OK &&
        sl_client_tls_use(&v->tls, &err) == SL_OK &&
        sl_check_open(&config.key, v->tls.files.cert != NULL, v->insecure_network,
                      data_is_local(v->data_address), "data-address", v->data_address, &err) == SL_OK &&
        sl_worker_run(&config, &err) == SL_OK)
        return 0;
    return sl_command_failed(decode ? "decode" : "stage", &err);
}

/* --waits: seven numbers that make a cost. */
static sl_status wait_instead(const char *text, struct sl_err *err)
{
    double numbers[SL_COST_NUMBERS];
    struct sl_cost cost;
    const char *at = text;
    char *end = NULL;
    size_t n = 0;
    for (; n < SL_COST_NUMBERS; n++) {
        numbers[n] = strtod(at, &end);
        if (end == at || *end != (n + 1 < SL_COST_NUMBERS ? ',' : '\0'))
            break;
        at = end + 1;
    }
    if (n < SL_COST_NUMBERS || !sl_cost_take(&cost, numbers, SL_COST_NUMBERS))
        return sl_fail(
            err, SL_E_USAGE,
            "--waits %.120s is not c,gamma,b,a,w,e,p: six times in microseconds, none negative, and a share "
            "of experts from 0 to 1",
            text);
    sl_stage_waits(&cost);
    return SL_OK;
}

static int run_stage(const void *values, const char *const *args, uint32_t n_args)
{
    const struct worker_values *v = values;
    struct sl_err err;
    (void)n_args;
    if (v->waits && wait_instead(v->waits, &err) != SL_OK)
        return sl_command_failed("stage", &err);
    return run_role(values, args[0], false, false);
}
static int run_decode(const void *values, const char *const *args, uint32_t n_args)
{
    (void)n_args;
    return run_role(values, args[0], true, false);
}

/* The number that text ends in, behind the last dash if from_name. False: there is none. */
static bool read_index(const char *text, bool from_name, uint32_t *index)
{
    const char *dash = strrchr(text, '-');
    const char *digits = !from_name ? text : dash ? dash + 1 : "";
    size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > 6 || digits[n])
        return false;
    *index = (uint32_t)strtoul(digits, NULL, 10);
    return true;
}

static sl_status find_index(const struct worker_values *v, uint32_t *index, struct sl_err *err)
{
    char host[256] = "";
    if (strcmp(v->index, "hostname") != 0)
        return read_index(v->index, false, index)
                   ? SL_OK
                   : sl_fail(err, SL_E_USAGE, "--index is \"%.60s\"; it takes a number or hostname",
                             v->index);
    gethostname(host, sizeof host - 1);
    return read_index(host, true, index)
               ? SL_OK
               : sl_fail(err, SL_E_USAGE,
                         "this machine's name, %.60s, does not end in a dash and a number; give --index",
                         host);
}

static int run_worker(const void *values, const char *const *args, uint32_t n_args)
{
    struct worker_values v = *(const struct worker_values *)values;
    struct sl_err err;
    (void)n_args;
    if (find_index(&v, &v.stage, &err) != SL_OK)
        return sl_command_failed("worker", &err);
    bool decode = v.stage >= v.stages;
    if (decode) /* the coordinator gives it a place */
        v.stage = 0;
    return run_role(&v, args[0], decode, true);
}

const struct sl_command sl_command_stage = {
    "stage",
    "PATH",
    "one stage of a pipeline: a layer range with all its experts",
    "Joins the coordinator, which says which layers it holds, maps those layers' files of the pack PATH and runs chunks "
    "until the coordinator tells it to stop. SIGTERM drains the whole pipeline.",
    stage_options,
    sizeof(struct worker_values),
    1,
    1,
    run_stage};
const struct sl_command sl_command_decode = {
    "decode",
    "PATH",
    "a decode worker: adopts prefilled sequences and generates",
    "Joins the coordinator, takes the KV pages which the stages push to it while they prefill (those of a prompt that it does not keep already), and decodes continuously batched. "
    "May join at any time, and leave: SIGTERM lets what it decodes go on for as long as the coordinator's --drain-timeout, what is left "
    "then is prefilled again for another, and the pipeline goes on. So it does when this process dies. Without any decode worker "
    "requests wait for one for as long as --lost-after.",
    decode_options,
    sizeof(struct worker_values),
    1,
    1,
    run_decode};

const struct sl_command sl_command_worker = {
    "worker",
    "PATH",
    "stage or decode worker, by its index in a group",
    "What `stage` and `decode` are, for who starts a group of like processes (a LeaderWorkerSet, a StatefulSet): the index says which "
    "it is. The group ends as one: SIGTERM drains the whole pipeline, to a decode worker, too.",
    worker_options,
    sizeof(struct worker_values),
    1,
    1,
    run_worker};

/* ---- coordinator ---- */

struct coordinator_values {
    struct sl_serving_options serving;
    const char *data_address, *join_key_file, *join_socket;
    uint32_t data_port, join_timeout, drain_delay;
    bool insecure_network;
};

static const struct sl_option coordinator_options[] = {
    SL_SERVING_ROWS(coordinator_values),
    SL_OPTION_DATA_ADDRESS(coordinator_values, data_address),
    SL_OPTION_DATA_PORT(coordinator_values, data_port),
    SL_OPTION_JOIN_TIMEOUT(coordinator_values, join_timeout, "600"),
    SL_OPTION_NUMBER(
        "drain-delay", coordinator_values, drain_delay, "0", 0, 3600, "s",
        "How long after SIGTERM requests are still taken, while health and /readyz say no already: so long as gateways need to notice. "
        "--drain-timeout begins behind it."),
    SL_OPTION_JOIN_KEY_FILE(coordinator_values, join_key_file),
    SL_OPTION_JOIN_SOCKET(coordinator_values, join_socket),
    SL_OPTION_INSECURE_NETWORK(coordinator_values, insecure_network),
    {0},
};

struct node { /* everything of a coordinator process, in the order it is made */
    const struct coordinator_values *values;
    struct sl_tenant_weights weights;
    uint32_t layers[SL_MAX_STAGES];
    const uint32_t *cut; /* those, or NULL: equal */
    struct sl_serving_tls tls;
    struct sl_pack *pack;
    struct sl_plan plan;
    struct sl_join_key key;
    struct sl_io *io;
    struct sl_members *members;
    struct sl_traces *traces;
    struct sl_coordinator *coordinator;
    struct sl_edge *edge;
    _Atomic bool leave; /* a member was told to stop: all do */
    bool told;          /* to stop, by a signal that insists when it comes again */
};

static void on_lost(void *user, const char *sentence)
{
    (void)user, (void)sentence;
    kill(getpid(), SIGUSR1); /* main looks at the coordinator's life */
}

static void on_all_up(void *user)
{
    (void)user;
    kill(getpid(), SIGUSR1);
}

/* Why it is lost, as an error; SL_OK while it is not. */
static sl_status lost(struct node *n, struct sl_err *err)
{
    char sentence[320];
    if (sl_coordinator_life(n->coordinator) != SL_LIFE_LOST)
        return SL_OK;
    sl_status status = sl_coordinator_lost_sentence(n->coordinator, sentence, sizeof sentence);
    return sl_fail(err, status, "%s", sentence);
}

static void on_member_ready(void *user)
{
    (void)user;
    kill(getpid(), SIGUSR1); /* main looks again who is missing */
}

static void on_silence(void *user)
{
    (void)user;
    kill(getpid(), SIGUSR1); /* main alone says whether we serve */
}

static void on_leave(void *user, const char *who)
{
    struct node *n = user;
    sl_log_info("%s was told to stop: draining the pipeline", who);
    atomic_store(&n->leave, true);
    kill(getpid(), SIGUSR1);
}

static void on_decoder_gone(void *user, uint32_t decoder, uint32_t life, const char *sentence)
{
    struct node *n = user;
    sl_members_decoder_gone(n->members, decoder, life, sentence);
}

static void on_cancelled(void *user, uint64_t seq, uint64_t number)
{
    struct node *n = user;
    sl_members_foretell(n->members, seq, number);
}

static struct sl_plan_options plan_options(const struct node *n)
{
    const struct sl_serving_options *v = &n->values->serving;
    return (struct sl_plan_options){.n_stages = v->stages,
                                    .layers = n->cut,
                                    .n_decoders = v->decoders,
                                    .max_decoders = sl_serving_max_decoders(v),
                                    .n_parts = v->decode_stages,
                                    .chunk_tokens = v->chunk,
                                    .max_prefill = v->max_prefill,
                                    .max_running = v->max_running,
                                    .context_tokens = v->context,
                                    .kv_tokens = v->kv_tokens};
}

static sl_status make_plan(struct node *n, struct sl_err *err)
{
    struct sl_plan_options options = plan_options(n);
    options.kv_dtype = sl_pack_kv_dtype(n->pack, n->values->serving.kv);
    sl_link_auth_by_name(n->values->serving.link_auth, &options.link_auth); /* one of the option's choices */
    /* at random: no node of another life of this pipeline, and no stranger, knows it */
    if (sl_random_bytes(&options.epoch, sizeof options.epoch) != SL_OK)
        return sl_fail(err, SL_E_INTERNAL, "no random bytes for the epoch");
    options.epoch |= 1; /* 0 is none */
    return sl_plan_for_shape(&n->plan, sl_pack_shape(n->pack), &options, err);
}

static sl_status make_members(struct node *n, struct sl_err *err)
{
    const struct coordinator_values *v = n->values;
    struct sl_io_config io = {
        .transport = &sl_transport_ucx,
        .port = (uint16_t)v->data_port,
        .thread_name = "io",
        .lost_ms = v->serving.lost_after * 1000u,
        .limits = {.max_payload_bytes = 1ull << 30, .max_layers = SL_MAX_LAYERS, .max_tokens = 1ull << 32}};
    snprintf(io.address, sizeof io.address, "%s", v->data_address);
    SL_TRY(sl_io_create(&n->io, &io, err));
    struct sl_members_config config = {.plan = &n->plan,
                                       .profiles = sl_profile_allowed(v->serving.numerics),
                                       .model_digest = sl_pack_digest(n->pack),
                                       .data = sl_io_address(n->io),
                                       .lost_after_ms = v->serving.lost_after * 1000u,
                                       .on_member_ready = on_member_ready,
                                       .on_leave = on_leave,
                                       .user = n};
    config.key = n->key;
    return sl_members_create(&n->members, &config, err);
}

static sl_status make_coordinator(struct node *n, struct sl_err *err)
{
    struct sl_tokenizer *tokenizer;
    struct sl_plan_link links[SL_MAX_LINKS];
    uint32_t own = 0;
    for (uint32_t i = 0, all = sl_plan_links(&n->plan, links); i < all; i++)
        own += (links[i].from == 0 || links[i].to == 0) &&
               (links[i].decoder == SL_NO_DECODER || links[i].decoder < n->plan.n_decoders);
    SL_TRY(sl_pack_tokenizer(n->pack, &tokenizer, err));
    struct sl_coordinator_config config = {.plan = &n->plan,
                                           .shape = sl_pack_shape(n->pack),
                                           .tokenizer = tokenizer,
                                           .model_path = sl_pack_path(n->pack),
                                           .model_name = n->values->serving.name ? n->values->serving.name
                                                                                 : sl_pack_name(n->pack),
                                           .read_file = sl_pack_read,
                                           .pack = n->pack,
                                           .io = n->io,
                                           .n_links = own,
                                           .max_waiting = n->values->serving.max_waiting,
                                           .prefix_cache = strcmp(n->values->serving.prefix_cache, "on") == 0,
                                           .schedule = sl_schedule_of(&n->values->serving),
                                           .chunk_us = n->values->serving.chunk_ms * UINT64_C(1000),
                                           .slo_us = n->values->serving.slo * UINT64_C(1000),
                                           .n_weights = n->weights.n,
                                           .weights = n->weights.list,
                                           .on_lost = on_lost,
                                           .on_ready = on_all_up,
                                           .on_silence = on_silence,
                                           .alone_ms = n->values->serving.lost_after * 1000u,
                                           .leave_ms = n->values->serving.drain_timeout * 1000u,
                                           .on_decoder_gone = on_decoder_gone,
                                           .on_cancelled = on_cancelled,
                                           .user = n};
    sl_status status = sl_coordinator_create(&n->coordinator, &config, err);
    if (status != SL_OK)
        sl_tokenizer_destroy(tokenizer);
    return status;
}

static void wake_loop(void *user)
{
    sl_io_nudge(user);
}

static sl_status start(struct node *n, const char *model, const sigset_t *set, struct sl_err *err)
{
    const struct sl_serving_options *v = &n->values->serving;
    const struct coordinator_values *c = n->values;
    SL_TRY(sl_tenant_weights_read(&n->weights, v->tenant_weight, "--tenant-weight", err));
    SL_TRY(sl_layers_read(&n->cut, n->layers, v->layers, v->stages, err));
    SL_TRY(sl_join_key_load(&n->key, c->join_key_file, err));
    SL_TRY(sl_serving_tls_read(&n->tls, &v->tls, err));
    bool certified = n->tls.config.ca != NULL;
    SL_TRY(sl_check_open(&n->key, certified, c->insecure_network, sl_listen_is_local(v->listen), "listen",
                         v->listen, err));
    SL_TRY(sl_check_open(&n->key, certified, c->insecure_network, data_is_local(c->data_address),
                         "data-address", c->data_address, err));
    struct sl_plan_options options = plan_options(n);
    SL_TRY(sl_plan_early(model, &options, err));
    SL_TRY(sl_pack_open_any(&n->pack, model, err)); /* it may have to be made, and Ctrl-C ends that */
    pthread_sigmask(SIG_BLOCK, set, NULL);          /* before threads of ours: main alone takes them */
    sl_rpc_init();
    SL_TRY(make_plan(n, err));
    SL_TRY(make_members(n, err));
    struct sl_io *io = n->io;
    if (v->otlp_endpoint)
        SL_TRY(sl_traces_start(&n->traces, v->otlp_endpoint, v->listen,
                               v->name ? v->name : sl_pack_name(n->pack), err));
    SL_TRY(make_coordinator(n, err));
    n->io = NULL; /* the coordinator's from here on */
    struct sl_rpc_method methods[SL_MEMBERS_METHODS];
    bool trusting = v->tls.trust_headers || sl_listen_is_local(v->listen);
    struct sl_edge_config edge = {.listen = v->listen,
                                  .tls = n->tls.on ? &n->tls.config : NULL,
                                  .socket = c->join_socket,
                                  .trust_headers = trusting,
                                  .ops = v->ops,
                                  .coordinator = n->coordinator,
                                  .traces = n->traces,
                                  .methods = methods,
                                  .n_methods = sl_members_methods(n->members, methods)};
    SL_TRY(sl_edge_start(&n->edge, &edge, err));
    const struct sl_banner banner = {.listen = v->listen,
                                     .ops = v->ops,
                                     .socket = c->join_socket,
                                     .tls = &n->tls,
                                     .keyed = !n->key.open,
                                     .trusting = trusting,
                                     .data_host = sl_io_host(io),
                                     .data_shielded = sl_io_is_shielded(io),
                                     .data_port = sl_io_port(io)};
    sl_banner_log(&banner);
    sl_members_attach(n->members, n->coordinator, io);
    sl_notify_watch(wake_loop, io);
    return SL_OK;
}

/* Waits for something to do: 0 after timeout_ms, else the signal. */
static int wait_signal(const sigset_t *set, uint64_t timeout_ms)
{
    struct timespec t = {(time_t)(timeout_ms / 1000), (long)(timeout_ms % 1000) * 1000000};
    int number = sigtimedwait(set, NULL, &t);
    return number < 0 ? 0 : number;
}

static sl_status not_ready(struct node *n, struct sl_err *err)
{
    char who[256];
    if (sl_members_missing(n->members, false, who, sizeof who))
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "%s did not join within %u s; start it, or ask for a longer --join-timeout", who,
                       n->values->join_timeout);
    if (sl_members_missing(n->members, true, who, sizeof who))
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "%s joined, but not all its links came up within %u s; check --data-address, and that "
                       "the nodes reach each other's data ports",
                       who, n->values->join_timeout);
    return sl_fail(err, SL_E_UNAVAILABLE,
                   "the links of the coordinator did not come up within %u s; check --data-address, and that "
                   "the nodes reach it",
                   n->values->join_timeout);
}

/* Every member has its links up and so have we: only then can a request go all the way. */
static sl_status wait_ready(struct node *n, const sigset_t *set, struct sl_err *err)
{
    char who[256];
    uint64_t left_ms = (uint64_t)n->values->join_timeout * 1000;
    while (sl_coordinator_life(n->coordinator) != SL_LIFE_READY ||
           sl_members_missing(n->members, true, who, sizeof who)) {
        uint64_t begin = sl_clock_ns();
        int number = wait_signal(set, left_ms < 10000 ? left_ms : 10000);
        if (sl_signal_ends(number) || atomic_load(&n->leave))
            return SL_AGAIN;
        SL_TRY(lost(n, err));
        uint64_t spent_ms = (sl_clock_ns() - begin) / 1000000u;
        left_ms = spent_ms < left_ms ? left_ms - spent_ms : 0;
        if (left_ms == 0)
            return not_ready(n, err);
        if (number == 0 && sl_members_missing(n->members, false, who, sizeof who))
            sl_log_info("waiting for %s to join", who);
        else if (number == 0 && sl_members_missing(n->members, true, who, sizeof who))
            sl_log_info("waiting for the links of %s", who);
    }
    return SL_OK;
}

/* first: the signal that began it; 0: none did. */
/* A signal that comes while this node ends: the second that insists ends it at once. The first may meet one that is ending by
 * itself, because a node was lost, and has yet to tell its clients which. */
static void heed(struct node *n, int number)
{
    if (!sl_signal_insists(number))
        return;
    if (n->told)
        _exit(128 + number);
    n->told = true;
}

/* What still sends here is given the time to notice that it should not, rather than refusals. */
static void linger(struct node *n, const sigset_t *set)
{
    uint64_t until = sl_clock_ns() + (uint64_t)n->values->drain_delay * 1000000000u, now;
    if (n->values->drain_delay > 0)
        sl_log_info("not serving any more; requests are still taken for %u s", n->values->drain_delay);
    while ((now = sl_clock_ns()) < until && sl_coordinator_life(n->coordinator) != SL_LIFE_LOST)
        heed(n, wait_signal(set, (until - now) / 1000000u + 1));
}

static void drain(struct node *n, int first, const sigset_t *set)
{
    sl_edge_set_serving(n->edge, false);
    sl_notify("STOPPING=1\nSTATUS=draining: running requests finish");
    heed(n, first);
    linger(n, set);
    sl_log_info("draining: running requests finish (at most %u s), new ones are refused",
                n->values->serving.drain_timeout);
    sl_coordinator_drain(n->coordinator);
    uint64_t until = sl_clock_ns() + (uint64_t)n->values->serving.drain_timeout * 1000000000u;
    while (!sl_coordinator_wait_idle(n->coordinator, 100) && sl_clock_ns() < until &&
           sl_coordinator_life(n->coordinator) != SL_LIFE_LOST)
        heed(n, wait_signal(set, 0));
}

static sl_status serve(struct node *n, const sigset_t *set, struct sl_err *err)
{
    sl_status status = wait_ready(n, set, err);
    if (status == SL_AGAIN) {
        n->told = true;
        return SL_OK;
    }
    SL_TRY(status);
    sl_edge_set_serving(n->edge, true);
    sl_log_info("ready: %u stages, numerics profile %s, model %s", n->plan.n_stages,
                sl_coordinator_profile(n->coordinator), sl_coordinator_model_name(n->coordinator));
    sl_notify("READY=1\nSTATUS=serving %s on %s, %u stages", sl_coordinator_model_name(n->coordinator),
              n->values->serving.listen, n->plan.n_stages);
    int number = 0;
    while (!sl_signal_ends(number) && !atomic_load(&n->leave)) {
        SL_TRY(lost(n, err));
        sl_edge_set_serving(n->edge, !sl_coordinator_silent(n->coordinator));
        number = wait_signal(set, 60000);
    }
    drain(n, number, set);
    return lost(n, err);
}

static void stop(struct node *n, const sigset_t *set)
{
    if (n->edge)
        sl_edge_set_serving(n->edge, false);
    if (n->coordinator) { /* who is still running is told the true reason, before the links go */
        sl_coordinator_drain(n->coordinator);
        if (!sl_coordinator_wait_idle(n->coordinator, 0))
            sl_coordinator_mourn(n->coordinator,
                                 "this node was told to stop before the request was finished; send it again");
    }
    if (n->members && sl_members_await(n->members))
        sl_log_info(
            "all is done; the others are told to stop when the node whose Join stream broke is back, or lost");
    while (n->members && sl_members_await(n->members))
        heed(n, wait_signal(set, 50));
    if (n->members)
        sl_members_stop(n->members, "the coordinator is done");
    if (n->edge)
        sl_edge_stop(n->edge, 2000);
    sl_notify_unwatch();
    sl_coordinator_destroy(n->coordinator);
    sl_traces_stop(n->traces);
    if (n->io)
        sl_io_destroy(n->io);
    sl_members_destroy(n->members);
    sl_pack_close(n->pack);
}

static int run_coordinator(const void *values, const char *const *args, uint32_t n_args)
{
    struct node n = {.values = values};
    struct sl_err err = {0};
    sigset_t set;
    (void)n_args;
    sl_log_init("coordinator", SL_LOG_INFO);
    sl_no_cores();
    signal(SIGPIPE, SIG_IGN);
    sl_signals_of_end(&set);
    sigaddset(&set, SIGUSR1);
    sl_status status = start(&n, args[0], &set, &err);
    if (status == SL_OK)
        status = serve(&n, &set, &err);
    stop(&n, &set);
    sl_rpc_fini();
    return status == SL_OK ? 0 : sl_command_failed("coordinator", &err);
}

const struct sl_command sl_command_coordinator = {
    "coordinator",
    "PATH",
    "the one decider: admits, orders and routes requests",
    "Waits for its stages and --decoders decode workers to join, then serves gRPC (vllm.grpc.engine.VllmEngine, health, reflection). "
    "SIGTERM drains: running requests finish, new ones get UNAVAILABLE. A second SIGTERM exits at once. SIGHUP (a closed terminal) "
    "drains, too, unless it was ignored at start (nohup); there is nothing to reload.",
    coordinator_options,
    sizeof(struct coordinator_values),
    1,
    1,
    run_coordinator};
