/* The twin as a library, with the two functions by which a driver is entered: what opens libcuda.so.1 is tried with it, and with
 * what is wrong with it by the environment.
 *   TWIN_VERSION   what the driver says it is (13000)      TWIN_INIT      what cuInit says (0)
 *   TWIN_DEVICES   how many there are (1)                  TWIN_MISSING   a function that it does not have */
#include "kernels/cuda/twin.h"
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))
EXPORTED sl_cu_result cuDriverGetVersion(int *version);
EXPORTED sl_cu_result cuGetProcAddress_v2(const char *name, void **found, int version,
                                          unsigned long long flags, void *status);

static unsigned from_environment(const char *name, unsigned otherwise)
{
    const char *text = getenv(name);
    return text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

sl_cu_result cuDriverGetVersion(int *version)
{
    *version = (int)from_environment("TWIN_VERSION", SL_CU_VERSION);
    sl_cu_twin_start(&(struct sl_cu_twin_config){.n_devices = from_environment("TWIN_DEVICES", 1),
                                                 .device_bytes = 1 << 20,
                                                 .capability = 90,
                                                 .init = from_environment("TWIN_INIT", 0)});
    return SL_CU_OK;
}

sl_cu_result cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags,
                                 void *status)
{
#define ROW(field, function, arguments) {#function, offsetof(struct sl_cuda, field)},
    static const struct {
        const char *name;
        size_t at;
    } rows[] = {SL_CU_CALLS(ROW)};
    const char *missing = getenv("TWIN_MISSING");
    (void)flags, (void)status;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].name, name) == 0 && version == SL_CU_VERSION &&
            !(missing && strcmp(missing, name) == 0)) {
            memcpy(found, (const char *)sl_cu_twin() + rows[i].at, sizeof *found);
            return SL_CU_OK;
        }
    return SL_CU_NOT_FOUND;
}
