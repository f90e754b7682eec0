/* The tables of this folder, for kernels/isa.c alone: each is compiled for its instruction set and
 * may be entered only after base/cpu.h says that the processor and the operating system have it.
 * A complete table is a float half and an integer half: instruction sets extend them independently
 * (AVX-512 came without VNNI, VNNI came to AVX2). */
#ifndef SL_KERNELS_CPU_TABLES_H
#define SL_KERNELS_CPU_TABLES_H

#include "kernels/isa.h"

/* Float halves: the integer entries are NULL. */
extern const struct sl_ops sl_ops_avx2;
extern const struct sl_ops sl_ops_avx512;

/* gemm, gemm_swiglu and attend of profile bf16dot (and scratch_bytes); the other entries are NULL. */
extern const struct sl_ops sl_bf16dot_avx512;

/* Integer halves: scratch_bytes and the entries from quantise on; the float entries are NULL. */
extern const struct sl_ops sl_int_avx2;
extern const struct sl_ops sl_int_avxvnni;
extern const struct sl_ops sl_int_avx512vnni;
extern const struct sl_ops sl_int_amx;

/* A block of i4, i4g16, i3 or i2 to the bytes w8 + 128, laid out as i8: [kp / 4][16][4]. */
void sl_int_decode_avx512vnni(enum sl_dtype dtype, uint32_t k, const void *block, uint8_t *to);

/* attend8 and attend_merge (and scratch_bytes); the other entries are NULL. */
extern const struct sl_ops sl_attend8_avx2;
extern const struct sl_ops sl_attend8_avxvnni;
extern const struct sl_ops sl_attend8_avx512vnni;

#endif
