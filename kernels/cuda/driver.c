/* The driver by dlopen (driver.h): its functions by cuGetProcAddress, which gives those of the version that we were written
 * for, whatever newer ones the installed driver has under the same name. */
#include "kernels/cuda/driver.h"
#include "base/clock.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROW(field, name, arguments)                                                                          \
    {                                                                                                        \
#name, offsetof(struct sl_cuda, field)                                                               \
    }
#define LISTED(field, name, arguments) ROW(field, name, arguments),
static const struct {
    const char *name;
    size_t at;
} rows[] = {SL_CU_CALLS(LISTED)};
_Static_assert(sizeof rows / sizeof *rows * sizeof(void *) == sizeof(struct sl_cuda), "a row each");

typedef sl_cu_result version_call(int *version);
typedef sl_cu_result address_call(const char *name, void **found, int version, unsigned long long flags,
                                  void *status);

static void *symbol(void *library, const char *name)
{
    return dlsym(library, name);
}

static sl_status check_version(void *library, const char *file, struct sl_err *err)
{
    version_call *get_version = NULL;
    void *found = symbol(library, "cuDriverGetVersion");
    memcpy(&get_version, &found, sizeof found);
    int version = 0;
    if (!get_version || get_version(&version) != SL_CU_OK)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "%.200s is no driver of NVIDIA's: install one of version 580 or newer", file);
    if (version < SL_CU_VERSION)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "the GPU driver serves CUDA %d.%d, and our kernels need %d.%d: install driver 580 or newer",
            version / 1000, version % 1000 / 10, SL_CU_VERSION / 1000, SL_CU_VERSION % 1000 / 10);
    return SL_OK;
}

static sl_status fill(struct sl_cuda *cuda, void *library, const char *file, struct sl_err *err)
{
    address_call *get_address = NULL;
    void *found = symbol(library, "cuGetProcAddress_v2");
    memcpy(&get_address, &found, sizeof found);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        found = NULL;
        if (!get_address || get_address(rows[i].name, &found, SL_CU_VERSION, 0, NULL) != SL_CU_OK || !found)
            return sl_fail(err, SL_E_UNAVAILABLE, "%.200s has no %s: install driver 580 or newer", file,
                           get_address ? rows[i].name : "cuGetProcAddress_v2");
        memcpy((char *)cuda + rows[i].at, &found, sizeof found);
    }
    return SL_OK;
}

static const char *remedy(sl_cu_result result)
{
    switch (result) {
    case SL_CU_NO_DEVICE:
        return "the driver finds no GPU: see `nvidia-smi -L`, CUDA_VISIBLE_DEVICES, and in MIG mode whether there is an instance";
    case SL_CU_STUB_LIBRARY:
        return "the library is the toolkit's stub: put the driver's own before it in LD_LIBRARY_PATH";
    case SL_CU_SYSTEM_NOT_READY:
        return "the system is not ready: start the service nvidia-fabricmanager";
    case SL_CU_DRIVER_MISMATCH:
        return "the kernel's driver and the library are of different versions: restart the machine";
    case SL_CU_COMPAT_NOT_SUPPORTED:
        return "the library is a compatibility package, which this GPU can't use: install driver 580 or newer";
    case SL_CU_UNKNOWN:
        return "the driver can't say why; see `dmesg`, and whether the device files /dev/nvidia* may be used";
    default:
        return NULL;
    }
}

/* Streams share 8 queues of the device unless it is told otherwise, when it starts: a stage has more, and NCCL some of its own, and one that
 * waits for the other end of a link would hold up another that has nothing to do with it. Set before any thread runs. */
__attribute__((constructor)) static void ask_for_queues(void)
{
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
}

static sl_status start(const struct sl_cuda *cuda, struct sl_err *err)
{
    sl_cu_result result = cuda->init(0);
    const char *why = remedy(result);
    if (why)
        return sl_fail(err, SL_E_UNAVAILABLE, "no GPU can be used: %s (error %u of cuInit)", why, result);
    return sl_cu_check(cuda, result, "starting the GPU driver", err);
}

sl_status sl_cuda_open_file(struct sl_cuda *cuda, const char *file, struct sl_err *err)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "a GPU needs NVIDIA's driver, which can't be opened (%.160s): install version 580 or newer",
            dlerror());
    SL_TRY(check_version(library, file, err));
    SL_TRY(fill(cuda, library, file, err));
    return start(cuda, err);
}

static struct sl_cuda table;
static sl_status opened;
static struct sl_err why_not;

static void open_once(void)
{
    const char *file = getenv("SLUICE_LIBCUDA");
    opened = sl_cuda_open_file(&table, file && file[0] ? file : "libcuda.so.1", &why_not);
}

sl_status sl_cuda_open(const struct sl_cuda **cuda, struct sl_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_once);
    *cuda = &table;
    return opened == SL_OK ? SL_OK : sl_fail(err, opened, "%s", why_not.text);
}

sl_status sl_cu_check(const struct sl_cuda *cuda, sl_cu_result result, const char *what, struct sl_err *err)
{
    if (result == SL_CU_OK)
        return SL_OK;
    if (result == SL_CU_NOT_READY)
        return SL_AGAIN;
    const char *name = NULL, *text = NULL;
    if (cuda->error_name(result, &name) != SL_CU_OK || !name)
        name = "unknown to the driver";
    if (cuda->error_text(result, &text) != SL_CU_OK || !text)
        text = "no more is said";
    const char *remedy = result == SL_CU_OUT_OF_MEMORY ? "; `nvidia-smi` shows who has it" : "";
    return sl_fail(err, SL_E_UNAVAILABLE, "%s failed on the GPU: %s (%s, %u)%s", what, text, name, result,
                   remedy);
}

sl_status sl_cu_wait(const struct sl_cuda *cuda, sl_cu_event event, uint32_t patience_ms, const char *what,
                     struct sl_err *err)
{
    enum { SPIN_NS = 50000, NAP_NS = 100000 };
    uint64_t begun_ns = sl_clock_ns();
    for (;;) {
        sl_cu_result result = cuda->event_query(event);
        if (result != SL_CU_NOT_READY)
            return sl_cu_check(cuda, result, what, err);
        uint64_t waited_ns = sl_clock_ns() - begun_ns;
        if (waited_ns >= patience_ms * 1000000ull)
            return sl_fail(err, SL_E_DEADLINE, "%s does not end on the GPU: given up after %.1f s", what,
                           patience_ms * 1e-3);
        if (waited_ns >= SPIN_NS)
            nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    }
}

bool sl_cu_is_final(sl_cu_result result)
{
    switch (result) {
    case SL_CU_DEVICE_UNAVAILABLE:
    case SL_CU_ECC_UNCORRECTABLE:
    case SL_CU_NVLINK_UNCORRECTABLE:
    case SL_CU_CONTAINED:
    case SL_CU_ILLEGAL_ADDRESS:
    case SL_CU_LAUNCH_TIMEOUT:
    case SL_CU_CONTEXT_IS_DESTROYED:
    case SL_CU_ASSERT:
    case SL_CU_TENSOR_MEMORY_LEAK:
    case SL_CU_MPS_CLIENT_TERMINATED:
    case SL_CU_UNKNOWN:
        return true;
    default: /* exceptions of kernels: stack, instruction, alignment, address space, counter, the launch itself */
        return result >= SL_CU_HARDWARE_STACK_ERROR && result <= SL_CU_LAUNCH_FAILED;
    }
}
