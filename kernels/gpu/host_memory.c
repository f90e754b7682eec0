/* Global memory of the twin, and its shadow: which block, warp and lane wrote and read a byte last (host.h). */
#include "kernels/gpu/gpu.h"
#include "kernels/gpu/host_impl.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, NOBODY = 1 /* in the place of a block's serial: poisoned */ };

struct allocation {
    uint8_t *base;
    size_t bytes, mapped;
    struct gpu_byte *shadow; /* of zeros until it is touched, so memory that nobody checks costs none */
};
static _Thread_local struct allocation *allocations;
static _Thread_local uint32_t n_allocations, room, latest;
_Thread_local bool gpu_bounds_only;

static void *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(p != MAP_FAILED);
    return p;
}

void *gpu_alloc(size_t bytes)
{
    size_t mapped = (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
    if (n_allocations == room) {
        struct allocation *more = realloc(allocations, (room * 2 + 16) * sizeof *more);
        if (!more)
            return NULL;
        room = room * 2 + 16;
        allocations = more;
    }
    struct allocation *a = &allocations[n_allocations++];
    *a = (struct allocation){map(mapped), bytes, mapped, map(mapped * sizeof *a->shadow)};
    int status = mprotect(a->base + mapped - PAGE, PAGE, PROT_NONE);
    assert(status == 0);
    memset(a->base, 0xA5, mapped - PAGE);
    return a->base;
}

static void release(uint32_t i)
{
    munmap(allocations[i].base, allocations[i].mapped);
    munmap(allocations[i].shadow, allocations[i].mapped * sizeof *allocations[i].shadow);
    allocations[i] = allocations[--n_allocations];
}

void gpu_free(void *at)
{
    for (uint32_t i = 0; i < n_allocations; i++)
        if (allocations[i].base == at) {
            release(i);
            return;
        }
    assert(!at);
}

void gpu_free_all(void)
{
    while (n_allocations > 0)
        release(n_allocations - 1);
    free(allocations);
    allocations = NULL;
    room = 0;
    gpu_machine_free();
}

void gpu_swap(struct gpu_aside *aside)
{
    const struct gpu_aside mine = {allocations, gpu_machine, n_allocations, room, gpu_bounds_only};
    allocations = aside->allocations;
    gpu_machine = aside->machine;
    n_allocations = aside->n;
    room = aside->room;
    gpu_bounds_only = aside->bounds_only;
    *aside = mine;
}

static struct allocation *allocation_of(const void *at, size_t bytes)
{
    const uint8_t *p = at;
    for (uint32_t i = 0; i <= n_allocations; i++) { /* the one of last time first */
        uint32_t n = i == 0 ? latest : i - 1;
        if (n < n_allocations && p >= allocations[n].base && bytes <= allocations[n].bytes &&
            (size_t)(p - allocations[n].base) <= allocations[n].bytes - bytes) {
            latest = n;
            return &allocations[n];
        }
    }
    return NULL;
}

void gpu_poison(void *at, size_t bytes)
{
    struct allocation *a = allocation_of(at, bytes);
    assert(a);
    memset(at, 0xA5, bytes);
    struct gpu_byte *s = a->shadow + ((uint8_t *)at - a->base);
    for (size_t i = 0; i < bytes; i++)
        s[i] = (struct gpu_byte){.writer_block = NOBODY};
}

void gpu_check_bounds_only(int yes)
{
    gpu_bounds_only = yes;
}

/* ---- the shadow ---- */

static void after_write(const struct gpu_byte *b, uint64_t where, bool write, int lane)
{
    const struct gpu_machine *m = gpu_machine;
    if (b->writer_block < m->launch_first) {
        if (b->writer_block == NOBODY && !write)
            gpu_found(GPU_UNWRITTEN, "a read of global memory that no kernel has written", where, lane);
        return;
    }
    if (b->writer_block != m->serial)
        gpu_found(GPU_RACE_BLOCKS, "another block of the launch has written this", where, lane);
    else if (!gpu_knows(b->writer_warp, b->writer_at))
        gpu_found(GPU_RACE_WARPS, "no barrier after another warp's write to global memory", where, lane);
    else if (b->writer_warp == m->self->index && b->writer_lane != lane && b->sync == m->self->syncs)
        gpu_found(GPU_RACE_LANES, "no warp_sync after another lane's write to global memory", where, lane);
}

static void after_read(const struct gpu_byte *b, uint64_t where, int lane)
{
    const struct gpu_machine *m = gpu_machine;
    if (b->reader_block < m->launch_first)
        return;
    bool several = b->reader_warp == GPU_WARPS_SEVERAL;
    if (b->reader_block != m->serial || b->reader_warp == GPU_BLOCKS_SEVERAL) {
        gpu_found(GPU_RACE_BLOCKS, "another block of the launch reads this", where, lane);
        return;
    }
    for (uint32_t i = 0; i < m->n_warps; i++)
        if ((several ? i != m->self->index : i == b->reader_warp) && !gpu_knows(i, b->reader_at)) {
            gpu_found(GPU_RACE_WARPS, "no barrier after another warp's read of global memory", where, lane);
            return;
        }
    if (b->reader_warp == m->self->index && b->reader_lane != lane && b->reader_sync == m->self->syncs)
        gpu_found(GPU_RACE_LANES, "no warp_sync after another lane's read of global memory", where, lane);
}

static void note_read(struct gpu_byte *b, int lane)
{
    const struct gpu_machine *m = gpu_machine;
    const struct gpu_warp *w = m->self;
    uint32_t now = w->past.clock[w->index];
    if (b->reader_block >= m->launch_first &&
        (b->reader_block != m->serial || b->reader_warp == GPU_BLOCKS_SEVERAL)) {
        b->reader_warp = GPU_BLOCKS_SEVERAL; /* none of them may write it */
        return;
    }
    bool mine = b->reader_block == m->serial && b->reader_warp == w->index && b->reader_sync == w->syncs;
    bool others = b->reader_block == m->serial && b->reader_warp != w->index;
    if (others)
        now = b->reader_at > now ? b->reader_at : now;
    b->reader_lane = mine && b->reader_lane != lane ? GPU_LANES_SEVERAL : (uint8_t)lane;
    b->reader_warp = others ? GPU_WARPS_SEVERAL : (uint8_t)w->index;
    b->reader_block = m->serial;
    b->reader_at = now;
    b->reader_sync = w->syncs;
}

bool gpu_global_may(const void *at, uint32_t bytes, bool write, int lane)
{
    const struct gpu_machine *m = gpu_machine;
    struct allocation *a = allocation_of(at, bytes);
    if (!a || (uintptr_t)at % bytes != 0) {
        gpu_found(GPU_BOUNDS, a ? "global memory that is not aligned" : "global memory that nobody allocated",
                  (uintptr_t)at, lane);
        return false;
    }
    if (gpu_bounds_only)
        return true;
    size_t first = (size_t)((const uint8_t *)at - a->base);
    for (size_t i = first; i < first + bytes; i++) {
        struct gpu_byte *b = &a->shadow[i];
        after_write(b, i, write, lane);
        if (!write) {
            note_read(b, lane);
            continue;
        }
        after_read(b, i, lane);
        b->writer_block = m->serial;
        b->writer_at = m->self->past.clock[m->self->index];
        b->writer_warp = (uint8_t)m->self->index;
        b->writer_lane = (uint8_t)lane;
        b->sync = m->self->syncs;
    }
    return true;
}

/* ---- what a kernel says ---- */

void gpu_global_read(const void *base, wu row, size_t stride, wu at, wb on, uint32_t bytes, wu *v)
{
    for (uint32_t i = 0; i < (bytes + 3) / 4; i++)
        v[i] = (wu){0};
    GPU_EACH_LANE
    {
        const uint8_t *from = (const uint8_t *)base + row[l] * stride + at[l];
        uint32_t word[4] = {0};
        if (!on[l] || !gpu_global_may(from, bytes, false, l))
            continue;
        memcpy(word, from, bytes);
        for (uint32_t i = 0; i < (bytes + 3) / 4; i++)
            v[i][l] = word[i];
    }
}

void gpu_global_write(void *base, wu row, size_t stride, wu at, wb on, uint32_t bytes, const wu *v)
{
    GPU_EACH_LANE
    {
        uint8_t *to = (uint8_t *)base + row[l] * stride + at[l];
        uint32_t word[4];
        if (!on[l] || !gpu_global_may(to, bytes, true, l))
            continue;
        for (uint32_t i = 0; i < (bytes + 3) / 4; i++)
            word[i] = v[i][l];
        memcpy(to, word, bytes);
    }
}

uint32_t g_ld32_uniform(const void *base, size_t at)
{
    uint32_t v = 0;
    const uint8_t *from = (const uint8_t *)base + at;
    if (gpu_global_may(from, 4, false, 0))
        memcpy(&v, from, 4);
    return v;
}

const void *g_pointer(const void *const *list, uint32_t i)
{
    return gpu_global_may(&list[i], sizeof *list, false, 0) ? list[i] : NULL;
}
