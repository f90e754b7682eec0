/* Products of the twin as the PTX ISA documents their fragments; lane = 4 * group + t (host.h). */
#include "kernels/gpu/gpu.h"
#include "kernels/gpu/host_impl.h"

/* mma.m16n8k32 of bytes that have become numbers. A: register i holds row group + 8 * (i % 2), inputs 4t..4t+3 of the half i / 2;
 * B: register i inputs 4t..4t+3 of half i, column group; C: register i row group + 8 * (i / 2), column 2t + i % 2. */
static void product(wi c[4], const int16_t a[16][32], const int16_t b[8][32])
{
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            int32_t sum = 0;
            for (int k = 0; k < 32; k++)
                sum += a[row][k] * b[column][k];
            c[row / 8 * 2 + column % 2][row % 8 * 4 + column / 2] += sum;
        }
    gpu_report.products++;
}

static int16_t number(uint32_t word, int byte, bool is_signed)
{
    uint8_t v = (uint8_t)(word >> 8 * byte);
    return is_signed ? (int8_t)v : v;
}

static void mma(wi c[4], const wu a[4], const wu b[2], bool a_is_signed)
{
    int16_t left[16][32], right[8][32];
    GPU_EACH_LANE for (int j = 0; j < 4; j++)
    {
        for (int i = 0; i < 4; i++)
            left[l / 4 + 8 * (i % 2)][16 * (i / 2) + 4 * (l % 4) + j] = number(a[i][l], j, a_is_signed);
        for (int i = 0; i < 2; i++)
            right[l / 4][16 * i + 4 * (l % 4) + j] = number(b[i][l], j, !a_is_signed);
    }
    product(c, (const int16_t(*)[32])left, (const int16_t(*)[32])right);
}

void mma_u8s8(wi c[4], const wu a[4], const wu b[2])
{
    mma(c, a, b, false);
}

void mma_s8u8(wi c[4], const wu a[4], const wu b[2])
{
    mma(c, a, b, true);
}
