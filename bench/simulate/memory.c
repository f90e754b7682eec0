/* A world lives for 20 ms. The system's memory is cleared when it is touched the first time, and jemalloc answers a large calloc with
 * what it has by giving those pages back and having them cleared so: a fifth of a world's time. Here it has an arena whose
 * extents are never given back, and clears what has to be clear itself. */
#include "bench/simulate/memory.h"
#ifndef SLUICE_SYSTEM_ALLOCATOR /* a sanitizer brings its own */
#include <jemalloc/jemalloc.h>
#include <stdio.h>

static extent_hooks_t hooks; /* the arena has them as long as the process lives */

static int never(unsigned arena, const char *what)
{
    char name[64];
    ssize_t never_ms = -1;
    snprintf(name, sizeof name, "arena.%u.%s", arena, what);
    return mallctl(name, NULL, NULL, &never_ms, sizeof never_ms);
}

static int make_arena(unsigned *arena)
{
    extent_hooks_t *usual = NULL, *mine = &hooks;
    size_t bytes = sizeof usual, arena_bytes = sizeof *arena;
    if (mallctl("arena.0.extent_hooks", &usual, &bytes, NULL, 0) != 0)
        return -1;
    hooks = *usual;
    hooks.purge_lazy = NULL;
    hooks.purge_forced = NULL;
    if (mallctl("arenas.create", arena, &arena_bytes, &mine, sizeof mine) != 0)
        return -1;
    return never(*arena, "dirty_decay_ms") || never(*arena, "muzzy_decay_ms");
}

struct sl_kept_memory sl_memory_keep(void)
{
    static unsigned arena; /* 0: not made yet */
    struct sl_kept_memory kept = {0};
    size_t bytes = sizeof kept.before, one = sizeof kept.background;
    bool off = false;
    if (arena == 0 && make_arena(&arena) != 0)
        arena = 0;
    kept.on = arena > 0 && mallctl("thread.arena", &kept.before, &bytes, &arena, sizeof arena) == 0;
    if (kept.on) /* it is told of all that is freed, and has nothing to do */
        mallctl("background_thread", &kept.background, &one, &off, sizeof off);
    return kept;
}

void sl_memory_keep_no_more(const struct sl_kept_memory *kept)
{
    unsigned before = kept->before;
    bool background = kept->background;
    if (kept->on)
        mallctl("thread.arena", NULL, NULL, &before, sizeof before);
    if (background)
        mallctl("background_thread", NULL, NULL, &background, sizeof background);
}
#else
struct sl_kept_memory sl_memory_keep(void)
{
    return (struct sl_kept_memory){0};
}

void sl_memory_keep_no_more(const struct sl_kept_memory *kept)
{
    (void)kept;
}
#endif
