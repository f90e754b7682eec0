/* What attention leaves becomes the input of the output product: states of segments (attend8.h, and the like of float pages) are
 * merged as sl_attend_merge of isa.h has it, divided, and where the product is of integers rotated and quantised.
 *
 * All pointers are the device's; whoever launches owns what they point to. */
#ifndef SL_KERNELS_GPU_MIX_H
#define SL_KERNELS_GPU_MIX_H

#include "kernels/gpu/row8.h"

struct sl_gpu_mix_row { /* where a token's states are: of segment s, [n_q] from state + s * state_step on */
    uint32_t state, n_states, state_step;
};

struct sl_gpu_mix {
    const float *states;
    const struct sl_gpu_mix_row *rows;
    const uint32_t *n_rows; /* read by the kernel */
    float *mixed;           /* [rows][n_q * d_head], or NULL */
    struct sl_gpu_row8 to;  /* of k = n_q * d_head */
    uint32_t n_q, d_head;
};

#ifndef __CUDACC__
struct gpu_kernel;
extern const struct gpu_kernel sl_gpu_mix;
#endif

#endif
