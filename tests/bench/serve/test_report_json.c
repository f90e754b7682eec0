/* The JSON, the per-request file and the histograms: read again by another reader, they give what was
 * measured. */
#include "bench/serve/point.h"
#include "tests/bench/serve/reports.h"
#include "tests/check.h"

#include <dirent.h>
#include <jansson.h>
#include <unistd.h>

static struct made made;

static const struct made_config one_load = {.n_runs = 1,
                                            .n_requests = 400,
                                            .n_classes = 3,
                                            .n_stages = 4,
                                            .rate = 15,
                                            .fail_share = 0.05,
                                            .warm_s = 2,
                                            .most_tokens = 20};

/* What a reader that allows no duplicates and nothing but JSON makes of it; NULL: nothing. */
static json_t *results_of(const struct sl_report *report)
{
    char path[512];
    struct sl_err err = {0};
    json_error_t error;
    snprintf(path, sizeof path, "%s/results.json", sl_test_dir());
    if (sl_report_json(report, path, &err) != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        return NULL;
    }
    json_t *read = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!read)
        sl_test_fail(__FILE__, __LINE__, "line %d: %s", error.line, error.text);
    unlink(path);
    return read;
}

/* A report is made, written and read again; NULL: it could not be. */
static json_t *made_and_read(const struct made_config *config)
{
    bool is_made = made_init(&made, config);
    CHECK(is_made);
    return is_made ? results_of(&made.report) : NULL;
}

static void end(json_t *read)
{
    json_decref(read); /* NULL is fine */
    made_fini(&made);
}

static double number(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-6 + 1e-6 * fabs(b);
}

SL_TEST(it_has_what_vllm_has)
{
    static const char *const texts[] = {"date",  "endpoint_type", "backend",
                                        "label", "model_id",      "tokenizer_id"};
    static const char *const numbers[] = {"num_prompts",
                                          "request_rate",
                                          "burstiness",
                                          "duration",
                                          "completed",
                                          "failed",
                                          "total_input_tokens",
                                          "total_output_tokens",
                                          "request_throughput",
                                          "request_goodput",
                                          "output_throughput",
                                          "total_token_throughput",
                                          "max_output_tokens_per_s",
                                          "max_concurrent_requests",
                                          "mean_ttft_ms",
                                          "median_ttft_ms",
                                          "std_ttft_ms",
                                          "mean_tpot_ms",
                                          "median_tpot_ms",
                                          "std_tpot_ms",
                                          "mean_itl_ms",
                                          "median_itl_ms",
                                          "std_itl_ms",
                                          "p99_itl_ms",
                                          "mean_e2el_ms",
                                          "median_e2el_ms",
                                          "std_e2el_ms"};
    static const char *const lists[] = {"input_lens", "output_lens", "start_times", "ttfts",
                                        "itls",       "latencies",   "errors"};
    json_t *read = made_and_read(&one_load);
    REQUIRE(json_is_object(read));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!json_is_string(json_object_get(read, texts[i])))
            sl_test_fail(__FILE__, __LINE__, "%s is no text", texts[i]);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (isnan(number(read, numbers[i])))
            sl_test_fail(__FILE__, __LINE__, "%s is no number", numbers[i]);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        CHECK_INT(json_array_size(json_object_get(read, lists[i])), made.runs[0].all.n_requests);
    CHECK_STR(json_string_value(json_object_get(read, "date")), "20261129-214335");
    CHECK(json_is_null(json_object_get(read, "max_concurrency")));
    end(read);
}

/* Nearest rank; +inf: among the failed. */
static double rank_of(double *values, size_t n, double q)
{
    for (size_t i = 1; i < n; i++) /* insertion: nothing of what is tested */
        for (size_t k = i; k > 0 && values[k - 1] > values[k]; k--) {
            double swap = values[k];
            values[k] = values[k - 1];
            values[k - 1] = swap;
        }
    return values[(size_t)ceil(q * (double)n - 1e-9) - 1];
}

SL_TEST(its_lists_give_its_percentiles_again)
{
    json_t *read = made_and_read(&one_load);
    REQUIRE(read != NULL);
    json_t *ttfts = json_object_get(read, "ttfts"), *errors = json_object_get(read, "errors");
    size_t n = json_array_size(ttfts), n_failed = 0;
    double *values = malloc(n * sizeof *values);
    REQUIRE(values != NULL);
    for (size_t i = 0; i < n; i++) {
        bool failed = json_string_length(json_array_get(errors, i)) > 0;
        values[i] = failed ? INFINITY : 1000 * json_number_value(json_array_get(ttfts, i));
        n_failed += failed;
        if (failed) /* as vLLM has it */
            CHECK(json_number_value(json_array_get(ttfts, i)) == 0);
    }
    CHECK(n_failed > 5);
    CHECK(near(number(read, "failed"), (double)n_failed));
    CHECK(near(number(read, "median_ttft_ms"), rank_of(values, n, 0.5)));
    CHECK(near(number(read, "p90_ttft_ms"), rank_of(values, n, 0.9)));
    free(values);
    end(read);
}

SL_TEST(start_and_ttft_give_the_arrival_of_the_token)
{
    json_t *read = made_and_read(&one_load);
    REQUIRE(read != NULL);
    json_t *starts = json_object_get(read, "start_times"), *ttfts = json_object_get(read, "ttfts"),
           *itls = json_object_get(read, "itls");
    json_t *latencies = json_object_get(read, "latencies");
    const struct sl_outcomes *outcomes = &made.runs[0].outcomes;
    for (uint32_t i = 0, at = 0; i < outcomes->n; i++) {
        const struct sl_outcome *o = &outcomes->all[i];
        if (o->due_ns < outcomes->warm_ns)
            continue; /* the warm-up is in none of the lists */
        double start = json_number_value(json_array_get(starts, at)),
               ttft = json_number_value(json_array_get(ttfts, at));
        if (o->ending == SL_ENDING_DONE) {
            CHECK(near(start + ttft, (double)(outcomes->began_ns + o->first_ns) / 1e9));
            double sum = ttft;
            json_t *gaps = json_array_get(itls, at);
            CHECK_INT(json_array_size(gaps), o->n_gaps);
            for (size_t k = 0; k < json_array_size(gaps); k++)
                sum += json_number_value(json_array_get(gaps, k));
            CHECK(fabs(sum - json_number_value(json_array_get(latencies, at))) < 1e-4);
        }
        at++;
    }
    end(read);
}

SL_TEST(a_percentile_among_the_failed_is_null_and_said)
{
    struct made_config config = one_load;
    config.fail_share = 0.7;
    json_t *read = made_and_read(&config);
    REQUIRE(read != NULL);
    CHECK(json_is_null(json_object_get(read, "median_ttft_ms")));
    CHECK(json_is_null(json_object_get(read, "median_e2el_ms")));
    CHECK(!isnan(number(read, "mean_ttft_ms"))); /* of what is finite */
    json_t *p50 = json_object_get(
        json_object_get(json_object_get(json_object_get(read, "sluice"), "all"), "ttft"), "p50");
    CHECK(json_is_true(json_object_get(p50, "among_failed")) && json_is_true(json_object_get(p50, "known")));
    end(read);
}

SL_TEST(a_sweep_is_a_list_as_vllm_bench_sweep_has_it)
{
    struct made_config config = one_load;
    config.n_runs = 4;
    config.n_requests = 100;
    config.sweep = true;
    json_t *read = made_and_read(&config);
    CHECK_INT(json_array_size(read), 4);
    for (size_t i = 0; i < json_array_size(read); i++) {
        json_t *point = json_array_get(read, i);
        CHECK(near(number(point, "request_rate"), 15.0 * (double)(i + 1)));
        CHECK_INT(json_array_size(json_object_get(json_object_get(point, "sluice"), "runs")), 1);
    }
    end(read);
}

SL_TEST(repeats_are_pooled_and_kept)
{
    struct made_config config = one_load;
    config.n_runs = 3;
    json_t *read = made_and_read(&config);
    REQUIRE(json_is_object(read));
    double completed = 0, seconds = 0, tokens = 0;
    for (uint32_t r = 0; r < 3; r++) {
        completed += made.runs[r].all.n_done;
        seconds += made.runs[r].all.seconds;
        tokens += (double)made.runs[r].all.output_tokens;
    }
    CHECK(near(number(read, "completed"), completed));
    CHECK(near(number(read, "duration"), seconds));
    CHECK(near(number(read, "request_throughput"), completed / seconds));
    CHECK(near(number(read, "total_output_tokens"), tokens));
    json_t *ours = json_object_get(read, "sluice");
    CHECK_INT(json_array_size(json_object_get(ours, "runs")), 3);
    json_t *repeat = json_object_get(json_object_get(ours, "repeats"), "p50_ttft_ms");
    CHECK_INT(json_array_size(json_object_get(repeat, "of_runs")), 3);
    CHECK(number(repeat, "low") < number(repeat, "mean") && number(repeat, "mean") < number(repeat, "high"));
    end(read);
}

/* The lowest us of its bucket: whole below 2048, then 1024 buckets in each power of two. */
static bool is_bucket(double us)
{
    double width = 1;
    while (us / width >= 2048)
        width *= 2;
    return fmod(us, width) == 0;
}

/* The value below or at which q of a histogram's samples lie, in ms, of its buckets alone. */
static double of_buckets(const json_t *histogram, double q, double *total)
{
    json_t *us = json_object_get(histogram, "us"), *counts = json_object_get(histogram, "n");
    *total = number(histogram, "failed");
    for (size_t i = 0; i < json_array_size(counts); i++)
        *total += json_number_value(json_array_get(counts, i));
    double at = 0, seen = 0;
    for (size_t i = 0; i < json_array_size(us); i++) {
        at += json_number_value(json_array_get(us, i));
        seen += json_number_value(json_array_get(counts, i));
        CHECK(is_bucket(at));
        if (seen >= q * *total - 1e-9)
            return at / 1000;
    }
    return INFINITY;
}

SL_TEST(histograms_hold_every_sample)
{
    json_t *read = made_and_read(&one_load);
    REQUIRE(read != NULL);
    json_t *all = json_object_get(json_object_get(json_object_get(read, "sluice"), "histograms"), "all");
    for (enum sl_measure measure = 0; measure < SL_MEASURES; measure++) {
        const struct sl_figure *figure = &made.runs[0].all.figures[measure];
        json_t *histogram = json_object_get(all, sl_measure_keys[measure]);
        double total, median = of_buckets(histogram, 0.5, &total);
        CHECK_INT(total, figure->n);
        CHECK_INT(number(histogram, "failed"), figure->n_failed);
        CHECK_INT(json_array_size(json_object_get(histogram, "us")),
                  json_array_size(json_object_get(histogram, "n")));
        double truth = figure->quantiles[0].value; /* a bucket is named by its lowest value */
        CHECK(median <= truth + 1e-9 && median >= truth * (1 - 1.0 / 1024) - 0.001);
    }
    end(read);
}

SL_TEST(whatever_is_measured_can_be_read)
{
    const struct made_config configs[] = {
        {.n_runs = 0, .n_classes = 1, .rate = 1},
        {.n_runs = 1, .n_requests = 0, .n_classes = 1, .rate = 1},
        {.n_runs = 1, .n_requests = 1, .n_classes = 1, .rate = 1, .most_tokens = 1},
        {.n_runs = 2, .n_requests = 30, .n_classes = 3, .rate = 1, .fail_share = 1, .most_tokens = 1}};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        json_t *read = made_and_read(&configs[i]);
        CHECK(i == 0 ? json_is_array(read) : json_is_object(read));
        end(read);
    }
}

SL_TEST(every_request_has_a_line_that_gives_its_figures)
{
    struct made_config config = one_load;
    config.n_runs = 2;
    REQUIRE(made_init(&made, &config));
    char path[512], line[16384];
    struct sl_err err;
    snprintf(path, sizeof path, "%s/requests.jsonl", sl_test_dir());
    REQUIRE(sl_report_jsonl(&made.report, path, &err) == SL_OK);
    FILE *from = fopen(path, "r");
    REQUIRE(from != NULL);
    uint32_t n = 0;
    for (; fgets(line, sizeof line, from); n++) {
        json_t *read = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        REQUIRE(read != NULL && n < 800);
        const struct sl_load_run *run = &made.runs[n / 400];
        const struct sl_outcome *o = &run->outcomes.all[n % 400];
        json_t *of_run = json_object_get(read, "run");
        CHECK_INT(number(read, "request"), o->number);
        CHECK_STR(json_string_value(json_object_get(read, "class")), made_names[o->load_class]);
        CHECK_INT(json_is_true(json_object_get(read, "measured")), o->due_ns >= run->outcomes.warm_ns);
        CHECK_INT(number(of_run, "number"), n / 400);
        CHECK_INT(number(of_run, "warm_ns"), 2000000000);
        CHECK_INT(json_array_size(json_object_get(read, "gaps_ms")), o->n_gaps);
        double ttft = (number(read, "first_ns") - number(read, "due_ns")) / 1e6,
               truth = sl_measure_of(o, SL_TTFT);
        CHECK(isfinite(truth) ? near(ttft, truth) : isnan(ttft));
        CHECK_INT(json_is_null(json_object_get(read, "error")), o->error == 0);
        double parts = 0;
        json_t *part, *of_request = json_object_get(read, "parts_us");
        const char *key;
        json_object_foreach(of_request, key, part) parts +=
            strcmp(key, "kv") == 0 ? 0 : json_number_value(part);
        CHECK(!o->has_parts || fabs(parts / 1000 - sl_measure_of(o, SL_TTFT_SENT)) < 0.01);
        json_decref(read);
    }
    fclose(from);
    unlink(path);
    CHECK_INT(n, 800);
    made_fini(&made);
}

SL_TEST(histograms_are_files_with_harmless_names)
{
    REQUIRE(made_init(&made, &one_load));
    char prefix[512];
    struct sl_err err = {0};
    uint32_t n = 0, n_hostile = 0;
    snprintf(prefix, sizeof prefix, "%s/h", sl_test_dir());
    REQUIRE(sl_report_hgrm(&made.report, prefix, &err) == SL_OK);
    DIR *folder = opendir(sl_test_dir());
    REQUIRE(folder != NULL);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        CHECK(strspn(entry->d_name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") ==
              strlen(entry->d_name));
        n++;
        n_hostile += strncmp(entry->d_name, "h-batch__script_alert_1", 23) == 0;
        char path[1024];
        size_t bytes = 0;
        snprintf(path, sizeof path, "%s/%s", sl_test_dir(), entry->d_name);
        char *text = made_read(path, &bytes);
        CHECK(text && bytes > 0);
        free(text);
    }
    closedir(folder);
    CHECK_INT(n, 4 * SL_MEASURES); /* all, and three classes */
    CHECK_INT(n_hostile, SL_MEASURES);
    snprintf(prefix, sizeof prefix, "%s/h-ttft.hgrm", sl_test_dir());
    CHECK_INT(access(prefix, R_OK), 0);
    made_fini(&made);
}

SL_TEST(a_file_that_cannot_be_written_is_named)
{
    struct sl_err err;
    REQUIRE(made_init(&made, &one_load));
    CHECK_INT(sl_report_json(&made.report, "/dev/full", &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "results /dev/full");
    CHECK_INT(sl_report_jsonl(&made.report, "/dev/full", &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "per-request file /dev/full");
    CHECK_INT(sl_report_hgrm(&made.report, "/no/such/h", &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "/no/such/h-ttft.hgrm");
    made_fini(&made);
}
