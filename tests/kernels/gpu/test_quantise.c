/* kernels/gpu/quantise: the twin's rows of s8, both digits, are those of sl_quantise_rows, and nothing is found. */
#define DRAW_SEED 20261132
#include "tests/kernels/gpu/quantise_cases.h"

SL_TEST(rows_have_the_bits_of_the_host)
{
    for (uint32_t i = 0; i < QUANTISE_CASES; i++)
        check_quantise(&quantise_cases[i], i);
}

SL_TEST(drawn_rows_do_too)
{
    const char *more = getenv("SLUICE_SEEDS");
    for (uint32_t i = 0, n = more ? (uint32_t)strtoul(more, NULL, 10) : 10; i < n; i++) {
        uint32_t rotation = below(3) ? 2u << below(8) : 0, k = 1 + below(i % 16 == 0 ? 20000 : 1500);
        if (rotation > 0)
            k = (k + rotation - 1) / rotation * rotation;
        check_quantise(&(struct quantise_case){k, rotation, 1 + below(2), below(2)}, i);
    }
}
