/* Images into a context, and kernels out of them (modules.h). */
#include "kernels/cuda/modules.h"
#include <assert.h>
#include <string.h>

/* X_sm90a: kernels of one architecture alone, beside others that do the same everywhere (cmake/cuda.cmake). */
static bool is_of_one(const struct sl_gpu_image *image)
{
    return strstr(image->name, "_sm") != NULL;
}

sl_status sl_gpu_modules_load(struct sl_gpu_modules *modules, const struct sl_cuda *cuda,
                              const struct sl_gpu_image *images, uint32_t n_images, struct sl_err *err)
{
    *modules = (struct sl_gpu_modules){.cuda = cuda};
    assert(n_images <= SL_GPU_MODULES);
    if (n_images == 0)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "this sluice has %s: build it where nvcc 13.0 or newer is in PATH",
                       sl_gpu_images_made);
    for (uint32_t i = 0; i < n_images; i++) {
        sl_cu_result result = cuda->module_load(&modules->list[modules->n], images[i].bytes);
        if (result == SL_CU_OK)
            modules->n++;
        if (result == SL_CU_OK || (result == SL_CU_NO_BINARY_FOR_GPU && is_of_one(&images[i])))
            continue;
        sl_gpu_modules_unload(modules);
        if (result == SL_CU_NO_BINARY_FOR_GPU || result == SL_CU_UNSUPPORTED_PTX)
            return sl_fail(
                err, SL_E_UNAVAILABLE,
                "the kernels of this sluice (%s) are not for this GPU: build it with SLUICE_CUDA_ALSO",
                sl_gpu_images_made);
        return sl_cu_check(cuda, result, "loading kernels", err);
    }
    return SL_OK;
}

void sl_gpu_modules_unload(struct sl_gpu_modules *modules)
{
    while (modules->n > 0) /* behind a final error this fails, and the process ends anyway */
        modules->cuda->module_unload(modules->list[--modules->n]);
}

sl_status sl_gpu_modules_find(const struct sl_gpu_modules *modules, const char *name, uint32_t shared_bytes,
                              sl_cu_function *function, struct sl_err *err)
{
    enum { UNASKED = 48 * 1024 }; /* what every kernel may have */
    const struct sl_cuda *cuda = modules->cuda;
    sl_cu_result result = SL_CU_NOT_FOUND;
    for (uint32_t i = 0; i < modules->n && result == SL_CU_NOT_FOUND; i++)
        result = cuda->module_function(function, modules->list[i], name);
    if (result == SL_CU_NOT_FOUND)
        return sl_fail(err, SL_E_INTERNAL, "no image of this sluice has the kernel %s", name);
    if (result == SL_CU_OK)
        result = cuda->function_load(*function);
    if (result == SL_CU_OK && shared_bytes > UNASKED)
        result = cuda->function_set(*function, SL_CU_FUNCTION_DYNAMIC_SHARED, (int)shared_bytes);
    if (result == SL_CU_INVALID_VALUE && shared_bytes > UNASKED)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "the kernel %s wants %u KiB of shared memory, and a block of this GPU may not have as much", name,
            shared_bytes / 1024);
    return sl_cu_check(cuda, result, name, err);
}
