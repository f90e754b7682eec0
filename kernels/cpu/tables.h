/* The tables of this folder, for kernels/ops.c alone: each is compiled for its instruction set and
 * may be entered only after base/cpu.h says that the processor and the operating system have it.
 * A complete table is a float half and an integer half: instruction sets extend them independently
 * (AVX-512 came without VNNI, VNNI came to AVX2). */
#ifndef SL_KERNELS_CPU_TABLES_H
#define SL_KERNELS_CPU_TABLES_H

#include "kernels/ops.h"

/* Float halves: the integer entries are NULL. */
extern const struct sl_ops sl_ops_avx2;
extern const struct sl_ops sl_ops_avx512;

/* Integer halves: scratch_bytes and the entries from quantise on; the float entries are NULL. */
/* (none yet: see ops.c) */

#endif
