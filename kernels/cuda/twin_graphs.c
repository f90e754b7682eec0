/* Graphs of the twin (twin.h): a stream's operations, kept with what they were given, made into something that can be launched, and
 * put into a stream as one thing. What changes after the capture is seen by a launch only if it lies in memory. */
#include "kernels/cuda/twin_impl.h"
#include <stdlib.h>
#include <string.h>

#define FREE_OPS(list_)                                                                                      \
    for (void *next_; (list_); (list_) = next_) {                                                            \
        next_ = (list_)->next;                                                                               \
        free((list_)->ops.list);                                                                             \
        free(list_);                                                                                         \
    }

void sl_twin_graphs_end(struct CUctx_st *context)
{
    for (struct CUstream_st *s = context->streams; s; s = s->next)
        if (s->captured) {
            s->captured->next = context->graphs;
            context->graphs = s->captured;
        }
    FREE_OPS(context->graphs)
    FREE_OPS(context->execs)
}

static bool captures(const struct CUctx_st *context)
{
    for (const struct CUstream_st *s = context->streams; s; s = s->next)
        if (s->captured)
            return true;
    return false;
}

bool sl_twin_spoils(const struct CUctx_st *context)
{
    for (const struct CUstream_st *s = context->streams; s; s = s->next)
        if (s->captured)
            s->captured->spoiled = true;
    return captures(context);
}

struct twin_op *sl_twin_capture(struct CUgraph_st *graph)
{
    struct twin_ops *ops = &graph->ops;
    struct twin_op *list = realloc(ops->list, (ops->n + 1) * sizeof *list);
    if (!list)
        return NULL;
    ops->list = list;
    memset(&list[ops->n], 0, sizeof *list);
    return &list[ops->n++];
}

static bool is_stream(const struct CUstream_st *stream)
{
    return stream && stream->context == sl_twin_current;
}

sl_cu_result sl_twin_capture_begin(sl_cu_stream stream, unsigned mode)
{
    TWIN_ENTER;
    if (sl_twin_world.config.no_graphs)
        return SL_CU_NOT_SUPPORTED;
    if (!is_stream(stream))
        return SL_CU_INVALID_HANDLE;
    if (mode != SL_CU_CAPTURE_THREAD_LOCAL || captures(sl_twin_current))
        return SL_CU_INVALID_VALUE;
    struct CUgraph_st *graph = calloc(1, sizeof *graph);
    if (!graph)
        return SL_CU_OUT_OF_MEMORY;
    graph->context = sl_twin_current;
    graph->thread = &sl_twin_current; /* of a thread */
    stream->captured = graph;
    return SL_CU_OK;
}

sl_cu_result sl_twin_capture_end(sl_cu_stream stream, sl_cu_graph *graph)
{
    TWIN_ENTER;
    if (!is_stream(stream))
        return SL_CU_INVALID_HANDLE;
    if (!stream->captured)
        return SL_CU_INVALID_VALUE;
    if (stream->captured->thread != &sl_twin_current)
        return SL_CU_CAPTURE_WRONG_THREAD;
    *graph = stream->captured;
    stream->captured = NULL;
    if ((*graph)->spoiled) {
        free((*graph)->ops.list);
        free(*graph);
        *graph = NULL;
        return SL_CU_CAPTURE_INVALIDATED;
    }
    (*graph)->next = sl_twin_current->graphs;
    sl_twin_current->graphs = *graph;
    return SL_CU_OK;
}

sl_cu_result sl_twin_graph_make(sl_cu_exec *exec, sl_cu_graph graph, unsigned long long flags)
{
    TWIN_ENTER;
    if (!graph || graph->context != sl_twin_current)
        return SL_CU_INVALID_HANDLE;
    if (flags != 0 || graph->ops.n == 0)
        return SL_CU_INVALID_VALUE;
    struct CUgraphExec_st *e = sl_twin_refused() ? NULL : calloc(1, sizeof *e);
    struct twin_op *list = malloc(graph->ops.n * sizeof *list);
    if (!e || !list) {
        free(e), free(list);
        return SL_CU_OUT_OF_MEMORY;
    }
    memcpy(list, graph->ops.list, graph->ops.n * sizeof *list);
    *e = (struct CUgraphExec_st){sl_twin_current->execs, sl_twin_current, graph->ops, 0, 0, false};
    e->ops.list = list;
    sl_twin_current->execs = e;
    *exec = e;
    return SL_CU_OK;
}

sl_cu_result sl_twin_graph_destroy(sl_cu_graph graph)
{
    TWIN_ENTER;
    struct CUgraph_st **at = &sl_twin_current->graphs;
    while (*at && *at != graph)
        at = &(*at)->next;
    if (!*at)
        return SL_CU_INVALID_HANDLE;
    *at = graph->next;
    free(graph->ops.list);
    free(graph);
    return SL_CU_OK;
}

/* NULL: it is none. */
static struct CUgraphExec_st **find(const struct CUgraphExec_st *exec)
{
    struct CUgraphExec_st **at = &sl_twin_current->execs;
    while (*at && *at != exec)
        at = &(*at)->next;
    return *at ? at : NULL;
}

sl_cu_result sl_twin_exec_upload(sl_cu_exec exec, sl_cu_stream stream)
{
    TWIN_ENTER;
    if (!find(exec) || !is_stream(stream))
        return SL_CU_INVALID_HANDLE;
    exec->uploaded = true;
    return SL_CU_OK;
}

sl_cu_result sl_twin_exec_launch(sl_cu_exec exec, sl_cu_stream stream)
{
    TWIN_ENTER;
    struct twin_op *op;
    if (!find(exec))
        return SL_CU_INVALID_HANDLE;
    if (stream && stream->captured)
        return SL_CU_CAPTURE_UNSUPPORTED;
    if (!exec->uploaded)
        sl_twin_misuse("a graph is loaded by its first launch, which allocates: exec_upload comes first");
    sl_cu_result result = sl_twin_give(stream, &op);
    if (result != SL_CU_OK)
        return result;
    op->verb = TWIN_DO_GRAPH;
    op->exec = exec;
    op->number = sl_twin_world.n_launches;
    sl_twin_world.n_launches += exec->ops.n_launches;
    sl_twin_world.report.graphs++;
    exec->given++;
    return sl_twin_given(stream);
}

sl_cu_result sl_twin_exec_destroy(sl_cu_exec exec)
{
    TWIN_ENTER;
    struct CUgraphExec_st **at = find(exec);
    if (!at)
        return SL_CU_INVALID_HANDLE;
    if (exec->given != exec->done)
        sl_twin_misuse("a graph is destroyed while a launch of it is queued");
    sl_twin_run(sl_twin_current);
    *at = exec->next;
    free(exec->ops.list);
    free(exec);
    return SL_CU_OK;
}
