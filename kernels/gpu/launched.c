/* A kernel's twin as the driver's twin calls it (launched.h). */
#include "kernels/gpu/launched.h"

static void run(const struct sl_cu_twin_kernel *kernel, const void *params, uint32_t n_blocks,
                size_t shared_bytes, uint64_t seed)
{
    gpu_launch(kernel->arg, params, n_blocks, shared_bytes, seed);
}

struct sl_cu_twin_kernel gpu_launched(const struct gpu_kernel *kernel)
{
    return (struct sl_cu_twin_kernel){.name = kernel->name,
                                      .params_bytes = kernel->params_bytes,
                                      .threads = kernel->warps * 32,
                                      .per_sm = kernel->per_sm,
                                      .run = run,
                                      .arg = kernel};
}

void gpu_launched_memory(struct sl_cu_twin_config *config)
{
    config->alloc = gpu_alloc;
    config->free = gpu_free;
}
