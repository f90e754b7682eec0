/* The three forms of a report say the same. */
#include "bench/plan/nodes.h"
#include "bench/plan/report.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

static struct sl_plan_report report;

static bool plan(const char *shape, uint32_t n_nodes, double output)
{
    struct sl_plan_format fp8 = {8, 8, 2};
    struct sl_err err = {0};
    report = (struct sl_plan_report){.n_nodes = n_nodes, .load = {.prompt = 8192, .output = output}};
    sl_plan_model_of(&report.model, sl_plan_shape_find(shape), &fp8);
    for (uint32_t i = 0; i < n_nodes; i++)
        sl_plan_nodes_of(&report.nodes[i], sl_plan_kind_find("h200"));
    sl_status status = sl_plan_report_fill(&report, &err);
    if (status != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return status == SL_OK;
}

static void printed(void (*print)(const struct sl_plan_report *, FILE *), char *text, size_t room)
{
    FILE *to = fmemopen(text, room, "w");
    print(&report, to);
    fclose(to);
}

static char text[1 << 16], json[1 << 16];

/* The value of the key's first place behind `from`. */
static double number(const char *from, const char *key)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    const char *at = from ? strstr(from, quoted) : NULL;
    return at ? strtod(at + strlen(quoted), NULL) : NAN;
}

static void says(const char *format, double value)
{
    char part[120];
    snprintf(part, sizeof part, format, value);
    CHECK_CONTAINS(text, part);
}

SL_TEST(the_text_has_the_numbers_of_the_json)
{
    REQUIRE(plan("deepseek-v3", 16, 256));
    printed(sl_plan_report_text, text, sizeof text);
    printed(sl_plan_report_json, json, sizeof json);
    says("first token of 8192 tokens after %.4g ms", number(json, "ttft_ms"));
    says("%.4g requests/s at most", number(json, "requests_s"));
    says("plan: %.0f stage", number(json, "n_stages"));
    CHECK_CONTAINS(text, "\nrates of h200: measured on others' kernels (FP8, attention in BF16)\nplan: ");
    CHECK_CONTAINS(json, "\"rates\": [{\"of\": \"h200\", \"from\": \"measured on others' kernels");
    char cut[SL_LAYERS_TEXT], options[SL_LAYERS_TEXT + 40];
    sl_layers_write(cut, report.forecast.begin, report.forecast.n_stages);
    snprintf(options, sizeof options, "as options: --stages %u --layers %s\n", report.forecast.n_stages, cut);
    CHECK_CONTAINS(text, options);
    says("on %.0f of 16 nodes", number(json, "nodes"));
    says("%.0f decode worker", number(json, "workers"));
    says("a token every %.4g ms", number(json, "step_ms"));
    says("KV pool: %.0f tokens", number(json, "kv_tokens"));
    says("bubble %.1f %%", 100 * number(strstr(json, "\"shares\""), "bubble"));
    const char *rows = strstr(json, "\"over_stages\""), *lengths = strstr(json, "\"over_lengths\"");
    REQUIRE(rows && lengths);
    uint32_t n = 0;
    for (const char *at = rows; (at = strstr(at, "{\"stages\"")); at++) {
        n++;
        if (!isnan(number(at, "ttft_ms")) && strncmp(strstr(at, "\"ttft_ms\": ") + 11, "null", 4) != 0)
            says("%9.4g ms", number(at, "ttft_ms"));
        says("%9.4g us", number(strstr(at, "\"experts\""), "exchange_us"));
    }
    CHECK_INT(n, report.n_rows);
    for (const char *at = lengths; (at = strstr(at, "{\"tokens\"")) && at < rows; at++)
        says("%12.4g", number(at, "ttft_ms"));
}

SL_TEST(where_rates_are_from_is_said_once_for_each_kind_and_not_for_given_ones)
{
    REQUIRE(plan("llama-3.1-70b", 4, 0));
    sl_plan_nodes_of(&report.nodes[2], sl_plan_kind_find("a100"));
    report.nodes[1].rates = NULL;
    printed(sl_plan_report_text, text, sizeof text);
    printed(sl_plan_report_json, json, sizeof json);
    CHECK_CONTAINS(text, "\nrates of h200: measured");
    CHECK_CONTAINS(
        text, "\nrates of a100: shares, as an H100 has them, of peaks that are recalled, not measured\n");
    CHECK_CONTAINS(json, "}, {\"of\": \"a100\", \"from\": \"shares");
    uint32_t lines = 0;
    for (const char *at = text; (at = strstr(at, "\nrates of ")); at++)
        lines++;
    CHECK_INT(lines, 2);
}

SL_TEST(a_dense_model_is_told_that_the_pipeline_will_not_change_its_prefill)
{
    REQUIRE(plan("llama-3.1-70b", 4, 0));
    printed(sl_plan_report_text, text, sizeof text);
    CHECK_CONTAINS(text, "llama-3.1-70b is dense");
    CHECK_CONTAINS(text, "does not make prefill faster");
    says("would take %.4g ms", report.one_node_us / 1000);
    CHECK(!strstr(text, "experts over"));
    CHECK(report.forecast.ttft_us >= report.one_node_us);
}

/* A drawing is well formed, has each chunk on each stage and a mark for each number of stages that fits. */
SL_TEST(the_drawing_has_every_chunk_and_every_number_of_stages)
{
    char path[200];
    struct sl_err err = {0};
    REQUIRE(plan("deepseek-v3", 8, 0));
    snprintf(path, sizeof path, "%s/plan.svg", sl_test_dir());
    REQUIRE(sl_plan_report_svg(&report, path, &err) == SL_OK);
    FILE *from = fopen(path, "r");
    REQUIRE(from != NULL);
    text[fread(text, 1, sizeof text - 1, from)] = 0;
    fclose(from);
    CHECK(strncmp(text, "<svg", 4) == 0 && strstr(text, "</g>\n</svg>\n"));
    char last[64];
    snprintf(last, sizeof last, "on stage %u: tokens", report.forecast.n_stages - 1);
    CHECK_CONTAINS(text, last);
    uint32_t marks = 0, fit = 0;
    for (const char *at = text; (at = strstr(at, "class=\"f k0\"")); at++)
        marks++;
    for (uint32_t i = 0; i < report.n_rows; i++)
        fit += report.rows[i].fits;
    CHECK_INT(marks, fit);
    CHECK(sl_plan_report_svg(&report, "/nonexistent/plan.svg", &err) == SL_E_IO);
}

SL_TEST(a_671_billion_model_on_sixteen_nodes_has_its_fastest_layout_named_either_way)
{
    REQUIRE(plan("deepseek-v3", 16, 0));
    printed(sl_plan_report_text, text, sizeof text);
    CHECK_CONTAINS(text, "experts over as many");
    CHECK(report.n_rows > 8);
}
