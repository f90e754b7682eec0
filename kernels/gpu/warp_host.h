/* The host's half of the seam (gpu.h): 32 lanes are a vector of the compiler, and what touches memory, another lane's values or
 * another warp goes through the twin's machine, which checks it (host.h). */
#ifndef SL_KERNELS_GPU_WARP_HOST_H
#define SL_KERNELS_GPU_WARP_HOST_H
#ifndef __CUDACC__

#include "kernels/gpu/host.h"
#include <math.h>
#include <stdbool.h>

#define GPU_FN                                                                                               \
    static inline __attribute__((unused)) /* constants are arguments here: kernels share one code */
#define GPU_UNROLL
#define GPU_ROLLED
typedef uint32_t wu __attribute__((vector_size(128)));
typedef int32_t wi __attribute__((vector_size(128)));
typedef float wf __attribute__((vector_size(128)));
typedef wi wb; /* 0 or -1 a lane */

/* A kernel is a value of the host: what is launched, by the name that the device's module has for it. */
#define GPU_KERNEL(name, threads, per_sm, type)                                                              \
    static void name##_body(const type *p);                                                                  \
    static void name##_entry(const void *p)                                                                  \
    {                                                                                                        \
        name##_body((const type *)p);                                                                        \
    }                                                                                                        \
    const struct gpu_kernel name = {#name, name##_entry, (threads) / 32, per_sm, sizeof(type)};              \
    static void name##_body(const type *p)

#define GPU_EACH_LANE for (int l = 0; l < 32; l++)

wu w_lane(void);
uint32_t gpu_warp(void);
uint32_t gpu_block(void);
uint32_t gpu_blocks(void);
void block_sync(void);
void warp_sync(void);

/* bytes: 1, 2, 4, 8 or 16 a lane; narrow ones in the low bits of v[0]. */
void gpu_global_read(const void *base, wu row, size_t stride, wu at, wb on, uint32_t bytes, wu *v);
void gpu_global_write(void *base, wu row, size_t stride, wu at, wb on, uint32_t bytes, const wu *v);
void gpu_shared_read(wu at, uint32_t bytes, wu *v);
void gpu_shared_write(wu at, wb on, uint32_t bytes, const wu *v);
uint32_t g_ld32_uniform(const void *base, size_t at);
const void *g_pointer(const void *const *list, uint32_t i);

void cp_async16(wu to, const void *base, wu row, size_t stride, wu from, wb on, wb act);
void cp_commit(void);
void cp_wait(uint32_t n);
void mma_u8s8(wi c[4], const wu a[4], const wu b[2]);
void mma_s8u8(wi c[4], const wu a[4], const wu b[2]);

void mbar_init(uint32_t at, uint32_t count);
void mbar_arrive(uint32_t at);
void mbar_wait(uint32_t at, uint32_t parity);
void gpu_give_registers(uint32_t n);
void gpu_take_registers(uint32_t n);
void fence_async(void);
void wgmma_fence(void);
void wgmma_commit(void);
void wgmma_wait(uint32_t n);
uint64_t wgmma_place(uint32_t at);
void wgmma_u8s8(wi c[64], const wu a[4], uint64_t b);

GPU_FN wf w_setf(float v)
{
    wf r;
    GPU_EACH_LANE r[l] = v; /* v * 1 + 0 would not do for NaN and -0 */
    return r;
}
GPU_FN wu w_set(uint32_t v)
{
    return (wu){0} + v;
}
GPU_FN wi w_seti(int32_t v)
{
    return (wi){0} + v;
}
GPU_FN wb w_all(void)
{
    return ~(wb){0};
}
GPU_FN wb w_none(void)
{
    return (wb){0};
}
GPU_FN wf w_fma(wf a, wf b, wf c)
{
    wf r;
    GPU_EACH_LANE r[l] = fmaf(a[l], b[l], c[l]);
    return r;
}
GPU_FN wf w_div(wf a, wf b)
{
    return a / b;
}
GPU_FN wf w_sqrt(wf a)
{
    wf r;
    GPU_EACH_LANE r[l] = sqrtf(a[l]);
    return r;
}
GPU_FN wf w_float(wi a)
{
    return __builtin_convertvector(a, wf);
}
GPU_FN wi w_round(wf v)
{
    wi r;
    GPU_EACH_LANE r[l] = (int32_t)lrintf(v[l]);
    return r;
}
GPU_FN wf w_asf(wu a)
{
    return (wf)a;
}
GPU_FN wu w_asu(wf a)
{
    return (wu)a;
}
GPU_FN wi w_asi(wu a)
{
    return (wi)a;
}
GPU_FN wf w_pickf(wb c, wf a, wf b)
{
    return (wf)(((wi)a & c) | ((wi)b & ~c));
}
GPU_FN wu w_picku(wb c, wu a, wu b)
{
    return (a & (wu)c) | (b & ~(wu)c);
}
GPU_FN wi w_picki(wb c, wi a, wi b)
{
    return (a & c) | (b & ~c);
}
GPU_FN wb w_ltf(wf a, wf b)
{
    return (wb)(a < b);
}
GPU_FN wb w_ltu(wu a, uint32_t b)
{
    return (wb)(a < b);
}
GPU_FN wb w_and(wb a, wb b)
{
    return a & b;
}
GPU_FN wb w_or(wb a, wb b)
{
    return a | b;
}
GPU_FN wb w_not(wb a)
{
    return ~a;
}
GPU_FN wu w_shuffleu(wu v, int mask)
{
    wu r;
    GPU_EACH_LANE r[l] = v[l ^ mask];
    return r;
}
GPU_FN wf w_shuffle(wf v, int mask)
{
    return (wf)w_shuffleu((wu)v, mask);
}
GPU_FN uint32_t w_get(wu v, uint32_t lane)
{
    return v[lane % 32];
}
GPU_FN uint32_t w_ballot(wb on)
{
    uint32_t bits = 0;
    GPU_EACH_LANE bits |= (on[l] ? 1u : 0u) << l;
    return bits;
}
GPU_FN wu w_ones(wu v)
{
    wu r;
    GPU_EACH_LANE r[l] = (uint32_t)__builtin_popcount(v[l]);
    return r;
}
GPU_FN wu w_mulhi(wu a, wu b)
{
    wu r;
    GPU_EACH_LANE r[l] = (uint32_t)((uint64_t)a[l] * b[l] >> 32);
    return r;
}

GPU_FN wu g_ld8_row_if(const void *base, wu row, size_t stride, wu at, wb on)
{
    wu r;
    gpu_global_read(base, row, stride, at, on, 1, &r);
    return r;
}
GPU_FN wu g_ld16_row_if(const void *base, wu row, size_t stride, wu at, wb on)
{
    wu r;
    gpu_global_read(base, row, stride, at, on, 2, &r);
    return r;
}
GPU_FN wu g_ld32_row_if(const void *base, wu row, size_t stride, wu at, wb on)
{
    wu r;
    gpu_global_read(base, row, stride, at, on, 4, &r);
    return r;
}
GPU_FN void g_ld64_row_if(const void *base, wu row, size_t stride, wu at, wb on, wu out[2])
{
    gpu_global_read(base, row, stride, at, on, 8, out);
}
GPU_FN void g_ld128_row_if(const void *base, wu row, size_t stride, wu at, wb on, wu out[4])
{
    gpu_global_read(base, row, stride, at, on, 16, out);
}
GPU_FN void g_st8_row_if(void *base, wu row, size_t stride, wu at, wu v, wb on)
{
    gpu_global_write(base, row, stride, at, on, 1, &v);
}
GPU_FN void g_st16_row_if(void *base, wu row, size_t stride, wu at, wu v, wb on)
{
    gpu_global_write(base, row, stride, at, on, 2, &v);
}
GPU_FN void g_st32_row_if(void *base, wu row, size_t stride, wu at, wu v, wb on)
{
    gpu_global_write(base, row, stride, at, on, 4, &v);
}
GPU_FN void g_st64_row_if(void *base, wu row, size_t stride, wu at, const wu v[2], wb on)
{
    gpu_global_write(base, row, stride, at, on, 8, v);
}
GPU_FN void g_st128_row_if(void *base, wu row, size_t stride, wu at, const wu v[4], wb on)
{
    gpu_global_write(base, row, stride, at, on, 16, v);
}

GPU_FN wu sm_ld8(wu at)
{
    wu r;
    gpu_shared_read(at, 1, &r);
    return r;
}
GPU_FN wu sm_ld16(wu at)
{
    wu r;
    gpu_shared_read(at, 2, &r);
    return r;
}
GPU_FN wu sm_ld32(wu at)
{
    wu r;
    gpu_shared_read(at, 4, &r);
    return r;
}
GPU_FN void sm_ld64(wu at, wu out[2])
{
    gpu_shared_read(at, 8, out);
}
GPU_FN void sm_ld128(wu at, wu out[4])
{
    gpu_shared_read(at, 16, out);
}
GPU_FN void sm_st8_if(wu at, wu v, wb on)
{
    gpu_shared_write(at, on, 1, &v);
}
GPU_FN void sm_st16_if(wu at, wu v, wb on)
{
    gpu_shared_write(at, on, 2, &v);
}
GPU_FN void sm_st32_if(wu at, wu v, wb on)
{
    gpu_shared_write(at, on, 4, &v);
}
GPU_FN void sm_st64_if(wu at, const wu v[2], wb on)
{
    gpu_shared_write(at, on, 8, v);
}
GPU_FN void sm_st128_if(wu at, const wu v[4], wb on)
{
    gpu_shared_write(at, on, 16, v);
}

#endif
#endif
