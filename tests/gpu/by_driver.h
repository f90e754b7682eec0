/* Launches of kernels by NVIDIA's driver in place of the twin's machine, for programs that know only gpu_launch and gpu_alloc
 * (kernels/gpu/host.h): the tests of kernels, and the probe. They are linked with by_driver.c and `--wrap` for these functions, and
 * SLUICE_GPU says who launches:
 *   (not set)   the machine of kernels/gpu/host.h, as ever
 *   twin        the twin of the driver (kernels/cuda/twin.h), which launches into that machine, with all its checks
 *   written:FOLDER  the machine, and the first launches of each kernel are written down there (written.h)
 *   cuda        the machine's first GPU that can be had; cuda:N or cuda:UUID: that one (kernels/cuda/choice.h)
 * Memory stays that of gpu_alloc, registered with the driver: the GPU reads and writes it where it lies, over the bus, and a test's
 * pointers, those in its structs and lists, too, are the same on both sides. Slow, and no matter: it is bits that are compared.
 * Whatever fails ends the program with a sentence and 2. At its end it says how much was launched, and on what. */
#ifndef SL_TESTS_GPU_BY_DRIVER_H
#define SL_TESTS_GPU_BY_DRIVER_H

#include "kernels/cuda/images.h"
#include "kernels/cuda/session.h"

/* Before the first allocation: images beside those of kernels/gpu (images.h). */
void by_driver_images(const struct sl_gpu_image *images, uint32_t n);
/* The GPU, taken by now; NULL: nobody has asked for one. */
const struct sl_gpu *by_driver_gpu(void);

#endif
