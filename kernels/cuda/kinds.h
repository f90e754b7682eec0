/* What GPUs of known kinds can do at most: the one table of their peaks. `sluice plan` takes shares of them (bench/plan/kinds.c), and
 * what a GPU's stage has done is said beside them. What a GPU's own tensor cores reach is measured by kernels/gpu/peak.h.
 *
 * Integer products have two ceilings. mma.sync (IMMA in the machine's code) is the portable instruction; on Hopper wgmma (IGMMA) alone
 * reaches what the data sheet says, elsewhere there is none. Kernels of one body are beside the first what they may become, beside the
 * second what the machine has. */
#ifndef SL_KERNELS_CUDA_KINDS_H
#define SL_KERNELS_CUDA_KINDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sl_gpu_kind {
    const char *name;                          /* "h200": `plan`'s */
    const char *word;                          /* of the driver's name: "H200" */
    const char *from;                          /* where the figures are from, in a few words */
    double int8_tops, bf16_tflops, f32_tflops; /* dense */
    double imma_tops;                          /* of int8_tops, what mma.sync reaches; 0: not known */
    double igmma_tops;                         /* what wgmma reaches; 0: it has none */
    double memory_gb, memory_gbs;              /* as advertised */
    double copy_gbs; /* read and written of a copy within its memory, as measured on one; 0: on none */
    double link_gbs; /* to another of its machine, each way, as advertised */
};

extern const struct sl_gpu_kind sl_gpu_kinds[]; /* [sl_gpu_n_kinds] */
extern const uint32_t sl_gpu_n_kinds;

const struct sl_gpu_kind *sl_gpu_kind_find(const char *name); /* by `plan`'s name, in any case; NULL */
/* By the driver's name of one. NULL: no kind of ours, or one of its slower brothers (PCIe, NVL), or a part of one (MIG). */
const struct sl_gpu_kind *sl_gpu_kind_of(const char *driver_name);

#endif
