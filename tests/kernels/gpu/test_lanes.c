/* kernels/gpu/lanes: the checksum by lanes of rows on a device is that of base/lanes.c, and nothing is found. */
#define DRAW_SEED 20261134
#include "tests/kernels/gpu/lanes_cases.h"

static void check(const struct lanes_case *c, uint64_t seed)
{
    struct gpu_outcome o = lanes_go(c, seed);
    expect_sound(&o, "%u pieces behind %u, %u blocks", c->n, c->first, c->blocks);
}

SL_TEST(rows_have_the_checksum_of_the_host)
{
    for (uint32_t i = 0; i < LANES_CASES; i++)
        check(&lanes_cases[i], i);
}

SL_TEST(drawn_rows_do_too_by_any_number_of_blocks)
{
    const char *more = getenv("SLUICE_SEEDS");
    for (uint32_t i = 0, n = more ? (uint32_t)strtoul(more, NULL, 10) : 20; i < n; i++)
        check(&(struct lanes_case){1 + below(4000), below(300), below(6)}, i);
}

/* Words whose products are the largest there are: each sum overflows into its upper word, which overflows, too. */
SL_TEST(words_that_are_all_ones_do_too)
{
    enum { PIECES = 2000 };
    static uint8_t ones[PIECES * SL_LANE_BYTES];
    struct sl_lane_sums sums = {{0}};
    memset(ones, 0xFF, sizeof ones);
    struct sl_gpu_lanes p = {.rows = on_device(ones, sizeof ones),
                             .sums = unwritten(2 * SL_SUM_LANES * sizeof *p.sums),
                             .n = PIECES};
    struct gpu_outcome o = {0};
    run_kernel(&o, &sl_gpu_lanes, &p, 2, SL_GPU_LANES_SHARED, 1, CONFLICTS_COUNT);
    sl_gpu_lanes_add(&sums, p.sums, 2, 0);
    CHECK_INT(sl_lanes_end(&sums, sizeof ones), sl_lanes_of(ones, sizeof ones));
    expect_sound(&o, "all ones");
    gpu_free_all();
}
