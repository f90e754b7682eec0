/* kernels/gpu quantise and row8: the twin's rows of s8, both digits, are those of sl_quantise_rows, and nothing is found. */
#define DRAW_SEED 20261132
#include "tests/kernels/gpu/quantise_cases.h"

SL_TEST(rows_have_the_bits_of_the_host)
{
    static const struct quantise_case cases[] = {{1, 1, 0, 1},
                                                 {6, 7, 0, 2},
                                                 {6, 64, 64, 2},
                                                 {7, 300, 4, 2},
                                                 {6, 768, 256, 2},
                                                 {5, 1000, 8, 1},
                                                 {6, 2048, 128, 1},
                                                 {2, 16640, 256, 2},
                                                 {2, 8197, 0, 2},
                                                 {6, 4096, 4096, 1},
                                                 {1, SL_GPU_ROW_MOST, 1024, 2}};
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gpu_outcome o = quantise_go(&cases[i], i);
        check_quantise(&cases[i], &o);
    }
}

SL_TEST(drawn_rows_do_too)
{
    struct sweep s = sweep_of("quantise", 10);
    while (sweep_goes_on(&s)) {
        struct quantise_case c = {sweep_rows(&s, 8), 1 + below(s.n_cases % 16 == 0 ? 20000 : 1500),
                                  below(3) ? 2u << below(10) : 0, 1 + below(2)};
        if (c.rotation > 0)
            c.k = (c.k + c.rotation - 1) / c.rotation * c.rotation;
        struct gpu_outcome o = quantise_go(&c, s.n_cases);
        check_quantise(&c, &o);
        sweep_count(&s, &o);
    }
}
