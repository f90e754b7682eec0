/* The kernels of the GPU as this program carries them: one image per file kernels/gpu/X.cu, made by nvcc when the program was
 * built and embedded as bytes, each for all architectures. A program that was built without nvcc has none, and says why. */
#ifndef SL_KERNELS_CUDA_IMAGES_H
#define SL_KERNELS_CUDA_IMAGES_H

#include <stddef.h>
#include <stdint.h>

struct sl_gpu_image {
    const char *name;     /* of its file, without .cu */
    const uint8_t *bytes; /* for module_load of the driver */
    const size_t *n_bytes;
};
extern const struct sl_gpu_image sl_gpu_images[]; /* [sl_gpu_n_images] */
extern const uint32_t sl_gpu_n_images;
extern const uint32_t sl_gpu_least_capability; /* 80: they run from compute capability 8.0 on */

/* "nvcc 13.0.88: sm_80 sm_90a PTX 80"; of none: "no kernels (nvcc was not there at build time)" */
extern const char *const sl_gpu_images_made;

#endif
