/* The panel layout and bf16, checked from the outside: where an element lies, what rounding does.
 */
#include "kernels/panel.h"
#include "kernels/quant.h"
#include "tests/check.h"
#include <math.h>

SL_TEST(sixteen_outputs_are_contiguous_for_each_input)
{
    CHECK_INT(sl_panel_at(5, 0, 0), 0);
    CHECK_INT(sl_panel_at(5, 15, 0), 15);
    CHECK_INT(sl_panel_at(5, 0, 1), 16);
    CHECK_INT(sl_panel_at(5, 16, 0), 80);
    CHECK_INT(sl_panel_at(5, 35, 4), 2 * 80 + 4 * 16 + 3);
}

SL_TEST(every_element_has_a_place_of_its_own)
{
    enum { N = 33, K = 7 };
    char seen[48 * K] = {0};
    for (uint32_t c = 0; c < sl_round_lanes(N); c++)
        for (uint32_t t = 0; t < K; t++)
            seen[sl_panel_at(K, c, t)]++;
    for (size_t i = 0; i < sizeof seen; i++)
        CHECK_INT(seen[i], 1);
}

SL_TEST(bytes_count_whole_blocks_and_do_not_wrap)
{
    CHECK_INT(sl_panel_bytes(SL_BF16, 1, 10), 320);
    CHECK_INT(sl_panel_bytes(SL_F32, 17, 10), 1280);
    CHECK_INT(sl_panel_bytes(SL_F32, 0, 10), 0);
    CHECK_INT(sl_panel_bytes(SL_BF16, 1u << 20, 1u << 20), 1LL << 41);
}

SL_TEST(bf16_there_and_back_is_the_identity)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float f = sl_bf16_to_f32((uint16_t)h);
        if (isnan(f))
            CHECK(isnan(sl_bf16_to_f32(sl_f32_to_bf16(f))));
        else
            CHECK_INT(sl_f32_to_bf16(f), h);
    }
}

SL_TEST(bf16_rounds_to_nearest_ties_to_even)
{
    CHECK_INT(sl_f32_to_bf16(0x1.01p0f), 0x3F80);
    CHECK_INT(sl_f32_to_bf16(0x1.03p0f), 0x3F82);
    CHECK_INT(sl_f32_to_bf16(0x1.010002p0f), 0x3F81);
    CHECK_INT(sl_f32_to_bf16(3.4e38f), 0x7F80);
    CHECK_INT(sl_f32_to_bf16(-0.0f), 0x8000);
    float signalling;
    uint32_t bits = 0x7F800001u; /* a NaN whose upper half alone would be infinity */
    memcpy(&signalling, &bits, 4);
    CHECK(isnan(sl_bf16_to_f32(sl_f32_to_bf16(signalling))));
}
