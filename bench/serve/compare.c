/* Two results beside each other (compare.h). With repeats on both sides a difference is tested between runs (Welch), which is what
 * another run would show; with one run each, by the intervals of the two figures, which know nothing of what changes from run to
 * run, and that is said. */
#include "bench/serve/compare.h"
#include "bench/serve/interval.h"
#include "model/json_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES = 256 << 20, RUNS_MAX = 128 };

struct compared {
    const char *name, *measure, *quantile; /* quantile NULL: a number of the summary */
    bool more_is_better;
};
static const struct compared rows[] = {
    {"TTFT p50", "ttft", "p50", false},
    {"TTFT p90", "ttft", "p90", false},
    {"TTFT p99", "ttft", "p99", false},
    {"ITL p50", "itl", "p50", false},
    {"ITL p99", "itl", "p99", false},
    {"TPOT p50", "tpot", "p50", false},
    {"TPOT p99", "tpot", "p99", false},
    {"E2E p50", "e2el", "p50", false},
    {"E2E p99", "e2el", "p99", false},
    {"requests/s", "requests_per_s", NULL, true},
    {"tokens/s out", "output_tokens_per_s", NULL, true},
    {"goodput/s", "good_per_s", NULL, true},
};

/* A figure of one side. */
struct compared_side {
    double of_runs[RUNS_MAX];
    uint32_t n;
    double value, half; /* half of the interval of the only run; NAN: none */
};

static double number(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static struct compared_side side_of(const json_t *point, const struct compared *row)
{
    json_t *runs = json_object_get(json_object_get(point, "sluice"), "runs");
    struct compared_side side = {.value = NAN, .half = NAN};
    double sum = 0;
    for (size_t i = 0; i < json_array_size(runs) && side.n < RUNS_MAX; i++) {
        json_t *all = json_object_get(json_array_get(runs, i), "all");
        json_t *figure =
            row->quantile ? json_object_get(json_object_get(all, row->measure), row->quantile) : NULL;
        double value = row->quantile ? number(figure, "value") : number(all, row->measure);
        if (isnan(value))
            return (struct compared_side){.value = NAN, .half = NAN};
        side.half = (number(figure, "high") - number(figure, "low")) / 2;
        side.of_runs[side.n++] = value;
        sum += value;
    }
    if (side.n)
        side.value = sum / side.n;
    return side;
}

static void write_verdict(const struct compared *row, const struct compared_side *a,
                          const struct compared_side *b, FILE *to)
{
    double p = NAN;
    bool differs, told = true;
    if (a->n > 1 && b->n > 1) {
        differs = sl_interval_differ(a->of_runs, a->n, b->of_runs, b->n, &p);
    } else {
        told = isfinite(a->half) && isfinite(b->half);
        differs = told && fabs(a->value - b->value) > sqrt(a->half * a->half + b->half * b->half);
    }
    bool better = row->more_is_better ? b->value > a->value : b->value < a->value;
    fputs(!told ? "cannot tell" : !differs ? "no difference" : better ? "BETTER" : "WORSE", to);
    if (isfinite(p))
        fprintf(to, " (p = %.2g)", p);
    fputc('\n', to);
}

static void write_row(const struct compared *row, const json_t *a, const json_t *b, FILE *to)
{
    struct compared_side x = side_of(a, row), y = side_of(b, row);
    if (isnan(x.value) || isnan(y.value))
        return;
    fprintf(to, "  %-13s %12.4g %12.4g %+8.1f %%  ", row->name, x.value, y.value,
            100 * (y.value / x.value - 1));
    write_verdict(row, &x, &y, to);
}

static size_t runs_of(const json_t *point)
{
    return json_array_size(json_object_get(json_object_get(point, "sluice"), "runs"));
}

static void write_point(const json_t *a, const json_t *b, FILE *to)
{
    static const char *const keys[] = {"load", "machine", "version", "target"};
    json_t *x = json_object_get(a, "sluice"), *y = json_object_get(b, "sluice");
    if (isfinite(number(a, "request_rate")))
        fprintf(to, "%.4g requests/s\n", number(a, "request_rate"));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *s = json_string_value(json_object_get(x, keys[i])),
                   *t = json_string_value(json_object_get(y, keys[i]));
        if (s && t && strcmp(s, t) != 0)
            fprintf(to, "  %s differs: %s | %s\n", keys[i], s, t);
    }
    if (json_is_false(json_object_get(x, "valid")) || json_is_false(json_object_get(y, "valid")))
        fputs("  one of the two is INVALID: its harness sent late\n", to);
    if (runs_of(a) < 2 || runs_of(b) < 2)
        fputs("  one run on a side: what changes from run to run is not known (--repeat)\n", to);
    fprintf(to, "  %-13s %12s %12s\n", "ms", "A", "B");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        write_row(&rows[i], a, b, to);
}

/* The points of a result as a list of its own. */
static sl_status read_result(json_t **points, const char *path, struct sl_err *err)
{
    char *text;
    size_t bytes;
    SL_TRY(sl_file_read(&text, &bytes, path, FILE_BYTES, err));
    json_t *root = json_loadb(text, bytes, 0, NULL);
    free(text);
    *points = json_is_array(root) ? json_incref(root) : json_pack("[O]", root ? root : json_null());
    json_decref(root);
    if (runs_of(json_array_get(*points, 0)) > 0)
        return SL_OK;
    json_decref(*points);
    *points = NULL;
    return sl_fail(err, SL_E_DATA, "%.200s is no result of `sluice bench serve --save`", path);
}

sl_status sl_compare_files(const char *path_a, const char *path_b, FILE *to, struct sl_err *err)
{
    json_t *a, *b;
    SL_TRY(read_result(&a, path_a, err));
    sl_status status = read_result(&b, path_b, err);
    if (status != SL_OK) {
        json_decref(a);
        return status;
    }
    size_t n = json_array_size(a) < json_array_size(b) ? json_array_size(a) : json_array_size(b);
    fprintf(to, "A: %s\nB: %s\n", path_a, path_b);
    for (size_t i = 0; i < n; i++)
        write_point(json_array_get(a, i), json_array_get(b, i), to);
    if (json_array_size(a) != json_array_size(b))
        fprintf(to, "the two have not as many points; the first %zu were compared\n", n);
    json_decref(a);
    json_decref(b);
    return SL_OK;
}
