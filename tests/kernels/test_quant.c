/* The layout of integer panels: every field is its own, nothing overlaps, sizes are what quant.h promises. */
#include "base/rng.h"
#include "kernels/quant.h"
#include "tests/check.h"
#include <stdlib.h>

SL_TEST(every_field_reads_back_what_was_put_among_random_others)
{
    struct sl_rng rng = {7, 0};
    for (enum sl_dtype d = SL_I8; d < SL_DTYPES; d++) {
        const struct sl_quant_rule *r = sl_quant_rule_of(d);
        for (uint32_t k = 1; k <= 200; k += 33) {
            uint32_t kp = sl_quant_padded(k), groups = sl_quant_groups(d, k);
            uint8_t *block = calloc(1, sl_quant_block_bytes(d, k)), *q = malloc((size_t)kp * 16),
                    *s = malloc(kp + 16);
            for (uint32_t c = 0; c < 16; c++) {
                for (uint32_t i = 0; i < kp; i++) {
                    q[c * kp + i] = (uint8_t)(sl_rng_next(&rng) % (uint64_t)r->levels);
                    sl_quant_put(d, k, block, c, i, q[c * kp + i]);
                }
                for (uint32_t g = 0; g < groups; g++) {
                    s[c * groups + g] = (uint8_t)(sl_rng_next(&rng) % 16);
                    sl_quant_put_scale(d, block, c, g, s[c * groups + g]);
                }
            }
            long wrong = 0;
            for (uint32_t c = 0; c < 16; c++)
                for (uint32_t i = 0; i < kp; i++) {
                    int32_t scale = groups ? s[c * groups + i / r->group] : 1;
                    wrong += sl_quant_get(d, k, block, c, i) != q[c * kp + i];
                    wrong +=
                        sl_quant_weight(d, k, block, c, i) != scale * (r->step * q[c * kp + i] - r->zero);
                }
            CHECK_INT(wrong, 0);
            free(block), free(q), free(s);
        }
    }
}

SL_TEST(sizes_are_those_of_the_format)
{
    CHECK_INT(sl_panel_bytes(SL_I8, 16, 2048), 64 + 16 * 2048);
    CHECK_INT(sl_panel_bytes(SL_I4, 16, 2048), 64 + 512 + 16 * 1024);
    CHECK_INT(sl_panel_bytes(SL_I4G16, 32, 768), 2 * (64 + 384 + 16 * 384));
    CHECK_INT(sl_panel_bytes(SL_I3, 17, 64), 2 * (64 + 64 + 384));
    CHECK_INT(sl_panel_bytes(SL_I2, 1, 1), 64 + 64 + 128);
    CHECK(sl_quant_bits(SL_I4, 1536, 2048) < 4.16);
    enum sl_dtype d;
    CHECK(sl_dtype_parse(&d, "i4g16") && d == SL_I4G16);
    CHECK(!sl_dtype_parse(&d, "i5"));
}

SL_TEST(rounding_up_keeps_twelve_bits_and_never_goes_down)
{
    struct sl_rng rng = {9, 0};
    for (int i = 0; i < 10000; i++) {
        float x = (float)(sl_rng_unit(sl_rng_next(&rng)) + 1e-3), y = sl_round_up12(x);
        uint32_t bits;
        memcpy(&bits, &y, 4);
        CHECK(y >= x && y <= x * (1 + 0x1p-11f) && (bits & 0xFFF) == 0);
    }
    CHECK(sl_round_up12(1.0f) == 1.0f);
}
