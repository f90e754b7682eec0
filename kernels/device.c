/* What every kind of device needs of the host (device.h): angles, and a walk over the pieces of the weights, by which their
 * bytes are counted and then copied to where the device has its own. */
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

/* ---- the pieces of the weights ---- */

struct mover {
    sl_device_move *move;
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

void sl_device_weights_move(struct sl_device_weights *weights, struct sl_layer_blocks *layers,
                            const struct sl_device_config *config, sl_device_move *move, void *arg)
{
    struct mover m = {move, arg};
    for (uint32_t i = 0; i < config->n_layers; i++) {
        struct sl_layer_blocks blocks = weights->layers[i];
        move_attention(&m, &blocks.attention, &config->attention);
        move_experts(&m, &blocks.experts, &config->experts);
        layers[i] = blocks;
    }
    weights->layers = layers;
    size_t entry = sl_dtype_bytes(weights->embed_dtype) * config->experts.d_model;
    if (config->with_embed)
        weights->embed = move(arg, weights->embed, config->vocab * entry);
    if (!config->with_head)
        return;
    move_floats(&m, &weights->final_norm, config->experts.d_model);
    move_panel(&m, &weights->head, 0, 0);
}
