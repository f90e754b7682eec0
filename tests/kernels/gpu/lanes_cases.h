/* The checksum by lanes on the twin against base/lanes.c: one case, for the sound kernel and the broken ones. */
#ifndef SL_TESTS_KERNELS_GPU_LANES_CASES_H
#define SL_TESTS_KERNELS_GPU_LANES_CASES_H

#include "kernels/gpu/lanes.h"
#include "tests/kernels/draw.h"
#include "tests/kernels/gpu/outcome.h"

struct lanes_case {
    uint32_t n, first, blocks; /* pieces, behind so many of a record; 0 blocks: as many as a device takes */
};

/* The output is the sum of record and rows: another one, too, if sums of blocks were left unwritten. */
static inline struct gpu_outcome lanes_go(const struct lanes_case *c, uint64_t seed)
{
    size_t record = (size_t)c->first * SL_LANE_BYTES, bytes = record + (size_t)c->n * SL_LANE_BYTES;
    uint32_t blocks = c->blocks ? c->blocks : sl_gpu_lanes_blocks(c->n);
    struct gpu_outcome o = {0};
    uint8_t *whole = take(bytes);
    struct sl_lane_sums sums = {{0}};
    for (size_t i = 0; i < bytes; i++)
        whole[i] = (uint8_t)below(256);
    struct sl_gpu_lanes p = {.rows = on_device(whole + record, bytes - record),
                             .sums = unwritten((size_t)blocks * SL_SUM_LANES * sizeof *p.sums),
                             .n = c->n,
                             .first = c->first};
    run_kernel(&o, &sl_gpu_lanes, &p, blocks, SL_GPU_LANES_SHARED, seed, CONFLICTS_COUNT);
    sl_lanes_add(&sums, 0, whole, record);
    sl_gpu_lanes_add(&sums, p.sums, blocks, c->first);
    const uint32_t want = sl_lanes_of(whole, bytes), got = sl_lanes_end(&sums, bytes);
    compare_things(&o, &want, &got, 1, sizeof want);
    free(whole);
    gpu_free_all();
    return o;
}

static const struct lanes_case lanes_cases[] = {{1, 0, 0},   {1, 7, 0},     {31, 0, 2},   {65, 3, 0},
                                                {512, 4, 0}, {513, 100, 0}, {3000, 9, 0}, {5000, 64, 3}};
enum { LANES_CASES = sizeof lanes_cases / sizeof *lanes_cases };

#endif
