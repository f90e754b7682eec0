/* A driver in front of the driver, which makes a kernel of a stage go astray: SLUICE_LIBCUDA names this library, WILD_LIBCUDA the true
 * one (libcuda.so.1), and once the file WILD_WHEN is there, the first pointer among each kernel's parameters leads to where nothing is.
 * All else is the true driver's: what comes of it is what a GPU does with a kernel of ours that is wrong, error 700, and what a stage
 * does with that. tests/gpu/run, phase 8; on a machine without a GPU the true one is the twin (libcuda.c). */
#include "kernels/cuda/driver.h"
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))
EXPORTED sl_cu_result cuDriverGetVersion(int *version);
EXPORTED sl_cu_result cuGetProcAddress_v2(const char *name, void **found, int version,
                                          unsigned long long flags, void *status);

typedef sl_cu_result version_call(int *version);
typedef sl_cu_result address_call(const char *name, void **found, int version, unsigned long long flags,
                                  void *status);

static struct sl_cuda truth; /* launch alone */
static bool astray;

static void *symbol(const char *name)
{
    static void *library;
    const char *file = getenv("WILD_LIBCUDA");
    if (!library)
        library = dlopen(file ? file : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "a driver that goes astray: %s\n", dlerror());
    return library ? dlsym(library, name) : NULL;
}

static sl_cu_result launch(sl_cu_function function, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                           unsigned threads_x, unsigned threads_y, unsigned threads_z, unsigned shared_bytes,
                           sl_cu_stream stream, void **arguments, void **extra)
{
    const char *when = getenv("WILD_WHEN");
    uint64_t *pointer = arguments[0], was = *pointer;
    if (!astray && when && access(when, F_OK) == 0) {
        fprintf(stderr, "a driver that goes astray: now\n");
        astray = true;
    }
    if (astray)
        *pointer ^= 1ull << 44; /* still an address as a GPU's are, of 47 bits */
    sl_cu_result result = truth.launch(function, blocks_x, blocks_y, blocks_z, threads_x, threads_y,
                                       threads_z, shared_bytes, stream, arguments, extra);
    *pointer = was;
    return result;
}

sl_cu_result cuDriverGetVersion(int *version)
{
    version_call *call = NULL;
    void *found = symbol("cuDriverGetVersion");
    memcpy(&call, &found, sizeof found);
    return call ? call(version) : SL_CU_NOT_FOUND;
}

sl_cu_result cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags,
                                 void *status)
{
    address_call *call = NULL;
    void *address = symbol("cuGetProcAddress_v2");
    memcpy(&call, &address, sizeof address);
    sl_cu_result result = call ? call(name, found, version, flags, status) : SL_CU_NOT_FOUND;
    if (result != SL_CU_OK || strcmp(name, "cuLaunchKernel") != 0)
        return result;
    memcpy(&truth.launch, found, sizeof *found);
    sl_cu_result (*ours)(sl_cu_function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                         sl_cu_stream, void **, void **) = launch;
    memcpy(found, &ours, sizeof ours);
    return SL_CU_OK;
}
