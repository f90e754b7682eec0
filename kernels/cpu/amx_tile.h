/* The tile operations of AMX, and the same in plain C for machines that have none.
 *
 * A kernel is written once over these macros. Compiled for AMX each is one instruction; with SL_AMX_EMULATED
 * defined before the header each is a loop over a copy of the eight tiles, one per thread, that follows the
 * manual: rows and bytes a row come from the configuration, what lies beyond them is zero, a tile that is not
 * configured faults (an assert here). The test compiles the kernel that way: its bits are then known on any
 * machine, the encodings are not.
 *
 * Tile numbers are constants. The assembly names memory as clobbered: the compilers' own intrinsics of 2022
 * do not, and the stores before a load of a tile may then come after it. The bf16 product sums even and odd
 * inputs apart, from zero, flushes denormals, and adds both to the tile at the end: a profile that uses it
 * has bits of its own. */
#ifndef SL_KERNELS_CPU_AMX_TILE_H
#define SL_KERNELS_CPU_AMX_TILE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { AMX_TILES = 8, AMX_ROWS = 16, AMX_ROW_BYTES = 64 };

/* As LDTILECFG reads it. */
struct amx_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static inline void amx_config_tile(struct amx_config *c, int tile, uint32_t rows)
{
    c->palette = 1;
    c->row_bytes[tile] = AMX_ROW_BYTES;
    c->rows[tile] = (uint8_t)rows;
}

#if defined(SL_AMX_EMULATED)
#include "kernels/panel.h"
#include <assert.h>
#include <math.h>

static _Thread_local struct {
    struct amx_config config;
    uint8_t bytes[AMX_TILES][AMX_ROWS][AMX_ROW_BYTES];
} amx_state;

static inline void amx_configure(const struct amx_config *c)
{
    assert(c->palette == 1 && c->start_row == 0);
    for (int t = 0; t < AMX_TILES; t++)
        assert(c->rows[t] <= AMX_ROWS && c->row_bytes[t] <= AMX_ROW_BYTES &&
               (c->rows[t] == 0) == (c->row_bytes[t] == 0));
    memset(&amx_state, 0, sizeof amx_state);
    amx_state.config = *c;
}
static inline void amx_release(void)
{
    memset(&amx_state, 0, sizeof amx_state);
}
static inline void amx_zero(int t)
{
    assert(amx_state.config.rows[t] > 0);
    memset(amx_state.bytes[t], 0, sizeof amx_state.bytes[t]);
}
static inline void amx_load(int t, const void *p, size_t stride)
{
    amx_zero(t);
    for (uint32_t r = 0; r < amx_state.config.rows[t]; r++)
        memcpy(amx_state.bytes[t][r], (const uint8_t *)p + r * stride, amx_state.config.row_bytes[t]);
}
static inline void amx_store(int t, void *p, size_t stride)
{
    assert(amx_state.config.rows[t] > 0);
    for (uint32_t r = 0; r < amx_state.config.rows[t]; r++)
        memcpy((uint8_t *)p + r * stride, amx_state.bytes[t][r], amx_state.config.row_bytes[t]);
}
/* The shapes that a product asks for: c [m][n], a [m][4 bytes * depth], b [depth][n]; returns depth. */
static inline uint32_t amx_check(int c, int a, int b)
{
    const struct amx_config *f = &amx_state.config;
    assert(f->rows[c] > 0 && f->rows[c] == f->rows[a] && f->row_bytes[c] == f->row_bytes[b]);
    assert(f->row_bytes[a] / 4 == f->rows[b] && c != a && c != b && a != b);
    return f->rows[b];
}
static inline void amx_dot_s8u8(int c, int a, int b)
{
    uint32_t depth = amx_check(c, a, b), outputs = amx_state.config.row_bytes[c] / 4;
    for (uint32_t m = 0; m < amx_state.config.rows[c]; m++)
        for (uint32_t n = 0; n < outputs; n++) {
            int32_t sum;
            memcpy(&sum, &amx_state.bytes[c][m][4 * n], 4);
            for (uint32_t k = 0; k < 4 * depth; k++)
                sum += (int8_t)amx_state.bytes[a][m][k] * amx_state.bytes[b][k / 4][4 * n + k % 4];
            memcpy(&amx_state.bytes[c][m][4 * n], &sum, 4);
        }
}
static inline float amx_flush(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}
static inline float amx_bf16_at(int t, uint32_t row, uint32_t element)
{
    uint16_t h;
    memcpy(&h, &amx_state.bytes[t][row][2 * element], 2);
    return amx_flush(sl_bf16_to_f32(h));
}
static inline void amx_dot_bf16(int c, int a, int b)
{
    uint32_t depth = amx_check(c, a, b), outputs = amx_state.config.row_bytes[c] / 4;
    for (uint32_t m = 0; m < amx_state.config.rows[c]; m++)
        for (uint32_t n = 0; n < outputs; n++) {
            float sum[2] = {0.0f, 0.0f}, total;
            for (uint32_t k = 0; k < 2 * depth; k++)
                sum[k % 2] =
                    amx_flush(fmaf(amx_bf16_at(a, m, k), amx_bf16_at(b, k / 2, 2 * n + k % 2), sum[k % 2]));
            memcpy(&total, &amx_state.bytes[c][m][4 * n], 4);
            total = amx_flush(amx_flush(total) + amx_flush(sum[0] + sum[1]));
            memcpy(&amx_state.bytes[c][m][4 * n], &total, 4);
        }
}
#define AMX_ZERO(t) amx_zero(t)
#define AMX_LOAD(t, p, stride) amx_load(t, p, stride)
#define AMX_STORE(t, p, stride) amx_store(t, p, stride)
#define AMX_DOT_S8U8(c, a, b) amx_dot_s8u8(c, a, b)
#define AMX_DOT_BF16(c, a, b) amx_dot_bf16(c, a, b)

#else

static inline void amx_configure(const struct amx_config *c)
{
    __asm__ volatile("ldtilecfg %0" ::"m"(*c));
}
/* A thread that keeps tiles makes every switch to another one dearer. */
static inline void amx_release(void)
{
    __asm__ volatile("tilerelease");
}
#define AMX_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define AMX_LOAD(t, p, stride)                                                                               \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"(stride) : "memory")
#define AMX_STORE(t, p, stride)                                                                              \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"(stride) : "memory")
/* c[m][n] += signed bytes a[m][4k + i] * unsigned bytes b[k][4n + i] */
#define AMX_DOT_S8U8(c, a, b) __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
/* c[m][n] += bf16 a[m][2k + i] * b[k][2n + i], in floats */
#define AMX_DOT_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
#endif

#endif
