/* Launches of a GPU's device (device_impl.h): its kernels, made ready when it is created, and the steps that both blocks have: a
 * product, a norm, rows to s8. All of it goes into the compute stream and returns at once. */
#include "kernels/gpu/attend.h"
#include "kernels/gpu/attend8.h"
#include "kernels/gpu/device_impl.h"
#include "kernels/gpu/elements.h"
#include "kernels/gpu/gemm.h"
#include "kernels/gpu/lanes.h"
#include "kernels/gpu/norm.h"
#include "kernels/gpu/place.h"
#include "kernels/gpu/route.h"
#include <assert.h>

/* ---- kernels ---- */

static uint32_t widest_hidden(const struct sl_device_config *c)
{
    const struct sl_experts_dims *e = &c->experts;
    uint32_t widest = e->d_model;
    widest = e->d_expert > widest ? e->d_expert : widest;
    return e->d_single > widest ? e->d_single : widest;
}

/* Shared memory of a block: by what it is, not by launch, so that it is asked for once. */
static uint32_t shared_of(const struct device_gpu *d, const struct gpu_kernel *kernel)
{
    const struct sl_device_config *c = &d->config;
    uint32_t mixed = c->attention.n_q * c->attention.d_head;
    for (int dtype = 0; dtype < SL_DTYPES; dtype++)
        for (int i = 0; sl_dtype_is_integer((enum sl_dtype)dtype) && i < 4; i++)
            if (kernel == gemm8_kernel((enum sl_dtype)dtype, i % 2, (uint32_t)i / 2 + 1))
                return gemm8_shared_bytes(dtype);
    if (kernel == &sl_gpu_norm)
        return sl_gpu_row_shared(c->attention.d_model);
    if (kernel == &sl_gpu_mix)
        return sl_gpu_row_shared(mixed);
    if (kernel == &sl_gpu_quantise)
        return sl_gpu_quantise_shared(widest_hidden(c));
    if (kernel == &sl_gpu_choose)
        return sl_gpu_choose_shared(c->experts.n_experts);
    if (kernel == &sl_gpu_group)
        return SL_GPU_GROUP_SHARED;
    if (kernel == &sl_gpu_tasks)
        return SL_GPU_TASKS_SHARED;
    if (kernel == &sl_gpu_place)
        return SL_GPU_PLACE_SHARED;
    if (kernel == &sl_gpu_sigmoid)
        return SL_GPU_SIGMOID_SHARED;
    if (kernel == &sl_gpu_lanes)
        return SL_GPU_LANES_SHARED;
    if (kernel == &sl_gpu_gemm_f32 || kernel == &sl_gpu_gemm_bf16 || kernel == &sl_gpu_gemm_f32_swiglu ||
        kernel == &sl_gpu_gemm_bf16_swiglu)
        return SL_GPU_GEMM_SHARED;
    if (kernel == &sl_gpu_attend8_64 || kernel == &sl_gpu_attend8_128 || kernel == &sl_gpu_attend8_256 ||
        kernel == &sl_gpu_attend8_any)
        return SL_GPU_ATTEND8_SHARED;
    return kernel == &sl_gpu_embed || kernel == &sl_gpu_combine ? 0 : SL_GPU_ATTEND_SHARED;
}

sl_status gpu_find_functions(struct device_gpu *d, struct sl_err *err)
{
    assert(gpu_n_kernels <= GPU_FUNCTIONS_MOST);
    for (uint32_t i = 0; i < gpu_n_kernels; i++) {
        const struct gpu_kernel *k = gpu_kernels[i];
        struct gpu_function *f = &d->functions[i];
        int fits = 0;
        *f = (struct gpu_function){.kernel = k, .shared = shared_of(d, k)};
        SL_TRY(sl_gpu_modules_find(&d->modules, k->name, f->shared, &f->function, err));
        SL_TRY(sl_cu_check(d->cuda, d->cuda->function_fits(&fits, f->function, (int)k->warps * 32, f->shared),
                           k->name, err));
        if (fits < 1)
            return sl_fail(
                err, SL_E_UNAVAILABLE,
                "the kernel %s does not fit a multiprocessor of this GPU (%u KiB of shared memory)", k->name,
                f->shared / 1024);
        f->most = (uint32_t)fits * d->driver.gpu.multiprocessors;
    }
    d->n_functions = gpu_n_kernels;
    return SL_OK;
}

static const struct gpu_function *function_of(const struct device_gpu *d, const struct gpu_kernel *kernel)
{
    for (uint32_t i = 0; i < d->n_functions; i++)
        if (d->functions[i].kernel == kernel)
            return &d->functions[i];
    gpu_lost(d, kernel->name); /* not listed: our own mistake */
}

static void launch(struct device_gpu *d, const struct gpu_function *f, const void *params, size_t blocks)
{
    void *arguments[] = {(void *)(uintptr_t)params};
    if (blocks == 0)
        return;
    gpu_check(d,
              d->cuda->launch(f->function, (unsigned)blocks, 1, 1, f->kernel->warps * 32, 1, 1, f->shared,
                              d->streams[SL_QUEUE_COMPUTE], arguments, NULL),
              f->kernel->name);
}

void gpu_launch_blocks(struct device_gpu *d, const struct gpu_kernel *kernel, const void *params,
                       size_t blocks)
{
    launch(d, function_of(d, kernel), params, blocks);
}

void gpu_launch_shared(struct device_gpu *d, const struct gpu_kernel *kernel, const void *params,
                       size_t most_blocks)
{
    const struct gpu_function *f = function_of(d, kernel);
    launch(d, f, params, most_blocks < f->most ? most_blocks : f->most);
}

/* ---- products ---- */

static void multiply8(struct device_gpu *d, const struct gpu_mul *p)
{
    const struct sl_panel *w = p->w;
    uint32_t digits = w->digits == 2 ? 2 : 1,
             n_blocks = sl_round_lanes(p->swiglu ? 2 * sl_round_lanes(p->n) : p->n) / SL_LANES;
    struct gemm8_params g = {.rows = p->rows,
                             .expert_stride = p->expert_stride,
                             .tiles = p->tiles,
                             .n_tiles = p->n_tiles,
                             .y = p->y + p->begin,
                             .y_stride = (uint64_t)p->y_stride * sizeof(float),
                             .n_out = p->n,
                             .accumulate = p->accumulate};
    gemm8_describe(&g, w);
    g.n_blocks = n_blocks;
    g.weights = (const uint8_t *)w->data + (size_t)(p->begin / SL_LANES) * g.block_bytes;
    for (uint32_t i = 0; i < digits; i++)
        g.x[i] = (struct gemm8_rows){p->x8->q[i], p->x8->scale[i], p->x8->sum[i]};
    gpu_launch_shared(d, gemm8_kernel(w->dtype, p->swiglu, digits), &g,
                      p->most_tiles * ((n_blocks + GEMM8_BLOCKS - 1) / GEMM8_BLOCKS));
}

static const struct gpu_kernel *gemm_of(enum sl_dtype dtype, bool swiglu)
{
    if (dtype == SL_BF16)
        return swiglu ? &sl_gpu_gemm_bf16_swiglu : &sl_gpu_gemm_bf16;
    return swiglu ? &sl_gpu_gemm_f32_swiglu : &sl_gpu_gemm_f32;
}

static void multiply(struct device_gpu *d, const struct gpu_mul *p)
{
    const struct sl_panel *w = p->w;
    const uint32_t each = SL_GPU_GEMM_COLUMNS / SL_LANES;
    struct sl_gpu_gemm g = {
        .x = p->x,
        .x_stride = w->k,
        .rows = p->rows,
        .weights = (const uint8_t *)w->data + (size_t)p->begin * w->k * sl_dtype_bytes(w->dtype),
        .expert_stride = p->expert_stride,
        .tasks = p->tiles,
        .n_tasks = p->n_tiles,
        .k = w->k,
        .n_blocks = sl_round_lanes(p->swiglu ? 2 * sl_round_lanes(p->n) : p->n) / SL_LANES,
        .y = p->y + p->begin,
        .y_stride = p->y_stride,
        .n_out = p->n,
        .accumulate = p->accumulate};
    gpu_launch_shared(d, gemm_of(w->dtype, p->swiglu), &g, p->most_tiles * ((g.n_blocks + each - 1) / each));
}

void gpu_multiply(struct device_gpu *d, const struct gpu_mul *p)
{
    assert(p->begin % SL_LANES == 0 && !(p->swiglu && p->accumulate));
    if (sl_dtype_is_integer(p->w->dtype))
        multiply8(d, p);
    else
        multiply(d, p);
}

struct gpu_mul gpu_mul_of(const struct device_gpu *d, enum gpu_batches batch, const struct sl_panel *w)
{
    return (struct gpu_mul){.w = w,
                            .tiles = d->at.tiles[batch],
                            .n_tiles = &d->at.numbers[batch].tiles,
                            .most_tiles = (d->n[batch] + GPU_TASK_ROWS - 1) / GPU_TASK_ROWS,
                            .n = w->n};
}

/* ---- rows ---- */

struct sl_gpu_row8 gpu_row8_of(const struct gpu_rows8 *to, const struct sl_panel *w)
{
    return (struct sl_gpu_row8){.q = to->q[0],
                                .scale = to->scale[0],
                                .sum = to->sum[0],
                                .second = to->q[1],
                                .second_scale = to->scale[1],
                                .second_sum = to->sum[1],
                                .stride = sl_rows8_stride(w->k),
                                .rotation = w->rotation,
                                .digits = w->digits};
}

void gpu_norm(struct device_gpu *d, enum gpu_batches batch, const float *x, const float *gain,
              const struct sl_panel *w, bool floats)
{
    bool integers = sl_dtype_is_integer(w->dtype);
    struct sl_gpu_norm p = {.x = x,
                            .gain = gain,
                            .normed = floats || !integers ? d->b.normed : NULL,
                            .n_rows = &d->at.numbers[batch].rows,
                            .n = d->config.attention.d_model,
                            .eps = d->config.attention.norm_eps};
    if (integers)
        p.to = gpu_row8_of(&d->b.x8, w);
    gpu_launch_shared(d, &sl_gpu_norm, &p, d->n[batch]);
}

void gpu_quantise(struct device_gpu *d, enum gpu_batches batch, uint32_t each, const float *x,
                  const struct sl_panel *w, const struct gpu_rows8 *to)
{
    size_t stride = sl_rows8_stride(w->k);
    gpu_launch_blocks(d, &sl_gpu_quantise,
                      &(struct sl_gpu_quantise){.x = x,
                                                .x_stride = w->k,
                                                .to = {to->q[0], stride, to->scale[0], to->sum[0]},
                                                .second = {to->q[1], stride, to->scale[1], to->sum[1]},
                                                .n_rows = &d->at.numbers[batch].rows,
                                                .each = each,
                                                .k = w->k,
                                                .rotation = w->rotation,
                                                .digits = w->digits},
                      (size_t)d->n[batch] * each);
}
