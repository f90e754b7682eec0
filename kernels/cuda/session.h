/* A GPU taken: chosen, held, its context made and current in the calling thread. Sessions of one process with one GPU have one
 * context; an error on a GPU ends the process (driver.h). */
#ifndef SL_KERNELS_CUDA_SESSION_H
#define SL_KERNELS_CUDA_SESSION_H

#include "kernels/cuda/choice.h"
#include "kernels/cuda/driver.h"
#include "kernels/cuda/hold.h"

struct sl_gpu_session {
    const struct sl_cuda *cuda;
    struct sl_gpu gpu;
    sl_cu_device device;
    sl_cu_context context;
    struct sl_gpu_hold hold;
    uint64_t free_bytes; /* of the device, when the context had been made */
};

/* What the driver lists, in its order: at most SL_GPU_MOST. */
sl_status sl_gpu_list(const struct sl_cuda *cuda, struct sl_gpu *gpus, uint32_t *n, struct sl_err *err);

/* SL_GPU_ANY takes the first that suits and that no other process holds. folder: of the locks, NULL for the machine's.
 * SL_E_UNAVAILABLE: why not, with what is to be done; nothing is taken then. */
sl_status sl_gpu_session_open(struct sl_gpu_session *session, const struct sl_cuda *cuda,
                              const struct sl_gpu_choice *choice, const struct sl_gpu_need *need,
                              const char *folder, struct sl_err *err);
void sl_gpu_session_close(struct sl_gpu_session *session); /* opened or failed */

#endif
