/* The tables of this folder, for kernels/ops.c alone: each is compiled for its instruction set and
 * may be entered only after base/cpu.h says that the processor and the operating system have it. */
#ifndef SL_KERNELS_CPU_TABLES_H
#define SL_KERNELS_CPU_TABLES_H

#include "kernels/ops.h"

extern const struct sl_ops sl_ops_avx2;
extern const struct sl_ops sl_ops_avx512;

#endif
