/* Sizes of a model into operations and bytes of its layers (config.h). An operation is a multiplication or an addition, so a weight
 * costs two for each row that it meets. */
#include "bench/plan/config.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FLOAT = sizeof(float), MATRICES = 3 /* of a feed-forward: gate, up, down */ };

static double weights_of_attention(const struct sl_plan_config *c)
{
    double h = c->width;
    if (c->kv_rank == 0)
        return h * c->head * (2.0 * c->heads + 2.0 * c->kv_heads);
    double q_head = (double)c->rope_head + c->nope_head,
           q = c->q_rank ? h * c->q_rank + c->q_rank * c->heads * q_head : h * c->heads * q_head;
    return q + h * ((double)c->kv_rank + c->rope_head) +
           (double)c->kv_rank * c->heads * ((double)c->nope_head + c->v_head) +
           (double)c->heads * c->v_head * h;
}

static bool has_experts(const struct sl_plan_config *c, uint32_t layer)
{
    return c->experts > 0 && layer >= c->n_dense;
}

static double weights_of_row(const struct sl_plan_config *c, uint32_t layer)
{
    double h = c->width;
    return weights_of_attention(c) +
           (has_experts(c, layer) ? MATRICES * h * c->shared + h * c->experts : MATRICES * h * c->dense);
}

double sl_plan_parameters(const struct sl_plan_config *c)
{
    double sum = (double)c->vocab * c->width * (c->tied ? 1 : 2);
    for (uint32_t i = 0; i < c->layers; i++)
        sum += weights_of_row(c, i) +
               (has_experts(c, i) ? MATRICES * (double)c->width * c->expert * c->experts : 0);
    return sum;
}

/* A pair of positions is a product of q and k and one with v; the sum of a chunk counts each pair of a prompt twice. */
static double pair_flop(const struct sl_plan_config *c)
{
    return c->kv_rank ? (double)c->heads * ((double)c->rope_head + c->nope_head + c->v_head)
                      : 2.0 * c->heads * c->head;
}

static void of_layer(struct sl_planner_layer *layer, const struct sl_plan_config *c, uint32_t i,
                     const struct sl_plan_format *f)
{
    double h = c->width, row = weights_of_row(c, i);
    *layer = (struct sl_planner_layer){.row_flop = 2 * row,
                                       .pair_flop = pair_flop(c),
                                       .always_bytes = row * f->bits / 8,
                                       .kv_bytes = 2.0 * c->kv_heads * c->head * f->kv_bytes};
    if (c->kv_rank) { /* the pages have what keys and values are made of, for every head */
        layer->kv_bytes = ((double)c->kv_rank + c->rope_head) * f->kv_bytes;
        layer->decode_pair_flop = (double)c->heads * (2.0 * c->kv_rank + c->rope_head);
        layer->position_flop = 2.0 * c->kv_rank * c->heads * ((double)c->nope_head + c->v_head);
    }
    if (has_experts(c, i)) {
        layer->expert_flop = 2 * MATRICES * h * c->expert * c->top_k;
        layer->expert_bytes = MATRICES * h * c->expert * c->experts * f->expert_bits / 8;
    }
}

void sl_plan_model_of(struct sl_planner_model *m, const struct sl_plan_config *c,
                      const struct sl_plan_format *f)
{
    double q_head = c->kv_rank ? (double)c->rope_head + c->nope_head : c->head;
    *m = (struct sl_planner_model){.n_layers = c->layers,
                                   .d_model = c->width,
                                   .context = c->context,
                                   .n_experts = c->experts,
                                   .top_k = c->experts ? c->top_k : 0,
                                   .embed_bytes = (double)c->vocab * c->width * f->bits / 8,
                                   .head_bytes = (double)c->vocab * c->width * f->bits / 8};
    snprintf(m->name, sizeof m->name, "%s", c->name);
    for (uint32_t i = 0; i < c->layers; i++)
        of_layer(&m->layers[i], c, i, f);
    /* hidden rows, q with the heads' outputs, and what goes through k experts */
    double experts = c->experts ? c->top_k * (2.0 * c->expert + c->width) + 2.0 * c->shared : 2.0 * c->dense;
    m->scratch_row_bytes =
        FLOAT * (3.0 * c->width + 2.0 * c->heads * q_head + 2.0 * c->kv_heads * c->head + experts);
}

void sl_plan_config_of(struct sl_plan_config *c, const struct sl_shape *s)
{
    *c = (struct sl_plan_config){.name = s->model_type,
                                 .layers = s->n_layers,
                                 .width = s->d_model,
                                 .vocab = s->vocab,
                                 .context = s->max_pos,
                                 .heads = s->n_q,
                                 .kv_heads = s->n_kv,
                                 .head = s->d_head,
                                 .experts = s->n_experts,
                                 .top_k = s->top_k,
                                 .expert = s->d_expert,
                                 .shared = s->d_shared,
                                 .dense = s->d_dense,
                                 .tied = s->tied_head};
    for (uint32_t i = 0; i < s->n_layers; i++) /* wherever they are: layers of a kind cost alike */
        c->n_dense += s->n_experts > 0 && !s->is_moe[i];
}

/* ---- public models ---- */

#define MLA .q_rank = 1536, .kv_rank = 512, .rope_head = 64, .nope_head = 128, .v_head = 128
static const struct sl_plan_config shapes[] = {
    {"deepseek-v3", 61, 7168, 129280, 163840, .heads = 128, MLA, .experts = 256, .top_k = 8, .expert = 2048,
     .shared = 2048, .dense = 18432, .n_dense = 3},
    {"kimi-k2", 61, 7168, 163840, 131072, .heads = 64, MLA, .experts = 384, .top_k = 8, .expert = 2048,
     .shared = 2048, .dense = 18432, .n_dense = 1},
    {"glm-4.5", 92, 5120, 151552, 131072, .heads = 96, .kv_heads = 8, .head = 128, .experts = 160, .top_k = 8,
     .expert = 1536, .shared = 1536, .dense = 12288, .n_dense = 3},
    {"qwen3-235b-a22b", 94, 4096, 151936, 40960, .heads = 64, .kv_heads = 4, .head = 128, .experts = 128,
     .top_k = 8, .expert = 1536},
    {"qwen3-30b-a3b", 48, 2048, 151936, 40960, .heads = 32, .kv_heads = 4, .head = 128, .experts = 128,
     .top_k = 8, .expert = 768},
    {"mixtral-8x22b", 56, 6144, 32768, 65536, .heads = 48, .kv_heads = 8, .head = 128, .experts = 8,
     .top_k = 2, .expert = 16384},
    {"mixtral-8x7b", 32, 4096, 32000, 32768, .heads = 32, .kv_heads = 8, .head = 128, .experts = 8,
     .top_k = 2, .expert = 14336},
    {"llama-3.1-405b", 126, 16384, 128256, 131072, .heads = 128, .kv_heads = 8, .head = 128, .dense = 53248},
    {"llama-3.1-70b", 80, 8192, 128256, 131072, .heads = 64, .kv_heads = 8, .head = 128, .dense = 28672},
    {"qwen3-32b", 64, 5120, 151936, 40960, .heads = 64, .kv_heads = 8, .head = 128, .dense = 25600},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

const struct sl_plan_config *sl_plan_shape_find(const char *name)
{
    for (int i = 0; i < N_SHAPES; i++)
        if (strcasecmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

void sl_plan_shape_names(char *names, size_t room)
{
    size_t n = 0;
    for (int i = 0; i < N_SHAPES && n < room; i++)
        n += (size_t)snprintf(names + n, room - n, "%s%s", i ? ", " : "", shapes[i].name);
}
