/* kernels/gpu norm and row8: the twin's bytes are those of kernels/ref and of sl_quantise_rows, for rows of any length, rotated in blocks of
 * any size, with one digit and with two. */
#include "tests/check.h"
#include "tests/kernels/gpu/norm_case.h"

static void expect_equal(const struct norm_shape *shape, uint64_t seed)
{
    struct norm_result r = norm_go(shape, seed);
    if (r.n_wrong > 0 || gpu_findings(&r.report) > 0)
        sl_test_fail(__FILE__, __LINE__, "%u inputs, rotation %u: %llu differ; first finding: \"%s\"",
                     shape->n, shape->rotation, (unsigned long long)r.n_wrong, r.report.first);
    CHECK_INT(r.report.wavefronts, r.report.wavefronts_ideal);
}

SL_TEST(rows_are_normalised_rotated_and_quantised_as_by_ref)
{
    static const struct norm_shape shapes[] = {
        {.n = 256, .rows = 9, .rotation = 256, .odd = true},
        {.n = 2048, .rows = 3, .rotation = 2048, .digits = 2},
        {.n = 48, .rows = 5, .rotation = 16},
        {.n = 2880, .rows = 4, .rotation = 64, .floats = true},
        {.n = 6, .rows = 3, .rotation = 2, .digits = 2},
        {.n = 1536, .rows = 2, .rotation = 512, .digits = 1},
        {.n = 77, .rows = 2, .digits = 2, .odd = true},
        {.n = 1024, .rows = 2, .floats = true, .no_bytes = true},
    };
    for (uint32_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        expect_equal(&shapes[i], i);
}
