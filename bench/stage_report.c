/* A stage's account for people and for programs: where the time went, as bars, and how near each
 * part came to what the machine can do (stage_bench.h). */
#include "base/cpu.h"
#include "bench/stage_bench.h"
#include <stdio.h>

enum { BAR = 24 }; /* cells of a bar that is all of the time */

/* Whole cells, then one in eighths: ▏▎▍▌▋▊▉ follow each other in Unicode, narrowest last. */
static void put_bar(double share)
{
    int eighths = share > 0 ? (int)(share * BAR * 8 + 0.5) : 0;
    eighths = eighths > BAR * 8 ? BAR * 8 : eighths;
    for (int cell = 0; cell < BAR; cell++, eighths -= 8) {
        if (eighths >= 8)
            fputs("\u2588", stdout);
        else if (eighths > 0)
            printf("\xE2\x96%c", 0x88 + 8 - eighths);
        else
            putchar(' ');
    }
}

void sl_stage_report_head(const struct sl_stage_bench *b, const struct sl_account *account, bool json)
{
    static const char *const numbers[SL_PEAKS] = {"f32", "bf16", "int8"};
    const struct sl_roofline *r = &account->roofline;
    const struct sl_shape *shape = sl_pack_shape(b->pack);
    char cpu[64];
    sl_cpu_model_name(cpu, sizeof cpu);
    if (json) {
        printf("{\"cpu\": \"%s\", \"isa\": \"%s\", \"threads\": %u, \"layers\": %u, \"kv\": "
               "\"%s\", \"chunk\": %u, "
               "\"weight_bytes\": %llu, \"numerics\": \"%s\", \"read_gb_per_s\": %.2f, "
               "\"peak_gops\": {",
               cpu, b->ops->name, b->options.n_threads, shape->n_layers, b->options.kv, b->options.max_tokens,
               (unsigned long long)sl_stage_weight_bytes(b->stage), b->options.numerics, r->bytes_per_ns);
        for (int p = 0; p < SL_PEAKS; p++)
            printf("%s\"%s\": %.1f", p ? ", " : "", numbers[p], r->ops_per_ns[p]);
        fputs("}, \"results\": [", stdout);
        return;
    }
    printf("%s, %s kernels, %u thread%s; %u layers, %.2f GB of weights, KV in %s, numerics %s\n", cpu,
           b->ops->name, b->options.n_threads, b->options.n_threads == 1 ? "" : "s", shape->n_layers,
           (double)sl_stage_weight_bytes(b->stage) / 1e9, b->options.kv, b->options.numerics);
    printf("memory is read at %.1f GB/s; peaks of all threads:", r->bytes_per_ns);
    for (int p = 0; p < SL_PEAKS; p++)
        if (r->ops_per_ns[p] > 0)
            printf(" %s %.0f GOP/s (%s)", numbers[p], r->ops_per_ns[p],
                   sl_peak_instruction(b->ops, (enum sl_peak)p));
    fputs("\n", stdout);
}

static void print_line(const char *name, double share, bool colour, int ansi)
{
    printf("  %-11s", name);
    if (colour)
        printf("\x1b[38;5;%dm", ansi);
    put_bar(share);
    printf("%s %5.1f %%", colour ? "\x1b[0m" : "", 100 * share);
}

void sl_stage_report_print(const struct sl_stage_report *report, bool colour)
{
    static const int colours[SL_PARTS] = {75, 215, 114, 176, 222, 80, 210};
    printf("  %-11s%-*s %7s %9s %8s %7s  %s\n", "part", BAR + 1, "share of the time", "", "ms", "GOP/s",
           "GB/s", "% of its roofline");
    for (int p = 0; p < SL_PARTS; p++) {
        const struct sl_part_report *part = &report->part[p];
        print_line(sl_part_name((enum sl_part)p), part->share, colour, colours[p]);
        printf(" %9.2f", part->ms);
        if (part->roofline_share > 0)
            printf(" %8.1f %7.1f  %5.1f %s\n", part->gops, part->gb_per_s, 100 * part->roofline_share,
                   part->memory_bound ? "memory" : "compute");
        else
            printf(" %8s %7s\n", "-", "-");
    }
    print_line("wait", report->wait_share, colour, 245);
    printf(" %9.2f\n", report->wait_share * report->ms);
    printf("  MFU %.1f %%; roofline %.1f %%; weights and pages %.1f GB/s, %.1f %% of the reading "
           "rate\n\n",
           100 * report->mfu, 100 * report->roofline_share, report->gb_per_s, 100 * report->read_share);
}

void sl_stage_report_json(const struct sl_stage_report *report)
{
    printf("\"ms\": %.3f, \"mfu\": %.4f, \"roofline\": %.4f, \"gb_per_s\": %.2f, "
           "\"share_of_read\": %.4f, \"parts\": {",
           report->ms, report->mfu, report->roofline_share, report->gb_per_s, report->read_share);
    for (int p = 0; p < SL_PARTS; p++) {
        const struct sl_part_report *part = &report->part[p];
        printf("\"%s\": {\"share\": %.4f, \"ms\": %.3f, \"gops\": %.2f, \"gb_per_s\": %.2f, "
               "\"roofline\": %.4f, "
               "\"limit\": \"%s\"}, ",
               sl_part_name((enum sl_part)p), part->share, part->ms, part->gops, part->gb_per_s,
               part->roofline_share, part->memory_bound ? "memory" : "compute");
    }
    printf("\"wait\": {\"share\": %.4f, \"ms\": %.3f}}", report->wait_share, report->wait_share * report->ms);
}
