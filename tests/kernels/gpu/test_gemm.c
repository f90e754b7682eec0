/* kernels/gpu/gemm: the twin's products of floats have the bits of kernels/ref, and nothing is found. */
#define DRAW_SEED 20261134
#include "tests/kernels/gpu/gemm_cases.h"

static struct gpu_outcome check_gemm(const struct gemm_case *c, uint64_t seed)
{
    struct gpu_outcome o = gemm_go(c, seed);
    expect_sound(&o, "%ux%ux%u%s%s%s%s%s%s", c->m, c->k, c->n, c->bf16 ? " bf16" : "",
                 c->swiglu ? " swiglu" : "", c->accumulate ? " accumulate" : "", c->experts ? " experts" : "",
                 c->gather ? " gather" : "", c->tiny ? " tiny" : "");
    return o;
}

SL_TEST(products_have_the_bits_of_the_host)
{
    for (uint32_t i = 0; i < GEMM_CASES; i++)
        check_gemm(&gemm_cases[i], i);
}

SL_TEST(drawn_products_do_too)
{
    struct sweep s = sweep_of("gemm", 6);
    while (sweep_goes_on(&s)) {
        struct gemm_case c = {
            .m = sweep_rows(&s, 90), .k = 1 + below(130), .n = 1 + below(s.large ? 200 : 100)};
        c.bf16 = below(2), c.swiglu = below(2), c.accumulate = !c.swiglu && below(2);
        c.experts = below(2), c.gather = below(2), c.tiny = below(4) == 0;
        struct gpu_outcome o = check_gemm(&c, s.n_cases);
        sweep_count(&s, &o);
    }
}
