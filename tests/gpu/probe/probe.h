/* The probe: each primitive of the seam (kernels/gpu/gpu.h) on drawn operands, as small kernels that the twin and a GPU run alike.
 * What a GPU answers is what the twin has to answer; what both have to is said a third time, in plain C, by model.c.
 *
 * A case of a primitive is `in` rows of 32 words, one a lane, and gives `out` rows. */
#ifndef SL_TESTS_GPU_PROBE_H
#define SL_TESTS_GPU_PROBE_H

#include <stdint.h>

/* X(name, in, out, cases): those of a warp. The words of a row are floats where the name says so. */
#define PROBE_WARP(X)                                                                                        \
    X(FMA_FLOATS, 3, 1, 8)                                                                                   \
    X(MULTIPLY_ADD_FLOATS, 3, 1, 8)                                                                          \
    X(ADD_FLOATS, 2, 1, 4)                                                                                   \
    X(SUBTRACT_FLOATS, 2, 1, 4)                                                                              \
    X(DIVIDE_FLOATS, 2, 1, 8)                                                                                \
    X(ROOT_FLOATS, 1, 1, 4)                                                                                  \
    X(MOST_FLOATS, 2, 1, 4)                                                                                  \
    X(LESS_FLOATS, 2, 1, 4)                                                                                  \
    X(EXP_FLOATS, 1, 1, 8)                                                                                   \
    X(EXP2_FLOATS, 1, 1, 8)                                                                                  \
    X(SILU_FLOATS, 1, 1, 8)                                                                                  \
    X(FLOAT_OF_INTEGER_FLOATS, 1, 1, 4)                                                                      \
    X(ROUND, 1, 1, 4)                                                                                        \
    X(INTEGERS, 3, 7, 4)                                                                                     \
    X(SHUFFLES, 1, 8, 2)                                                                                     \
    X(GLOBAL_LOADS, 6, 9, 4)                                                                                 \
    X(GLOBAL_STORES, 6, 20, 4)                                                                               \
    X(SHARED_LOADS, 5, 9, 4)                                                                                 \
    X(SHARED_STORES, 6, 20, 4)                                                                               \
    X(COPY_ASYNC, 7, 4, 6)                                                                                   \
    X(MMA_U8S8, 10, 4, 6)                                                                                    \
    X(MMA_S8U8, 10, 4, 6)
/* Those of a block of four warps, which only sm_90a has. WGMMA_n: B is the n-th quarter of its rows of 128 bytes. */
#define PROBE_FOUR(X)                                                                                        \
    X(WGMMA_0, 400, 256, 1)                                                                                  \
    X(WGMMA_1, 400, 256, 1)                                                                                  \
    X(WGMMA_2, 400, 256, 1)                                                                                  \
    X(WGMMA_3, 400, 256, 1)                                                                                  \
    X(BARRIERS, 9, 9, 2)

#define PROBE_NAME(name, in, out, cases) PROBE_##name,
enum probe_op { PROBE_WARP(PROBE_NAME) PROBE_FOUR(PROBE_NAME) PROBE_OPS };
#undef PROBE_NAME
enum {
    PROBE_WARPS = 4,
    PROBE_SHARED_WARP = 4096,                   /* bytes of each warp */
    PROBE_WG_B = 1024,                          /* where B lies: rows of 128 bytes in the 128-byte swizzle */
    PROBE_SHARED = 1024 + 128 * 128 + 4 * 4096, /* enough for either */
    PROBE_SLOTS = 2, /* BARRIERS: words are handed from warp 0 to warp 1 through so many */
};

struct probe_params {
    const uint32_t *in; /* [cases][in][32] */
    uint32_t *out;      /* [cases][out][32] */
    uint32_t op, n_in, n_out, cases;
};

#ifndef __CUDACC__
#include "kernels/gpu/host.h"
extern const struct gpu_kernel gpu_probe, gpu_probe_wg;

struct probe_shape {
    const char *name;
    uint32_t n_in, n_out, cases;
};
extern const struct probe_shape probe_shapes[PROBE_OPS];
/* The operands of all cases of a primitive, always the same. */
void probe_draw(enum probe_op op, uint32_t *in);
/* One case, in plain C: no lanes, no fragments. `out` holds 0xA5 in every byte. */
void probe_model(enum probe_op op, const uint32_t *in, uint32_t *out);
#endif

#endif
