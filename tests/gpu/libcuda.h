/* What the parts of the twin's libcuda.so.1 share: libcuda.c, what sluice asks it for, and libcuda_ucx.c, what UCX does. */
#ifndef SL_TESTS_GPU_LIBCUDA_H
#define SL_TESTS_GPU_LIBCUDA_H

#include "kernels/cuda/driver.h"

#define EXPORTED __attribute__((visibility("default")))

EXPORTED sl_cu_result cuDriverGetVersion(int *version);
EXPORTED sl_cu_result cuGetProcAddress_v2(const char *name, void **found, int version,
                                          unsigned long long flags, int *status);

/* The twin's table, as this library has it. */
struct sl_cuda libcuda_table(void);

/* Another library has opened the driver, too: the world is not begun anew when sluice asks for the version. */
void libcuda_shared(void);

/* Functions beyond the table that UCX asks for by cuGetProcAddress. NULL: none of that name. */
void *libcuda_for_ucx(const char *name);

/* Before misuses are told: adds those of the whole time. */
void libcuda_end(void);

#endif
