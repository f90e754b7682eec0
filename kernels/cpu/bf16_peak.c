/* The peak of the bf16 dot product (peak.h): 16 chains of vdpbf16ps that never leave the registers.
 *
 * As many chains as peak_avx512.c has, which is more than latency times width asks for, and each is a chain through the
 * accumulator as in the kernels. Pairs of (1, 0) and (0.5, 0) make every sum grow by a half: neither denormals nor
 * infinities slow it down. */
#include "kernels/cpu/bf16_pair.h"
#include "kernels/cpu/peak.h"
#include "kernels/cpu/tile_avx512.h"

enum { CHAINS = 16, LANES = 16 };

uint64_t sl_peak_bf16(uint64_t loops, float *sink)
{
    __m512 sum[CHAINS];
    __m512i one = _mm512_set1_epi32(0x3F80), half = _mm512_set1_epi32(0x3F00);
    TILE_EACH (i, CHAINS)
        sum[i] = _mm512_set1_ps((float)i);
    for (uint64_t n = 0; n < loops; n++)
        TILE_EACH (i, CHAINS)
            sum[i] = pair_fma(sum[i], one, half);
    for (int i = 1; i < CHAINS; i++)
        sum[0] = _mm512_add_ps(sum[0], sum[i]);
    *sink = _mm512_cvtss_f32(sum[0]);
    return loops * CHAINS * LANES * 4; /* two multiplications and two additions a lane */
}
