/* `sluice pack`: a checkpoint becomes a pack, in the formats asked for; `--random` makes one of a shape
 * alone.
 *
 * The command is a translation: options to formats and rules (model/format.h), a text to moments
 * (node/eval/calibrate.h), and the summary of the packer to a table or to JSON. */
#include "model/pack/pack.h"
#include "node/client/output.h"
#include "node/command/commands.h"
#include "node/command/shared_options.h"
#include "node/eval/calibrate.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

struct pack_values {
    bool force, or_check, feedback, json;
    const char *experts, *dense, *gate_up, *down, *head, *keep, *rotate, *activations, *calibrate, *random;
    uint32_t threads, calibrate_tokens, layers, seed;
};

#define FORMATS "bf16|i8|i4|i4g16|i3|i2"
#define ROW(name, type, field, fallback, choices, min, max, unit, help)                                      \
    {                                                                                                        \
        name, type, offsetof(struct pack_values, field), fallback, choices, min, max, unit, help             \
    }
static const struct sl_option pack_options[] = {
    ROW("experts", SL_OPT_CHOICE, experts, NULL, FORMATS, 0, 0, NULL,
        "Format of the routed experts. Without any format everything is packed exactly, as bf16 stands for."),
    ROW("dense", SL_OPT_CHOICE, dense, NULL, FORMATS, 0, 0, NULL,
        "Of the attention projections, dense and shared feed-forwards, and the head. Router, norms and "
        "embedding stay "
        "exact."),
    ROW("gate-up", SL_OPT_CHOICE, gate_up, NULL, FORMATS, 0, 0, NULL, "Of the experts' gate and up alone."),
    ROW("down", SL_OPT_CHOICE, down, NULL, FORMATS, 0, 0, NULL, "Of the experts' down projection alone."),
    ROW("head", SL_OPT_CHOICE, head, NULL, FORMATS, 0, 0, NULL, "Of the head alone."),
    ROW("keep", SL_OPT_LIST, keep, NULL, NULL, 0, 0, "RULE",
        "Another format for the experts of some layers: first:N=FORMAT, last:N=FORMAT or LAYER=FORMAT. May "
        "be given "
        "several times; the last that applies counts."),
    ROW("rotate", SL_OPT_CHOICE, rotate, "auto", "auto|off|on", 0, 0, NULL,
        "Rotate inputs in Hadamard blocks before they are rounded; auto: for each class and layer where that "
        "lowers the "
        "error, of i8 only as far as calibration shows it."),
    ROW("activations", SL_OPT_CHOICE, activations, "auto", "auto|8|16", 0, 0, "bits",
        "Of the rows that go into integer matrices: 8, or 16 by two products where one would do, almost without error. "
        "auto: 16 when no format has fewer than 8 bits."),
    ROW("calibrate", SL_OPT_STRING, calibrate, NULL, NULL, 0, 0, "FILE",
        "A text like those to be served: errors are weighed by the inputs that it causes. The model is run "
        "over it once, "
        "from an exact pack in the cache, made when it is not there."),
    ROW("calibrate-tokens", SL_OPT_UINT, calibrate_tokens, "16k", NULL, 64, 1048576, "tokens",
        "At most so much of the text."),
    ROW("feedback", SL_OPT_BOOL, feedback, NULL, NULL, 0, 0, NULL,
        "With --calibrate: round column by column and carry each error to the columns that follow. Slow, and "
        "better at 2 "
        "to 4 bits."),
    SL_OPTION_THREADS(pack_values, threads, "0"),
    ROW("random", SL_OPT_STRING, random, NULL, NULL, 0, 0, "SHAPE",
        "Instead of SRC: random weights (drawn from --seed) in the shape of a config.json or of a model: qwen3-30b-a3b, "
        "qwen3-235b-a22b, "
        "olmoe-1b-7b, deepseek-v2-lite, gpt-oss-20b."),
    ROW("layers", SL_OPT_UINT, layers, "0", NULL, 0, 256, "layers",
        "With --random: so many of them; 0: all."),
    SL_OPTION_SEED(pack_values, seed, "1"),
    ROW("force", SL_OPT_BOOL, force, NULL, NULL, 0, 0, NULL, "Replace DST when it is there."),
    ROW("or-check", SL_OPT_BOOL, or_check, NULL, NULL, 0, 0, NULL,
        "When DST is a pack already, read nothing of SRC and compare every file of DST with its digests, as `sluice check` does."),
    SL_OPTION_JSON(pack_values, json),
    {0},
};
#undef ROW

/* A class takes the first of these that was given. */
static enum sl_dtype format_of(const char *own, const char *group)
{
    const char *name = own ? own : group;
    return name ? sl_dtype_named(name) : SL_F32;
}

static sl_status read_formats(struct sl_formats *f, const struct pack_values *v, struct sl_err *err)
{
    f->activations = strcmp(v->activations, "8") == 0    ? SL_ACTIVATIONS_8
                     : strcmp(v->activations, "16") == 0 ? SL_ACTIVATIONS_16
                                                         : SL_ACTIVATIONS_AUTO;
    f->classes[SL_CLASS_ATTENTION] = f->classes[SL_CLASS_DENSE] = format_of(NULL, v->dense);
    f->classes[SL_CLASS_HEAD] = format_of(v->head, v->dense);
    f->classes[SL_CLASS_GATE_UP] = format_of(v->gate_up, v->experts);
    f->classes[SL_CLASS_DOWN] = format_of(v->down, v->experts);
    return v->keep ? sl_formats_keep(f, v->keep, err) : SL_OK;
}

static sl_status check_values(const struct pack_values *v, uint32_t n_args, struct sl_err *err)
{
    if (v->random && n_args != 1)
        return sl_fail(err, SL_E_USAGE,
                       "with --random there is no SRC; the form is `sluice pack --random SHAPE DST`");
    if (!v->random && n_args != 2)
        return sl_fail(err, SL_E_USAGE, "DST is missing; the form is `sluice pack SRC DST`");
    if (v->random && v->calibrate)
        return sl_fail(err, SL_E_USAGE, "--calibrate has nothing to measure in random weights; leave it out");
    if (!v->random && v->layers)
        return sl_fail(err, SL_E_USAGE, "--layers is for --random; a checkpoint is packed whole");
    if (v->force && v->or_check)
        return sl_fail(err, SL_E_USAGE, "--force replaces DST, --or-check keeps it; give one of them");
    if (v->feedback && !v->calibrate)
        return sl_fail(err, SL_E_USAGE, "--feedback needs the inputs of a text; add --calibrate FILE");
    return SL_OK;
}

/* ---- the result ---- */

static void total_of(const struct sl_pack_summary *s, struct sl_pack_class *total)
{
    *total = (struct sl_pack_class){0};
    for (int c = 0; c < SL_CLASSES; c++) {
        total->use.weights += s->classes[c].use.weights;
        total->use.bytes += s->classes[c].use.bytes;
    }
}

static double decibels(double signal, double noise)
{
    return 10 * log10(signal / noise);
}

static void print_class(const char *name, const char *format, const struct sl_pack_class *c, bool random)
{
    char snr[64];
    snprintf(snr, sizeof snr, "%s", random ? "random" : "exact");
    if (c->weighed_noise > 0) /* the rotation and the feedback serve this one, at the cost of the other */
        snprintf(snr, sizeof snr, "%.2f dB (weighed %.2f)", decibels(c->signal, c->noise),
                 decibels(c->weighed_signal, c->weighed_noise));
    else if (c->noise > 0)
        snprintf(snr, sizeof snr, "%.2f dB", decibels(c->signal, c->noise));
    printf("  %-16s %10.1f MiB %7.3f bits a weight   %s, %s\n", name, (double)c->use.bytes / 1048576,
           sl_class_bits(&c->use), format, snr);
}

static void print_summary(const struct sl_pack *pack, const struct sl_pack_summary *s, bool random)
{
    char format[200];
    struct sl_pack_class total;
    for (int c = 0; c < SL_CLASSES; c++) {
        sl_pack_class_format(pack, (enum sl_class)c, format, sizeof format);
        if (s->classes[c].use.weights)
            print_class(sl_class_name((enum sl_class)c), format, &s->classes[c], random);
    }
    total_of(s, &total);
    printf("  %-16s %10.1f MiB %7.3f bits a weight\n", "all", (double)total.use.bytes / 1048576,
           sl_class_bits(&total.use));
}

static void print_decibels(double signal, double noise)
{
    if (noise > 0)
        printf("%.3f", decibels(signal, noise));
    else
        fputs("null", stdout);
}

static void print_summary_json(const struct sl_pack *pack, const struct sl_pack_summary *s)
{
    char format[200];
    struct sl_pack_class total;
    total_of(s, &total);
    fputs("{\"path\": ", stdout);
    sl_json_string(stdout, sl_pack_path(pack), strlen(sl_pack_path(pack)));
    printf(",\n \"digest\": \"%s\", \"weights\": %" PRIu64 ", \"bytes\": %" PRIu64
           ", \"bits_per_weight\": %.4f,\n"
           " \"classes\": {",
           s->digest, total.use.weights, total.use.bytes, sl_class_bits(&total.use));
    const char *comma = "";
    for (int i = 0; i < SL_CLASSES; i++) {
        const struct sl_pack_class *c = &s->classes[i];
        if (!c->use.weights)
            continue;
        sl_pack_class_format(pack, (enum sl_class)i, format, sizeof format);
        printf("%s\n  \"%s\": {\"format\": \"%s\", \"weights\": %" PRIu64 ", \"bytes\": %" PRIu64
               ", \"bits_per_weight\": %.4f, \"snr_db\": ",
               comma, sl_class_name((enum sl_class)i), format, c->use.weights, c->use.bytes,
               sl_class_bits(&c->use));
        print_decibels(c->signal, c->noise);
        fputs(", \"weighed_snr_db\": ", stdout);
        print_decibels(c->weighed_signal, c->weighed_noise);
        fputs("}", stdout);
        comma = ",";
    }
    fputs("}}\n", stdout);
}

static sl_status print_result(const struct pack_values *v, const char *src, const char *dst,
                              const struct sl_pack_summary *s, struct sl_err *err)
{
    struct sl_pack *pack;
    SL_TRY(sl_pack_open(&pack, dst, err));
    if (v->json) {
        print_summary_json(pack, s);
    } else {
        printf("%s is packed in %s\n", src, dst);
        print_summary(pack, s, v->random != NULL);
    }
    sl_pack_close(pack);
    return SL_OK;
}

/* ---- the command ---- */

static sl_status check(const struct pack_values *v, const char *dst, struct sl_err *err)
{
    struct sl_loading how = {.threads = v->threads, .progress = SL_PROGRESS_BAR};
    struct sl_pack *pack;
    SL_TRY(sl_pack_open(&pack, dst, err));
    sl_status status = sl_pack_verify(pack, &how, err);
    if (status == SL_OK)
        printf("%s is there, and whole: digest %s\n", dst, sl_pack_digest(pack));
    sl_pack_close(pack);
    return status;
}

static sl_status pack(const struct pack_values *v, const char *const *args, uint32_t n_args,
                      struct sl_err *err)
{
    static const char *const rotations[] = {"auto", "off", "on"};
    struct sl_pack_summary summary;
    struct sl_pack_options options = {
        .force = v->force, .progress = true, .threads = v->threads, .summary = &summary};
    for (int i = 0; i < 3; i++)
        if (strcmp(v->rotate, rotations[i]) == 0)
            options.rotate = (enum sl_rotate)i;
    SL_TRY(check_values(v, n_args, err));
    SL_TRY(read_formats(&options.formats, v, err));
    const char *dst = args[n_args - 1];
    if (v->or_check && sl_pack_is_pack(dst))
        return check(v, dst, err);
    if (v->random) {
        SL_TRY(sl_pack_write_random(v->random, v->layers, v->seed, dst, &options, err));
        return print_result(v, v->random, dst, &summary, err);
    }
    struct sl_calibrator *calibrator = NULL;
    struct sl_pack_calibration calibration;
    if (v->calibrate) {
        struct sl_calibrate_options how = {.text = v->calibrate,
                                           .max_tokens = v->calibrate_tokens,
                                           .threads = v->threads,
                                           .feedback = v->feedback};
        SL_TRY(sl_calibrator_create(&calibrator, args[0], &how, &calibration, err));
        options.calibration = &calibration;
    }
    sl_status status = sl_pack_write(args[0], dst, &options, err);
    sl_calibrator_destroy(calibrator);
    return status == SL_OK ? print_result(v, args[0], dst, &summary, err) : status;
}

static int run_pack(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err = {0};
    return pack(values, args, n_args, &err) == SL_OK ? 0 : sl_command_failed("pack", &err);
}

const struct sl_command sl_command_pack = {
    "pack",
    "SRC DST",
    "turn a Hugging Face checkpoint into a pack",
    "Reads config.json, tokenizer.json and the safetensors of SRC and writes the pack DST: one file a layer, "
    "in the "
    "layout that the kernels read, so that a stage maps its files and nothing else. DST appears whole or not "
    "at all. "
    "Formats: bf16 (exact), i8, i4 (4.125 bits a weight), i4g16 (4.25), i3 (3.25), i2 (2.25).",
    pack_options,
    sizeof(struct pack_values),
    1,
    2,
    run_pack,
};
