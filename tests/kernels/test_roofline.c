/* The yardsticks: each counts the operations that it does, tables have those of their instruction
 * set, and the arithmetic of a roofline takes the larger limit. What they measure is the machine's
 * business: no test asserts on it. */
#include "base/arena.h"
#include "base/cpu.h"
#include "kernels/cpu/peak.h"
#include "kernels/roofline.h"
#include "tests/check.h"

/* Twice the loops are twice the operations, of as many as a loop of registers holds. */
SL_TEST(peaks_count_what_they_do)
{
    static const struct {
        uint32_t needs;
        uint64_t (*run)(uint64_t loops, float *sink);
        uint64_t ops; /* of a loop: chains x lanes x 2 for each product and its addition */
    } peaks[] = {
        {SL_CPU_AVX2, sl_peak_avx2, 12 * 8 * 2},
        {SL_CPU_AVX512, sl_peak_avx512, 16 * 16 * 2},
        {SL_CPU_AVX512 | SL_CPU_BF16, sl_peak_bf16, 16 * 32 * 2},
        {SL_CPU_AVX2, sl_peak_int8_avx2, 4 * 8 * 32 * 2},
        {SL_CPU_AVX2 | SL_CPU_AVXVNNI, sl_peak_int8_avxvnni, 12 * 32 * 2},
        {SL_CPU_AVX512 | SL_CPU_VNNI, sl_peak_int8_avx512vnni, 16 * 64 * 2},
    };
    uint32_t features = sl_cpu_detect();
    for (size_t i = 0; i < sizeof peaks / sizeof *peaks; i++) {
        float sink = 0;
        if ((features & peaks[i].needs) != peaks[i].needs)
            continue;
        CHECK_INT(peaks[i].run(1, &sink), peaks[i].ops);
        CHECK_INT(peaks[i].run(1000, &sink), 1000 * peaks[i].ops);
        CHECK(sink == sink);
    }
}

/* The products were not left out: the sums are what the chains add up to. */
SL_TEST(int8_peaks_sum_for_real)
{
    uint32_t features = sl_cpu_detect();
    float sink;
    if ((features & SL_CPU_VNNI) &&
        (features & SL_CPU_AVX512)) { /* start 0..15, four times 1 x -1 a loop and chain */
        sl_peak_int8_avx512vnni(100, &sink);
        CHECK(sink == 15 * 16 / 2 - 16 * 100 * 4);
    }
    if (features & SL_CPU_AVX2) { /* two words of 1 + 8 * 2 a loop and chain, the first products being zero */
        sl_peak_int8_avx2(100, &sink);
        CHECK(sink == 4 * (2 * 17 * 100 - 2 * 2));
    }
    if (features & SL_CPU_AVXVNNI) {
        sl_peak_int8_avxvnni(100, &sink);
        CHECK(sink == 11 * 12 / 2 - 12 * 100 * 4);
    }
}

SL_TEST(every_table_but_ref_has_yardsticks)
{
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available(&n);
    struct sl_team *team;
    struct sl_err err;
    REQUIRE(sl_team_create(&team, 2, 0, &err) == SL_OK);
    for (uint32_t i = 0; i + 1 < n; i++) {
        CHECK(sl_peak_instruction(tables[i], SL_PEAK_F32) != NULL);
        CHECK(sl_peak_instruction(tables[i], SL_PEAK_INT8) != NULL);
        CHECK(sl_peak_measure(team, tables[i], SL_PEAK_INT8, 1000) > 0);
    }
    for (int p = 0; p < SL_PEAKS; p++) {
        CHECK(sl_peak_instruction(&sl_ops_ref, (enum sl_peak)p) == NULL);
        CHECK(sl_peak_measure(team, &sl_ops_ref, (enum sl_peak)p, 1000) == 0);
    }
    sl_team_destroy(team);
}

SL_TEST(a_roofline_is_whole)
{
    struct sl_roofline r;
    struct sl_err err;
    uint32_t n;
    const struct sl_ops *best = sl_ops_available(&n)[0];
    REQUIRE(sl_roofline_measure(&r, best, 3, 1, &err) == SL_OK);
    CHECK(r.bytes_per_ns > 0);
    for (int p = 0; p < SL_PEAKS; p++)
        CHECK((r.ops_per_ns[p] > 0) == (sl_peak_instruction(best, (enum sl_peak)p) != NULL));
}

SL_TEST(limits_are_times)
{
    struct sl_roofline r = {.ops_per_ns = {100, 0, 400}, .bytes_per_ns = 20};
    CHECK(sl_roofline_compute_ns(&r, SL_PEAK_F32, 1000) == 10);
    CHECK(sl_roofline_compute_ns(&r, SL_PEAK_INT8, 1000) == 2.5);
    CHECK(sl_roofline_compute_ns(&r, SL_PEAK_BF16, 1000) == 0); /* no such instruction: no limit */
    CHECK(sl_roofline_memory_ns(&r, 1000) == 50);
}
