/* The table and the JSON of layout_report.h. Rows that can be compared (nodes, delay, prompt) stand together, and under them what
 * comes of it. */
#include "bench/layout_report.h"
#include "bench/serve/written.h"

static const char *const names[SL_ROW_KINDS] = {"layers", "experts, node", "experts, exact"};
static const char *const keys[SL_ROW_KINDS] = {"layers", "experts_node", "experts_exact"};

const struct sl_layout_row *sl_layout_row_of(const struct sl_layout_report *report,
                                             const struct sl_layout_row *like, enum sl_layout_row_kind kind)
{
    for (uint32_t i = 0; i < report->n_rows; i++) {
        const struct sl_layout_row *row = &report->rows[i];
        if (row->kind == kind && row->n_nodes == like->n_nodes && row->delay_us == like->delay_us &&
            row->prompt_tokens == like->prompt_tokens)
            return row;
    }
    return NULL;
}

static double off(double measured, double foretold)
{
    return foretold > 0 ? 100 * (measured / foretold - 1) : 0;
}

/* Of what one node would take that is as fast as all of them. */
static double of_faster(const struct sl_layout_row *row, double ms)
{
    return ms * row->n_nodes / row->one_ms;
}

/* Who wins, and by how much; beside it what the algebra says. */
static void print_verdict(const struct sl_layout_report *report, const struct sl_layout_row *experts)
{
    const struct sl_layout_row *layers = sl_layout_row_of(report, experts, SL_ROW_LAYERS);
    if (!layers)
        return;
    double ratio = experts->latency_ms / layers->latency_ms,
           foretold = experts->foretold_ms / layers->foretold_ms;
    printf("        experts / layers %.3f, by the algebra %.3f (%+.1f %%): ", ratio, foretold,
           off(ratio, foretold));
    if (ratio > 1)
        puts("layers win");
    else
        printf(
            "experts win: filling and draining costs the pipeline %.1f ms, exchange and skew cost experts %.1f ms\n",
            layers->latency_ms - layers->one_ms / layers->n_nodes,
            experts->latency_ms - experts->one_ms / experts->n_nodes);
}

static void print_row(const struct sl_layout_report *report, const struct sl_layout_row *row, bool first)
{
    if (first && row->n_nodes > 1)
        printf("%2u nodes, %u us, %u tokens in %u chunk%s\n", row->n_nodes, row->delay_us, row->prompt_tokens,
               row->n_chunks, row->n_chunks == 1 ? "" : "s");
    else if (first)
        printf(" 1 node, %u tokens in %u chunk%s\n", row->prompt_tokens, row->n_chunks,
               row->n_chunks == 1 ? "" : "s");
    printf("  %-15s %-8s %10.1f %10.1f %+6.1f %% %10.1f %10.1f %10.3f  %s\n", names[row->kind],
           row->real ? "real" : "virtual", row->latency_ms, row->foretold_ms,
           off(row->latency_ms, row->foretold_ms), row->ideal_ms, row->waited_ms, row->bytes / 1e6,
           row->same_bits    ? "equal"
           : row->wants_bits ? "DIFFERENT"
                             : "near");
    if (row->kind == SL_ROW_EXPERTS_NODE && row->n_nodes > 1)
        print_verdict(report, row);
    if (report->n_experts == 0 && row->n_nodes > 1)
        printf(
            "        layers / one node of the same FLOP/s %.3f, by the algebra %.3f (%+.1f %%): a dense model gains "
            "nothing\n",
            of_faster(row, row->latency_ms), of_faster(row, row->foretold_ms),
            off(row->latency_ms, row->foretold_ms));
}

void sl_layout_print(const struct sl_layout_report *report)
{
    printf("%s: %u layers, ", report->model, report->n_layers);
    if (report->n_experts > 0)
        printf("%u of %u experts", report->top_k, report->n_experts);
    else
        fputs("dense", stdout);
    printf(
        "; prefill of one prompt, one thread a node, %u rows of a node at once, medians of %u rounds, frames over %s",
        report->chunk, report->rounds, report->transport);
    if (report->gbit > 0)
        printf(", %g Gbit/s", report->gbit);
    puts(
        "\nlatency, what the algebra says, the exchange all hidden, and what a node waited in ms; what crosses in MB\n"
        "  layout          clock       latency    algebra      off      ideal     waited    crosses  bits");
    for (uint32_t i = 0; i < report->n_rows; i++) {
        const struct sl_layout_row *row = &report->rows[i], *before = i > 0 ? row - 1 : NULL;
        print_row(report, row,
                  !before || before->n_nodes != row->n_nodes || before->delay_us != row->delay_us ||
                      before->prompt_tokens != row->prompt_tokens);
    }
    for (uint32_t i = 0; i < report->n_left_out; i++)
        printf("left out: %s\n", report->left_out[i]);
    puts(
        "virtual: nodes worked one at a time, each for what it had of its processor, and the frames that they sent were played "
        "on a clock with the delay and the rate; real: all at once, over a transport that imposes them");
}

static void print_parts(const struct sl_layout_row *row)
{
    static const char *const parts[SL_TAPE_PARTS] = {"stage", "attention", "route", "experts", "sum",
                                                     "pack",  "back",      "carry", "ends"};
    fputs(", \"work_ms\": {", stdout);
    for (int part = 0; part < SL_TAPE_PARTS; part++)
        printf("%s\"%s\": %.3f", part > 0 ? ", " : "", parts[part], row->part_ms[part]);
    fputs("}}", stdout);
}

void sl_layout_print_json(const struct sl_layout_report *report)
{
    fputs("{\"model\": ", stdout);
    sl_write_json(stdout, report->model);
    printf(", \"transport\": \"%s\"", report->transport);
    printf(", \"layers\": %u, \"experts\": %u, \"top_k\": %u, \"chunk\": %u, \"rounds\": %u, \"gbit\": ",
           report->n_layers, report->n_experts, report->top_k, report->chunk, report->rounds);
    printf(report->gbit > 0 ? "%g" : "null", report->gbit);
    fputs(", \"rows\": [", stdout);
    for (uint32_t i = 0; i < report->n_rows; i++) {
        const struct sl_layout_row *r = &report->rows[i];
        printf(
            "%s\n{\"layout\": \"%s\", \"nodes\": %u, \"delay_us\": %u, \"prompt_tokens\": %u, \"chunks\": %u, "
            "\"clock\": \"%s\", \"latency_ms\": %.3f, \"algebra_ms\": %.3f, \"off\": %.4f, \"ideal_ms\": %.3f, "
            "\"waited_ms\": %.3f, \"bytes\": %.0f, \"algebra_bytes\": %.0f, \"skew\": %.4f, \"one_node_ms\": %.3f, "
            "\"of_faster_node\": %.4f, \"algebra_of_faster_node\": %.4f, \"same_bits\": %s",
            i > 0 ? "," : "", keys[r->kind], r->n_nodes, r->delay_us, r->prompt_tokens, r->n_chunks,
            r->real ? "real" : "virtual", r->latency_ms, r->foretold_ms,
            off(r->latency_ms, r->foretold_ms) / 100, r->ideal_ms, r->waited_ms, r->bytes, r->foretold_bytes,
            r->skew, r->one_ms, of_faster(r, r->latency_ms), of_faster(r, r->foretold_ms),
            r->same_bits ? "true" : "false");
        print_parts(r);
    }
    fputs("], \"left_out\": [", stdout);
    for (uint32_t i = 0; i < report->n_left_out; i++) {
        fputs(i > 0 ? ", " : "", stdout);
        sl_write_json(stdout, report->left_out[i]);
    }
    puts("]}");
}
