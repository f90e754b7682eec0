/* The probe's kernels as bytes, made as those of kernels/gpu are (cmake/cuda.cmake); without nvcc there are none. */
#ifndef SL_TESTS_GPU_PROBE_IMAGES_H
#define SL_TESTS_GPU_PROBE_IMAGES_H

#include "kernels/cuda/images.h"

extern const struct sl_gpu_image probe_images[]; /* [probe_n_images] */
extern const uint32_t probe_n_images;

#endif
