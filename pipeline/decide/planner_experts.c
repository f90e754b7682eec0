/* Experts over nodes, beside layers over nodes: the same costs of a layer (planner_cost.c), put together the other way.
 *
 * The exchange of a layer is what it was measured to take where there is a measurement: eight-GPU nodes on 400 Gbit NICs, one a
 * GPU, rows of 7168 numbers to 8 of 256 experts, dispatched in one byte a number and combined in two (aiconfigurator's DeepEP tables
 * of H100 and H200). The one for 8 nodes may say as much about its fabric as about the exchange. Elsewhere it is bytes over the
 * link, a latency each way, and what a message to each node costs. */
#include "pipeline/decide/planner.h"
#include <math.h>

enum { COUNTS = 4, TABLE_WIDTH = 7168, TABLE_TOP_K = 8, TABLE_DEVICES = 8 };
static const double table_us[COUNTS][2] = {{464, 1464}, {962, 3043}, {1613, 5494}, {5127, 19019}},
                    table_tokens[2] = {1024, 4096}, table_speed = 30e9 /* a device, at least */,
                    row_bytes = 1 + 2 /* there and back */, message_us = 2, us = 1e6;

/* Nodes beside its own that a token's k experts lie on, in the mean. */
static double remote(double n_nodes, double top_k)
{
    return n_nodes > 1 ? n_nodes * (1 - pow(1 - 1 / n_nodes, top_k)) * (n_nodes - 1) / n_nodes : 0;
}

static double of_table(const struct sl_planner_model *m, uint32_t n_nodes, double tokens)
{
    double at = fmin(log(n_nodes) / log(2), COUNTS - 1), ends[2];
    uint32_t low = (uint32_t)fmin(floor(at), COUNTS - 2);
    for (int i = 0; i < 2; i++) {
        const double *row = table_us[low + (uint32_t)i];
        double slope = (row[1] - row[0]) / (table_tokens[1] - table_tokens[0]);
        ends[i] = row[0] + slope * (tokens - table_tokens[0]);
    }
    double all = ends[0] + (at - low) * (ends[1] - ends[0]), most = 1 << (COUNTS - 1),
           like = n_nodes > 1 ? remote(n_nodes, m->top_k) / remote(fmin(n_nodes, most), TABLE_TOP_K)
                              : (double)m->top_k / TABLE_TOP_K;
    return all * m->d_model / TABLE_WIDTH * like;
}

double sl_planner_exchange_us(const struct sl_planner_model *m, const struct sl_planner_node *node,
                              uint32_t n_nodes, double tokens, bool *from_table)
{
    bool table = node->devices == TABLE_DEVICES && node->link_speed >= table_speed * node->devices;
    if (from_table)
        *from_table = table;
    if (m->n_experts == 0)
        return 0;
    if (table)
        return of_table(m, n_nodes, tokens);
    if (n_nodes < 2)
        return 0;
    double bytes = tokens * node->devices * remote(n_nodes, m->top_k) * m->d_model * row_bytes;
    return (node->link_speed > 0 ? us * bytes / node->link_speed : 0) + 2 * node->link_us +
           2 * message_us * (n_nodes - 1);
}

void sl_planner_experts(struct sl_planner_experts *e, const struct sl_planner_model *m,
                        const struct sl_planner_node *node, uint32_t n_nodes, double prompt)
{
    struct sl_planner_wish wish = {.whole_last_layer = true};
    double devices = (double)n_nodes * (node->devices ? node->devices : 1);
    *e = (struct sl_planner_experts){.from_table = false};
    if (m->n_experts == 0)
        return;
    double exchange = sl_planner_exchange_us(m, node, n_nodes, prompt / devices, &e->from_table);
    e->exchange_us = exchange;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct sl_planner_layer *l = &m->layers[i];
        struct sl_cost cost;
        sl_planner_layer_cost(&cost, m, i, node, &wish);
        /* the exchange is instead of what the experts' sums would take within a node */
        double inner = node->is_measured ? 0 : sl_planner_inner_us(m, node) / 2 * prompt;
        double moe = l->expert_flop * fmax(node->skew, 1),
               rows = cost.us[SL_COST_B] * prompt - (exchange > 0 && l->expert_bytes > 0 ? inner : 0),
               experts = (rows - inner) * moe / fmax(moe + l->row_flop, 1),
               here = l->expert_bytes > 0 ? exchange : 0,
               attention = rows - experts + cost.us[SL_COST_A] * prompt * prompt,
               work = fmax(experts, cost.us[SL_COST_W] * sl_cost_hit(cost.hit, prompt)) / n_nodes;
        e->ttft_us += cost.us[SL_COST_C] + attention / n_nodes + work + here;
        e->overlapped_us += cost.us[SL_COST_C] + fmax(attention / n_nodes + work, here);
        e->one_device_us +=
            cost.us[SL_COST_C] + attention * (node->devices ? node->devices : 1) + work + here;
        e->bytes += here > 0 ? prompt * remote(n_nodes, m->top_k) * m->d_model * row_bytes : 0;
        e->node_bytes += l->always_bytes + l->expert_bytes / n_nodes;
    }
    e->node_bytes += m->embed_bytes + m->head_bytes;
}

static void add(void *user, uint32_t chunk, uint32_t stage, double begin_us, double end_us, uint32_t pos,
                uint32_t rows)
{
    (void)chunk, (void)stage, (void)pos, (void)rows;
    *(double *)user += end_us - begin_us;
}

double sl_planner_one_node(const struct sl_forecast *f, const struct sl_planner_model *model,
                           const struct sl_planner_node *nodes, uint32_t prompt)
{
    double sum = 0;
    sl_planner_ttft(f, model, nodes, prompt, add, &sum);
    return sum / f->n_stages;
}
