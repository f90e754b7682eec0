/* Traces of arrivals: what is taken has times that never fall, lengths within bounds and hashes that exist. */
#include "bench/serve/trace.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(bool promise)
{
    if (!promise)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct sl_arrival_trace *trace;
    struct sl_err err;
    if (sl_arrival_trace_parse(&trace, (const char *)data, bytes, "trace", 0, &err) != SL_OK) {
        require(trace == NULL && err.text[0]);
        return 0;
    }
    require(trace->n_rows > 0);
    for (uint32_t i = 0; i < trace->n_rows; i++) {
        const struct sl_arrival_row *row = &trace->rows[i];
        require(i == 0 || row->at_us >= row[-1].at_us);
        require(row->input_tokens >= 1 && row->output_tokens >= 1);
        require((uint64_t)row->first_hash + row->n_hashes <= trace->n_hashes);
        require((uint64_t)row->n_hashes * SL_TRACE_BLOCK < (uint64_t)row->input_tokens + SL_TRACE_BLOCK);
    }
    sl_arrival_trace_free(trace);
    return 0;
}
