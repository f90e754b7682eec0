/* The feed-forward on a GPU (device_impl.h): norm, then router, choose, group and tasks, all on the device, the grouped products, and
 * the sums onto the rows; then the one that every row takes, dense or shared. No number of a route comes to the host: how many tasks
 * there are is read by whoever does them. */
#include "kernels/gpu/device_impl.h"
#include "kernels/gpu/elements.h"
#include "kernels/gpu/route.h"

/* Of this layer, the last one or not: rows that go on. */
static enum gpu_batches batch_of(const struct device_gpu *d, uint32_t layer)
{
    return layer + 1 == d->config.n_layers ? GPU_LEFT : GPU_ALL;
}

/* n_tasks: the layer's. */
static void route(struct device_gpu *d, enum gpu_batches batch, const struct sl_panel *router,
                  enum gemm8_body body, uint32_t *n_tasks)
{
    const struct sl_experts_dims *e = &d->config.experts;
    const struct gpu_buffers *b = &d->b;
    const uint32_t *n = &d->at.numbers[batch].rows;
    struct gpu_mul p = gpu_mul_of(d, batch, router);
    p.x = b->normed;
    p.y = b->router;
    p.y_stride = p.n = e->n_experts;
    p.part = SL_PART_ROUTER;
    gpu_multiply(d, &p);
    gpu_launch_blocks(
        d, &sl_gpu_choose,
        &(struct sl_gpu_choose){b->router, b->experts, b->gates, n, e->n_experts, e->top_k, e->renorm},
        sl_gpu_choose_blocks(d->n[batch]));
    gpu_launch_blocks(d, &sl_gpu_group,
                      &(struct sl_gpu_group){b->experts, b->offsets, b->pair_rows, b->pairs, b->load, n,
                                             e->n_experts, e->top_k},
                      e->n_experts);
    gpu_launch_blocks(d, &sl_gpu_tasks,
                      &(struct sl_gpu_tasks){b->offsets, b->tasks, n_tasks, e->n_experts, gemm8_tokens(body)},
                      1);
}

/* A product whose rows are the route's pairs. */
static struct gpu_mul of_pairs(const struct device_gpu *d, enum gpu_batches batch, const struct sl_panel *w,
                               size_t stride, const uint32_t *n_tasks)
{
    const struct sl_experts_dims *e = &d->config.experts;
    return (struct gpu_mul){.w = w,
                            .expert_stride = stride,
                            .n_rows = d->n[batch] * e->top_k,
                            .n_experts = e->n_experts,
                            .tiles = d->b.tasks,
                            .count = n_tasks,
                            .n = w->n};
}

/* hidden rows of gate|up, `each` of a row of the batch, which are down's inputs, in s8 where it wants them so. */
static void feed_forward(struct device_gpu *d, enum gpu_batches batch, uint32_t each, struct gpu_mul up,
                         struct gpu_mul down)
{
    const struct gpu_buffers *b = &d->b;
    up.x = b->normed;
    up.x8 = &b->x8;
    up.y = b->hidden;
    up.y_stride = up.n = down.w->k;
    up.swiglu = true;
    up.part = down.part = SL_PART_EXPERTS;
    gpu_multiply(d, &up);
    if (sl_dtype_is_integer(down.w->dtype))
        gpu_quantise(d, batch, each, b->hidden, down.w, &b->hidden8);
    down.x = b->hidden;
    down.x8 = &b->hidden8;
    down.y_stride = d->config.experts.d_model;
    gpu_multiply(d, &down);
}

static void routed(struct device_gpu *d, uint32_t layer, enum gpu_batches batch,
                   const struct sl_experts_weights *w, float *x)
{
    const struct sl_experts_dims *e = &d->config.experts;
    const struct gpu_buffers *b = &d->b;
    const struct sl_expert_set *set = &w->routed;
    uint32_t *n_tasks = b->n_tasks + layer;
    struct gpu_mul up = of_pairs(d, batch, &set->gate_up, set->gate_up_stride, n_tasks),
                   down = of_pairs(d, batch, &set->down, set->down_stride, n_tasks);
    up.rows = b->pair_rows;
    up.swiglu = true;
    enum gemm8_body bodies[2] = {gpu_body_of(d, &up), gpu_body_of(d, &down)};
    up.body = down.body = bodies[0] < bodies[1] ? bodies[0] : bodies[1]; /* one list, for the lower tiles */
    route(d, batch, &w->router, up.body, n_tasks);
    down.y = b->outputs;
    feed_forward(d, batch, e->top_k, up, down);
    gpu_part(d, SL_PART_NORMS);
    gpu_work(d, 2ull * d->n[batch] * e->top_k * e->d_model, 0);
    gpu_launch_blocks(d, &sl_gpu_combine,
                      &(struct sl_gpu_combine){x, b->outputs, b->pairs, b->gates, &d->at.numbers[batch].rows,
                                               e->d_model, e->top_k},
                      d->n[batch]);
}

/* `first`: what x8 was made for. Another rotation, or more digits, ask for others. */
static void single(struct device_gpu *d, enum gpu_batches batch, const struct sl_experts_weights *w,
                   const struct sl_panel *first, float *x)
{
    const struct gpu_buffers *b = &d->b;
    const uint32_t *rows = &d->at.numbers[batch].rows, n = d->n[batch], h = d->config.experts.d_model;
    bool made = sl_dtype_is_integer(first->dtype) && first->rotation == w->gate_up.rotation &&
                first->digits >= w->gate_up.digits;
    if (sl_dtype_is_integer(w->gate_up.dtype) && !made)
        gpu_quantise(d, batch, 1, b->normed, &w->gate_up, &b->x8);
    struct gpu_mul down = gpu_mul_of(d, batch, &w->down);
    down.y = w->shared_gate ? b->outputs : x;
    down.accumulate = !w->shared_gate;
    feed_forward(d, batch, 1, gpu_mul_of(d, batch, &w->gate_up), down);
    if (!w->shared_gate)
        return;
    gpu_part(d, SL_PART_NORMS);
    gpu_launch_blocks(d, &sl_gpu_sigmoid,
                      &(struct sl_gpu_sigmoid){w->shared_gate, b->normed, b->gates, rows, h},
                      (n + SL_GPU_SIGMOID_ROWS - 1) / SL_GPU_SIGMOID_ROWS);
    gpu_launch_blocks(d, &sl_gpu_combine, &(struct sl_gpu_combine){x, b->outputs, NULL, b->gates, rows, h, 1},
                      n);
}

void gpu_experts(struct device_gpu *d, uint32_t layer)
{
    const struct sl_experts_weights *w = &d->weights.layers[layer].experts;
    const struct sl_panel *first = w->is_moe ? &w->routed.gate_up : &w->gate_up;
    enum gpu_batches batch = batch_of(d, layer);
    float *x = (float *)d->chunk.rows.at;
    if (d->n[batch] == 0)
        return;
    gpu_norm(d, batch, x, w->norm, first, w->is_moe);
    if (w->is_moe)
        routed(d, layer, batch, w, x);
    if (w->has_single)
        single(d, batch, w, first, x);
}
