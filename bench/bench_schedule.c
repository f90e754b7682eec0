/* One run of the small simulated world (schedule_world.h), and what it shows as a table or as JSON. */
#include "bench/bench_schedule.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

sl_status sl_bench_schedule_run(const struct sl_bench_run *run, struct sl_bench_figures *figures,
                                struct sl_bench_report *report, struct sl_err *err)
{
    struct sl_bench_traffic load;
    struct sl_bench_outcome *outcomes = NULL;
    *report = (struct sl_bench_report){0};
    sl_status status = sl_bench_traffic_init(&load, &run->load, err);
    if (status == SL_OK) {
        outcomes = calloc(load.n, sizeof *outcomes);
        if (!outcomes)
            status = sl_fail(err, SL_E_NOMEM, "out of memory for %u requests; ask for fewer", load.n);
    }
    if (status == SL_OK)
        status = sl_bench_world_run(&run->world, &load, outcomes, report, err);
    if (status == SL_OK)
        status = sl_bench_figures_make(figures, &load, outcomes, report, err);
    free(outcomes);
    sl_bench_traffic_fini(&load);
    sl_bench_report_fini(report);
    return status;
}

static const char *const class_names[SL_BENCH_CLASSES] = {"short", "middle", "long"};

static double share(uint32_t part, uint32_t whole)
{
    return whole ? (double)part / whole : 0;
}

static void print_group(const char *name, const struct sl_bench_group *g)
{
    if (g->n > 0)
        printf("  %-8s %7u %12.1f %12.1f %9.4f %9.4f %9.4f %9.4f\n", name, g->n, g->p50_us / 1e3,
               g->p99_us / 1e3, share(g->n_met, g->n), share(g->n_refused, g->n),
               g->work_us > 0 ? g->done_work_us / g->work_us : 0,
               g->work_us > 0 ? g->met_work_us / g->work_us : 0);
}

static void print_known(const char *name, const struct sl_bench_group *g)
{
    if (g->n_knowing > 0)
        printf(
            "%s: %.3f of %u began behind all that was known of them; known and computed again: %.0f tokens (median), "
            "%.0f (p90)\n",
            name, share(g->n_reusing, g->n_knowing), g->n_knowing, g->again_p50, g->again_p90);
}

static void print_text(const struct sl_bench_figures *f, const struct sl_bench_report *r,
                       enum sl_bench_traffic_kind kind)
{
    const char *name;
    printf("  %-8s %7s %12s %12s %9s %9s %9s %9s\n", "", "n", "p50 ms", "p99 ms", "in time", "refused",
           "work done", "in time");
    print_group("all", &f->all);
    for (uint32_t k = 0; k < SL_BENCH_CLASSES; k++)
        print_group(class_names[k], &f->of_class[k]);
    for (uint32_t k = 0; k < SL_BENCH_GROUPS && (name = sl_bench_group_name(kind, k)); k++)
        print_group(name, &f->of_group[k]);
    for (uint32_t k = 0; k < SL_BENCH_GROUPS && (name = sl_bench_group_name(kind, k)); k++)
        print_known(name, &f->of_group[k]);
    printf("accepted and late %.4f; goodput %.3f of capacity, %.4g requests/s\n",
           share(f->n_late, f->all.n - f->all.n_refused), f->goodput_work, f->goodput_requests);
    if (f->n_predicted > 0)
        printf("time to first token predicted within %.1f %% (median), %.1f %% (p90), bias %+.1f %%\n",
               100 * f->error_p50, 100 * f->error_p90, 100 * f->bias);
    printf("%.1f prompt tokens/s, %.1f output tokens/s, first stage busy %.3f\n", f->rows_per_s,
           f->tokens_per_s, f->busy);
    if (r->fill_us > 0)
        printf("prefilling answers for the cache took %.4f of the first stage's time\n",
               r->fill_us / r->end_us);
    if (r->sent_us > 0)
        printf("sending answers back took %.5f of the decode worker's link\n", r->sent_us / r->end_us);
    if (r->steps > 0)
        printf("%llu steps of %.1f ms, p99 of the longest pause of a stream %.1f ms, %llu set back\n",
               (unsigned long long)r->steps, f->step_us / 1e3, f->pause_p99_us / 1e3,
               (unsigned long long)r->set_back);
    if (r->slo_dear)
        printf("the target (--slo) costs more than half of the throughput\n");
    printf("%llu records, %llu chunks of %.2f slices, %.2f under way, %.1f s of the world\n",
           (unsigned long long)r->records, (unsigned long long)r->runs,
           r->runs ? (double)r->slices / (double)r->runs : 0, r->in_flight, r->end_us / 1e6);
}

static void json_group(const char *name, const struct sl_bench_group *g)
{
    printf(", \"%s\": {\"n\": %u, \"answered\": %u, \"refused\": %u, \"in_time\": %u, \"ttft_p50_ms\": %.3f, "
           "\"ttft_p99_ms\": %.3f, \"work_ms\": %.1f, \"done_work_ms\": %.1f, \"in_time_work_ms\": %.1f, "
           "\"known_to\": %u, \"reusing\": %u, \"again_p50\": %.0f, \"again_p90\": %.0f}",
           name, g->n, g->n_answered, g->n_refused, g->n_met, g->p50_us / 1e3, g->p99_us / 1e3,
           g->work_us / 1e3, g->done_work_us / 1e3, g->met_work_us / 1e3, g->n_knowing, g->n_reusing,
           g->again_p50, g->again_p90);
}

static void print_json(const struct sl_bench_schedule *b, const struct sl_bench_figures *f,
                       const struct sl_bench_report *r, enum sl_bench_traffic_kind kind)
{
    printf(
        "{\"world\": \"%s\", \"load\": \"%s\", \"schedule\": \"%s\", \"seed\": %u, \"rate\": %.3f, \"sigma\": %.3f",
        b->world, b->load, b->schedule, b->seed, b->rate, b->sigma);
    json_group("all", &f->all);
    for (uint32_t k = 0; k < SL_BENCH_CLASSES; k++)
        json_group(class_names[k], &f->of_class[k]);
    const char *name;
    for (uint32_t k = 0; k < SL_BENCH_GROUPS && (name = sl_bench_group_name(kind, k)); k++)
        json_group(name, &f->of_group[k]);
    printf(
        ", \"accepted_late\": %u, \"goodput_work\": %.4f, \"predicted\": %u, \"error_p50\": %.4f, \"error_p90\": %.4f, \"bias\": %.4f, \"goodput_rps\": %.5f, \"prompt_tokens_per_s\": %.2f, "
        "\"output_tokens_per_s\": %.2f, \"busy\": %.4f, \"pause_p99_ms\": %.2f, \"step_ms\": %.3f, "
        "\"set_back\": %llu, \"records\": %llu, \"chunks\": %llu, \"slices\": %llu, \"under_way\": %.2f, "
        "\"filling\": %.5f, \"sending\": %.6f, \"seconds\": %.3f}\n",
        f->n_late, f->goodput_work, f->n_predicted, f->error_p50, f->error_p90, f->bias, f->goodput_requests,
        f->rows_per_s, f->tokens_per_s, f->busy, f->pause_p99_us / 1e3, f->step_us / 1e3,
        (unsigned long long)r->set_back, (unsigned long long)r->records, (unsigned long long)r->runs,
        (unsigned long long)r->slices, r->in_flight, r->fill_us / r->end_us, r->sent_us / r->end_us,
        r->end_us / 1e6);
}

static enum sl_bench_answers answers_of(const char *name)
{
    static const char *const names[SL_BENCH_ANSWERS_WAYS] = {"refill", "off", "sent"};
    uint32_t k = 0;
    while (k + 1 < SL_BENCH_ANSWERS_WAYS && strcmp(name, names[k]) != 0)
        k++;
    return k;
}

static enum sl_bench_traffic_kind kind_of(const char *name)
{
    uint32_t k = 0;
    while (k < SL_BENCH_TRAFFICS && strcmp(name, sl_bench_traffic_name(k)) != 0)
        k++;
    return k;
}

sl_status sl_bench_schedule(const struct sl_bench_schedule *b, struct sl_err *err)
{
    if (b->table)
        return sl_bench_schedule_table(b, err);
    const struct sl_bench_shape *shape = sl_bench_shape_find(b->world);
    enum sl_bench_traffic_kind kind = kind_of(b->load);
    assert(shape && kind < SL_BENCH_TRAFFICS); /* choices of the options */
    struct sl_bench_run run = {
        .load = {kind, shape, b->rate, b->requests, b->tokens, b->seed, b->pause * 1e6},
        .world = {.shape = shape,
                  .schedule = strcmp(b->schedule, "fifo") == 0 ? SL_SCHEDULE_FIFO : SL_SCHEDULE_SLO,
                  .answers = answers_of(b->answers),
                  .link_gbits = b->gbits,
                  .chunk_us = b->chunk_ms * 1000ull,
                  .slo_us = b->slo_ms * 1000ull,
                  .slower = b->slower,
                  .chunk_tokens = b->chunk,
                  .runs = b->runs,
                  .kv_tokens = kind == SL_BENCH_GROWTH ? shape->context : 0,
                  .sigma = b->sigma,
                  .seed = b->seed,
                  .check = b->check}};
    uint32_t more = kind == SL_BENCH_PREFIX ? 512 : 0; /* a message behind it */
    if (run.load.tokens + more >= shape->context)
        return sl_fail(err, SL_E_USAGE, "--prompt-tokens %u: the context of %s is %u tokens; ask for fewer",
                       run.load.tokens, shape->name, shape->context);
    struct sl_bench_figures figures;
    struct sl_bench_report report;
    SL_TRY(sl_bench_schedule_run(&run, &figures, &report, err));
    if (b->json)
        print_json(b, &figures, &report, kind);
    else
        print_text(&figures, &report, kind);
    return SL_OK;
}
