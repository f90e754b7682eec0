/* The GPU of a device that has none (device.h): one world of the driver's twin for the process, of which each device has a GPU, and
 * the kernels' twins in it by name. What the twins find is an error of ours and ends the process: who uses such a device is a test. */
#include "base/log.h"
#include "kernels/gpu/attend.h"
#include "kernels/gpu/device_impl.h"
#include "kernels/gpu/elements.h"
#include "kernels/gpu/gemm.h"
#include "kernels/gpu/lanes.h"
#include "kernels/gpu/launched.h"
#include "kernels/gpu/norm.h"
#include "kernels/gpu/place.h"
#include "kernels/gpu/route.h"
#include <pthread.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

#define GEMM8_EXTERN(format)                                                                                 \
    extern const struct gpu_kernel gemm8_##format, gemm8_##format##_swiglu, gemm8_##format##_digits,         \
        gemm8_##format##_swiglu_digits, gemm8_few_##format, gemm8_few_##format##_swiglu,                     \
        gemm8_few_##format##_digits, gemm8_few_##format##_swiglu_digits, gemm8_wg_##format,                  \
        gemm8_wg_##format##_swiglu;
#define GEMM8_OF(format)                                                                                     \
    &gemm8_##format, &gemm8_##format##_swiglu, &gemm8_##format##_digits, &gemm8_##format##_swiglu_digits,    \
        &gemm8_few_##format, &gemm8_few_##format##_swiglu, &gemm8_few_##format##_digits,                     \
        &gemm8_few_##format##_swiglu_digits
#define GEMM8_WG_OF(format) &gemm8_wg_##format, &gemm8_wg_##format##_swiglu
GEMM8_EXTERN(i8)
GEMM8_EXTERN(i4)
GEMM8_EXTERN(i4g16)
GEMM8_EXTERN(i3)
GEMM8_EXTERN(i2)

const struct gpu_kernel *const gpu_kernels[] = {
    GEMM8_OF(i8),
    GEMM8_OF(i4),
    GEMM8_OF(i4g16),
    GEMM8_OF(i3),
    GEMM8_OF(i2),
    &sl_gpu_gemm_f32,
    &sl_gpu_gemm_bf16,
    &sl_gpu_gemm_f32_swiglu,
    &sl_gpu_gemm_bf16_swiglu,
    &sl_gpu_attend8_64,
    &sl_gpu_attend8_128,
    &sl_gpu_attend8_256,
    &sl_gpu_attend8_any,
    &sl_gpu_attend_f32_128,
    &sl_gpu_attend_f32_256,
    &sl_gpu_attend_f32_512,
    &sl_gpu_attend_bf16_128,
    &sl_gpu_attend_bf16_256,
    &sl_gpu_attend_bf16_512,
    &sl_gpu_norm,
    &sl_gpu_place,
    &sl_gpu_mix,
    &sl_gpu_quantise,
    &sl_gpu_choose,
    &sl_gpu_group,
    &sl_gpu_tasks,
    &sl_gpu_embed,
    &sl_gpu_combine,
    &sl_gpu_sigmoid,
    &sl_gpu_lanes,
    /* of sm_90a alone */
    GEMM8_WG_OF(i8),
    GEMM8_WG_OF(i4),
    GEMM8_WG_OF(i4g16),
    GEMM8_WG_OF(i3),
    GEMM8_WG_OF(i2),
};
const uint32_t gpu_n_kernels = sizeof gpu_kernels / sizeof *gpu_kernels;

uint32_t gpu_kernels_of(uint32_t capability)
{
    enum { OF_90A = 10 };
    return capability == 90 ? gpu_n_kernels : gpu_n_kernels - OF_90A;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sl_gpu_twin how; /* the world is to be */
static struct sl_cu_twin_kernel launched[GPU_FUNCTIONS_MOST];
static bool taken[SL_CU_TWIN_DEVICES];
static uint32_t n_taken;

void sl_gpu_twin_as(const struct sl_gpu_twin *twin)
{
    pthread_mutex_lock(&mutex);
    how = *twin;
    pthread_mutex_unlock(&mutex);
}

/* Memory and machine of the kernels' twins are a thread's (host.h), and a device is worked with by several: by its stage's, and by
 * that of a link's I/O, any of which may find that work of it is due. So they are the world's, and lent to whoever does some. The
 * driver's twin does one thing at a time. */
static struct gpu_aside aside;

static void run(const struct sl_cu_twin_kernel *kernel, const void *params, uint32_t n_blocks,
                size_t shared_bytes, uint64_t seed)
{
    gpu_swap(&aside);
    gpu_launch(kernel->arg, params, n_blocks, shared_bytes, seed);
    gpu_swap(&aside);
    struct gpu_report report = gpu_take_report();
    if (gpu_findings(&report) == 0)
        return;
    sl_log_error("the twin of a GPU has found what is wrong with a kernel: %s; this process ends",
                 report.first);
    _exit(EX_UNAVAILABLE);
}

static void *take_memory(size_t bytes)
{
    gpu_swap(&aside);
    void *at = gpu_alloc(bytes);
    gpu_swap(&aside);
    return at;
}

static void give_memory(void *at)
{
    gpu_swap(&aside);
    gpu_free(at);
    gpu_swap(&aside);
}

static void begin_world(void)
{
    const uint32_t capability = how.capability ? how.capability : 90;
    struct sl_cu_twin_config config = {.seed = how.seed,
                                       .n_devices = SL_CU_TWIN_DEVICES,
                                       .device_bytes = 1ull << 36,
                                       .capability = capability,
                                       .kernels = launched,
                                       .n_kernels = gpu_kernels_of(capability),
                                       .fault = how.fault,
                                       .no_graphs = how.no_graphs,
                                       .alloc = take_memory,
                                       .free = give_memory};
    for (uint32_t i = 0; i < config.n_kernels; i++) {
        launched[i] = gpu_launched(gpu_kernels[i]);
        launched[i].run = run;
    }
    aside = (struct gpu_aside){.bounds_only = !how.checked};
    sl_cu_twin_start(&config);
}

static void end_world(void)
{
    struct sl_cu_twin_report report = sl_cu_twin_take_report();
    sl_cu_twin_stop();
    gpu_swap(&aside);
    gpu_free_all();
    gpu_swap(&aside);
    if (report.misuses == 0)
        return;
    sl_log_error("the twin of the driver has seen %llu misuses, the first: %s",
                 (unsigned long long)report.misuses, report.first);
    abort();
}

static sl_status take(struct gpu_driver *driver, uint32_t number, struct sl_err *err)
{
    const struct sl_cuda *cuda = driver->cuda;
    struct sl_gpu gpus[SL_GPU_MOST];
    uint32_t n;
    SL_TRY(sl_cu_check(cuda, cuda->init(0), "starting the twin of the driver", err));
    SL_TRY(sl_gpu_list(cuda, gpus, &n, err));
    driver->gpu = gpus[number];
    SL_TRY(sl_cu_check(cuda, cuda->device_get(&driver->device, (int)number), "looking it up", err));
    SL_TRY(sl_cu_check(cuda, cuda->ctx_retain(&driver->context, driver->device), "making a context", err));
    taken[number] = true;
    n_taken++;
    return SL_OK;
}

sl_status gpu_world_join(struct gpu_driver *driver, struct sl_err *err)
{
    static const size_t n_bytes = 4;
    uint32_t patience_ms = how.patience_ms ? how.patience_ms : GPU_TWIN_PATIENCE_MS;
    static const struct sl_gpu_image image = {"twin", (const uint8_t *)"twin", &n_bytes};
    sl_status status;
    uint32_t number = 0;
    pthread_mutex_lock(&mutex);
    if (n_taken == 0)
        begin_world();
    while (number < SL_CU_TWIN_DEVICES && taken[number])
        number++;
    *driver = (struct gpu_driver){.cuda = sl_cu_twin(),
                                  .images = &image,
                                  .n_images = 1,
                                  .patience_ms = patience_ms,
                                  .patience_least_ms = patience_ms,
                                  .twin = true};
    if (number == SL_CU_TWIN_DEVICES)
        status = sl_fail(err, SL_E_UNAVAILABLE, "a process has %d twins of GPUs at most", SL_CU_TWIN_DEVICES);
    else
        status = take(driver, number, err);
    pthread_mutex_unlock(&mutex);
    return status;
}

void gpu_world_leave(struct gpu_driver *driver)
{
    if (!driver->context)
        return;
    pthread_mutex_lock(&mutex);
    driver->cuda->ctx_release(driver->device);
    driver->context = NULL;
    taken[driver->device] = false;
    if (--n_taken == 0)
        end_world();
    pthread_mutex_unlock(&mutex);
}
