/* One stage has one GPU: a file by the GPU's UUID, locked for as long as the process lives (flock, which the system lets go
 * with it). It keeps our own stages apart; who else uses the GPU is the driver's affair. Containers with file systems of their
 * own don't see each other's, but are given different GPUs. */
#ifndef SL_KERNELS_CUDA_HOLD_H
#define SL_KERNELS_CUDA_HOLD_H

#include "base/status.h"

struct sl_gpu_hold {
    int fd; /* -1: nothing is held */
};

/* uuid: as sl_gpu_uuid_text writes it. folder: NULL is the machine's, /run/lock or else /tmp.
 * SL_E_EXISTS: another process has it, or another stage of this one. */
sl_status sl_gpu_hold_take(struct sl_gpu_hold *hold, const char *uuid, const char *folder,
                           struct sl_err *err);
void sl_gpu_hold_release(struct sl_gpu_hold *hold);

#endif
