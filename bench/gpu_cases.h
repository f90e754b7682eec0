/* The kernels of `sluice bench kernels --device`, as cases: operands on the GPU, one launch, how many operations and bytes that is, and
 * whether what it leaves are the bits of kernels/ref. How a case is timed is gpu_kernels.c's.
 *
 * Shapes are those of Qwen3-30B-A3B; on the twin, which is a thousand times slower, small ones of the same kinds. Operands go round, a
 * launch after the other, through more memory than an L2 holds. They are random: a GPU multiplies zeros faster. */
#ifndef SL_BENCH_GPU_CASES_H
#define SL_BENCH_GPU_CASES_H

#include "base/dtype.h"
#include "bench/bench_gpu.h"

struct sl_bench_gpu_case {
    char shape[48];
    const char *format;
    uint32_t rows; /* tokens; of a grouped product, of each expert */
    bool integers; /* its products are mma.sync's or wgmma's */
    double ops,
        bytes; /* of a launch; bytes: weights and pages, or of a kernel on rows what goes in and out */
    struct sl_bench_launch launch;
    sl_cu_at out; /* what it leaves */
    size_t out_bytes;
    bool adds; /* onto what lies there, which is to be zeros */
    /* Of the first launch. Some rows of it; floats and bytes, by bytes. */
    bool (*is_equal)(struct sl_bench_gpu *g, const struct sl_bench_gpu_case *c);
};

struct sl_bench_gpu_list {
    struct sl_bench_gpu *gpu;
    /* Asked before there are operands, with kernel, shape, format and rows alone. */
    bool (*wants)(void *arg, const struct sl_bench_gpu_case *c);
    void (*each)(void *arg, const struct sl_bench_gpu_case *c);
    void *arg;
};
void sl_bench_gpu_cases(const struct sl_bench_gpu_list *list);

/* gpu_products.c, gpu_rows.c: in the order of the report. */
void sl_bench_gpu_products(const struct sl_bench_gpu_list *list);
void sl_bench_gpu_rows(const struct sl_bench_gpu_list *list);

enum { SL_BENCH_CACHED = 256 << 20 }; /* bytes that no L2 holds */
/* Whose operands lie in `copies` places one behind the other so that launches find none of them in a cache. */
static inline uint32_t sl_bench_gpu_copies(const struct sl_bench_gpu *g, size_t bytes)
{
    return g->twin ? 2 : (uint32_t)(SL_BENCH_CACHED / bytes + 1);
}
/* The whole of a case whose operands lie there, and what was taken for it is given back. */
static inline void sl_bench_gpu_each(const struct sl_bench_gpu_list *list, const struct sl_bench_gpu_case *c)
{
    list->each(list->arg, c);
    sl_bench_gpu_reset(list->gpu);
}

#endif
