/* Kernels in a context: all images loaded at once, before the memory is sealed, and each kernel made ready when it is looked up,
 * not by its first launch, which would allocate. */
#ifndef SL_KERNELS_CUDA_MODULES_H
#define SL_KERNELS_CUDA_MODULES_H

#include "kernels/cuda/driver.h"
#include "kernels/cuda/images.h"

enum { SL_GPU_MODULES = 32 };

struct sl_gpu_modules {
    const struct sl_cuda *cuda;
    uint32_t n;
    sl_cu_module list[SL_GPU_MODULES];
};

/* Of the current context. images: those of the program (images.h), or, for a twin, one of any bytes.
 * SL_E_UNAVAILABLE: there are none, or none for this GPU; then none is loaded. Those of one architecture alone, whose names say so
 * (X_sm90a), are left out on others: who looks for their kernels gets SL_E_INTERNAL. */
sl_status sl_gpu_modules_load(struct sl_gpu_modules *modules, const struct sl_cuda *cuda,
                              const struct sl_gpu_image *images, uint32_t n_images, struct sl_err *err);
void sl_gpu_modules_unload(struct sl_gpu_modules *modules);

/* The kernel of that name, loaded, with room for so much dynamic shared memory. SL_E_INTERNAL: no image has it. */
sl_status sl_gpu_modules_find(const struct sl_gpu_modules *modules, const char *name, uint32_t shared_bytes,
                              sl_cu_function *function, struct sl_err *err);

#endif
