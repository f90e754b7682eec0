/* kernels/gpu/gemm8: the twin's outputs are those of kernels/ref, bit for bit, for every format, with and without SwiGLU, of one and
 * two digits, and the twin has nothing to say of it. Shapes are ragged in every direction, experts have any number of rows and
 * none, a row is NaN. A tenth of SLUICE_SEEDS: so many drawn cases, of up to 300 rows, in place of a few small ones. */
#include "tests/check.h"
#include "tests/kernels/gpu/gemm8_case.h"

#define EACH_FORMAT(d) for (enum sl_dtype d = SL_I8; d < SL_DTYPES; d++)

static uint64_t outputs;

static void check_case(const struct gemm8_case *c)
{
    struct gemm8_outcome o = gemm8_run_case(c);
    const struct gpu_report *r = &o.report;
    outputs += o.outputs;
    if (o.differ > 0 || gpu_findings(r) > 0 || r->wavefronts != r->wavefronts_ideal)
        sl_test_fail(
            __FILE__, __LINE__,
            "%s%s%s of %u digits, n %u k %u, %u tokens %u experts top %u%s%s, seed %llu: %llu of %llu "
            "differ, %llu findings, %llu wavefronts of %llu: %s",
            c->wg ? "wgmma " : "", sl_dtype_name(c->dtype), c->swiglu ? " swiglu" : "", c->digits, c->n, c->k,
            c->tokens, c->experts, c->top_k, c->accumulate ? " accumulate" : "", c->dense ? " dense" : "",
            (unsigned long long)c->seed, (unsigned long long)o.differ, (unsigned long long)o.outputs,
            (unsigned long long)gpu_findings(r), (unsigned long long)r->wavefronts,
            (unsigned long long)r->wavefronts_ideal, r->first);
}

SL_TEST(gemm8_has_the_bits_of_ref_for_every_format)
{
    EACH_FORMAT(d)
    for (uint32_t how = 0; how < 6; how++)
        check_case(&(struct gemm8_case){.dtype = d,
                                        .swiglu = how & 1,
                                        .digits = how / 2 == 1 ? 2 : 1,
                                        .wg = how >= 4,
                                        .accumulate = !(how & 1) && d % 2,
                                        .n = 40,
                                        .k = 160,
                                        .tokens = 30,
                                        .experts = 3,
                                        .top_k = 2,
                                        .seed = how});
}

SL_TEST(gemm8_has_the_bits_of_ref_for_ragged_shapes)
{
    static const uint32_t ns[] = {1, 15, 16, 33, 100, 129, 256}, ks[] = {1, 31, 33, 64, 127, 255, 600};
    for (uint32_t i = 0; i < 7; i++)
        check_case(&(struct gemm8_case){.dtype = SL_I8 + i % 5,
                                        .swiglu = i % 3 == 1,
                                        .digits = 1 + i % 2,
                                        .wg = i % 2 == 0,
                                        .accumulate = i % 3 == 2,
                                        .n = ns[i],
                                        .k = ks[(i * 3 + 1) % 7],
                                        .tokens = 5 + 3 * i,
                                        .experts = 1 + i,
                                        .top_k = 1 + i % 3,
                                        .seed = 100 + i});
}

SL_TEST(gemm8_of_a_dense_matrix_takes_its_rows_as_they_lie)
{
    check_case(&(struct gemm8_case){.dtype = SL_I8,
                                    .digits = 1,
                                    .dense = true,
                                    .n = 48,
                                    .k = 128,
                                    .tokens = 70,
                                    .experts = 1,
                                    .top_k = 1});
}

SL_TEST(gemm8_of_no_rows_does_nothing)
{
    check_case(&(struct gemm8_case){
        .dtype = SL_I4, .digits = 1, .n = 16, .k = 32, .tokens = 4, .experts = 2, .top_k = 0});
}

SL_TEST(drawn_cases_have_the_bits_of_ref)
{
    const char *more = getenv("SLUICE_SEEDS");
    struct sl_rng rng = {42, 0};
    uint64_t n = more ? strtoull(more, NULL, 10) / 10 : 4;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t bits = sl_rng_next(&rng);
        struct gemm8_case c = {.dtype = SL_I8 + (uint32_t)(bits % 5), .seed = bits};
        c.swiglu = bits >> 8 & 1;
        c.accumulate = !c.swiglu && (bits >> 9 & 1);
        c.digits = 1 + (bits >> 10 & 1);
        c.wg = c.digits == 1 && (bits >> 53 & 1);
        c.n = 1 + (uint32_t)(bits >> 11) % 200;
        c.k = 1 + (uint32_t)(bits >> 19) % (bits >> 50 & 7 ? 300 : 1500);
        c.top_k = 1 + (uint32_t)(bits >> 30) % 4;
        c.experts = 1 + (uint32_t)(bits >> 32) % 9;
        c.tokens = 1 + (uint32_t)(bits >> 36) % (more ? 300 / c.top_k : 20);
        check_case(&c);
    }
    if (more)
        printf("figure: %llu outputs of gemm8 on the twin\n", (unsigned long long)outputs);
}
