/* What every kind of device needs of the host (device.h): angles, and a walk over the parts of the weights, by which their bytes are
 * counted, found among those that a source brings, and given their addresses where the device has its own. */
#include "kernels/device.h"
#include "kernels/quant.h"
#include <math.h>

void sl_rope_row(float *cosine, float *sine, const float *inv_freq, uint32_t half, float factor, uint32_t pos)
{
    for (uint32_t i = 0; i < half; i++) {
        float angle = (float)pos * inv_freq[i];
        cosine[i] = (float)cos((double)angle) * factor;
        sine[i] = (float)sin((double)angle) * factor;
    }
}

/* ---- the parts of the weights ---- */

struct mover { /* each part, in a fixed order, is replaced by what `move` returns for it */
    const void *(*move)(void *arg, const void *from, size_t bytes);
    void *arg;
};

static void move_floats(const struct mover *m, const float **vector, size_t n)
{
    if (*vector)
        *vector = m->move(m->arg, *vector, n * sizeof **vector);
}

/* `units` of them, `stride` bytes apart; 0: one alone */
static void move_panel(const struct mover *m, struct sl_panel *panel, size_t units, size_t stride)
{
    size_t bytes = units ? units * stride : sl_panel_bytes(panel->dtype, panel->n, panel->k);
    if (panel->data)
        panel->data = m->move(m->arg, panel->data, bytes);
}

static void move_attention(const struct mover *m, struct sl_attention_weights *w,
                           const struct sl_attention_dims *d)
{
    move_floats(m, &w->norm, d->d_model);
    move_floats(m, &w->q_norm, d->d_head);
    move_floats(m, &w->k_norm, d->d_head);
    move_floats(m, &w->qkv_bias, w->qkv.n);
    move_panel(m, &w->qkv, 0, 0);
    move_panel(m, &w->o, 0, 0);
}

static void move_experts(const struct mover *m, struct sl_experts_weights *w, const struct sl_experts_dims *d)
{
    move_floats(m, &w->norm, d->d_model);
    if (w->is_moe) {
        move_panel(m, &w->router, 0, 0);
        move_panel(m, &w->routed.gate_up, d->n_experts, w->routed.gate_up_stride);
        move_panel(m, &w->routed.down, d->n_experts, w->routed.down_stride);
    }
    if (w->has_single) {
        move_panel(m, &w->gate_up, 0, 0);
        move_panel(m, &w->down, 0, 0);
    }
    move_floats(m, &w->shared_gate, d->d_model);
}

static void move_all(struct sl_device_weights *weights, const struct sl_device_inflow *inflow,
                     const struct mover *m)
{
    const struct sl_device_config *config = inflow->config;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        struct sl_layer_blocks blocks = weights->layers[i];
        move_attention(m, &blocks.attention, &config->attention);
        move_experts(m, &blocks.experts, &config->experts);
        inflow->layers[i] = blocks;
    }
    weights->layers = inflow->layers;
    size_t entry = sl_dtype_bytes(weights->embed_dtype) * config->experts.d_model;
    if (config->with_embed)
        weights->embed = m->move(m->arg, weights->embed, config->vocab * entry);
    if (!config->with_head)
        return;
    move_floats(m, &weights->final_norm, config->experts.d_model);
    move_panel(m, &weights->head, 0, 0);
}

struct laid {
    size_t aligned, at, sum; /* at: where the next part lies; sum: of all before it, without gaps */
    uintptr_t base;
};

static const void *place(void *arg, const void *from, size_t bytes)
{
    struct laid *p = arg;
    uintptr_t here = p->base + p->at;
    (void)from;
    p->sum += bytes;
    p->at += (bytes + p->aligned - 1) / p->aligned * p->aligned;
    return (const void *)here;
}

static struct laid place_all(struct sl_device_weights *weights, const struct sl_device_inflow *inflow,
                             uintptr_t base)
{
    struct laid p = {.aligned = inflow->aligned, .base = base};
    *weights = *inflow->weights;
    move_all(weights, inflow, &(struct mover){place, &p});
    return p;
}

size_t sl_device_weights_bytes(const struct sl_device_inflow *inflow)
{
    struct sl_device_weights placed;
    return place_all(&placed, inflow, 0).at;
}

struct sl_device_weights sl_device_weights_at(const struct sl_device_inflow *inflow, uintptr_t base)
{
    struct sl_device_weights placed;
    place_all(&placed, inflow, base);
    return placed;
}

struct putting {
    struct laid laid;
    uintptr_t from; /* of the bytes that have been brought */
    const uint8_t *bytes;
    size_t n, n_put;
    sl_device_put *put;
    void *arg;
};

/* What a part and the bytes have in common. */
static const void *put_part(void *arg, const void *part, size_t bytes)
{
    struct putting *p = arg;
    size_t at = p->laid.at;
    uintptr_t begin = (uintptr_t)part, end = begin + bytes;
    uintptr_t first = begin > p->from ? begin : p->from, last = end < p->from + p->n ? end : p->from + p->n;
    place(&p->laid, part, bytes);
    if (first < last) {
        p->put(p->arg, at + (first - begin), p->bytes + (first - p->from), last - first);
        p->n_put += last - first;
    }
    return part;
}

void sl_device_weights_put(const struct sl_device_inflow *inflow, const void *from, const uint8_t *bytes,
                           size_t n, sl_device_put *put, void *arg, size_t *n_put)
{
    struct putting p = {.laid.aligned = inflow->aligned,
                        .from = (uintptr_t)from,
                        .bytes = bytes,
                        .n = n,
                        .put = put,
                        .arg = arg};
    struct sl_device_weights same = *inflow->weights;
    move_all(&same, inflow, &(struct mover){put_part, &p});
    *n_put += p.n_put;
}

sl_status sl_device_weights_came(const struct sl_device_inflow *inflow, size_t n_put, struct sl_err *err)
{
    struct sl_device_weights placed;
    size_t sum = place_all(&placed, inflow, 0).sum;
    if (n_put == sum)
        return SL_OK;
    return sl_fail(err, SL_E_INTERNAL,
                   "%zu bytes of weights were brought to a device, and it has %zu; report this", n_put, sum);
}
