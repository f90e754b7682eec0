/* Outputs that go past the caches.
 *
 * A product's output that is too large to be in the second cache when somebody reads it costs twice there: its
 * lines are read from memory before they are written, and push out the panel and the activations that are in
 * use (3 to 5 % of an expert's down projection). Such an output is written with non-temporal stores. They are
 * weakly ordered: a product that made some ends with sl_stream_end, so that whoever is told of the output sees
 * all of it. */
#ifndef SL_KERNELS_CPU_STREAM_H
#define SL_KERNELS_CPU_STREAM_H

#include "kernels/isa.h"
#include <immintrin.h>

/* an eighth of a common second cache, which it shares with panel and activations */
enum { STREAM_BYTES = 128 * 1024 };

/* Whether the product's whole blocks of sixteen outputs are to be streamed: each is a line of its own. */
static inline bool sl_gemm8_streams(const struct sl_gemm8 *g)
{
    size_t bytes = (size_t)g->m * (g->col_end - g->col_begin) * sizeof *g->y;
    return !g->accumulate && bytes >= STREAM_BYTES && (uintptr_t)g->y % 64 == 0 &&
           g->y_stride % SL_LANES == 0;
}

static inline void sl_stream_end(const struct sl_gemm8 *g)
{
    if (sl_gemm8_streams(g))
        _mm_sfence();
}

#endif
