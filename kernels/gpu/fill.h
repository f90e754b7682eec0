/* Fills memory with a word: poison before a kernel that must write all of its output, since a test on memory that happens to be
 * zero does not see what was never written. It is the smallest kernel that there is, too: where it works, driver, image, stream
 * and launch do. */
#ifndef SL_KERNELS_GPU_FILL_H
#define SL_KERNELS_GPU_FILL_H

#include <stdint.h>

enum { FILL_WARPS = 4 };
struct fill_params {
    uint32_t *to; /* [n], the device's */
    uint32_t word, n;
};

#ifndef __CUDACC__
#include "kernels/gpu/host.h"
extern const struct gpu_kernel gpu_fill; /* any number of blocks */
#endif

#endif
