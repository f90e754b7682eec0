/* What a plan is made of: machines, a model's config.json ('c' first), measured costs ('k' first), a cut of layers ('l' and a
 * character for the number of stages first). What is taken is planned with. */
#include "bench/plan/nodes.h"
#include "bench/plan/source.h"
#include "pipeline/decide/layers.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(bool promise)
{
    if (!promise)
        abort();
}

static void plan(const struct sl_plan_config *c, const struct sl_planner_node *nodes, uint32_t n)
{
    static struct sl_planner_model model;
    static struct sl_forecast f;
    struct sl_plan_format format = {8, 4, 2};
    struct sl_planner_load load = {.prompt = 512, .output = 16};
    struct sl_planner_wish wish = {.n_stages = 1, .chunk_rows = 512};
    struct sl_err err = {0};
    sl_plan_model_of(&model, c, &format);
    if (sl_planner_make(&f, &model, nodes, n < 3 ? n : 3, &load, &wish, &err) == SL_OK)
        require(f.ttft_us >= 0 && f.requests_s > 0 && f.begin[1] == model.n_layers);
    else
        require(err.text[0]);
}

/* What is taken is written and read again as the same. */
static sl_status cut(const char *data, size_t bytes, struct sl_err *err)
{
    uint32_t room[SL_MAX_STAGES], again[SL_MAX_STAGES], begin[SL_MAX_STAGES + 1] = {0};
    uint32_t n = 1 + (uint8_t)data[0] % SL_MAX_STAGES;
    const uint32_t *layers;
    char text[SL_LAYERS_TEXT], *list = malloc(bytes);
    require(list != NULL);
    memcpy(list, data + 1, bytes - 1);
    list[bytes - 1] = 0;
    sl_status status = sl_layers_read(&layers, room, list, n, err);
    for (uint32_t k = 0; status == SL_OK && k < n; k++)
        begin[k + 1] = begin[k] + layers[k];
    free(list);
    if (status != SL_OK)
        return status;
    sl_layers_write(text, begin, n);
    require(sl_layers_read(&layers, again, text, n, err) == SL_OK);
    require(memcmp(again, room, n * sizeof *again) == 0);
    return SL_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct sl_planner_node nodes[SL_PLANNER_NODES];
    const char *text = (const char *)data;
    struct sl_plan_measured measured;
    struct sl_plan_config config;
    struct sl_err err = {0};
    uint32_t n = 0;
    sl_status status;
    if (bytes > 0 && data[0] == 'c') {
        status = sl_plan_config_parse(&config, "c", text + 1, bytes - 1, &err);
        if (status == SL_OK) {
            sl_plan_nodes_of(&nodes[0], sl_plan_kind_find("h20"));
            plan(&config, nodes, 1);
        }
    } else if (bytes > 0 && data[0] == 'k') {
        status = sl_plan_cost_parse(&measured, "k", text + 1, bytes - 1, &err);
        require(status != SL_OK || sl_cost_is_sane(&measured.layer) || measured.n_layers > 0);
    } else if (bytes > 1 && data[0] == 'l') {
        status = cut(text + 1, bytes - 1, &err);
    } else {
        status = sl_plan_nodes_parse(nodes, &n, "n", text, bytes, &err);
        require(status != SL_OK || (n > 0 && n <= SL_PLANNER_NODES));
        if (status == SL_OK)
            plan(sl_plan_shape_find("mixtral-8x7b"), nodes, n);
    }
    require(status == SL_OK || err.text[0]);
    return 0;
}
