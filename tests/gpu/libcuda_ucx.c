/* What UCX (1.22: cuda_copy, cuda_ipc) asks libcuda.so.1 for by name, over the twin: so the real library carries rows from one process's
 * device to another's (tests/e2e/test_rows_ucx_cuda.py). Its libnvidia-ml.so.1 is a link to this one.
 *
 * Another process's memory is read through /proc/PID/mem when it is that stream's turn, and has no bytes here: who touches it dies.
 * What a driver lets pass and rows must not do is a misuse (libcuda.c): copies by way of the host, waits for all of a stream, writing into
 * the other's memory, flags of a context that are set amid launches, for which a driver waits until who launches has done, and
 * hooks in its code. Of misuse of memory, streams and events the twin itself tells.
 *
 *   TWIN_FETCH   dies:N, slays:N: at fetch N, from 0, of another's memory this process, or the other, is killed */
#include "kernels/cuda/twin_impl.h"
#include "tests/gpu/libcuda.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CALL(name, ...)                                                                                      \
    EXPORTED sl_cu_result name(__VA_ARGS__);                                                                 \
    sl_cu_result name(__VA_ARGS__)

/* One of the table that is asked for by its own name. */
#define SAME(name, field, arguments, ...)                                                                    \
    EXPORTED sl_cu_result name arguments;                                                                    \
    sl_cu_result name arguments                                                                              \
    {                                                                                                        \
        return libcuda_table().field(__VA_ARGS__);                                                           \
    }

SAME(cuGetErrorString, error_text, (sl_cu_result result, const char **text), result, text)
SAME(cuDeviceGet, device_get, (sl_cu_device * device, int number), device, number)
SAME(cuDeviceGetCount, device_count, (int *n), n)
SAME(cuDeviceGetName, device_name, (char *name, int bytes, sl_cu_device device), name, bytes, device)
SAME(cuDeviceGetUuid_v2, device_uuid, (struct CUuuid_st * uuid, sl_cu_device device), uuid, device)
SAME(cuDeviceTotalMem_v2, device_bytes, (size_t * bytes, sl_cu_device device), bytes, device)
SAME(cuDevicePrimaryCtxRetain, ctx_retain, (sl_cu_context * context, sl_cu_device device), context, device)
SAME(cuDevicePrimaryCtxRelease_v2, ctx_release, (sl_cu_device device), device)
SAME(cuMemAlloc_v2, mem_alloc, (sl_cu_at * at, size_t bytes), at, bytes)
SAME(cuMemFree_v2, mem_free, (sl_cu_at at), at)
SAME(cuMemHostRegister_v2, host_register, (void *memory, size_t bytes, unsigned flags), memory, bytes, flags)
SAME(cuMemHostUnregister, host_unregister, (void *memory), memory)
SAME(cuStreamCreate, stream_create, (sl_cu_stream * stream, unsigned flags), stream, flags)
SAME(cuStreamDestroy_v2, stream_destroy, (sl_cu_stream stream), stream)
SAME(cuEventCreate, event_create, (sl_cu_event * event, unsigned flags), event, flags)
SAME(cuEventDestroy_v2, event_destroy, (sl_cu_event event), event)
SAME(cuEventRecord, event_record, (sl_cu_event event, sl_cu_stream stream), event, stream)

/* ---- the driver and its contexts ---- */

static uint64_t met; /* launches when memory was first shown to, or seen of, another process, and one */

CALL(cuInit, unsigned flags)
{
    libcuda_shared();
    return libcuda_table().init(flags);
}

CALL(cuDeviceGetAttribute, int *value, unsigned attribute, sl_cu_device device)
{
    enum { PCI_BUS = 33, UNIFIED_ADDRESSES = 41 };
    sl_cu_result result = libcuda_table().device_attribute(value, attribute, device);
    if (result != SL_CU_INVALID_VALUE)
        return result;
    *value = attribute == PCI_BUS ? device + 1 : attribute == UNIFIED_ADDRESSES; /* what else it asks: no */
    return SL_CU_OK;
}

CALL(cuDevicePrimaryCtxGetState, sl_cu_device device, unsigned *flags, int *active)
{
    TWIN_LOCKED;
    *flags = 0;
    *active = sl_twin_world.contexts[device].n_retained > 0;
    return SL_CU_OK;
}

static _Thread_local struct {
    sl_cu_context below[8];
    int n;
} stack;

CALL(cuCtxPushCurrent_v2, sl_cu_context context)
{
    if (stack.n == sizeof stack.below / sizeof *stack.below)
        abort();
    stack.below[stack.n++] = sl_twin_current;
    sl_twin_current = context;
    return SL_CU_OK;
}

CALL(cuCtxPopCurrent_v2, sl_cu_context *context)
{
    if (stack.n == 0)
        return SL_CU_INVALID_CONTEXT;
    if (context)
        *context = sl_twin_current;
    sl_twin_current = stack.below[--stack.n];
    return SL_CU_OK;
}

CALL(cuCtxGetCurrent, sl_cu_context *context)
{
    *context = sl_twin_current;
    return sl_twin_world.started ? SL_CU_OK : SL_CU_NOT_INITIALIZED;
}

CALL(cuCtxGetDevice, sl_cu_device *device)
{
    TWIN_ENTER;
    *device = (sl_cu_device)sl_twin_current->device;
    return SL_CU_OK;
}

CALL(cuCtxGetId, sl_cu_context context, unsigned long long *id)
{
    if (!context && !(context = sl_twin_current))
        return SL_CU_INVALID_CONTEXT;
    *id = context->device + 1;
    return SL_CU_OK;
}

static sl_cu_result set_flags(unsigned flags)
{
    TWIN_ENTER;
    (void)flags;
    if (met && sl_twin_world.n_launches >= met)
        sl_twin_misuse("flags of a context are set amid launches: a driver waits for who launches");
    return SL_CU_OK;
}

void *libcuda_for_ucx(const char *name)
{
    return strcmp(name, "cuCtxSetFlags") == 0 ? (void *)set_flags : NULL;
}

/* ---- memory ---- */

static struct twin_memory *find(sl_cu_at at, sl_cu_context *whose)
{
    const uint8_t *here = (const uint8_t *)(uintptr_t)at;
    for (int i = 0; i < SL_CU_TWIN_DEVICES; i++)
        for (struct twin_memory *m = sl_twin_world.contexts[i].memory; m; m = m->next)
            if (here >= m->at && here < m->at + m->bytes) {
                *whose = &sl_twin_world.contexts[i];
                return m;
            }
    return NULL;
}

CALL(cuMemGetAddressRange_v2, sl_cu_at *base, size_t *bytes, sl_cu_at at)
{
    TWIN_LOCKED;
    sl_cu_context whose;
    const struct twin_memory *m = find(at, &whose);
    if (!m)
        return SL_CU_NOT_FOUND;
    if (base)
        *base = (uintptr_t)m->at;
    if (bytes)
        *bytes = m->bytes;
    return SL_CU_OK;
}

static sl_cu_result tell(unsigned attribute, void *value, sl_cu_at at)
{
    enum {
        CONTEXT = 1,
        KIND = 2,
        NUMBER = 7,
        IS_MANAGED = 8,
        DEVICE = 9,
        IS_FOR_IPC = 10,
        HANDLES = 14,
        POOL = 17
    };
    enum { KIND_NONE = 0, KIND_HOST = 1, KIND_DEVICE = 2, NO_DEVICE = -2 };
    sl_cu_context whose = NULL;
    const struct twin_memory *m = find(at, &whose);
    bool pinned = !m && sl_twin_is_pinned((void *)(uintptr_t)at, 1);
    switch (attribute) {
    case CONTEXT:
        *(sl_cu_context *)value = whose;
        return SL_CU_OK;
    case KIND:
        *(unsigned *)value = m ? KIND_DEVICE : pinned ? KIND_HOST : KIND_NONE;
        return SL_CU_OK;
    case NUMBER:
        *(unsigned long long *)value = m ? (uintptr_t)m->at : 0;
        return SL_CU_OK;
    case IS_MANAGED:
        *(unsigned *)value = 0;
        return SL_CU_OK;
    case DEVICE:
        *(int *)value = m ? (int)whose->device : NO_DEVICE;
        return SL_CU_OK;
    case IS_FOR_IPC:
        *(int *)value = m != NULL;
        return SL_CU_OK;
    case HANDLES: /* of cuMemCreate's kinds: none */
        *(unsigned long long *)value = 0;
        return SL_CU_OK;
    case POOL:
        *(void **)value = NULL;
        return SL_CU_OK;
    default:
        fprintf(stderr, "the twin of a GPU: it knows no attribute %u of memory\n", attribute);
        return SL_CU_INVALID_VALUE;
    }
}

CALL(cuPointerGetAttributes, unsigned n, const unsigned *attributes, void **values, sl_cu_at at)
{
    TWIN_LOCKED;
    sl_cu_result result = SL_CU_OK;
    for (unsigned i = 0; i < n && result == SL_CU_OK; i++)
        result = tell(attributes[i], values[i], at);
    return result;
}

CALL(cuPointerGetAttribute, void *value, unsigned attribute, sl_cu_at at)
{
    TWIN_LOCKED;
    sl_cu_context whose;
    bool known = find(at, &whose) || sl_twin_is_pinned((void *)(uintptr_t)at, 1);
    return known ? tell(attribute, value, at) : SL_CU_INVALID_VALUE;
}

CALL(cuMemRetainAllocationHandle, void *handle, void *at)
{
    (void)handle, (void)at;
    return SL_CU_INVALID_VALUE; /* it was not made with cuMemCreate */
}

/* ---- another process's memory ---- */

union handle { /* as the driver's, which nobody looks into */
    struct {
        pid_t pid;
        const uint8_t *at;
        size_t bytes;
    } of;
    char bytes[64];
};
struct seen {
    struct seen *next;
    union handle of;
    uint8_t *here; /* as many bytes that nobody may touch */
    int memory;    /* the other's, as a file */
};
struct fetch {
    int memory;
    pid_t pid;
    void *to;
    const uint8_t *from;
    size_t bytes;
};
static struct seen *seen;
static unsigned long long n_fetched, bytes_fetched;

static void meet(void)
{
    if (!met)
        met = sl_twin_world.n_launches + 1;
}

CALL(cuIpcGetMemHandle, union handle *handle, sl_cu_at at)
{
    TWIN_ENTER;
    sl_cu_context whose;
    const struct twin_memory *m = find(at, &whose);
    if (!m)
        return SL_CU_INVALID_VALUE;
    *handle = (union handle){.of = {getpid(), m->at, m->bytes}};
    meet();
    return SL_CU_OK;
}

CALL(cuIpcOpenMemHandle_v2, sl_cu_at *at, union handle handle, unsigned flags)
{
    TWIN_ENTER;
    (void)flags;
    if (handle.of.pid == getpid())
        return SL_CU_INVALID_CONTEXT;
    char name[32];
    snprintf(name, sizeof name, "/proc/%d/mem", (int)handle.of.pid);
    struct seen *s = malloc(sizeof *s);
    int memory = open(name, O_RDONLY | O_CLOEXEC);
    void *here = mmap(NULL, handle.of.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!s || memory < 0 || here == MAP_FAILED) {
        perror(name);
        abort();
    }
    *s = (struct seen){seen, handle, here, memory};
    seen = s;
    *at = (uintptr_t)here;
    meet();
    return SL_CU_OK;
}

CALL(cuIpcCloseMemHandle, sl_cu_at at)
{
    TWIN_LOCKED;
    struct seen **s = &seen;
    while (*s && (uintptr_t)(*s)->here != at)
        s = &(*s)->next;
    struct seen *found = *s;
    if (!found)
        return SL_CU_INVALID_VALUE;
    *s = found->next;
    munmap(found->here, found->of.of.bytes);
    close(found->memory); /* a queued fetch has its own */
    free(found);
    return SL_CU_OK;
}

static const struct seen *seen_at(sl_cu_at at, size_t bytes)
{
    const struct seen *s = seen;
    while (s && !(at >= (uintptr_t)s->here && at + bytes <= (uintptr_t)s->here + s->of.of.bytes))
        s = s->next;
    return s;
}

static void strike(pid_t other)
{
    unsigned at;
    const char *text = getenv("TWIN_FETCH");
    if (text && sscanf(text, "dies:%u", &at) == 1 && at == n_fetched)
        kill(getpid(), SIGKILL);
    if (text && sscanf(text, "slays:%u", &at) == 1 && at == n_fetched)
        kill(other, SIGKILL);
}

/* Of a process that is gone nothing comes, as of a GPU that is: what was there stays. */
static bool fetch(void *arg)
{
    struct fetch *f = arg;
    strike(f->pid);
    n_fetched++;
    if (pread(f->memory, f->to, f->bytes, (off_t)(uintptr_t)f->from) == (ssize_t)f->bytes)
        bytes_fetched += f->bytes;
    else
        perror("the twin of a GPU: another process's memory cannot be read");
    close(f->memory);
    free(f);
    return true;
}

CALL(cuMemcpyDtoDAsync_v2, sl_cu_at to, sl_cu_at from, size_t bytes, sl_cu_stream stream)
{
    TWIN_ENTER;
    struct twin_op *op;
    const struct seen *s = seen_at(from, bytes);
    void *here = sl_twin_memory_find(sl_twin_current, to, bytes);
    if (seen_at(to, bytes))
        sl_twin_misuse("another process's memory is written: who waits for it can't know when that is over");
    if (!s || !here)
        return SL_CU_INVALID_VALUE;
    sl_cu_result result = sl_twin_give(stream, &op);
    if (result != SL_CU_OK)
        return result;
    struct fetch *f = malloc(sizeof *f);
    if (!f)
        abort();
    *f = (struct fetch){dup(s->memory), s->of.of.pid, here, s->of.of.at + (from - (uintptr_t)s->here), bytes};
    op->verb = TWIN_DO_STEPS;
    op->step = fetch, op->arg = f;
    return sl_twin_given(stream);
}

/* ---- events and streams ---- */

/* Whose context is current does not matter to a driver. It may be late. */
CALL(cuEventQuery, sl_cu_event event)
{
    struct CUctx_st *current = sl_twin_current;
    sl_twin_current = event->context;
    sl_cu_result result = sl_twin_event_query(event);
    sl_twin_current = current;
    return result;
}

/* By a thread of its own a driver would: here the work is done at once, since nobody asks for any while UCX sleeps. */
CALL(cuStreamAddCallback, sl_cu_stream stream, void (*told)(sl_cu_stream, sl_cu_result, void *), void *arg,
     unsigned flags)
{
    (void)flags;
    {
        TWIN_LOCKED;
        sl_twin_run(stream->context);
    }
    told(stream, SL_CU_OK, arg);
    return SL_CU_OK;
}

/* ---- what rows must not need ---- */

#define NEVER(name, why)                                                                                     \
    CALL(name, void)                                                                                         \
    {                                                                                                        \
        TWIN_LOCKED;                                                                                         \
        sl_twin_misuse(#name " is called: " why);                                                            \
        return SL_CU_NOT_SUPPORTED;                                                                          \
    }
NEVER(cuMemcpyAsync, "rows go by way of the host")
NEVER(cuMemcpyHtoD_v2, "rows go by way of the host")
NEVER(cuStreamSynchronize, "it waits as long as it takes")

/* Other kinds of memory, of which there is none. */
#define NONE(name)                                                                                           \
    CALL(name, void)                                                                                         \
    {                                                                                                        \
        return SL_CU_NOT_SUPPORTED;                                                                          \
    }
NONE(cuMemAddressFree)
NONE(cuMemAddressReserve)
NONE(cuMemAllocManaged)
NONE(cuMemCreate)
NONE(cuMemExportToShareableHandle)
NONE(cuMemGetAllocationGranularity)
NONE(cuMemGetAllocationPropertiesFromHandle)
NONE(cuMemImportFromShareableHandle)
NONE(cuMemMap)
NONE(cuMemPoolDestroy)
NONE(cuMemPoolExportPointer)
NONE(cuMemPoolExportToShareableHandle)
NONE(cuMemPoolImportFromShareableHandle)
NONE(cuMemPoolImportPointer)
NONE(cuMemPoolSetAccess)
NONE(cuMemRangeGetAttribute)
NONE(cuMemRelease)
NONE(cuMemSetAccess)
NONE(cuMemUnmap)
NONE(cuPointerSetAttribute)

/* ---- at the end ---- */

static uint8_t code[16]; /* of a call that hooks would be put into, as it was */

static __attribute__((constructor)) void remember(void)
{
    memcpy(code, (const void *)cuMemFree_v2, sizeof code);
}

void libcuda_end(void)
{
    if (n_fetched > 0)
        fprintf(stderr, "the twin of a GPU: fetched %llu times, %llu bytes, of another process's memory\n",
                n_fetched, bytes_fetched);
    if (sl_twin_world.n_launches > 0 && memcmp(code, (const void *)cuMemFree_v2, sizeof code) != 0)
        sl_twin_misuse("the driver's code was changed");
}

EXPORTED const char *nvmlErrorString(int result);
const char *nvmlErrorString(int result)
{
    (void)result;
    return "there is no NVML here";
}
