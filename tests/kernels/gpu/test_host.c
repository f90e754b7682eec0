/* kernels/gpu/host: what the twin gives a sound kernel, and that each of its checks finds the fault that it is for, planted here,
 * and says its kind. Products, exponentials and bank conflicts are held to plain code. */
#include "base/rng.h"
#include "kernels/gpu/gpu.h"
#include "tests/kernels/same.h"
#include <stdlib.h>

static struct sl_rng rng = {20261130, 0};

struct plain { /* parameters of the kernels below */
    uint32_t *out;
    const uint32_t *in;
    uint32_t fault; /* which one; 0: none */
};

/* 0 findings, or nothing but the wanted kind. Takes the report. */
static void expect(const char *what, int kind)
{
    struct gpu_report r = gpu_take_report();
    uint64_t n = gpu_findings(&r);
    if (kind < 0 ? n > 0 : (n == 0 || r.found[kind] != n))
        sl_test_fail(__FILE__, __LINE__, "%s: wanted %s, first of %llu findings: \"%s\"", what,
                     kind < 0 ? "none" : gpu_finding_name((enum gpu_finding)kind), (unsigned long long)n,
                     r.first);
}

static void run(const struct gpu_kernel *kernel, struct plain p, uint32_t n_blocks, int kind)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        gpu_launch(kernel, &p, n_blocks, 4096, seed);
        expect(kernel->name, kind);
    }
}

/* ---- warps ---- */

/* Each warp writes its word of each lane; after the barrier each reads its neighbour's, and writes over it after another. */
GPU_KERNEL(passing_on, 128, 1, struct plain)
{
    uint32_t warp = gpu_warp(), next = (warp + 1) % 4;
    sm_st32(w_lane() * 4u + warp * 128, w_lane() + warp * 1000);
    if (p->fault != 1)
        block_sync();
    wu got = sm_ld32(w_lane() * 4u + next * 128);
    if (p->fault != 2)
        block_sync();
    sm_st32(w_lane() * 4u + warp * 128, got);
    block_sync();
    g_st32_row_if(p->out, w_lane() + (gpu_block() * 4 + warp) * 32, 4, w_set(0),
                  sm_ld32(w_lane() * 4u + warp * 128), w_all());
}

SL_TEST(a_sound_kernel_gives_its_values_and_no_finding)
{
    uint32_t *out = gpu_alloc(3 * 128 * 4);
    run(&passing_on, (struct plain){.out = out}, 3, -1);
    for (uint32_t i = 0; i < 3 * 128; i++)
        CHECK_INT(out[i], i % 32 + (i / 32 + 1) % 4 * 1000);
    gpu_free_all();
}

SL_TEST(a_barrier_that_is_missing_between_warps_is_a_race)
{
    uint32_t *out = gpu_alloc(128 * 4);
    for (uint64_t seed = 0; seed < 8; seed++) { /* unless the order shows it as unwritten before that */
        gpu_launch(&passing_on, &(struct plain){.out = out, .fault = 1}, 1, 4096, seed);
        struct gpu_report r = gpu_take_report();
        CHECK(r.found[GPU_RACE_WARPS] + r.found[GPU_UNWRITTEN] > 0);
        CHECK_INT(r.found[GPU_RACE_WARPS] + r.found[GPU_UNWRITTEN], gpu_findings(&r));
    }
    run(&passing_on, (struct plain){.out = out, .fault = 2}, 1, GPU_RACE_WARPS);
    gpu_free_all();
}

/* Lanes of a warp exchange words, then bytes of words. */
GPU_KERNEL(exchanging, 32, 1, struct plain)
{
    sm_st32(w_lane() * 4u, w_lane());
    if (p->fault != 1)
        warp_sync();
    wu got = sm_ld32((w_lane() ^ 1u) * 4u);
    if (p->fault != 2)
        warp_sync();
    sm_st16(w_lane() * 2u, got); /* words 0 to 15, by two lanes each */
    sm_st16(p->fault == 3 ? (w_lane() ^ 1u) * 2u : w_lane() * 2u, got);
    warp_sync();
    g_st32_row_if(p->out, w_lane(), 4, w_set(0), sm_ld16(w_lane() * 2u), w_all());
    if (p->fault == 4)
        got = g_ld32(p->out, (w_lane() ^ 1u) * 4u);
    warp_sync();
    g_st32_row_if(p->out, w_lane(), 4, w_set(0), g_ld32(p->out, (w_lane() ^ 2u) * 4u), w_none());
}

SL_TEST(lanes_of_a_warp_exchange_over_a_warp_sync_only)
{
    uint32_t *out = gpu_alloc(32 * 4);
    run(&exchanging, (struct plain){.out = out}, 1, -1);
    for (uint32_t i = 0; i < 32; i++)
        CHECK_INT(out[i], i ^ 1);
    for (uint32_t fault = 1; fault <= 4; fault++)
        run(&exchanging, (struct plain){.out = out, .fault = fault}, 1, GPU_RACE_LANES);
    gpu_free_all();
}

GPU_KERNEL(meeting, 128, 1, struct plain)
{
    if (p->fault == 0 || gpu_warp() != 2)
        block_sync();
}

SL_TEST(a_barrier_that_a_warp_never_reaches_is_found)
{
    run(&meeting, (struct plain){0}, 2, -1);
    run(&meeting, (struct plain){.fault = 1}, 2, GPU_BARRIER);
    gpu_free_all();
}

/* Warps of a block over global memory. */
GPU_KERNEL(passing_on_far, 128, 1, struct plain)
{
    uint32_t warp = gpu_warp(), next = (warp + 1) % 4;
    g_st32_row_if(p->out, w_lane() + warp * 32, 4, w_set(0), w_lane() + warp, w_all());
    if (p->fault != 1)
        block_sync();
    wu got = g_ld32(p->out, (w_lane() + next * 32) * 4u);
    if (p->fault != 2)
        block_sync();
    g_st32_row_if(p->out, w_lane() + warp * 32, 4, w_set(0), got, w_all());
}

SL_TEST(warps_race_over_global_memory_too)
{
    uint32_t *out = gpu_alloc(128 * 4);
    run(&passing_on_far, (struct plain){.out = out}, 1, -1);
    for (uint32_t fault = 1; fault <= 2; fault++)
        run(&passing_on_far, (struct plain){.out = out, .fault = fault}, 1, GPU_RACE_WARPS);
    gpu_free_all();
}

/* ---- blocks ---- */

GPU_KERNEL(beside, 32, 1, struct plain)
{
    uint32_t block = gpu_block(), blocks = gpu_blocks();
    wu mine = w_lane() + block * 32, other = w_lane() + (block + 1) % blocks * 32;
    if (p->fault == 2)
        (void)g_ld32(p->out, other * 4u);
    if (p->fault != 4)
        g_st32_row_if(p->out, p->fault == 1 ? w_lane() : mine, 4, w_set(0), mine, w_all());
    if (p->fault == 3)
        (void)g_ld32(p->out, other * 4u);
    if (p->fault == 4) /* all read the first block's, and it writes there */
        (void)g_ld32(p->out, w_lane() * 4u);
    if (p->fault == 4 && block == 0)
        g_st32_row_if(p->out, w_lane(), 4, w_set(0), mine, w_all());
    if (p->fault == 5) /* bytes of one word are nobody else's */
        g_st8_row_if(p->out, w_lane() * blocks + block, 1, w_set(128 * blocks), mine, w_all());
}

SL_TEST(blocks_of_a_launch_touch_nothing_of_each_other)
{
    uint32_t *out = gpu_alloc(5 * 32 * 4 * 2);
    run(&beside, (struct plain){.out = out}, 5, -1);
    for (uint32_t i = 0; i < 5 * 32; i++)
        CHECK_INT(out[i], i);
    for (uint32_t fault = 1; fault <= 4; fault++)
        run(&beside, (struct plain){.out = out, .fault = fault}, 5, GPU_RACE_BLOCKS);
    run(&beside, (struct plain){.out = out, .fault = 5}, 5, -1);
    gpu_free_all();
}

GPU_KERNEL(reading_all, 32, 1, struct plain)
{
    (void)g_ld32(p->out, w_lane() * 4u);
    if (gpu_block() < p->fault)
        g_st32_row_if(p->out, w_lane() + (gpu_block() + 1) * 32, 4, w_set(0), w_lane(), w_all());
}

SL_TEST(what_a_launch_wrote_the_next_one_may_read_and_the_other_way_round)
{
    uint32_t *out = gpu_alloc(5 * 32 * 4);
    gpu_launch(&beside, &(struct plain){.out = out}, 5, 0, 1);
    gpu_launch(&reading_all, &(struct plain){.out = out, .fault = 4}, 5, 0, 2);
    gpu_launch(&beside, &(struct plain){.out = out}, 5, 0, 3);
    expect("three launches", -1);
    gpu_free_all();
}

GPU_KERNEL(in_order, 32, 1, struct plain)
{
    *p->out = *p->out * 8 + gpu_block(); /* past the checks: a test may */
}

SL_TEST(the_order_of_blocks_is_drawn_by_the_seed)
{
    uint32_t *out = gpu_alloc(4), seen[64], n = 0;
    for (uint64_t seed = 0; seed < 64; seed++) {
        uint32_t order[2];
        for (int again = 0; again < 2; again++) {
            *out = 0;
            gpu_launch(&in_order, &(struct plain){.out = out}, 5, 0, seed);
            order[again] = *out;
        }
        CHECK_INT(order[0], order[1]);
        uint32_t i = 0;
        while (i < n && seen[i] != order[0])
            i++;
        if (i == n)
            seen[n++] = order[0];
    }
    CHECK(n > 24);
    gpu_free_all();
}

/* ---- bounds and what nobody wrote ---- */

GPU_KERNEL(reaching, 32, 1, struct plain)
{
    if (p->fault == 1)
        sm_st32(w_lane() * 4u + (4096 - 124), w_lane());
    if (p->fault == 2)
        sm_st32(w_lane() * 4u + 2u, w_lane());
    if (p->fault == 3)
        (void)g_ld32(p->in, w_lane() * 4u + 4u);
    if (p->fault == 4)
        (void)g_ld32(p->in, w_lane() * 4u - 4u);
    if (p->fault == 5)
        g_st64f_if(p->out, w_lane(), 4, w_set(0), w_setf(1), w_setf(2), w_ltu(w_lane(), 31));
    if (p->fault == 6)
        g_st32_row_if(p->out, w_lane(), (size_t)1 << 33, w_set(0), w_lane(), w_all());
    if (p->fault == 7)
        (void)g_pointer((const void *const *)(const void *)p->in, 16);
    if (p->fault == 8)
        (void)g_ld32_uniform(p->in, 128);
    if (p->fault == 9)
        cp_async16(w_lane() * 16u, p->in, w_lane(), 16, w_set(0), w_ltu(w_lane(), 9), w_all());
    cp_commit();
    cp_wait(0);
}

SL_TEST(accesses_out_of_bounds_or_not_aligned_are_found_and_left_out)
{
    uint32_t *out = gpu_alloc(128), *in = gpu_alloc(128);
    memset(in, 0, 128);
    run(&reaching, (struct plain){.out = out, .in = in}, 1, -1);
    for (uint32_t fault = 1; fault <= 9; fault++)
        run(&reaching, (struct plain){.out = out, .in = in, .fault = fault}, 1, GPU_BOUNDS);
    gpu_free(in);
    run(&reaching, (struct plain){.out = out, .in = in, .fault = 3}, 1, GPU_BOUNDS);
    gpu_free_all();
}

GPU_KERNEL(reading_what_is_not, 32, 1, struct plain)
{
    sm_st16_if(w_lane() * 4u, w_lane(), p->fault == 1 ? w_ltu(w_lane(), 31) : w_all());
    if (p->fault == 2)
        (void)sm_ld32(w_lane() * 4u);
    (void)sm_ld16(w_lane() * 4u);
    if (p->fault == 3)
        (void)g_ld32(p->out, w_lane() * 4u);
    g_st32_row_if(p->out, w_lane(), 4, w_set(0), w_lane(), w_all());
    (void)g_ld32(p->out, w_lane() * 4u);
}

SL_TEST(what_nobody_wrote_is_not_read)
{
    uint32_t *out = gpu_alloc(128);
    for (uint32_t fault = 0; fault <= 3; fault++)
        for (uint64_t seed = 0; seed < 3; seed++) {
            gpu_poison(out, 128);
            gpu_launch(&reading_what_is_not, &(struct plain){.out = out, .fault = fault}, 1, 128, seed);
            expect("reading what is not", fault ? GPU_UNWRITTEN : -1);
        }
    gpu_free_all();
}

SL_TEST(poisoned_memory_is_a5_again)
{
    uint8_t *p = gpu_alloc(100);
    for (uint32_t i = 0; i < 100; i++)
        CHECK_INT(p[i], 0xA5);
    memset(p, 0, 100);
    gpu_poison(p + 10, 20);
    for (uint32_t i = 0; i < 100; i++)
        CHECK_INT(p[i], i >= 10 && i < 30 ? 0xA5 : 0);
    gpu_free_all();
}

/* ---- copies ---- */

GPU_KERNEL(copying, 64, 1, struct plain)
{
    wu to = w_lane() * 16u + gpu_warp() * 512, v[4];
    cp_async16(to, p->in, w_lane(), 16, w_set(0), w_ltu(w_lane(), 16), w_all());
    cp_commit();
    if (p->fault == 1)
        (void)sm_ld32(to);
    if (p->fault == 2)
        sm_st32(to, w_lane());
    if (p->fault == 3) /* of the other warp, which may have waited or not */
        (void)sm_ld32(to ^ 512u);
    if (p->fault == 4)
        return;
    cp_wait(0);
    if (p->fault == 5)
        (void)sm_ld32(to ^ 16u);
    warp_sync();
    sm_ld128(to ^ 16u, v);
    block_sync();
    sm_ld128(to ^ 512u, v);
    if (p->fault == 6)
        for (int i = 0; i < 100; i++)
            cp_commit();
    cp_wait(0);
    g_st128_row_if(p->out, w_lane() + gpu_warp() * 32, 16, w_set(0), v, w_all());
}

SL_TEST(copies_land_when_they_are_waited_for_and_zeros_where_nothing_is_copied)
{
    uint32_t *in = gpu_alloc(512), *out = gpu_alloc(1024);
    for (uint32_t i = 0; i < 128; i++)
        in[i] = i * 3;
    run(&copying, (struct plain){.out = out, .in = in}, 1, -1);
    for (uint32_t i = 0; i < 256; i++)
        CHECK_INT(out[i], i % 128 < 64 ? i % 128 * 3 : 0);
    gpu_free_all();
}

SL_TEST(the_target_of_a_copy_is_nobodys_until_it_has_landed)
{
    static const int kinds[] = {[1] = GPU_RACE_COPY,
                                [2] = GPU_RACE_COPY,
                                [4] = GPU_LEFT_OVER,
                                [5] = GPU_RACE_LANES,
                                [6] = GPU_OVERFLOW};
    uint32_t *in = gpu_alloc(512), *out = gpu_alloc(1024);
    memset(in, 0, 512);
    for (uint32_t fault = 1; fault <= 6; fault++)
        if (fault != 3)
            run(&copying, (struct plain){.out = out, .in = in, .fault = fault}, 1, kinds[fault]);
    for (uint64_t seed = 0; seed < 8; seed++) { /* under way, or not asked for yet, or landed a moment ago */
        gpu_launch(&copying, &(struct plain){.out = out, .in = in, .fault = 3}, 1, 4096, seed);
        struct gpu_report r = gpu_take_report();
        CHECK(r.found[GPU_RACE_COPY] + r.found[GPU_UNWRITTEN] + r.found[GPU_RACE_WARPS] > 0);
    }
    gpu_free_all();
}

SL_TEST(a_device_that_wants_results_asks_for_bounds_only)
{
    uint32_t *out = gpu_alloc(128 * 4), *in = gpu_alloc(128);
    memset(in, 0, 128);
    gpu_check_bounds_only(1);
    run(&passing_on, (struct plain){.out = out, .fault = 2}, 1, -1);
    run(&reaching, (struct plain){.out = out, .in = in, .fault = 3}, 1, GPU_BOUNDS);
    gpu_check_bounds_only(0);
    run(&passing_on, (struct plain){.out = out, .fault = 2}, 1, GPU_RACE_WARPS);
    gpu_free_all();
}

/* ---- banks ---- */

GPU_KERNEL(striding, 32, 1, struct plain)
{
    wu v[4] = {w_set(0), w_set(0), w_set(0), w_set(0)};
    if (p->fault >= 1000)
        sm_st128_if(w_lane() * (p->fault - 1000u), v, w_all());
    else
        sm_st32(w_lane() * p->fault, v[0]);
}

SL_TEST(bank_conflicts_are_counted)
{
    static const struct {
        uint32_t stride, wavefronts, ideal;
    } cases[] = {{4, 1, 1}, {8, 2, 1}, {12, 1, 1}, {128, 32, 1}, {1016, 4, 4}, {1032, 8, 4}, {1128, 32, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gpu_launch(&striding, &(struct plain){.fault = cases[i].stride}, 1, 8192, 0);
        struct gpu_report r = gpu_take_report();
        CHECK_INT(r.accesses, 1);
        CHECK_INT(r.wavefronts, cases[i].wavefronts);
        CHECK_INT(r.wavefronts_ideal, cases[i].ideal);
        CHECK_INT(gpu_findings(&r), 0);
    }
    gpu_free_all();
}

/* ---- products and functions of lanes ---- */

struct fragments {
    const uint32_t *a, *b; /* [4][32], [2][32] */
    int32_t *c;            /* [4][32] */
    uint32_t a_is_signed;
};
GPU_KERNEL(multiplying, 32, 1, struct fragments)
{
    wu a[4], b[2];
    wi c[4];
    for (uint32_t i = 0; i < 4; i++)
        a[i] = g_ld32(p->a, w_lane() * 4u + i * 128), c[i] = w_seti((int32_t)i);
    for (uint32_t i = 0; i < 2; i++)
        b[i] = g_ld32(p->b, w_lane() * 4u + i * 128);
    if (p->a_is_signed)
        mma_s8u8(c, a, b);
    else
        mma_u8s8(c, a, b);
    for (uint32_t i = 0; i < 4; i++)
        g_st32_row_if(p->c, w_lane(), 4, w_set(i * 128), (wu)c[i], w_all());
}

/* The documented places, one formula an element: a byte of A in row r, column k lies in lane 4 * (r % 8) + k % 16 / 4. */
static void place(uint8_t *words, uint32_t lane, uint32_t reg, uint32_t byte, uint8_t v)
{
    words[(reg * 32 + lane) * 4 + byte] = v;
}

SL_TEST(a_product_of_fragments_is_that_of_the_matrices)
{
    uint8_t *a = gpu_alloc(4 * 128), *b = gpu_alloc(2 * 128), left[16][32], right[32][8];
    int32_t *c = gpu_alloc(4 * 128);
    for (uint32_t is_signed = 0; is_signed < 2; is_signed++) {
        for (uint32_t i = 0; i < 16 * 32; i++)
            left[i / 32][i % 32] = i < 64 ? (uint8_t)(is_signed ? 0x80 : 0xFF) : (uint8_t)sl_rng_next(&rng);
        for (uint32_t i = 0; i < 32 * 8; i++)
            right[i / 8][i % 8] = i % 8 < 2 ? (uint8_t)(is_signed ? 0xFF : 0x80) : (uint8_t)sl_rng_next(&rng);
        for (uint32_t r = 0; r < 16; r++)
            for (uint32_t k = 0; k < 32; k++)
                place(a, r % 8 * 4 + k % 16 / 4, r / 8 + k / 16 * 2, k % 4, left[r][k]);
        for (uint32_t k = 0; k < 32; k++)
            for (uint32_t n = 0; n < 8; n++)
                place(b, n * 4 + k % 16 / 4, k / 16, k % 4, right[k][n]);
        struct fragments p = {(const uint32_t *)(const void *)a, (const uint32_t *)(const void *)b, c,
                              is_signed};
        gpu_launch(&multiplying, &p, 1, 0, 0);
        expect("multiplying", -1);
        for (uint32_t r = 0; r < 16; r++)
            for (uint32_t n = 0; n < 8; n++) {
                uint32_t reg = r / 8 * 2 + n % 2;
                int32_t want = (int32_t)reg;
                for (uint32_t k = 0; k < 32; k++)
                    want += is_signed ? (int8_t)left[r][k] * right[k][n] : left[r][k] * (int8_t)right[k][n];
                CHECK_INT(c[reg * 32 + r % 8 * 4 + n / 2], want);
            }
    }
    gpu_free_all();
}

/* ---- barriers in shared memory ---- */

/* Warp 0 hands words to warp 1 by two slots. */
enum { SLOTS = 2, ROUNDS = 7 };
GPU_KERNEL(handing_over, 64, 1, struct plain)
{
    const uint32_t full = 1024, empty = full + 8 * SLOTS;
    for (uint32_t i = 0; i < SLOTS && gpu_warp() == 0; i++)
        mbar_init(full + 8 * i, 1), mbar_init(empty + 8 * i, 1);
    if (p->fault != 4)
        block_sync();
    for (uint32_t n = 0; n < ROUNDS; n++) {
        uint32_t slot = n % SLOTS, round = n / SLOTS & 1;
        wu at = w_lane() * 4u + slot * 128;
        if (gpu_warp() == 0) {
            if (p->fault != 1)
                mbar_wait(empty + 8 * slot, round ^ 1);
            sm_st32(at, w_lane() + n * 100);
            if (p->fault != 3 || n < 4)
                mbar_arrive(full + 8 * slot);
            continue;
        }
        if (p->fault != 2)
            mbar_wait(full + 8 * slot, p->fault == 5 ? round ^ 1 : round);
        g_st32_row_if(p->out, w_lane() + n * 32, 4, w_set(0), sm_ld32(at ^ 4u), w_all());
        mbar_arrive(empty + 8 * slot);
    }
}

SL_TEST(what_is_handed_over_by_barriers_in_shared_memory_is_whole)
{
    uint32_t *out = gpu_alloc(ROUNDS * 128);
    run(&handing_over, (struct plain){.out = out}, 1, -1);
    for (uint32_t i = 0; i < ROUNDS * 32; i++)
        CHECK_INT(out[i], i / 32 * 100 + (i % 32 ^ 1));
    run(&handing_over, (struct plain){.out = out, .fault = 3}, 1, GPU_BARRIER);
    for (uint32_t fault = 1; fault <= 5; fault++)
        for (uint64_t seed = 0; seed < 8; seed++) { /* a race, or unwritten, or a barrier not made */
            gpu_launch(&handing_over, &(struct plain){.out = out, .fault = fault}, 1, 4096, seed);
            struct gpu_report r = gpu_take_report();
            CHECK(r.found[GPU_RACE_WARPS] + r.found[GPU_UNWRITTEN] + r.found[GPU_BARRIER] > 0);
        }
    gpu_free_all();
}

/* ---- registers ---- */

/* Launched with 128 a lane: four warps take 72 each, and four give as many. */
GPU_KERNEL(sharing_out, 256, 2, struct plain)
{
    const uint32_t fault = p->fault;
    if (gpu_warp() >= 4 || (fault == 4 && gpu_warp() == 3)) {
        if (fault != 1)
            gpu_give_registers(fault == 2 ? 64 : fault == 3 ? 20 : 56);
    } else {
        gpu_take_registers(200);
    }
    g_st32_row_if(p->out, w_lane() + (gpu_block() * 8 + gpu_warp()) * 32, 4, w_set(0), w_lane(), w_all());
}

SL_TEST(a_block_has_no_more_registers_than_it_was_launched_with)
{
    uint32_t *out = gpu_alloc(2 * 8 * 128);
    run(&sharing_out, (struct plain){.out = out}, 2, -1);
    for (uint32_t fault = 1; fault <= 4; fault++)
        run(&sharing_out, (struct plain){.out = out, .fault = fault}, 2, GPU_REGISTERS);
    gpu_free_all();
}

/* ---- products of four warps ---- */

struct four {
    const uint32_t *a, *b; /* [4 warps][4][32]; [128 columns][8 words] */
    int32_t *c;            /* [4 warps][64][32] */
    uint32_t fault;
};
GPU_KERNEL(multiplying_by_four, 128, 1, struct four)
{
    const uint32_t warp = gpu_warp(), base = p->fault == 5 ? 256 : 1024;
    wu a[4], column = w_lane() + warp * 32;
    wi c[64];
    for (uint32_t i = 0; i < 8; i++) /* a column's 32 bytes are the second quarter of a row of 128 */
        sm_st32(column * 128u + (((i / 4 + 2) ^ (column & 7u)) << 4) + i % 4 * 4 + 1024u,
                g_ld32(p->b, column * 32u + i * 4));
    if (p->fault != 1)
        fence_async();
    if (p->fault != 2)
        block_sync();
    for (uint32_t i = 0; i < 4; i++)
        a[i] = g_ld32(p->a, w_lane() * 4u + (warp * 4 + i) * 128);
    for (uint32_t i = 0; i < 64; i++)
        c[i] = w_seti((int32_t)i);
    if (p->fault != 3)
        wgmma_fence();
    wgmma_u8s8(c, a, wgmma_place(base) + 2);
    wgmma_commit();
    if (p->fault != 4)
        wgmma_wait(0);
    for (uint32_t i = 0; i < 64; i++)
        g_st32_row_if(p->c, w_lane(), 4, w_set((warp * 64 + i) * 128), (wu)c[i], w_all());
}

SL_TEST(a_product_of_four_warps_is_that_of_the_matrices)
{
    static const int kinds[] = {-1, GPU_NO_FENCE, -2, GPU_NO_FENCE, GPU_LEFT_OVER, GPU_BOUNDS};
    uint8_t *a = gpu_alloc(4 * 4 * 128), *b = gpu_alloc(128 * 32), left[64][32];
    int32_t *c = gpu_alloc(4 * 64 * 128);
    for (uint32_t i = 0; i < 64 * 32; i++) {
        uint32_t r = i / 32, k = i % 32;
        left[r][k] = (uint8_t)sl_rng_next(&rng);
        place(a + r / 16 * 512, r % 8 * 4 + k % 16 / 4, r % 16 / 8 + k / 16 * 2, k % 4, left[r][k]);
    }
    for (uint32_t i = 0; i < 128 * 32; i++)
        b[i] = (uint8_t)sl_rng_next(&rng);
    struct four p = {(const uint32_t *)(const void *)a, (const uint32_t *)(const void *)b, c, 0};
    for (p.fault = 5; p.fault > 0; p.fault--) {
        gpu_launch(&multiplying_by_four, &p, 1, 1024 + 128 * 128, 3);
        struct gpu_report r = gpu_take_report();
        CHECK(kinds[p.fault] == -2 ? r.found[GPU_RACE_WARPS] + r.found[GPU_UNWRITTEN] > 0
                                   : r.found[kinds[p.fault]] > 0);
    }
    gpu_launch(&multiplying_by_four, &p, 1, 1024 + 128 * 128, 3);
    expect("multiplying by four", -1);
    for (uint32_t r = 0; r < 64; r++)
        for (uint32_t n = 0; n < 128; n++) {
            uint32_t reg = n / 8 * 4 + r % 16 / 8 * 2 + n % 2;
            int32_t want = (int32_t)reg;
            for (uint32_t k = 0; k < 32; k++)
                want += left[r][k] * (int8_t)b[n * 32 + k];
            CHECK_INT(c[(r / 16 * 64 + reg) * 32 + r % 8 * 4 + n % 8 / 2], want);
        }
    gpu_free_all();
}

SL_TEST(exponentials_have_the_bits_of_the_scalar_ones)
{
    static const float odd[] = {0.0f,   -0.0f,  INFINITY, -INFINITY, NAN,     88.7f,
                                88.73f, -87.2f, -87.4f,   1e-40f,    -126.5f, 200.0f};
    for (uint32_t round = 0; round < 2000; round++) {
        wf x;
        GPU_EACH_LANE x[l] =
            round == 0 && l < 12 ? odd[l] : (float)(sl_rng_unit(sl_rng_next(&rng)) - 0.5) * 300;
        wf e = w_exp(x), e2 = w_exp2(x), silu = w_silu(x);
        GPU_EACH_LANE
        {
            CHECK(same_float(e[l], sl_exp_scalar(x[l])));
            CHECK(same_float(e2[l], sl_exp2_scalar(x[l])));
            CHECK(same_float(silu[l], sl_silu_scalar(x[l])));
        }
    }
}

SL_TEST(what_is_no_number_stays_so_whatever_its_payload)
{
    wu bits = w_set(0x7FFFFFFFu); /* what a GPU makes of every operation that has no number for a result */
    GPU_EACH_LANE
    {
        if (l > 0)
            bits[l] = (uint32_t)sl_rng_next(&rng) | 0x7F800001u;
    }
    wf x = w_asf(bits), e = w_exp(x), e2 = w_exp2(x), silu = w_silu(x);
    GPU_EACH_LANE
    {
        CHECK(isnan(x[l]) && isnan(e[l]) && isnan(e2[l]) && isnan(silu[l]));
    }
}

SL_TEST(functions_of_lanes_do_what_they_say)
{
    wu lane = w_lane(), odd = lane & 1u;
    wb is_odd = (wb)(odd == 1u);
    CHECK_INT(w_ballot(is_odd), 0xAAAAAAAAu);
    CHECK_INT(w_ballot(w_not(is_odd)), 0x55555555u);
    CHECK_INT(w_ballot(w_or(w_ltu(lane, 3), w_and(is_odd, w_ltu(lane, 6)))), 0x2F);
    CHECK_INT(w_ballot(w_all()), 0xFFFFFFFFu);
    CHECK_INT(w_ballot(w_none()), 0);
    CHECK_INT(w_get(lane * 7u, 9), 63);
    wu swapped = w_shuffleu(lane, 5), ones = w_ones(lane),
       upper = w_mulhi(lane * 0x9E3779B9u, w_set(0xFFFFFFF5u)), big = w_maxu(lane, w_set(9)),
       small = w_minu(lane, w_set(9));
    wf half = w_float(w_asi(lane)) * 0.5f, f = w_shuffle(half, 1), top = w_maxf(half, w_setf(NAN));
    wi near = w_round(half), picked = w_picki(is_odd, w_seti(-1), w_asi(lane));
    GPU_EACH_LANE
    {
        CHECK_INT(swapped[l], l ^ 5);
        CHECK_INT(ones[l], __builtin_popcount((unsigned)l));
        CHECK_INT(upper[l], (uint64_t)((uint32_t)l * 0x9E3779B9u) * 0xFFFFFFF5u >> 32);
        CHECK_INT(big[l], l > 9 ? l : 9);
        CHECK_INT(small[l], l < 9 ? l : 9);
        CHECK(same_float(f[l], (float)(l ^ 1) * 0.5f));
        CHECK(same_float(top[l], half[l]));
        CHECK_INT(near[l], (l + (l % 4 == 3)) / 2); /* halves to even */
        CHECK_INT(picked[l], l % 2 ? -1 : l);
    }
    wf minus = w_setf(-0.0f), root = w_sqrt(half * half), third = w_div(w_setf(1), half + 3.0f);
    GPU_EACH_LANE
    {
        CHECK(same_float(minus[l], -0.0f));
        CHECK(same_float(root[l], half[l]));
        CHECK(same_float(third[l], 1.0f / (half[l] + 3.0f)));
        CHECK(same_float(w_fma(half, half, minus)[l], fmaf(half[l], half[l], -0.0f)));
    }
}
