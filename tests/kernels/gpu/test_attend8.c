/* kernels/gpu place, attend8, mix and the cutting of chunks for them: the twin's bytes are those of kernels/ref, without a finding and
 * without a conflict of banks in attend8, for sizes of head, of groups and of chunks as attention/ has them. */
#include "tests/kernels/gpu/attention_case.h"

/* The case as it came out, which the caller destroys. */
static struct case_run *expected(const struct case_shape *shape, uint64_t seed, const char *what)
{
    struct case_run *c = case_go(shape, seed);
    const struct gpu_outcome o = case_sum(c);
    expect_sound(&o, "%s: %u heads of %u, %u of KV, seed %llu", what, shape->n_q, shape->d_head, shape->n_kv,
                 (unsigned long long)seed);
    CHECK(o.outputs > 0);
    return c;
}

static void expect_equal(const struct case_shape *shape, uint64_t seed, const char *what)
{
    case_destroy(expected(shape, seed, what));
}

SL_TEST(heads_of_128_give_the_bits_of_ref)
{
    expect_equal(&(struct case_shape){.n_q = 8,
                                      .n_kv = 2,
                                      .d_head = 128,
                                      .kv_dtype = SL_I8,
                                      .qk_norm = true,
                                      .rotation = 1024,
                                      .slices = {{0, 19, 0}, {2046, 4, 0}, {60, 9, 0}, {70, 1, 0}}},
                 1, "heads of 128");
}

SL_TEST(heads_of_64_in_groups_of_three_give_the_bits_of_ref)
{
    expect_equal(&(struct case_shape){.n_q = 6,
                                      .n_kv = 2,
                                      .d_head = 64,
                                      .kv_dtype = SL_I8,
                                      .bias = true,
                                      .rotation = 128,
                                      .digits = 2,
                                      .slices = {{0, 70, 0}, {130, 3, 0}}},
                 2, "heads of 64");
}

SL_TEST(all_other_sizes_of_head_give_the_bits_of_ref)
{
    static const struct case_shape shapes[] = {
        {.n_q = 4, .n_kv = 4, .d_head = 256, .kv_dtype = SL_I8, .qk_norm = true, .slices = {{62, 5, 0}}},
        {.n_q = 5,
         .n_kv = 1,
         .d_head = 80,
         .kv_dtype = SL_I8,
         .rotation = 16,
         .slices = {{0, 6, 0}, {127, 2, 0}}},
        {.n_q = 2, .n_kv = 1, .d_head = 320, .kv_dtype = SL_I8, .digits = 2, .slices = {{2047, 2, 0}}},
        {.n_q = 2, .n_kv = 2, .d_head = 512, .kv_dtype = SL_I8, .bias = true, .slices = {{66, 2, 0}}},
        {.n_q = 34, .n_kv = 2, .d_head = 6, .kv_dtype = SL_I8, .qk_norm = true, .slices = {{61, 7, 0}}},
    };
    for (uint32_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        expect_equal(&shapes[i], i, "other heads");
}

SL_TEST(segments_that_are_shared_out_give_the_bits_of_those_that_are_not)
{
    struct case_shape shape = {.n_q = 8,
                               .n_kv = 1,
                               .d_head = 64,
                               .kv_dtype = SL_I8,
                               .slices = {{4100, 1, 0}, {2047, 3, 0}, {9, 1, 0}, {8191, 1, 0}}};
    for (shape.wanted = 0; shape.wanted <= 16; shape.wanted += 8)
        expect_equal(&shape, shape.wanted, "decode");
}

SL_TEST(rows_that_leave_only_k_and_v_are_left_out)
{
    expect_equal(&(struct case_shape){.n_q = 4,
                                      .n_kv = 2,
                                      .d_head = 64,
                                      .kv_dtype = SL_I8,
                                      .last = true,
                                      .qk_norm = true,
                                      .slices = {{0, 9, 8}, {60, 12, 2}, {3, 5, 5}, {70, 1, 0}}},
                 4, "the last layer");
}

SL_TEST(rows_that_are_no_numbers_are_those_of_ref)
{
    expect_equal(&(struct case_shape){.n_q = 8,
                                      .n_kv = 4,
                                      .d_head = 128,
                                      .kv_dtype = SL_I8,
                                      .odd = true,
                                      .rotation = 512,
                                      .digits = 2,
                                      .slices = {{190, 20, 0}, {0, 70, 0}}},
                 5, "odd rows");
}

/* A chunk as it may be. Every eighth has a long context, through which ref goes key by key. */
static struct case_shape draw_shape(const struct sweep *sweep)
{
    static const uint32_t widths[] = {64, 128, 256, 80, 96, 32, 8, 192, 320},
                          positions[] = {0, 1, 60, 64, 127, 200, 2047, 2048, 4096};
    const bool far = sweep->large && sweep->n_cases % 8 == 7;
    struct case_shape s = {
        .n_kv = 1 + below(2), .d_head = widths[below(9)], .kv_dtype = SL_I8, .wanted = below(2) * below(40)};
    uint32_t rows = sweep_rows(sweep, 20);
    s.n_q = s.n_kv * (1 + below(sweep->large ? 17 : 5));
    s.last = below(2), s.bias = below(2), s.qk_norm = below(2), s.odd = below(2), s.digits = 1 + below(2);
    const uint32_t k = s.n_q * s.d_head, most = k & ~(k - 1); /* the largest power of two that divides it */
    s.rotation = below(3) ? 2u << below(4) : 0;
    s.rotation = s.rotation > most ? most : s.rotation;
    for (uint32_t i = 0; i < CASE_SLICES - 1 && rows > 0; i++) {
        s.slices[i].pos = positions[far && i == 0 ? 6 + below(3) : below(6)];
        s.slices[i].n = i == CASE_SLICES - 2 ? rows : 1 + below(rows);
        s.slices[i].kv_only = below(s.slices[i].n + 1);
        rows -= s.slices[i].n;
    }
    return s;
}

SL_TEST(chunks_drawn_at_random_give_the_bits_of_ref)
{
    struct sweep place = sweep_of("place", 6), attend = sweep_of("attend8 and mix", 6);
    while (sweep_goes_on(&place)) {
        struct case_shape s = draw_shape(&attend);
        struct case_run *c = expected(&s, attend.n_cases, "a chunk at random");
        sweep_count(&place, &c->placed);
        sweep_count(&attend, &c->attended);
        case_destroy(c);
    }
    sweep_says(&attend);
}
