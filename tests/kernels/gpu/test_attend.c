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

SL_TEST(every_size_of_head_and_dtype_has_the_bits_of_the_host)
{
    static const uint32_t widths[] = {96, 200, 320};
    for (uint32_t i = 0; i < 6; i++)
        check_attend(&(struct case_shape){.n_q = 3,
                                          .n_kv = 1,
                                          .d_head = widths[i / 2],
                                          .kv_dtype = i % 2 ? SL_F32 : SL_BF16,
                                          .qk_norm = true,
                                          .slices = {{62, 5, 0}, {3, 1, 0}}},
                     300 + i, NULL, NULL);
}

/* Every eighth has a long context, through which ref goes key by key. */
static struct case_shape draw_shape(const struct sweep *sweep)
{
    static const uint32_t widths[] = {64, 128, 80, 2, 192, 256, 320, 96},
                          positions[] = {0, 1, 63, 64, 130, 2047, 2100, 4100};
    const bool far = sweep->n_cases % 8 == 7;
    struct case_shape s = {.n_kv = 1 + below(2), .d_head = widths[below(8)], .wanted = below(2) * below(20)};
    uint32_t rows = sweep_rows(sweep, 20);
    s.n_q = s.n_kv * (1 + below(5));
    s.kv_dtype = below(2) ? SL_F32 : SL_BF16;
    s.last = below(2), s.bias = below(2), s.qk_norm = below(2), s.odd = below(2);
    rows = far && rows > 12 ? 12 : rows;
    for (uint32_t j = 0; j < 3 && rows > 0; j++) {
        s.slices[j].pos = positions[far && j == 0 ? 5 + below(3) : below(5)];
        s.slices[j].n = j == 2 ? rows : 1 + below(rows);
        s.slices[j].kv_only = below(s.slices[j].n + 1);
        rows -= s.slices[j].n;
    }
    return s;
}

SL_TEST(drawn_rows_do_too)
{
    struct sweep place = sweep_of("place of floats", 3), attend = sweep_of("attend and mix", 3);
    while (sweep_goes_on(&attend)) {
        struct case_shape s = draw_shape(&attend);
        check_attend(&s, attend.n_cases, &place, &attend);
    }
    sweep_says(&place);
}
