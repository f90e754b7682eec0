/* kernels/gpu/gemm: the twin's products of floats have the bits of kernels/ref, and nothing is found. */
#define DRAW_SEED 20261134
#include "tests/kernels/gpu/gemm_cases.h"

SL_TEST(products_have_the_bits_of_the_host)
{
    for (uint32_t i = 0; i < GEMM_CASES; i++)
        check_gemm(&gemm_cases[i], i);
}

SL_TEST(drawn_products_do_too)
{
    const char *more = getenv("SLUICE_SEEDS");
    for (uint32_t i = 0, n = more ? (uint32_t)strtoul(more, NULL, 10) : 6; i < n; i++) {
        struct gemm_case c = {.m = 1 + below(90), .k = 1 + below(130), .n = 1 + below(100)};
        c.bf16 = below(2), c.swiglu = below(2), c.accumulate = !c.swiglu && below(2);
        c.experts = below(2), c.gather = below(2), c.tiny = below(4) == 0;
        check_gemm(&c, i);
    }
}
