/* Where the time of a GPU's device goes (device_impl.h): timed events in the compute stream, one wherever a part of the work begins
 * (kernels/parts.h), and one where a piece of work ends: an embedding, a chunk's layers, logits. They are read when the last one of a
 * piece has come, which whoever waits for the rows has seen to: nothing waits for them within a chunk. A part's time is that of the
 * stream, from event to event: what the GPU waits for the host's next launch is in it, what lies between two pieces is not.
 *
 * Work is counted as it is asked for. How many experts a chunk hits is known on the device alone: the counts of tasks of all layers
 * are copied out at the chunk's end. Weights and pages count once a launch, an expert's weights once a launch that hits it: blocks run
 * side by side, and those that want the same bytes find them in the L2.
 *
 * What is one launch of all layers (a graph, kept once and asked for again) has one time, and its work by parts.
 *
 * Times are added with the work that was done in them, or neither. The twin's events have a time, too: an operation of any stream is a
 * microsecond of a clock that only counts. That is a simulation's, and no figure. */
#include "kernels/gpu/device_impl.h"
#include "kernels/page.h"
#include "kernels/quant.h"
#include <assert.h>
#include <stdlib.h>

enum {
    PARTS_OF_LAYER =
        20, /* of the last one, which takes its rows apart and has an expert for all of them beside the others */
    PARTS_OF_UNIT = 8, /* beside its layers */
    IN_TURN = 2        /* longest pieces of work that there is room for */
};

static struct gpu_segment *segment_of(struct gpu_parts *p, uint64_t number)
{
    return &p->ring[number % p->room];
}

size_t gpu_parts_bytes(const struct sl_device_config *config)
{
    return GPU_PARTS_UNITS * config->n_layers * sizeof(uint32_t);
}

sl_status gpu_parts_create(struct device_gpu *d, struct sl_err *err)
{
    struct gpu_parts *p = &d->parts;
    p->most = d->config.n_layers * PARTS_OF_LAYER + PARTS_OF_UNIT;
    p->room = IN_TURN * p->most;
    p->ring = calloc(p->room, sizeof *p->ring);
    if (!p->ring)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a stage's device");
    for (uint32_t i = 0; i < p->room; i++)
        SL_TRY(sl_cu_check(d->cuda, d->cuda->event_create(&p->ring[i].begin, 0), "making an event", err));
    void *tasks = NULL;
    SL_TRY(gpu_pin(d, &tasks, gpu_parts_bytes(&d->config), err));
    p->tasks = tasks;
    return SL_OK;
}

void gpu_parts_destroy(struct device_gpu *d)
{
    struct gpu_parts *p = &d->parts;
    for (uint32_t i = 0; p->ring && i < p->room && p->ring[i].begin; i++)
        d->cuda->event_destroy(p->ring[i].begin);
    free(p->ring);
    if (p->tasks)
        d->cuda->host_free(p->tasks);
}

/* ---- what has come ---- */

static uint32_t *tasks_of(const struct device_gpu *d, uint64_t unit)
{
    return d->parts.tasks + unit % GPU_PARTS_UNITS * d->config.n_layers;
}

static void add_segment(struct device_gpu *d, uint64_t number, const uint32_t *tasks)
{
    const struct gpu_segment *s = segment_of(&d->parts, number), *next = segment_of(&d->parts, number + 1);
    struct sl_part_sum *sum = &d->parts.sum.part[s->part];
    float ms = 0;
    gpu_check(d, d->cuda->event_elapsed(&ms, s->begin, next->begin), "reading the time of a part");
    sum->ns += (uint64_t)((double)ms * 1e6 + 0.5);
    sum->ops += s->ops;
    sum->bytes += s->bytes;
    if (s->expert_bytes == 0)
        return;
    uint32_t n_experts = d->config.experts.n_experts, n = tasks[s->layer];
    sum->bytes += s->expert_bytes * (n < n_experts ? n : n_experts);
}

/* All layers as one launch: its time is a segment's, and this is its work. */
static void add_kept(struct device_gpu *d, const struct gpu_unit *unit, const uint32_t *tasks)
{
    struct sl_part_sum *sum = d->parts.sum.part;
    uint32_t n_experts = d->config.experts.n_experts;
    for (int p = 0; p < SL_PARTS; p++) {
        sum[p].ops += unit->kept->part[p].ops / unit->kept->rows * unit->rows;
        sum[p].bytes += unit->kept->part[p].bytes;
    }
    sum[SL_PART_ATTENTION].ops += unit->attention_ops;
    sum[SL_PART_ATTENTION].bytes += unit->attention_bytes;
    for (uint32_t i = 0; i < d->config.n_layers; i++) {
        const struct sl_experts_weights *w = &d->weights.layers[i].experts;
        uint64_t each = w->routed.gate_up_stride + w->routed.down_stride;
        sum[SL_PART_EXPERTS].bytes += w->is_moe ? each * (tasks[i] < n_experts ? tasks[i] : n_experts) : 0;
    }
}

void gpu_parts_read(struct device_gpu *d)
{
    struct gpu_parts *p = &d->parts;
    for (; p->n_read < p->n_closed; p->n_read++) {
        const struct gpu_unit *unit = &p->units[p->n_read % GPU_PARTS_UNITS];
        sl_cu_result result = d->cuda->event_query(segment_of(p, unit->end)->begin);
        if (result == SL_CU_NOT_READY)
            return;
        gpu_check(d, result, "reading the time of a part");
        for (uint64_t i = unit->begin; i < unit->end; i++)
            add_segment(d, i, tasks_of(d, p->n_read));
        if (unit->kept)
            add_kept(d, unit, tasks_of(d, p->n_read));
    }
}

/* ---- what is asked for ---- */

/* Its event stands where what has been asked for so far ends. */
static struct gpu_segment *begin_segment(struct device_gpu *d, enum sl_part part)
{
    struct gpu_parts *p = &d->parts;
    struct gpu_segment *s = segment_of(p, p->given++);
    gpu_check(d, d->cuda->event_record(s->begin, d->streams[SL_QUEUE_COMPUTE]), "recording an event");
    *s = (struct gpu_segment){.begin = s->begin, .part = part};
    return s;
}

/* What was given before that segment is over; it has been begun. */
static void await_segment(struct device_gpu *d, uint64_t number)
{
    struct sl_err err;
    if (sl_cu_wait(d->cuda, segment_of(&d->parts, number)->begin, d->patience_ms, "a chunk's work", &err) !=
        SL_OK)
        gpu_lost(d, err.text);
}

void gpu_parts_layer(struct device_gpu *d, uint32_t layer)
{
    uint64_t *first = &d->parts.layers[layer % GPU_LAYERS_AHEAD];
    if (layer >= GPU_LAYERS_AHEAD)
        await_segment(d, *first);
    *first = d->parts.given;
}

/* A host that is so far ahead of the GPU that events run out waits for the oldest piece of work. */
static void open_unit(struct device_gpu *d)
{
    struct gpu_parts *p = &d->parts;
    gpu_parts_read(d);
    for (; p->n_read < p->n_closed; gpu_parts_read(d)) {
        const struct gpu_unit *oldest = &p->units[p->n_read % GPU_PARTS_UNITS];
        if (p->n_closed - p->n_read < GPU_PARTS_UNITS && p->given + p->most <= oldest->begin + p->room)
            break;
        await_segment(d, oldest->end);
    }
    p->units[p->n_closed % GPU_PARTS_UNITS] = (struct gpu_unit){.begin = p->given};
    p->open = true;
}

void gpu_part(struct device_gpu *d, enum sl_part part)
{
    struct gpu_parts *p = &d->parts;
    p->part = part;
    if (p->keeping)
        return;
    if (!p->open)
        open_unit(d);
    else if (segment_of(p, p->given - 1)->part == part)
        return;
    assert(p->given - p->units[p->n_closed % GPU_PARTS_UNITS].begin < p->most - 1);
    begin_segment(d, part);
}

void gpu_work(struct device_gpu *d, uint64_t ops, uint64_t bytes)
{
    struct gpu_parts *p = &d->parts;
    struct gpu_segment *s = segment_of(p, p->given - 1);
    assert(p->open || p->keeping);
    *(p->keeping ? &p->keeping->part[p->part].ops : &s->ops) += ops;
    *(p->keeping ? &p->keeping->part[p->part].bytes : &s->bytes) += bytes;
}

static struct gpu_unit *open_one(struct gpu_parts *p)
{
    return &p->units[p->n_closed % GPU_PARTS_UNITS];
}

/* Each key that a row sees once for q and once for v, each page of a sequence once. */
static void attention_of(const struct device_gpu *d, enum gpu_batches batch, uint64_t *ops, uint64_t *bytes)
{
    const struct sl_attention_dims *a = &d->config.attention;
    uint64_t keys = 0, pages = 0;
    for (uint32_t i = 0; i < d->chunk.n_slices; i++) {
        const struct sl_attention_slice *s = &d->chunk.slices[i];
        uint64_t first = batch == GPU_LEFT ? s->kv_only : 0, n = s->n - first;
        keys += n * (s->pos + first) + n * (n + 1) / 2;
        pages += n ? (s->pos + s->n + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS : 0;
    }
    *ops = 4ull * a->d_head * a->n_q * keys;
    *bytes = pages * a->n_kv * (d->sizes.k_bytes + d->sizes.v_bytes);
}

void gpu_work_attention(struct device_gpu *d, enum gpu_batches batch)
{
    uint64_t ops, bytes;
    if (d->parts.keeping)
        return;
    attention_of(d, batch, &ops, &bytes);
    gpu_work(d, ops, bytes);
}

void gpu_parts_keep(struct device_gpu *d, struct gpu_kept *kept)
{
    assert(!d->parts.open);
    d->parts.keeping = kept;
}

void gpu_parts_again(struct device_gpu *d, const struct gpu_kept *kept)
{
    gpu_part(d, SL_PART_STEPS);
    struct gpu_unit *unit = open_one(&d->parts);
    unit->kept = kept;
    unit->routed = true;
    unit->rows = d->chunk.n_rows;
    attention_of(d, GPU_ALL, &unit->attention_ops, &unit->attention_bytes);
    unit->attention_ops *= d->config.n_layers;
    unit->attention_bytes *= d->config.n_layers;
}

void gpu_work_product(struct device_gpu *d, const struct gpu_mul *m)
{
    const struct sl_panel *w = m->w;
    uint32_t digits = w->digits == 2 ? 2 : 1, columns = (m->swiglu ? 2 : 1) * m->n;
    bool routed = m->expert_stride > 0;
    gpu_work(d, 2ull * digits * m->n_rows * columns * w->k,
             routed || m->n_rows == 0 ? 0 : sl_panel_bytes(w->dtype, columns, w->k));
    if (!routed || d->parts.keeping)
        return; /* kept: all layers' experts count when their tasks have come */
    struct gpu_segment *s = segment_of(&d->parts, d->parts.given - 1);
    s->expert_bytes += m->expert_stride;
    s->layer = (uint32_t)(m->count - d->b.n_tasks);
    open_one(&d->parts)->routed = true;
}

void gpu_parts_close(struct device_gpu *d)
{
    struct gpu_parts *p = &d->parts;
    struct gpu_unit *unit = open_one(p);
    if (!p->open)
        return;
    if (unit->routed)
        gpu_check(d,
                  d->cuda->copy_out(tasks_of(d, p->n_closed), (uintptr_t)d->b.n_tasks,
                                    d->config.n_layers * sizeof *p->tasks, d->streams[SL_QUEUE_COMPUTE]),
                  "copying counts of tasks");
    unit->end = p->given;
    begin_segment(d, SL_PARTS);
    p->open = false;
    p->n_closed++;
}
