/* Records of the order log as bytes. Fixed places: record at 0, traces at TRACE_AT, ids behind the traces, pages behind the ids,
 * steering behind the pages. */
#include "pipeline/record/order.h"
#include <assert.h>

enum {
    SLICE_BYTES = 112,
    RECORD_BYTES = 40 + SL_MAX_SLICES * SLICE_BYTES,
    TRACE_AT = (RECORD_BYTES + 63) / 64 * 64,
    PAGE_BYTES = 8,
    KNOWN_FLAGS = SL_SLICE_FIRST | SL_SLICE_LAST | SL_SLICE_DIGEST | SL_SLICE_HANDOFF | SL_SLICE_RESTORE
};

static uint32_t ids_at(uint32_t n_stages)
{
    return TRACE_AT + n_stages * SL_TRACE_BYTES;
}

static uint32_t pages_at(const struct sl_order_limits *limits)
{
    return ids_at(limits->n_stages) + limits->max_tokens * 4;
}

uint32_t sl_order_max_pages(const struct sl_order_limits *limits)
{
    return sl_pages_of(limits->context_tokens) + sl_pages_of(limits->max_tokens) + SL_MAX_SLICES;
}

uint32_t sl_order_steering_bytes(uint32_t vocab)
{
    return sl_steering_max_bytes(vocab) + 4 * SL_MAX_DECODE_STOPS;
}

static uint32_t steering_at(const struct sl_order_limits *limits)
{
    return pages_at(limits) + sl_order_max_pages(limits) * PAGE_BYTES;
}

uint32_t sl_order_meta_bytes(const struct sl_order_limits *limits)
{
    return (steering_at(limits) + sl_order_steering_bytes(limits->vocab) + 63) / 64 * 64;
}

static void slice_put(struct sl_cursor *c, const struct sl_order_slice *s)
{
    sl_cursor_put64(c, s->seq);
    sl_cursor_put32(c, s->pos);
    sl_cursor_put32(c, s->n);
    sl_cursor_put32(c, s->index);
    sl_cursor_put32(c, s->prompt_tokens);
    sl_cursor_put32(c, s->flags);
    sl_cursor_put32(c, s->decoder);
    sl_cursor_put32(c, s->decoder_life);
    sl_cursor_put32(c, (uint32_t)s->prompt_logprobs);
    sl_cursor_put32(c, s->next_id);
    sl_cursor_put32(c, s->page_first);
    sl_cursor_put32(c, s->n_pages);
    sl_sampling_put(c, &s->sampling);
    sl_cursor_put32(c, s->n_more);
    sl_cursor_put32(c, s->steering_bytes);
    sl_cursor_put32(c, s->n_bans);
}

static void slice_get(struct sl_cursor *c, struct sl_order_slice *s)
{
    s->seq = sl_cursor_get64(c);
    s->pos = sl_cursor_get32(c);
    s->n = sl_cursor_get32(c);
    s->index = sl_cursor_get32(c);
    s->prompt_tokens = sl_cursor_get32(c);
    s->flags = sl_cursor_get32(c);
    s->decoder = sl_cursor_get32(c);
    s->decoder_life = sl_cursor_get32(c);
    s->prompt_logprobs = (int32_t)sl_cursor_get32(c);
    s->next_id = sl_cursor_get32(c);
    s->page_first = sl_cursor_get32(c);
    s->n_pages = sl_cursor_get32(c);
    sl_sampling_get(c, &s->sampling);
    s->n_more = sl_cursor_get32(c);
    s->steering_bytes = sl_cursor_get32(c);
    s->n_bans = sl_cursor_get32(c);
}

void sl_order_pack(uint8_t *meta, const struct sl_order *order, const uint32_t *ids,
                   const struct sl_page_numbers *pages, const struct sl_order_limits *limits)
{
    memset(meta, 0, sl_order_meta_bytes(limits));
    struct sl_cursor c = sl_cursor_over(meta, RECORD_BYTES);
    sl_cursor_put64(&c, order->number);
    sl_cursor_put32(&c, (uint32_t)order->kind);
    sl_cursor_put64(&c, order->seq);
    sl_cursor_put32(&c, order->n_tokens);
    sl_cursor_put32(&c, order->n_slices);
    sl_cursor_put32(&c, order->n_pages);
    for (uint32_t i = 0; i < order->n_slices; i++)
        slice_put(&c, &order->slices[i]);
    assert(!c.bad); /* SLICE_BYTES is what slice_put writes */
    if (order->kind != SL_ORDER_RUN)
        return;
    memcpy(meta + ids_at(limits->n_stages), ids, (size_t)order->n_tokens * 4);
    for (uint32_t i = 0; i < order->n_pages; i++) {
        sl_put32(meta + pages_at(limits) + (size_t)i * PAGE_BYTES, pages[i].stage);
        sl_put32(meta + pages_at(limits) + (size_t)i * PAGE_BYTES + 4, pages[i].decode);
    }
    struct sl_cursor steering =
        sl_cursor_over(meta + steering_at(limits), sl_order_steering_bytes(limits->vocab));
    for (uint32_t i = 0; i < order->n_slices; i++) {
        sl_cursor_put(&steering, order->slices[i].steering, order->slices[i].steering_bytes);
        sl_cursor_put(&steering, order->slices[i].bans, 4 * (size_t)order->slices[i].n_bans);
    }
    assert(!steering.bad);
}

static const char *check_slice(const struct sl_order_slice *s, const struct sl_order_limits *limits)
{
    if (s->n == 0 || s->n > limits->max_tokens)
        return "slice length";
    if (s->prompt_tokens == 0 || s->prompt_tokens > limits->context_tokens)
        return "prompt length";
    if (s->pos > s->prompt_tokens || s->n > s->prompt_tokens - s->pos)
        return "slice outside its prompt";
    if (s->flags & ~(uint32_t)KNOWN_FLAGS)
        return "slice flags";
    if (s->flags & SL_SLICE_FIRST ? s->page_first != 0 || s->pos % SL_PAGE != 0 : s->pos == 0)
        return "first slice";
    if (s->page_first > sl_pages_of(s->pos) || s->page_first + s->n_pages != sl_pages_of(s->pos + s->n))
        return "pages of a slice";
    if (((s->flags & SL_SLICE_LAST) != 0) != (s->pos + s->n == s->prompt_tokens))
        return "last slice";
    if (s->n_more >= (s->flags & SL_SLICE_LAST ? (uint32_t)SL_MAX_N : 1u))
        return "number of first tokens";
    if (s->flags & SL_SLICE_HANDOFF
            ? s->decoder >= limits->max_decoders || s->decoder_life >= SL_DECODER_LIVES
            : s->decoder || s->decoder_life)
        return "decode worker of a slice";
    if (s->prompt_logprobs < -1 || s->prompt_logprobs > SL_MAX_LOGPROBS || s->next_id >= limits->vocab)
        return "prompt log-probabilities";
    if (s->flags & SL_SLICE_RESTORE &&
        (s->n_more || s->steering_bytes || s->n_bans || s->prompt_logprobs >= 0))
        return "what was told is asked for again";
    if (sl_sampling_check(&s->sampling, NULL) != SL_OK)
        return "sampling";
    return NULL;
}

static const char *check_pages(const struct sl_order *order, const uint8_t *meta,
                               const struct sl_order_limits *limits)
{
    for (uint32_t i = 0; i < order->n_slices; i++) {
        const struct sl_order_slice *s = &order->slices[i];
        bool any_pushed = false;
        for (uint32_t p = 0; p < s->n_pages; p++) {
            struct sl_page_numbers n = sl_order_page(meta, limits, s->pages_at + p);
            if (n.stage >= limits->n_pages)
                return "page number outside the pool";
            if (n.decode != SL_NO_PAGE && n.decode >= limits->n_decode_pages)
                return "page number outside the decode worker's pool";
            /* what lies there is the begin of a prompt, in whole pages */
            bool lies_there = s->flags & SL_SLICE_HANDOFF && n.decode == SL_NO_PAGE;
            if (lies_there && (any_pushed || (uint64_t)(s->page_first + p + 1) * SL_PAGE > s->prompt_tokens))
                return "a page that is not pushed, behind one that is or at the end of a prompt";
            any_pushed = any_pushed || !lies_there;
        }
    }
    return NULL;
}

static const char *check_steering(struct sl_order *order, const uint8_t *meta,
                                  const struct sl_order_limits *limits)
{
    struct sl_cursor c = sl_cursor_over((uint8_t *)(uintptr_t)meta + steering_at(limits),
                                        sl_order_steering_bytes(limits->vocab));
    for (uint32_t i = 0; i < order->n_slices; i++) {
        struct sl_order_slice *s = &order->slices[i];
        struct sl_steering steering;
        bool last = s->flags & SL_SLICE_LAST;
        s->steering = s->steering_bytes ? sl_cursor_skip(&c, s->steering_bytes) : NULL;
        if (s->n_bans > SL_MAX_DECODE_STOPS)
            return "number of ids that may not come";
        s->bans = s->n_bans ? sl_cursor_skip(&c, 4 * (size_t)s->n_bans) : NULL;
        if (c.bad || ((s->steering_bytes || s->n_bans) && !last))
            return "size of the steering";
        const char *bad = sl_steering_read(&steering, s->steering, s->steering_bytes, limits->vocab);
        if (bad)
            return bad;
        bool samples = last && !(s->flags & SL_SLICE_RESTORE);
        if (samples && sl_sampling_repeats(&s->sampling) && steering.n_ids == 0)
            return "a repetition penalty without the ids of the prompt";
    }
    return NULL;
}

const char *sl_order_unpack(struct sl_order *order, const uint8_t *meta, size_t bytes,
                            const struct sl_order_limits *limits)
{
    *order = (struct sl_order){0};
    if (bytes != sl_order_meta_bytes(limits))
        return "record size";
    struct sl_cursor c = sl_cursor_over((uint8_t *)(uintptr_t)meta, RECORD_BYTES);
    order->number = sl_cursor_get64(&c);
    uint32_t kind = sl_cursor_get32(&c);
    order->seq = sl_cursor_get64(&c);
    order->n_tokens = sl_cursor_get32(&c);
    order->n_slices = sl_cursor_get32(&c);
    order->n_pages = sl_cursor_get32(&c);
    if (order->number == 0 || kind < SL_ORDER_RUN || kind > SL_ORDER_FREE)
        return "record kind";
    order->kind = (enum sl_order_kind)kind;
    if (order->kind != SL_ORDER_RUN)
        return order->n_slices == 0 && order->n_tokens == 0 && order->n_pages == 0
                   ? NULL
                   : "slices in a record that runs nothing";
    if (order->n_slices == 0 || order->n_slices > SL_MAX_SLICES)
        return "number of slices";
    uint64_t sum = 0, pages = 0;
    for (uint32_t i = 0; i < order->n_slices; i++) {
        slice_get(&c, &order->slices[i]);
        const char *bad = check_slice(&order->slices[i], limits);
        if (bad)
            return bad;
        order->slices[i].pages_at = (uint32_t)pages;
        sum += order->slices[i].n;
        pages += order->slices[i].n_pages;
    }
    if (c.bad || sum != order->n_tokens || sum > limits->max_tokens)
        return "number of tokens";
    if (pages != order->n_pages || pages > sl_order_max_pages(limits))
        return "number of pages";
    const uint8_t *ids = sl_order_ids(meta, limits->n_stages);
    for (uint32_t i = 0; i < order->n_tokens; i++)
        if (sl_get32(ids + 4 * (size_t)i) >= limits->vocab)
            return "token id outside the vocabulary";
    const char *bad = check_pages(order, meta, limits);
    return bad ? bad : check_steering(order, meta, limits);
}

void sl_trace_put(struct sl_cursor *c, const struct sl_trace *trace)
{
    sl_cursor_put64(c, trace->recv_us);
    sl_cursor_put64(c, trace->begin_us);
    sl_cursor_put64(c, trace->end_us);
    sl_cursor_put64(c, trace->at_peak_us);
    sl_cursor_put64(c, (uint64_t)trace->next_offset_us);
}

struct sl_trace sl_trace_get(struct sl_cursor *c)
{
    struct sl_trace trace = {.recv_us = sl_cursor_get64(c)};
    trace.begin_us = sl_cursor_get64(c);
    trace.end_us = sl_cursor_get64(c);
    trace.at_peak_us = sl_cursor_get64(c);
    trace.next_offset_us = (int64_t)sl_cursor_get64(c);
    return trace;
}

static uint32_t trace_at(uint32_t stage)
{
    return TRACE_AT + stage * SL_TRACE_BYTES;
}

uint64_t sl_order_cancels(const uint8_t *meta)
{
    struct sl_cursor c = sl_cursor_over((uint8_t *)(uintptr_t)meta, RECORD_BYTES);
    uint64_t number = sl_cursor_get64(&c);
    bool cancels = sl_cursor_get32(&c) == SL_ORDER_CANCEL && number > 0;
    uint64_t seq = sl_cursor_get64(&c);
    return cancels ? seq : 0;
}

void sl_order_set_trace(uint8_t *meta, uint32_t stage, const struct sl_trace *trace)
{
    struct sl_cursor c = sl_cursor_over(meta + trace_at(stage), SL_TRACE_BYTES);
    sl_trace_put(&c, trace);
}

struct sl_trace sl_order_trace(const uint8_t *meta, uint32_t stage)
{
    struct sl_cursor c = sl_cursor_over((uint8_t *)(uintptr_t)meta + trace_at(stage), SL_TRACE_BYTES);
    return sl_trace_get(&c);
}

const uint8_t *sl_order_ids(const uint8_t *meta, uint32_t n_stages)
{
    return meta + ids_at(n_stages);
}

struct sl_page_numbers sl_order_page(const uint8_t *meta, const struct sl_order_limits *limits, uint32_t i)
{
    const uint8_t *at = meta + pages_at(limits) + (size_t)i * PAGE_BYTES;
    return (struct sl_page_numbers){sl_get32(at), sl_get32(at + 4)};
}
