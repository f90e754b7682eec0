/* Rows of a GPU's device that go from device to device (base/rows_device.h): places for them in its memory, streams and events for
 * who carries them, and their checksum.
 *
 * All of it is made with the device, since the driver takes memory for a stream, too: what a link opens it is lent, and what it closes
 * goes to the next one, behind whatever is queued there yet. A place belongs to rows by their address on the host, a slot of the link
 * that the stage has its records from: there are as many, and each keeps its own.
 *
 * Threads: the stage's seals, and thereby says when the rows of a place may leave; the I/O's has streams and events. The driver
 * takes calls from both, each with the context made its own (gpu_enter). What both read is the table of places. */
#include "base/log.h"
#include "kernels/cuda/twin.h"
#include "kernels/gpu/device_impl.h"
#include "kernels/gpu/lanes.h"
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

enum {
    PLACES_MOST = 16,
    /* One each way of two lines, and as many again while old ones end; of each, an event for every slot of a link. */
    STREAMS = 8,
    EVENTS = STREAMS * 64
};

struct gpu_links {
    struct sl_rows_device table;
    pthread_mutex_t mutex; /* of places */
    uint32_t n_places;
    const void *hosts[PLACES_MOST]; /* whose they are */
    sl_cu_event written[PLACES_MOST], summed;
    uint64_t *sums; /* pinned: what the blocks leave of a checksum */
    sl_cu_stream streams[STREAMS], free_streams[STREAMS];
    sl_cu_event events[EVENTS], free_events[EVENTS];
    uint32_t n_free_streams, n_free_events;
};

/* ---- for who carries them ---- */

static void *stream_open(void *user)
{
    struct device_gpu *d = user;
    gpu_enter(d); /* NCCL works in the context that is current */
    return d->links->n_free_streams > 0 ? d->links->free_streams[--d->links->n_free_streams] : NULL;
}

static void stream_close(void *user, void *stream)
{
    struct gpu_links *l = ((struct device_gpu *)user)->links;
    l->free_streams[l->n_free_streams++] = stream;
}

static void *event_open(void *user)
{
    struct gpu_links *l = ((struct device_gpu *)user)->links;
    return l->n_free_events > 0 ? l->free_events[--l->n_free_events] : NULL;
}

static void event_close(void *user, void *event)
{
    struct gpu_links *l = ((struct device_gpu *)user)->links;
    l->free_events[l->n_free_events++] = event;
}

/* The number of the place that these bytes lie in; PLACES_MOST: in none. */
static uint32_t place_of(const struct device_gpu *d, const void *rows)
{
    size_t at = (size_t)((const uint8_t *)rows - d->b.places) / gpu_place_bytes(&d->config);
    return (const uint8_t *)rows >= d->b.places && at < d->config.n_places ? (uint32_t)at : PLACES_MOST;
}

static bool await_rows(void *user, void *stream, const void *rows)
{
    struct device_gpu *d = user;
    uint32_t place = place_of(d, rows);
    assert(place < PLACES_MOST);
    gpu_enter(d);
    return d->cuda->stream_wait(stream, d->links->written[place], 0) == SL_CU_OK;
}

static bool record(void *user, void *stream, void *event)
{
    struct device_gpu *d = user;
    gpu_enter(d);
    return d->cuda->event_record(event, stream) == SL_CU_OK;
}

static int passed(void *user, void *event)
{
    struct device_gpu *d = user;
    gpu_enter(d);
    sl_cu_result result = d->cuda->event_query(event);
    return result == SL_CU_OK ? 1 : result == SL_CU_NOT_READY ? 0 : -1;
}

static bool give(void *user, void *stream, bool (*step)(void *arg), void *arg)
{
    gpu_enter(user);
    return sl_cu_twin_give(stream, step, arg);
}

static void *address(void *user, const void *host, size_t bytes)
{
    struct device_gpu *d = user;
    struct gpu_links *l = d->links;
    uint32_t i = 0;
    pthread_mutex_lock(&l->mutex);
    while (i < l->n_places && l->hosts[i] != host)
        i++;
    bool fits = i < d->config.n_places && bytes <= gpu_place_bytes(&d->config);
    if (fits && i == l->n_places)
        l->hosts[l->n_places++] = host;
    pthread_mutex_unlock(&l->mutex);
    return fits ? d->b.places + i * gpu_place_bytes(&d->config) : NULL;
}

const struct sl_rows_device *gpu_links(struct sl_device *device)
{
    struct gpu_links *l = gpu_of(device)->links;
    return l ? &l->table : NULL;
}

/* ---- the checksum ---- */

/* All that the stream has been given. */
static void await_all(struct device_gpu *d, sl_cu_stream stream, const char *what)
{
    struct sl_err err;
    gpu_check(d, d->cuda->event_record(d->links->summed, stream), "recording an event");
    if (sl_cu_wait(d->cuda, d->links->summed, d->patience_ms, what, &err) != SL_OK)
        gpu_lost(d, err.text);
}

void gpu_seal(struct sl_device *device, struct sl_device_at rows, size_t bytes, uint64_t at,
              struct sl_lane_sums *sums)
{
    struct device_gpu *d = gpu_of(device);
    struct gpu_links *l = d->links;
    sl_cu_stream compute = d->streams[SL_QUEUE_COMPUTE];
    const struct sl_gpu_lanes p = {.rows = gpu_pointer(rows.at),
                                   .sums = d->b.sums,
                                   .n = (uint32_t)(bytes / SL_LANE_BYTES),
                                   .first = (uint32_t)(at / SL_LANE_BYTES)};
    uint32_t blocks = sl_gpu_lanes_blocks(p.n), place = place_of(d, p.rows);
    assert(l && bytes % SL_LANE_BYTES == 0 && at % SL_LANE_BYTES == 0);
    gpu_enter(d);
    gpu_launch_blocks(d, &sl_gpu_lanes, &p, blocks);
    if (place < PLACES_MOST)
        gpu_check(d, d->cuda->event_record(l->written[place], compute), "recording an event");
    gpu_check(
        d, d->cuda->copy_out(l->sums, (uintptr_t)d->b.sums, blocks * SL_SUM_LANES * sizeof *l->sums, compute),
        "copying a checksum");
    await_all(d, compute, "a checksum");
    sl_gpu_lanes_add(sums, l->sums, blocks, p.first);
}

/* ---- life ---- */

size_t gpu_links_bytes(const struct sl_device_config *config)
{
    return config->n_places ? SL_GPU_LANES_BLOCKS * SL_SUM_LANES * sizeof(uint64_t) : 0;
}

static sl_status make_event(struct device_gpu *d, sl_cu_event *event, struct sl_err *err)
{
    return sl_cu_check(d->cuda, d->cuda->event_create(event, SL_CU_EVENT_NO_TIMING), "making an event", err);
}

static sl_status make_things(struct device_gpu *d, struct sl_err *err)
{
    struct gpu_links *l = d->links;
    void *pinned = NULL;
    for (uint32_t i = 0; i < d->config.n_places; i++)
        SL_TRY(make_event(d, &l->written[i], err));
    SL_TRY(make_event(d, &l->summed, err));
    for (; l->n_free_streams < STREAMS; l->n_free_streams++) {
        sl_cu_stream *stream = &l->streams[l->n_free_streams];
        SL_TRY(sl_cu_check(d->cuda, d->cuda->stream_create(stream, SL_CU_STREAM_NON_BLOCKING),
                           "making a stream", err));
        l->free_streams[l->n_free_streams] = *stream;
    }
    for (; l->n_free_events < EVENTS; l->n_free_events++) {
        SL_TRY(make_event(d, &l->events[l->n_free_events], err));
        l->free_events[l->n_free_events] = l->events[l->n_free_events];
    }
    SL_TRY(gpu_pin(d, &pinned, gpu_links_bytes(&d->config), err));
    l->sums = pinned;
    return SL_OK;
}

sl_status gpu_links_open(struct device_gpu *d, struct sl_err *err)
{
    if (d->config.n_places == 0)
        return SL_OK;
    assert(d->config.n_places <= PLACES_MOST);
    struct gpu_links *l = d->links = calloc(1, sizeof *l);
    if (!l)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a stage's device");
    pthread_mutex_init(&l->mutex, NULL);
    l->table = (struct sl_rows_device){.user = d,
                                       .twin = d->driver.twin,
                                       .memory = d->b.places,
                                       .greeting = d->b.greeting,
                                       .memory_bytes =
                                           (size_t)(d->b.greeting + SL_ROWS_GREETING_BYTES - d->b.places),
                                       .stream_open = stream_open,
                                       .stream_close = stream_close,
                                       .event_open = event_open,
                                       .event_close = event_close,
                                       .await_rows = await_rows,
                                       .record = record,
                                       .passed = passed,
                                       .give = d->driver.twin ? give : NULL,
                                       .address = address};
    return make_things(d, err);
}

void gpu_links_drain(struct device_gpu *d)
{
    for (uint32_t i = 0; d->links && d->links->summed && i < STREAMS && d->links->streams[i]; i++)
        await_all(d, d->links->streams[i], "what a link asked last");
}

void gpu_links_close(struct device_gpu *d)
{
    struct gpu_links *l = d->links;
    if (!l)
        return;
    for (uint32_t i = 0; i < EVENTS; i++)
        if (l->events[i])
            d->cuda->event_destroy(l->events[i]);
    for (uint32_t i = 0; i < PLACES_MOST; i++)
        if (l->written[i])
            d->cuda->event_destroy(l->written[i]);
    if (l->summed)
        d->cuda->event_destroy(l->summed);
    for (uint32_t i = 0; i < STREAMS; i++)
        if (l->streams[i])
            d->cuda->stream_destroy(l->streams[i]);
    if (l->sums)
        d->cuda->host_free(l->sums);
    pthread_mutex_destroy(&l->mutex);
    free(l);
    d->links = NULL;
}
