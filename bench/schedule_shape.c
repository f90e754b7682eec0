/* The numbers and the arithmetic of schedule_shape.h. */
#include "bench/schedule_shape.h"
#include "pipeline/decide/cost_fit.h"
#include <math.h>
#include <string.h>

/* Qwen3-30B-A3B: 8 of 128 experts; a row's matrices 70 us a layer, all experts 17 ms to read. */
#define CPU_LAYER .c = 200, .gamma = 0.1, .b = 70, .a = 0.01, .w = 17000, .hit = 8.0 / 128
#define CPU_WORLD                                                                                            \
    .hop_us = 1000, .hop_row_us = 8, .step_us = 60000, .step_row_us = 8000,                                  \
    .kv_bytes = 48 * 2 * 4 * 128 * 2, .context = 40960, .n_long = 2, .max_chunk = 2048, .target_us = 4e6,    \
    .chunk_us = 1.5e6
/* DeepSeek-V3: 8 of 256 experts; 61 layers, of which a stage has its part. */
#define GPU_LAYER                                                                                            \
    .c = 131, .gamma = 3.8e-3, .b = 0.149, .a = 8.1e-6, .w = 367, .hit = 8.0 / 256, .b_experts = 0.1145,     \
    .least = 300
#define GPU_WORLD                                                                                            \
    .hop_us = 100, .hop_row_us = 0.05, .step_us = 20000, .step_row_us = 100, .kv_bytes = 61 * 576 * 2,       \
    .context = 131072, .max_chunk = 8192, .target_us = 4e5, .is_large = true

/* The bundled model, one thread a stage, as `sluice calibrate` measures it: a page behind 8k tokens is the work of ten alone. */
#define DEMO_LAYER .c = 27, .gamma = 0.021, .b = 13, .a = 0.0076, .w = 108, .hit = 4.0 / 16
#define DEMO_WORLD                                                                                           \
    .hop_us = 300, .hop_row_us = 1, .step_us = 1500, .step_row_us = 150, .kv_bytes = 6 * 2 * 2 * 64 * 2,     \
    .context = 16384, .n_long = 2, .max_chunk = 2048, .target_us = 4e5, .chunk_us = 4e3

static const struct sl_bench_shape shapes[] = {
    {.name = "A", .n_stages = 2, .layers = 24, CPU_LAYER, CPU_WORLD},
    {.name = "A8", .n_stages = 8, .layers = 6, CPU_LAYER, CPU_WORLD},
    {.name = "D", .n_stages = 2, .layers = 3, DEMO_LAYER, DEMO_WORLD},
    {.name = "B4", .n_stages = 4, .layers = 61.0 / 4, GPU_LAYER, GPU_WORLD, .n_long = 8, .chunk_us = 3e4},
    {.name = "B8", .n_stages = 8, .layers = 61.0 / 8, GPU_LAYER, GPU_WORLD, .n_long = 12, .chunk_us = 2e4},
};

const struct sl_bench_shape *sl_bench_shape_find(const char *name)
{
    for (uint32_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

double sl_bench_shape_us(const struct sl_bench_shape *s, const struct sl_cost_chunk *chunk)
{
    double experts = s->w * sl_cost_hit(s->hit, chunk->rows), rows = s->b_experts * chunk->rows,
           us = s->c + s->gamma * chunk->pos + s->b * chunk->rows + s->a * chunk->pairs +
                (experts > rows ? experts : rows);
    return chunk->rows <= 0 ? 0 : s->layers * (us > s->least ? us : s->least);
}

/* The truth without the maximum, in which arithmetic hides the reading of weights: definitions are made of it. */
static struct sl_cost additive(const struct sl_bench_shape *s)
{
    return (struct sl_cost){.us = {[SL_COST_C] = s->layers * s->c,
                                   [SL_COST_GAMMA] = s->layers * s->gamma,
                                   [SL_COST_B] = s->layers * (s->b + s->b_experts),
                                   [SL_COST_A] = s->layers * s->a,
                                   [SL_COST_W] = s->layers * s->w},
                            .hit = s->hit};
}

/* Chunks that a stage would run before it is ready: twice, since noise is not what this is about. */
struct sl_cost sl_bench_shape_prior(const struct sl_bench_shape *s)
{
    static const uint32_t rows[] = {64, 256, 512, 1024, 2048}, prefixes[] = {0, 4096, 16384};
    struct sl_cost sum = additive(s);
    struct sl_cost_fit fit;
    sl_cost_fit_init(&fit, &sum);
    for (uint32_t i = 0; i < 2 * 3 * 5; i++) {
        struct sl_cost_chunk chunk = {0};
        sl_cost_add(&chunk, prefixes[i / 5 % 3], rows[i % 5]);
        sl_cost_fit_add(&fit, &chunk, sl_bench_shape_us(s, &chunk));
    }
    return fit.now;
}

static double overhead(const struct sl_bench_shape *s, double pos)
{
    struct sl_cost sum = additive(s);
    return sl_cost_overhead(&sum, pos);
}

/* F·T / (T − ov): each chunk of T has T − ov for rows; T at least so long that a part of it is left for them. */
static double cut_us(const struct sl_bench_shape *s, uint32_t n, double chunk_us)
{
    struct sl_cost sum = additive(s);
    return sl_cost_work(&sum, 0, n) * chunk_us / (chunk_us - overhead(s, n / 2.0));
}

double sl_bench_shape_work(const struct sl_bench_shape *s, uint32_t n)
{
    return cut_us(s, n, fmax(s->chunk_us, 1.2 * overhead(s, n / 2.0)));
}

double sl_bench_shape_alone(const struct sl_bench_shape *s, uint32_t n)
{
    struct sl_cost_chunk whole = {0};
    sl_cost_add(&whole, 0, n);
    double one = sl_bench_shape_us(s, &whole), hops = (s->n_stages + 1) * s->hop_us,
           chunk_us = fmax(s->chunk_us, 2 * overhead(s, n / 2.0));
    if (one <= s->chunk_us)
        return one * s->n_stages + hops;
    return cut_us(s, n, chunk_us) + (s->n_stages - 1) * chunk_us + hops;
}
