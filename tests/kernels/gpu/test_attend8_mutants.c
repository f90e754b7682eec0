/* Attention's kernels broken on purpose (kernels/gpu/mutants.h): each fault is found by bits that differ, by a finding of the twin, or by
 * conflicts of banks; and nothing is found in them as they are. */
#include "tests/kernels/gpu/attention_case.h"
#include "tests/kernels/gpu/mutants.h"
#include "tests/kernels/gpu/norm_case.h"

static const struct case_shape shapes[] = {
    {.n_q = 6,
     .n_kv = 2,
     .d_head = 64,
     .kv_dtype = SL_I8,
     .bias = true,
     .qk_norm = true,
     .slices = {{0, 70, 0}}},
    {.n_q = 2, .n_kv = 1, .d_head = 64, .kv_dtype = SL_I8, .slices = {{2060, 1, 0}}},
    {.n_q = 2, .n_kv = 1, .d_head = 64, .kv_dtype = SL_I8, .wanted = 8, .slices = {{4100, 1, 0}}},
    {.n_q = 3, .n_kv = 3, .d_head = 64, .kv_dtype = SL_I8, .odd = true, .slices = {{0, 7, 0}, {0, 1, 0}}},
    {.n_q = 1, .n_kv = 1, .d_head = 80, .kv_dtype = SL_I8, .qk_norm = true, .slices = {{0, 3, 0}}},
    {.n_q = 2, .n_kv = 2, .d_head = 64, .kv_dtype = SL_I8, .last = true, .slices = {{0, 9, 6}}},
};
static const struct norm_shape norms[] = {{.n = 2048, .rows = 12, .rotation = 2048, .digits = 2}};

/* How the fault that is there shows; NULL: not at all. */
static const char *found(void)
{
    const char *how = NULL;
    for (uint32_t i = 0; i < sizeof shapes / sizeof *shapes && !how; i++) {
        struct case_run *c = case_go(&shapes[i], i);
        how = c->n_wrong > 0                                      ? "bits"
              : gpu_findings(&c->report) > 0                      ? "findings"
              : c->report.wavefronts > c->report.wavefronts_ideal ? "banks"
                                                                  : NULL;
        case_destroy(c);
    }
    for (uint32_t i = 0; i < sizeof norms / sizeof *norms && !how; i++) {
        struct norm_result r = norm_go(&norms[i], i);
        how = r.n_wrong > 0                                     ? "bits"
              : gpu_findings(&r.report) > 0                     ? "findings"
              : r.report.wavefronts > r.report.wavefronts_ideal ? "banks"
                                                                : NULL;
    }
    return how;
}

SL_TEST(nothing_is_found_in_the_kernels_as_they_are)
{
    gpu_mutant = GPU_MUTANT_NONE;
    const char *how = found();
    if (how)
        sl_test_fail(__FILE__, __LINE__, "by %s", how);
}

SL_TEST(each_broken_kernel_is_found)
{
#define MUTANT_OF(name, what) GPU_MUTANT_##name,
    static const enum gpu_mutant mutants[] = {GPU_MUTANTS_ATTEND8(MUTANT_OF) GPU_MUTANTS_ROWS8(MUTANT_OF)
                                                  GPU_MUTANTS_PLACE(MUTANT_OF)};
#undef MUTANT_OF
    for (uint32_t i = 0; i < sizeof mutants / sizeof *mutants; i++) {
        gpu_mutant = mutants[i];
        const char *how = found();
        if (!how)
            sl_test_fail(__FILE__, __LINE__, "%s is not found: %s", gpu_mutant_name(mutants[i]),
                         gpu_mutant_what(mutants[i]));
        else
            printf("%s: by %s\n", gpu_mutant_name(mutants[i]), how);
    }
    gpu_mutant = GPU_MUTANT_NONE;
}
