/* The command (serve.h): opens the target, runs the load once for each point and repeat, and writes down what came of it. */
#include "bench/serve/serve.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/digest.h"
#include "base/log.h"
#include "bench/serve/compare.h"
#include "bench/serve/drive.h"
#include "bench/serve/options_load.h"
#include "model/json_impl.h"
#include "node/command/options.h"
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

enum { PEM_BYTES = 1 << 20, EXIT_INTERRUPTED = 130 };
static const double FOLLOWED = 0.9; /* a point that got less of its rate than this ends a sweep */

static volatile int stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

struct session { /* one call of the command */
    const struct sl_bench_serve *options;
    struct sl_workload workload;
    struct sl_sweep sweep;
    struct sl_target *target;
    struct sl_drive *drive;
    char *pems[3];
    struct sl_load_run *runs; /* [points * repeat] */
    uint32_t n_runs, n_points;
    const char *class_names[SL_LOAD_CLASSES];
    struct sl_limits limits[SL_LOAD_CLASSES];
    char load[1024], where[320], machine[320], date[32], run_name[64];
};

/* ---- before ---- */

static sl_status pin(const char *list, struct sl_err *err)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    const char *at = list;
    while (at && *at) {
        char *end;
        unsigned long cpu = strtoul(at, &end, 10);
        if (end == at || (*end && *end != ',') || cpu >= CPU_SETSIZE)
            return sl_fail(err, SL_E_USAGE, "--cpus %.60s is no list of processors, as 0 or 2,3", list);
        CPU_SET(cpu, &set);
        at = *end ? end + 1 : end;
    }
    if (list && sched_setaffinity(0, sizeof set, &set) != 0)
        return sl_fail(err, SL_E_USAGE, "--cpus %.60s: this machine has none of them, or does not let us",
                       list);
    return SL_OK;
}

/* What sends on time must be let run on time, by a server that takes all processors, too; it takes one or two percent of one. (Being
 * nice does not do it: Linux weighs sessions first.) Who may not stays as it is, and sees its send lag. */
static void raise_limits(void)
{
    struct rlimit limit;
    struct sched_param priority = {.sched_priority = sched_get_priority_min(SCHED_RR)};
    sched_setscheduler(0, SCHED_RR, &priority);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit); /* a connection a stream over HTTP */
    }
}

static sl_status read_pems(struct session *s, struct sl_target_config *config, struct sl_err *err)
{
    const char *const paths[] = {s->options->tls.files.ca, s->options->tls.files.cert,
                                 s->options->tls.files.key};
    const char **const texts[] = {&config->tls_ca, &config->tls_cert, &config->tls_key};
    size_t bytes;
    if (!paths[1] != !paths[2])
        return sl_fail(err, SL_E_USAGE, "--tls-cert and --tls-key go together");
    for (int i = 0; i < 3; i++)
        if (paths[i]) {
            SL_TRY(sl_file_read(&s->pems[i], &bytes, paths[i], PEM_BYTES, err));
            *texts[i] = s->pems[i];
        }
    return SL_OK;
}

static sl_status check(const struct sl_bench_serve *o, struct sl_err *err)
{
    if (!o->grpc == !o->openai)
        return sl_fail(err, SL_E_USAGE, "say whom to ask: --grpc HOST:PORT or --openai URL");
    if (o->extra_body) {
        json_t *extra;
        if (o->grpc)
            return sl_fail(err, SL_E_USAGE, "--extra-body is for --openai");
        SL_TRY(sl_json_parse(&extra, o->extra_body, strlen(o->extra_body), "--extra-body", err));
        json_decref(extra);
    }
    return SL_OK;
}

static bool has_turns(const struct sl_workload *w)
{
    for (uint32_t k = 0; k < w->n_classes; k++)
        if (w->classes[k].turns > 1)
            return true;
    return false;
}

static sl_status open_target(struct session *s, struct sl_err *err)
{
    const struct sl_bench_serve *o = s->options;
    struct sl_target_config config = {.endpoint = o->grpc ? o->grpc : o->openai,
                                      .model = o->served_model,
                                      .chat = strcmp(o->api, "chat") == 0,
                                      .extra_body = o->extra_body,
                                      .want_timeline = true,
                                      .keep_answers = has_turns(&s->workload),
                                      .token = o->token,
                                      .tls = o->tls.on || o->tls.files.ca || o->tls.files.cert ||
                                             o->tls.files.name,
                                      .tls_name = o->tls.files.name,
                                      .max_calls = o->max_in_flight};
    SL_TRY(read_pems(s, &config, err));
    sl_drive_hook(s->drive, &config);
    SL_TRY(o->grpc ? sl_target_open_grpc(&s->target, &config, err)
                   : sl_target_open_openai(&s->target, &config, err));
    return sl_target_ready(s->target, (uint32_t)(o->ready_timeout_s * 1e3), err);
}

/* What can only be checked once it is known who answers. */
static sl_status check_prompts(const struct session *s, enum sl_prompt_form form, struct sl_err *err)
{
    for (uint32_t k = 0; k < s->workload.n_classes; k++) {
        const struct sl_load_class *c = &s->workload.classes[k];
        if (c->corpus && !c->corpus->n_lines && c->turns > 1 && form == SL_PROMPT_IDS)
            return sl_fail(err, SL_E_USAGE,
                           "class %.64s: turns of a text need --openai; over gRPC answers are ids", c->name);
        for (uint32_t i = 0; c->corpus && i < c->corpus->n_lines; i++) {
            const struct sl_corpus_line *line = &c->corpus->lines[i];
            if ((line->messages && form != SL_PROMPT_CHAT) || (line->ids && form == SL_PROMPT_CHAT))
                return sl_fail(err, SL_E_USAGE,
                               "class %.64s, prompt %u: messages go to --api chat only, and ids never do",
                               c->name, i + 1);
        }
    }
    return SL_OK;
}

static sl_status make_drive(struct session *s, struct sl_err *err)
{
    const struct sl_bench_serve *o = s->options;
    bool shown =
        strcmp(o->progress, "on") == 0 || (strcmp(o->progress, "auto") == 0 && isatty(STDERR_FILENO));
    struct sl_drive_config config = {.timeout_ms = (uint32_t)(o->timeout_s * 1e3),
                                     .max_in_flight = o->max_in_flight,
                                     .warm_up_s = o->warm_up_s,
                                     .temperature = o->temperature,
                                     .own_length = o->own_length,
                                     .progress = shown ? stderr : NULL,
                                     .stop = &stop};
    uint32_t random = 0; /* so that a server tells the requests of two runs apart */
    sl_random_bytes(&random, sizeof random);
    snprintf(s->run_name, sizeof s->run_name, "bench-%08x", random);
    return sl_drive_new(&s->drive, &config, err);
}

static sl_status choose_prompts(struct session *s, struct sl_err *err)
{
    const struct sl_bench_serve *o = s->options;
    uint32_t vocabulary = o->vocabulary ? o->vocabulary : sl_target_vocabulary(s->target);
    enum sl_prompt_form form = strcmp(o->api, "chat") == 0 && o->openai ? SL_PROMPT_CHAT
                               : o->grpc || o->vocabulary               ? SL_PROMPT_IDS
                                                                        : SL_PROMPT_TEXT;
    if (form == SL_PROMPT_IDS && vocabulary < 2)
        return sl_fail(err, SL_E_USAGE,
                       "the server does not say how large its vocabulary is; say --vocabulary N");
    sl_drive_prompts(s->drive, form, vocabulary);
    return check_prompts(s, form, err);
}

/* ---- running ---- */

static double rate_of(const struct sl_workload *w)
{
    double rate = 0;
    for (uint32_t k = 0; k < w->n_classes; k++) {
        const struct sl_load_class *c = &w->classes[k];
        rate += c->rate;
        if (c->trace && c->trace->n_rows > 1)
            rate += (c->trace->n_rows - 1) * c->trace_speed * 1e6 /
                    (double)c->trace->rows[c->trace->n_rows - 1].at_us;
    }
    return isfinite(rate) ? rate : 0;
}

static sl_status measure(struct session *s, struct sl_load_run *run, struct sl_err *err)
{
    uint32_t n = s->workload.n_classes;
    run->classes = calloc(n, sizeof *run->classes);
    if (!run->classes)
        return sl_fail(err, SL_E_NOMEM, "no memory for a summary");
    SL_TRY(sl_measure(&run->all, &run->outcomes, -1, s->limits, n, err));
    for (uint32_t k = 0; k < n; k++)
        SL_TRY(sl_measure(&run->classes[k], &run->outcomes, (int)k, s->limits, n, err));
    const struct sl_figure *lag = &run->all.figures[SL_LAG], *ttft = &run->all.figures[SL_TTFT];
    double late = sl_figure_near(lag, 0.99), median = sl_figure_near(ttft, 0.5);
    run->invalid = late > 1 && late > 0.01 * median;
    return SL_OK;
}

static sl_status run_point(struct session *s, uint32_t point, uint32_t repeat, struct sl_err *err)
{
    struct sl_workload load;
    sl_workload_at(&load, &s->workload, &s->sweep, point);
    load.seed += repeat;
    struct sl_load_run *run = &s->runs[s->n_runs];
    *run = (struct sl_load_run){.rate = rate_of(&load), .point = point};
    char name[96];
    snprintf(name, sizeof name, "%.60s-%u", s->run_name, s->n_runs);
    sl_drive_load(s->drive, &load, name);
    s->n_runs++;
    sl_status status = sl_drive_run(s->drive, s->target, run, err);
    struct sl_err unused; /* what ended the run early is the error; what was measured until then is kept */
    if (run->outcomes.n > 0 || status == SL_OK) {
        sl_status measured = measure(s, run, status == SL_OK ? err : &unused);
        return status == SL_OK ? measured : status;
    }
    sl_load_run_free(run); /* nothing came of it */
    s->n_runs--;
    return status;
}

/* Whether about as many requests a second ended well as became due. */
static bool followed(const struct sl_load_run *run)
{
    const struct sl_outcomes *o = &run->outcomes;
    uint64_t last_ns = 0;
    for (uint32_t i = 0; i < o->n; i++)
        last_ns = o->all[i].due_ns > last_ns ? o->all[i].due_ns : last_ns;
    if (run->rate <= 0 || last_ns <= o->warm_ns)
        return true;
    return run->all.requests_per_s >=
           FOLLOWED * run->all.n_requests / ((double)(last_ns - o->warm_ns) * 1e-9);
}

static sl_status run_all(struct session *s, struct sl_err *err)
{
    const struct sl_bench_serve *o = s->options;
    for (uint32_t point = 0; point < s->sweep.n && !stop; point++) {
        if (strcmp(o->progress, "off") != 0 && s->sweep.kind != SL_SWEEP_NONE)
            fprintf(stderr, "point %u of %u: %.*s%g\n", point + 1, s->sweep.n,
                    (int)strcspn(o->sweep, "=") + 1, o->sweep, s->sweep.values[point]);
        bool can = false;
        s->n_points = point + 1; /* also when a run of it ends early */
        for (uint32_t i = 0; i < o->repeat && !stop; i++) {
            SL_TRY(run_point(s, point, i, err));
            can |= followed(&s->runs[s->n_runs - 1]);
        }
        if (!can && !stop && point + 1 < s->sweep.n) {
            fprintf(stderr, "the server does not follow any more: the sweep ends here\n");
            break;
        }
    }
    return SL_OK;
}

/* ---- after ---- */

static void describe(struct session *s)
{
    char cpu[128];
    struct utsname uname_of = {0};
    time_t now = (time_t)(sl_clock_wall_us() / 1000000);
    struct tm utc;
    uname(&uname_of);
    snprintf(s->machine, sizeof s->machine, "%s, %ld processors, %s %s", sl_cpu_model_name(cpu, sizeof cpu),
             sysconf(_SC_NPROCESSORS_ONLN), uname_of.sysname, uname_of.release);
    strftime(s->date, sizeof s->date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    snprintf(s->where, sizeof s->where, "%s %s", s->options->grpc ? "grpc" : "openai",
             s->options->grpc ? s->options->grpc : s->options->openai);
    sl_workload_describe(&s->workload, s->load, sizeof s->load);
}

static uint32_t stages_of(const struct session *s)
{
    for (uint32_t i = 0; i < s->n_runs; i++)
        if (s->runs[i].n_timelines)
            return s->runs[i].timelines[0].timeline.n_stages;
    return 0;
}

static sl_status write_all(struct session *s, struct sl_err *err)
{
    const struct sl_bench_serve *o = s->options;
    struct sl_report report = {.target = s->where,
                               .model = sl_target_model(s->target),
                               .load = s->load,
                               .command = o->command_line,
                               .date = s->date,
                               .machine = s->machine,
                               .version = SLUICE_VERSION " " SLUICE_GIT,
                               .settings = o->settings,
                               .class_names = s->class_names,
                               .limits = s->limits,
                               .n_classes = s->workload.n_classes,
                               .runs = s->runs,
                               .n_runs = s->n_runs,
                               .n_points = s->n_points,
                               .n_stages = stages_of(s)};
    sl_report_table(&report, stdout, isatty(STDOUT_FILENO));
    sl_status status = SL_OK;
    if (o->save)
        status = sl_report_json(&report, o->save, err);
    if (status == SL_OK && o->save_requests)
        status = sl_report_jsonl(&report, o->save_requests, err);
    if (status == SL_OK && o->save_page)
        status = sl_report_html(&report, o->save_page, err);
    if (status == SL_OK && o->save_histograms)
        status = sl_report_hgrm(&report, o->save_histograms, err);
    return status;
}

static int verdict(const struct session *s)
{
    uint32_t done = 0;
    bool invalid = false;
    for (uint32_t i = 0; i < s->n_runs; i++) {
        done += s->runs[i].all.n_done + s->runs[i].all.n_cancelled;
        invalid |= s->runs[i].invalid;
    }
    if (stop)
        return EXIT_INTERRUPTED;
    if (done == 0 && s->n_runs > 0) {
        fprintf(stderr, "sluice bench serve: no request of the measured part was answered\n");
        return sl_status_exit_code(SL_E_UNAVAILABLE);
    }
    if (invalid)
        fprintf(
            stderr,
            "sluice bench serve: INVALID: the harness sent late (send lag p99 above 1 ms and 1 %% of the median "
            "TTFT); give it a processor of its own (--cpus), or a lighter load\n");
    return invalid ? SL_EXIT_INVALID : 0;
}

static sl_status measure_target(struct session *s, struct sl_err *err)
{
    const struct sl_bench_serve *o = s->options;
    SL_TRY(check(o, err));
    SL_TRY(sl_sweep_parse(&s->sweep, o->sweep, err));
    SL_TRY(sl_workload_of(&s->workload, o, err));
    SL_TRY(pin(o->cpus, err));
    for (uint32_t k = 0; k < s->workload.n_classes; k++) {
        s->class_names[k] = s->workload.classes[k].name;
        s->limits[k] = s->workload.classes[k].limits;
    }
    s->runs = calloc((size_t)s->sweep.n * o->repeat, sizeof *s->runs);
    if (!s->runs)
        return sl_fail(err, SL_E_NOMEM, "no memory for the runs");
    SL_TRY(make_drive(s, err));
    SL_TRY(open_target(s, err));
    SL_TRY(choose_prompts(s, err));
    describe(s);
    struct sl_err first = {0};
    sl_status status = run_all(s, &first); /* what was measured until then is written */
    if (s->n_runs > 0)
        SL_TRY(write_all(s, err));
    return status == SL_OK ? SL_OK : sl_fail(err, status, "%s", first.text);
}

int sl_bench_serve_run(const struct sl_bench_serve *options, const char *other)
{
    struct sl_err err = {0};
    if (options->compare || other) {
        if (!options->compare || !other)
            sl_fail(&err, SL_E_USAGE, "two results are compared as --compare A.json B.json");
        else
            sl_compare_files(options->compare, other, stdout, &err);
        return err.status == SL_OK ? 0 : sl_command_failed("bench serve", &err);
    }
    struct session *s = calloc(1, sizeof *s);
    if (!s) {
        sl_fail(&err, SL_E_NOMEM, "no memory");
        return sl_command_failed("bench serve", &err);
    }
    s->options = options;
    sl_log_init("bench serve", SL_LOG_WARN);
    raise_limits();
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sl_status status = measure_target(s, &err);
    int code = status == SL_OK ? verdict(s) : sl_command_failed("bench serve", &err);
    sl_target_close(s->target);
    sl_drive_free(s->drive);
    for (uint32_t i = 0; i < s->n_runs; i++)
        sl_load_run_free(&s->runs[i]);
    sl_workload_free(&s->workload);
    for (int i = 0; i < 3; i++)
        free(s->pems[i]);
    free(s->runs);
    free(s);
    return code;
}
