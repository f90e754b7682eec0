/* The table of sequences.h: small, flat, and checked before it is changed, so that a record is applied whole or not at all. */
#include "pipeline/decide/sequences.h"
#include "base/mutate.h"
#include <assert.h>

static uint32_t words_of(uint32_t n_pages)
{
    return (n_pages + 63) / 64;
}

size_t sl_sequences_bytes(uint32_t max_sequences, uint32_t context_tokens, uint32_t n_pages)
{
    return sl_arena_round(max_sequences * sizeof(struct sl_sequence)) +
           max_sequences * sl_arena_round(sl_pages_of(context_tokens) * sizeof(uint32_t)) +
           2 * sl_arena_round(n_pages * sizeof(uint32_t)) +
           2 * sl_arena_round(words_of(n_pages) * sizeof(uint64_t));
}

sl_status sl_sequences_init(struct sl_sequences *t, struct sl_arena *arena, uint32_t max_sequences,
                            uint32_t context_tokens, uint32_t n_pages)
{
    *t = (struct sl_sequences){
        .max_sequences = max_sequences, .max_pages = sl_pages_of(context_tokens), .n_pages = n_pages};
    t->sequences = sl_arena_take(arena, max_sequences * sizeof *t->sequences);
    t->count = sl_arena_take(arena, n_pages * sizeof *t->count);
    t->readers = sl_arena_take(arena, n_pages * sizeof *t->readers);
    t->used = sl_arena_take(arena, words_of(n_pages) * sizeof *t->used);
    t->written = sl_arena_take(arena, words_of(n_pages) * sizeof *t->written);
    if (!t->sequences || !t->count || !t->readers || !t->used || !t->written)
        return SL_E_NOMEM;
    for (uint32_t i = 0; i < max_sequences; i++) {
        t->sequences[i].pages = sl_arena_take(arena, t->max_pages * sizeof(uint32_t));
        if (!t->sequences[i].pages)
            return SL_E_NOMEM;
    }
    return SL_OK;
}

struct sl_sequence *sl_sequences_find(const struct sl_sequences *t, uint64_t id)
{
    for (uint32_t i = 0; i < t->max_sequences; i++)
        if (t->sequences[i].live && t->sequences[i].id == id)
            return &t->sequences[i];
    return NULL;
}

struct sl_sequence *sl_sequences_open(struct sl_sequences *t, uint64_t id)
{
    for (uint32_t i = 0; i < t->max_sequences; i++) {
        struct sl_sequence *s = &t->sequences[i];
        if (s->live)
            continue;
        *s = (struct sl_sequence){.id = id, .live = true, .pages = s->pages};
        t->n_live++;
        return s;
    }
    return NULL;
}

static bool bit(const uint64_t *bits, uint32_t page)
{
    return bits[page / 64] >> page % 64 & 1;
}

/* After what makes a page used, or not, has changed. */
static void look_whether_used(struct sl_sequences *t, uint32_t page)
{
    bool is = t->count[page] > 0 || t->readers[page] > 0, was = bit(t->used, page);
    t->n_used += is;
    t->n_used -= was;
    t->used[page / 64] ^= (uint64_t)(is != was) << page % 64;
}

void sl_sequences_cut(struct sl_sequences *t, struct sl_sequence *s, uint32_t n_pages)
{
    while (s->n_pages > n_pages) {
        uint32_t page = s->pages[--s->n_pages];
        if (page == SL_NO_PAGE)
            continue;
        assert(t->count[page] > 0);
        t->count[page]--;
        look_whether_used(t, page);
    }
}

void sl_sequences_close(struct sl_sequences *t, struct sl_sequence *s)
{
    assert(s->live && t->n_live > 0);
    sl_sequences_cut(t, s, 0);
    s->live = false;
    t->n_live--;
}

/* Whether sl_sequences_put could do it now. */
static sl_status may_put(const struct sl_sequences *t, uint32_t page, bool written)
{
    if (page >= t->n_pages)
        return SL_E_PROTOCOL;
    if (!written)
        return bit(t->written, page) ? SL_OK : SL_E_PROTOCOL;
    if (t->count[page] > 0)
        return SL_E_PROTOCOL;
    return t->readers[page] > 0 && !SL_MUTATED(REUSE_READ) ? SL_AGAIN : SL_OK;
}

sl_status sl_sequences_put(struct sl_sequences *t, struct sl_sequence *s, uint32_t index, uint32_t page,
                           bool written, bool *fresh)
{
    *fresh = false;
    if (index >= t->max_pages)
        return SL_E_PROTOCOL;
    if (index < s->n_pages && s->pages[index] != SL_NO_PAGE)
        return s->pages[index] == page ? SL_OK : SL_E_PROTOCOL;
    SL_TRY(may_put(t, page, written));
    for (; s->n_pages <= index; s->n_pages++)
        s->pages[s->n_pages] = SL_NO_PAGE;
    s->pages[index] = page;
    *fresh = written;
    t->count[page]++;
    t->written[page / 64] |= (uint64_t)written << page % 64;
    look_whether_used(t, page);
    return SL_OK;
}

/* By words of 64, since few of many may be free. */
sl_status sl_sequences_take(struct sl_sequences *t, uint32_t *page)
{
    if (t->n_used == t->n_pages)
        return SL_E_EXHAUSTED;
    for (uint32_t at = t->next;;) {
        uint64_t free = ~t->used[at / 64] & UINT64_MAX << at % 64;
        *page = at / 64 * 64 + (free ? (uint32_t)__builtin_ctzll(free) : 64);
        if (free && *page < t->n_pages)
            break;
        at = (at / 64 + 1) * 64;
        if (at >= t->n_pages)
            at = 0;
    }
    t->next = *page + 1 == t->n_pages ? 0 : *page + 1;
    return SL_OK;
}

void sl_sequences_read_begin(struct sl_sequences *t, uint32_t page)
{
    assert(page < t->n_pages);
    t->readers[page]++;
    look_whether_used(t, page);
}

void sl_sequences_read_end(struct sl_sequences *t, uint32_t page)
{
    assert(page < t->n_pages && t->readers[page] > 0);
    t->readers[page]--;
    look_whether_used(t, page);
}

/* ---- a record ---- */

/* Whether the sequence of a slice is where the record believes it. */
static const char *check_slice(const struct sl_sequences *t, const struct sl_order_slice *slice,
                               const struct sl_sequence *s, uint32_t *n_new)
{
    if (slice->flags & SL_SLICE_FIRST) {
        if (s)
            return "it opens a sequence that is open";
        return ++*n_new > t->max_sequences - t->n_live ? "it opens more sequences than were planned" : NULL;
    }
    if (!s)
        return "it goes on with a sequence that is not here";
    if (slice->page_first > s->n_pages)
        return "it leaves out pages";
    return s->n_pages >= sl_pages_of(slice->pos) ? NULL : "it goes on behind the end of a sequence";
}

/* A page that the slice keeps by naming it again is in use by that very sequence: it stays. */
static bool keeps(const struct sl_sequence *s, uint32_t index, uint32_t page)
{
    return s && index < s->n_pages && s->pages[index] == page;
}

static sl_status check_pages(const struct sl_sequences *t, const struct sl_order_slice *slice,
                             const struct sl_sequence *s, const uint8_t *meta,
                             const struct sl_order_limits *limits)
{
    sl_status status = SL_OK;
    for (uint32_t p = 0; p < slice->n_pages; p++) {
        uint32_t index = slice->page_first + p, page = sl_order_page(meta, limits, slice->pages_at + p).stage;
        if (keeps(s, index, page))
            continue;
        sl_status may = may_put(t, page, index >= slice->pos / SL_PAGE);
        if (may == SL_E_PROTOCOL)
            return may;
        if (may != SL_OK)
            status = may;
    }
    return status;
}

/* What a slice is to write must be its sequence's own. */
static bool owns(const struct sl_sequences *t, const struct sl_sequence *s,
                 const struct sl_order_slice *slice)
{
    for (uint32_t index = slice->pos / SL_PAGE; index < sl_pages_of(slice->pos + slice->n); index++)
        if (s->pages[index] == SL_NO_PAGE || t->count[s->pages[index]] != 1)
            return false;
    return true;
}

static sl_status apply_slice(struct sl_sequences *t, const struct sl_order_slice *slice,
                             struct sl_sequence *s, const uint8_t *meta, const struct sl_order_limits *limits,
                             void (*fresh)(void *user, uint32_t page), void *user)
{
    uint32_t p = 0;
    while (p < slice->n_pages &&
           keeps(s, slice->page_first + p, sl_order_page(meta, limits, slice->pages_at + p).stage))
        p++;
    sl_sequences_cut(t, s, slice->page_first + p);
    for (; p < slice->n_pages; p++) {
        uint32_t index = slice->page_first + p, page = sl_order_page(meta, limits, slice->pages_at + p).stage;
        bool is_fresh;
        SL_TRY(sl_sequences_put(t, s, index, page, index >= slice->pos / SL_PAGE, &is_fresh));
        if (is_fresh)
            fresh(user, page);
    }
    return SL_OK;
}

sl_status sl_sequences_apply(struct sl_sequences *t, const struct sl_order *order, const uint8_t *meta,
                             const struct sl_order_limits *limits, struct sl_sequence *found[SL_MAX_SLICES],
                             void (*fresh)(void *user, uint32_t page), void *user, const char **bad)
{
    uint32_t n_new = 0;
    sl_status status = SL_OK;
    for (uint32_t i = 0; i < order->n_slices; i++) {
        const struct sl_order_slice *slice = &order->slices[i];
        found[i] = sl_sequences_find(t, slice->seq);
        *bad = check_slice(t, slice, found[i], &n_new);
        if (*bad)
            return SL_E_PROTOCOL;
        sl_status may = check_pages(t, slice, found[i], meta, limits);
        *bad = "it gives a page that is in use, or shares one that nothing was written to";
        if (may == SL_E_PROTOCOL)
            return may;
        status = may == SL_OK ? status : may;
    }
    SL_TRY(status);
    for (uint32_t i = 0; i < order->n_slices; i++) {
        const struct sl_order_slice *slice = &order->slices[i];
        if (!found[i])
            found[i] = sl_sequences_open(t, slice->seq);
        if (!found[i] || apply_slice(t, slice, found[i], meta, limits, fresh, user) != SL_OK)
            return SL_E_PROTOCOL; /* two slices of the record contradict each other */
    }
    for (uint32_t i = 0; i < order->n_slices; i++)
        if (!owns(t, found[i], &order->slices[i]))
            return SL_E_PROTOCOL;
    *bad = NULL;
    return SL_OK;
}

/* Each page that a sequence has is counted once, and free is what nobody has and nobody reads. */
const char *sl_sequences_check(const struct sl_sequences *t)
{
    uint64_t n_had = 0, n_counted = 0;
    uint32_t n_used = 0;
    for (uint32_t i = 0; i < t->max_sequences; i++)
        for (uint32_t k = 0; t->sequences[i].live && k < t->sequences[i].n_pages; k++) {
            uint32_t page = t->sequences[i].pages[k];
            if (page != SL_NO_PAGE && t->count[page] == 0)
                return "a sequence has a page that is not counted";
            n_had += page != SL_NO_PAGE;
        }
    for (uint32_t i = 0; i < t->n_pages; i++) {
        bool is = t->count[i] > 0 || t->readers[i] > 0;
        if (is != bit(t->used, i))
            return "a page is free and somebody has it, or it is used and nobody does";
        n_used += is;
        n_counted += t->count[i];
    }
    return n_had == n_counted && n_used == t->n_used ? NULL : "pages are counted that no sequence has";
}
