/* The ring of tail.h. A record is a row of words: how many there are, then the record, its slices and their pages. */
#include "pipeline/record/tail.h"
#include <assert.h>
#include <string.h>

enum { HEAD_WORDS = 9, SLICE_WORDS = 8 };

size_t sl_tail_bytes(void)
{
    return sl_arena_round(SL_TAIL_WORDS * sizeof(uint32_t));
}

sl_status sl_tail_init(struct sl_tail *tail, struct sl_arena *arena)
{
    *tail = (struct sl_tail){.words = sl_arena_take(arena, SL_TAIL_WORDS * sizeof *tail->words)};
    return tail->words ? SL_OK : SL_E_NOMEM;
}

static uint32_t get(const struct sl_tail *t, uint64_t at)
{
    return t->words[at % SL_TAIL_WORDS];
}

static uint64_t get64(const struct sl_tail *t, uint64_t at)
{
    return get(t, at) | (uint64_t)get(t, at + 1) << 32;
}

static void put(struct sl_tail *t, uint32_t word)
{
    t->words[t->end++ % SL_TAIL_WORDS] = word;
}

static void put64(struct sl_tail *t, uint64_t value)
{
    put(t, (uint32_t)value);
    put(t, (uint32_t)(value >> 32));
}

void sl_tail_add(struct sl_tail *t, uint64_t at_us, const struct sl_order *order,
                 const struct sl_page_numbers *pages)
{
    uint32_t n_words = HEAD_WORDS + order->n_slices * SLICE_WORDS + 2 * order->n_pages;
    if (n_words >
        SL_TAIL_WORDS) { /* it opens more pages than there is room for: then it is the whole tail that is not there */
        t->begin = t->end;
        return;
    }
    while (t->end + n_words - t->begin > SL_TAIL_WORDS)
        t->begin += get(t, t->begin);
    put(t, n_words);
    put(t, order->kind);
    put64(t, order->number);
    put64(t, at_us);
    put64(t, order->seq);
    put(t, order->n_slices);
    for (uint32_t i = 0; i < order->n_slices; i++) {
        const struct sl_order_slice *s = &order->slices[i];
        put64(t, s->seq);
        put(t, s->pos);
        put(t, s->n);
        put(t, s->flags);
        put(t, s->decoder);
        put(t, s->page_first);
        put(t, s->n_pages);
    }
    for (uint32_t i = 0; i < order->n_pages; i++) {
        put(t, pages[i].stage);
        put(t, pages[i].decode);
    }
}

bool sl_tail_next(const struct sl_tail *t, uint64_t *at, struct sl_tail_record *record)
{
    struct sl_order *o = &record->order;
    if (*at == t->end)
        return false;
    *o = (struct sl_order){.kind = (enum sl_order_kind)get(t, *at + 1),
                           .number = get64(t, *at + 2),
                           .seq = get64(t, *at + 6),
                           .n_slices = get(t, *at + 8)};
    record->at_us = get64(t, *at + 4);
    record->pages_at = *at + HEAD_WORDS + o->n_slices * SLICE_WORDS;
    for (uint32_t i = 0; i < o->n_slices; i++) {
        uint64_t from = *at + HEAD_WORDS + i * SLICE_WORDS;
        o->slices[i] = (struct sl_order_slice){.seq = get64(t, from),
                                               .pos = get(t, from + 2),
                                               .n = get(t, from + 3),
                                               .flags = get(t, from + 4),
                                               .decoder = get(t, from + 5),
                                               .page_first = get(t, from + 6),
                                               .n_pages = get(t, from + 7),
                                               .pages_at = o->n_pages};
        o->n_tokens += o->slices[i].n;
        o->n_pages += o->slices[i].n_pages;
    }
    *at += get(t, *at);
    return true;
}

struct sl_page_numbers sl_tail_page(const struct sl_tail *t, const struct sl_tail_record *record, uint32_t i)
{
    assert(i < record->order.n_pages);
    uint64_t at = record->pages_at + 2 * (uint64_t)i;
    return (struct sl_page_numbers){get(t, at), get(t, at + 1)};
}
