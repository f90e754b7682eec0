/* The most multiply-adds that one thread can do: the yardsticks that kernels/roofline.h reads.
 *
 * Each function runs `loops` rounds of independent FMAs that never leave the registers and returns
 * the floating-point operations done (an FMA is two); the caller takes the time. They live beside
 * the kernels because each must be compiled for its instruction set, and may be entered only on a
 * processor that has it. */
#ifndef SL_KERNELS_CPU_PEAK_H
#define SL_KERNELS_CPU_PEAK_H

#include <stdint.h>

/* *sink takes a value that depends on every FMA, so that none can be left out. */
uint64_t sl_peak_avx2(uint64_t loops, float *sink);
uint64_t sl_peak_avx512(uint64_t loops, float *sink);
uint64_t sl_peak_bf16(uint64_t loops, float *sink); /* bf16 dot products of AVX512_BF16 */

/* Products and sums of bytes, in int32. With avx2 alone there is no such instruction: the best mix of those there are. */
uint64_t sl_peak_int8_avx2(uint64_t loops, float *sink);
uint64_t sl_peak_int8_avxvnni(uint64_t loops, float *sink);
uint64_t sl_peak_int8_avx512vnni(uint64_t loops, float *sink);
uint64_t sl_peak_int8_amx(uint64_t loops, float *sink); /* of whole tiles */

#endif
