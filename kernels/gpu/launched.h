/* Kernels (gpu.h) behind the twin of the driver (kernels/cuda/twin.h): they are launched by name into its late streams, on memory
 * in which each of their accesses is checked (host.h). What is found is the report of the thread that asked for the work. */
#ifndef SL_KERNELS_GPU_LAUNCHED_H
#define SL_KERNELS_GPU_LAUNCHED_H

#include "kernels/cuda/twin.h"
#include "kernels/gpu/host.h"

/* The kernel as the twin's config wants it; it outlives the world. */
struct sl_cu_twin_kernel gpu_launched(const struct gpu_kernel *kernel);
/* A config's memory becomes that of host.h, whose state is the calling thread's: all of a context's calls come from there. */
void gpu_launched_memory(struct sl_cu_twin_config *config);

#endif
