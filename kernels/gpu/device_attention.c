/* The attention block on a GPU (device_impl.h), as a straight list of launches: norm, q|k|v, place (bias, q/k norm, rope, append, q
 * made ready), attend, mix, output product onto the rows. In the last layer rows of which only K and V are wanted go no further than
 * place (kernels/device.h, "The last layer"); the others move together then, in front of them. */
#include "kernels/exp.h"
#include "kernels/gpu/attend.h"
#include "kernels/gpu/attend8.h"
#include "kernels/gpu/device_impl.h"
#include "kernels/gpu/elements.h"
#include "kernels/gpu/place.h"

/* This layer's K of KV head 0 in slot 0. */
static uint8_t *pages_of(const struct device_gpu *d, uint32_t layer)
{
    return (uint8_t *)gpu_pointer(d->kv_at) + layer * d->sizes.layer_bytes;
}

static uint32_t width_of(const struct sl_attention_dims *a)
{
    return (a->n_q + 2 * a->n_kv) * a->d_head;
}

/* Heads [begin, end) of q|k|v of the batch. */
static void place(struct device_gpu *d, uint32_t layer, enum gpu_batches batch, uint32_t begin, uint32_t end)
{
    const struct sl_attention_dims *a = &d->config.attention;
    const struct sl_attention_weights *w = &d->weights.layers[layer].attention;
    const struct gpu_buffers *b = &d->b;
    bool i8 = d->config.kv_dtype == SL_I8;
    struct sl_gpu_place p = {.qkv = b->qkv,
                             .bias = w->qkv_bias,
                             .q_norm = w->q_norm,
                             .k_norm = w->k_norm,
                             .cosine = b->cosine,
                             .sine = b->sine,
                             .rows = d->at.places,
                             .kept = batch == GPU_LEFT ? d->at.kept : NULL,
                             .kv = pages_of(d, layer),
                             .slot_bytes = d->sizes.slot_bytes,
                             .head_bytes = d->sizes.k_bytes + d->sizes.v_bytes,
                             .v_at = d->sizes.k_bytes,
                             .q = i8 ? b->q8.q[0] : NULL,
                             .q_scale = b->q8.scale[0],
                             .q_sum = b->q8.sum[0],
                             .n_rows = &d->at.numbers[batch].rows,
                             .n_q = a->n_q,
                             .n_kv = a->n_kv,
                             .d_head = a->d_head,
                             .q_stride = (uint32_t)sl_rows8_stride(a->d_head),
                             .head_begin = begin,
                             .head_end = end,
                             .kv_dtype = d->config.kv_dtype,
                             .q_factor = a->softmax_scale * SL_EXP_LOG2E_HI,
                             .eps = a->norm_eps};
    size_t heads = (size_t)d->n[batch] * (end - begin);
    gpu_launch_shared(d, &sl_gpu_place, &p, (heads + SL_GPU_PLACE_WARPS - 1) / SL_GPU_PLACE_WARPS);
}

static struct sl_gpu_attend_over over(const struct device_gpu *d, uint32_t layer, enum gpu_batches batch)
{
    const struct sl_attention_dims *a = &d->config.attention;
    return (struct sl_gpu_attend_over){.kv = pages_of(d, layer),
                                       .slots = d->at.slots,
                                       .states = d->b.states,
                                       .items = d->at.items[batch],
                                       .n_items = &d->at.numbers[batch].items,
                                       .slot_bytes = d->sizes.slot_bytes,
                                       .head_bytes = d->sizes.k_bytes + d->sizes.v_bytes,
                                       .v_at = d->sizes.k_bytes,
                                       .n_q = a->n_q,
                                       .n_kv = a->n_kv,
                                       .d_head = a->d_head};
}

static void attend8(struct device_gpu *d, uint32_t layer, enum gpu_batches batch)
{
    const struct sl_attention_dims *a = &d->config.attention;
    struct sl_gpu_attend8 p = {.over = over(d, layer, batch),
                               .q = d->b.q8.q[0],
                               .q_scale = d->b.q8.scale[0],
                               .q_sum = d->b.q8.sum[0],
                               .q_stride = (uint32_t)sl_rows8_stride(a->d_head)};
    size_t items = (size_t)d->n_items[batch] * a->n_kv;
    gpu_launch_shared(d, sl_gpu_attend8_kernel(a->d_head), &p,
                      (items + SL_GPU_ATTEND8_WARPS - 1) / SL_GPU_ATTEND8_WARPS);
}

static void attend_floats(struct device_gpu *d, uint32_t layer, enum gpu_batches batch)
{
    const struct sl_attention_dims *a = &d->config.attention;
    struct sl_gpu_attend p = {.over = over(d, layer, batch),
                              .q = d->b.qkv,
                              .q_stride = width_of(a),
                              .q_factor = a->softmax_scale * SL_EXP_LOG2E_HI};
    size_t items = (size_t)d->n_items[batch] * a->n_kv;
    gpu_launch_shared(d, sl_gpu_attend_kernel(d->config.kv_dtype == SL_BF16, a->d_head), &p,
                      (items + SL_GPU_ATTEND_WARPS - 1) / SL_GPU_ATTEND_WARPS);
}

/* States to the output product's rows, which lie where q|k|v was if they are floats: nobody reads that any more. */
static void mix(struct device_gpu *d, enum gpu_batches batch, const struct sl_panel *w)
{
    const struct sl_attention_dims *a = &d->config.attention;
    bool integers = sl_dtype_is_integer(w->dtype);
    struct sl_gpu_mix p = {.states = d->b.states,
                           .rows = d->at.mixes[batch],
                           .n_rows = &d->at.numbers[batch].rows,
                           .mixed = integers ? NULL : d->b.qkv,
                           .n_q = a->n_q,
                           .d_head = a->d_head};
    if (integers)
        p.to = gpu_row8_of(&d->b.x8, w);
    gpu_launch_shared(d, &sl_gpu_mix, &p, d->n[batch]);
}

static void project_out(struct device_gpu *d, enum gpu_batches batch, const struct sl_panel *w, float *x)
{
    struct gpu_mul p = gpu_mul_of(d, batch, w);
    p.x = d->b.qkv;
    p.x8 = &d->b.x8;
    p.y = x;
    p.y_stride = d->config.attention.d_model;
    p.accumulate = true;
    gpu_multiply(d, &p);
}

/* Columns [begin, end) of q|k|v of the batch, from the rows of the whole chunk. */
static void project_in(struct device_gpu *d, enum gpu_batches batch, const struct sl_panel *w, uint32_t begin,
                       uint32_t end)
{
    struct gpu_mul p = gpu_mul_of(d, batch, w);
    p.x = d->b.normed;
    p.x8 = &d->b.x8;
    p.rows = batch == GPU_LEFT ? d->at.kept : NULL;
    p.begin = begin;
    p.n = end - begin;
    p.y = d->b.qkv;
    p.y_stride = w->n;
    gpu_multiply(d, &p);
}

/* x of the rows that are left, one behind the other; by way of memory that is free, since they may overlap. */
static void move_left(struct device_gpu *d, float *x)
{
    uint32_t h = d->config.attention.d_model;
    gpu_launch_blocks(d, &sl_gpu_embed, &(struct sl_gpu_embed){x, d->at.kept, d->b.outputs, h, 0},
                      d->n[GPU_LEFT]);
    gpu_check(d,
              d->cuda->copy_within((uintptr_t)x, (uintptr_t)d->b.outputs,
                                   (size_t)d->n[GPU_LEFT] * h * sizeof *x, d->streams[SL_QUEUE_COMPUTE]),
              "moving rows");
}

void gpu_attention(struct device_gpu *d, uint32_t layer)
{
    const struct sl_attention_dims *a = &d->config.attention;
    const struct sl_attention_weights *w = &d->weights.layers[layer].attention;
    float *x = (float *)d->chunk.rows.at;
    uint32_t q_end = a->n_q * a->d_head, lanes_end = sl_round_lanes(q_end);
    bool some = layer + 1 == d->config.n_layers && d->n[GPU_LEFT] < d->n[GPU_ALL];
    enum gpu_batches batch = some ? GPU_LEFT : GPU_ALL;
    gpu_norm(d, GPU_ALL, x, w->norm, &w->qkv, false);
    project_in(d, GPU_ALL, &w->qkv, some ? q_end / SL_LANES * SL_LANES : 0, w->qkv.n);
    gpu_part(d, SL_PART_ATTENTION);
    place(d, layer, GPU_ALL, some ? a->n_q : 0, a->n_q + 2 * a->n_kv);
    if (d->n[batch] == 0)
        return;
    if (some) {
        move_left(d, x);
        project_in(d, GPU_LEFT, &w->qkv, 0, lanes_end < w->qkv.n ? lanes_end : w->qkv.n);
        gpu_part(d, SL_PART_ATTENTION);
        place(d, layer, GPU_LEFT, 0, a->n_q);
    }
    gpu_work_attention(d, batch);
    if (d->config.kv_dtype == SL_I8)
        attend8(d, layer, batch);
    else
        attend_floats(d, layer, batch);
    mix(d, batch, &w->o);
    project_out(d, batch, &w->o, x);
}
