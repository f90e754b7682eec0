/* The twin of NVIDIA's driver (kernels/cuda/twin.h) with the twins of our kernels in it, as the library that the real one is in: whoever
 * opens libcuda.so.1 by SLUICE_LIBCUDA has a GPU, so `--device cuda:0` is tried in processes, with what is wrong with it by the
 * environment. Beyond the twin's own promises
 *   - an access outside of what was allocated is error 700 of its context, as it is on a GPU, and is told on stderr
 *   - whatever may be done is done when an event is asked for, so that no deadline for a GPU is missed because a twin is slow
 *   - misuses that were found end the process badly when it exits
 *
 *   TWIN_VERSION   what the driver says it is (13000)      TWIN_INIT      what cuInit says (0)
 *   TWIN_DEVICES   how many there are (1)                  TWIN_MISSING   a function that it does not have
 *   TWIN_MIB       of memory of each (65536)           TWIN_CAPABILITY  of each (90)
 *   TWIN_MODE      compute mode (0)                        TWIN_IN_USE    bit n: another program has device n
 *   TWIN_NO_ECC    1: none of their memories has ECC
 *   TWIN_MACHINE   a number that is in their UUIDs (0), which name the locks of stages
 *   TWIN_FAULT     fails:N:RESULT[:LATER], hangs:N: what launch N does (twin.h); no-memory:N: allocation N has none
 *   TWIN_WHEN      a file: launches count from when it is there, so that a fault comes behind loading and measuring. Who finds it takes
 *                  it away, so of several processes one has the fault, and not who comes in its place */
#include "tests/gpu/libcuda.h"
#include "kernels/cuda/twin_impl.h"
#include "kernels/gpu/device_impl.h"
#include "kernels/gpu/launched.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct gpu_aside memory = {.bounds_only = true}; /* and machine, of all threads: the twin has a lock */
static struct sl_cu_twin_kernel kernels[GPU_FUNCTIONS_MOST];
static struct sl_cu_twin_fault fault; /* that is to come */
static const char *when;              /* it does; NULL: it is in the world already */
static bool shared;                   /* with another library */

static unsigned from_environment(const char *name, unsigned otherwise)
{
    const char *text = getenv(name);
    return text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

/* ---- kernels ---- */

static void *allocate(size_t bytes)
{
    gpu_swap(&memory);
    void *at = gpu_alloc(bytes);
    gpu_swap(&memory);
    return at;
}

static void release(void *at)
{
    gpu_swap(&memory);
    gpu_free(at);
    gpu_swap(&memory);
}

static void run(const struct sl_cu_twin_kernel *kernel, const void *params, uint32_t n_blocks,
                size_t shared_bytes, uint64_t seed)
{
    gpu_swap(&memory);
    gpu_launch(kernel->arg, params, n_blocks, shared_bytes, seed);
    struct gpu_report report = gpu_take_report();
    gpu_swap(&memory);
    if (gpu_findings(&report) == 0)
        return;
    fprintf(stderr, "the twin of a GPU: %s\n", report.first);
    if (gpu_findings(&report) > report.found[GPU_BOUNDS])
        abort();
    sl_twin_current->final = SL_CU_ILLEGAL_ADDRESS;
    sl_twin_current->lost = true;
}

/* ---- what is wrong with it ---- */

static void read_fault(void)
{
    const char *text = getenv("TWIN_FAULT");
    if (!text)
        return;
    if (sscanf(text, "fails:%u:%u:%u", &fault.at, &fault.result, &fault.later) >= 2)
        fault.kind = SL_CU_TWIN_FAILS;
    else if (sscanf(text, "hangs:%u", &fault.at) == 1)
        fault.kind = SL_CU_TWIN_HANGS;
    else if (sscanf(text, "no-memory:%u", &fault.at) == 1)
        fault.kind = SL_CU_TWIN_NO_MEMORY;
    else {
        fprintf(stderr, "the twin of a GPU: TWIN_FAULT=%s is none\n", text);
        abort();
    }
    when = getenv("TWIN_WHEN");
}

static sl_cu_result launch(sl_cu_function function, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                           unsigned threads_x, unsigned threads_y, unsigned threads_z, unsigned shared_bytes,
                           sl_cu_stream stream, void **arguments, void **extra)
{
    if (when && unlink(when) == 0) {
        TWIN_LOCKED;
        when = NULL;
        fault.at += (uint32_t)sl_twin_world.n_launches;
        sl_twin_world.config.fault = fault;
    }
    return sl_twin_launch(function, blocks_x, blocks_y, blocks_z, threads_x, threads_y, threads_z,
                          shared_bytes, stream, arguments, extra);
}

/* Another machine's GPUs are others: who starts tests beside others' holds his own. */
static sl_cu_result device_uuid(struct CUuuid_st *uuid, sl_cu_device device)
{
    uint32_t machine = from_environment("TWIN_MACHINE", 0);
    sl_cu_result result = sl_twin_device_uuid(uuid, device);
    if (result == SL_CU_OK)
        memcpy((char *)uuid + 8, &machine, sizeof machine);
    return result;
}

/* As often as it takes for all that is queued: a few operations each time. */
static sl_cu_result event_query(sl_cu_event event)
{
    enum { TIMES = 4 * SL_QUEUES * TWIN_OPS };
    sl_cu_result result = SL_CU_NOT_READY;
    for (int i = 0; i < TIMES && result == SL_CU_NOT_READY; i++)
        result = sl_twin_event_query(event);
    return result;
}

/* ---- the library ---- */

static __attribute__((destructor)) void tell_misuses(void)
{
    libcuda_end();
    struct sl_cu_twin_report report = sl_cu_twin_take_report();
    if (report.misuses == 0)
        return;
    fprintf(stderr, "the twin of a GPU: %llu misuses, the first: %s\n", (unsigned long long)report.misuses,
            report.first);
    abort();
}

sl_cu_result cuDriverGetVersion(int *version)
{
    *version = (int)from_environment("TWIN_VERSION", SL_CU_VERSION);
    if (shared && sl_twin_world.config.kernels)
        return SL_CU_OK;
    read_fault();
    struct sl_cu_twin_config config = {.n_devices = from_environment("TWIN_DEVICES", 1),
                                       .device_bytes = (uint64_t)from_environment("TWIN_MIB", 65536) << 20,
                                       .capability = from_environment("TWIN_CAPABILITY", 90),
                                       .mode = (int)from_environment("TWIN_MODE", SL_CU_MODE_DEFAULT),
                                       .no_ecc = from_environment("TWIN_NO_ECC", 0),
                                       .in_use = from_environment("TWIN_IN_USE", 0),
                                       .init = from_environment("TWIN_INIT", 0),
                                       .kernels = kernels,
                                       .n_kernels = gpu_n_kernels,
                                       .alloc = allocate,
                                       .free = release};
    if (!when)
        config.fault = fault;
    for (uint32_t i = 0; i < gpu_n_kernels; i++) {
        kernels[i] = gpu_launched(gpu_kernels[i]);
        kernels[i].run = run;
    }
    sl_cu_twin_start(&config);
    return SL_CU_OK;
}

void libcuda_shared(void)
{
    int version;
    shared = true;
    cuDriverGetVersion(&version);
}

struct sl_cuda libcuda_table(void)
{
    struct sl_cuda table = *sl_cu_twin();
    table.launch = launch;
    table.device_uuid = device_uuid;
    table.event_query = event_query;
    return table;
}

sl_cu_result cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags,
                                 int *status)
{
#define ROW(field, function, arguments) {#function, offsetof(struct sl_cuda, field)},
    static const struct {
        const char *name;
        size_t at;
    } rows[] = {SL_CU_CALLS(ROW)};
    const char *missing = getenv("TWIN_MISSING");
    struct sl_cuda table = libcuda_table();
    (void)flags;
    if (status)
        *status = 0; /* there is one of this version */
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].name, name) == 0 && version == SL_CU_VERSION &&
            !(missing && strcmp(missing, name) == 0)) {
            memcpy(found, (const char *)&table + rows[i].at, sizeof *found);
            return SL_CU_OK;
        }
    *found = libcuda_for_ucx(name);
    return *found ? SL_CU_OK : SL_CU_NOT_FOUND;
}
