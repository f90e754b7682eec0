/* The hashing device (device_hash.h). Values are sums of products with odd numbers that depend on the position, so the loop over a long
 * prefix has no chain, and two pages in each other's place do not give the same sum. */
#include "bench/simulate/device_hash.h"
#include "attention/kv.h"
#include "base/bytes.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 64, DIRT = 0xa5 /* what pages have that were never cleared */ };

struct hash_device {
    struct sl_device device;
    struct sl_device_config config;
    uint8_t *pages;
    size_t layer_bytes, slot_bytes;
    float *logits; /* [head_rows][vocab] */
    struct sl_device_chunk chunk;
    struct sl_cost cost;
    double times, took_us;
};

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2))) * 0xff51afd7ed558ccdu;
    return x ^ x >> 33;
}

static struct hash_device *of(struct sl_device *device)
{
    return (struct hash_device *)device;
}

void sl_device_hash_cost(struct sl_device *device, const struct sl_cost *cost, double times)
{
    of(device)->cost = *cost;
    of(device)->times = times;
}

void sl_device_hash_begin(struct sl_device *device)
{
    of(device)->took_us = 0;
}

double sl_device_hash_took_us(const struct sl_device *device)
{
    return ((const struct hash_device *)device)->took_us;
}

/* As the pool of any stage whose pages are of this shape: see kv.h. */
static size_t layer_bytes_of(const struct sl_device_config *c)
{
    return sl_kv_layer_bytes(&(struct sl_kv_layout){1, c->attention.n_kv, c->attention.d_head, c->kv_dtype});
}

static sl_status hash_bytes(struct sl_device_bytes *bytes, const struct sl_device_config *config,
                            struct sl_err *err)
{
    (void)err;
    *bytes = (struct sl_device_bytes){.kv = config->n_pages * config->n_layers * layer_bytes_of(config)};
    return SL_OK;
}

static void hash_destroy(struct sl_device *device)
{
    if (!device)
        return;
    free(of(device)->pages);
    free(of(device)->logits);
    free(device);
}

static sl_status hash_create(struct sl_device **device, const struct sl_device_config *config,
                             const struct sl_device_weights *weights, struct sl_err *err)
{
    (void)weights;
    struct hash_device *d = calloc(1, sizeof *d);
    if (!d)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a device");
    d->device.ops = &sl_device_hash;
    d->config = *config;
    d->layer_bytes = layer_bytes_of(config);
    d->slot_bytes = config->n_layers * d->layer_bytes;
    d->pages = malloc(config->n_pages * d->slot_bytes);
    d->logits = malloc((size_t)config->head_rows * config->vocab * sizeof *d->logits);
    assert(d->layer_bytes >= PAGE * sizeof(uint64_t));
    assert(config->attention.d_model * sizeof(float) == sizeof(uint64_t));
    if (!d->pages || !d->logits) {
        hash_destroy(&d->device);
        return sl_fail(err, SL_E_NOMEM, "out of memory for a device");
    }
    memset(d->pages, DIRT, config->n_pages * d->slot_bytes);
    *device = &d->device;
    return SL_OK;
}

static const char *hash_isa(const struct sl_device *device)
{
    (void)device;
    return "hash";
}

static struct sl_device_at hash_rows(const struct sl_device *device, uint32_t buffer, float *host)
{
    (void)device, (void)buffer;
    return (struct sl_device_at){(uintptr_t)host};
}

static uint8_t *slot(const struct hash_device *d, uint32_t page)
{
    return d->pages + page * d->slot_bytes;
}

static struct sl_device_at hash_page(const struct sl_device *device, uint32_t page)
{
    return (struct sl_device_at){(uintptr_t)slot((const struct hash_device *)device, page)};
}

static void hash_copy_in(struct sl_device *device, struct sl_device_at to, const void *from, size_t bytes)
{
    (void)device;
    memmove((void *)to.at, from, bytes);
}

static void hash_copy_out(struct sl_device *device, void *to, struct sl_device_at from, size_t bytes)
{
    (void)device;
    memmove(to, (const void *)from.at, bytes);
}

/* A page that was not cleared keeps what it had, as on any device; what is read of it before it is written would tell. */
static void hash_clear(struct sl_device *device, uint32_t page)
{
    memset(slot(of(device), page), 0, of(device)->slot_bytes);
}

static void hash_event(struct sl_device *device, uint32_t event, enum sl_device_queue queue)
{
    (void)device, (void)event, (void)queue;
}

static void hash_await(struct sl_device *device, enum sl_device_queue queue, uint32_t event)
{
    (void)device, (void)queue, (void)event;
}

static void hash_wait(struct sl_device *device, uint32_t event)
{
    (void)device, (void)event;
}

static void hash_embed(struct sl_device *device, struct sl_device_at rows, const uint8_t *ids, uint32_t n)
{
    (void)device;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t row = mix(sl_get32(ids + 4 * (size_t)i), 1);
        memcpy((uint8_t *)rows.at + i * sizeof row, &row, sizeof row);
    }
}

static void hash_begin(struct sl_device *device, const struct sl_device_chunk *chunk)
{
    struct hash_device *d = of(device);
    struct sl_cost_chunk sum = {0};
    d->chunk = *chunk;
    for (uint32_t i = 0; i < chunk->n_slices; i++) {
        sl_cost_add(&sum, chunk->slices[i].pos, chunk->slices[i].n);
        sl_cost_want(&sum, d->config.with_head ? chunk->slices[i].n - chunk->slices[i].kv_only : 0);
    }
    d->took_us += d->times * sl_cost_of(&d->cost, &sum);
}

/* What positions [from, to) of one page add to what is seen; a position's weight is odd, and its own. */
static uint64_t look(const uint64_t *values, uint32_t first, uint32_t from, uint32_t to)
{
    uint64_t sum = 0;
    for (uint32_t pos = from; pos < to; pos++)
        sum += (values[pos - first] ^ 0x9e3779b97f4a7c15u) * (2 * (uint64_t)pos + 3);
    return sum;
}

/* What is written to is clean: kernels read whole pages. 0: it is. */
static uint64_t dirt(const uint64_t *values, uint32_t from, uint32_t to)
{
    uint64_t any = 0;
    for (uint32_t i = from; i < to; i++)
        any |= values[i];
    return any;
}

static void attend_slice(const struct hash_device *d, uint32_t layer, const struct sl_attention_slice *s)
{
    uint64_t seen = 0;
    uint8_t *rows = (uint8_t *)d->chunk.rows.at + s->row * sizeof(uint64_t);
    for (uint32_t first = 0; first < s->pos + s->n; first += PAGE) {
        uint64_t *values = (uint64_t *)(void *)(slot(d, s->pages[first / PAGE]) + layer * d->layer_bytes);
        uint32_t end = first + PAGE < s->pos + s->n ? first + PAGE : s->pos + s->n,
                 known = s->pos < first ? first
                         : s->pos < end ? s->pos
                                        : end;
        seen += look(values, first, first, known);
        if (known < first + PAGE)
            seen += dirt(values, known - first, PAGE);
        for (uint32_t pos = known; pos < end; pos++) {
            uint8_t *at = rows + (pos - s->pos) * sizeof(uint64_t);
            uint64_t row;
            memcpy(&row, at, sizeof row);
            values[pos - first] = mix(row, pos);
            seen += look(values, first, pos, pos + 1);
            row = mix(seen, row);
            memcpy(at, &row, sizeof row);
        }
    }
}

static void hash_attention(struct sl_device *device, uint32_t layer)
{
    const struct hash_device *d = of(device);
    for (uint32_t i = 0; i < d->chunk.n_slices; i++)
        attend_slice(d, layer, &d->chunk.slices[i]);
}

static void hash_experts(struct sl_device *device, uint32_t layer)
{
    (void)device, (void)layer;
}

/* Rows that nobody wants go, as behind any last layer. */
static void hash_finish(struct sl_device *device)
{
    const struct hash_device *d = of(device);
    uint8_t *rows = (uint8_t *)d->chunk.rows.at, *to = rows;
    for (uint32_t i = 0; i < d->chunk.n_slices; i++) {
        const struct sl_attention_slice *s = &d->chunk.slices[i];
        size_t bytes = (s->n - s->kv_only) * sizeof(uint64_t);
        memmove(to, rows + (s->row + s->kv_only) * sizeof(uint64_t), bytes);
        to += bytes;
    }
}

static struct sl_device_at hash_logits(struct sl_device *device, struct sl_device_at rows, uint32_t n)
{
    struct hash_device *d = of(device);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t row;
        memcpy(&row, (const uint8_t *)rows.at + i * sizeof row, sizeof row);
        for (uint32_t id = 0; id < d->config.vocab; id++)
            d->logits[(size_t)i * d->config.vocab + id] = (float)(mix(row, id) >> 44) * 0x1p-18f; /* 0 to 4 */
    }
    return (struct sl_device_at){(uintptr_t)d->logits};
}

static void hash_parts(const struct sl_device *device, struct sl_parts *sum)
{
    (void)device;
    *sum = (struct sl_parts){0};
}

const struct sl_device_ops sl_device_hash = {.name = "hash",
                                             .in_place = true,
                                             .bytes = hash_bytes,
                                             .create = hash_create,
                                             .destroy = hash_destroy,
                                             .isa = hash_isa,
                                             .rows = hash_rows,
                                             .page = hash_page,
                                             .copy_in = hash_copy_in,
                                             .copy_out = hash_copy_out,
                                             .clear = hash_clear,
                                             .record = hash_event,
                                             .await = hash_await,
                                             .wait = hash_wait,
                                             .embed = hash_embed,
                                             .begin = hash_begin,
                                             .attention = hash_attention,
                                             .experts = hash_experts,
                                             .finish = hash_finish,
                                             .logits = hash_logits,
                                             .parts = hash_parts};
