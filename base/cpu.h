/* What this processor can do, masked by SLUICE_CPU=ref|avx2|avxvnni|avx512|avx512vnni|amx (an upper bound for tests).
 * Reads CPUID and XCR0: an instruction set counts only when the operating system saves its registers. */
#ifndef SL_BASE_CPU_H
#define SL_BASE_CPU_H

#include "base/status.h"
#include <stdint.h>

enum sl_cpu_feature {
    SL_CPU_AVX2 = 1u << 0,   /* with FMA and F16C */
    SL_CPU_AVX512 = 1u << 1, /* F BW DQ VL */
    SL_CPU_VNNI = 1u << 2,   /* AVX512_VNNI */
    SL_CPU_BF16 = 1u << 3,   /* AVX512_BF16 */
    SL_CPU_AMX = 1u << 4,    /* AMX-TILE, -INT8, -BF16, and tile state enabled in XCR0 */
    SL_CPU_AVXVNNI = 1u << 5 /* AVX_VNNI: dot products on ymm */
};

/* The machine's features without the mask. */
uint32_t sl_cpu_detect(void);
/* With the mask. SL_E_CONFIG when SLUICE_CPU names something unknown or something the machine lacks. */
sl_status sl_cpu_features(uint32_t *features, struct sl_err *err);
/* Threads that an option means: `asked`, or as many as this process may use processors, shared among n (0 counts as 1);
 * at least 1. */
uint32_t sl_cpu_threads(uint32_t asked, uint32_t n);
const char *sl_cpu_model_name(char *buffer, size_t bytes); /* "AMD EPYC ...", or "unknown" */

#endif
