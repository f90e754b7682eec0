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
GPU_FN wu w_mulhi(wu a, wu b) /* the upper half of the product */
{
    return __umulhi(a, b);
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

/* ---- barriers in shared memory, 8 bytes each, of sm_90: they flip when `count` warps have arrived, again and again ---- */
GPU_FN uint32_t gpu_shared_place(uint32_t at)
{
    return (uint32_t)__cvta_generic_to_shared(gpu_shared) + at;
}
GPU_FN void mbar_init(uint32_t at, uint32_t count) /* one warp, and block_sync before anybody uses it */
{
    if (w_lane() == 0)
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(gpu_shared_place(at)), "r"(count)
                     : "memory");
}
GPU_FN void mbar_arrive(uint32_t at) /* the warp, with all that it did before */
{
    __syncwarp();
    if (w_lane() == 0)
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(gpu_shared_place(at)) : "memory");
}
GPU_FN void
mbar_wait(uint32_t at,
          uint32_t parity) /* until the phase of that parity is over; the one before the first is 1 */
{
    uint32_t over;
    do {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(over)
            : "r"(gpu_shared_place(at)), "r"(parity)
            : "memory");
    } while (!over);
}

/* Four warps, all of them, have `n` registers a lane from here on: fewer, or more, for which they wait until others have given as
 * many. A multiple of 8. A block has in all what it was launched with, and no more that a multiprocessor may have left. */
#define gpu_give_registers(n) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"((int)(n)))
#define gpu_take_registers(n) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"((int)(n)))

/* ---- c += a * b, m64n128k32, of sm_90a: four warps, 16 rows of A each in registers, B in shared memory ---- */
GPU_FN void fence_async(void) /* what this warp wrote to shared memory is to be read by wgmma */
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
GPU_FN void wgmma_fence(void) /* registers have been touched by others than wgmma */
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
GPU_FN void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
#define wgmma_wait(n) asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory")
GPU_FN uint64_t
wgmma_place(uint32_t at) /* rows of 128 bytes, swizzled in eights; + 2: 32 bytes further in each row */
{
    uint32_t a = gpu_shared_place(at);
    return (uint64_t)((a & 0x3FFFFu) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}
GPU_FN void wgmma_u8s8(wi c[64], const wu a[4], uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k32.s32.u8.s8 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, "
                 "%8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, "
                 "%40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, "
                 "%56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, 1;"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]), "+r"(c[4]), "+r"(c[5]), "+r"(c[6]),
                   "+r"(c[7]), "+r"(c[8]), "+r"(c[9]), "+r"(c[10]), "+r"(c[11]), "+r"(c[12]), "+r"(c[13]),
                   "+r"(c[14]), "+r"(c[15]), "+r"(c[16]), "+r"(c[17]), "+r"(c[18]), "+r"(c[19]), "+r"(c[20]),
                   "+r"(c[21]), "+r"(c[22]), "+r"(c[23]), "+r"(c[24]), "+r"(c[25]), "+r"(c[26]), "+r"(c[27]),
                   "+r"(c[28]), "+r"(c[29]), "+r"(c[30]), "+r"(c[31]), "+r"(c[32]), "+r"(c[33]), "+r"(c[34]),
                   "+r"(c[35]), "+r"(c[36]), "+r"(c[37]), "+r"(c[38]), "+r"(c[39]), "+r"(c[40]), "+r"(c[41]),
                   "+r"(c[42]), "+r"(c[43]), "+r"(c[44]), "+r"(c[45]), "+r"(c[46]), "+r"(c[47]), "+r"(c[48]),
                   "+r"(c[49]), "+r"(c[50]), "+r"(c[51]), "+r"(c[52]), "+r"(c[53]), "+r"(c[54]), "+r"(c[55]),
                   "+r"(c[56]), "+r"(c[57]), "+r"(c[58]), "+r"(c[59]), "+r"(c[60]), "+r"(c[61]), "+r"(c[62]),
                   "+r"(c[63])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#endif
#endif
