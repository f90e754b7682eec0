/* kernels/gpu norm and row8: the twin's floats and bytes are those of kernels/ref and of sl_quantise_rows, for rows of any length, rotated
 * in blocks of any size, with one digit and with two, and nothing is found. */
#include "tests/kernels/gpu/norm_case.h"

static struct gpu_outcome expect_equal(const struct norm_shape *shape, uint64_t seed)
{
    struct gpu_outcome o = norm_go(shape, seed);
    expect_sound(&o, "%u rows of %u inputs, rotation %u, %u digits", shape->rows, shape->n, shape->rotation,
                 shape->digits);
    return o;
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

SL_TEST(drawn_rows_do_too)
{
    struct sweep s = sweep_of("norm", 6);
    while (sweep_goes_on(&s)) {
        struct norm_shape shape = {.n = 1 + below(s.n_cases % 16 == 0 ? 12000 : 1500),
                                   .rows = sweep_rows(&s, 9),
                                   .rotation = below(3) ? 2u << below(10) : 0,
                                   .digits = 1 + below(2)};
        shape.floats = below(2), shape.no_bytes = shape.floats && below(4) == 0, shape.odd = below(2);
        if (shape.rotation > 0)
            shape.n = (shape.n + shape.rotation - 1) / shape.rotation * shape.rotation;
        struct gpu_outcome o = expect_equal(&shape, s.n_cases);
        sweep_count(&s, &o);
    }
}
