/* A device that is not the host, in the cheapest way (kernels/device.h): it tries whoever uses devices, not what
 * computes. It gives the same bits as any device, computed by one thread with the reference
 * kernels in every numerics profile, and it is as strict as a GPU is, or stricter:
 *
 *   the wall    weights, pages, rows and everything computed lie in its own memory, which is mapped without any access while
 *               control is outside its calls: host code that follows an address of the device dies of it, every time
 *   late work   a call is put into its queue and does nothing. Work is done when the host waits for an event, and then only
 *               what that event needs: its queue up to it, and of other queues what was awaited on the way. So an event that
 *               was forgotten is work that has not been done, and memory that was given back too early has other bytes by
 *               the time that it is read: on a GPU either would go well most of the time
 *
 * Inside it is the CPU's device (device_cpu.c) in an arena behind the wall. Arguments that the caller may take back when a
 * call returns (ids) or that must live on until finish (slices, page lists) are copied when it is called. */
#include "pipeline/stage/device_impl.h"
#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

enum late_verb {
    LATE_COPY_IN,
    LATE_COPY_OUT,
    LATE_CLEAR,
    LATE_AWAIT,
    LATE_EMBED,
    LATE_BEGIN,
    LATE_ATTENTION,
    LATE_EXPERTS,
    LATE_FINISH,
    LATE_LOGITS
};

struct late_point { /* of a queue: behind its first `number` calls */
    enum sl_device_queue queue;
    uint64_t number;
};

struct late_call {
    enum late_verb verb;
    uint32_t n;             /* layer, slot, or how many rows */
    struct sl_device_at at; /* in the device */
    const void *from;       /* of the host: for copy_in */
    void *to;               /* of the host: for copy_out */
    size_t bytes;
    struct late_point until; /* for await */
};

enum { LATE_CALLS = 1024 }; /* of a queue; one more does the queue's work first */

struct late_queue {
    struct late_call *calls; /* [LATE_CALLS], a ring */
    uint64_t n_given, n_done;
    bool running;
};

struct device_late {
    struct sl_device device;
    struct device_cpu inner; /* its arena is behind the wall */
    struct sl_arena own;     /* so are the weights and what follows */
    struct sl_device_at rows[SL_DEVICE_BUFFERS];
    uint8_t *ids;      /* [max_tokens] u32 of the last embed */
    uint32_t *pages;   /* [max_slices][max_pages] of the last begin */
    uint32_t max_rows; /* of a buffer */
    /* The host's side: where things are, not what they are. */
    struct sl_layer_blocks *layers;
    struct sl_attention_slice *slices;
    struct sl_device_chunk chunk; /* of the last begin */
    struct late_queue queues[SL_QUEUES];
    struct late_point events[SL_DEVICE_EVENTS];
    bool recorded[SL_DEVICE_EVENTS];
    uint64_t embed_number, finish_number; /* the last of each: the compute queue up to it */
    uint32_t n_inside;                    /* how many of our functions have opened the wall */
};

static struct device_late *late_of(struct sl_device *device)
{
    return (struct device_late *)(void *)device;
}
static const struct device_late *const_late_of(const struct sl_device *device)
{
    return (const struct device_late *)(const void *)device;
}
static struct sl_device_at at_of(const void *here)
{
    return (struct sl_device_at){(uintptr_t)here};
}

/* ---- the wall ---- */

static void set_access(const struct sl_arena *arena, int access)
{
    int failed = arena->base ? mprotect(arena->base, arena->size_bytes, access) : 0;
    assert(!failed); /* whole mappings of ours: neither split nor joined by this */
}

static void enter(struct device_late *t)
{
    if (t->n_inside++)
        return;
    set_access(&t->inner.arena, PROT_READ | PROT_WRITE);
    set_access(&t->own, PROT_READ | PROT_WRITE);
}

static void leave(struct device_late *t)
{
    if (--t->n_inside)
        return;
    set_access(&t->inner.arena, PROT_NONE);
    set_access(&t->own, PROT_NONE);
}

/* ---- the queues ---- */

static void run_until(struct device_late *t, struct late_point point);

static void do_call(struct device_late *t, const struct late_call *c)
{
    struct sl_device *inner = &t->inner.device;
    switch (c->verb) {
    case LATE_COPY_IN:
        memcpy((void *)c->at.at, c->from, c->bytes);
        break;
    case LATE_COPY_OUT:
        memcpy(c->to, (const void *)c->at.at, c->bytes);
        break;
    case LATE_CLEAR:
        sl_device_cpu.clear(inner, c->n);
        break;
    case LATE_AWAIT:
        run_until(t, c->until);
        break;
    case LATE_EMBED:
        sl_device_cpu.embed(inner, c->at, t->ids, c->n);
        break;
    case LATE_BEGIN:
        sl_device_cpu.begin(inner, &t->chunk);
        break;
    case LATE_ATTENTION:
        sl_device_cpu.attention(inner, c->n);
        break;
    case LATE_EXPERTS:
        sl_device_cpu.experts(inner, c->n);
        break;
    case LATE_FINISH:
        sl_device_cpu.finish(inner);
        break;
    case LATE_LOGITS:
        sl_device_cpu.logits(inner, c->at, c->n);
        break;
    }
}

static void run_until(struct device_late *t, struct late_point point)
{
    struct late_queue *q = &t->queues[point.queue];
    if (q->n_done >= point.number)
        return;
    assert(!q->running); /* an event can only be awaited once it is recorded: there is no circle */
    q->running = true;
    enter(t);
    while (q->n_done < point.number) {
        do_call(t, &q->calls[q->n_done % LATE_CALLS]);
        q->n_done++;
    }
    leave(t);
    q->running = false;
}

static void give(struct device_late *t, enum sl_device_queue queue, struct late_call call)
{
    struct late_queue *q = &t->queues[queue];
    if (q->n_given - q->n_done == LATE_CALLS)
        run_until(t, (struct late_point){queue, q->n_given});
    q->calls[q->n_given++ % LATE_CALLS] = call;
}

static void late_record(struct sl_device *device, uint32_t event, enum sl_device_queue queue)
{
    struct device_late *t = late_of(device);
    assert(event < SL_DEVICE_EVENTS);
    t->events[event] = (struct late_point){queue, t->queues[queue].n_given};
    t->recorded[event] = true;
}

static void late_await(struct sl_device *device, enum sl_device_queue queue, uint32_t event)
{
    struct device_late *t = late_of(device);
    assert(event < SL_DEVICE_EVENTS && t->recorded[event]);
    if (t->events[event].queue != queue) /* its own queue is in order anyway */
        give(t, queue, (struct late_call){.verb = LATE_AWAIT, .until = t->events[event]});
}

static void late_wait(struct sl_device *device, uint32_t event)
{
    struct device_late *t = late_of(device);
    assert(event < SL_DEVICE_EVENTS && t->recorded[event]);
    run_until(t, t->events[event]);
}

/* ---- the plan ---- */

static uint32_t rows_of(const struct sl_device_config *c) /* of a buffer */
{
    return c->max_tokens > c->head_rows ? c->max_tokens : c->head_rows;
}
static size_t row_bytes(const struct sl_device_config *c)
{
    return c->attention.d_model * sizeof(float);
}
static size_t list_bytes(const struct sl_device_config *c)
{
    return sl_arena_round((size_t)c->max_slices * c->max_pages * sizeof(uint32_t)) +
           sl_arena_round(c->max_tokens * sizeof(uint32_t));
}

/* The last table is the reference, in every profile. */
static const struct sl_ops *reference_of(enum sl_profile profile)
{
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available_profile(profile, &n);
    return tables[n - 1];
}

static struct sl_device_config alone(const struct sl_device_config *config)
{
    struct sl_device_config one = *config;
    one.n_threads = 1;
    return one;
}

static sl_status late_bytes(struct sl_device_bytes *bytes, const struct sl_device_config *config,
                            struct sl_err *err)
{
    struct sl_device_config one = alone(config);
    SL_TRY(sl_device_cpu_bytes(bytes, &one, reference_of(config->profile), err));
    bytes->activations += SL_DEVICE_BUFFERS * sl_arena_round(rows_of(config) * row_bytes(config));
    bytes->tables += list_bytes(config) + config->n_layers * sizeof(struct sl_layer_blocks) +
                     config->max_slices * sizeof(struct sl_attention_slice) +
                     SL_QUEUES * LATE_CALLS * sizeof(struct late_call);
    return SL_OK;
}

/* ---- create and destroy ---- */

static void put(void *arg, size_t after, const uint8_t *bytes, size_t n)
{
    memcpy((uint8_t *)arg + after, bytes, n);
}

static sl_status load(const struct sl_device_inflow *inflow, uint8_t *to, struct sl_err *err)
{
    const struct sl_device_source *source = &inflow->weights->source;
    uint8_t *piece = malloc(source->piece + 1);
    sl_status status =
        piece ? SL_OK : sl_fail(err, SL_E_NOMEM, "out of memory for the weights on their way to a device");
    size_t n_put = 0, n = 1;
    while (status == SL_OK && n > 0) {
        const void *from;
        status = source->next(source->arg, piece, &from, &n, err);
        if (status == SL_OK && n > 0)
            sl_device_weights_put(inflow, from, piece, n, put, to, &n_put);
    }
    free(piece);
    return status == SL_OK ? sl_device_weights_came(inflow, n_put, err) : status;
}

static sl_status take_host_memory(struct device_late *t, const struct sl_device_config *c)
{
    t->layers = calloc(c->n_layers, sizeof *t->layers);
    t->slices = calloc(c->max_slices, sizeof *t->slices);
    bool taken = t->layers && t->slices;
    for (int i = 0; i < SL_QUEUES; i++) {
        t->queues[i].calls = calloc(LATE_CALLS, sizeof *t->queues[i].calls);
        taken = taken && t->queues[i].calls;
    }
    return taken ? SL_OK : SL_E_NOMEM;
}

static sl_status init(struct device_late *t, const struct sl_device_config *config,
                      const struct sl_device_weights *weights, struct sl_err *err)
{
    struct sl_device_config one = alone(config);
    struct sl_device_inflow inflow = {weights, config, NULL, SL_CACHE_LINE};
    t->device.ops = &sl_device_late;
    if (take_host_memory(t, config) != SL_OK)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a stage's device");
    inflow.layers = t->layers;
    size_t bytes = sl_device_weights_bytes(&inflow);
    SL_TRY(sl_arena_init(&t->own,
                         bytes + SL_DEVICE_BUFFERS * sl_arena_round(rows_of(config) * row_bytes(config)) +
                             list_bytes(config),
                         err));
    uint8_t *at = sl_arena_take(&t->own, bytes);
    SL_TRY(load(&inflow, at, err));
    struct sl_device_weights mine = sl_device_weights_at(&inflow, (uintptr_t)at);
    t->max_rows = rows_of(config);
    for (int i = 0; i < SL_DEVICE_BUFFERS; i++)
        t->rows[i] = at_of(sl_arena_take(&t->own, t->max_rows * row_bytes(config)));
    t->pages = sl_arena_take(&t->own, (size_t)config->max_slices * config->max_pages * sizeof *t->pages);
    t->ids = sl_arena_take(&t->own, config->max_tokens * sizeof(uint32_t));
    assert(t->rows[SL_DEVICE_BUFFERS - 1].at && t->pages && t->ids);
    sl_arena_seal(&t->own);
    return sl_device_cpu_init(&t->inner, &one, &mine, reference_of(config->profile), err);
}

static void late_destroy(struct sl_device *device)
{
    struct device_late *t = late_of(device);
    if (!t)
        return;
    sl_device_cpu_fini(&t->inner);
    sl_arena_fini(&t->own);
    for (int i = 0; i < SL_QUEUES; i++)
        free(t->queues[i].calls);
    free(t->layers);
    free(t->slices);
    free(t);
}

static sl_status late_create(struct sl_device **device, const struct sl_device_config *config,
                             const struct sl_device_weights *weights, struct sl_err *err)
{
    struct device_late *t = calloc(1, sizeof *t);
    if (!t)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a stage's device");
    sl_status status = init(t, config, weights, err);
    if (status != SL_OK) {
        late_destroy(&t->device);
        return status;
    }
    enter(t);
    leave(t); /* which closes it */
    *device = &t->device;
    return SL_OK;
}

static const char *late_isa(const struct sl_device *device)
{
    (void)device;
    return "late";
}

/* ---- the calls ---- */

static struct sl_device_at late_rows(const struct sl_device *device, uint32_t buffer, float *host)
{
    (void)host;
    assert(buffer < SL_DEVICE_BUFFERS);
    return const_late_of(device)->rows[buffer];
}

static struct sl_device_at late_page(const struct sl_device *device, uint32_t slot)
{
    const struct sl_kv *kv = &const_late_of(device)->inner.kv;
    assert(slot < kv->n_slots);
    return at_of(sl_kv_slot(kv, slot));
}

static bool holds(const struct sl_arena *arena, struct sl_device_at at, size_t bytes)
{
    uintptr_t base = (uintptr_t)arena->base;
    return at.at >= base && bytes <= arena->used_bytes && at.at - base <= arena->used_bytes - bytes;
}

static void late_copy_in(struct sl_device *device, struct sl_device_at to, const void *from, size_t bytes)
{
    struct device_late *t = late_of(device);
    assert(holds(&t->own, to, bytes) || holds(&t->inner.arena, to, bytes));
    give(t, SL_QUEUE_IN, (struct late_call){.verb = LATE_COPY_IN, .at = to, .from = from, .bytes = bytes});
}

static void late_copy_out(struct sl_device *device, void *to, struct sl_device_at from, size_t bytes)
{
    struct device_late *t = late_of(device);
    assert(holds(&t->own, from, bytes) || holds(&t->inner.arena, from, bytes));
    give(t, SL_QUEUE_OUT, (struct late_call){.verb = LATE_COPY_OUT, .at = from, .to = to, .bytes = bytes});
}

static void late_clear(struct sl_device *device, uint32_t slot)
{
    struct device_late *t = late_of(device);
    assert(slot < t->inner.kv.n_slots);
    give(t, SL_QUEUE_IN, (struct late_call){.verb = LATE_CLEAR, .n = slot});
}

/* There is one copy of the arguments: who comes while it is in use does the work that uses it. */
static void make_room(struct device_late *t, uint64_t number)
{
    run_until(t, (struct late_point){SL_QUEUE_COMPUTE, number});
}

static void late_embed(struct sl_device *device, struct sl_device_at rows, const uint8_t *ids, uint32_t n)
{
    struct device_late *t = late_of(device);
    assert(n <= t->inner.config.max_tokens);
    make_room(t, t->embed_number);
    enter(t);
    memcpy(t->ids, ids, n * sizeof(uint32_t));
    leave(t);
    give(t, SL_QUEUE_COMPUTE, (struct late_call){.verb = LATE_EMBED, .at = rows, .n = n});
    t->embed_number = t->queues[SL_QUEUE_COMPUTE].n_given;
}

static void late_begin(struct sl_device *device, const struct sl_device_chunk *chunk)
{
    struct device_late *t = late_of(device);
    uint32_t max_pages = t->inner.config.max_pages;
    assert(chunk->n_rows <= t->max_rows && chunk->n_slices <= t->inner.config.max_slices);
    make_room(t, t->finish_number);
    enter(t);
    for (uint32_t i = 0; i < chunk->n_slices; i++) {
        const struct sl_attention_slice *s = &chunk->slices[i];
        uint32_t n = (s->pos + s->n + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS,
                 *to = t->pages + (size_t)i * max_pages;
        assert(n <= max_pages);
        memcpy(to, s->pages, n * sizeof *to);
        t->slices[i] = *s;
        t->slices[i].pages = to;
    }
    leave(t);
    t->chunk = *chunk;
    t->chunk.slices = t->slices;
    give(t, SL_QUEUE_COMPUTE, (struct late_call){.verb = LATE_BEGIN});
}

static void late_attention(struct sl_device *device, uint32_t layer)
{
    give(late_of(device), SL_QUEUE_COMPUTE, (struct late_call){.verb = LATE_ATTENTION, .n = layer});
}

static void late_experts(struct sl_device *device, uint32_t layer)
{
    give(late_of(device), SL_QUEUE_COMPUTE, (struct late_call){.verb = LATE_EXPERTS, .n = layer});
}

static void late_finish(struct sl_device *device)
{
    struct device_late *t = late_of(device);
    give(t, SL_QUEUE_COMPUTE, (struct late_call){.verb = LATE_FINISH});
    t->finish_number = t->queues[SL_QUEUE_COMPUTE].n_given;
}

static struct sl_device_at late_logits(struct sl_device *device, struct sl_device_at rows, uint32_t n)
{
    struct device_late *t = late_of(device);
    give(t, SL_QUEUE_COMPUTE, (struct late_call){.verb = LATE_LOGITS, .at = rows, .n = n});
    return at_of(t->inner.logits);
}

static void late_parts(const struct sl_device *device, struct sl_parts *sum)
{
    sl_device_cpu.parts(&const_late_of(device)->inner.device, sum);
}

const struct sl_device_ops sl_device_late = {.name = "late",
                                             .bytes = late_bytes,
                                             .create = late_create,
                                             .destroy = late_destroy,
                                             .isa = late_isa,
                                             .rows = late_rows,
                                             .page = late_page,
                                             .copy_in = late_copy_in,
                                             .copy_out = late_copy_out,
                                             .clear = late_clear,
                                             .record = late_record,
                                             .await = late_await,
                                             .wait = late_wait,
                                             .embed = late_embed,
                                             .begin = late_begin,
                                             .attention = late_attention,
                                             .experts = late_experts,
                                             .finish = late_finish,
                                             .logits = late_logits,
                                             .parts = late_parts};
