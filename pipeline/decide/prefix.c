/* The cache of prefix.h: a page of the tree is where its number says, found by name over buckets; two lists go through pages,
 * that of last use and that of storing. */
#include "pipeline/decide/prefix.h"
#include "base/digest.h"
#include "base/mutate.h"
#include <assert.h>
#include <string.h>

struct sl_prefix_page {
    uint8_t name[SL_PREFIX_NAME];
    uint32_t parent, n_children;
    uint32_t holds;         /* those who hold it, and its children that are held */
    uint32_t next_in;       /* of its bucket */
    uint32_t older, newer;  /* of those that nobody holds */
    uint32_t before, after; /* as they were stored */
    uint64_t stored;        /* the event */
    bool live;
    bool lost; /* flushed: no longer found */
    bool told; /* there was an event */
};

static uint32_t buckets_of(uint32_t n_pages)
{
    uint32_t n = 1;
    while (n < n_pages)
        n *= 2;
    return n;
}

static size_t ids_bytes(uint32_t n_pages)
{
    return (size_t)n_pages * SL_PAGE * sizeof(uint32_t);
}

size_t sl_prefix_bytes(uint32_t n_pages, bool told)
{
    size_t of_events = sl_arena_round(SL_PREFIX_EVENTS * sizeof(struct sl_prefix_event)) +
                       sl_arena_round(ids_bytes(n_pages));
    return sl_arena_round(n_pages * sizeof(struct sl_prefix_page)) +
           sl_arena_round(buckets_of(n_pages) * sizeof(uint32_t)) + (told ? of_events : 0);
}

sl_status sl_prefix_init(struct sl_prefix *p, struct sl_arena *arena, uint32_t n_pages, bool told,
                         uint64_t secret)
{
    *p = (struct sl_prefix){.n_pages = n_pages,
                            .n_buckets = buckets_of(n_pages),
                            .secret = secret,
                            .oldest = SL_PREFIX_NONE,
                            .newest = SL_PREFIX_NONE,
                            .first = SL_PREFIX_NONE,
                            .last = SL_PREFIX_NONE};
    p->pages = sl_arena_take(arena, n_pages * sizeof *p->pages);
    p->buckets = sl_arena_take(arena, p->n_buckets * sizeof *p->buckets);
    if (told) {
        p->events = sl_arena_take(arena, SL_PREFIX_EVENTS * sizeof *p->events);
        p->ids = sl_arena_take(arena, ids_bytes(n_pages));
    }
    if (!p->pages || !p->buckets || (told && (!p->events || !p->ids)))
        return SL_E_NOMEM;
    memset(p->buckets, 0xff, p->n_buckets * sizeof *p->buckets);
    return SL_OK;
}

/* ---- events ---- */

static uint64_t short_name(const uint8_t name[SL_PREFIX_NAME])
{
    uint64_t first;
    memcpy(&first, name, sizeof first);
    return first;
}

static struct sl_prefix_event event_of(const struct sl_prefix *p, uint32_t number,
                                       enum sl_prefix_event_kind kind)
{
    const struct sl_prefix_page *page = &p->pages[number];
    struct sl_prefix_event event = {.kind = kind, .name = short_name(page->name)};
    event.has_parent = page->parent != SL_PREFIX_NONE;
    event.parent = event.has_parent ? short_name(p->pages[page->parent].name) : 0;
    if (kind == SL_PREFIX_STORED)
        memcpy(event.ids, p->ids[number], sizeof event.ids);
    return event;
}

static uint64_t note(struct sl_prefix *p, const struct sl_prefix_event *event)
{
    p->events[++p->n_events % SL_PREFIX_EVENTS] = *event;
    return p->n_events;
}

static void tell_stored(struct sl_prefix *p, uint32_t number)
{
    struct sl_prefix_page *page = &p->pages[number];
    struct sl_prefix_event event = event_of(p, number, SL_PREFIX_STORED);
    page->told = true;
    page->stored = note(p, &event);
    page->before = p->last;
    page->after = SL_PREFIX_NONE;
    *(p->last == SL_PREFIX_NONE ? &p->first : &p->pages[p->last].after) = number;
    p->last = number;
}

static void untell(struct sl_prefix *p, struct sl_prefix_page *page)
{
    *(page->before == SL_PREFIX_NONE ? &p->first : &p->pages[page->before].after) = page->after;
    *(page->after == SL_PREFIX_NONE ? &p->last : &p->pages[page->after].before) = page->before;
    page->told = false;
}

void sl_prefix_read_from(const struct sl_prefix *p, struct sl_prefix_reader *reader, uint64_t number)
{
    *reader = (struct sl_prefix_reader){.number = number, .page = SL_PREFIX_NONE};
    bool kept = number <= p->n_events && p->n_events - number < SL_PREFIX_EVENTS;
    if (!kept) {
        reader->number = 0; /* of another life, or too old */
        reader->walking = true;
    }
}

/* The page that was told before may be gone by now: then the walk begins anew, and passes over what was told. */
static bool walk(const struct sl_prefix *p, struct sl_prefix_reader *reader, struct sl_prefix_event *event)
{
    if (reader->number == 0) {
        *event = (struct sl_prefix_event){.kind = SL_PREFIX_CLEARED};
        reader->number = p->n_events;
        reader->walking = p->n_events > 0;
        return true;
    }
    const struct sl_prefix_page *last = reader->page == SL_PREFIX_NONE ? NULL : &p->pages[reader->page];
    uint32_t next = last && last->told && last->stored == reader->stored ? last->after : p->first;
    while (next != SL_PREFIX_NONE && p->pages[next].stored <= reader->stored)
        next = p->pages[next].after;
    if (next == SL_PREFIX_NONE || p->pages[next].stored > reader->number) {
        reader->walking = false; /* what is newer comes as an event */
        return false;
    }
    *event = event_of(p, next, SL_PREFIX_STORED);
    reader->page = next;
    reader->stored = p->pages[next].stored;
    return true;
}

bool sl_prefix_read(const struct sl_prefix *p, struct sl_prefix_reader *reader, struct sl_prefix_event *event)
{
    bool begins = reader->walking && reader->number == 0;
    if (!begins && p->n_events - reader->number >= SL_PREFIX_EVENTS)
        sl_prefix_read_from(p, reader, reader->number); /* it fell behind */
    if (reader->walking && walk(p, reader, event))
        return true;
    if (reader->number >= p->n_events)
        return false;
    *event = p->events[++reader->number % SL_PREFIX_EVENTS];
    return true;
}

/* ---- who holds what ---- */

static void list_out(struct sl_prefix *p, struct sl_prefix_page *page)
{
    *(page->older == SL_PREFIX_NONE ? &p->oldest : &p->pages[page->older].newer) = page->newer;
    *(page->newer == SL_PREFIX_NONE ? &p->newest : &p->pages[page->newer].older) = page->older;
    p->n_held++;
}

static void list_in(struct sl_prefix *p, uint32_t number)
{
    struct sl_prefix_page *page = &p->pages[number];
    page->older = p->newest;
    page->newer = SL_PREFIX_NONE;
    *(p->newest == SL_PREFIX_NONE ? &p->oldest : &p->pages[p->newest].newer) = number;
    p->newest = number;
    p->n_held--;
}

static void hold(struct sl_prefix *p, uint32_t number)
{
    for (uint32_t i = number; i != SL_PREFIX_NONE && p->pages[i].holds++ == 0; i = p->pages[i].parent)
        list_out(p, &p->pages[i]);
}

/* The deepest first, so that it is the older one. */
static void release(struct sl_prefix *p, uint32_t number)
{
    for (uint32_t i = number; i != SL_PREFIX_NONE; i = p->pages[i].parent) {
        assert(p->pages[i].holds > 0);
        if (--p->pages[i].holds > 0)
            return;
        list_in(p, i);
    }
}

/* ---- names ---- */

static uint32_t *bucket_of(const struct sl_prefix *p, const uint8_t name[SL_PREFIX_NAME])
{
    uint64_t mixed = (short_name(name) ^ p->secret) * (2 * p->secret + 0x9E3779B97F4A7C15u);
    return &p->buckets[(mixed >> 32) & (p->n_buckets - 1)];
}

static uint32_t find(const struct sl_prefix *p, const uint8_t name[SL_PREFIX_NAME])
{
    uint32_t i = *bucket_of(p, name);
    while (i != SL_PREFIX_NONE && memcmp(p->pages[i].name, name, SL_PREFIX_NAME) != 0)
        i = p->pages[i].next_in;
    return i;
}

static void unhash(struct sl_prefix *p, uint32_t number)
{
    uint32_t *at = bucket_of(p, p->pages[number].name);
    while (*at != number)
        at = &p->pages[*at].next_in;
    *at = p->pages[number].next_in;
}

void sl_prefix_begin(struct sl_prefix_at *at, const uint8_t seed[SL_PREFIX_NAME])
{
    static const uint8_t none[SL_PREFIX_NAME];
    *at = (struct sl_prefix_at){.page = SL_PREFIX_NONE};
    if (!seed || SL_MUTATED(BLIND_SALT))
        return;
    memcpy(at->name, seed, SL_PREFIX_NAME);
    at->salted = memcmp(seed, none, SL_PREFIX_NAME) != 0;
}

static void name_next(struct sl_prefix_at *at, const uint32_t ids[SL_PAGE])
{
    if (!at->has_next)
        sl_sha256_chain(at->name, ids, SL_PAGE * sizeof *ids, at->next);
    at->has_next = true;
}

static void advance(struct sl_prefix_at *at, uint32_t page)
{
    at->page = page;
    at->depth++;
    at->has_next = false;
    memcpy(at->name, at->next, SL_PREFIX_NAME);
}

/* A flush may have come between. */
static void look_whether_astray(const struct sl_prefix *p, struct sl_prefix_at *at)
{
    at->astray = at->astray || (at->page != SL_PREFIX_NONE && p->pages[at->page].lost);
}

static bool move_on(struct sl_prefix *p, struct sl_prefix_at *at)
{
    uint32_t next = find(p, at->next), last = at->page;
    if (next == SL_PREFIX_NONE)
        return false;
    hold(p, next);
    if (last != SL_PREFIX_NONE)
        release(p, last); /* held by its child now */
    advance(at, next);
    return true;
}

bool sl_prefix_step(struct sl_prefix *p, struct sl_prefix_at *at, const uint32_t ids[SL_PAGE])
{
    look_whether_astray(p, at);
    if (at->astray)
        return false;
    name_next(at, ids);
    return move_on(p, at);
}

bool sl_prefix_would_hold(const struct sl_prefix *p, struct sl_prefix_at *at, const uint32_t ids[SL_PAGE])
{
    look_whether_astray(p, at);
    if (at->astray)
        return false;
    name_next(at, ids);
    uint32_t next = find(p, at->next);
    return next != SL_PREFIX_NONE && p->pages[next].holds == 0;
}

bool sl_prefix_add(struct sl_prefix *p, struct sl_prefix_at *at, const uint32_t ids[SL_PAGE], uint32_t number)
{
    struct sl_prefix_page *page = &p->pages[number];
    assert(number < p->n_pages && !page->live);
    look_whether_astray(p, at);
    if (at->astray)
        return false;
    name_next(at, ids);
    if (move_on(p, at))
        return false;
    uint32_t *bucket = bucket_of(p, at->next), parent = at->page;
    *page = (struct sl_prefix_page){.parent = parent, .holds = 1, .next_in = *bucket, .live = true};
    memcpy(page->name, at->next, SL_PREFIX_NAME);
    *bucket = number;
    p->n_cached++;
    p->n_held++;
    if (parent != SL_PREFIX_NONE)
        p->pages[parent].n_children++; /* what held it holds its child, which holds it */
    if (p->events && !at->salted) {
        memcpy(p->ids[number], ids, sizeof p->ids[number]);
        tell_stored(p, number);
    }
    advance(at, number);
    return true;
}

void sl_prefix_name(struct sl_prefix_at *at, const uint32_t ids[SL_PAGE])
{
    name_next(at, ids);
}

uint32_t sl_prefix_find(const struct sl_prefix *p, const struct sl_prefix_at *at)
{
    assert(at->has_next);
    return find(p, at->next);
}

void sl_prefix_pass(struct sl_prefix_at *at)
{
    assert(at->page == SL_PREFIX_NONE && at->has_next);
    advance(at, SL_PREFIX_NONE);
}

void sl_prefix_hold(struct sl_prefix *p, struct sl_prefix_at *at, uint32_t page, uint32_t depth)
{
    assert(at->page == SL_PREFIX_NONE && p->pages[page].live);
    hold(p, page);
    at->page = page;
    at->depth = depth;
    at->has_next = false;
    memcpy(at->name, p->pages[page].name, SL_PREFIX_NAME);
}

void sl_prefix_let_go(struct sl_prefix *p, struct sl_prefix_at *at, const uint8_t seed[SL_PREFIX_NAME])
{
    if (at->page != SL_PREFIX_NONE)
        release(p, at->page);
    sl_prefix_begin(at, seed);
}

void sl_prefix_numbers(const struct sl_prefix *p, const struct sl_prefix_at *at, uint32_t *numbers)
{
    uint32_t page = at->page;
    for (uint32_t i = at->depth; i-- > 0; page = p->pages[page].parent)
        numbers[i] = page;
    assert(page == SL_PREFIX_NONE);
}

/* ---- what goes ---- */

/* A leaf that nobody holds. */
static void drop(struct sl_prefix *p, uint32_t number)
{
    struct sl_prefix_page *page = &p->pages[number];
    assert(page->live && page->holds == 0 && page->n_children == 0);
    list_out(p, page);
    p->n_held--;
    p->n_cached--;
    page->live = false;
    if (!page->lost)
        unhash(p, number);
    if (page->told) {
        struct sl_prefix_event event = event_of(p, number, SL_PREFIX_REMOVED);
        untell(p, page);
        note(p, &event);
    }
    if (page->parent != SL_PREFIX_NONE)
        p->pages[page->parent].n_children--;
}

bool sl_prefix_evict(struct sl_prefix *p, uint32_t *number)
{
    if (p->oldest == SL_PREFIX_NONE)
        return false;
    *number = p->oldest;
    drop(p, *number);
    p->n_evicted++;
    return true;
}

uint32_t sl_prefix_forget(struct sl_prefix *p, struct sl_prefix_at *at, const uint32_t *numbers,
                          uint32_t first, uint32_t *gone)
{
    uint32_t n = 0, children = 0, page = at->page;
    look_whether_astray(p, at);
    if (at->astray)
        return SL_PREFIX_NONE;
    for (uint32_t i = at->depth; i-- > first; page = p->pages[page].parent) {
        bool own = page == numbers[i];
        if (own && (p->pages[page].holds > 1 || p->pages[page].n_children > children))
            return SL_PREFIX_NONE;
        if (own)
            gone[n++] = page;
        children = own;
    }
    sl_prefix_let_go(p, at, NULL);
    for (uint32_t i = 0; i < n; i++) /* the deepest first */
        drop(p, gone[i]);
    return n;
}

void sl_prefix_flush(struct sl_prefix *p)
{
    for (uint32_t i = 0; i < p->n_pages; i++) {
        p->pages[i].lost = p->pages[i].live;
        p->pages[i].told = false;
    }
    memset(p->buckets, 0xff, p->n_buckets * sizeof *p->buckets);
    p->first = p->last = SL_PREFIX_NONE;
    struct sl_prefix_event event = {.kind = SL_PREFIX_CLEARED};
    if (p->events)
        note(p, &event);
}

/* ---- promises ---- */

bool sl_prefix_has(const struct sl_prefix *p, uint32_t page, bool *held)
{
    *held = p->pages[page].live && p->pages[page].holds > 0;
    return p->pages[page].live;
}

uint32_t sl_prefix_n_holders(const struct sl_prefix *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_pages; i++)
        if (p->pages[i].live && p->pages[i].holds > 0) /* one of its parent's is of it */
            n += p->pages[i].holds - (p->pages[i].parent != SL_PREFIX_NONE);
    return n;
}

static const char *check_page(const struct sl_prefix *p, uint32_t number, uint32_t *n_held)
{
    const struct sl_prefix_page *page = &p->pages[number];
    *n_held += page->holds > 0;
    if ((find(p, page->name) == number) == page->lost)
        return "a page is not found under its name, or is though it was flushed";
    if (page->parent == SL_PREFIX_NONE)
        return NULL;
    const struct sl_prefix_page *parent = &p->pages[page->parent];
    if (!parent->live || parent->n_children == 0)
        return "a page is gone, and one that follows it is there";
    if (page->holds > 0 && parent->holds == 0)
        return "a page is held, and the one before it is not";
    return parent->lost && !page->lost ? "a page was flushed, and one that follows it was not" : NULL;
}

const char *sl_prefix_check(const struct sl_prefix *p)
{
    uint32_t n_cached = 0, n_held = 0, n_listed = 0;
    for (uint32_t i = 0; i < p->n_pages; i++) {
        n_cached += p->pages[i].live;
        const char *bad = p->pages[i].live ? check_page(p, i, &n_held) : NULL;
        if (bad)
            return bad;
    }
    for (uint32_t i = p->oldest; i != SL_PREFIX_NONE && n_listed <= p->n_pages; i = p->pages[i].newer)
        n_listed++;
    return n_cached == p->n_cached && n_held == p->n_held && n_listed + n_held == n_cached
               ? NULL
               : "cached pages are not those that are held and those that wait for eviction";
}
