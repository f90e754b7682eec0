/* `sluice plan`: which cut, chunk and node count a model, machines and a load need, before any of them is bought. What it is asked is
 * read here; what it answers is report.h's. */
#include "bench/plan/cmd_plan.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "bench/plan/nodes.h"
#include "bench/plan/online.h"
#include "bench/plan/source.h"
#include "bench/serve/measure.h"
#include "bench/serve/options_load.h"
#include "bench/serve/trace.h"
#include "node/client/http_get.h"
#include "node/client/queue_view.h"
#include "node/command/shared_options.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_TRIED = 8 /* stages on one machine, unless asked */ };

struct plan_values {
    const char *shape, *nodes, *load, *slo, *from_cost, *from_metrics, *kv, *svg;
    double bits, expert_bits, look;
    uint32_t stages, decoders, chunk, chunk_ms, max_running, threads;
    bool this_machine, json;
};

static const struct sl_option plan_options[] = {
    SL_OPTION_TEXT(
        "shape", SL_OPT_STRING, plan_values, shape, NULL, "NAME",
        "A public model by its name (deepseek-v3, qwen3-235b-a22b, ...; a wrong one lists them), or a file "
        "with the keys of a config.json."),
    SL_OPTION_TEXT(
        "nodes", SL_OPT_STRING, plan_values, nodes, NULL, "FILE",
        "YAML with the machines: `nodes`, a list of entries with kind (h20, h100, h200, b200, a100, l40s, rtx-5090) or devices, memory-gb, "
        "matrix-tflops, attention-tflops, memory-gbs (of a device, as achieved), and name, count, inner-gbs, "
        "layer-us, skew, gbit, latency-us; `link`, with gbit and latency-us of all."),
    SL_OPTION_ROW("this-machine", SL_OPT_BOOL, plan_values, this_machine, NULL, NULL, 0, 0, NULL,
                  "The stages share this machine; a pack's layers are measured for a second or two."),
    SL_OPTION_TEXT(
        "from-cost", SL_OPT_STRING, plan_values, from_cost, NULL, "FILE",
        "What a layer costs on each node, as `sluice calibrate --json` has measured it; with --stages as many as it has, those very "
        "stages."),
    SL_OPTION_TEXT(
        "from-metrics", SL_OPT_STRING, plan_values, from_metrics, NULL, "HOST:PORT",
        "The ops port of a coordinator or of `serve` that runs (or the address of its /metrics): what it should "
        "change, by its own coefficients and its load."),
    SL_OPTION_ROW("look", SL_OPT_FLOAT, plan_values, look, "5", NULL, 0.1, 3600, "s",
                  "With --from-metrics, for how long its load is looked at."),
    SL_OPTION_STAGES(plan_values, stages, NULL),
    SL_OPTION_NUMBER("decoders", plan_values, decoders, "0", 0, SL_MAX_DECODERS, "workers",
                     "Decode workers; 0: as many as the load wants and the nodes have room for."),
    SL_OPTION_TEXT(
        "load", SL_OPT_STRING, plan_values, load, "2048:256", "LOAD",
        "PROMPT:OUTPUT in tokens, with @RATE for requests a second (4096:256@2.5); or a trace of requests, as "
        "bench serve replays it."),
    SL_OPTION_TEXT("slo", SL_OPT_STRING, plan_values, slo, NULL, "LIMITS",
                   "What the plan must keep, as ttft=500,tpot=50,e2e=5000 (ms)."),
    SL_OPTION_CHUNK(plan_values, chunk),
    SL_OPTION_CHUNK_MS(plan_values, chunk_ms),
    SL_OPTION_NUMBER("max-running", plan_values, max_running, "0", 0, SL_MAX_BATCH, "answers",
                     "Answers that a decode worker makes at once; 0: what carries most and keeps --slo."),
    SL_OPTION_ROW("bits", SL_OPT_FLOAT, plan_values, bits, "8", NULL, 1, 32, "bits",
                  "Of a weight, where no pack says."),
    SL_OPTION_ROW("expert-bits", SL_OPT_FLOAT, plan_values, expert_bits, "0", NULL, 0, 32, "bits",
                  "Of a weight of the routed experts; 0: as --bits."),
    SL_OPTION_KV(plan_values, kv),
    SL_OPTION_THREADS(plan_values, threads, "0"),
    SL_OPTION_JSON(plan_values, json),
    SL_OPTION_TEXT(
        "svg", SL_OPT_STRING, plan_values, svg, NULL, "FILE",
        "Draw the pipeline of one prompt, and first tokens over numbers of stages for both layouts."),
    {0},
};

/* ---- the load ---- */

/* Means of a trace, its rate, and its longest request, which the pages must hold. */
static sl_status load_of_trace(struct sl_planner_load *load, const char *path, struct sl_err *err)
{
    struct sl_arrival_trace *trace;
    SL_TRY(sl_arrival_trace_read(&trace, path, 0, err));
    for (uint32_t i = 0; i < trace->n_rows; i++) {
        const struct sl_arrival_row *row = &trace->rows[i];
        load->prompt += (double)row->input_tokens / trace->n_rows;
        load->output += (double)row->output_tokens / trace->n_rows;
        load->longest = fmax(load->longest, (double)row->input_tokens + row->output_tokens);
    }
    double seconds = trace->n_rows > 1 ? (double)trace->rows[trace->n_rows - 1].at_us / 1e6 : 0;
    load->rate = seconds > 0 ? (trace->n_rows - 1) / seconds : 0;
    bool none = trace->n_rows == 0 || load->prompt < 1;
    sl_arrival_trace_free(trace);
    return none ? sl_fail(err, SL_E_DATA, "%s has no request to plan for", path) : SL_OK;
}

static bool tokens(const char **at, double least, double *value)
{
    char *end;
    *value = strtod(*at, &end);
    if (end == *at || **at == '-' || **at == '+' || !(*value >= least) || *value > 1 << 24 ||
        *value != floor(*value))
        return false;
    *at = end;
    return true;
}

static sl_status load_of(struct sl_planner_load *load, const char *text, struct sl_err *err)
{
    const char *at = text;
    char *end;
    *load = (struct sl_planner_load){0};
    if (text[0] < '0' || text[0] > '9' || strchr(text, '/') || strstr(text, ".jsonl") || strstr(text, ".csv"))
        return load_of_trace(load, text, err);
    bool fine = tokens(&at, 1, &load->prompt);
    if (fine && *at == ':') {
        at++;
        fine = tokens(&at, 0, &load->output);
    }
    if (fine && *at == '@') {
        load->rate = strtod(at + 1, &end);
        fine = end != at + 1 && load->rate > 0 && load->rate <= 1e6;
        at = end;
    }
    if (!fine || *at)
        return sl_fail(
            err, SL_E_USAGE,
            "--load %.60s is not PROMPT:OUTPUT@RATE, as 4096:256@2.5 (whole tokens; requests a second above 0), "
            "and no trace",
            text);
    return SL_OK;
}

/* The strictest of what is named; targets that no plan can keep at once are refused here. */
static sl_status targets_of(struct sl_planner_wish *wish, const struct sl_planner_load *load,
                            const char *text, struct sl_err *err)
{
    struct sl_limits l;
    SL_TRY(sl_limits_parse(&l, text, err));
    wish->slo_ttft_us = 1000 * l.ttft_ms;
    wish->slo_tpot_us = 1000 * l.tpot_ms;
    double left = l.e2e_ms - l.ttft_ms;
    if (l.e2e_ms > 0 && left <= 0)
        return sl_fail(err, SL_E_USAGE,
                       "--slo %.80s contradicts itself: all of an answer is wanted before its first token",
                       text);
    if (l.e2e_ms > 0 && l.ttft_ms <= 0) /* half of it for the first token, half for the rest */
        wish->slo_ttft_us = load->output > 1 ? 500 * l.e2e_ms : 1000 * l.e2e_ms;
    if (l.e2e_ms > 0 && load->output > 1) {
        double each = 1000 * (l.e2e_ms - wish->slo_ttft_us / 1000) / (load->output - 1);
        wish->slo_tpot_us = wish->slo_tpot_us > 0 ? fmin(wish->slo_tpot_us, each) : each;
    }
    return SL_OK;
}

/* ---- the nodes ---- */

/* With as many stages as were measured, those very stages with their layers; else nodes that are like their mean. */
static void measured_nodes(struct sl_plan_report *r, const struct sl_plan_measured *m, bool as_they_are,
                           const char *path)
{
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        r->nodes[i].is_measured = true;
        r->nodes[i].layer = as_they_are && i < m->n_stages ? m->layers[i] : m->layer;
    }
    if (as_they_are) {
        r->wish.begin = m->begin;
        r->wish.costs = m->stages;
    }
    size_t n = strlen(r->assumed);
    snprintf(r->assumed + n, sizeof r->assumed - n, "; costs of layers from %.60s", path);
}

/* Every number of stages is another set of nodes, since they share the machine. */
static sl_status plan_machine(struct sl_plan_report *r, const struct sl_pack *pack,
                              const struct plan_values *v, struct sl_err *err)
{
    static struct sl_plan_report with;
    uint32_t cpus = sl_cpu_threads(0, 1), from = v->stages ? v->stages : 1,
             to = v->stages           ? v->stages
                  : cpus < MOST_TRIED ? cpus
                                      : MOST_TRIED;
    struct sl_plan_row rows[MOST_TRIED];
    uint32_t n_rows = 0;
    bool any = false;
    for (uint32_t n = from; n <= to && n <= r->model.n_layers; n++) {
        with = *r;
        with.n_nodes = with.wish.n_stages = n;
        for (uint32_t k = 0; k < n; k++) {
            if (k > 0)
                with.nodes[k] = with.nodes[0];
            else
                SL_TRY(sl_plan_machine(&with.nodes[0], pack, n, v->threads, v->kv, err));
        }
        if (sl_plan_report_fill(&with, err) != SL_OK)
            continue;
        rows[n_rows++] = with.rows[with.n_rows - 1];
        if (!any || with.forecast.requests_s > r->forecast.requests_s)
            *r = with;
        any = true;
    }
    if (any && !v->stages) {
        memcpy(r->rows, rows, n_rows * sizeof *rows);
        r->n_rows = n_rows;
    }
    if (!any && !err->text[0])
        return sl_fail(err, SL_E_CONFIG, "%u stages do not go over %u layers; ask for fewer", from,
                       r->model.n_layers);
    size_t used = strlen(r->assumed);
    snprintf(r->assumed + used, sizeof r->assumed - used, "; %s",
             pack ? "layers measured here" : "rates by this machine's instructions, not measured");
    return any ? SL_OK : err->status;
}

static sl_status plan_nodes(struct sl_plan_report *r, const struct plan_values *v, struct sl_err *err)
{
    static struct sl_plan_measured m; /* the report points into it */
    if (v->nodes)
        SL_TRY(sl_plan_nodes_read(r->nodes, &r->n_nodes, v->nodes, err));
    if (v->from_cost) {
        SL_TRY(sl_plan_cost_read(&m, v->from_cost, err));
        if (m.n_layers != r->model.n_layers)
            return sl_fail(err, SL_E_DATA, "%s is of a model of %u layers, and this one has %u", v->from_cost,
                           m.n_layers, r->model.n_layers);
        measured_nodes(r, &m, v->stages == m.n_stages, v->from_cost);
    }
    r->wish.n_stages = v->stages;
    return sl_plan_report_fill(r, err);
}

/* ---- a pipeline that runs ---- */

enum { TIMEOUT_MS = 5000 };

/* "http://host:port/metrics" is an address, too. */
static void address_of(char *address, size_t room, const char *text)
{
    const char *scheme = "http://";
    text += strncmp(text, scheme, strlen(scheme)) == 0 ? strlen(scheme) : 0;
    snprintf(address, room, "%.*s", (int)strcspn(text, "/"), text);
}

static sl_status look(struct sl_scrape *scrape, const char *address, struct sl_err *err)
{
    struct sl_http_reply reply;
    SL_TRY(sl_http_get(&reply, address, "/metrics", TIMEOUT_MS, err));
    sl_status status = SL_OK;
    if (reply.status != 200)
        status =
            sl_fail(err, SL_E_UNAVAILABLE, "%s answers /metrics with %d; give the port of a node's --ops",
                    address, reply.status);
    else if (!sl_scrape_read(scrape, reply.body, reply.bytes))
        status = sl_fail(err, SL_E_NOMEM, "no memory for the metrics of %s", address);
    sl_http_reply_free(&reply);
    return status;
}

/* T*, if it tells. */
static double chunk_of(const char *address)
{
    static struct sl_queue_view view;
    struct sl_http_reply reply;
    double ms = 0;
    if (sl_http_get(&reply, address, "/debug/schedule", TIMEOUT_MS, NULL) != SL_OK)
        return 0;
    if (reply.status == 200 && sl_queue_view_read(&view, reply.body, reply.bytes))
        ms = view.budget_ms;
    sl_http_reply_free(&reply);
    return ms > 0 ? 1000 * ms : 0;
}

static sl_status plan_running(const struct plan_values *v, struct sl_err *err)
{
    static struct sl_plan_online online;
    struct sl_scrape before, now;
    struct timespec pause = {(time_t)v->look, (long)(1e9 * (v->look - floor(v->look)))};
    char address[256];
    address_of(address, sizeof address, v->from_metrics);
    SL_TRY(look(&before, address, err));
    uint64_t began_ns = sl_clock_ns();
    nanosleep(&pause, NULL);
    sl_status status = look(&now, address, err);
    if (status == SL_OK) {
        status = sl_plan_see(&online.seen, &before, &now, (double)(sl_clock_ns() - began_ns) / 1e9,
                             chunk_of(address), err);
        sl_scrape_free(&now);
    }
    sl_scrape_free(&before);
    SL_TRY(status);
    SL_TRY(sl_plan_advise(&online, err));
    (v->json ? sl_plan_online_json : sl_plan_online_text)(&online, stdout);
    return SL_OK;
}

/* ---- the command ---- */

static sl_status check(const struct plan_values *v, const char *path, struct sl_err *err)
{
    if ((path != NULL) == (v->shape != NULL))
        return sl_fail(err, SL_E_USAGE,
                       path ? "a MODEL and --shape are two models; give one of them"
                            : "no model is named; give a pack, a checkpoint, or --shape NAME");
    if ((v->nodes != NULL) == v->this_machine)
        return sl_fail(err, SL_E_USAGE,
                       v->nodes ? "--nodes and --this-machine are two sets of nodes; give one of them"
                                : "no nodes are named; give --nodes FILE or --this-machine");
    if (v->from_cost && v->this_machine)
        return sl_fail(err, SL_E_USAGE,
                       "--from-cost says what --this-machine would measure; give --nodes with it");
    if (v->chunk && v->chunk_ms)
        return sl_fail(err, SL_E_USAGE, "--chunk and --chunk-ms are two sizes of a chunk; give one of them");
    return SL_OK;
}

static sl_status make(struct sl_plan_report *r, struct sl_pack **pack, const struct plan_values *v,
                      const char *path, struct sl_err *err)
{
    struct sl_plan_model_options model = {path, v->shape, v->bits, v->expert_bits, v->kv};
    SL_TRY(check(v, path, err));
    SL_TRY(load_of(&r->load, v->load, err));
    r->wish = (struct sl_planner_wish){.n_decoders = v->decoders,
                                       .chunk_rows = v->chunk,
                                       .chunk_us = 1000.0 * v->chunk_ms,
                                       .running = v->max_running};
    SL_TRY(targets_of(&r->wish, &r->load, v->slo, err));
    SL_TRY(sl_plan_source_model(r, pack, &model, err));
    return v->this_machine ? plan_machine(r, *pack, v, err) : plan_nodes(r, v, err);
}

static int run_plan(const void *values, const char *const *args, uint32_t n_args)
{
    const struct plan_values *v = values;
    static struct sl_plan_report report;
    struct sl_pack *pack = NULL;
    struct sl_err err = {.status = SL_OK};
    if (v->from_metrics &&
        (n_args > 0 || v->shape || v->nodes || v->this_machine || v->from_cost || v->svg)) {
        sl_fail(&err, SL_E_USAGE,
                "--from-metrics plans what runs there; leave out models, nodes, costs and drawings");
        return sl_command_failed("plan", &err);
    }
    if (v->from_metrics)
        return plan_running(v, &err) == SL_OK ? 0 : sl_command_failed("plan", &err);
    sl_status status = make(&report, &pack, v, n_args > 0 ? args[0] : NULL, &err);
    if (status == SL_OK && v->svg)
        status = sl_plan_report_svg(&report, v->svg, &err);
    if (status == SL_OK)
        (v->json ? sl_plan_report_json : sl_plan_report_text)(&report, stdout);
    sl_pack_close(pack);
    return status == SL_OK ? 0 : sl_command_failed("plan", &err);
}

const struct sl_command sl_command_plan = {
    "plan",
    "[MODEL]",
    "which cut, chunk and nodes a model and a load need, and what they would do",
    "Predicts a pipeline before there is one: the layers of each node, the chunk, decode workers, the time to a first token over the "
    "length of a prompt, requests a second, memory, and what holds it up; beside it, the same nodes with experts sharded over them "
    "and not layers. MODEL is a pack or a checkpoint's directory. The arithmetic is the scheduler's own; it is tried on "
    "published times and on pipelines that were measured.",
    plan_options,
    sizeof(struct plan_values),
    0,
    1,
    run_plan,
};
