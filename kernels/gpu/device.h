/* The device that a GPU is (kernels/device.h): its blocks as straight lists of launches, over the table of the driver.
 *
 *   cuda   on NVIDIA's driver and a GPU
 *   twin   the same code on the twin of that driver (kernels/cuda/twin.h) and the twins of the kernels (host.h): late streams,
 *          memory that is shut to the host, and the bits of the real one, at a thousandth of its speed
 *
 * What they have in common is all but how the driver is had. Numerics are those of profile f32.
 *
 * After an error that is final, or that nobody can do anything about, the process ends (EX_UNAVAILABLE) with a sentence in its log:
 * the GPU's memory is gone, and who waits for a stage is told by its silence. */
#ifndef SL_KERNELS_GPU_DEVICE_H
#define SL_KERNELS_GPU_DEVICE_H

#include "kernels/cuda/twin.h"
#include "kernels/device.h"

extern const struct sl_device_ops sl_device_cuda, sl_device_twin;

/* How the twin's world is when the next device makes one, which it does if it is the only one of the process. */
struct sl_gpu_twin {
    uint64_t seed;
    uint32_t capability; /* of its GPUs; 0: 90, for 9.0 */
    bool checked;        /* each access of each kernel, not only its bounds: slow */
    struct sl_cu_twin_fault fault;
    uint32_t
        patience_ms; /* with what is not predicted to take longer than a third of it; 0: as long as a twin may take */
    bool no_graphs; /* its driver makes none */
};
void sl_gpu_twin_as(const struct sl_gpu_twin *how);

#endif
