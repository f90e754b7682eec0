/* From router logits to a route, on the device: the structs that kernels/gpu/route.inc is launched with.
 *
 * Three launches: choose (a half warp a token), group (a block an expert), tasks (one block). Their outputs are those of
 * router/route.h and experts/tasks.h, byte for byte, and none of them needs the host to look at a number: a chunk's
 * products read their tasks, and how many there are, from the device's memory. Choose may have more blocks than there are tokens.
 *
 * All pointers are the device's; whoever launches owns what they point to. Little is checked here: who plans the buffers
 * has checked n_experts <= 4096, top_k <= 64, top_k <= n_experts, and n_tokens <= 2^18, so that 32 bits hold all products. */
#ifndef SL_KERNELS_GPU_ROUTE_H
#define SL_KERNELS_GPU_ROUTE_H

#include "kernels/gpu/gemm8.h"
#include <stdint.h>

enum {
    SL_GPU_CHOOSE_WARPS = 2, /* of a block; two tokens each */
    SL_GPU_CHOOSE_GATES =
        80, /* words of a token's list of gates: 64, and then the other half's lie in other banks */
    SL_GPU_GROUP_WARPS = 8,
    SL_GPU_TASKS_WARPS = 16,
    SL_GPU_TASK_ROWS_MAX = 192 /* of one task */
};

struct sl_gpu_choose {
    const float *logits; /* [n_tokens][n_experts] */
    uint32_t *experts;   /* [n_tokens][top_k], by descending score */
    float *gates;        /* [n_tokens][top_k] */
    const uint32_t *n_tokens;
    uint32_t n_experts, top_k, renorm;
};

struct sl_gpu_group {
    const uint32_t *experts; /* [n_tokens][top_k] */
    uint32_t *offsets;       /* [n_experts + 1] */
    uint32_t *rows;          /* [n_tokens * top_k] */
    uint32_t *pairs;         /* [n_tokens][top_k] */
    uint32_t *load;          /* [n_experts][2]: 64 bits, low word first; added to */
    const uint32_t *n_tokens;
    uint32_t n_experts, top_k;
};

struct sl_gpu_tasks {
    const uint32_t *offsets; /* [n_experts + 1] */
    struct gemm8_tile *task; /* [n_experts + pairs / rows] at most; descending m, ties in expert order */
    uint32_t *n_tasks;
    uint32_t n_experts;
    uint32_t
        rows; /* the most of one task, up to SL_GPU_TASK_ROWS_MAX: what a product's block takes at once */
};

/* Words from one token's scores to the next one's: a half warp's lie in the banks that the other half leaves free. */
#ifdef __CUDACC__
__host__ __device__
#endif
    static inline uint32_t
    sl_gpu_choose_stride(uint32_t n_experts)
{
    return (n_experts + 31) / 32 * 32 + 16;
}
static inline uint32_t sl_gpu_choose_blocks(uint32_t n_tokens)
{
    return (n_tokens + 2 * SL_GPU_CHOOSE_WARPS - 1) / (2 * SL_GPU_CHOOSE_WARPS);
}
static inline uint32_t sl_gpu_choose_shared(uint32_t n_experts)
{
    return 2 * SL_GPU_CHOOSE_WARPS * (sl_gpu_choose_stride(n_experts) + SL_GPU_CHOOSE_GATES) * 4;
}
enum { SL_GPU_GROUP_SHARED = SL_GPU_GROUP_WARPS * 8, SL_GPU_TASKS_SHARED = (SL_GPU_TASK_ROWS_MAX + 32) * 4 };

#ifndef __CUDACC__
extern const struct gpu_kernel sl_gpu_choose, sl_gpu_group, sl_gpu_tasks;
#endif

#endif
