/* The FMA peak with avx512: 16 chains of whole tiles, which is more than latency times width asks
 * for on any processor so far, and fits the registers. x = x * 0.5 + 1 tends to 2: no denormal or
 * infinity slows it down. */
#include "kernels/cpu/peak.h"
#include "kernels/cpu/tile_avx512.h"

enum { CHAINS = 16, LANES = 16 };

uint64_t sl_peak_avx512(uint64_t loops, float *sink)
{
    __m512 x[CHAINS], half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
    TILE_EACH (i, CHAINS)
        x[i] = _mm512_set1_ps((float)i);
    for (uint64_t n = 0; n < loops; n++)
        TILE_EACH (i, CHAINS)
            x[i] = _mm512_fmadd_ps(x[i], half, one);
    for (int i = 1; i < CHAINS; i++)
        x[0] = _mm512_add_ps(x[0], x[i]);
    *sink = _mm512_cvtss_f32(x[0]);
    return loops * CHAINS * LANES * 2;
}
