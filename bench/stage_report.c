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

static const char *const numbers[SL_PEAKS] = {"f32", "bf16", "int8"};

/* What computes, for people; of several threads of the CPU. */
static void name_of(char name[96], const struct sl_stage_bench *b)
{
    if (b->device == SL_DEVICE_CPU)
        sl_cpu_model_name(name, 64);
    else
        snprintf(name, 96, "%s", b->device == SL_DEVICE_TWIN ? "a twin of a GPU" : b->options.device);
}

static void head_json(const struct sl_stage_bench *b, const struct sl_roofline *r)
{
    char name[96];
    name_of(name, b);
    printf(
        "{\"%s\": \"%s\", \"simulated\": %s, \"isa\": \"%s\", \"threads\": %u, \"layers\": %u, \"kv\": \"%s\", "
        "\"chunk\": %u, \"weight_bytes\": %llu, \"numerics\": \"%s\", \"read_gb_per_s\": %.2f, \"peak_gops\": {",
        b->device == SL_DEVICE_CPU ? "cpu" : "device", name, b->device == SL_DEVICE_TWIN ? "true" : "false",
        sl_stage_isa(b->stage), b->options.n_threads, sl_pack_shape(b->pack)->n_layers, b->options.kv,
        b->options.max_tokens, (unsigned long long)sl_stage_weight_bytes(b->stage), b->options.numerics,
        r->bytes_per_ns);
    for (int p = 0; p < SL_PEAKS; p++)
        printf("%s\"%s\": %.1f", p ? ", " : "", numbers[p], r->ops_per_ns[p]);
    if (r->mma_ops_per_ns > 0)
        printf(", \"int8_mma\": %.1f", r->mma_ops_per_ns);
    fputs("}, \"results\": [", stdout);
}

static void print_limits(const struct sl_stage_bench *b, const struct sl_roofline *r)
{
    if (b->device == SL_DEVICE_TWIN) {
        puts(
            "SIMULATED: the GPU is a twin, whose clock counts operations. No time, rate or share below is a figure.");
        return;
    }
    if (r->bytes_per_ns <= 0) {
        puts("nothing is known of what this GPU can do at most, so shares of it are 0");
        return;
    }
    printf("memory is read at %.1f GB/s; peaks%s:", r->bytes_per_ns,
           b->device == SL_DEVICE_CPU ? " of all threads" : " as its data sheet has them");
    for (int p = 0; p < SL_PEAKS; p++)
        if (r->ops_per_ns[p] > 0)
            printf(" %s %.0f GOP/s (%s)", numbers[p], r->ops_per_ns[p],
                   b->device == SL_DEVICE_CPU ? sl_peak_instruction(b->ops, (enum sl_peak)p) : "dense");
    if (r->mma_ops_per_ns > 0)
        printf(", %.0f by mma.sync", r->mma_ops_per_ns);
    fputs("\n", stdout);
}

void sl_stage_report_head(const struct sl_stage_bench *b, const struct sl_account *account, bool json)
{
    char name[96];
    if (json) {
        head_json(b, &account->roofline);
        return;
    }
    name_of(name, b);
    printf("%s, %s kernels, %u thread%s; %u layers, %.2f GB of weights, KV in %s, numerics %s\n", name,
           sl_stage_isa(b->stage), b->options.n_threads, b->options.n_threads == 1 ? "" : "s",
           sl_pack_shape(b->pack)->n_layers, (double)sl_stage_weight_bytes(b->stage) / 1e9, b->options.kv,
           b->options.numerics);
    print_limits(b, &account->roofline);
}

void sl_stage_report_speed(const struct sl_stage_report *report, double ms, const char *unit)
{
    if (report->tok_per_s > 0)
        printf("%.1f tokens/s (%.2f ms%s)", report->tok_per_s, ms, unit);
    else
        printf("SIMULATED, %.3f ms%s of a clock that counts operations", ms, unit);
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
    static const int colours[SL_PARTS] = {75, 215, 114, 176, 222, 80, 210, 111};
    printf("  %-11s%-*s %7s %9s %8s %7s  %s\n", "part", BAR + 1, "share of the time", "", "ms", "GOP/s",
           "GB/s", "% of its roofline");
    for (int p = 0; p < SL_PARTS; p++) {
        const struct sl_part_report *part = &report->part[p];
        if (p == SL_PART_STEPS && part->share <= 0)
            continue; /* only GPUs have them */
        print_line(sl_part_name((enum sl_part)p), part->share, colour, colours[p]);
        printf(" %9.2f", part->ms);
        if (part->gops > 0)
            printf(" %8.1f %7.1f", part->gops, part->gb_per_s);
        else
            printf(" %8s %7s", "-", "-");
        if (part->roofline_share > 0)
            printf("  %5.1f %s", 100 * part->roofline_share, part->memory_bound ? "memory" : "compute");
        putchar('\n');
    }
    print_line("wait", report->wait_share, colour, 245);
    printf(" %9.2f\n", report->wait_share * report->ms);
    if (report->tok_per_s <= 0) {
        puts("  no MFU: a twin's times are counts of operations\n");
        return;
    }
    printf("  MFU %.1f %%", 100 * report->mfu);
    if (report->mfu_mma > report->mfu)
        printf(" (%.1f %% of what mma.sync reaches)", 100 * report->mfu_mma);
    printf("; roofline %.1f %%; weights and pages %.1f GB/s, %.1f %% of the reading rate\n\n",
           100 * report->roofline_share, report->gb_per_s, 100 * report->read_share);
}

void sl_stage_report_json(const struct sl_stage_report *report)
{
    printf("\"ms\": %.3f, \"mfu\": %.4f, \"mfu_mma\": %.4f, \"roofline\": %.4f, \"gb_per_s\": %.2f, "
           "\"share_of_read\": %.4f, \"parts\": {",
           report->ms, report->mfu, report->mfu_mma, report->roofline_share, report->gb_per_s,
           report->read_share);
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
