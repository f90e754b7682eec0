/* pipeline/decide/prefix.c against a cache that looks at everything each time: the same hits, the same page goes first, and who
 * follows the events knows what is there. Pages of the prompts here are of few kinds, so that prompts meet. */
#include "base/digest.h"
#include "base/rng.h"
#include "pipeline/decide/prefix.h"
#include "tests/check.h"
#include <stdlib.h>

enum { PAGES = 40, DEPTH = 7, KINDS = 3, SEEDS = 3, USERS = 8, READERS = 2, OPERATIONS = 100000 };

struct prefix_entry { /* of the slow cache */
    bool live, lost;
    int parent; /* an entry; -1: none */
    uint32_t seed, kind, depth, page;
    uint64_t used; /* when it was let go last */
};

struct prefix_user {
    bool on, astray;
    uint32_t seed, n, kinds[DEPTH];
    int at;         /* the entry that it holds; -1: none */
    uint32_t depth; /* pages that it has passed */
    uint32_t own
        [DEPTH]; /* the number of the page that it filled itself; PAGES: it found one, or its own is not the cache's */
    struct sl_prefix_at real;
};

struct prefix_follower {
    struct sl_prefix_reader reader;
    uint32_t n, n_cleared, n_orphans;
    uint64_t names[2 * PAGES], parents[2 * PAGES];
};

struct prefix_world {
    struct sl_arena arena;
    struct sl_prefix p;
    struct sl_rng rng;
    struct prefix_entry entries[PAGES];
    struct prefix_user users[USERS];
    struct prefix_follower followers[READERS];
    bool taken[PAGES]; /* pages that are the cache's, or somebody's own */
    uint64_t now;
    uint32_t n_hits, n_evicted, n_private, n_forgotten, n_not_forgotten;
};

static uint32_t draw(struct prefix_world *w, uint32_t below)
{
    return (uint32_t)(sl_rng_next(&w->rng) % below);
}

static const uint8_t *seed_of(uint32_t seed)
{
    static uint8_t seeds[SEEDS][SL_PREFIX_NAME];
    seeds[seed][5] = (uint8_t)seed;
    return seed ? seeds[seed] : NULL;
}

static const uint32_t *ids_of(uint32_t kind)
{
    static uint32_t ids[KINDS][SL_PAGE];
    for (uint32_t i = 0; i < SL_PAGE; i++)
        ids[kind][i] = i == SL_PAGE - 1 ? kind : i; /* the last alone differs */
    return ids[kind];
}

static int find(const struct prefix_world *w, const struct prefix_user *u)
{
    for (int i = 0; i < PAGES; i++) {
        const struct prefix_entry *e = &w->entries[i];
        if (e->live && !e->lost && e->parent == u->at && e->seed == u->seed && e->depth == u->depth &&
            e->kind == u->kinds[u->depth])
            return i;
    }
    return -1;
}

static bool is_held(const struct prefix_world *w, int entry)
{
    for (uint32_t i = 0; i < USERS; i++)
        for (int e = w->users[i].on ? w->users[i].at : -1; e >= 0; e = w->entries[e].parent)
            if (e == entry)
                return true;
    return false;
}

static void look_whether_astray(const struct prefix_world *w, struct prefix_user *u)
{
    u->astray = u->astray || (u->at >= 0 && w->entries[u->at].lost);
}

/* It is found step by step, or by names and then held at once. */
static bool step_on(struct prefix_world *w, struct prefix_user *u, bool by_name, struct sl_prefix_at *names,
                    uint32_t *page)
{
    const uint32_t *ids = ids_of(u->kinds[u->depth]);
    if (!by_name)
        return sl_prefix_step(&w->p, &u->real, ids);
    sl_prefix_name(names, ids);
    uint32_t found = sl_prefix_find(&w->p, names);
    sl_prefix_pass(names);
    *page = found == SL_PREFIX_NONE ? *page : found;
    return found != SL_PREFIX_NONE;
}

/* Who begins holds what is there, and not one page more. */
static void begin(struct prefix_world *w, struct prefix_user *u)
{
    struct sl_prefix_at names;
    uint32_t page = SL_PREFIX_NONE;
    bool by_name = w->n_hits % 2;
    *u = (struct prefix_user){.on = true, .seed = draw(w, SEEDS), .n = 1 + draw(w, DEPTH), .at = -1};
    sl_prefix_begin(&u->real, seed_of(u->seed));
    sl_prefix_begin(&names, seed_of(u->seed));
    for (uint32_t i = 0; i < u->n; i++)
        u->kinds[i] = draw(w, 4) ? 0 : draw(w, KINDS);
    for (int next; u->depth < u->n && (next = find(w, u)) >= 0; u->depth++) {
        CHECK(step_on(w, u, by_name, &names, &page));
        u->at = next;
        u->own[u->depth] = PAGES;
        w->n_hits++;
    }
    if (u->depth < u->n)
        CHECK(!step_on(w, u, by_name, &names, &page));
    if (by_name && u->depth > 0)
        sl_prefix_hold(&w->p, &u->real, page, u->depth);
    uint32_t numbers[DEPTH];
    sl_prefix_numbers(&w->p, &u->real, numbers);
    int e = u->at;
    for (uint32_t i = u->depth; i-- > 0; e = w->entries[e].parent)
        CHECK_INT(numbers[i], w->entries[e].page);
}

/* Of those that nobody holds the one that was let go first, of one use the deepest. */
static int oldest(const struct prefix_world *w)
{
    int found = -1;
    for (int i = 0; i < PAGES; i++) {
        const struct prefix_entry *e = &w->entries[i], *f = found < 0 ? NULL : &w->entries[found];
        if (e->live && !is_held(w, i) &&
            (!f || e->used < f->used || (e->used == f->used && e->depth > f->depth)))
            found = i;
    }
    return found;
}

static bool evict(struct prefix_world *w)
{
    uint32_t page;
    int e = oldest(w);
    bool some = sl_prefix_evict(&w->p, &page);
    CHECK(some == (e >= 0));
    if (!some || e < 0)
        return false;
    CHECK_INT(page, w->entries[e].page);
    for (int i = 0; i < PAGES; i++)
        CHECK(!w->entries[i].live || w->entries[i].parent != e);
    w->entries[e].live = false;
    w->taken[page] = false;
    w->n_evicted++;
    return true;
}

static void add(struct prefix_world *w, struct prefix_user *u)
{
    uint32_t page = 0;
    if (u->depth == u->n)
        return;
    while (page < PAGES && w->taken[page])
        page++;
    if (page == PAGES && !evict(w))
        return;
    for (page = 0; w->taken[page];)
        page++;
    look_whether_astray(w, u);
    int there = u->astray ? -1 : find(w, u), place = 0;
    bool took = sl_prefix_add(&w->p, &u->real, ids_of(u->kinds[u->depth]), page);
    CHECK(took == (there < 0 && !u->astray));
    w->n_private += !took;
    w->taken[page] = took; /* one that stays private goes back at once here */
    while (took && w->entries[place].live)
        place++;
    if (took)
        w->entries[place] = (struct prefix_entry){.live = true,
                                                  .parent = u->at,
                                                  .seed = u->seed,
                                                  .kind = u->kinds[u->depth],
                                                  .depth = u->depth,
                                                  .page = page};
    if (u->astray)
        return;
    u->at = took ? place : there;
    u->own[u->depth++] = took ? page : PAGES;
}

static void let_go(struct prefix_world *w, struct prefix_user *u)
{
    int e = u->at;
    u->on = false;
    w->now++;
    for (; e >= 0; e = w->entries[e].parent)
        if (!is_held(w, e))
            w->entries[e].used = w->now;
    sl_prefix_let_go(&w->p, &u->real, seed_of(u->seed));
}

/* Whether anybody else holds it, or it has a child but `child`. */
static bool is_wanted(const struct prefix_world *w, const struct prefix_user *u, int entry, int child)
{
    for (int i = 0; i < PAGES; i++)
        if (w->entries[i].live && w->entries[i].parent == entry && i != child)
            return true;
    for (uint32_t i = 0; i < USERS; i++)
        for (int e = w->users[i].on && &w->users[i] != u ? w->users[i].at : -1; e >= 0;
             e = w->entries[e].parent)
            if (e == entry)
                return true;
    return false;
}

/* What it filled from page `first` on goes, all of it or nothing. */
static void forget(struct prefix_world *w, struct prefix_user *u)
{
    uint32_t first = draw(w, u->depth + 1), gone[DEPTH], n = 0;
    bool may = true;
    int going[DEPTH], child = -1, e = u->at;
    look_whether_astray(w, u);
    for (uint32_t i = u->depth; i-- > first && e >= 0; e = w->entries[e].parent) {
        bool own = u->own[i] == w->entries[e].page;
        may = may && (!own || !is_wanted(w, u, e, child));
        if (own)
            going[n++] = e;
        child = own ? e : -1;
    }
    may = may && !u->astray;
    uint32_t got = sl_prefix_forget(&w->p, &u->real, u->own, first, gone);
    CHECK(got == (may ? n : SL_PREFIX_NONE));
    w->n_not_forgotten += !may;
    if (!may)
        return;
    u->on = false;
    w->now++;
    for (e = u->at; e >= 0; e = w->entries[e].parent)
        if (!is_held(w, e))
            w->entries[e].used = w->now;
    for (uint32_t i = 0; i < n; i++) {
        CHECK_INT(gone[i], w->entries[going[i]].page);
        w->entries[going[i]].live = false;
        w->taken[gone[i]] = false;
    }
    w->n_forgotten += n;
}

static void flush(struct prefix_world *w)
{
    sl_prefix_flush(&w->p);
    for (int i = 0; i < PAGES; i++)
        w->entries[i].lost = w->entries[i].live;
}

static void hear(struct prefix_follower *f, const struct sl_prefix_event *event)
{
    uint32_t i = 0;
    while (i < f->n && f->names[i] != event->name)
        i++;
    if (event->kind == SL_PREFIX_CLEARED) {
        f->n = 0;
        f->n_cleared++;
    } else if (event->kind == SL_PREFIX_STORED) {
        uint32_t parent = 0;
        while (parent < f->n && f->names[parent] != event->parent)
            parent++;
        f->n_orphans += event->has_parent && parent == f->n;
        CHECK(i == f->n);
        f->names[f->n] = event->name;
        f->parents[f->n++] = event->parent;
    } else if (i < f->n) { /* else it was gone before it was told */
        f->names[i] = f->names[--f->n];
        f->parents[i] = f->parents[f->n];
    }
}

/* One who reads everything knows what is there without a salt. */
static void follow(struct prefix_world *w, struct prefix_follower *f, uint32_t most)
{
    struct sl_prefix_event event;
    uint32_t n = 0, n_live = 0;
    while (n < most && sl_prefix_read(&w->p, &f->reader, &event)) {
        hear(f, &event);
        n++;
    }
    if (n == most)
        return;
    CHECK(f->reader.number == w->p.n_events);
    for (int i = 0; i < PAGES; i++)
        n_live += w->entries[i].live && !w->entries[i].lost && w->entries[i].seed == 0;
    CHECK_INT(f->n, n_live);
}

static void operate(struct prefix_world *w)
{
    struct prefix_user *u = &w->users[draw(w, USERS)];
    uint32_t what = draw(w, 1000);
    if (what < 3)
        flush(w);
    else if (what < 40)
        evict(w);
    else if (what < 60)
        follow(w, &w->followers[0], 1 + draw(w, 200));
    else if (!u->on)
        begin(w, u);
    else if (what < 800)
        add(w, u);
    else if (what < 815)
        forget(w, u);
    else
        let_go(w, u);
}

SL_TEST(it_finds_and_lets_go_what_a_cache_does_that_looks_at_everything)
{
    struct prefix_world *w = calloc(1, sizeof *w);
    w->rng = (struct sl_rng){14, 0};
    REQUIRE(sl_arena_init(&w->arena, sl_prefix_bytes(PAGES, true), NULL) == SL_OK);
    REQUIRE(sl_prefix_init(&w->p, &w->arena, PAGES, true, 77) == SL_OK);
    for (uint32_t i = 0; i < READERS; i++)
        sl_prefix_read_from(&w->p, &w->followers[i].reader, 0);
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        operate(w);
        const char *bad = sl_prefix_check(&w->p);
        if (bad)
            sl_test_fail(__FILE__, __LINE__, "after operation %u: %s", i, bad);
        if (i % 10000 == 0) /* seldom: it falls behind */
            follow(w, &w->followers[1], UINT32_MAX);
        if (bad || i % 50 == 0)
            follow(w, &w->followers[0], UINT32_MAX);
    }
    CHECK(w->n_hits > 1000 && w->n_evicted > 1000 && w->n_private > 1000 && w->n_forgotten > 100 &&
          w->n_not_forgotten > 100);
    CHECK_INT(w->followers[0].n_orphans, 0);
    CHECK(w->followers[1].n_cleared > 2 && w->p.n_events > 2 * SL_PREFIX_EVENTS);
    sl_arena_fini(&w->arena);
    free(w);
}

SL_TEST(names_are_a_chain_over_ids_from_the_seed_on)
{
    struct sl_arena arena = {0};
    struct sl_prefix p;
    struct sl_prefix_at at;
    REQUIRE(sl_arena_init(&arena, sl_prefix_bytes(4, true), NULL) == SL_OK);
    REQUIRE(sl_prefix_init(&p, &arena, 4, true, 1) == SL_OK);
    sl_prefix_begin(&at, seed_of(2));
    uint8_t name[SL_PREFIX_NAME];
    memcpy(name, seed_of(2), sizeof name);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK(sl_prefix_add(&p, &at, ids_of(i), i));
        sl_sha256_chain(name, ids_of(i), SL_PAGE * 4, name);
        CHECK(memcmp(name, at.name, sizeof name) == 0);
    }
    CHECK_INT(p.n_events, 0); /* nobody is told of what has a salt */
    sl_prefix_let_go(&p, &at, NULL);
    CHECK(!sl_prefix_step(&p, &at, ids_of(0)));
    sl_arena_fini(&arena);
}

/* Who walks through the state while it changes knows it in the end. What followed a page that went before the walk came to it is
 * told without it, and then that it went. */
SL_TEST(a_state_that_changes_under_who_reads_it_comes_out_right)
{
    struct prefix_world *w = calloc(1, sizeof *w);
    struct prefix_follower *f = &w->followers[0];
    w->rng = (struct sl_rng){3, 0};
    REQUIRE(sl_arena_init(&w->arena, sl_prefix_bytes(PAGES, true), NULL) == SL_OK);
    REQUIRE(sl_prefix_init(&w->p, &w->arena, PAGES, true, 5) == SL_OK);
    for (uint32_t i = 0; i < 20000; i++)
        if (draw(w, 400)) /* without a flush nothing but evictions cross the walk */
            operate(w);
    for (uint32_t round = 0; round < 300; round++) {
        sl_prefix_read_from(&w->p, &f->reader, UINT64_MAX);
        for (uint32_t i = 0; i < 60; i++) {
            follow(w, f, 1);
            for (uint32_t k = 0; k < 3; k++)
                operate(w);
        }
        follow(w, f, UINT32_MAX);
    }
    CHECK(f->n_cleared >= 300);
    sl_arena_fini(&w->arena);
    free(w);
}

/* Of a decode worker nobody is told, and it takes no memory for that. */
SL_TEST(one_of_which_nobody_is_told_keeps_pages_and_nothing_else)
{
    struct sl_arena arena = {0};
    struct sl_prefix p;
    struct sl_prefix_at at;
    uint32_t page;
    CHECK(sl_prefix_bytes(1000, false) < sl_prefix_bytes(1000, true) / 3);
    REQUIRE(sl_arena_init(&arena, sl_prefix_bytes(4, false), NULL) == SL_OK);
    REQUIRE(sl_prefix_init(&p, &arena, 4, false, 1) == SL_OK);
    sl_prefix_begin(&at, NULL);
    for (uint32_t i = 0; i < 3; i++)
        CHECK(sl_prefix_add(&p, &at, ids_of(i), i));
    sl_prefix_let_go(&p, &at, NULL);
    CHECK(sl_prefix_step(&p, &at, ids_of(0)));
    CHECK(sl_prefix_evict(&p, &page) && page == 2);
    sl_prefix_let_go(&p, &at, NULL);
    sl_prefix_flush(&p);
    CHECK(!sl_prefix_step(&p, &at, ids_of(0)));
    CHECK(p.n_events == 0 && p.n_cached == 2 && sl_prefix_check(&p) == NULL);
    sl_arena_fini(&arena);
}
