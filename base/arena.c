/* The bump allocator of arena.h over one private mapping: zeroed, lazily touched, returned whole. */
#include "base/arena.h"
#include <assert.h>
#include <sys/mman.h>

sl_status sl_arena_init(struct sl_arena *arena, size_t size_bytes, struct sl_err *err)
{
    *arena = (struct sl_arena){0};
    if (size_bytes == 0)
        return SL_OK;
    void *base =
        mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return sl_fail(err, SL_E_NOMEM,
                       "cannot reserve %zu MiB of memory; plan for a shorter context or fewer requests",
                       size_bytes >> 20);
    /* a wish: fewer TLB misses where the kernel has huge pages to give */
    madvise(base, size_bytes, MADV_HUGEPAGE);
    arena->base = base;
    arena->size_bytes = size_bytes;
    return SL_OK;
}

void sl_arena_fini(struct sl_arena *arena)
{
    if (arena->base)
        munmap(arena->base, arena->size_bytes);
    *arena = (struct sl_arena){0};
}

void *sl_arena_take(struct sl_arena *arena, size_t bytes)
{
    assert(!arena->sealed);
    size_t need;
    if (bytes > SIZE_MAX - SL_CACHE_LINE)
        return NULL;
    need = sl_arena_round(bytes);
    if (need > arena->size_bytes - arena->used_bytes)
        return NULL;
    void *p = arena->base + arena->used_bytes;
    arena->used_bytes += need;
    return p;
}

void sl_arena_seal(struct sl_arena *arena)
{
    arena->sealed = true;
}
