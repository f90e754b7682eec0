/* `sluice serve PATH`: everything on one machine. This process only supervises: it packs the checkpoint when needed, starts the
 * coordinator, the stages and the decode worker as processes of the same binary, passes SIGTERM on to the coordinator (which
 * drains and then tells the others to stop), and ends the whole when one of them dies. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/signals.h"
#include "model/pack/pack_cache.h"
#include "node/command/commands.h"
#include "node/command/serving_options.h"
#include "node/coordinator/join_key.h"
#include "node/local/cluster.h"
#include "node/rpc/listen.h"
#include "pipeline/stage/device_kind.h"
#include "pipeline/stage/stage.h"
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct serve_values {
    struct sl_serving_options serving;
    struct sl_loading_values load;
    const char *rows, *devices;
    uint32_t threads, decode_threads;
};

static const struct sl_option serve_options[] = {
    SL_SERVING_ROWS(serve_values),
    SL_OPTION_THREADS(serve_values, threads, "0"),
    SL_OPTION_NUMBER("decode-threads", serve_values, decode_threads, "0", 0, 1024, "threads",
                     "Compute threads of the decode worker; 0: as many as a stage."),
    SL_OPTION_TEXT(
        "devices", SL_OPT_LIST, serve_values, devices, NULL, "DEVICE",
        "--device of the stages and then of the decode workers' processes, as a list with commas; those "
        "that it leaves out are on the CPU."),
    SL_OPTION_ROWS(serve_values, rows),
    SL_LOADING_ROWS(serve_values),
    {0},
};

struct child {
    char name[24];
    pid_t pid;   /* 0: ended */
    uint32_t k;  /* of a worker, as spawn_worker counts */
    bool decode; /* another is started when it ends */
    uint64_t started_ns;
    uint32_t n_early; /* how often in a row it ended soon */
};

/* A decode worker that ends so soon, so often, will not live. */
enum { EARLY_S = 10, EARLY_MOST = 3 };

struct supervisor {
    const struct serve_values *values;
    struct sl_pack *pack;
    char join[288]; /* where workers find the coordinator */
    int key_fd;     /* the secret that makes them members, for those who inherit it */
    char key_path[32];
    char socket[48]; /* by which they join when the port speaks TLS; empty: none */
    struct child children[1 + SL_MAX_STAGES + SL_MAX_DECODERS * SL_MAX_PARTS];
    uint32_t n_children;
    struct child *again; /* the place of the next process, in which another was; NULL: a new one */
    bool sent_term, sent_kill;
};

/* Arguments of one child; numbers are written into the room behind them. */
struct arguments {
    char *list[100];
    uint32_t n;
    char room[32][32];
    uint32_t n_room;
};

static void add(struct arguments *a, const char *name, const char *value)
{
    assert(a->n + 3 <= sizeof a->list / sizeof *a->list); /* and the NULL behind them */
    a->list[a->n++] = (char *)(uintptr_t)name;
    if (value)
        a->list[a->n++] = (char *)(uintptr_t)value;
}

static void add_number(struct arguments *a, const char *name, uint32_t value)
{
    assert(a->n_room < sizeof a->room / sizeof *a->room);
    char *text = a->room[a->n_room++];
    snprintf(text, sizeof a->room[0], "%u", value);
    add(a, name, text);
}

static sl_status spawn(struct supervisor *s, const char *name, struct arguments *a, struct sl_err *err)
{
    struct child *child = s->again ? s->again : &s->children[s->n_children++];
    pid_t parent = getpid(), pid = fork();
    child->pid = 0;
    if (pid < 0)
        return sl_fail(err, SL_E_UNAVAILABLE, "cannot start %s: %s", name, strerror(errno));
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        setpgid(0, 0); /* a terminal's Ctrl-C comes to the supervisor alone */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        sl_options_clear_environment(); /* SLUICE_OPS and its like are serve's: all that a child needs is in its arguments */
        if (strcmp(name, "coordinator") != 0) /* which alone says when all is ready */
            unsetenv("NOTIFY_SOCKET");
        a->list[a->n] = NULL;
        execv("/proc/self/exe", a->list);
        _exit(127);
    }
    snprintf(child->name, sizeof child->name, "%s", name);
    child->pid = pid;
    child->started_ns = sl_clock_ns();
    return SL_OK;
}

static void add_security(struct arguments *a, const struct sl_server_tls *tls)
{
    const struct {
        const char *option, *value;
    } texts[] = {{"--tls-cert", tls->files.cert},
                 {"--tls-key", tls->files.key},
                 {"--tls-ca", tls->files.ca},
                 {"--tls-role", tls->role}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].value)
            add(a, texts[i].option, texts[i].value);
    if (tls->require_client)
        add(a, "--tls-require-client", NULL);
    if (tls->trust_headers)
        add(a, "--trust-headers", NULL);
}

static sl_status spawn_coordinator(struct supervisor *s, struct sl_err *err)
{
    const struct sl_serving_options *v = &s->values->serving;
    struct arguments a = {0};
    add(&a, "sluice", "coordinator");
    add(&a, sl_pack_path(s->pack), NULL);
    add_number(&a, "--stages", v->stages);
    if (v->layers)
        add(&a, "--layers", v->layers);
    add_number(&a, "--decoders", v->decoders);
    add_number(&a, "--max-decoders", v->max_decoders);
    add_number(&a, "--decode-stages", v->decode_stages);
    add(&a, "--listen", v->listen);
    add(&a, "--ops", v->ops);
    add_number(&a, "--chunk", v->chunk);
    add(&a, "--kv", v->kv);
    add(&a, "--numerics", v->numerics);
    add_number(&a, "--max-prefill", v->max_prefill);
    add_number(&a, "--max-running", v->max_running);
    add_number(&a, "--max-waiting", v->max_waiting);
    add(&a, "--schedule", v->schedule);
    add(&a, "--prefix-cache", v->prefix_cache);
    add(&a, "--link-auth", v->link_auth);
    add_number(&a, "--chunk-ms", v->chunk_ms);
    add_number(&a, "--slo", v->slo);
    if (v->tenant_weight)
        add(&a, "--tenant-weight", v->tenant_weight);
    add_number(&a, "--context", v->context);
    add_number(&a, "--kv-tokens", v->kv_tokens);
    if (v->otlp_endpoint)
        add(&a, "--otlp-endpoint", v->otlp_endpoint);
    add_number(&a, "--drain-timeout", v->drain_timeout);
    add_number(&a, "--lost-after", v->lost_after);
    add(&a, "--join-key-file", s->key_path);
    add_security(&a, &v->tls);
    if (s->socket[0])
        add(&a, "--join-socket", s->socket);
    add(&a, "--name", v->name ? v->name : sl_pack_name(s->pack));
    return spawn(s, "coordinator", &a, err);
}

static uint32_t n_workers(const struct serve_values *v)
{
    return v->serving.stages + v->serving.decoders * v->serving.decode_stages;
}

static sl_status spawn_worker(struct supervisor *s, uint32_t k, struct sl_err *err)
{
    const struct serve_values *v = s->values;
    bool decode = k >= v->serving.stages;
    uint32_t threads = sl_cpu_threads(v->threads, v->serving.stages);
    struct arguments a = {0};
    char name[24], device[SL_DEVICE_TEXT];
    if (decode && v->serving.decoders * v->serving.decode_stages == 1)
        snprintf(name, sizeof name, "decode");
    else
        snprintf(name, sizeof name, decode ? "decode %u" : "stage %u", decode ? k - v->serving.stages : k);
    add(&a, "sluice", decode ? "decode" : "stage");
    add(&a, sl_pack_path(s->pack), NULL);
    add(&a, "--coordinator", s->join);
    if (s->socket[0])
        add(&a, "--join-socket", s->socket);
    add(&a, "--join-key-file", s->key_path);
    if (!decode) {
        add_number(&a, "--stage", k);
        add(&a, "--rows", v->rows);
    }
    SL_TRY(sl_device_of_list(device, v->devices, k, n_workers(v), err));
    add(&a, "--device", device);
    add_number(&a, "--lost-after", v->serving.lost_after);
    add_number(&a, "--threads", decode && v->decode_threads ? v->decode_threads : threads);
    add(&a, "--verify", v->load.verify);
    add(&a, "--weights", v->load.weights);
    SL_TRY(spawn(s, name, &a, err));
    struct child *child = s->again ? s->again : &s->children[s->n_children - 1];
    child->k = k;
    child->decode = decode;
    return SL_OK;
}

static void signal_all(struct supervisor *s, int number)
{
    s->sent_kill = s->sent_kill || number == SIGKILL;
    s->sent_term = s->sent_term || number == SIGTERM;
    for (uint32_t i = 0; i < s->n_children; i++)
        if (s->children[i].pid)
            kill(s->children[i].pid, number);
}

static uint32_t n_alive(const struct supervisor *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_children; i++)
        n += s->children[i].pid != 0;
    return n;
}

/* Death by a signal that came from us is no news. */
static bool is_ours(const struct supervisor *s, int number)
{
    return (number == SIGKILL && s->sent_kill) || (number == SIGTERM && s->sent_term);
}

/* The pipeline goes on without a decode worker, and gets another, unless those end as soon as they are started. False: it does. */
static bool replace_decoder(struct supervisor *s, struct child *c, int code)
{
    struct sl_err err;
    bool early = sl_clock_ns() - c->started_ns < EARLY_S * UINT64_C(1000000000);
    c->n_early = early ? c->n_early + 1 : 0;
    if (!c->decode || s->sent_term || s->sent_kill || c->n_early >= EARLY_MOST)
        return false;
    sl_log_warn("%s ended with %d; what it had goes on elsewhere, and another is started", c->name, code);
    s->again = c;
    sl_status status = spawn_worker(s, c->k, &err);
    s->again = NULL;
    if (status != SL_OK)
        sl_log_error("%s", err.text);
    return status == SL_OK;
}

/* How a child ended. Returns the exit code that the whole should have: 0 only after a clean stop, 128 + n for signal n. */
static int on_exit_of(struct supervisor *s, pid_t pid, int status)
{
    struct child *c = s->children;
    while (c < s->children + s->n_children && c->pid != pid)
        c++;
    if (c == s->children + s->n_children)
        return 0;
    c->pid = 0;
    int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0,
        code = number ? 128 + number : WEXITSTATUS(status);
    if (s->children[0].pid && replace_decoder(s, c, code))
        return 0;
    if (code == 0 || is_ours(s, code - 128)) /* also of one that took the signal and said so */
        return 0;
    if (number)
        sl_log_error("%s (pid %d) was killed by signal %d (%s)%s; stopping the rest", c->name, (int)pid,
                     number, strsignal(number),
                     number == SIGKILL ? ", out of memory usually: dmesg tells" : "");
    else
        sl_log_error("%s (pid %d) ended with exit code %d; stopping the rest", c->name, (int)pid, code);
    return code;
}

/* Who is still there 2 s after the first end gets SIGTERM, and 3 s later SIGKILL. */
static int supervise(struct supervisor *s, const sigset_t *set)
{
    int code = 0, signals = 0;
    bool ending = false;
    uint32_t quiet = 0; /* 200 ms turns since the end began */
    while (n_alive(s) > 0) {
        struct timespec t = {ending ? 0 : 3600, ending ? 200000000 : 0};
        int number = sigtimedwait(set, NULL, &t), status;
        if (sl_signal_ends(number)) {
            if (sl_signal_insists(number) && ++signals > 1) {
                signal_all(s, SIGKILL);
                return 128 + number;
            }
            if (s->children[0].pid && !s->sent_term)
                kill(s->children[0].pid, SIGTERM);
            s->sent_term = true;
        }
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
            int ended = on_exit_of(s, pid, status);
            if (ended &&
                (!ending || (ended > 128 && code < 128))) /* who was killed is why the others ended */
                code = ended;
            if ((ended || s->children[0].pid == 0) && !ending) {
                ending = true;
                if (ended)
                    signal_all(s, s->children[0].pid ? SIGTERM : SIGKILL);
            }
        }
        if (ending && ++quiet == 10) /* who was told to stop has gone by now; who never joined was not told */
            signal_all(s, SIGTERM);
        if (ending && quiet == 25)
            signal_all(s, SIGKILL);
    }
    return code;
}

/* A taken port is told here in one sentence, not by four processes that end because of it. */
static sl_status check_address(const char *address, struct sl_err *err)
{
    struct sl_listener listener;
    SL_TRY(sl_listener_open(&listener, address, err));
    sl_listener_close(&listener);
    return SL_OK;
}

/* Nobody else's by chance; whose it is, the coordinator looks at. */
static sl_status name_socket(struct supervisor *s, struct sl_err *err)
{
    uint64_t random;
    if (sl_random_bytes(&random, sizeof random) != SL_OK)
        return sl_fail(err, SL_E_INTERNAL, "no random bytes for the name of a socket");
    snprintf(s->socket, sizeof s->socket, "sluice-%d-%016llx", (int)getpid(), (unsigned long long)random);
    return SL_OK;
}

static sl_status start_all(struct supervisor *s, const char *model, const sigset_t *set, struct sl_err *err)
{
    const struct sl_serving_options *v = &s->values->serving;
    struct sl_plan plan;
    struct sl_plan_options options = {.n_stages = v->stages,
                                      .n_decoders = v->decoders,
                                      .max_decoders = sl_serving_max_decoders(v),
                                      .n_parts = v->decode_stages,
                                      .chunk_tokens = v->chunk,
                                      .max_prefill = v->max_prefill,
                                      .max_running = v->max_running,
                                      .context_tokens = v->context,
                                      .kv_tokens = v->kv_tokens};
    struct sl_tenant_weights weights;
    struct sl_serving_tls tls;
    uint32_t layers[SL_MAX_STAGES];
    char device[SL_DEVICE_TEXT];
    SL_TRY(sl_serving_tls_read(&tls, &v->tls, err));
    SL_TRY(sl_tenant_weights_read(&weights, v->tenant_weight, "--tenant-weight", err));
    SL_TRY(sl_layers_read(&options.layers, layers, v->layers, v->stages, err));
    SL_TRY(sl_device_of_list(device, s->values->devices, 0, n_workers(s->values), err));
    SL_TRY(sl_plan_early(model, &options, err));
    SL_TRY(sl_pack_open_any(&s->pack, model, err));
    /* refuse here, not in three processes */
    SL_TRY(sl_plan_for_shape(&plan, sl_pack_shape(s->pack), &options, err));
    SL_TRY(sl_listen_reach(v->listen, s->join, sizeof s->join, err));
    const char *colon = strrchr(v->listen, ':');
    if (strcmp(colon, ":0") == 0)
        return sl_fail(err, SL_E_USAGE,
                       "--listen needs a port here, because the stages must find it; choose one");
    SL_TRY(check_address(v->listen, err));
    SL_TRY(check_address(v->ops, err));
    if (tls.on)
        SL_TRY(name_socket(s, err));
    SL_TRY(sl_join_key_make(&s->key_fd, s->key_path, err));
    sigprocmask(SIG_BLOCK, set, NULL); /* not while it packs: until here a signal just ends it */
    SL_TRY(spawn_coordinator(s, err));
    for (uint32_t k = 0; k < v->stages + v->decoders * v->decode_stages; k++)
        SL_TRY(spawn_worker(s, k, err));
    return SL_OK; /* the key stays: a decode worker that is started later needs it */
}

static int run_serve(const void *values, const char *const *args, uint32_t n_args)
{
    struct supervisor s = {.values = values};
    struct sl_err err;
    sigset_t set;
    (void)n_args;
    sl_log_init("serve", SL_LOG_INFO);
    sl_no_cores();
    sl_signals_of_end(&set);
    sigaddset(&set, SIGCHLD);
    if (start_all(&s, args[0], &set, &err) != SL_OK) {
        signal_all(&s, SIGKILL);
        sl_pack_close(s.pack);
        return sl_command_failed("serve", &err);
    }
    int code = supervise(&s, &set);
    sl_pack_close(s.pack);
    return code;
}

const struct sl_command sl_command_serve = {
    "serve",
    "PATH",
    "everything on one machine: coordinator, stages, decode workers",
    "PATH is a pack, or a Hugging Face checkpoint directory, which is packed into the cache on first use. Starts one process a "
    "role, joined over UCX on loopback. SIGTERM, Ctrl-C and SIGHUP (a closed terminal) drain. When a process dies, it is named and "
    "the whole ends with its code: 128 + n for signal n, so 137 when the kernel killed it, for want of memory usually. Not so a decode "
    "worker: what it decoded is prefilled again for another, and one is started in its place, unless three in a row die young.",
    serve_options,
    sizeof(struct serve_values),
    1,
    1,
    run_serve};
