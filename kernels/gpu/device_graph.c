/* Token steps of a GPU's device (device_impl.h) as graphs: the launches of all layers, recorded once for each class of batch when the
 * device is created, and asked for by one call, since a step of few rows is over before so many could be asked for one by one.
 *
 * A graph has its launches' parameters as they were when it was recorded, so nothing in them may depend on the chunk but by way of
 * memory: where pages and rows are, and how many rows, tiles and items there are, lie in the lists (gpu_begin), which a step copies
 * before it. Only how many blocks a launch has is the class's: as many as its largest batch wants, and those that find nothing to do
 * end at once. With more rows than the largest class has the GPU is busy for longer than the launches take: they go by themselves, as
 * the chunks of prompts do. */
#include "base/log.h"
#include "kernels/gpu/device_impl.h"

enum {
    STEP_LAUNCHES = 21, /* of a layer at most */
    NODE_BYTES = 1024,  /* of a launch in a graph: not measured yet */
};
_Static_assert(1 << (GPU_GRAPHS_MOST - 1) == GPU_STEP_ROWS, "classes of 1, 2, 4 ... rows");

/* The largest class; 0: no graphs. */
static uint32_t most_rows(const struct sl_device_config *c)
{
    uint32_t most = c->max_tokens < c->max_slices ? c->max_tokens : c->max_slices;
    return !c->token_steps ? 0 : most < GPU_STEP_ROWS ? most : GPU_STEP_ROWS;
}

static uint32_t rows_of(const struct sl_device_config *c, uint32_t class)
{
    return 1u << class < most_rows(c) ? 1u << class : most_rows(c);
}

static uint32_t n_classes(const struct sl_device_config *c)
{
    uint32_t n = 0;
    while (n < GPU_GRAPHS_MOST && (n == 0 ? 0 : rows_of(c, n - 1)) < most_rows(c))
        n++;
    return n;
}

size_t gpu_graph_bytes(const struct sl_device_config *c)
{
    return (size_t)n_classes(c) * c->n_layers * STEP_LAUNCHES * NODE_BYTES;
}

/* A graph more, of the launches that are queued meanwhile, none of which runs. Without one: the driver has none. */
static sl_status record(struct device_gpu *d, uint32_t rows, struct sl_err *err)
{
    sl_cu_stream stream = d->streams[SL_QUEUE_COMPUTE];
    struct gpu_graph *to = &d->graphs[d->n_graphs];
    sl_cu_graph graph = NULL;
    sl_cu_result result = d->cuda->capture_begin(stream, SL_CU_CAPTURE_THREAD_LOCAL);
    if (result == SL_CU_NOT_SUPPORTED)
        return SL_OK;
    SL_TRY(sl_cu_check(d->cuda, result, "recording a token step", err));
    d->chunk = (struct sl_device_chunk){.rows = {(uintptr_t)d->b.rows[0]}, .n_rows = rows, .n_slices = rows};
    d->n[GPU_ALL] = d->n[GPU_LEFT] = rows;
    d->n_items[0] = d->n_items[1] = (uint32_t)sl_gpu_cut_items(&d->sizes.cut, rows, rows);
    to->kept.rows = rows;
    gpu_parts_keep(d, &to->kept);
    for (uint32_t layer = 0; layer < d->config.n_layers; layer++) {
        gpu_attention(d, layer);
        gpu_experts(d, layer);
    }
    gpu_parts_keep(d, NULL);
    SL_TRY(sl_cu_check(d->cuda, d->cuda->capture_end(stream, &graph), "recording a token step", err));
    result = d->cuda->graph_make(&to->exec, graph, 0);
    d->cuda->graph_destroy(graph);
    SL_TRY(sl_cu_check(d->cuda, result, "making a graph of a token step", err));
    to->rows = rows;
    d->n_graphs++;
    return sl_cu_check(d->cuda, d->cuda->exec_upload(to->exec, stream), "loading a graph", err);
}

sl_status gpu_graphs_make(struct device_gpu *d, struct sl_err *err)
{
    for (uint32_t i = 0; i < n_classes(&d->config); i++) {
        SL_TRY(record(d, rows_of(&d->config, i), err));
        if (d->n_graphs == i) {
            sl_log_info("the driver of %s makes no graphs: token steps go launch by launch", d->isa);
            break;
        }
    }
    return SL_OK;
}

void gpu_graphs_destroy(struct device_gpu *d)
{
    for (uint32_t i = 0; i < d->n_graphs; i++)
        d->cuda->exec_destroy(d->graphs[i].exec);
    d->n_graphs = 0;
}

/* Slices have a row or more, so as many rows as slices are one each. */
const struct gpu_graph *gpu_graph_of(const struct device_gpu *d)
{
    const struct sl_device_chunk *c = &d->chunk;
    if (c->n_rows != c->n_slices || d->n[GPU_LEFT] != c->n_rows || c->rows.at != (uintptr_t)d->b.rows[0])
        return NULL;
    for (uint32_t i = 0; i < d->n_graphs; i++)
        if (d->graphs[i].rows >= c->n_rows)
            return &d->graphs[i];
    return NULL;
}

void gpu_graph_launch(struct device_gpu *d, const struct gpu_graph *graph)
{
    gpu_parts_again(d, &graph->kept);
    gpu_check(d, d->cuda->exec_launch(graph->exec, d->streams[SL_QUEUE_COMPUTE]), "a token step");
}
