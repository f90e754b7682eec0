/* Which GPU: what --device says of it, read, and one chosen of those that the driver lists. Pure: no driver in here. */
#ifndef SL_KERNELS_CUDA_CHOICE_H
#define SL_KERNELS_CUDA_CHOICE_H

#include "base/status.h"
#include <stdbool.h>
#include <stdint.h>

enum sl_gpu_by { SL_GPU_BY_NUMBER, SL_GPU_BY_UUID, SL_GPU_ANY };

struct sl_gpu_choice {
    enum sl_gpu_by by;
    uint32_t number;  /* as the driver counts, below SL_GPU_MOST */
    uint8_t uuid[16]; /* of the GPU, or of its MIG instance */
    bool shared;      /* with other stages that say so, too */
};

enum { SL_GPU_MOST = 64, SL_GPU_UUID_TEXT = 41 };

struct sl_gpu { /* as the driver tells of it */
    uint32_t number, multiprocessors;
    uint32_t capability; /* 90: 9.0 */
    int mode;            /* SL_CU_MODE_* */
    bool has_ecc;        /* of its memory, and it is on */
    uint64_t bytes;
    uint8_t uuid[16];
    char name[96], bus[32]; /* a MIG instance has its size in its name */
};

struct sl_gpu_need {
    uint32_t capability; /* the least that there are kernels for */
    uint64_t bytes;      /* of memory, all in all; 0: not known yet */
};

/* "cuda:3", "cuda:GPU-<UUID>", "cuda:MIG-<UUID>", "cuda:<UUID>" as nvidia-smi -L writes them, each with or without "/shared" behind
 * it; or "cuda", or "auto": any. */
sl_status sl_gpu_choice_read(struct sl_gpu_choice *choice, const char *text, struct sl_err *err);

/* "GPU-" or, of an instance, "MIG-", and 36 characters. */
void sl_gpu_uuid_text(char text[SL_GPU_UUID_TEXT], const struct sl_gpu *gpu);

/* SL_OK, or SL_E_UNAVAILABLE and why this one can't be had. */
sl_status sl_gpu_suits(const struct sl_gpu *gpu, const struct sl_gpu_need *need, struct sl_err *err);

/* The place in the list [n] of the one that is meant; SL_E_UNAVAILABLE: it isn't there. Not for SL_GPU_ANY. */
sl_status sl_gpu_find(const struct sl_gpu *gpus, uint32_t n, const struct sl_gpu_choice *choice,
                      uint32_t *found, struct sl_err *err);

#endif
