/* The int8 peak of AMX (peak.h): tdpbsud on tiles that are all zero, into six sums in turn.
 *
 * A product of tiles takes 16 cycles and its sum is there after some fifty, so four sums would do;
 * six and the two operands are the eight tiles. No machine that we build on has AMX: like
 * int_amx.c, this is tested by the assembler alone. */
#include "kernels/cpu/amx_tile.h"
#include "kernels/cpu/peak.h"

enum { SUMS = 6 };

uint64_t sl_peak_int8_amx(uint64_t loops, float *sink)
{
    struct amx_config config = {0};
    int32_t sum[AMX_ROWS][AMX_ROW_BYTES / 4];
    for (int tile = 0; tile < AMX_TILES; tile++)
        amx_config_tile(&config, tile, AMX_ROWS);
    amx_configure(&config); /* which zeroes them */
    for (uint64_t n = 0; n < loops; n++) {
        AMX_DOT_S8U8(0, 6, 7);
        AMX_DOT_S8U8(1, 6, 7);
        AMX_DOT_S8U8(2, 6, 7);
        AMX_DOT_S8U8(3, 6, 7);
        AMX_DOT_S8U8(4, 6, 7);
        AMX_DOT_S8U8(5, 6, 7);
    }
    AMX_STORE(0, sum, (size_t)AMX_ROW_BYTES);
    amx_release();
    *sink = (float)sum[0][0];
    return loops * SUMS * AMX_ROWS * (AMX_ROW_BYTES / 4) * AMX_ROW_BYTES * 2;
}
