/* kernels/gpu place, attend and mix: attention over pages of floats on the twin has the bits of kernels/ref, and nothing is found. */
#include "tests/kernels/gpu/attend_cases.h"

static void check_attend(const struct case_shape *shape, uint64_t seed, struct sweep *place,
                         struct sweep *attend)
{
    struct case_run *c = attend_run(shape, seed);
    const struct gpu_outcome o = case_sum(c);
    expect_sound(&o, "%u heads of %u, %u of KV, dtype %d, seed %llu", shape->n_q, shape->d_head, shape->n_kv,
                 (int)shape->kv_dtype, (unsigned long long)seed);
    if (place) {
        sweep_count(place, &c->placed);
        sweep_count(attend, &c->attended);
    }
    case_destroy(c);
}

SL_TEST(rows_have_the_bits_of_the_host)
{
    for (uint32_t i = 0; i < ATTEND_CASES; i++)
        check_attend(&attend_cases[i], i, NULL, NULL);
}

SL_TEST(drawn_rows_do_too)
{
    static const uint32_t widths[] = {64, 128, 80, 2, 192, 256, 320, 96},
                          positions[] = {0, 1, 63, 64, 130, 2047, 2100, 4100};
    struct sweep place = sweep_of("place of floats", 3), attend = sweep_of("attend and mix", 3);
    while (sweep_goes_on(&attend)) {
        const bool large = attend.large;
        struct case_shape s = {
            .n_kv = 1 + below(2), .d_head = widths[below(8)], .wanted = below(2) * below(20)};
        s.n_q = s.n_kv * (1 + below(5));
        s.kv_dtype = below(2) ? SL_F32 : SL_BF16;
        s.last = below(2), s.bias = below(2), s.qk_norm = below(2), s.odd = below(2);
        for (uint32_t j = 0, slices = 1 + below(3); j < slices; j++) {
            s.slices[j].pos = positions[below(large && j == 0 ? 8 : 5)];
            s.slices[j].n = 1 + below(large && below(2) ? 100 : 12);
            s.slices[j].kv_only = below(s.slices[j].n + 1);
        }
        check_attend(&s, attend.n_cases, &place, &attend);
    }
    sweep_says(&place);
}
