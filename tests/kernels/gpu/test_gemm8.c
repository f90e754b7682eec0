/* kernels/gpu/gemm8: the twin's outputs are those of kernels/ref, bit for bit, for every body and format, with and without SwiGLU, of
 * one and two digits, and the twin has nothing to say of it. Shapes are ragged in every direction, experts have any number of rows
 * and none, a row is NaN. And which body takes which rows. */
#define DRAW_SEED 20261135
#include "tests/kernels/gpu/gemm8_case.h"

static const char *const bodies[GEMM8_BODIES] = {"few", "mma", "wgmma"};

#define EACH_BODY(b) for (enum gemm8_body b = 0; b < GEMM8_BODIES; b++)
#define EACH_FORMAT(d) for (enum sl_dtype d = SL_I8; d < SL_DTYPES; d++)

static struct gpu_outcome check_case(const struct gemm8_case *c, uint64_t seed)
{
    struct gpu_outcome o = gemm8_go(c, seed);
    expect_sound(&o, "%s %s%s of %u digits, n %u k %u, %u tokens %u experts top %u%s%s, seed %llu",
                 bodies[c->body], sl_dtype_name(c->dtype), c->swiglu ? " swiglu" : "", c->digits, c->n, c->k,
                 c->tokens, c->experts, c->top_k, c->accumulate ? " accumulate" : "",
                 c->dense ? " dense" : "", (unsigned long long)seed);
    return o;
}

SL_TEST(gemm8_has_the_bits_of_ref_for_every_format)
{
    EACH_BODY(b)
    EACH_FORMAT(d)
    for (uint32_t how = 0; how < (b == GEMM8_WGMMA ? 2 : 4); how++)
        check_case(&(struct gemm8_case){.body = b,
                                        .dtype = d,
                                        .swiglu = how & 1,
                                        .digits = how / 2 == 1 ? 2 : 1,
                                        .accumulate = !(how & 1) && d % 2,
                                        .n = 40,
                                        .k = 160,
                                        .tokens = 30,
                                        .experts = 3,
                                        .top_k = 2},
                   how);
}

SL_TEST(gemm8_has_the_bits_of_ref_for_ragged_shapes)
{
    static const uint32_t ns[] = {1, 15, 16, 33, 100, 129, 256}, ks[] = {1, 31, 33, 64, 127, 255, 600};
    for (uint32_t i = 0; i < 14; i++)
        check_case(&(struct gemm8_case){.body = i >= 7  ? GEMM8_FEW
                                                : i % 2 ? GEMM8_MMA
                                                        : GEMM8_WGMMA,
                                        .dtype = SL_I8 + i % 5,
                                        .swiglu = i % 3 == 1,
                                        .digits = 1 + i % 2,
                                        .accumulate = i % 3 == 2,
                                        .n = ns[i % 7],
                                        .k = ks[(i * 3 + 1) % 7],
                                        .tokens = 5 + 3 * (i % 7),
                                        .experts = 1 + i % 7,
                                        .top_k = 1 + i % 3},
                   100 + i);
}

SL_TEST(few_rows_have_the_bits_of_ref_however_many_they_are)
{
    EACH_FORMAT(d)
    for (uint32_t rows = 1; rows <= GEMM8_FEW_TOKENS; rows++)
        check_case(&(struct gemm8_case){.body = GEMM8_FEW,
                                        .dtype = d,
                                        .swiglu = rows % 3 == d % 3,
                                        .digits = 1 + (rows + d) % 2,
                                        .dense = true,
                                        .n = 8 + 5 * rows,
                                        .k = 1 + (rows * 331 + (uint32_t)d * 97) % 900,
                                        .tokens = rows,
                                        .experts = 1,
                                        .top_k = 1},
                   200 + rows);
}

SL_TEST(inputs_that_go_round_the_stages_have_the_bits_of_ref)
{
    EACH_BODY(b)
    EACH_FORMAT(d)
    check_case(
        &(struct gemm8_case){
            .body = b, .dtype = d, .digits = 1, .n = 20, .k = 1300, .tokens = 9, .experts = 1, .top_k = 1},
        300 + d);
}

SL_TEST(gemm8_of_a_dense_matrix_takes_its_rows_as_they_lie)
{
    EACH_BODY(b)
    check_case(&(struct gemm8_case){.body = b,
                                    .dtype = SL_I8,
                                    .digits = 1,
                                    .dense = true,
                                    .n = 48,
                                    .k = 128,
                                    .tokens = gemm8_tokens(b) + 6,
                                    .experts = 1,
                                    .top_k = 1},
               0);
}

SL_TEST(gemm8_of_no_rows_does_nothing)
{
    EACH_BODY(b)
    check_case(
        &(struct gemm8_case){
            .body = b, .dtype = SL_I4, .digits = 1, .n = 16, .k = 32, .tokens = 4, .experts = 2, .top_k = 0},
        0);
}

SL_TEST(drawn_cases_have_the_bits_of_ref)
{
    struct sweep s = sweep_of("gemm8", 6);
    while (sweep_goes_on(&s)) {
        struct gemm8_case c = {.dtype = SL_I8 + below(5),
                               .swiglu = below(2),
                               .digits = 1 + below(2),
                               .n = 1 + below(200),
                               .k = 1 + below(below(8) ? 300 : 1500),
                               .dense = below(16) == 0};
        c.accumulate = !c.swiglu && below(2);
        c.body = (enum gemm8_body)below(c.digits == 1 ? GEMM8_BODIES : GEMM8_WGMMA);
        c.experts = c.dense ? 1 : 1 + below(9); /* pairs of a dense one are tokens */
        c.top_k = c.dense ? 1 : 1 + below(4);
        c.tokens = (sweep_rows(&s, 80) + c.top_k - 1) / c.top_k;
        struct gpu_outcome o = check_case(&c, s.n_cases);
        sweep_count(&s, &o);
    }
}

/* The table of gemm8.h. */
SL_TEST(the_body_is_chosen_by_rows_experts_digits_and_gpu)
{
    static const struct {
        uint32_t rows, experts;
        bool kept;
        uint32_t capability;
        enum gemm8_body body;
    } rows[] = {
        {0, 1, false, 90, GEMM8_FEW},           {1, 1, false, 90, GEMM8_FEW},
        {16, 1, true, 80, GEMM8_FEW},           {17, 1, false, 90, GEMM8_MMA},
        {64, 1, false, 90, GEMM8_MMA},          {65, 1, false, 90, GEMM8_WGMMA},
        {65, 1, false, 80, GEMM8_MMA},          {65, 1, false, 100, GEMM8_MMA},
        {65, 1, true, 90, GEMM8_MMA},           {16, 3, false, 80, GEMM8_FEW},
        {8 * 128, 128, false, 90, GEMM8_FEW},   {8 * 128 + 1, 128, false, 90, GEMM8_MMA},
        {64 * 128, 128, false, 90, GEMM8_MMA},  {64 * 128 + 1, 128, false, 90, GEMM8_WGMMA},
        {1u << 24, 4096, false, 89, GEMM8_MMA}, {1u << 24, 4096, false, 90, GEMM8_WGMMA},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CHECK_INT(gemm8_choose(rows[i].rows, rows[i].experts, rows[i].kept, rows[i].capability),
                  rows[i].body);
}

/* What is chosen is there, and more rows never want a lower tile. */
SL_TEST(whatever_is_chosen_has_a_kernel_and_tiles_grow_with_rows)
{
    for (uint32_t how = 0; how < 16; how++) {
        const uint32_t experts = how & 1 ? 9 : 1, digits = how & 2 ? 2 : 1, capability = how & 4 ? 90 : 80;
        const bool swiglu = how & 8;
        uint32_t tokens = 0;
        for (uint32_t rows = 0; rows < 1000; rows++) {
            enum gemm8_body body = gemm8_choose(rows, experts, swiglu && digits == 2, capability);
            EACH_FORMAT(d)
            {
                const struct gpu_kernel *kernel =
                    gemm8_kernel(body, d, swiglu, body == GEMM8_WGMMA ? 1 : digits);
                REQUIRE(kernel);
                CHECK(gemm8_shared(kernel) > 0 && gemm8_shared(kernel) <= GPU_SHARED_MAX);
            }
            CHECK(gemm8_tokens(body) >= tokens);
            tokens = gemm8_tokens(body);
        }
    }
}
