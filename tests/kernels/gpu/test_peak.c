/* kernels/gpu/peak: what is left is the sum of so many products as were asked for, in every block and warp, and the twin has nothing to
 * say of them. The product itself is held to plain C, where its operands are bytes whose places do not matter. */
#include "base/rng.h"
#include "kernels/gpu/peak.h"
#include "tests/kernels/gpu/outcome.h"

enum { BLOCKS = 2 };

static uint32_t *in;

static void run(const struct gpu_kernel *kernel, uint32_t times, size_t shared, uint32_t *out)
{
    const uint32_t n = BLOCKS * kernel->warps * 32;
    uint32_t *to = unwritten(n * 4);
    struct gpu_outcome o = {0};
    run_kernel(&o, kernel, &(struct peak_params){in, to, times}, BLOCKS, shared, times, CONFLICTS_MAY_BE);
    expect_sound(&o, "%s, %u times", kernel->name, times);
    memcpy(out, to, n * 4);
    gpu_free(to);
}

static void check_linear(const struct gpu_kernel *kernel, size_t shared)
{
    static uint32_t once[BLOCKS * PEAK_WARPS * 32], often[BLOCKS * PEAK_WARPS * 32];
    struct sl_rng rng = {7, 0};
    in = gpu_alloc(PEAK_WORDS * 4);
    for (uint32_t i = 0; i < PEAK_WORDS; i++)
        in[i] = (uint32_t)sl_rng_next(&rng);
    run(kernel, 1, shared, once);
    run(kernel, 5, shared, often);
    uint32_t n = kernel->warps * 32, not_zero = 0;
    for (uint32_t i = 0; i < BLOCKS * n; i++) {
        CHECK_INT(often[i], (uint32_t)(5 * once[i]));
        CHECK_INT(once[i], once[i % n]); /* blocks do the same */
        not_zero += once[i] != 0;
    }
    CHECK(not_zero > BLOCKS * n / 2);
    gpu_free_all();
}

/* A and B of threes: each of so many accumulators a lane is 32 times 9 for each product. */
static void check_product(const struct gpu_kernel *kernel, size_t shared, uint32_t accumulators)
{
    static uint32_t out[BLOCKS * PEAK_WARPS * 32];
    in = gpu_alloc(PEAK_WORDS * 4);
    memset(in, 3, PEAK_WORDS * 4);
    run(kernel, 2, shared, out);
    for (uint32_t i = 0; i < BLOCKS * kernel->warps * 32; i++)
        CHECK_INT(out[i], 2 * accumulators * 32 * 9);
    gpu_free_all();
}

SL_TEST(products_by_mma_are_as_many_as_were_asked_for)
{
    check_linear(&peak_mma, 0);
    check_product(&peak_mma, 0, PEAK_CHAINS * 4);
}

SL_TEST(products_by_wgmma_are_as_many_as_were_asked_for)
{
    check_linear(&peak_wgmma, PEAK_WG_SHARED);
    check_product(&peak_wgmma, PEAK_WG_SHARED, PEAK_WG_EACH * 64);
}
