/* The twin's world (twin.h): its devices, their contexts, its kernels by name, and what it says of errors. */
#include "kernels/cuda/twin_impl.h"
#include <assert.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct twin_world sl_twin_world;
_Thread_local struct CUctx_st *sl_twin_current;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

int sl_twin_lock(void)
{
    return pthread_mutex_lock(&mutex);
}

void sl_twin_unlock(const int *held)
{
    (void)held;
    pthread_mutex_unlock(&mutex);
}

uint32_t sl_twin_draw(uint32_t n)
{
    return (uint32_t)((sl_rng_next(&sl_twin_world.rng) >> 32) * n >> 32);
}

void sl_twin_misuse(const char *format, ...)
{
    struct sl_cu_twin_report *report = &sl_twin_world.report;
    if (report->misuses++)
        return;
    va_list list;
    va_start(list, format);
    vsnprintf(report->first, sizeof report->first, format, list);
    va_end(list);
}

sl_cu_result sl_twin_enter(void)
{
    struct CUctx_st *c = sl_twin_current;
    if (!sl_twin_world.started)
        return SL_CU_NOT_INITIALIZED;
    if (!c || c->n_retained == 0)
        return SL_CU_INVALID_CONTEXT;
    if (!c->final)
        return SL_CU_OK;
    if (c->tells_in > 0) {
        c->tells_in--;
        return SL_CU_OK;
    }
    c->lost = true;
    return c->final;
}

bool sl_twin_refused(void)
{
    const struct sl_cu_twin_fault *fault = &sl_twin_world.config.fault;
    uint64_t number = sl_twin_world.n_taken++;
    return fault->kind == SL_CU_TWIN_NO_MEMORY && fault->at == number;
}

/* ---- the world ---- */

#define FREE_LIST(list)                                                                                      \
    for (void *next_; (list); (list) = next_) {                                                              \
        next_ = (list)->next;                                                                                \
        free(list);                                                                                          \
    }

static void end_context(struct CUctx_st *c)
{
    sl_twin_graphs_end(c);
    FREE_LIST(c->streams)
    FREE_LIST(c->events)
    FREE_LIST(c->functions)
    FREE_LIST(c->modules)
    sl_twin_memory_end(&c->memory);
    *c = (struct CUctx_st){.device = c->device};
}

static void end_world(void)
{
    for (uint32_t i = 0; i < SL_CU_TWIN_DEVICES; i++)
        end_context(&sl_twin_world.contexts[i]);
    sl_twin_memory_end(&sl_twin_world.pinned);
    sl_twin_world = (struct twin_world){.config = {.init = SL_CU_NO_DEVICE}};
}

void sl_cu_twin_start(const struct sl_cu_twin_config *config)
{
    TWIN_LOCKED;
    end_world();
    assert(config->n_devices <= SL_CU_TWIN_DEVICES);
    for (uint32_t i = 0; i < config->n_kernels; i++)
        assert(config->kernels[i].params_bytes <= SL_CU_TWIN_PARAMS);
    sl_twin_world.config = *config;
    sl_twin_world.rng = (struct sl_rng){config->seed, 0};
    sl_twin_world.haste = sl_twin_draw(4) % 3; /* late twice as often */
    for (uint32_t i = 0; i < SL_CU_TWIN_DEVICES; i++)
        sl_twin_world.contexts[i].device = i;
}

void sl_cu_twin_stop(void)
{
    TWIN_LOCKED;
    end_world();
}

struct sl_cu_twin_report sl_cu_twin_take_report(void)
{
    TWIN_LOCKED;
    struct sl_cu_twin_report report = sl_twin_world.report;
    sl_twin_world.report = (struct sl_cu_twin_report){0};
    return report;
}

const struct sl_cuda *sl_cu_twin(void)
{
#define ROW(field, name, arguments) .field = sl_twin_##field,
    static const struct sl_cuda table = {SL_CU_CALLS(ROW)};
#undef ROW
    return &table;
}

/* ---- errors ---- */

static const struct {
    sl_cu_result result;
    const char *name, *text;
} errors[] = {
    {SL_CU_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {SL_CU_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {SL_CU_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {SL_CU_DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE",
     "CUDA-capable device(s) is/are busy or unavailable"},
    {SL_CU_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {SL_CU_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {SL_CU_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {SL_CU_ECC_UNCORRECTABLE, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {SL_CU_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {SL_CU_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {SL_CU_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {SL_CU_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {SL_CU_LAUNCH_TIMEOUT, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {SL_CU_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {SL_CU_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {SL_CU_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {SL_CU_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {SL_CU_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {SL_CU_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {SL_CU_CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

static sl_cu_result error_of(sl_cu_result result, const char **text, bool name)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].result == result) {
            *text = name ? errors[i].name : errors[i].text;
            return SL_CU_OK;
        }
    *text = NULL;
    return SL_CU_INVALID_VALUE;
}

sl_cu_result sl_twin_error_name(sl_cu_result result, const char **text)
{
    return error_of(result, text, true);
}

sl_cu_result sl_twin_error_text(sl_cu_result result, const char **text)
{
    return error_of(result, text, false);
}

/* ---- devices and contexts ---- */

sl_cu_result sl_twin_init(unsigned flags)
{
    TWIN_LOCKED;
    const struct sl_cu_twin_config *config = &sl_twin_world.config;
    if (flags != 0)
        return SL_CU_INVALID_VALUE;
    if (config->init != SL_CU_OK)
        return config->init;
    if (config->n_devices == 0)
        return SL_CU_NO_DEVICE;
    sl_twin_world.started = true;
    return SL_CU_OK;
}

static sl_cu_result look_up(sl_cu_device device)
{
    if (!sl_twin_world.started)
        return SL_CU_NOT_INITIALIZED;
    return device < 0 || (uint32_t)device >= sl_twin_world.config.n_devices ? SL_CU_INVALID_DEVICE : SL_CU_OK;
}
#define TWIN_DEVICE(device)                                                                                  \
    TWIN_LOCKED;                                                                                             \
    do {                                                                                                     \
        sl_cu_result found_ = look_up(device);                                                               \
        if (found_ != SL_CU_OK)                                                                              \
            return found_;                                                                                   \
    } while (0)

sl_cu_result sl_twin_device_count(int *n)
{
    TWIN_LOCKED;
    *n = (int)sl_twin_world.config.n_devices;
    return sl_twin_world.started ? SL_CU_OK : SL_CU_NOT_INITIALIZED;
}

sl_cu_result sl_twin_device_get(sl_cu_device *device, int number)
{
    TWIN_DEVICE(number);
    *device = number;
    return SL_CU_OK;
}

sl_cu_result sl_twin_device_name(char *name, int bytes, sl_cu_device device)
{
    TWIN_DEVICE(device);
    snprintf(name, (size_t)bytes, "a twin of a GPU");
    return SL_CU_OK;
}

sl_cu_result sl_twin_device_bus(char *text, int bytes, sl_cu_device device)
{
    TWIN_DEVICE(device);
    snprintf(text, (size_t)bytes, "0000:%02x:00.0", device + 1);
    return SL_CU_OK;
}

sl_cu_result sl_twin_device_uuid(struct CUuuid_st *uuid, sl_cu_device device)
{
    TWIN_DEVICE(device);
    uint8_t bytes[16] = "sluice's twin 0"; /* fifteen, and a zero */
    bytes[15] = (uint8_t)device;
    memcpy((void *)uuid, bytes, sizeof bytes);
    return SL_CU_OK;
}

sl_cu_result sl_twin_device_bytes(size_t *bytes, sl_cu_device device)
{
    TWIN_DEVICE(device);
    *bytes = sl_twin_world.config.device_bytes;
    return SL_CU_OK;
}

/* Bytes of a multiprocessor, of which a block may have all but one KiB; by the programming guide's table of capabilities. */
static size_t shared_of(uint32_t capability)
{
    switch (capability) {
    case 75:
        return 65 * 1024;
    case 80:
    case 87:
        return 164 * 1024;
    case 86:
    case 89:
    case 120:
    case 121:
        return 100 * 1024;
    default:
        return 228 * 1024;
    }
}

static size_t shared_most(void)
{
    return shared_of(sl_twin_world.config.capability) - 1024;
}

sl_cu_result sl_twin_device_attribute(int *value, unsigned attribute, sl_cu_device device)
{
    TWIN_DEVICE(device);
    const struct sl_cu_twin_config *config = &sl_twin_world.config;
    switch (attribute) {
    case SL_CU_MULTIPROCESSORS:
        *value = 4;
        return SL_CU_OK;
    case SL_CU_COMPUTE_MODE:
        *value = config->mode;
        return SL_CU_OK;
    case SL_CU_HAS_ECC:
        *value = !config->no_ecc;
        return SL_CU_OK;
    case SL_CU_L2_BYTES:
        *value = 1 << 20;
        return SL_CU_OK;
    case SL_CU_CAPABILITY_MAJOR:
        *value = (int)config->capability / 10;
        return SL_CU_OK;
    case SL_CU_CAPABILITY_MINOR:
        *value = (int)config->capability % 10;
        return SL_CU_OK;
    case SL_CU_HOST_POINTERS:
        *value = 1;
        return SL_CU_OK;
    case SL_CU_SHARED_BYTES:
        *value = (int)shared_most();
        return SL_CU_OK;
    default:
        return SL_CU_INVALID_VALUE;
    }
}

sl_cu_result sl_twin_ctx_retain(sl_cu_context *context, sl_cu_device device)
{
    TWIN_DEVICE(device);
    struct CUctx_st *c = &sl_twin_world.contexts[device];
    if (sl_twin_world.config.in_use & 1u << device || sl_twin_world.config.mode == SL_CU_MODE_PROHIBITED)
        return SL_CU_DEVICE_UNAVAILABLE;
    if (c->final) /* of this process, for ever */
        return c->final;
    c->n_retained++;
    *context = c;
    return SL_CU_OK;
}

/* What a process that goes on would miss. */
static void look_for_leaks(const struct CUctx_st *c)
{
    uint32_t n_retained = 0;
    bool events = false;
    for (const struct CUevent_st *e = c->events; e; e = e->next)
        events = events || !e->gone;
    for (uint32_t i = 0; i < SL_CU_TWIN_DEVICES; i++)
        n_retained += sl_twin_world.contexts[i].n_retained;
    const char *what = c->memory               ? "memory of the device"
                       : c->streams            ? "a stream"
                       : events                ? "an event"
                       : c->modules            ? "a module"
                       : c->graphs || c->execs ? "a graph"
                                               : NULL;
    if (!what && n_retained == 0 && sl_twin_world.pinned)
        what = "pinned memory";
    if (what)
        sl_twin_misuse("a context is given back before %s", what);
}

sl_cu_result sl_twin_ctx_release(sl_cu_device device)
{
    TWIN_DEVICE(device);
    struct CUctx_st *c = &sl_twin_world.contexts[device];
    if (c->n_retained == 0)
        return SL_CU_INVALID_CONTEXT;
    if (--c->n_retained > 0)
        return SL_CU_OK;
    if (!sl_twin_idle(c) && !c->final)
        sl_twin_misuse("a context is given back while work is queued");
    if (!c->final)
        look_for_leaks(c);
    sl_cu_result final = c->final;
    end_context(c);
    c->final = final;
    c->lost = final != SL_CU_OK;
    return final;
}

sl_cu_result sl_twin_ctx_set_current(sl_cu_context context)
{
    TWIN_LOCKED;
    if (!sl_twin_world.started)
        return SL_CU_NOT_INITIALIZED;
    sl_twin_current = context;
    return SL_CU_OK;
}

/* ---- kernels ---- */

sl_cu_result sl_twin_module_load(sl_cu_module *module, const void *image)
{
    TWIN_ENTER_APART;
    struct CUmod_st *m = image && !sl_twin_refused() ? calloc(1, sizeof *m) : NULL;
    if (!m)
        return image ? SL_CU_OUT_OF_MEMORY : SL_CU_INVALID_VALUE;
    m->context = sl_twin_current;
    m->next = m->context->modules;
    m->context->modules = m;
    *module = m;
    return SL_CU_OK;
}

sl_cu_result sl_twin_module_unload(sl_cu_module module)
{
    TWIN_ENTER_APART;
    struct CUmod_st **at = &sl_twin_current->modules;
    while (*at && *at != module)
        at = &(*at)->next;
    if (!*at)
        return SL_CU_INVALID_HANDLE;
    if (!sl_twin_idle(sl_twin_current))
        sl_twin_misuse("a module is unloaded while work is queued");
    *at = module->next;
    free(module);
    return SL_CU_OK;
}

sl_cu_result sl_twin_module_function(sl_cu_function *function, sl_cu_module module, const char *name)
{
    TWIN_ENTER;
    if (!module || module->context != sl_twin_current)
        return SL_CU_INVALID_HANDLE;
    for (uint32_t i = 0; i < sl_twin_world.config.n_kernels; i++) {
        const struct sl_cu_twin_kernel *kernel = &sl_twin_world.config.kernels[i];
        if (strcmp(kernel->name, name) != 0)
            continue;
        struct CUfunc_st *f = calloc(1, sizeof *f);
        if (!f)
            return SL_CU_OUT_OF_MEMORY;
        f->context = sl_twin_current;
        f->kernel = kernel;
        f->shared_most = 48 * 1024;
        f->next = f->context->functions;
        f->context->functions = f;
        *function = f;
        return SL_CU_OK;
    }
    return SL_CU_NOT_FOUND;
}

static bool is_function(const struct CUfunc_st *function)
{
    return function && function->context == sl_twin_current;
}

sl_cu_result sl_twin_function_load(sl_cu_function function)
{
    TWIN_ENTER_APART;
    if (!is_function(function))
        return SL_CU_INVALID_HANDLE;
    function->loaded = true;
    return SL_CU_OK;
}

sl_cu_result sl_twin_function_attribute(int *value, unsigned attribute, sl_cu_function function)
{
    TWIN_ENTER;
    if (!is_function(function))
        return SL_CU_INVALID_HANDLE;
    *value = attribute == SL_CU_FUNCTION_MAX_THREADS      ? (int)function->kernel->threads
             : attribute == SL_CU_FUNCTION_DYNAMIC_SHARED ? (int)function->shared_most
                                                          : 0;
    return SL_CU_OK;
}

sl_cu_result sl_twin_function_set(sl_cu_function function, unsigned attribute, int value)
{
    TWIN_ENTER;
    if (!is_function(function))
        return SL_CU_INVALID_HANDLE;
    if (attribute != SL_CU_FUNCTION_DYNAMIC_SHARED || value < 0 || (size_t)value > shared_most())
        return SL_CU_INVALID_VALUE;
    function->shared_most = (size_t)value;
    return SL_CU_OK;
}

sl_cu_result sl_twin_function_fits(int *blocks, sl_cu_function function, int threads, size_t shared_bytes)
{
    TWIN_ENTER;
    if (!is_function(function))
        return SL_CU_INVALID_HANDLE;
    size_t by_shared = shared_bytes ? shared_of(sl_twin_world.config.capability) / (shared_bytes + 1024)
                                    : 32; /* a block costs one KiB more */
    bool whole = threads > 0 && (uint32_t)threads == function->kernel->threads;
    *blocks = !whole ? 0 : (int)(by_shared < function->kernel->per_sm ? by_shared : function->kernel->per_sm);
    return SL_CU_OK;
}
