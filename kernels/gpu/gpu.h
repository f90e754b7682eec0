/* The seam: one source of a kernel, two compilers, nvcc for the device and gcc or clang for its twin on the host.
 *
 * A kernel is written for a warp as the CPU's are written for a vector: a wu, wi, wf is 32 lanes of u32, i32, f32, and a wb is a
 * yes or no a lane. On the device a lane is a thread, so they are scalars (warp_cuda.h); on the host they are vectors of 128 bytes
 * (warp_host.h). Arithmetic is the operators of the language on both, with no contraction (nvcc -fmad=false, -ffp-contract=off);
 * what is no arithmetic on lanes is a function of these headers:
 *   w_   lanes: make, choose, compare (or `(wb)(a < b)`), shuffle, the roundings that have a name
 *   g_   global memory: a base, and a lane's row * stride + at in bytes; `_if`: lanes where `on` is, the others get 0
 *   sm_  the block's shared memory, by offsets in bytes
 *   cp_  copies from global to shared memory that go on while the warp does
 *   mma_ products on tensor cores; wgmma_ those of four warps, of sm_90a; mbar_ barriers on which some warps wait for others
 * Control flow is uniform over a warp: what differs by lane is w_pick and `_if`. So lock step is what a kernel means, not what it
 * happens to get, and a body may branch on plain integers only. Scalars in expressions with lanes have the lanes' type (4u).
 * A block is a set of warps that meet in block_sync. On the host a warp is a fibre, the next one drawn by seed, and every access
 * to memory is checked (host.h).
 *
 * A kernel is four short functions: setup (where this block's things lie), load (one stage, asynchronous), compute, finish. Its
 * body is an .inc in the common subset of C11 and CUDA C++, included by a .cu of two lines, and by a .c of two lines for the twin.
 * A constant is a function's `const int` argument that inlining makes vanish. */
#ifndef SL_KERNELS_GPU_GPU_H
#define SL_KERNELS_GPU_GPU_H

#include "kernels/exp.h"
#include "kernels/gpu/mutants.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#include "kernels/gpu/warp_cuda.h"
#else
#include "kernels/gpu/warp_host.h"
#endif

GPU_FN wf w_maxf(wf a, wf b) /* a when either is NaN, as `b > a ? b : a` */
{
    return w_pickf(w_ltf(a, b), b, a);
}
GPU_FN wu w_maxu(wu a, wu b)
{
    return w_picku((wb)(a < b), b, a);
}
GPU_FN wu w_minu(wu a, wu b)
{
    return w_picku((wb)(b < a), b, a);
}

/* Of all lanes, to all lanes. */
GPU_FN wu w_sum_of_all(wu v)
{
    GPU_UNROLL
    for (int mask = 1; mask < 32; mask *= 2)
        v = v + w_shuffleu(v, mask);
    return v;
}
GPU_FN wu w_max_of_all(wu v)
{
    GPU_UNROLL
    for (int mask = 1; mask < 32; mask *= 2)
        v = w_maxu(v, w_shuffleu(v, mask));
    return v;
}

/* ---- what is made of the accesses by row: one base for all lanes, floats, and all lanes at once ---- */
GPU_FN wu g_ld32_if(const void *base, wu at, wb on)
{
    return g_ld32_row_if(base, w_set(0), 0, at, on);
}
GPU_FN wu g_ld32(const void *base, wu at)
{
    return g_ld32_if(base, at, w_all());
}
GPU_FN wf g_ldf_if(const void *base, wu at, wb on)
{
    return w_asf(g_ld32_if(base, at, on));
}
GPU_FN wf g_ldf_row_if(const void *base, wu row, size_t stride, wu at, wb on)
{
    return w_asf(g_ld32_row_if(base, row, stride, at, on));
}
GPU_FN void g_stf_if(void *base, wu row, size_t stride, wu at, wf a, wb on)
{
    g_st32_row_if(base, row, stride, at, w_asu(a), on);
}
GPU_FN void g_st64f_if(void *base, wu row, size_t stride, wu at, wf a, wf b, wb on)
{
    wu v[2];
    v[0] = w_asu(a), v[1] = w_asu(b);
    g_st64_row_if(base, row, stride, at, v, on);
}
GPU_FN wf sm_ldf(wu at)
{
    return w_asf(sm_ld32(at));
}
GPU_FN void sm_stf_if(wu at, wf v, wb on)
{
    sm_st32_if(at, w_asu(v), on);
}
GPU_FN void sm_stf(wu at, wf v)
{
    sm_stf_if(at, v, w_all());
}
GPU_FN void sm_st16(wu at, wu v)
{
    sm_st16_if(at, v, w_all());
}
GPU_FN void sm_st32(wu at, wu v)
{
    sm_st32_if(at, v, w_all());
}
GPU_FN void sm_st64(wu at, const wu v[2])
{
    sm_st64_if(at, v, w_all());
}

/* 2^n * p(f): sl_exp_finish of kernels/exp.h over lanes. */
GPU_FN wf w_exp_finish(wf f, wf rounded)
{
    wf p = w_setf(SL_EXP_C5);
    p = w_fma(p, f, w_setf(SL_EXP_C4));
    p = w_fma(p, f, w_setf(SL_EXP_C3));
    p = w_fma(p, f, w_setf(SL_EXP_C2));
    p = w_fma(p, f, w_setf(SL_EXP_C1));
    p = w_fma(p, f, w_setf(1.0f));
    return w_pickf((wb)(p == p), w_asf(w_asu(p) + (w_asu(rounded) << 23)), p);
}
/* The same numbers as sl_exp_scalar, sl_exp2_scalar and sl_silu_scalar, to the bit. */
GPU_FN wf w_exp(wf x)
{
    wf cap = w_setf(SL_EXP_CAP), magic = w_setf(SL_EXP_MAGIC), high = w_setf(SL_EXP_LOG2E_HI);
    wb cut = w_ltf(x, w_setf(SL_EXP_CUT));
    wf y = w_pickf(w_ltf(cap, x), cap, x);
    wf rounded = w_fma(y, high, magic);
    wf n = rounded - magic;
    wf f = w_fma(y, w_setf(SL_EXP_LOG2E_LO), w_fma(y, high, -n));
    return w_pickf(cut, w_setf(0.0f), w_exp_finish(f, rounded));
}
GPU_FN wf w_exp2(wf x)
{
    wf cap = w_setf(SL_EXP2_CAP), magic = w_setf(SL_EXP_MAGIC);
    wb cut = w_ltf(x, w_setf(SL_EXP2_CUT));
    wf y = w_pickf(w_ltf(cap, x), cap, x);
    wf rounded = y + magic;
    return w_pickf(cut, w_setf(0.0f), w_exp_finish(y - (rounded - magic), rounded));
}
GPU_FN wf w_silu(wf x)
{
    return w_div(x, w_setf(1.0f) + w_exp(-x));
}

#endif
