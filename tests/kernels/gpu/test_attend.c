/* kernels/gpu/attend: attention over pages of floats on the twin has the bits of kernels/ref, and nothing is found. */
#include "tests/kernels/gpu/attend_cases.h"

static void check_attend(const struct case_shape *shape, uint64_t seed)
{
    struct gpu_report r;
    uint64_t wrong = wrong_of_attend(shape, &r, seed);
    if (wrong > 0 || gpu_findings(&r) > 0)
        sl_test_fail(__FILE__, __LINE__, "%u heads of %u, dtype %d: %llu wrong, found: %s", shape->n_q,
                     shape->d_head, (int)shape->kv_dtype, (unsigned long long)wrong, r.first);
}

SL_TEST(rows_have_the_bits_of_the_host)
{
    for (uint32_t i = 0; i < ATTEND_CASES; i++)
        check_attend(&attend_cases[i], i);
}

SL_TEST(drawn_rows_do_too)
{
    static const uint32_t widths[] = {64, 128, 80, 2, 192, 256, 320, 96},
                          positions[] = {0, 1, 63, 64, 130, 2047, 2100, 4100};
    const char *more = getenv("SLUICE_SEEDS");
    for (uint32_t i = 0, n = more ? (uint32_t)strtoul(more, NULL, 10) : 3; i < n; i++) {
        struct case_shape s = {
            .n_kv = 1 + below(2), .d_head = widths[below(8)], .wanted = below(2) * below(20)};
        s.n_q = s.n_kv * (1 + below(5));
        s.kv_dtype = below(2) ? SL_F32 : SL_BF16;
        s.last = below(2), s.bias = below(2), s.qk_norm = below(2), s.odd = below(2);
        for (uint32_t j = 0, slices = 1 + below(3); j < slices; j++) {
            s.slices[j].pos = positions[below(more ? 8 : 5)];
            s.slices[j].n = 1 + below(12);
            s.slices[j].kv_only = below(s.slices[j].n + 1);
        }
        check_attend(&s, i);
    }
}
