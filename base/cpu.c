/* CPUID and XCR0, read once. A feature counts only when the operating system saves the registers it uses. */
#include "base/cpu.h"
#include <cpuid.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Linux saves eight kilobytes of tiles only for processes that have asked; without, the first tile instruction is SIGILL.
 * Asking again is harmless, and threads that start later inherit it. */
static bool ask_for_tiles(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

uint32_t sl_cpu_detect(void)
{
    uint32_t a, b, c, d, features = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) /* OSXSAVE */
        return 0;
    bool fma = c & (1u << 12), f16c = c & (1u << 29), avx = c & (1u << 28);
    uint64_t xcr0 = read_xcr0();
    bool ymm = (xcr0 & 0x6) == 0x6, zmm = (xcr0 & 0xE6) == 0xE6, tiles = (xcr0 & 0x60000) == 0x60000;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    if (ymm && avx && fma && f16c && (b & (1u << 5)))
        features |= SL_CPU_AVX2;
    uint32_t wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F DQ BW VL */
    if (zmm && (features & SL_CPU_AVX2) && (b & wanted) == wanted) {
        features |= SL_CPU_AVX512;
        if (c & (1u << 11))
            features |= SL_CPU_VNNI;
    }
    uint32_t amx = 1u << 22 | 1u << 24 | 1u << 25; /* BF16 TILE INT8 */
    if (tiles && (d & amx) == amx && ask_for_tiles())
        features |= SL_CPU_AMX;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d))
        return features;
    if ((features & SL_CPU_AVX2) && (a & (1u << 4)))
        features |= SL_CPU_AVXVNNI;
    if ((features & SL_CPU_AVX512) && (a & (1u << 5)))
        features |= SL_CPU_BF16;
    return features;
}

sl_status sl_cpu_features(uint32_t *features, struct sl_err *err)
{
    static const struct {
        const char *name;
        uint32_t allowed, needed;
    } masks[] = {
        {"ref", 0, 0},
        {"avx2", SL_CPU_AVX2, SL_CPU_AVX2},
        {"avxvnni", SL_CPU_AVX2 | SL_CPU_AVXVNNI, SL_CPU_AVXVNNI},
        {"avx512", SL_CPU_AVX2 | SL_CPU_AVX512, SL_CPU_AVX512},
        {"avx512vnni", SL_CPU_AVX2 | SL_CPU_AVX512 | SL_CPU_VNNI | SL_CPU_BF16, SL_CPU_VNNI},
        {"amx", ~0u, SL_CPU_AMX},
    };
    *features = sl_cpu_detect();
    const char *mask = getenv("SLUICE_CPU");
    if (!mask || !*mask)
        return SL_OK;
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        if (strcmp(mask, masks[i].name) != 0)
            continue;
        if ((*features & masks[i].needed) != masks[i].needed)
            return sl_fail(err, SL_E_CONFIG,
                           "SLUICE_CPU=%s, but this processor does not have it; unset SLUICE_CPU", mask);
        *features &= masks[i].allowed;
        return SL_OK;
    }
    return sl_fail(err, SL_E_CONFIG,
                   "SLUICE_CPU=%s is unknown; use ref, avx2, avxvnni, avx512, avx512vnni or amx", mask);
}

uint32_t sl_cpu_threads(uint32_t asked, uint32_t n)
{
    cpu_set_t set;
    if (asked > 0)
        return asked;
    int processors = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    uint32_t each = (uint32_t)processors / (n > 0 ? n : 1);
    return each > 0 ? each : 1;
}

const char *sl_cpu_model_name(char *buffer, size_t bytes)
{
    uint32_t r[13] = {0};
    snprintf(buffer, bytes, "unknown");
    if ((uint32_t)__get_cpuid_max(0x80000000u, NULL) < 0x80000004u)
        return buffer;
    for (uint32_t i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]);
    snprintf(buffer, bytes, "%s", (const char *)r);
    size_t n = strlen(buffer);
    while (n > 0 && buffer[n - 1] == ' ')
        buffer[--n] = 0;
    return buffer;
}
