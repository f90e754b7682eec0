/* The rows of `sluice bench layout`: a table, JSON, and a drawing. */
#ifndef SL_BENCH_LAYOUT_REPORT_H
#define SL_BENCH_LAYOUT_REPORT_H

#include "base/status.h"
#include "bench/layout_tape.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum sl_layout_row_kind { SL_ROW_LAYERS, SL_ROW_EXPERTS_NODE, SL_ROW_EXPERTS_EXACT, SL_ROW_KINDS };

struct sl_layout_row {
    enum sl_layout_row_kind kind;
    uint32_t n_nodes, delay_us, prompt_tokens, n_chunks;
    bool real; /* clock */
    double latency_ms;
    double foretold_ms; /* by the algebra */
    double ideal_ms;    /* with all exchange hidden */
    double waited_ms;   /* mean of the nodes */
    double bytes, foretold_bytes;
    double skew;
    double one_ms;                 /* one node, the same prompt */
    double part_ms[SL_TAPE_PARTS]; /* mean of the nodes' work */
    bool same_bits, wants_bits;
};

enum { SL_LAYOUT_ROWS_MAX = 1024, SL_LAYOUT_REASONS_MAX = 32 };
struct sl_layout_report {
    const char *model, *transport;
    uint32_t chunk, rounds, n_layers, n_experts, top_k;
    double gbit;
    uint32_t n_rows, n_left_out;
    struct sl_layout_row rows[SL_LAYOUT_ROWS_MAX];
    char left_out[SL_LAYOUT_REASONS_MAX][160]; /* which nodes, and why */
};

/* The row of the other layout to compare with; NULL: none. */
const struct sl_layout_row *sl_layout_row_of(const struct sl_layout_report *report,
                                             const struct sl_layout_row *like, enum sl_layout_row_kind kind);

void sl_layout_print(const struct sl_layout_report *report);
void sl_layout_print_json(const struct sl_layout_report *report);
/* Latency over nodes, a panel for each delay. */
sl_status sl_layout_draw(const struct sl_layout_report *report, const char *path, struct sl_err *err);

#endif
