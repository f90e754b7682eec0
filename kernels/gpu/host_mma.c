/* Products of the twin as the PTX ISA documents their fragments; lane = 4 * group + t (host.h). */
#include "kernels/gpu/gpu.h"
#include "kernels/gpu/host_impl.h"
#include <string.h>

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

/* ---- products of four warps: a warp's sixteen rows of m64n128k32 ---- */

void fence_async(void)
{
    gpu_machine->self->past.fences[gpu_machine->self->index]++;
}

void wgmma_fence(void)
{
    gpu_machine->self->fenced = true;
}

uint64_t wgmma_place(uint32_t at)
{
    if (at % 1024 >= 128)
        gpu_found(GPU_BOUNDS, "an operand that does not begin in the first row of its swizzle", at, -1);
    return (uint64_t)((at & 0x3FFFFu) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

void wgmma_u8s8(wi c[64], const wu a[4], uint64_t b)
{
    struct gpu_warp *w = gpu_machine->self;
    if (!w->fenced)
        gpu_found(GPU_NO_FENCE, "a product of four warps without wgmma_fence", 0, -1);
    if (w->n_products == GPU_PRODUCTS_MAX) {
        gpu_found(GPU_OVERFLOW, "more products than a warp may have under way", 0, -1);
        return;
    }
    struct gpu_product *p = &w->products[w->n_products++];
    p->c = c;
    p->b = b;
    p->past = w->past;
    memcpy(p->a, a, sizeof p->a);
}

void wgmma_commit(void)
{
    struct gpu_warp *w = gpu_machine->self;
    if (w->n_product_groups == GPU_PRODUCTS_MAX)
        gpu_found(GPU_OVERFLOW, "more groups of products than a warp may have under way", 0, -1);
    else
        w->product_end[w->n_product_groups++] = w->n_products;
}

/* Four bytes of B: as written before the product was asked for, and fenced before what told of them. */
static void operand_word(const struct gpu_product *p, uint32_t at)
{
    struct gpu_machine *m = gpu_machine;
    const struct gpu_word *w = &m->shadow[at / 4];
    bool mine = w->writer == m->self->index;
    if (w->block != m->serial || w->state == GPU_WORD_EMPTY)
        gpu_found(GPU_UNWRITTEN, "a product reads shared memory that nobody wrote", at, -1);
    else if (w->state == GPU_WORD_COPY)
        gpu_found(GPU_RACE_COPY, "a product reads the target of a copy that is under way", at, -1);
    else if (!mine && w->clock > p->past.clock[w->writer])
        gpu_found(GPU_RACE_WARPS,
                  "an operand was written without a barrier before it, or while the product ran", at, -1);
    else if (p->past.fences[w->writer] <= w->fence)
        gpu_found(GPU_NO_FENCE, "a product reads what was written without fence_async", at, -1);
    gpu_word_note_product(at);
}

/* B: 128 rows of 32 bytes, in the 128-byte swizzle. false: beyond shared memory. */
static bool operand(const struct gpu_product *p, int16_t b[128][32])
{
    uint32_t start = (uint32_t)(p->b & 0x3FFF) << 4, stride = (uint32_t)(p->b >> 32 & 0x3FFF) << 4;
    for (uint32_t n = 0; n < 128; n++)
        for (uint32_t k = 0; k < 32; k += 4) {
            uint32_t at = start + n / 8 * stride + n % 8 * 128 + k;
            at ^= (at >> 7 & 7) << 4;
            if (!gpu_shared_may(at, 4, -1))
                return false;
            if (!gpu_bounds_only)
                operand_word(p, at);
            for (uint32_t i = 0; i < 4; i++)
                b[n][k + i] = (int8_t)gpu_machine->shared[at + i];
        }
    return true;
}

static void product_of_four(const struct gpu_product *p)
{
    static _Thread_local int16_t left[16][32], right[128][32];
    wi *c = p->c;
    if (!operand(p, right))
        return;
    GPU_EACH_LANE for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++)
        left[l / 4 + 8 * (i % 2)][16 * (i / 2) + 4 * (l % 4) + j] = number(p->a[i][l], j, false);
    for (int eight = 0; eight < 16; eight++)
        product(c + 4 * eight, (const int16_t(*)[32])left, (const int16_t(*)[32])right + 8 * eight);
}

void wgmma_wait(uint32_t n)
{
    struct gpu_warp *w = gpu_machine->self;
    while (w->n_product_groups > n) {
        uint32_t end = w->product_end[0];
        for (uint32_t i = 0; i < end; i++)
            product_of_four(&w->products[i]);
        memmove(w->products, w->products + end, (w->n_products - end) * sizeof *w->products);
        w->n_products -= end;
        w->n_product_groups--;
        for (uint32_t i = 0; i < w->n_product_groups; i++)
            w->product_end[i] = w->product_end[i + 1] - end;
    }
    if (n == 0)
        w->fenced = false;
}
