/* The records of messages.h. Writers fill room that was planned with the *_max_bytes functions. */
#include "pipeline/record/messages.h"
#include <assert.h>

enum {
    RESULT_SLICE_MAX = 44 + SL_MAX_N * SL_TOKEN_MAX_BYTES,
    ADOPT_MAX = 256 + 4 * SL_MAX_DECODE_STOPS,
    ENTRY_MAX = 40 + SL_TOKEN_MAX_BYTES,
    TOKENS_ROOM = 64 * 1024
};

size_t sl_result_max_bytes(uint32_t n_stages, uint32_t max_tokens)
{
    return (64 + (size_t)n_stages * SL_TRACE_BYTES + SL_MAX_SLICES * RESULT_SLICE_MAX +
            (size_t)max_tokens * SL_TOKEN_MAX_BYTES + 63) /
           64 * 64;
}

void sl_result_put_head(struct sl_cursor *c, const struct sl_result_head *head, uint32_t n_stages)
{
    sl_cursor_put64(c, head->number);
    sl_cursor_put32(c, (uint32_t)head->kind);
    sl_cursor_put32(c, head->n_slices);
    for (uint32_t i = 0; i < n_stages; i++)
        sl_trace_put(c, &head->traces[i]);
}

bool sl_result_get_head(struct sl_cursor *c, struct sl_result_head *head, uint32_t n_stages)
{
    head->number = sl_cursor_get64(c);
    head->kind = (enum sl_order_kind)sl_cursor_get32(c);
    head->n_slices = sl_cursor_get32(c);
    for (uint32_t i = 0; i < n_stages; i++)
        head->traces[i] = sl_trace_get(c);
    if (head->kind < SL_ORDER_RUN || head->kind > SL_ORDER_FREE || head->n_slices > SL_MAX_SLICES)
        c->bad = true;
    return !c->bad;
}

void sl_result_put_slice(struct sl_cursor *c, const struct sl_result_slice *slice)
{
    sl_cursor_put64(c, slice->seq);
    sl_cursor_put32(c, slice->index);
    sl_cursor_put32(c, slice->pos);
    sl_cursor_put32(c, slice->n);
    sl_cursor_put32(c, slice->has_token);
    sl_cursor_put64(c, slice->logits_digest);
    sl_cursor_put32(c, slice->n_prompt);
    sl_cursor_put32(c, slice->n_more);
    if (slice->has_token)
        sl_token_put(c, &slice->first);
    for (uint32_t i = 0; i < slice->n_more; i++)
        sl_token_put(c, &slice->more[i]);
}

bool sl_result_get_slice(struct sl_cursor *c, struct sl_result_slice *slice)
{
    slice->seq = sl_cursor_get64(c);
    slice->index = sl_cursor_get32(c);
    slice->pos = sl_cursor_get32(c);
    slice->n = sl_cursor_get32(c);
    uint32_t has_token = sl_cursor_get32(c);
    slice->logits_digest = sl_cursor_get64(c);
    slice->n_prompt = sl_cursor_get32(c);
    slice->n_more = sl_cursor_get32(c);
    if (has_token > 1 || slice->n_prompt > slice->n || slice->n_more >= (has_token ? (uint32_t)SL_MAX_N : 1u))
        c->bad = true;
    slice->has_token = has_token == 1;
    bool whole = !c->bad && (!slice->has_token || sl_token_get(c, &slice->first));
    for (uint32_t i = 0; whole && i < slice->n_more; i++)
        whole = sl_token_get(c, &slice->more[i]);
    return whole;
}

enum sl_text_end sl_adopt_finish(const struct sl_adopt *adopt, uint32_t id, uint32_t n)
{
    for (uint32_t i = 0; n > adopt->min_tokens && i < adopt->n_stops; i++)
        if (adopt->stops[i] == id)
            return SL_TEXT_STOPS;
    return n >= adopt->max_tokens ? SL_TEXT_IS_FULL : SL_TEXT_GOES_ON;
}

size_t sl_adopt_max_bytes(uint32_t context_tokens, uint32_t vocab)
{
    return ADOPT_MAX + 4 * (size_t)sl_pages_of(context_tokens) + sl_steering_max_bytes(vocab) +
           sl_counts_max_bytes(context_tokens, vocab);
}

static void put_bytes(struct sl_cursor *c, const uint8_t *bytes, uint32_t n)
{
    sl_cursor_put32(c, n);
    sl_cursor_put(c, bytes, n);
}

size_t sl_adopt_pack(uint8_t *out, const struct sl_adopt *adopt)
{
    struct sl_cursor c = sl_cursor_over(out, ADOPT_MAX + 4 * (size_t)adopt->n_pages + adopt->steering_bytes +
                                                 adopt->counts_bytes);
    sl_cursor_put32(&c, (uint32_t)adopt->kind);
    sl_cursor_put64(&c, adopt->seq);
    sl_cursor_put64(&c, adopt->from);
    sl_cursor_put32(&c, adopt->n_forks);
    sl_cursor_put32(&c, adopt->silent);
    sl_cursor_put32(&c, adopt->n_kept);
    sl_cursor_put32(&c, adopt->prompt_tokens);
    sl_cursor_put32(&c, adopt->first_id);
    sl_cursor_put32(&c, adopt->n_out);
    sl_cursor_put32(&c, adopt->max_tokens);
    sl_cursor_put32(&c, adopt->min_tokens);
    sl_cursor_put32(&c, adopt->digest);
    sl_cursor_put64(&c, adopt->logits_digest);
    sl_sampling_put(&c, &adopt->sampling);
    sl_cursor_put32(&c, adopt->n_stops);
    for (uint32_t i = 0; i < adopt->n_stops; i++)
        sl_cursor_put32(&c, adopt->stops[i]);
    sl_cursor_put32(&c, adopt->page_first);
    sl_cursor_put32(&c, adopt->n_pages);
    sl_cursor_put(&c, adopt->pages, 4 * (size_t)adopt->n_pages);
    put_bytes(&c, adopt->steering, adopt->steering_bytes);
    put_bytes(&c, adopt->counts, adopt->counts_bytes);
    assert(!c.bad);
    return (size_t)(c.at - out);
}

static const char *check_adopt_pages(const struct sl_adopt *adopt, const struct sl_order_limits *limits)
{
    uint32_t most = sl_pages_of(limits->context_tokens);
    if (adopt->page_first > most || adopt->n_pages > most - adopt->page_first ||
        (adopt->kind == SL_ADOPT_GROW
             ? adopt->n_pages == 0 || adopt->page_first == 0
             : adopt->page_first != 0 || adopt->n_pages < sl_pages_of(adopt->prompt_tokens)))
        return "adopt pages";
    if (adopt->n_kept > (adopt->kind == SL_ADOPT_TAKE ? adopt->prompt_tokens / SL_PAGE : 0))
        return "adopt pages that lie there";
    for (uint32_t i = 0; i < adopt->n_pages; i++)
        if (sl_get32(adopt->pages + 4 * (size_t)i) >= limits->n_decode_pages)
            return "adopt page number";
    return NULL;
}

/* What the text so far was is there when it is needed, and is as long as was told. */
static const char *check_adopt_counts(const struct sl_adopt *adopt, const struct sl_order_limits *limits)
{
    uint32_t n_ids;
    const char *bad = sl_counts_read(NULL, adopt->counts, adopt->counts_bytes, limits->vocab, &n_ids);
    if (bad)
        return bad;
    bool wanted = adopt->n_out > 1 && sl_sampling_counts(&adopt->sampling);
    if (n_ids > 0 ? n_ids != adopt->n_out : wanted)
        return "adopt counts are not of what was told";
    return NULL;
}

static const char *check_adopt_text(const struct sl_adopt *adopt, const struct sl_order_limits *limits)
{
    uint32_t told = adopt->n_out - 1; /* that are part of its prompt, with what was asked before them */
    if (adopt->prompt_tokens == 0 || adopt->prompt_tokens > limits->context_tokens ||
        adopt->first_id >= limits->vocab || adopt->n_out < 1 || told >= adopt->prompt_tokens ||
        adopt->n_out > adopt->max_tokens ||
        adopt->max_tokens - told > limits->context_tokens - adopt->prompt_tokens + 1)
        return "adopt lengths";
    bool forks = adopt->kind == SL_ADOPT_FORK;
    if (forks ? adopt->n_forks || adopt->silent || adopt->from == adopt->seq || told
              : adopt->n_forks >= SL_MAX_N || (adopt->silent && !adopt->n_forks) || adopt->from ||
                    (told && adopt->n_forks))
        return "adopt forks";
    if (sl_sampling_check(&adopt->sampling, NULL) != SL_OK)
        return "adopt sampling";
    struct sl_steering steering;
    const char *bad = sl_steering_read(&steering, adopt->steering, adopt->steering_bytes, limits->vocab);
    if (bad)
        return bad;
    if (sl_sampling_repeats(&adopt->sampling) && steering.n_ids == 0)
        return "a repetition penalty without the ids of the prompt";
    return check_adopt_counts(adopt, limits);
}

static const uint8_t *get_bytes(struct sl_cursor *c, uint32_t *n)
{
    *n = sl_cursor_get32(c);
    return sl_cursor_skip(c, *n);
}

const char *sl_adopt_unpack(struct sl_adopt *adopt, const uint8_t *in, size_t bytes,
                            const struct sl_order_limits *limits)
{
    struct sl_cursor c = sl_cursor_over((uint8_t *)(uintptr_t)in, bytes);
    *adopt = (struct sl_adopt){0};
    uint32_t kind = sl_cursor_get32(&c);
    adopt->seq = sl_cursor_get64(&c);
    adopt->from = sl_cursor_get64(&c);
    adopt->n_forks = sl_cursor_get32(&c);
    adopt->silent = sl_cursor_get32(&c) != 0;
    adopt->n_kept = sl_cursor_get32(&c);
    adopt->prompt_tokens = sl_cursor_get32(&c);
    adopt->first_id = sl_cursor_get32(&c);
    adopt->n_out = sl_cursor_get32(&c);
    adopt->max_tokens = sl_cursor_get32(&c);
    adopt->min_tokens = sl_cursor_get32(&c);
    adopt->digest = sl_cursor_get32(&c) != 0;
    adopt->logits_digest = sl_cursor_get64(&c);
    sl_sampling_get(&c, &adopt->sampling);
    adopt->n_stops = sl_cursor_get32(&c);
    if (kind < SL_ADOPT_TAKE || kind > SL_ADOPT_GROW)
        return "adopt kind";
    adopt->kind = (enum sl_adopt_kind)kind;
    if (adopt->kind == SL_ADOPT_CANCEL) {
        adopt->n_stops = 0; /* nothing but seq counts */
        return c.bad ? "adopt record size" : NULL;
    }
    if (adopt->n_stops > SL_MAX_DECODE_STOPS)
        return "number of stop ids";
    for (uint32_t i = 0; i < adopt->n_stops; i++)
        adopt->stops[i] = sl_cursor_get32(&c);
    adopt->page_first = sl_cursor_get32(&c);
    adopt->n_pages = sl_cursor_get32(&c);
    adopt->pages = sl_cursor_skip(&c, 4 * (size_t)adopt->n_pages);
    adopt->steering = get_bytes(&c, &adopt->steering_bytes);
    adopt->counts = get_bytes(&c, &adopt->counts_bytes);
    if (c.bad || c.at != c.end)
        return "adopt record size";
    if (adopt->kind == SL_ADOPT_GROW && (adopt->n_stops || adopt->steering_bytes || adopt->counts_bytes))
        return "adopt grows with more than pages";
    const char *bad = adopt->kind == SL_ADOPT_GROW ? NULL : check_adopt_text(adopt, limits);
    return bad ? bad : check_adopt_pages(adopt, limits);
}

size_t sl_tokens_entry_max_bytes(void)
{
    return ENTRY_MAX;
}

size_t sl_tokens_max_bytes(uint32_t max_running, uint32_t n_stages, uint32_t context_tokens)
{
    (void)n_stages, (void)context_tokens; /* arrivals are spread over as many frames as they need */
    size_t step = ((size_t)max_running * 3 + 1) * ENTRY_MAX;
    return step > TOKENS_ROOM ? (step + 63) / 64 * 64 : TOKENS_ROOM;
}

void sl_tokens_put(struct sl_cursor *c, const struct sl_tokens_entry *e)
{
    sl_cursor_put32(c, (uint32_t)e->kind);
    sl_cursor_put64(c, e->seq);
    switch (e->kind) {
    case SL_TOKENS_TOKEN:
        sl_cursor_put32(c, (uint32_t)e->finish);
        sl_cursor_put64(c, e->logits_digest);
        sl_token_put(c, &e->token);
        break;
    case SL_TOKENS_ARRIVED:
        sl_cursor_put32(c, e->stage);
        sl_cursor_put32(c, e->chunk);
        sl_cursor_put64(c, e->at_us);
        break;
    case SL_TOKENS_ADOPTED:
        sl_cursor_put64(c, e->at_us);
        break;
    case SL_TOKENS_ENDED:
        sl_cursor_put64(c, e->kv_digest);
        sl_cursor_put64(c, e->logits_digest);
        break;
    case SL_TOKENS_FAILED:
        sl_cursor_put32(c, (uint32_t)e->status);
        break;
    case SL_TOKENS_STEP:
        sl_cursor_put32(c, e->rows);
        sl_cursor_put32(c, e->step_us);
        break;
    }
}

bool sl_tokens_get(struct sl_cursor *c, struct sl_tokens_entry *e)
{
    if (c->at == c->end)
        return false;
    *e = (struct sl_tokens_entry){0};
    uint32_t kind = sl_cursor_get32(c);
    e->seq = sl_cursor_get64(c);
    e->kind = (enum sl_tokens_kind)kind;
    switch (kind) {
    case SL_TOKENS_TOKEN:
        e->finish = (enum sl_text_end)sl_cursor_get32(c);
        e->logits_digest = sl_cursor_get64(c);
        sl_token_get(c, &e->token);
        break;
    case SL_TOKENS_ARRIVED:
        e->stage = sl_cursor_get32(c);
        e->chunk = sl_cursor_get32(c);
        e->at_us = sl_cursor_get64(c);
        break;
    case SL_TOKENS_ADOPTED:
        e->at_us = sl_cursor_get64(c);
        break;
    case SL_TOKENS_ENDED:
        e->kv_digest = sl_cursor_get64(c);
        e->logits_digest = sl_cursor_get64(c);
        break;
    case SL_TOKENS_FAILED:
        e->status = (int32_t)sl_cursor_get32(c);
        break;
    case SL_TOKENS_STEP:
        e->rows = sl_cursor_get32(c);
        e->step_us = sl_cursor_get32(c);
        break;
    default:
        c->bad = true;
    }
    return !c->bad;
}

/* ---- SPOILED ---- */

size_t sl_spoiled_pack(uint8_t out[SL_SPOILED_BYTES], const struct sl_spoiled_word *word)
{
    size_t n = strnlen(word->sentence, SL_SPOILED_SENTENCE - 1);
    sl_put64(out, word->age_us);
    sl_put32(out + 8, (uint32_t)n);
    memcpy(out + 12, word->sentence, n);
    return 12 + n;
}

const char *sl_spoiled_unpack(struct sl_spoiled_word *word, const uint8_t *in, size_t bytes)
{
    if (bytes < 12 || bytes >= SL_SPOILED_BYTES)
        return "its length is not that of a last word";
    size_t n = sl_get32(in + 8);
    if (n != bytes - 12 || n == 0)
        return "its sentence is not as long as it says";
    word->age_us = sl_get64(in);
    for (size_t i = 0; i < n; i++)
        word->sentence[i] = (char)(in[12 + i] < 0x20 || in[12 + i] > 0x7e ? '?' : in[12 + i]);
    word->sentence[n] = '\0';
    return NULL;
}
