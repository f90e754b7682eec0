/* Launches of the twin's machine, written down with memory before and after, for whoever executes the same kernels otherwise
 * (tests/gpu/ptx). By by_driver.c, when SLUICE_GPU is `written:FOLDER`: a file FOLDER/N-KERNEL.launch for each of the first
 * WRITTEN_MOST launches of a kernel.
 *
 * A file, little endian: struct written_head, the parameters, then the memories as they were before and once more as they are after:
 * of each its address and how many bytes (u64), and those. */
#ifndef SL_TESTS_GPU_WRITTEN_H
#define SL_TESTS_GPU_WRITTEN_H

#include "kernels/gpu/host.h"

enum { WRITTEN_MOST = 64 };

struct written_head {
    char magic[8], kernel[64];
    uint32_t blocks, threads;
    uint64_t shared_bytes, params_bytes, memories;
};

typedef void written_run(const struct gpu_kernel *kernel, const void *params, uint32_t n_blocks,
                         size_t shared_bytes, uint64_t seed);

void written_alloc(const void *at, size_t bytes);
void written_free(const void *at); /* NULL: all */
/* Runs it. What can't be written ends the program with a sentence and 2. */
void written_launch(const char *folder, written_run *run, const struct gpu_kernel *kernel, const void *params,
                    uint32_t n_blocks, size_t shared_bytes, uint64_t seed);

#endif
