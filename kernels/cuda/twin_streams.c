/* Streams of the twin (twin.h): what is put into them, and the draw by which it is done. Nothing is promised but what events
 * order, so every order that they allow comes up with some seed, those in which one stream lags far behind more often than a fair
 * draw would have it. */
#include "kernels/cuda/twin_impl.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- doing what is queued ---- */

static bool may_go(const struct CUstream_st *s)
{
    if (s->given == s->done || s->hangs || s->held)
        return false;
    const struct twin_op *op = &s->ops[s->done % TWIN_OPS];
    return op->verb != TWIN_DO_WAIT || op->event->done >= op->count;
}

/* NULL: nobody may go. */
static struct CUstream_st *draw_stream(struct CUctx_st *context)
{
    uint32_t sum = 0, at;
    for (struct CUstream_st *s = context->streams; s; s = s->next)
        sum += may_go(s) ? s->weight : 0;
    if (sum == 0)
        return NULL;
    at = sl_twin_draw(sum);
    for (struct CUstream_st *s = context->streams;; s = s->next) {
        uint32_t weight = may_go(s) ? s->weight : 0;
        if (at < weight)
            return s;
        at -= weight;
    }
}

static void launch(struct CUstream_st *s, const struct twin_op *op, uint64_t number)
{
    const struct sl_cu_twin_fault *fault = &sl_twin_world.config.fault;
    bool meant = number == fault->at;
    if (meant && fault->kind == SL_CU_TWIN_HANGS) {
        s->hangs = true;
        return;
    }
    if (meant && fault->kind == SL_CU_TWIN_FAILS) {
        s->context->final = fault->result;
        s->context->tells_in = fault->later;
        s->context->lost = fault->later == 0;
        if (s->context->lost)
            return;
    }
    op->kernel->run(op->kernel, op->params, op->n_blocks, op->shared_bytes,
                    sl_rng_at(sl_twin_world.config.seed, number));
    sl_twin_world.report.launches++;
}

/* number: of the first launch of the graph that it is in, or 0. */
static void carry_out(struct CUstream_st *s, const struct twin_op *op, uint64_t number)
{
    switch (op->verb) {
    case TWIN_DO_COPY:
        memmove(op->to, op->from, op->bytes);
        sl_twin_world.report.copies++;
        break;
    case TWIN_DO_FILL:
        memset(op->to, op->value, op->bytes);
        break;
    case TWIN_DO_LAUNCH:
        launch(s, op, number + op->number);
        break;
    case TWIN_DO_RECORD:
        if (op->event->done < op->count) /* recorded again before, in another stream: the later one counts */
            op->event->done = op->count;
        op->event->step = sl_twin_world.clock;
        break;
    case TWIN_DO_WAIT:
    case TWIN_DO_GRAPH:
        break;
    case TWIN_DO_STEPS:
        s->held = !op->step(op->arg);
        break;
    }
}

/* What is next in the stream, of a graph its next operation. True: it is over with that. */
static bool carry_on(struct CUstream_st *s)
{
    const struct twin_op *op = &s->ops[s->done % TWIN_OPS];
    if (op->verb != TWIN_DO_GRAPH) {
        carry_out(s, op, 0);
        return !s->held;
    }
    carry_out(s, &op->exec->ops.list[s->nodes_done], op->number);
    if (s->hangs || s->context->lost || ++s->nodes_done < op->exec->ops.n)
        return false;
    s->nodes_done = 0;
    op->exec->done++;
    return true;
}

bool sl_twin_step(struct CUctx_st *context)
{
    struct CUstream_st *s = context->lost ? NULL : draw_stream(context);
    if (!s)
        return false;
    sl_twin_world.clock++;
    sl_twin_memory_shut(context, false);
    bool over = carry_on(s);
    if (s->hangs || context->lost)
        return false;
    s->done += over;
    return true;
}

/* Whoever asks for something asks other libraries again, too. */
static void hold_nobody(struct CUctx_st *context)
{
    for (struct CUstream_st *s = context->streams; s; s = s->next)
        s->held = false;
}

void sl_twin_run(struct CUctx_st *context)
{
    hold_nobody(context);
    while (sl_twin_step(context))
        ;
    sl_twin_memory_shut(context, true);
}

/* Whoever asks finds that a little has been done, by streams that are fast today. */
static void do_some(struct CUctx_st *context, uint32_t most)
{
    hold_nobody(context);
    for (struct CUstream_st *s = context->streams; s; s = s->next)
        s->weight = 1u << 3 * sl_twin_draw(4);
    for (uint32_t n = sl_twin_draw(most + 1); n > 0 && sl_twin_step(context); n--)
        ;
    sl_twin_memory_shut(context, true);
}

bool sl_twin_idle(const struct CUctx_st *context)
{
    for (const struct CUstream_st *s = context->streams; s; s = s->next)
        if (s->given != s->done)
            return false;
    return true;
}

static bool reads(const struct twin_op *op, const void *at, size_t bytes)
{
    for (uint32_t i = 0; op->verb == TWIN_DO_GRAPH && i < op->exec->ops.n; i++)
        if (reads(&op->exec->ops.list[i], at, bytes))
            return true;
    return op->verb == TWIN_DO_COPY && (const uint8_t *)op->from < (const uint8_t *)at + bytes &&
           (const uint8_t *)at < (const uint8_t *)op->from + op->bytes;
}

bool sl_twin_reads(const struct CUctx_st *context, const void *at, size_t bytes)
{
    for (const struct CUstream_st *s = context->streams; s; s = s->next)
        for (uint64_t i = s->done; i < s->given; i++)
            if (reads(&s->ops[i % TWIN_OPS], at, bytes))
                return true;
    return false;
}

/* ---- queueing ---- */

/* A full stream makes the caller wait until there is room; one that never gets any has been told a hang. */
sl_cu_result sl_twin_give(struct CUstream_st *s, struct twin_op **op)
{
    if (!s)
        sl_twin_misuse("work for the legacy stream, which waits for all others: give it one of its own");
    if (!s || s->context != sl_twin_current)
        return SL_CU_INVALID_HANDLE;
    if (s->captured && s->captured->spoiled)
        return SL_CU_CAPTURE_INVALIDATED;
    if (s->captured) {
        *op = sl_twin_capture(s->captured);
        return *op ? SL_CU_OK : SL_CU_OUT_OF_MEMORY;
    }
    while (s->given - s->done == TWIN_OPS)
        if (!sl_twin_step(s->context)) {
            sl_twin_memory_shut(s->context, true);
            return s->context->final ? s->context->final : SL_CU_LAUNCH_TIMEOUT;
        }
    sl_twin_memory_shut(s->context, true);
    *op = &s->ops[s->given++ % TWIN_OPS];
    memset(*op, 0, offsetof(struct twin_op, params));
    return SL_CU_OK;
}

/* By some seeds work is not late at all. */
sl_cu_result sl_twin_given(struct CUstream_st *s)
{
    if (s->captured)
        return SL_CU_OK;
    if (sl_twin_world.haste == 2)
        sl_twin_run(s->context);
    else if (sl_twin_world.haste == 1 && sl_twin_draw(2))
        do_some(s->context, 4);
    return SL_CU_OK;
}

static sl_cu_result copy(struct CUstream_st *s, void *to, const void *from, size_t bytes)
{
    struct twin_op *op;
    if (!to || !from)
        return SL_CU_INVALID_VALUE;
    sl_cu_result result = sl_twin_give(s, &op);
    if (result != SL_CU_OK)
        return result;
    op->verb = TWIN_DO_COPY;
    op->to = to, op->from = from, op->bytes = bytes;
    return sl_twin_given(s);
}

static void want_pinned(const void *at, size_t bytes)
{
    if (!sl_twin_is_pinned(at, bytes))
        sl_twin_misuse("a copy of %zu bytes of memory that is not pinned: the driver would wait for it",
                       bytes);
}

sl_cu_result sl_twin_copy_in(sl_cu_at to, const void *from, size_t bytes, sl_cu_stream stream)
{
    TWIN_ENTER;
    want_pinned(from, bytes);
    return copy(stream, sl_twin_memory_find(sl_twin_current, to, bytes), from, bytes);
}

sl_cu_result sl_twin_copy_out(void *to, sl_cu_at from, size_t bytes, sl_cu_stream stream)
{
    TWIN_ENTER;
    want_pinned(to, bytes);
    const void *here = sl_twin_memory_find(sl_twin_current, from, bytes);
    if (here && stream && !stream->captured && !sl_twin_reads(sl_twin_current, to, bytes))
        memset(to, 0xA5, bytes); /* until it has come */
    return copy(stream, to, here, bytes);
}

sl_cu_result sl_twin_copy_within(sl_cu_at to, sl_cu_at from, size_t bytes, sl_cu_stream stream)
{
    TWIN_ENTER;
    if (to < from + bytes && from < to + bytes)
        sl_twin_misuse("a copy of %zu bytes onto a part of themselves: which of them comes first nobody says",
                       bytes);
    return copy(stream, sl_twin_memory_find(sl_twin_current, to, bytes),
                sl_twin_memory_find(sl_twin_current, from, bytes), bytes);
}

sl_cu_result sl_twin_fill(sl_cu_at to, unsigned char value, size_t bytes, sl_cu_stream stream)
{
    TWIN_ENTER;
    struct twin_op *op;
    void *here = sl_twin_memory_find(sl_twin_current, to, bytes);
    if (!here)
        return SL_CU_INVALID_VALUE;
    sl_cu_result result = sl_twin_give(stream, &op);
    if (result != SL_CU_OK)
        return result;
    op->verb = TWIN_DO_FILL;
    op->to = here, op->value = value, op->bytes = bytes;
    return sl_twin_given(stream);
}

sl_cu_result sl_twin_launch(sl_cu_function f, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                            unsigned threads_x, unsigned threads_y, unsigned threads_z, unsigned shared_bytes,
                            sl_cu_stream stream, void **arguments, void **extra)
{
    TWIN_ENTER;
    struct twin_op *op;
    if (!f || f->context != sl_twin_current)
        return SL_CU_INVALID_HANDLE;
    if (blocks_x == 0 || blocks_x > INT32_MAX || blocks_y != 1 || blocks_z != 1 ||
        threads_x != f->kernel->threads || threads_y != 1 || threads_z != 1 ||
        shared_bytes > f->shared_most || extra || !arguments || !arguments[0])
        return SL_CU_INVALID_VALUE;
    if (!f->loaded)
        sl_twin_misuse("%s is loaded by its first launch, which allocates: function_load comes first",
                       f->kernel->name);
    sl_cu_result result = sl_twin_give(stream, &op);
    if (result != SL_CU_OK)
        return result;
    op->verb = TWIN_DO_LAUNCH;
    op->kernel = f->kernel;
    op->n_blocks = blocks_x, op->shared_bytes = shared_bytes;
    op->number = stream->captured ? stream->captured->ops.n_launches++ : sl_twin_world.n_launches++;
    memcpy(op->params, arguments[0], f->kernel->params_bytes);
    return sl_twin_given(stream);
}

bool sl_cu_twin_give(void *stream, bool (*step)(void *arg), void *arg)
{
    TWIN_LOCKED;
    for (uint32_t i = 0; i < SL_CU_TWIN_DEVICES; i++)
        for (struct CUstream_st *s = sl_twin_world.contexts[i].streams; s; s = s->next) {
            struct twin_op *op;
            if (s != stream)
                continue;
            sl_twin_current = s->context; /* as a library that makes its device current */
            if (sl_twin_give(s, &op) != SL_CU_OK)
                return true; /* the context is lost, and its work with it */
            op->verb = TWIN_DO_STEPS;
            op->step = step, op->arg = arg;
            sl_twin_given(s);
            return true;
        }
    return false;
}

/* ---- streams and events ---- */

sl_cu_result sl_twin_stream_create(sl_cu_stream *stream, unsigned flags)
{
    TWIN_ENTER;
    struct CUstream_st *s = sl_twin_refused() ? NULL : calloc(1, sizeof *s);
    if (!s)
        return SL_CU_OUT_OF_MEMORY;
    if (flags != SL_CU_STREAM_NON_BLOCKING)
        sl_twin_misuse("a stream that waits for the legacy stream: make it SL_CU_STREAM_NON_BLOCKING");
    s->context = sl_twin_current;
    s->weight = 1;
    s->next = s->context->streams;
    s->context->streams = s;
    *stream = s;
    return SL_CU_OK;
}

sl_cu_result sl_twin_stream_destroy(sl_cu_stream stream)
{
    TWIN_ENTER;
    struct CUstream_st **at = &sl_twin_current->streams;
    while (*at && *at != stream)
        at = &(*at)->next;
    if (!*at)
        return SL_CU_INVALID_HANDLE;
    if (stream->given != stream->done)
        sl_twin_misuse("a stream is destroyed while work is queued in it");
    sl_twin_run(sl_twin_current);
    *at = stream->next;
    free(stream);
    return SL_CU_OK;
}

sl_cu_result sl_twin_stream_query(sl_cu_stream stream)
{
    TWIN_ENTER_APART;
    if (!stream || stream->context != sl_twin_current)
        return SL_CU_INVALID_HANDLE;
    if (stream->given != stream->done)
        do_some(stream->context, 3);
    return stream->context->lost           ? stream->context->final
           : stream->given == stream->done ? SL_CU_OK
                                           : SL_CU_NOT_READY;
}

sl_cu_result sl_twin_event_create(sl_cu_event *event, unsigned flags)
{
    TWIN_ENTER;
    struct CUevent_st *e = sl_twin_refused() ? NULL : calloc(1, sizeof *e);
    if (!e)
        return SL_CU_OUT_OF_MEMORY;
    e->context = sl_twin_current;
    e->timed = !(flags & SL_CU_EVENT_NO_TIMING);
    e->next = e->context->events;
    e->context->events = e;
    *event = e;
    return SL_CU_OK;
}

static bool is_event(const struct CUevent_st *event)
{
    return event && event->context == sl_twin_current && !event->gone;
}

sl_cu_result sl_twin_event_destroy(sl_cu_event event)
{
    TWIN_ENTER;
    if (!is_event(event))
        return SL_CU_INVALID_HANDLE;
    if (event->done != event->recorded)
        sl_twin_misuse("an event is destroyed before it has come");
    event->gone = true;
    return SL_CU_OK;
}

static sl_cu_result give_event(struct CUstream_st *s, struct CUevent_st *event, enum twin_op_verb verb)
{
    struct twin_op *op;
    if (!is_event(event))
        return SL_CU_INVALID_HANDLE;
    if (s && s->captured) /* that would draw other streams in: nobody here wants it */
        return SL_CU_CAPTURE_UNSUPPORTED;
    sl_cu_result result = sl_twin_give(s, &op);
    if (result != SL_CU_OK)
        return result;
    op->verb = verb;
    op->event = event;
    op->count = verb == TWIN_DO_RECORD ? ++event->recorded : event->recorded; /* as of now */
    return sl_twin_given(s);
}

sl_cu_result sl_twin_event_record(sl_cu_event event, sl_cu_stream stream)
{
    TWIN_ENTER;
    return give_event(stream, event, TWIN_DO_RECORD);
}

sl_cu_result sl_twin_stream_wait(sl_cu_stream stream, sl_cu_event event, unsigned flags)
{
    TWIN_ENTER;
    (void)flags;
    if (is_event(event) && event->recorded == 0)
        sl_twin_misuse("a stream waits for an event that was never recorded, which is not to wait");
    return give_event(stream, event, TWIN_DO_WAIT);
}

sl_cu_result sl_twin_event_query(sl_cu_event event)
{
    TWIN_ENTER_APART;
    if (!is_event(event))
        return SL_CU_INVALID_HANDLE;
    if (event->recorded == 0)
        sl_twin_misuse("somebody asks for an event that was never recorded, which the driver says has come");
    if (event->done != event->recorded)
        do_some(event->context, 3);
    return event->context->lost             ? event->context->final
           : event->done == event->recorded ? SL_CU_OK
                                            : SL_CU_NOT_READY;
}

sl_cu_result sl_twin_event_elapsed(float *ms, sl_cu_event begin, sl_cu_event end)
{
    TWIN_ENTER;
    if (!is_event(begin) || !is_event(end) || !begin->timed || !end->timed || !begin->recorded ||
        !end->recorded)
        return SL_CU_INVALID_HANDLE;
    if (begin->done != begin->recorded || end->done != end->recorded)
        return SL_CU_NOT_READY;
    *ms = (float)((double)end->step - (double)begin->step) * 1e-3f; /* an operation is a microsecond */
    return SL_CU_OK;
}
