/* The commands that look at files and servers without serving: inspect, check, version, health.
 *
 * `inspect --stages N` prints for each stage the bytes it will hold, by the same functions that the
 * stage uses to take its memory (pipeline/decide/plan.h, pipeline/stage/stage.h): what is printed is what is
 * planned. Of a checkpoint that is not packed yet, the stages are those of an exact pack, which `serve` would make of it. */
#include "base/cpu.h"
#include "kernels/cuda/images.h"
#include "model/pack/weights.h"
#include "model/source/safetensors.h"
#include "node/client/output.h"
#include "node/command/commands.h"
#include "node/command/security.h"
#include "node/local/cluster.h"
#include "node/rpc/rpc.h"
#include "pipeline/link/transport_nccl_api.h"
#include "pipeline/stage/device_kind.h"
#include "pipeline/stage/sample.h"
#include "pipeline/stage/stage.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- inspect ---- */

struct inspect_values {
    uint32_t stages, decode_stages, threads, chunk, context, max_prefill, max_running, kv_tokens;
    const char *kv, *layers, *device, *rows;
    bool json;
};

static const struct sl_option inspect_options[] = {
    SL_OPTION_JSON(inspect_values, json),
    SL_OPTION_STAGES(inspect_values, stages, NULL),
    SL_OPTION_LAYERS(inspect_values, layers),
    SL_OPTION_DECODE_STAGES(inspect_values, decode_stages),
    SL_OPTION_THREADS(inspect_values, threads, "1"),
    SL_OPTION_DEVICE(inspect_values, device),
    SL_OPTION_ROWS(inspect_values, rows),
    SL_OPTION_CHUNK(inspect_values, chunk),
    SL_OPTION_CONTEXT(inspect_values, context),
    SL_OPTION_MAX_PREFILL(inspect_values, max_prefill),
    SL_OPTION_MAX_RUNNING(inspect_values, max_running),
    SL_OPTION_KV_TOKENS(inspect_values, kv_tokens),
    SL_OPTION_KV(inspect_values, kv),
    {0},
};

struct report { /* what inspect knows about a path, wherever it read it */
    const char *path, *kind;
    enum sl_device_kind device; /* that stages are planned for */
    struct sl_shape shape;
    struct sl_pack *pack;    /* NULL: a checkpoint */
    struct sl_pack *planned; /* what the stages are planned for: the pack, or what packing would give */
    uint64_t layer_bytes[SL_MAX_LAYERS], embed_bytes, head_bytes, total_bytes;
    struct sl_class_use uses[SL_CLASSES]; /* of a pack */
    char formats[128];
};

static void add_format(struct report *r, const char *format)
{
    size_t used = strlen(r->formats);
    char padded[20], all[160]; /* "i4" is part of "i4g16" but not of ", i4g16," */
    snprintf(padded, sizeof padded, " %s,", format);
    snprintf(all, sizeof all, " %s,", r->formats);
    if (!strstr(all, padded))
        snprintf(r->formats + used, sizeof r->formats - used, "%s%s", used ? ", " : "", format);
}

static sl_status account(struct report *r, uint32_t begin, uint32_t end, bool with_embed, bool with_head,
                         struct sl_err *err)
{
    struct sl_weights weights;
    SL_TRY(sl_weights_open(&weights, r->pack, begin, end, with_embed, with_head,
                           &(struct sl_loading){.verify = SL_VERIFY_OFF}, err));
    sl_weights_account(&weights, &r->shape, r->uses);
    for (uint32_t i = begin; i < end; i++) {
        const struct sl_layer *layer = &weights.layers[i - begin];
        add_format(r, sl_dtype_name(layer->qkv.dtype));
        const struct sl_ffn *ffn = layer->is_moe ? &layer->expert0 : &layer->dense;
        add_format(r, sl_dtype_name(ffn->gate_up.dtype));
        add_format(r, sl_dtype_name(ffn->down.dtype));
    }
    sl_weights_close(&weights);
    return SL_OK;
}

/* A layer at a time, so that a machine which can't hold the model can inspect it. */
static sl_status read_pack(struct report *r, struct sl_err *err)
{
    r->kind = "pack";
    SL_TRY(sl_pack_open(&r->pack, r->path, err));
    r->shape = *sl_pack_shape(r->pack);
    r->embed_bytes = sl_pack_embed_bytes(r->pack);
    r->head_bytes = sl_pack_head_bytes(r->pack);
    r->total_bytes = r->embed_bytes + r->head_bytes;
    for (uint32_t i = 0; i < r->shape.n_layers; i++) {
        r->layer_bytes[i] = sl_pack_layer_bytes(r->pack, i);
        r->total_bytes += r->layer_bytes[i];
        SL_TRY(account(r, i, i + 1, false, false, err));
    }
    return account(r, 0, 0, true, true, err);
}

/* "model.layers.12.…" -> 12; anything else is counted with the embedding or the head. */
static bool layer_of(const char *name, uint32_t n_layers, uint32_t *layer)
{
    static const char prefix[] = "model.layers.";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return false;
    char *end;
    unsigned long value = strtoul(name + sizeof prefix - 1, &end, 10);
    *layer = (uint32_t)value;
    return *end == '.' && value < n_layers;
}

static sl_status read_checkpoint(struct report *r, struct sl_err *err)
{
    r->kind = "checkpoint";
    SL_TRY(sl_shape_load(&r->shape, r->path, err));
    struct sl_index index = {0};
    sl_status status = sl_index_open_dir(&index, r->path, err);
    for (uint32_t i = 0; status == SL_OK && i < index.n_tensors; i++) {
        const struct sl_tensor *tensor = &index.tensors[i];
        uint32_t layer;
        uint64_t bytes = tensor->end - tensor->begin;
        r->total_bytes += bytes;
        add_format(r, tensor->dtype);
        if (layer_of(tensor->name, r->shape.n_layers, &layer))
            r->layer_bytes[layer] += bytes;
        else if (strstr(tensor->name, "embed"))
            r->embed_bytes += bytes;
        else
            r->head_bytes += bytes;
    }
    sl_index_close(&index);
    return status;
}

static uint32_t count_moe(const struct sl_shape *shape)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < shape->n_layers; i++)
        n += shape->is_moe[i];
    return n;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / 1048576.0;
}

static void print_classes(const struct report *r)
{
    struct sl_class_use all = {0};
    char format[200];
    for (int c = 0; c < SL_CLASSES; c++) {
        const struct sl_class_use *use = &r->uses[c];
        sl_pack_class_format(r->pack, (enum sl_class)c, format, sizeof format);
        if (use->weights)
            printf("    %-16s %12.2f MiB %8.3f bits a weight   %s\n", sl_class_name((enum sl_class)c),
                   mib(use->bytes), sl_class_bits(use), format);
        all.weights += use->weights;
        all.bytes += use->bytes;
    }
    printf("    %-16s %12.2f MiB %8.3f bits a weight\n", "all", mib(all.bytes), sl_class_bits(&all));
}

static void print_classes_json(const struct report *r)
{
    char format[200];
    const char *comma = "";
    fputs(",\n \"classes\": {", stdout);
    for (int c = 0; c < SL_CLASSES; c++) {
        const struct sl_class_use *use = &r->uses[c];
        if (!use->weights)
            continue;
        sl_pack_class_format(r->pack, (enum sl_class)c, format, sizeof format);
        printf("%s\"%s\": {\"format\": \"%s\", \"weights\": %" PRIu64 ", \"bytes\": %" PRIu64
               ", \"bits_per_weight\": %.4f}",
               comma, sl_class_name((enum sl_class)c), format, use->weights, use->bytes, sl_class_bits(use));
        comma = ",\n  ";
    }
    fputs("}", stdout);
}

static void print_shape(const struct report *r)
{
    const struct sl_shape *s = &r->shape;
    printf("%s\n  %s, %s (%s)\n", r->path, r->kind, s->architecture, s->model_type);
    printf("  %u layers (%u with experts), width %u, vocabulary %u, context %u\n", s->n_layers, count_moe(s),
           s->d_model, s->vocab, s->max_pos);
    printf("  attention: %u query and %u key-value heads of %u%s%s\n", s->n_q, s->n_kv, s->d_head,
           s->qk_norm ? ", q/k norm" : "", s->qkv_bias ? ", biases" : "");
    if (s->n_experts > 0)
        printf("  experts: %u of width %u, %u for each token%s\n", s->n_experts, s->d_expert, s->top_k,
               s->renorm ? ", gates normalised" : "");
    if (s->d_shared > 0)
        printf("  shared expert of width %u\n", s->d_shared);
    if (count_moe(s) < s->n_layers)
        printf("  dense layers of width %u\n", s->d_dense);
    printf("  head %s the embedding\n", s->tied_head ? "tied to" : "apart from");
    printf("  formats: %s\n", r->formats);
    if (r->pack) {
        printf("  digest: %s\n", sl_pack_digest(r->pack));
        print_classes(r);
    }
    char profiles[64];
    printf("  numerics profiles of this machine: %s\n",
           sl_profile_list(sl_ops_profiles(), profiles, sizeof profiles));
    printf("  %.1f MiB: embedding %.1f, layers %.1f each, norm and head %.1f\n", mib(r->total_bytes),
           mib(r->embed_bytes), mib(r->total_bytes - r->embed_bytes - r->head_bytes) / s->n_layers,
           mib(r->head_bytes));
    for (uint32_t i = 0; i < s->n_layers; i++)
        printf("    layer %3u  %-7s %10.2f MiB\n", i, s->is_moe[i] ? "experts" : "dense",
               mib(r->layer_bytes[i]));
}

static void print_shape_json(const struct report *r)
{
    const struct sl_shape *s = &r->shape;
    printf("{\"path\": ");
    sl_json_string(stdout, r->path, strlen(r->path));
    printf(",\n \"kind\": \"%s\", \"model_type\": \"%s\", \"architecture\": \"%s\",\n", r->kind,
           s->model_type, s->architecture);
    printf(" \"layers\": %u, \"moe_layers\": %u, \"d_model\": %u, \"vocab\": %u, \"context\": %u,\n",
           s->n_layers, count_moe(s), s->d_model, s->vocab, s->max_pos);
    printf(" \"query_heads\": %u, \"kv_heads\": %u, \"d_head\": %u, \"qk_norm\": %s, \"qkv_bias\": "
           "%s, \"tied_head\": %s,\n",
           s->n_q, s->n_kv, s->d_head, s->qk_norm ? "true" : "false", s->qkv_bias ? "true" : "false",
           s->tied_head ? "true" : "false");
    printf(" \"experts\": %u, \"experts_per_token\": %u, \"d_expert\": %u, \"d_shared\": %u, "
           "\"d_dense\": %u,\n",
           s->n_experts, s->top_k, s->d_expert, s->d_shared, s->d_dense);
    char profiles[64];
    printf(" \"formats\": \"%s\", \"machine_numerics\": \"%s\", \"digest\": ", r->formats,
           sl_profile_list(sl_ops_profiles(), profiles, sizeof profiles));
    if (r->pack)
        printf("\"%s\"", sl_pack_digest(r->pack));
    else
        fputs("null", stdout);
    printf(",\n \"bytes\": %" PRIu64 ", \"embed_bytes\": %" PRIu64 ", \"head_bytes\": %" PRIu64
           ", \"layer_bytes\": [",
           r->total_bytes, r->embed_bytes, r->head_bytes);
    for (uint32_t i = 0; i < s->n_layers; i++)
        printf("%s%" PRIu64, i > 0 ? ", " : "", r->layer_bytes[i]);
    fputs("]", stdout);
    if (r->pack)
        print_classes_json(r);
}

/* What a node keeps to choose tokens: the last stage a scratch and the ids of one prompt, the decode worker those of each
 * sequence, what steers it and what it has said. */
static size_t sampling_bytes(const struct sl_plan *plan, uint32_t k)
{
    size_t ids = sl_id_words(plan->vocab) * sizeof(uint64_t), one = sl_sample_scratch_bytes(plan->vocab);
    if (k + 1 < plan->n_stages)
        return 0;
    if (k < plan->n_stages)
        return one + ids;
    if (k >= plan->n_stages + plan->max_decoders)
        return 0;
    return one + plan->max_running *
                     (ids + plan->steering_bytes + sl_plan_max_distinct(plan) * 2 * sizeof(uint32_t));
}

/* What is node 1 + k of the plan. */
static sl_status print_stage(const struct report *r, const struct inspect_values *v,
                             const struct sl_plan *plan, uint32_t k, struct sl_err *err)
{
    struct sl_share config = sl_plan_share(plan, k, sl_cpu_threads(v->threads, v->stages));
    struct sl_stage_bytes bytes;
    char name[24];
    config.device = r->device;
    SL_TRY(sl_stage_bytes(&bytes, r->planned, &config, err));
    size_t frames = sl_plan_frame_bytes(plan, 1 + k), sampling = sampling_bytes(plan, k),
           buffers = bytes.buffers + frames + sampling;
    sl_plan_node_name(plan, 1 + k, name);
    if (v->json)
        printf("%s\n  {\"name\": \"%s\", \"begin\": %u, \"end\": %u, \"weight_bytes\": %zu, "
               "\"buffer_bytes\": %zu, "
               "\"kv_bytes\": %zu, \"activation_bytes\": %zu, \"scratch_bytes\": %zu, "
               "\"table_bytes\": %zu, "
               "\"logit_bytes\": %zu, \"frame_bytes\": %zu, \"sampling_bytes\": %zu, \"device_bytes\": %zu, "
               "\"pinned_bytes\": %zu}",
               k > 0 ? "," : "", name, config.begin, config.end, bytes.weights, buffers, bytes.kv,
               bytes.activations, bytes.scratch, bytes.tables, bytes.logits, frames, sampling, bytes.device,
               bytes.device > 0 ? bytes.pinned + frames : 0);
    else
        printf("  %-8s layers [%u, %u): weights %.1f MiB, buffers %.1f MiB (KV %.1f, activations "
               "%.1f, scratch %.1f, "
               "tables %.1f, logits %.1f, frames %.1f, sampling %.1f)\n",
               name, config.begin, config.end, mib(bytes.weights), mib(buffers), mib(bytes.kv),
               mib(bytes.activations), mib(bytes.scratch), mib(bytes.tables), mib(bytes.logits), mib(frames),
               mib(sampling));
    if (!v->json && bytes.device > 0)
        printf(
            "           of that in the memory of the GPU, kept by its ECC alone: %.1f MiB; pinned in the host's: %.1f MiB\n",
            mib(bytes.device), mib(bytes.pinned + frames));
    return SL_OK;
}

/* From each stage to the next, with each chunk. */
static size_t rows_bytes(const struct sl_plan *plan)
{
    return plan->n_stages > 1 ? (size_t)plan->max_chunk * plan->d_model * sizeof(float) : 0;
}

/* What stages that are all like this machine would agree on. */
static void foresee_rows(struct sl_plan *plan, const struct inspect_values *v, enum sl_device_kind device)
{
    enum sl_rows_way asked;
    struct sl_nccl nccl;
    struct sl_err why_not;
    int version;
    bool on_gpu =
        (device == SL_DEVICE_CUDA || device == SL_DEVICE_TWIN) && sl_rows_may_go_beside(plan->d_model);
    if (sl_rows_by_name(v->rows, &asked))
        plan->rows = on_gpu && sl_rows_go_beside(asked) ? asked : SL_ROWS_STAGED;
    else if (on_gpu && !sl_device_is_shared(v->device) && rows_bytes(plan) >= plan->rows_from &&
             sl_nccl_open(&nccl, &version, &why_not) == SL_OK)
        plan->rows = SL_ROWS_NCCL;
}

static void print_rows(const struct inspect_values *v, const struct sl_plan *plan)
{
    size_t bytes = rows_bytes(plan);
    if (v->json)
        printf("],\n \"rows\": {\"way\": \"%s\", \"bytes\": %zu}", sl_rows_name(plan->rows), bytes);
    else if (bytes > 0)
        printf("  rows from stage to stage: at most %.1f MiB a chunk, %s (--rows)\n", mib(bytes),
               sl_rows_name(plan->rows));
}

/* What the coordinator keeps for requests that wait, as its core counts it. */
static void print_queue(const struct inspect_values *v)
{
    if (v->json)
        printf(",\n \"queue\": {\"requests\": %d, \"bytes\": %d}}\n", SL_DEFAULT_WAITING, SL_WAITING_BYTES);
    else
        printf(
            "  coordinator: a queue of %d requests at least (--max-waiting) and %.0f MiB of what they hold\n",
            SL_DEFAULT_WAITING, mib(SL_WAITING_BYTES));
}

static sl_status make_plan(struct sl_plan *plan, struct report *r, const struct inspect_values *v,
                           struct sl_err *err)
{
    if (r->pack)
        r->planned = r->pack;
    else
        SL_TRY(sl_pack_foresee(&r->planned, r->path, err));
    struct sl_plan_options options = {
        .n_stages = v->stages,
        .n_decoders = 1,
        .n_parts = v->decode_stages,
        .kv_dtype = sl_pack_kv_dtype(r->planned, v->kv),
        .chunk_tokens = v->chunk,
        .max_prefill = v->max_prefill,
        .max_running = v->max_running,
        .context_tokens = v->context,
        .kv_tokens = v->kv_tokens,
        .epoch = 1,
    };
    uint32_t layers[SL_MAX_STAGES];
    SL_TRY(sl_layers_read(&options.layers, layers, v->layers, v->stages, err));
    SL_TRY(sl_plan_for_shape(plan, &r->shape, &options, err));
    foresee_rows(plan, v, r->device);
    return SL_OK;
}

/* Stages, and then the parts of the decode worker, in the order of their layers. */
static uint32_t nth(const struct sl_plan *plan, uint32_t i)
{
    return i < plan->n_stages ? i : sl_plan_part_node(plan, 0, i - plan->n_stages) - 1;
}

static sl_status inspect(struct report *r, const struct inspect_values *v, struct sl_err *err)
{
    struct sl_plan plan;
    if (v->layers && v->stages == 0)
        return sl_fail(err, SL_E_USAGE, "--layers is of a cut into stages; say --stages, too");
    SL_TRY(sl_device_kind_read(&r->device, v->device, err));
    SL_TRY(sl_pack_is_pack(r->path) ? read_pack(r, err) : read_checkpoint(r, err));
    if (v->stages > 0)
        SL_TRY(make_plan(&plan, r, v, err));
    if (v->json)
        print_shape_json(r);
    else
        print_shape(r);
    if (v->stages > 0 && v->json)
        fputs(",\n \"stages\": [", stdout);
    for (uint32_t i = 0; v->stages > 0 && i < sl_plan_n_members(&plan); i++)
        SL_TRY(print_stage(r, v, &plan, nth(&plan, i), err));
    if (v->stages > 0) {
        print_rows(v, &plan);
        print_queue(v);
    } else if (v->json)
        fputs("}\n", stdout);
    return SL_OK;
}

static int run_inspect(const void *values, const char *const *args, uint32_t n_args)
{
    (void)n_args;
    struct sl_err err = {0};
    struct report *report = calloc(1, sizeof *report);
    if (!report) {
        sl_fail(&err, SL_E_NOMEM, "no memory");
        return sl_command_failed("inspect", &err);
    }
    report->path = args[0];
    sl_status status = inspect(report, values, &err);
    if (report->planned != report->pack)
        sl_pack_close(report->planned);
    sl_pack_close(report->pack);
    free(report);
    return status == SL_OK ? 0 : sl_command_failed("inspect", &err);
}

const struct sl_command sl_command_inspect = {
    "inspect",
    "PATH",
    "what is in a pack or a checkpoint",
    "Prints the family, shapes, formats and bytes of a pack or of a Hugging Face directory, and "
    "with --stages what each stage "
    "of a pipeline would hold, the other options being as given to serve; of a checkpoint, when it is packed exactly. Nothing is "
    "started and nothing written.",
    inspect_options,
    sizeof(struct inspect_values),
    1,
    1,
    run_inspect,
};

/* ---- check ---- */

struct check_values {
    bool add;
    uint32_t threads;
};

static const struct sl_option check_options[] = {
    SL_OPTION_ROW(
        "add", SL_OPT_BOOL, check_values, add, NULL, NULL, 0, 0, NULL,
        "Give a pack of an older version, once it is found whole, the digests of blocks that loading verifies at the "
        "speed of memory. Its digest changes: do it on every node."),
    SL_OPTION_THREADS(check_values, threads, "0"),
    {0},
};

/* Opened anew when it was changed: what is said is what was read. */
static sl_status check_pack(struct sl_pack **pack, const char *path, const struct check_values *v,
                            struct sl_err *err)
{
    struct sl_loading how = {.threads = v->threads, .progress = SL_PROGRESS_BAR};
    SL_TRY(sl_pack_open(pack, path, err));
    if (!v->add || sl_pack_has_digests(*pack))
        return sl_pack_verify(*pack, &how, err);
    SL_TRY(sl_pack_add_digests(*pack, &how, err));
    sl_pack_close(*pack);
    return sl_pack_open(pack, path, err);
}

static int run_check(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_pack *pack = NULL;
    struct sl_err err = {0};
    (void)n_args;
    if (!sl_pack_is_pack(args[0])) {
        sl_fail(&err, SL_E_DATA, "%s is not a pack (it has no pack.json); `sluice pack SRC DST` makes one",
                args[0]);
        return sl_command_failed("check", &err);
    }
    sl_status status = check_pack(&pack, args[0], values, &err);
    if (status == SL_OK)
        printf("%s is whole: every file has the SHA-256 of its manifest%s, digest %s\n", args[0],
               sl_pack_has_digests(pack) ? ", every block its XXH3"
                                         : " (no digests of blocks; --add makes them)",
               sl_pack_digest(pack));
    sl_pack_close(pack);
    return status == SL_OK ? 0 : sl_command_failed("check", &err);
}

const struct sl_command sl_command_check = {
    "check",
    "PATH",
    "verify every file of a pack",
    "Loads all that serving would, and compares each block and each file of the pack with its digests. Exit code 65 when a "
    "byte is wrong, or something could not be served.",
    check_options,
    sizeof(struct check_values),
    1,
    1,
    run_check,
};

/* ---- health ---- */

struct health_values {
    const char *endpoint, *service;
    uint32_t timeout_ms;
    struct sl_client_tls tls;
};

static const struct sl_option health_options[] = {
    SL_OPTION_ENDPOINT(health_values, endpoint, "127.0.0.1:50051"),
    SL_CLIENT_TLS_ROWS(health_values, tls),
    {"service", SL_OPT_STRING, offsetof(struct health_values, service), NULL, NULL, 0, 0, NULL,
     "One of its services; without it, the server as a whole."},
    {"timeout-ms", SL_OPT_UINT, offsetof(struct health_values, timeout_ms), "2000", NULL, 1, 600000, "ms",
     "How long to wait for an answer."},
    {0},
};

/* HealthCheckRequest{service = 1} and HealthCheckResponse{status = 1} are a field each: read and
 * written here by hand. */
static sl_status check_health(const struct health_values *v, struct sl_err *err)
{
    enum { MAX_SERVICE = 120, FIELD_1_BYTES = 0x0a, FIELD_1_VARINT = 0x08, SERVING = 1 };
    uint8_t request[MAX_SERVICE + 2] = {FIELD_1_BYTES, 0};
    size_t name_bytes = v->service ? strlen(v->service) : 0;
    if (name_bytes > MAX_SERVICE)
        return sl_fail(err, SL_E_USAGE, "--service is longer than %d bytes", MAX_SERVICE);
    request[1] = (uint8_t)name_bytes;
    if (name_bytes > 0)
        memcpy(request + 2, v->service, name_bytes);
    struct sl_rpc_channel *channel;
    uint8_t *reply = NULL;
    size_t reply_bytes = 0;
    SL_TRY(sl_client_tls_use(&v->tls, err));
    SL_TRY(sl_rpc_channel_open(&channel, v->endpoint, err));
    sl_status status =
        sl_rpc_unary(channel, "/grpc.health.v1.Health/Check", request, name_bytes ? name_bytes + 2 : 0,
                     v->timeout_ms, &reply, &reply_bytes, err);
    bool serving = status == SL_OK && reply_bytes >= 2 && reply[0] == FIELD_1_VARINT && reply[1] == SERVING;
    free(reply);
    sl_rpc_channel_close(channel);
    SL_TRY(status);
    return serving ? SL_OK
                   : sl_fail(err, SL_E_UNAVAILABLE,
                             "it answers, and loads, drains or has no place for more connections; ask "
                             "again later (/readyz says which)");
}

static int run_health(const void *values, const char *const *args, uint32_t n_args)
{
    (void)args;
    (void)n_args;
    const struct health_values *v = values;
    struct sl_err err = {0};
    sl_rpc_init();
    sl_status status = check_health(v, &err);
    sl_rpc_fini();
    if (status == SL_OK) {
        printf("%s is serving\n", v->endpoint);
        return 0;
    }
    if (status == SL_E_UNAVAILABLE)
        sl_err_prefix(&err, "%s is not serving", v->endpoint);
    int code = sl_command_failed("health", &err);
    return code == sl_status_exit_code(SL_E_USAGE) ? code : sl_status_exit_code(SL_E_UNAVAILABLE);
}

const struct sl_command sl_command_health = {
    "health",
    "",
    "is a server serving? exit code 0 or 69",
    "Asks grpc.health.v1.Health/Check, as a Kubernetes probe does. Exit code 0: serving; 69: not, "
    "or not there.",
    health_options,
    sizeof(struct health_values),
    0,
    0,
    run_health,
};

/* ---- version ---- */

struct version_values {
    bool json;
};

static const struct sl_option version_options[] = {
    SL_OPTION_JSON(version_values, json),
    {0},
};

static int run_version(const void *values, const char *const *args, uint32_t n_args)
{
    (void)args;
    (void)n_args;
    const struct version_values *v = values;
    static const struct {
        uint32_t bit;
        const char *name;
    } names[] = {{SL_CPU_AVX2, "avx2"},
                 {SL_CPU_AVX512, "avx512"},
                 {SL_CPU_VNNI, "vnni"},
                 {SL_CPU_BF16, "bf16"},
                 {SL_CPU_AMX, "amx"}};
    uint32_t features;
    struct sl_err err = {0};
    char model[128], list[64] = "", profiles[64];
    if (sl_cpu_features(&features, &err) != SL_OK)
        return sl_command_failed("version", &err);
    sl_cpu_model_name(model, sizeof model);
    sl_profile_list(sl_ops_profiles(), profiles, sizeof profiles);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (features & names[i].bit)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", list[0] ? " " : "",
                     names[i].name);
    if (!v->json) {
        printf("sluice %s (%s), %s\n%s: %s\nnumerics: %s\ntransports: local ucx\ncuda: %s\n", SLUICE_VERSION,
               SLUICE_GIT, __VERSION__, model, list[0] ? list : "no vector extension we use", profiles,
               sl_gpu_images_made);
        return 0;
    }
    printf("{\"version\": \"%s\", \"git\": \"%s\", \"compiler\": \"%s\", \"cpu\": ", SLUICE_VERSION,
           SLUICE_GIT, __VERSION__);
    sl_json_string(stdout, model, strlen(model));
    printf(", \"features\": \"%s\", \"machine_numerics\": \"%s\", \"transports\": [\"local\", "
           "\"ucx\"], \"cuda\": \"%s\"}\n",
           list, profiles, sl_gpu_images_made);
    return 0;
}

const struct sl_command sl_command_version = {
    "version",
    "",
    "version, build and processor",
    "Prints what this binary is and what it would use of this machine.",
    version_options,
    sizeof(struct version_values),
    0,
    0,
    run_version,
};
