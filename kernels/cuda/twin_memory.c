/* Memory of the twin (twin.h): a device's, which is shut to the host, and the host's that is pinned. */
#include "kernels/cuda/twin_impl.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, ALIGNMENT = 256 }; /* of what cuMemAlloc gives */

static void protect(const struct twin_memory *m, int access)
{
    int failed = mprotect(m->pages, m->pages_bytes, access);
    assert(!failed); /* whole pages of mappings that are ours */
}

static bool holds(const struct twin_memory *m, const void *at, size_t bytes)
{
    const uint8_t *from = at;
    return from >= m->at && from < m->at + m->bytes && bytes <= (size_t)(m->at + m->bytes - from);
}

static struct twin_memory *find(struct twin_memory *list, const void *at, size_t bytes)
{
    for (struct twin_memory *m = list; m; m = m->next)
        if (holds(m, at, bytes))
            return m;
    return NULL;
}

void sl_twin_memory_shut(struct CUctx_st *context, bool shut)
{
    if (context->open != shut)
        return;
    for (const struct twin_memory *m = context->memory; m; m = m->next)
        protect(m, shut ? PROT_NONE : PROT_READ | PROT_WRITE);
    context->open = !shut;
}

void *sl_twin_memory_find(const struct CUctx_st *context, sl_cu_at at, size_t bytes)
{
    void *here = (void *)(uintptr_t)at;
    return find(context->memory, here, bytes) ? here : NULL;
}

static bool meets(const struct twin_memory *list, const void *at, size_t bytes)
{
    for (const struct twin_memory *m = list; m; m = m->next)
        if ((const uint8_t *)at < m->at + m->bytes && m->at < (const uint8_t *)at + bytes)
            return true;
    return false;
}

bool sl_twin_is_pinned(const void *at, size_t bytes)
{
    return find(sl_twin_world.pinned, at, bytes) != NULL;
}

static bool add(struct twin_memory **list, const struct twin_memory *memory)
{
    struct twin_memory *m = malloc(sizeof *m);
    if (!m)
        return false;
    *m = *memory;
    m->next = *list;
    *list = m;
    return true;
}

static void give_back(const struct twin_memory *m)
{
    if (m->ours)
        munmap(m->pages - PAGE, m->pages_bytes + 2 * PAGE);
    else if (m->pages && sl_twin_world.config.free) {
        protect(m, PROT_READ | PROT_WRITE);
        sl_twin_world.config.free(m->at);
    }
}

/* The one that begins there; false: there is none. */
static bool take_out(struct twin_memory **list, const void *at, size_t *bytes)
{
    for (struct twin_memory **m = list; *m; m = &(*m)->next)
        if ((*m)->at == at) {
            struct twin_memory *found = *m;
            *bytes = found->bytes;
            *m = found->next;
            give_back(found);
            free(found);
            return true;
        }
    return false;
}

void sl_twin_memory_end(struct twin_memory **list)
{
    size_t bytes;
    while (*list)
        take_out(list, (*list)->at, &bytes);
}

/* Its end lies as near to a page that nobody may touch as its alignment lets it. */
static bool map(struct twin_memory *m, size_t bytes)
{
    size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    uint8_t *base =
        mmap(NULL, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return false;
    *m = (struct twin_memory){.bytes = bytes, .pages = base + PAGE, .pages_bytes = pages, .ours = true};
    m->at = m->pages + (pages - bytes) / ALIGNMENT * ALIGNMENT;
    protect(m, PROT_READ | PROT_WRITE);
    memset(m->pages, 0xA5, pages);
    return true;
}

static bool take(struct twin_memory *m, size_t bytes)
{
    if (!sl_twin_world.config.alloc)
        return map(m, bytes);
    uint8_t *at = sl_twin_world.config.alloc(bytes);
    *m = (struct twin_memory){
        .at = at, .bytes = bytes, .pages = at, .pages_bytes = (bytes + PAGE - 1) / PAGE * PAGE};
    return at != NULL;
}

sl_cu_result sl_twin_mem_alloc(sl_cu_at *at, size_t bytes)
{
    TWIN_ENTER_APART;
    struct CUctx_st *c = sl_twin_current;
    if (bytes == 0)
        return SL_CU_INVALID_VALUE;
    if (sl_twin_refused() || bytes > sl_twin_world.config.device_bytes - c->used_bytes)
        return SL_CU_OUT_OF_MEMORY;
    struct twin_memory m;
    if (!take(&m, bytes))
        return SL_CU_OUT_OF_MEMORY;
    if (!add(&c->memory, &m)) {
        give_back(&m);
        return SL_CU_OUT_OF_MEMORY;
    }
    protect(&m, PROT_NONE);
    c->used_bytes += bytes;
    *at = (uintptr_t)m.at;
    return SL_CU_OK;
}

sl_cu_result sl_twin_mem_free(sl_cu_at at)
{
    TWIN_ENTER_APART;
    struct CUctx_st *c = sl_twin_current;
    if (!sl_twin_idle(c))
        sl_twin_misuse(
            "memory of the device is given back while work is queued: the driver would wait for all of it");
    sl_twin_run(c);
    size_t bytes;
    if (!take_out(&c->memory, (void *)(uintptr_t)at, &bytes))
        return SL_CU_INVALID_VALUE;
    c->used_bytes -= bytes;
    return SL_CU_OK;
}

sl_cu_result sl_twin_mem_info(size_t *free_bytes, size_t *total)
{
    TWIN_ENTER;
    *total = sl_twin_world.config.device_bytes;
    *free_bytes = *total - sl_twin_current->used_bytes;
    return SL_CU_OK;
}

sl_cu_result sl_twin_host_alloc(void **memory, size_t bytes, unsigned flags)
{
    TWIN_ENTER_APART;
    struct twin_memory m;
    (void)flags;
    if (bytes == 0)
        return SL_CU_INVALID_VALUE;
    if (sl_twin_refused() || !map(&m, bytes))
        return SL_CU_OUT_OF_MEMORY;
    if (!add(&sl_twin_world.pinned, &m)) {
        give_back(&m);
        return SL_CU_OUT_OF_MEMORY;
    }
    *memory = m.at;
    return SL_CU_OK;
}

sl_cu_result sl_twin_host_register(void *memory, size_t bytes, unsigned flags)
{
    TWIN_ENTER_APART;
    (void)flags;
    const struct twin_memory m = {.at = memory, .bytes = bytes};
    if (!memory || bytes == 0)
        return SL_CU_INVALID_VALUE;
    if (meets(sl_twin_world.pinned, memory,
              bytes)) /* whose it is does not matter: not even a part may be twice */
        return SL_CU_ALREADY_REGISTERED;
    return !sl_twin_refused() && add(&sl_twin_world.pinned, &m) ? SL_CU_OK : SL_CU_OUT_OF_MEMORY;
}

/* What was allocated (ours) or registered, and begins there. */
static sl_cu_result unpin(void *memory, bool ours, sl_cu_result unknown)
{
    size_t bytes;
    const struct twin_memory *m = find(sl_twin_world.pinned, memory, 1);
    if (!m)
        return unknown;
    if (m->ours != ours || m->at != memory)
        return SL_CU_INVALID_VALUE;
    if (!sl_twin_idle(sl_twin_current))
        sl_twin_misuse("pinned memory is given back while work is queued");
    take_out(&sl_twin_world.pinned, memory, &bytes);
    return SL_CU_OK;
}

sl_cu_result sl_twin_host_free(void *memory)
{
    TWIN_ENTER_APART;
    return unpin(memory, true, SL_CU_INVALID_VALUE);
}

sl_cu_result sl_twin_host_unregister(void *memory)
{
    TWIN_ENTER_APART;
    return unpin(memory, false, SL_CU_NOT_REGISTERED);
}
