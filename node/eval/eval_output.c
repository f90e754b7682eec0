/* The words and the JSON of `sluice eval`. Numbers keep six significant digits in JSON's figures, which is
 * more than any standard error leaves meaning to; an error that is not known (a single window) is null there
 * and left out in words. */
#include "node/eval/eval_output.h"

#include "base/clock.h"
#include "node/client/output.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- progress ---- */

void sl_eval_progress_start(struct sl_eval_progress *progress, uint32_t n_windows)
{
    *progress = (struct sl_eval_progress){
        .terminal = isatty(STDERR_FILENO), .n_windows = n_windows, .began_ns = sl_clock_ns()};
}

static void add_window(struct sl_eval_progress *p, const struct sl_position *positions, uint32_t per_window)
{
    double nll = 0, kld = 0;
    for (uint32_t i = 0; i < per_window; i++) {
        nll += positions[i].nll;
        kld += positions[i].kld;
    }
    p->nll += nll / per_window;
    p->kld += kld / per_window;
}

void sl_eval_progress_add(struct sl_eval_progress *progress, uint32_t done,
                          const struct sl_position *positions, uint32_t per_window, bool with_reference)
{
    enum { REDRAW_NS = 100000000 };
    struct sl_eval_progress *p = progress;
    add_window(p, positions, per_window);
    uint64_t now = sl_clock_ns();
    uint32_t tenths = (uint32_t)((uint64_t)done * 10 / p->n_windows);
    if (p->terminal ? done < p->n_windows && now - p->drawn_ns < REDRAW_NS : tenths == p->tenths)
        return;
    p->drawn_ns = now;
    p->tenths = tenths;
    double left = (double)(now - p->began_ns) * 1e-9 / done * (p->n_windows - done);
    char kld[48] = "";
    if (with_reference)
        snprintf(kld, sizeof kld, ", KL divergence %.6f", p->kld / done);
    fprintf(stderr, "%swindow %u of %u, %.0f s left; so far perplexity %.3f%s%s", p->terminal ? "\r" : "",
            done, p->n_windows, ceil(left), exp(p->nll / done), kld, p->terminal ? "\x1b[K" : "\n");
    fflush(stderr);
}

void sl_eval_progress_end(const struct sl_eval_progress *progress)
{
    if (progress->terminal)
        fputs("\r\x1b[K", stderr);
}

/* ---- for people ---- */

static void print_model(const char *role, const struct sl_eval_model *model,
                        const struct sl_estimate *perplexity)
{
    struct sl_class_use all = sl_eval_matrices(model), experts = sl_eval_experts(model);
    printf("%s %s\n   ", role, model->config.path);
    for (enum sl_class c = 0; c < SL_CLASS_ROUTER; c++) {
        char format[200];
        sl_pack_class_format(model->pack, c, format, sizeof format);
        if (model->uses[c].weights > 0)
            printf(" %s %s;", sl_class_name(c), format);
    }
    printf(" KV %s; profile %s\n    %.3f bits a weight", model->kv, sl_profile_name(model->config.profile),
           sl_class_bits(&all));
    if (experts.weights > 0)
        printf(" (experts %.3f)", sl_class_bits(&experts));
    printf(", perplexity %.4f", perplexity->value);
    if (!isnan(perplexity->error))
        printf(" ± %.4f", perplexity->error);
    putchar('\n');
}

/* "  KL divergence, mean      0.00231 ± 0.00003" */
static void print_estimate(const char *name, struct sl_estimate e, double unit, const char *format,
                           const char *suffix)
{
    printf("  %-44s ", name);
    printf(format, unit * e.value);
    if (!isnan(e.error)) {
        printf(" ± ");
        printf(format, unit * e.error);
    }
    printf("%s\n", suffix);
}

void sl_eval_print(const struct sl_eval_run *run)
{
    const struct sl_divergence *f = &run->figures;
    printf("%s: %u tokens, %u windows of %u; the last %u predictions of each are scored\n", run->text,
           run->n_tokens, run->n_windows, run->context, run->per_window);
    print_model("model    ", run->model, &f->perplexity);
    if (run->reference) {
        print_model("reference", run->reference, &f->perplexity_reference);
        print_estimate("perplexity, model to reference", f->perplexity_ratio, 1, "%.5f", "");
        print_estimate("KL divergence, mean", f->kld_mean, 1, "%.7f", " nats");
        print_estimate("KL divergence, median", f->kld_median, 1, "%.7f", "");
        print_estimate("KL divergence, 99th percentile", f->kld_p99, 1, "%.7f", "");
        printf("  %-44s %.7f\n", "KL divergence, maximum", f->kld_max);
        print_estimate("same likeliest token", f->same_top, 100, "%.3f", " %");
        print_estimate("probability of the true token, mean change", f->gap_mean, 100, "%.4f", " %");
        print_estimate("probability of the true token, rms change", f->gap_rms, 100, "%.4f", " %");
    }
    double read = (double)run->n_windows * run->context;
    printf("%.1f s, %.0f tokens/s, %u threads\n", run->seconds, read / run->seconds, run->n_threads);
}

/* ---- JSON ---- */

static void number(double value)
{
    if (isfinite(value))
        printf("%.10g", value);
    else
        fputs("null", stdout);
}

/* before: what separates it from the one before. */
static void json_estimate(const char *before, const char *name, struct sl_estimate e)
{
    printf("%s\n  \"%s\": {\"value\": ", before, name);
    number(e.value);
    fputs(", \"error\": ", stdout);
    number(e.error);
    putchar('}');
}

static void json_model(const char *role, const struct sl_eval_model *model)
{
    struct sl_class_use all = sl_eval_matrices(model), experts = sl_eval_experts(model);
    printf(" \"%s\": {\"path\": ", role);
    sl_json_string(stdout, model->config.path, strlen(model->config.path));
    printf(", \"digest\": \"%s\", \"kv\": \"%s\", \"profile\": \"%s\",\n  \"bits_per_weight\": %.6f, "
           "\"expert_bits_per_weight\": ",
           sl_pack_digest(model->pack), model->kv, sl_profile_name(model->config.profile),
           sl_class_bits(&all));
    number(experts.weights > 0 ? sl_class_bits(&experts) : NAN);
    fputs(",\n  \"classes\": {", stdout);
    const char *separator = "";
    for (enum sl_class c = 0; c < SL_CLASSES; c++) {
        char format[200];
        if (model->uses[c].weights == 0)
            continue;
        sl_pack_class_format(model->pack, c, format, sizeof format);
        printf("%s\n   \"%s\": {\"format\": \"%s\", \"weights\": %" PRIu64 ", \"bytes\": %" PRIu64 "}",
               separator, sl_class_name(c), format, model->uses[c].weights, model->uses[c].bytes);
        separator = ",";
    }
    fputs("}},\n", stdout);
}

static void json_comparison(const struct sl_divergence *f)
{
    json_estimate(",", "perplexity_reference", f->perplexity_reference);
    json_estimate(",", "perplexity_ratio", f->perplexity_ratio);
    json_estimate(",", "kld_mean", f->kld_mean);
    json_estimate(",", "kld_median", f->kld_median);
    json_estimate(",", "kld_p99", f->kld_p99);
    fputs(",\n  \"kld_max\": ", stdout);
    number(f->kld_max);
    json_estimate(",", "same_top", f->same_top);
    json_estimate(",", "true_token_probability_mean_change", f->gap_mean);
    json_estimate(",", "true_token_probability_rms_change", f->gap_rms);
}

void sl_eval_print_json(const struct sl_eval_run *run)
{
    printf("{\"text\": ");
    sl_json_string(stdout, run->text, strlen(run->text));
    printf(", \"tokens\": %u, \"context\": %u, \"windows\": %u, \"positions_per_window\": %u,\n "
           "\"positions\": %" PRIu64
           ", \"threads\": %u, \"isa\": \"%s\", \"seconds\": %.3f, \"tokens_per_second\": %.1f,\n",
           run->n_tokens, run->context, run->n_windows, run->per_window,
           (uint64_t)run->n_windows * run->per_window, run->n_threads, sl_stage_isa(run->model->stage),
           run->seconds, (double)run->n_windows * run->context / run->seconds);
    json_model("model", run->model);
    if (run->reference)
        json_model("reference", run->reference);
    else
        fputs(" \"reference\": null,\n", stdout);
    fputs(" \"figures\": {", stdout);
    json_estimate("", "perplexity", run->figures.perplexity);
    if (run->reference)
        json_comparison(&run->figures);
    fputs("}}\n", stdout);
}
