/* One process has one GPU, or shares it with those that want to share it, too: a file by the GPU's UUID, locked for as long as the
 * process lives (flock, which the system lets go with it). Stages of one process (`generate --model` has them, and a decode worker)
 * have its context together, and end together when the GPU fails. It keeps our own processes apart; who else uses the GPU is the driver's affair. Containers with file systems of their
 * own don't see each other's, but are given different GPUs. */
#ifndef SL_KERNELS_CUDA_HOLD_H
#define SL_KERNELS_CUDA_HOLD_H

#include "base/status.h"
#include <stdbool.h>

struct sl_gpu_hold {
    int fd; /* of the process's lock; -1: nothing is held */
};

/* uuid: as sl_gpu_uuid_text writes it. shared: beside others that say so. folder: NULL is the machine's, /run/lock or else /tmp.
 * Again in the same process is well, whatever it says of sharing then. SL_E_UNAVAILABLE: another process has it, and one of the two does
 * not share it. Threads: any. */
sl_status sl_gpu_hold_take(struct sl_gpu_hold *hold, const char *uuid, bool shared, const char *folder,
                           struct sl_err *err);
void sl_gpu_hold_release(struct sl_gpu_hold *hold);

#endif
