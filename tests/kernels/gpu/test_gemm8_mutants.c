/* kernels/gpu/gemm8 with each of its faults (kernels/gpu/mutants.h): all are found, by the bits, by a finding of the twin or by the
 * wavefronts of shared memory, and without one there is nothing to find. SLUICE_PAGE=1 prints what found which. */
#include "tests/check.h"
#include "tests/kernels/gpu/gemm8_case.h"
#include "tests/kernels/gpu/mutants.h"

/* Stages enough that slots are used again, a tile that is not full, columns, blocks and units that end within theirs. */
static const struct gemm8_case cases[] = {
    {.body = GEMM8_MMA,
     .dtype = SL_I4,
     .digits = 1,
     .n = 40,
     .k = 736,
     .tokens = 25,
     .experts = 2,
     .top_k = 2,
     .seed = 1},
    {.body = GEMM8_MMA,
     .dtype = SL_I3,
     .digits = 2,
     .swiglu = true,
     .n = 40,
     .k = 160,
     .tokens = 40,
     .experts = 3,
     .top_k = 2,
     .seed = 2},
    {.body = GEMM8_MMA,
     .dtype = SL_I2,
     .digits = 1,
     .n = 150,
     .k = 100,
     .tokens = 40,
     .experts = 2,
     .top_k = 2,
     .seed = 3},
    {.body = GEMM8_WGMMA,
     .dtype = SL_I4,
     .digits = 1,
     .n = 40,
     .k = 1300,
     .tokens = 25,
     .experts = 2,
     .top_k = 2,
     .seed = 4},
    {.body = GEMM8_FEW,
     .dtype = SL_I4,
     .digits = 2,
     .n = 90,
     .k = 600,
     .tokens = 12,
     .experts = 2,
     .top_k = 2,
     .seed = 5},
    {.body = GEMM8_FEW,
     .dtype = SL_I3,
     .digits = 1,
     .swiglu = true,
     .dense = true,
     .n = 40,
     .k = 300,
     .tokens = 11,
     .experts = 1,
     .top_k = 1,
     .seed = 6},
};
enum { CASES = sizeof cases / sizeof *cases };

/* What gives the mutant away; NULL: nothing does. */
static const char *found_by(const struct gemm8_outcome *o)
{
    for (int kind = 0; kind < GPU_FINDINGS; kind++)
        if (o->report.found[kind] > 0)
            return gpu_finding_name((enum gpu_finding)kind);
    return o->report.wavefronts > o->report.wavefronts_ideal ? "bank conflicts"
           : o->differ > 0                                   ? "bits"
                                                             : NULL;
}

static bool is_found(enum gpu_mutant mutant)
{
    gpu_mutant = mutant;
    enum gemm8_body body = strncmp(gpu_mutant_name(mutant), "GEMM8_WG_", 9) == 0     ? GEMM8_WGMMA
                           : strncmp(gpu_mutant_name(mutant), "GEMM8_FEW_", 10) == 0 ? GEMM8_FEW
                                                                                     : GEMM8_MMA;
    for (uint32_t i = 0; i < CASES; i++) {
        if (mutant != GPU_MUTANT_NONE && cases[i].body != body)
            continue;
        struct gemm8_outcome o = gemm8_run_case(&cases[i]);
        const char *what = found_by(&o);
        if (!what)
            continue;
        if (getenv("SLUICE_PAGE"))
            printf("| %s | %llu of %llu | %s | %s |\n", gpu_mutant_what(mutant), (unsigned long long)o.differ,
                   (unsigned long long)o.outputs, what, o.report.first);
        gpu_mutant = GPU_MUTANT_NONE;
        return true;
    }
    gpu_mutant = GPU_MUTANT_NONE;
    return false;
}

SL_TEST(nothing_is_found_in_the_kernel_as_it_is)
{
    CHECK(!is_found(GPU_MUTANT_NONE));
}

SL_TEST(every_broken_kernel_is_found)
{
    static const enum gpu_mutant mutants[] = {
#define ONE(name, what) GPU_MUTANT_##name,
        GPU_MUTANTS_GEMM8(ONE) GPU_MUTANTS_GEMM8_FEW(ONE) GPU_MUTANTS_GEMM8_WG(ONE)
#undef ONE
    };
    for (size_t i = 0; i < sizeof mutants / sizeof *mutants; i++)
        if (!is_found(mutants[i]))
            sl_test_fail(__FILE__, __LINE__, "%s is not found: %s", gpu_mutant_name(mutants[i]),
                         gpu_mutant_what(mutants[i]));
}
