/* A GPU's device (device.h): its life, its queues, and what goes in and out of its memory. Three streams are the three queues, and
 * events are the driver's. The host's memory is not pinned, unless it was lent, so bytes go by way of pieces that are: in, they are copied
 * when the call is made; out, when somebody has waited for them. What the host knows of a chunk (lists, ids) goes in by the compute stream itself,
 * out of pinned lists that take turns, so that a chunk can be asked for while the one before is computed. */
#include "base/log.h"
#include "kernels/cuda/kinds.h"
#include "kernels/gpu/device_impl.h"
#include "kernels/gpu/elements.h"
#include "kernels/page.h"
#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

static const struct device_gpu *const_gpu_of(const struct sl_device *device)
{
    return (const struct device_gpu *)(const void *)device;
}

/* ---- errors ---- */

_Noreturn void gpu_lost(const struct device_gpu *d, const char *why)
{
    const struct sl_gpu *gpu = &d->driver.gpu; /* its place on the bus is what the kernel's log knows it by */
    sl_log_error("the GPU at %s (%s) is lost, and what it had with it: %s; this process ends", gpu->bus,
                 gpu->name, why);
    _exit(EX_UNAVAILABLE);
}

void gpu_check(const struct device_gpu *d, sl_cu_result result, const char *what)
{
    struct sl_err err;
    if (sl_cu_check(d->cuda, result, what, &err) != SL_OK)
        gpu_lost(d, err.text);
}

static void await_host(const struct device_gpu *d, sl_cu_event event, const char *what)
{
    struct sl_err err;
    if (sl_cu_wait(d->cuda, event, d->patience_ms, what, &err) != SL_OK)
        gpu_lost(d, err.text);
}

void gpu_idle(const struct device_gpu *d)
{
    for (int i = 0; i < SL_QUEUES && d->streams[i] && d->idle; i++) {
        gpu_check(d, d->cuda->event_record(d->idle, d->streams[i]), "recording an event");
        await_host(d, d->idle, "what was asked last");
    }
}

/* ---- whose turn it is: a context is current in a thread ---- */

static _Thread_local uint64_t current; /* number of the device whose context it is */

void gpu_enter(struct device_gpu *d)
{
    if (current != d->number)
        gpu_check(d, d->cuda->ctx_set_current(d->driver.context), "making its context current");
    current = d->number;
}

/* ---- order ---- */

static void gpu_record(struct sl_device *device, uint32_t event, enum sl_device_queue queue)
{
    struct device_gpu *d = gpu_of(device);
    assert(event < SL_DEVICE_EVENTS);
    gpu_enter(d);
    gpu_check(d, d->cuda->event_record(d->events[event], d->streams[queue]), "recording an event");
    d->recorded[event] = queue;
}

static void gpu_await(struct sl_device *device, enum sl_device_queue queue, uint32_t event)
{
    struct device_gpu *d = gpu_of(device);
    assert(event < SL_DEVICE_EVENTS);
    if (d->recorded[event] == queue)
        return; /* its own queue is in order anyway */
    gpu_enter(d);
    gpu_check(d, d->cuda->stream_wait(d->streams[queue], d->events[event], 0), "waiting for an event");
}

/* ---- bytes out, bytes in ---- */

static struct gpu_staged *oldest_out(struct device_gpu *d)
{
    return &d->out[(d->next_out - d->n_out) % GPU_STAGED];
}

/* It has come: to where it belongs. */
static void deliver(struct device_gpu *d)
{
    struct gpu_staged *s = oldest_out(d);
    memcpy(s->to, s->host, s->bytes);
    d->n_out--;
}

static void gpu_wait(struct sl_device *device, uint32_t event)
{
    struct device_gpu *d = gpu_of(device);
    assert(event < SL_DEVICE_EVENTS);
    gpu_enter(d);
    await_host(d, d->events[event], "a chunk's work");
    while (d->n_out > 0) { /* whatever was copied before the event is there */
        sl_cu_result result = d->cuda->event_query(oldest_out(d)->done);
        if (result == SL_CU_NOT_READY)
            break;
        gpu_check(d, result, "copying out");
        deliver(d);
    }
    gpu_parts_read(d);
}

static size_t piece_of(const struct device_gpu *d, size_t bytes)
{
    return bytes < d->sizes.staged_bytes ? bytes : d->sizes.staged_bytes;
}

static void gpu_copy_in(struct sl_device *device, struct sl_device_at to, const void *from, size_t bytes)
{
    struct device_gpu *d = gpu_of(device);
    sl_cu_stream stream = d->streams[SL_QUEUE_IN];
    bool lent = gpu_is_lent(d, from, bytes);
    gpu_enter(d);
    if (lent)
        gpu_check(d, d->cuda->copy_in(to.at, from, bytes, stream), "copying in");
    for (size_t done = lent ? bytes : 0; done < bytes;) {
        struct gpu_staged *s = &d->in[d->next_in++ % GPU_STAGED];
        size_t n = piece_of(d, bytes - done);
        if (s->used)
            await_host(d, s->done, "copying in");
        memcpy(s->host, (const uint8_t *)from + done, n);
        gpu_check(d, d->cuda->copy_in(to.at + done, s->host, n, stream), "copying in");
        gpu_check(d, d->cuda->event_record(s->done, stream), "recording an event");
        s->used = true;
        done += n;
    }
}

static void gpu_copy_out(struct sl_device *device, void *to, struct sl_device_at from, size_t bytes)
{
    struct device_gpu *d = gpu_of(device);
    sl_cu_stream stream = d->streams[SL_QUEUE_OUT];
    bool lent = gpu_is_lent(d, to, bytes);
    gpu_enter(d);
    if (lent)
        gpu_check(d, d->cuda->copy_out(to, from.at, bytes, stream), "copying out");
    for (size_t done = lent ? bytes : 0; done < bytes;) {
        size_t n = piece_of(d, bytes - done);
        if (d->n_out == GPU_STAGED) {
            await_host(d, oldest_out(d)->done, "copying out");
            deliver(d);
        }
        struct gpu_staged *s = &d->out[d->next_out++ % GPU_STAGED];
        d->n_out++;
        s->to = (uint8_t *)to + done;
        s->bytes = n;
        gpu_check(d, d->cuda->copy_out(s->host, from.at + done, n, stream), "copying out");
        gpu_check(d, d->cuda->event_record(s->done, stream), "recording an event");
        done += n;
    }
}

static struct sl_device_at gpu_page(const struct sl_device *device, uint32_t slot)
{
    const struct device_gpu *d = const_gpu_of(device);
    assert(slot < d->config.n_pages);
    return (struct sl_device_at){d->kv_at + slot * d->sizes.slot_bytes};
}

static void gpu_clear(struct sl_device *device, uint32_t slot)
{
    struct device_gpu *d = gpu_of(device);
    gpu_enter(d);
    gpu_check(d, d->cuda->fill(gpu_page(device, slot).at, 0, d->sizes.slot_bytes, d->streams[SL_QUEUE_IN]),
              "clearing a page");
}

static struct sl_device_at gpu_rows(const struct sl_device *device, uint32_t buffer, float *host)
{
    (void)host;
    assert(buffer < SL_DEVICE_BUFFERS);
    return (struct sl_device_at){(uintptr_t)const_gpu_of(device)->b.rows[buffer]};
}

/* ---- lists ---- */

static struct gpu_lists *take_turn(struct device_gpu *d)
{
    uint32_t i = d->next_turn % GPU_LISTS;
    if (d->turn[i].used)
        await_host(d, d->turn[i].done, "copying lists");
    return &d->lists[i];
}

static void end_turn(struct device_gpu *d)
{
    struct gpu_staged *turn = &d->turn[d->next_turn++ % GPU_LISTS];
    gpu_check(d, d->cuda->event_record(turn->done, d->streams[SL_QUEUE_COMPUTE]), "recording an event");
    turn->used = true;
}

static void send(struct device_gpu *d, void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        gpu_check(d, d->cuda->copy_in((uintptr_t)to, from, bytes, d->streams[SL_QUEUE_COMPUTE]),
                  "copying lists");
}

static void list_batch(struct device_gpu *d, struct gpu_lists *l, enum gpu_batches batch, uint32_t n,
                       uint32_t n_items)
{
    l->numbers[batch] = (struct gpu_numbers){n, n_items};
    d->n[batch] = n;
    send(d, &d->at.numbers[batch], &l->numbers[batch], sizeof l->numbers[batch]);
}

/* The chunk's, and, where the last layer leaves rows out, those of the rows that go on. */
static struct sl_gpu_cut cut(struct device_gpu *d, const struct gpu_lists *l, bool last)
{
    const struct sl_device_chunk *c = &d->chunk;
    struct sl_gpu_cut out = {.places = l->places,
                             .slots = l->slots,
                             .items = l->items[last],
                             .rows = l->mixes[last],
                             .kept = l->kept};
    sl_gpu_cut_chunk(&out, &d->sizes.cut, c->slices, c->n_slices, last);
    d->n_items[last] = out.n_items;
    send(d, d->at.items[last], l->items[last], out.n_items * sizeof *l->items[last]);
    send(d, d->at.mixes[last], l->mixes[last], out.n_rows * sizeof *l->mixes[last]);
    return out;
}

/* A GPU that hangs says nothing: what it is asked has ended long after the prediction, or never ends. */
static uint32_t patience_of(const struct gpu_driver *driver, uint64_t predicted_us)
{
    static const uint64_t most_us = 3600ull * 1000 * 1000;
    uint64_t us = predicted_us < most_us ? predicted_us : most_us;
    uint32_t ms = (uint32_t)(us * GPU_PATIENCE_TIMES / 1000);
    if (us == 0)
        return driver->patience_ms;
    return ms > driver->patience_least_ms ? ms : driver->patience_least_ms;
}

static void gpu_begin(struct sl_device *device, const struct sl_device_chunk *chunk)
{
    struct device_gpu *d = gpu_of(device);
    uint32_t n_left = 0;
    assert(chunk->n_rows <= d->config.max_tokens && chunk->n_slices <= d->config.max_slices);
    gpu_enter(d);
    d->chunk = *chunk;
    d->patience_ms = patience_of(&d->driver, chunk->predicted_us);
    for (uint32_t i = 0; i < chunk->n_slices; i++)
        n_left += chunk->slices[i].n - chunk->slices[i].kv_only;
    struct gpu_lists *l = take_turn(d);
    struct sl_gpu_cut all = cut(d, l, false);
    send(d, d->at.places, l->places, all.n_places * sizeof *l->places);
    send(d, d->at.slots, l->slots, all.n_slots * sizeof *l->slots);
    d->n_items[1] = 0;
    if (n_left < chunk->n_rows) { /* places and slots are written again, and the same */
        struct sl_gpu_cut left = cut(d, l, true);
        send(d, d->at.kept, l->kept, left.n_rows * sizeof *l->kept);
    }
    list_batch(d, l, GPU_ALL, chunk->n_rows, d->n_items[0]);
    list_batch(d, l, GPU_LEFT, n_left, d->n_items[1]);
    end_turn(d);
    d->graph = gpu_graph_of(d);
}

/* ---- the walk of a chunk ---- */

static void gpu_embed(struct sl_device *device, struct sl_device_at rows, const uint8_t *ids, uint32_t n)
{
    struct device_gpu *d = gpu_of(device);
    uint32_t d_model = d->config.attention.d_model;
    assert(n <= d->config.max_tokens);
    gpu_enter(d);
    struct gpu_lists *l = take_turn(d);
    memcpy(l->ids, ids, n * sizeof *l->ids);
    send(d, d->at.ids, l->ids, n * sizeof *l->ids);
    end_turn(d);
    gpu_part(d, SL_PART_NORMS);
    gpu_launch_blocks(d, &sl_gpu_embed,
                      &(struct sl_gpu_embed){d->weights.embed, d->at.ids, (float *)rows.at, d_model,
                                             d->weights.embed_dtype == SL_BF16},
                      n);
    gpu_parts_close(d);
}

/* A graph is all blocks, and goes when the first of them is asked for. */
static void gpu_run_attention(struct sl_device *device, uint32_t layer)
{
    struct device_gpu *d = gpu_of(device);
    gpu_enter(d);
    if (d->graph && layer == 0)
        gpu_graph_launch(d, d->graph);
    if (d->graph)
        return;
    gpu_parts_layer(d, layer);
    gpu_attention(d, layer);
}

static void gpu_run_experts(struct sl_device *device, uint32_t layer)
{
    struct device_gpu *d = gpu_of(device);
    gpu_enter(d);
    if (!d->graph)
        gpu_experts(d, layer);
}

static void gpu_finish(struct sl_device *device)
{
    struct device_gpu *d = gpu_of(device);
    gpu_enter(d);
    gpu_parts_close(d); /* rows are whole behind every block */
}

static struct sl_device_at gpu_logits(struct sl_device *device, struct sl_device_at rows, uint32_t n)
{
    struct device_gpu *d = gpu_of(device);
    const struct sl_panel *head = &d->weights.head;
    assert(n <= d->config.head_rows);
    gpu_enter(d);
    list_batch(d, take_turn(d), GPU_HEAD, n, 0);
    end_turn(d);
    gpu_norm(d, GPU_HEAD, (const float *)rows.at, d->weights.final_norm, head, false);
    struct gpu_mul p = gpu_mul_of(d, GPU_HEAD, head);
    p.x = d->b.normed;
    p.x8 = &d->b.x8;
    p.y = d->b.logits;
    p.y_stride = p.n = d->config.vocab;
    p.part = SL_PART_HEAD;
    gpu_multiply(d, &p);
    gpu_parts_close(d);
    return (struct sl_device_at){(uintptr_t)d->b.logits};
}

/* ---- create ---- */

static size_t pinned_bytes(const struct gpu_sizes *s)
{
    return 2 * GPU_STAGED * s->staged_bytes + GPU_LISTS * s->lists_bytes;
}

/* Beside it: where parts have their counts of tasks, and links their sums. */
static size_t pinned_apart(const struct sl_device_config *config)
{
    return gpu_parts_bytes(config) + gpu_links_bytes(config);
}

static sl_status gpu_bytes(struct sl_device_bytes *bytes, const struct sl_device_config *config,
                           struct sl_err *err)
{
    struct gpu_sizes sizes;
    *bytes = (struct sl_device_bytes){.kv = SIZE_MAX};
    SL_TRY(gpu_plan(&sizes, config, err));
    bytes->kv = sizes.kv_bytes;
    bytes->activations = sizes.work_bytes; /* logits and angles, too: they are one allocation */
    bytes->tables = (1 + GPU_LISTS) * sizes.lists_bytes + sizes.graph_bytes;
    bytes->scratch = 2 * GPU_STAGED * sizes.staged_bytes + pinned_apart(config);
    bytes->pinned = pinned_bytes(&sizes) + pinned_apart(config);
    bytes->own = sizes.kv_bytes + sizes.work_bytes + sizes.lists_bytes + sizes.graph_bytes;
    return SL_OK;
}

static struct sl_device_inflow inflow_of(const struct device_gpu *d, const struct sl_device_weights *weights)
{
    return (struct sl_device_inflow){weights, &d->config, d->layers, 256};
}

static size_t weight_bytes(const struct device_gpu *d, const struct sl_device_weights *weights)
{
    const struct sl_device_inflow inflow = inflow_of(d, weights);
    return sl_device_weights_bytes(&inflow);
}

static sl_status allocate(struct device_gpu *d, sl_cu_at *at, size_t bytes, const char *what,
                          struct sl_err *err)
{
    sl_cu_result result = d->cuda->mem_alloc(at, bytes);
    if (result == SL_CU_OUT_OF_MEMORY)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "the GPU has no %.2f GiB left for %s: give this stage fewer layers, or less KV",
                       (double)bytes / 0x1p30, what);
    return sl_cu_check(d->cuda, result, what, err);
}

static sl_status make_staged(struct device_gpu *d, struct gpu_staged *s, uint32_t n, uint8_t **from,
                             size_t bytes, struct sl_err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        s[i].host = *from;
        *from += bytes;
        SL_TRY(sl_cu_check(d->cuda, d->cuda->event_create(&s[i].done, SL_CU_EVENT_NO_TIMING),
                           "making an event", err));
    }
    return SL_OK;
}

static sl_status make_queues(struct device_gpu *d, struct sl_err *err)
{
    for (int i = 0; i < SL_QUEUES; i++)
        SL_TRY(sl_cu_check(d->cuda, d->cuda->stream_create(&d->streams[i], SL_CU_STREAM_NON_BLOCKING),
                           "making a stream", err));
    SL_TRY(
        sl_cu_check(d->cuda, d->cuda->event_create(&d->idle, SL_CU_EVENT_NO_TIMING), "making an event", err));
    for (int i = 0; i < SL_DEVICE_EVENTS; i++)
        SL_TRY(sl_cu_check(d->cuda, d->cuda->event_create(&d->events[i], SL_CU_EVENT_NO_TIMING),
                           "making an event", err));
    return SL_OK;
}

static sl_status make_pinned(struct device_gpu *d, struct sl_err *err)
{
    const struct gpu_sizes *s = &d->sizes;
    SL_TRY(gpu_pin(d, &d->pinned, pinned_bytes(s), err));
    uint8_t *from = d->pinned;
    SL_TRY(make_staged(d, d->in, GPU_STAGED, &from, s->staged_bytes, err));
    SL_TRY(make_staged(d, d->out, GPU_STAGED, &from, s->staged_bytes, err));
    SL_TRY(make_staged(d, d->turn, GPU_LISTS, &from, s->lists_bytes, err));
    for (uint32_t i = 0; i < GPU_LISTS; i++)
        gpu_place_lists(&d->lists[i], (uintptr_t)d->turn[i].host, &d->config, s);
    return SL_OK;
}

/* Cosines and sines of every position, and zeros to what is only ever added to. */
static sl_status make_tables(struct device_gpu *d, struct sl_err *err)
{
    const struct sl_device_config *c = &d->config;
    uint32_t half = c->attention.d_head / 2, positions = c->max_pages * SL_PAGE_TOKENS;
    float *angles = malloc(2 * (size_t)positions * half * sizeof *angles + 1);
    if (!angles)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a stage's device");
    float *sine = angles + (size_t)positions * half;
    for (size_t pos = 0; pos < positions; pos++)
        sl_rope_row(angles + pos * half, sine + pos * half, c->rope_inv_freq, half, c->rope_factor,
                    (uint32_t)pos);
    size_t bytes = (size_t)positions * half * sizeof *angles;
    gpu_copy_in(&d->device, (struct sl_device_at){(uintptr_t)d->b.cosine}, angles, bytes);
    gpu_copy_in(&d->device, (struct sl_device_at){(uintptr_t)d->b.sine}, sine, bytes);
    free(angles);
    size_t load = 2 * (size_t)c->experts.n_experts * sizeof *d->b.load;
    if (load > 0)
        gpu_check(d, d->cuda->fill((uintptr_t)d->b.load, 0, load, d->streams[SL_QUEUE_IN]),
                  "clearing tables");
    return SL_OK;
}

static sl_status fill(struct device_gpu *d, const struct sl_device_weights *weights, struct sl_err *err)
{
    const struct gpu_sizes *s = &d->sizes;
    const struct sl_device_inflow inflow = inflow_of(d, weights);
    SL_TRY(allocate(d, &d->weights_at, sl_device_weights_bytes(&inflow), "weights", err));
    SL_TRY(allocate(d, &d->kv_at, s->kv_bytes, "KV pages", err));
    SL_TRY(allocate(d, &d->work_at, s->lists_bytes + s->work_bytes, "activations", err));
    gpu_place_lists(&d->at, d->work_at, &d->config, s);
    gpu_place_buffers(&d->b, d->work_at + s->lists_bytes, &d->config, s);
    SL_TRY(make_queues(d, err));
    SL_TRY(make_pinned(d, err));
    SL_TRY(gpu_links_open(d, err));
    SL_TRY(gpu_parts_create(d, err));
    SL_TRY(gpu_load(d, &inflow, err));
    d->weights = sl_device_weights_at(&inflow, d->weights_at);
    SL_TRY(make_tables(d, err));
    gpu_record(&d->device, 0, SL_QUEUE_IN);
    gpu_wait(&d->device, 0);
    return SL_OK;
}

static sl_status init(struct device_gpu *d, const struct sl_device_weights *weights, struct sl_err *err)
{
    snprintf(d->isa, sizeof d->isa, "%s%u", d->driver.twin ? "twin sm_" : "sm_", d->driver.gpu.capability);
    SL_TRY(sl_gpu_modules_load(&d->modules, d->cuda, d->driver.images, d->driver.n_images, err));
    SL_TRY(gpu_find_functions(d, err));
    SL_TRY(fill(d, weights, err));
    return gpu_graphs_make(d, err);
}

/* ---- destroy ---- */

/* Nothing is under way any more; what was copied out and not waited for is dropped. */
static void drain(struct device_gpu *d)
{
    gpu_idle(d);
    gpu_links_drain(d);
    d->n_out = 0;
}

static void free_staged(struct device_gpu *d, struct gpu_staged *s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (s[i].done)
            d->cuda->event_destroy(s[i].done);
}

static void release(struct device_gpu *d)
{
    const sl_cu_at all[] = {d->weights_at, d->kv_at, d->work_at};
    gpu_graphs_destroy(d);
    gpu_links_close(d);
    free_staged(d, d->in, GPU_STAGED);
    free_staged(d, d->out, GPU_STAGED);
    free_staged(d, d->turn, GPU_LISTS);
    if (d->idle)
        d->cuda->event_destroy(d->idle);
    gpu_parts_destroy(d);
    for (int i = 0; i < SL_DEVICE_EVENTS; i++)
        if (d->events[i])
            d->cuda->event_destroy(d->events[i]);
    for (int i = 0; i < SL_QUEUES; i++)
        if (d->streams[i])
            d->cuda->stream_destroy(d->streams[i]);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i])
            d->cuda->mem_free(all[i]);
    if (d->pinned)
        d->cuda->host_free(d->pinned);
    while (d->n_lent > 0)
        d->cuda->host_unregister(d->lent[--d->n_lent].at);
    sl_gpu_modules_unload(&d->modules);
}

static void gpu_destroy(struct sl_device *device)
{
    struct device_gpu *d = gpu_of(device);
    if (!d)
        return;
    if (d->driver.context) {
        gpu_enter(d);
        drain(d);
        release(d);
        if (d->driver.twin) {
            gpu_world_leave(&d->driver);
        } else {
            sl_gpu_session_close(&d->driver.session);
        }
        current = 0;
    }
    free(d->layers);
    free(d);
}

/* ---- the two of them ---- */

/* Once a process, which has one GPU. */
static void warn_of_memory(const struct sl_gpu *gpu)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    if (!gpu->has_ecc && !atomic_flag_test_and_set(&said))
        sl_log_warn(
            "the memory of the GPU at %s (%s) has no ECC, or it is off: where a bit of it flips, tokens may be wrong and nobody sees it",
            gpu->bus, gpu->name);
}

/* The GPU that is meant, which must have the room. */
static sl_status open_cuda(struct device_gpu *d, const struct sl_device_weights *weights, struct sl_err *err)
{
    struct gpu_driver *driver = &d->driver;
    const char *which = d->config.which;
    struct sl_gpu_choice choice = {.by = SL_GPU_ANY};
    const struct sl_gpu_need need = {sl_gpu_least_capability, weight_bytes(d, weights) + d->sizes.kv_bytes +
                                                                  d->sizes.lists_bytes + d->sizes.work_bytes +
                                                                  d->sizes.graph_bytes};
    if (which)
        SL_TRY(sl_gpu_choice_read(&choice, which, err));
    SL_TRY(sl_cuda_open(&driver->cuda, err));
    SL_TRY(sl_gpu_session_open(&driver->session, driver->cuda, &choice, &need, NULL, err));
    driver->context = driver->session.context;
    driver->gpu = driver->session.gpu;
    warn_of_memory(&driver->gpu);
    driver->images = sl_gpu_images;
    driver->n_images = sl_gpu_n_images;
    driver->patience_ms = GPU_PATIENCE_MS;
    driver->patience_least_ms = GPU_PATIENCE_LEAST_MS;
    return SL_OK;
}

static sl_status create(struct sl_device **device, const struct sl_device_ops *ops,
                        const struct sl_device_config *config, const struct sl_device_weights *weights,
                        struct sl_err *err)
{
    static _Atomic uint64_t n_made;
    struct device_gpu *d = calloc(1, sizeof *d);
    if (!d)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a stage's device");
    d->device.ops = ops;
    d->config = *config;
    d->number = atomic_fetch_add(&n_made, 1) + 1;
    d->layers = calloc(config->n_layers, sizeof *d->layers);
    sl_status status = d->layers ? gpu_plan(&d->sizes, config, err)
                                 : sl_fail(err, SL_E_NOMEM, "out of memory for a stage's device");
    current = 0; /* who looks for a GPU leaves the context of the last one that he tried */
    if (status == SL_OK)
        status = ops == &sl_device_twin ? gpu_world_join(&d->driver, err) : open_cuda(d, weights, err);
    if (status == SL_OK) {
        d->cuda = d->driver.cuda;
        d->patience_ms = d->driver.patience_ms;
        gpu_enter(d);
        status = init(d, weights, err);
    }
    if (status != SL_OK) {
        gpu_destroy(&d->device);
        return status;
    }
    d->config.rope_inv_freq = NULL; /* these were the caller's */
    d->config.which = NULL;
    *device = &d->device;
    return SL_OK;
}

static sl_status twin_create(struct sl_device **device, const struct sl_device_config *config,
                             const struct sl_device_weights *weights, struct sl_err *err)
{
    return create(device, &sl_device_twin, config, weights, err);
}

static sl_status cuda_create(struct sl_device **device, const struct sl_device_config *config,
                             const struct sl_device_weights *weights, struct sl_err *err)
{
    return create(device, &sl_device_cuda, config, weights, err);
}

static const char *gpu_isa(const struct sl_device *device)
{
    return const_gpu_of(device)->isa;
}

static void gpu_identify(const struct sl_device *device, struct sl_device_identity *identity)
{
    const struct sl_gpu *gpu = &const_gpu_of(device)->driver.gpu;
    _Static_assert(sizeof identity->uuid == SL_GPU_UUID_TEXT, "room for a UUID");
    snprintf(identity->name, sizeof identity->name, "%s", gpu->name);
    snprintf(identity->bus, sizeof identity->bus, "%s", gpu->bus);
    sl_gpu_uuid_text(identity->uuid, gpu);
}

static void gpu_parts(const struct sl_device *device, struct sl_parts *sum)
{
    *sum = const_gpu_of(device)->parts.sum;
}

/* The memory's rate is that of copies where they were measured, else as it is advertised. */
static void gpu_roofline(const struct sl_device *device, struct sl_roofline *roofline)
{
    const struct gpu_driver *driver = &const_gpu_of(device)->driver;
    const struct sl_gpu_kind *kind = driver->twin ? NULL : sl_gpu_kind_of(driver->gpu.name);
    *roofline = (struct sl_roofline){0};
    if (!kind)
        return;
    roofline->ops_per_ns[SL_PEAK_F32] = 1000 * kind->f32_tflops;
    roofline->ops_per_ns[SL_PEAK_INT8] = 1000 * kind->int8_tops;
    roofline->mma_ops_per_ns = 1000 * kind->imma_tops;
    roofline->bytes_per_ns = kind->copy_gbs > 0 ? kind->copy_gbs : kind->memory_gbs;
}

#define GPU_OPS(name_, create_)                                                                              \
    {                                                                                                        \
        .name = name_, .create = create_, .bytes = gpu_bytes, .destroy = gpu_destroy, .isa = gpu_isa,        \
        .rows = gpu_rows, .page = gpu_page, .copy_in = gpu_copy_in, .copy_out = gpu_copy_out,                \
        .clear = gpu_clear, .record = gpu_record, .await = gpu_await, .wait = gpu_wait, .embed = gpu_embed,  \
        .begin = gpu_begin, .attention = gpu_run_attention, .experts = gpu_run_experts,                      \
        .finish = gpu_finish, .logits = gpu_logits, .parts = gpu_parts, .roofline = gpu_roofline,            \
        .links = gpu_links, .seal = gpu_seal, .identify = gpu_identify, .lend = gpu_lend,                    \
        .take_back = gpu_take_back                                                                           \
    }
const struct sl_device_ops sl_device_cuda = GPU_OPS("cuda", cuda_create);
const struct sl_device_ops sl_device_twin = GPU_OPS("twin", twin_create);
