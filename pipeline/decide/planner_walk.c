/* A prompt that is alone, from submit to first token: cut by the code that would cut it (rank.h), and walked through stages and
 * links as flow.h says. A node's link carries its rows first and then the pages of the chunk, for the decode worker. */
#include "pipeline/decide/flow.h"
#include "pipeline/decide/planner.h"
#include "pipeline/decide/rank.h"

struct planner_walk {
    const struct sl_forecast *f;
    const struct sl_planner_model *model;
    const struct sl_planner_node *nodes;
    double free_us[SL_MAX_STAGES], link_free_us[SL_MAX_STAGES];
    double left_us; /* when the last chunk left the last stage */
    uint32_t chunk;
    sl_planner_see *see;
    void *user;
};

static double kv_bytes_of(const struct sl_planner_model *model, uint32_t begin, uint32_t end)
{
    double sum = 0;
    for (uint32_t i = begin; i < end; i++)
        sum += model->layers[i].kv_bytes;
    return sum;
}

static double to_next(struct planner_walk *w, uint32_t k, double end_us, uint32_t rows)
{
    const struct sl_planner_node *node = &w->nodes[w->f->stages[k].node];
    bool last = k + 1 == w->f->n_stages;
    if (node->link_speed <= 0)
        return end_us + node->link_us;
    double rows_us = last ? 0 : 1e6 * rows * w->model->d_model * w->f->row_bytes / node->link_speed,
           pages_us =
               1e6 * rows * kv_bytes_of(w->model, w->f->begin[k], w->f->begin[k + 1]) / node->link_speed,
           begin_us = end_us > w->link_free_us[k] ? end_us : w->link_free_us[k];
    if (last) /* the first token is no frame that waits behind pages */
        return end_us + node->link_us;
    w->link_free_us[k] = begin_us + rows_us + pages_us;
    return begin_us + rows_us + node->link_us;
}

static void pass(struct planner_walk *w, uint32_t pos, uint32_t rows, bool ends)
{
    struct sl_cost_chunk chunk = {0};
    double at_us = w->nodes[w->f->stages[0].node].link_us;
    sl_cost_add(&chunk, pos, rows);
    sl_cost_want(&chunk, ends);
    for (uint32_t k = 0; k < w->f->n_stages; k++) {
        double us = sl_cost_of(&w->f->stages[k].cost, &chunk),
               end_us = sl_flow_pass(&w->free_us[k], at_us, us);
        if (w->see)
            w->see(w->user, w->chunk, k, end_us - us, end_us, pos, rows);
        at_us = to_next(w, k, end_us, rows);
    }
    w->left_us = at_us;
    w->chunk++;
}

static bool begin(void *user, struct sl_schedule_entry *entry)
{
    sl_schedule_admit(user, entry, SL_NO_DECODER);
    return true;
}

double sl_planner_ttft(const struct sl_forecast *f, const struct sl_planner_model *model,
                       const struct sl_planner_node *nodes, uint32_t prompt, sl_planner_see *see, void *user)
{
    struct planner_walk w = {.f = f, .model = model, .nodes = nodes, .see = see, .user = user};
    struct sl_plan plan = {.n_stages = f->n_stages,
                           .n_pages = sl_pages_of(prompt),
                           .max_prefill = 1,
                           .max_chunk = f->max_rows,
                           .chunk_tokens = f->chunk_rows,
                           .context_tokens = prompt};
    struct sl_tenant tenant = {.weight = 1};
    struct sl_policy policy = {
        .budget = f->budget, .version = 1, .tenants = {.of = &tenant, .n = 1, .room = 1}};
    struct sl_schedule schedule;
    struct sl_schedule_entry entry;
    struct sl_cut cuts[SL_MAX_SLICES];
    sl_schedule_init(&schedule, &plan);
    sl_schedule_entry_init(&entry, &plan, prompt, 0, 1, 1);
    sl_policy_enter(&policy, &schedule, &entry, false);
    while (sl_rank_cut(&policy, &schedule, 0, begin, &schedule, cuts) > 0)
        pass(&w, cuts[0].pos, cuts[0].n, cuts[0].pos + cuts[0].n == prompt);
    return w.left_us;
}

double sl_planner_walk(const struct sl_forecast *f, const struct sl_planner_model *model,
                       const struct sl_planner_node *nodes, const uint32_t *rows, uint32_t n_chunks)
{
    struct planner_walk w = {.f = f, .model = model, .nodes = nodes};
    uint32_t pos = 0;
    for (uint32_t i = 0; i < n_chunks; pos += rows[i++])
        pass(&w, pos, rows[i], i + 1 == n_chunks);
    return w.left_us;
}
