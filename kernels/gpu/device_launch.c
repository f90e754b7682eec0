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
    if (gemm8_shared(kernel) > 0)
        return gemm8_shared(kernel);
    if (kernel == &sl_gpu_norm)
        return sl_gpu_row_shared(c->attention.d_model);
    if (kernel == &sl_gpu_mix)
        return sl_gpu_row_shared(mixed);
    if (kernel == &sl_gpu_quantise)
        return sl_gpu_row_shared(widest_hidden(c));
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
    d->n_functions = gpu_kernels_of(d->driver.gpu.capability);
    for (uint32_t i = 0; i < d->n_functions; i++) {
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

static uint32_t digits_of(const struct sl_panel *w)
{
    return w->digits == 2 ? 2 : 1;
}

enum gemm8_body gpu_body_of(const struct device_gpu *d, const struct gpu_mul *p)
{
    static_assert((int)SL_GPU_GEMM_ROWS == (int)GEMM8_TOKENS, "floats take the tiles of this body");
    if (!sl_dtype_is_integer(p->w->dtype))
        return GEMM8_MMA;
    return gemm8_choose(p->n_rows, p->n_experts, p->swiglu && digits_of(p->w) == 2, d->driver.gpu.capability);
}

/* At most: in a list each expert has one that is not full, and all have a row. */
static size_t tiles_of(const struct gpu_mul *p, enum gemm8_body body)
{
    const uint32_t tokens = gemm8_tokens(body);
    size_t most = p->tiles ? p->n_rows / tokens + p->n_experts : (p->n_rows + tokens - 1) / tokens;
    return most < p->n_rows ? most : p->n_rows;
}

static void multiply8(struct device_gpu *d, const struct gpu_mul *p)
{
    const struct sl_panel *w = p->w;
    enum gemm8_body body = p->tiles ? p->body : gpu_body_of(d, p);
    uint32_t digits = digits_of(w), each = gemm8_blocks(body),
             n_blocks = sl_round_lanes(p->swiglu ? 2 * sl_round_lanes(p->n) : p->n) / SL_LANES;
    struct gemm8_params g = {.rows = p->rows,
                             .expert_stride = p->expert_stride,
                             .tiles = p->tiles,
                             .count = p->count,
                             .y = p->y + p->begin,
                             .y_stride = (uint64_t)p->y_stride * sizeof(float),
                             .n_out = p->n};
    gemm8_describe(&g, w);
    g.n_blocks = n_blocks;
    g.weights = (const uint8_t *)w->data + (size_t)(p->begin / SL_LANES) * g.block_bytes;
    const uint32_t at_once = body == GEMM8_WGMMA ? 1 : digits;
    for (uint32_t first = 0; first < digits; first += at_once) {
        for (uint32_t i = 0; i < at_once; i++)
            g.x[i] = (struct gemm8_rows){p->x8->q[first + i], p->x8->scale[first + i], p->x8->sum[first + i]};
        g.accumulate = p->accumulate || first > 0;
        gpu_launch_shared(d, gemm8_kernel(body, w->dtype, p->swiglu, at_once), &g,
                          tiles_of(p, body) * ((n_blocks + each - 1) / each));
    }
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
        .count = p->count,
        .k = w->k,
        .n_blocks = sl_round_lanes(p->swiglu ? 2 * sl_round_lanes(p->n) : p->n) / SL_LANES,
        .y = p->y + p->begin,
        .y_stride = p->y_stride,
        .n_out = p->n,
        .accumulate = p->accumulate};
    gpu_launch_shared(d, gemm_of(w->dtype, p->swiglu), &g,
                      tiles_of(p, p->tiles ? p->body : GEMM8_MMA) * ((g.n_blocks + each - 1) / each));
}

void gpu_multiply(struct device_gpu *d, const struct gpu_mul *p)
{
    assert(p->begin % SL_LANES == 0 && !(p->swiglu && p->accumulate));
    gpu_part(d, p->part);
    gpu_work_product(d, p);
    if (sl_dtype_is_integer(p->w->dtype))
        multiply8(d, p);
    else
        multiply(d, p);
}

struct gpu_mul gpu_mul_of(const struct device_gpu *d, enum gpu_batches batch, const struct sl_panel *w)
{
    return (struct gpu_mul){
        .w = w, .n_rows = d->n[batch], .n_experts = 1, .count = &d->at.numbers[batch].rows, .n = w->n};
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
    gpu_part(d, SL_PART_NORMS);
    gpu_launch_shared(d, &sl_gpu_norm, &p, d->n[batch]);
}

void gpu_quantise(struct device_gpu *d, enum gpu_batches batch, uint32_t each, const float *x,
                  const struct sl_panel *w, const struct gpu_rows8 *to)
{
    gpu_part(d, SL_PART_QUANTISE);
    const struct sl_gpu_quantise p = {x, &d->at.numbers[batch].rows, gpu_row8_of(to, w), each, w->k};
    gpu_launch_shared(d, &sl_gpu_quantise, &p, (size_t)d->n[batch] * each);
}
