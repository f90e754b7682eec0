/* Traces of real arrivals: Mooncake's JSON lines (timestamp in ms, input_length, output_length, hash_ids of 512 tokens each) and
 * BurstGPT's CSV (Timestamp in s, Request tokens, Response tokens). Bad lines are refused by their number. */
#ifndef SL_BENCH_SERVE_TRACE_H
#define SL_BENCH_SERVE_TRACE_H

#include "base/status.h"
#include <stdint.h>

enum { SL_TRACE_ROWS = 1 << 22, SL_TRACE_HASHES = 1 << 26, SL_TRACE_BLOCK = 512 };

struct sl_arrival_row {
    uint64_t at_us; /* from the first row */
    uint32_t input_tokens, output_tokens;
    uint32_t first_hash, n_hashes;
};

struct sl_arrival_trace {
    struct sl_arrival_row *rows;
    uint32_t n_rows, n_left_out; /* rows without output: they failed when they were recorded */
    uint64_t *hashes;
    uint32_t n_hashes;
};

/* The first max_rows rows (0: all; then more than SL_TRACE_ROWS are refused). The form is told by the first line. SL_E_DATA, SL_E_IO. */
sl_status sl_arrival_trace_read(struct sl_arrival_trace **trace, const char *path, uint32_t max_rows,
                                struct sl_err *err);
void sl_arrival_trace_free(struct sl_arrival_trace *trace);

/* For the fuzzer: a trace as bytes. */
sl_status sl_arrival_trace_parse(struct sl_arrival_trace **trace, const char *text, size_t bytes,
                                 const char *name, uint32_t max_rows, struct sl_err *err);

#endif
