/* kernels/gpu/elements: embed, combine and the gate of a shared expert on the twin have the bits of kernels/ref, and nothing
 * is found. */
#define DRAW_SEED 20261133
#include "tests/kernels/gpu/elements_cases.h"

SL_TEST(rows_have_the_bits_of_the_host)
{
    for (uint32_t i = 0; i < ELEMENTS_CASES; i++)
        check_elements(&elements_cases[i], i);
}

SL_TEST(drawn_rows_do_too)
{
    const char *more = getenv("SLUICE_SEEDS");
    for (uint32_t i = 0, n = more ? (uint32_t)strtoul(more, NULL, 10) : 4; i < n; i++)
        check_elements(&(struct elements_case){1 + below(40), 1 + below(900), 1 + below(64)}, i);
}
