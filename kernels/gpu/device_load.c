/* How weights come to a GPU (device_impl.h): the source brings pieces of files into pinned buffers that take turns, and from there
 * their parts are copied while the next piece is read. So the disk, the check of the bytes and the bus are busy at once, what was
 * checked is what was copied, and the host has no more of the weights than the buffers, which are given back. */
#include "kernels/gpu/device_impl.h"

enum { BUFFERS = 4 };

struct loading {
    struct device_gpu *d;
    uint8_t *memory;
    sl_cu_event copied[BUFFERS];
    sl_cu_result result; /* the first that is an error, of the copies of a piece */
};

static void put(void *arg, size_t after, const uint8_t *bytes, size_t n)
{
    struct loading *l = arg;
    struct device_gpu *d = l->d;
    if (l->result == SL_CU_OK)
        l->result = d->cuda->copy_in(d->weights_at + after, bytes, n, d->streams[SL_QUEUE_IN]);
}

static sl_status begin(struct loading *l, size_t bytes, struct sl_err *err)
{
    const struct device_gpu *d = l->d;
    void *memory = NULL;
    SL_TRY(gpu_pin(d, &memory, bytes, err));
    l->memory = memory;
    for (uint32_t i = 0; i < BUFFERS; i++)
        SL_TRY(sl_cu_check(d->cuda, d->cuda->event_create(&l->copied[i], SL_CU_EVENT_NO_TIMING),
                           "making an event", err));
    return SL_OK;
}

static sl_status load_all(struct loading *l, const struct sl_device_inflow *inflow, struct sl_err *err)
{
    static const char what[] = "copying weights";
    const struct device_gpu *d = l->d;
    const struct sl_device_source *source = &inflow->weights->source;
    size_t n_put = 0, n = 1;
    for (uint32_t turn = 0; n > 0; turn++) {
        const uint32_t i = turn % BUFFERS;
        uint8_t *piece = l->memory + i * source->piece;
        const void *from;
        if (turn >= BUFFERS)
            SL_TRY(sl_cu_wait(d->cuda, l->copied[i], d->driver.patience_ms, what, err));
        SL_TRY(source->next(source->arg, piece, &from, &n, err));
        if (n > 0)
            sl_device_weights_put(inflow, from, piece, n, put, l, &n_put);
        SL_TRY(sl_cu_check(d->cuda, l->result, what, err));
        SL_TRY(sl_cu_check(d->cuda, d->cuda->event_record(l->copied[i], d->streams[SL_QUEUE_IN]), what, err));
    }
    return sl_device_weights_came(inflow, n_put, err);
}

/* Nothing is under way any more when the buffers go. */
static sl_status end(struct loading *l, sl_status status, struct sl_err *err)
{
    const struct device_gpu *d = l->d;
    struct sl_err own;
    sl_cu_event last = l->copied[0];
    sl_status ended = SL_OK;
    if (last) {
        ended = sl_cu_check(d->cuda, d->cuda->event_record(last, d->streams[SL_QUEUE_IN]), "copying weights",
                            &own);
        if (ended == SL_OK)
            ended = sl_cu_wait(d->cuda, last, d->driver.patience_ms, "copying weights", &own);
    }
    if (status == SL_OK && ended != SL_OK) {
        *err = own;
        status = ended;
    }
    for (uint32_t i = 0; i < BUFFERS; i++)
        if (l->copied[i])
            d->cuda->event_destroy(l->copied[i]);
    if (l->memory)
        d->cuda->host_free(l->memory);
    return status;
}

sl_status gpu_load(struct device_gpu *d, const struct sl_device_inflow *inflow, struct sl_err *err)
{
    struct loading l = {.d = d};
    sl_status status = begin(&l, BUFFERS * inflow->weights->source.piece, err);
    if (status == SL_OK)
        status = load_all(&l, inflow, err);
    return end(&l, status, err);
}
