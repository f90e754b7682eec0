/* gpu_launch and its memory by NVIDIA's driver (by_driver.h). `__real_X` is the machine's own X. */
#include "tests/gpu/by_driver.h"
#include "kernels/cuda/modules.h"
#include "kernels/gpu/launched.h"
#include "tests/gpu/written.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    KERNELS = 96,
    MEMORIES = 4096,
    PAGE = 4096,
    PATIENCE_MS = 60000,
    DEVICE_MAP = 2 /* of cuMemHostRegister */
};

void __real_gpu_launch(const struct gpu_kernel *kernel, const void *params, uint32_t n_blocks,
                       size_t shared_bytes, uint64_t seed);
void *__real_gpu_alloc(size_t bytes);
void __real_gpu_free(void *at);
void __real_gpu_free_all(void);
void __wrap_gpu_launch(const struct gpu_kernel *kernel, const void *params, uint32_t n_blocks,
                       size_t shared_bytes, uint64_t seed);
void *__wrap_gpu_alloc(size_t bytes);
void __wrap_gpu_free(void *at);
void __wrap_gpu_free_all(void);

static enum { UNASKED, NOT_WANTED, TAKEN, WRITTEN } state;
static const char *folder; /* WRITTEN */
static struct sl_gpu_session session;
static struct sl_gpu_modules modules;
static const struct sl_gpu_image *more;
static uint32_t n_more;
static sl_cu_stream stream;
static sl_cu_event event;
static void *memories[MEMORIES]; /* registered with the driver */
static uint32_t n_memories;
static struct {
    const struct gpu_kernel *kernel;
    sl_cu_function function;
    uint32_t shared_bytes; /* that it was looked up with */
} known[KERNELS];
static struct sl_cu_twin_kernel
    names[KERNELS]; /* what the twin's world knows: those of `known`, "" behind them */
static uint32_t n_known;
static uint64_t n_launches;
static bool inside; /* the twin of the driver launches into the machine */

static void must(sl_status status, const struct sl_err *err)
{
    if (status == SL_OK)
        return;
    fflush(stdout);
    fprintf(stderr, "by the driver: %s\n", err->text);
    _Exit(2);
}

static void must_cu(sl_cu_result result, const char *what)
{
    struct sl_err err;
    must(sl_cu_check(session.cuda, result, what, &err), &err);
}

void by_driver_images(const struct sl_gpu_image *images, uint32_t n)
{
    more = images;
    n_more = n;
}

const struct sl_gpu *by_driver_gpu(void)
{
    return state == TAKEN ? &session.gpu : NULL;
}

/* ---- the GPU, or its twin ---- */

static const struct sl_cuda *start_twin(void)
{
    for (uint32_t i = 0; i < KERNELS; i++)
        names[i].name = "";
    sl_cu_twin_start(&(struct sl_cu_twin_config){.seed = 17,
                                                 .n_devices = 1,
                                                 .device_bytes = 1 << 20,
                                                 .capability = 90,
                                                 .kernels = names,
                                                 .n_kernels = KERNELS});
    sl_cu_twin()->init(0);
    return sl_cu_twin();
}

static void load_images(bool is_twin, struct sl_err *err)
{
    static const uint8_t any[] = "an image";
    static const size_t n_any = sizeof any;
    struct sl_gpu_image all[SL_GPU_MODULES] = {{"any", any, &n_any}};
    uint32_t n = is_twin ? 1 : 0;
    for (uint32_t i = 0; !is_twin && i < sl_gpu_n_images && n < SL_GPU_MODULES; i++)
        all[n++] = sl_gpu_images[i];
    for (uint32_t i = 0; !is_twin && i < n_more && n < SL_GPU_MODULES; i++)
        all[n++] = more[i];
    must(sl_gpu_modules_load(&modules, session.cuda, all, n, err), err);
}

static void say(void)
{
    printf("by the driver: %llu launches of %u kernels on %s (%u.%u)\n", (unsigned long long)n_launches,
           n_known, session.gpu.name, session.gpu.capability / 10, session.gpu.capability % 10);
}

static void begin(const char *who)
{
    struct sl_gpu_choice choice = {.by = SL_GPU_ANY};
    struct sl_err err = {0};
    const struct sl_cuda *cuda;
    bool is_twin = strcmp(who, "twin") == 0;
    if (!is_twin)
        setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    if (!is_twin)
        must(sl_gpu_choice_read(&choice, who, &err), &err);
    if (is_twin)
        cuda = start_twin();
    else
        must(sl_cuda_open(&cuda, &err), &err);
    const struct sl_gpu_need need = {.capability = sl_gpu_least_capability};
    must(sl_gpu_session_open(&session, cuda, &choice, &need, NULL, &err), &err);
    int one_address = 0;
    must_cu(cuda->device_attribute(&one_address, SL_CU_HOST_POINTERS, session.device), "asking what it is");
    if (!one_address)
        must(sl_fail(&err, SL_E_UNAVAILABLE,
                     "%s has other addresses for the host's memory: kernels can't be tried on it like this",
                     session.gpu.name),
             &err);
    load_images(is_twin, &err);
    must_cu(cuda->stream_create(&stream, SL_CU_STREAM_NON_BLOCKING), "making a stream");
    must_cu(cuda->event_create(&event, SL_CU_EVENT_NO_TIMING), "making an event");
    atexit(say);
}

/* Whether the driver launches, and not the machine; the first who asks finds out. */
static bool wanted(void)
{
    const char *who = getenv("SLUICE_GPU");
    if (state == UNASKED) {
        bool is_written = who && strncmp(who, "written:", 8) == 0;
        state = is_written ? WRITTEN : who && *who ? TAKEN : NOT_WANTED;
        folder = is_written ? who + 8 : NULL;
        if (state == TAKEN)
            begin(who);
    }
    return state == TAKEN && !inside;
}

/* ---- memory ---- */

void *__wrap_gpu_alloc(size_t bytes)
{
    void *at = __real_gpu_alloc(bytes);
    bool by_driver = wanted();
    if (state == WRITTEN && bytes > 0)
        written_alloc(at, bytes);
    if (!by_driver || bytes == 0)
        return at;
    if (n_memories == MEMORIES) {
        struct sl_err err;
        must(sl_fail(&err, SL_E_INTERNAL, "a test has more than %d allocations", MEMORIES), &err);
    }
    must_cu(session.cuda->host_register(at, (bytes + PAGE - 1) / PAGE * PAGE, DEVICE_MAP),
            "registering a test's memory");
    memories[n_memories++] = at;
    return at;
}

static void forget(uint32_t i)
{
    must_cu(session.cuda->host_unregister(memories[i]), "giving a test's memory back");
    memories[i] = memories[--n_memories];
}

void __wrap_gpu_free(void *at)
{
    for (uint32_t i = 0; i < n_memories; i++)
        if (memories[i] == at) {
            forget(i);
            break;
        }
    if (state == WRITTEN && at)
        written_free(at);
    __real_gpu_free(at);
}

void __wrap_gpu_free_all(void)
{
    while (n_memories > 0)
        forget(n_memories - 1);
    written_free(NULL);
    __real_gpu_free_all();
}

/* ---- launches ---- */

static sl_cu_function look_up(const struct gpu_kernel *kernel, uint32_t shared_bytes)
{
    struct sl_err err;
    uint32_t i = 0;
    while (i < n_known && known[i].kernel != kernel)
        i++;
    if (i < n_known && known[i].shared_bytes >= shared_bytes)
        return known[i].function;
    if (i == KERNELS)
        must(sl_fail(&err, SL_E_INTERNAL, "a program has more than %d kernels", KERNELS), &err);
    if (i == n_known) {
        names[i] = gpu_launched(kernel);
        known[n_known++].kernel = kernel;
    }
    assert(kernel->params_bytes <= SL_CU_TWIN_PARAMS);
    must(sl_gpu_modules_find(&modules, kernel->name, shared_bytes, &known[i].function, &err), &err);
    known[i].shared_bytes = shared_bytes;
    return known[i].function;
}

void __wrap_gpu_launch(const struct gpu_kernel *kernel, const void *params, uint32_t n_blocks,
                       size_t shared_bytes, uint64_t seed)
{
    bool by_driver = wanted();
    if (state == WRITTEN) {
        written_launch(folder, __real_gpu_launch, kernel, params, n_blocks, shared_bytes, seed);
        return;
    }
    if (!by_driver) {
        __real_gpu_launch(kernel, params, n_blocks, shared_bytes, seed);
        return;
    }
    if (n_blocks == 0)
        return;
    struct sl_err err;
    sl_cu_function function = look_up(kernel, (uint32_t)shared_bytes);
    uint64_t copy[SL_CU_TWIN_PARAMS / 8]; /* the driver takes a pointer to what it will not write */
    memcpy(copy, params, kernel->params_bytes);
    void *arguments[] = {copy};
    inside = true;
    must_cu(session.cuda->launch(function, n_blocks, 1, 1, kernel->warps * 32, 1, 1, (uint32_t)shared_bytes,
                                 stream, arguments, NULL),
            kernel->name);
    must_cu(session.cuda->event_record(event, stream), kernel->name);
    must(sl_cu_wait(session.cuda, event, PATIENCE_MS, kernel->name, &err), &err);
    inside = false;
    n_launches++;
}
