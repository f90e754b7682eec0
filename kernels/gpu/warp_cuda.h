/* The device's half of the seam (gpu.h): a lane is a thread, a warp's value a scalar. Only nvcc sees what is in here, and no kernel
 * writes asm or threadIdx itself. */
#ifndef SL_KERNELS_GPU_WARP_CUDA_H
#define SL_KERNELS_GPU_WARP_CUDA_H
#ifdef __CUDACC__

#define GPU_FN static __device__ __forceinline__
#define GPU_UNROLL _Pragma("unroll")
#define GPU_ROLLED _Pragma("unroll 1")
typedef uint32_t wu;
typedef int32_t wi;
typedef float wf;
typedef bool wb;
extern __shared__ __align__(1024) uint8_t gpu_shared[];

/* A kernel: `per_sm` blocks of `threads` threads fit on a multiprocessor; its body has `const type *p`. */
#define GPU_KERNEL(name, threads, per_sm, type)                                                              \
    static __device__ __forceinline__ void name##_body(const type *p);                                       \
    extern "C" __global__ void __launch_bounds__(threads, per_sm) name(const __grid_constant__ type p)       \
    {                                                                                                        \
        name##_body(&p);                                                                                     \
    }                                                                                                        \
    static __device__ __forceinline__ void name##_body(const type *p)

GPU_FN wu w_lane(void)
{
    return threadIdx.x & 31u;
}
GPU_FN uint32_t gpu_warp(void) /* uniform, and by the shuffle the compiler knows it */
{
    return __shfl_sync(~0u, threadIdx.x >> 5, 0);
}
GPU_FN uint32_t gpu_block(void)
{
    return blockIdx.x;
}
GPU_FN uint32_t gpu_blocks(void)
{
    return gridDim.x;
}
GPU_FN wf w_setf(float v)
{
    return v;
}
GPU_FN wu w_set(uint32_t v)
{
    return v;
}
GPU_FN wi w_seti(int32_t v)
{
    return v;
}
GPU_FN wb w_all(void)
{
    return true;
}
GPU_FN wb w_none(void)
{
    return false;
}
GPU_FN wf w_fma(wf a, wf b, wf c)
{
    return __fmaf_rn(a, b, c);
}
GPU_FN wf w_div(wf a, wf b)
{
    return __fdiv_rn(a, b);
}
GPU_FN wf w_sqrt(wf a)
{
    return __fsqrt_rn(a);
}
GPU_FN wf w_float(wi a)
{
    return __int2float_rn(a);
}
GPU_FN wi w_round(wf v) /* to the nearest, ties to even; v is in the range of an i32 */
{
    return __float2int_rn(v);
}
GPU_FN wf w_asf(wu a)
{
    return __uint_as_float(a);
}
GPU_FN wu w_asu(wf a)
{
    return __float_as_uint(a);
}
GPU_FN wi w_asi(wu a)
{
    return (int32_t)a;
}
GPU_FN wf w_pickf(wb c, wf a, wf b)
{
    return c ? a : b;
}
GPU_FN wu w_picku(wb c, wu a, wu b)
{
    return c ? a : b;
}
GPU_FN wi w_picki(wb c, wi a, wi b)
{
    return c ? a : b;
}
GPU_FN wb w_ltf(wf a, wf b)
{
    return a < b;
}
GPU_FN wb w_ltu(wu a, uint32_t b)
{
    return a < b;
}
GPU_FN wb w_and(wb a, wb b)
{
    return a && b;
}
GPU_FN wb w_or(wb a, wb b)
{
    return a || b;
}
GPU_FN wb w_not(wb a)
{
    return !a;
}
GPU_FN wf w_shuffle(wf v, int mask) /* of the lane whose number differs by these bits */
{
    return __shfl_xor_sync(~0u, v, mask);
}
GPU_FN wu w_shuffleu(wu v, int mask)
{
    return __shfl_xor_sync(~0u, v, mask);
}
GPU_FN uint32_t w_get(wu v, uint32_t lane) /* uniform: what that lane has */
{
    return __shfl_sync(~0u, v, (int)lane);
}
GPU_FN uint32_t w_ballot(wb on) /* uniform: bit l is lane l's */
{
    return __ballot_sync(~0u, on);
}
GPU_FN wu w_ones(wu v) /* bits that are set */
{
    return (uint32_t)__popc(v);
}

GPU_FN void block_sync(void)
{
    __syncthreads();
}
GPU_FN void warp_sync(void)
{
    __syncwarp();
}

/* ---- global memory ---- */
GPU_FN const uint8_t *gpu_place(const void *base, wu row, size_t stride, wu at)
{
    return (const uint8_t *)base + row * stride + at;
}
GPU_FN wu g_ld8_row_if(const void *base, wu row, size_t stride, wu at, wb on)
{
    return on ? *gpu_place(base, row, stride, at) : 0u;
}
GPU_FN wu g_ld16_row_if(const void *base, wu row, size_t stride, wu at, wb on)
{
    return on ? *(const uint16_t *)gpu_place(base, row, stride, at) : 0u;
}
GPU_FN wu g_ld32_row_if(const void *base, wu row, size_t stride, wu at, wb on)
{
    return on ? *(const uint32_t *)gpu_place(base, row, stride, at) : 0u;
}
GPU_FN void g_ld64_row_if(const void *base, wu row, size_t stride, wu at, wb on, wu out[2])
{
    uint2 v = on ? *(const uint2 *)gpu_place(base, row, stride, at) : make_uint2(0u, 0u);
    out[0] = v.x, out[1] = v.y;
}
GPU_FN void g_ld128_row_if(const void *base, wu row, size_t stride, wu at, wb on, wu out[4])
{
    uint4 v = on ? *(const uint4 *)gpu_place(base, row, stride, at) : make_uint4(0u, 0u, 0u, 0u);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}
GPU_FN void g_st8_row_if(void *base, wu row, size_t stride, wu at, wu v, wb on)
{
    if (on)
        *(uint8_t *)gpu_place(base, row, stride, at) = (uint8_t)v;
}
GPU_FN void g_st16_row_if(void *base, wu row, size_t stride, wu at, wu v, wb on)
{
    if (on)
        *(uint16_t *)gpu_place(base, row, stride, at) = (uint16_t)v;
}
GPU_FN void g_st32_row_if(void *base, wu row, size_t stride, wu at, wu v, wb on)
{
    if (on)
        *(uint32_t *)gpu_place(base, row, stride, at) = v;
}
GPU_FN void g_st64_row_if(void *base, wu row, size_t stride, wu at, const wu v[2], wb on)
{
    if (on)
        *(uint2 *)gpu_place(base, row, stride, at) = make_uint2(v[0], v[1]);
}
GPU_FN void g_st128_row_if(void *base, wu row, size_t stride, wu at, const wu v[4], wb on)
{
    if (on)
        *(uint4 *)gpu_place(base, row, stride, at) = make_uint4(v[0], v[1], v[2], v[3]);
}
GPU_FN uint32_t g_ld32_uniform(const void *base,
                               size_t at) /* the same for all lanes, and a branch may hang on it */
{
    return *(const uint32_t *)((const uint8_t *)base + at);
}
GPU_FN const void *g_pointer(const void *const *list, uint32_t i) /* uniform */
{
    return list[i];
}

/* ---- shared memory ---- */
GPU_FN wu sm_ld8(wu at)
{
    return gpu_shared[at];
}
GPU_FN wu sm_ld16(wu at)
{
    return *(const uint16_t *)(gpu_shared + at);
}
GPU_FN wu sm_ld32(wu at)
{
    return *(const uint32_t *)(gpu_shared + at);
}
GPU_FN void sm_ld64(wu at, wu out[2])
{
    uint2 v = *(const uint2 *)(gpu_shared + at);
    out[0] = v.x, out[1] = v.y;
}
GPU_FN void sm_ld128(wu at, wu out[4])
{
    uint4 v = *(const uint4 *)(gpu_shared + at);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}
GPU_FN void sm_st8_if(wu at, wu v, wb on)
{
    if (on)
        gpu_shared[at] = (uint8_t)v;
}
GPU_FN void sm_st16_if(wu at, wu v, wb on)
{
    if (on)
        *(uint16_t *)(gpu_shared + at) = (uint16_t)v;
}
GPU_FN void sm_st32_if(wu at, wu v, wb on)
{
    if (on)
        *(uint32_t *)(gpu_shared + at) = v;
}
GPU_FN void sm_st64_if(wu at, const wu v[2], wb on)
{
    if (on)
        *(uint2 *)(gpu_shared + at) = make_uint2(v[0], v[1]);
}
GPU_FN void sm_st128_if(wu at, const wu v[4], wb on)
{
    if (on)
        *(uint4 *)(gpu_shared + at) = make_uint4(v[0], v[1], v[2], v[3]);
}

/* ---- copies that go on while the warp does: 16 bytes from row * stride + from, or zeros where `on` is not; lanes with `act` ---- */
GPU_FN void cp_async16(wu to, const void *base, wu row, size_t stride, wu from, wb on, wb act)
{
    if (!act)
        return;
    uint32_t bytes = on ? 16u : 0u; /* of which the rest is filled with zeros */
    const uint8_t *at = (const uint8_t *)base + (on ? row * stride + from : 0);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(gpu_shared) + to),
                 "l"(at), "r"(bytes)
                 : "memory");
}
GPU_FN void cp_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
#define cp_wait(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")

/* ---- c += a * b, m16n8k32, a warp's fragments ---- */
GPU_FN void mma_u8s8(wi c[4], const wu a[4], const wu b[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
GPU_FN void mma_s8u8(wi c[4], const wu a[4], const wu b[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif
#endif
