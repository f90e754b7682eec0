/* What a layer costs on a node that nobody has measured: operations over rates, bytes over the speed of memory. */
#include "pipeline/decide/planner.h"
#include <math.h>

static const double us = 1e6, kv_only = 0.15; /* of the last layer's projections: those that make K and V */

/* Sums over devices, of attention and of experts: each is scattered and gathered, and a device gets what all others have. */
double sl_planner_inner_us(const struct sl_planner_model *model, const struct sl_planner_node *node)
{
    if (node->devices < 2 || node->inner_speed <= 0)
        return 0;
    double others = (node->devices - 1.0) / node->devices, number_bytes = 2;
    return us * 4 * others * model->d_model * number_bytes / node->inner_speed;
}

static void of_rates(struct sl_cost *cost, const struct sl_planner_model *model,
                     const struct sl_planner_layer *layer, const struct sl_planner_node *node, bool decodes)
{
    double position = decodes ? 0 : layer->position_flop,
           pair = decodes && layer->decode_pair_flop > 0 ? layer->decode_pair_flop : layer->pair_flop;
    cost->us[SL_COST_C] = node->layer_us + us * layer->always_bytes / node->memory_speed;
    cost->us[SL_COST_GAMMA] = us * (layer->kv_bytes / node->memory_speed + position / node->matrix_flops);
    cost->us[SL_COST_B] =
        us * (layer->row_flop + layer->expert_flop * fmax(node->skew, 1)) / node->matrix_flops +
        sl_planner_inner_us(model, node);
    cost->us[SL_COST_A] = us * pair / node->attention_flops;
    cost->us[SL_COST_W] = us * layer->expert_bytes / node->memory_speed;
}

/* K and V of all rows; the few whose logits are wanted are in e. */
static void make_kv_only(struct sl_cost *cost, const struct sl_planner_layer *l)
{
    double all = l->row_flop + l->expert_flop;
    cost->us[SL_COST_B] *= all > 0 ? kv_only * l->row_flop / all : 1;
    cost->us[SL_COST_A] = cost->us[SL_COST_GAMMA] = cost->us[SL_COST_W] = 0;
}

/* The head reads its matrix for each prompt that ends, and once for a token step. */
static void add_head(struct sl_cost *cost, const struct sl_planner_model *model,
                     const struct sl_planner_node *node, const struct sl_planner_wish *wish)
{
    double head_us = us * model->head_bytes / node->memory_speed,
           rest_us = wish->whole_last_layer ? 0 : cost->us[SL_COST_W] * cost->hit;
    cost->us[wish->decodes ? SL_COST_C : SL_COST_E] += head_us + rest_us;
}

void sl_planner_layer_cost(struct sl_cost *cost, const struct sl_planner_model *model, uint32_t layer,
                           const struct sl_planner_node *node, const struct sl_planner_wish *wish)
{
    const struct sl_planner_layer *l = &model->layers[layer];
    bool is_last = layer + 1 == model->n_layers;
    *cost = (struct sl_cost){.hit = model->n_experts ? (double)model->top_k / model->n_experts : 0};
    if (node->is_measured)
        *cost = node->layer;
    else
        of_rates(cost, model, l, node, wish->decodes);
    if (!is_last)
        cost->us[SL_COST_E] = 0;
    else if (!node->is_measured)
        add_head(cost, model, node, wish);
    if (is_last && (!wish->whole_last_layer || (node->is_measured && wish->decodes)))
        make_kv_only(cost, l);
}

void sl_planner_stage_cost(struct sl_cost *cost, const struct sl_planner_model *model, uint32_t begin,
                           uint32_t end, const struct sl_planner_node *node,
                           const struct sl_planner_wish *wish)
{
    *cost = (struct sl_cost){.hit = 0};
    for (uint32_t i = begin; i < end; i++) {
        struct sl_cost layer;
        sl_planner_layer_cost(&layer, model, i, node, wish);
        for (int t = 0; t < SL_COST_TERMS; t++)
            cost->us[t] += layer.us[t];
        cost->hit = fmax(cost->hit, layer.hit);
    }
}

const char *sl_planner_bound_name(enum sl_planner_bound bound)
{
    static const char *const names[SL_BOUNDS] = {"compute", "memory", "link", "bubble"};
    return names[bound];
}
