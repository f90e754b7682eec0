/* bench/simulate/device_hash.c: what comes out depends on everything that it should depend on, and on nothing else. */
#include "attention/kv.h"
#include "base/bytes.h"
#include "bench/simulate/device_hash.h"
#include "tests/check.h"

enum { LAYERS = 2, PAGES = 8, TOKENS = 150, VOCAB = 64 };

static struct sl_device *make(void)
{
    struct sl_device *device = NULL;
    struct sl_device_config config = {
        .attention = {.d_model = SL_HASH_ROW_FLOATS, .n_q = 1, .n_kv = 1, .d_head = 2},
        .n_layers = LAYERS,
        .vocab = VOCAB,
        .with_head = true,
        .kv_dtype = SL_BF16,
        .n_pages = PAGES,
        .head_rows = 4};
    struct sl_device_weights none = {0};
    CHECK(sl_device_hash.create(&device, &config, &none, NULL) == SL_OK);
    return device;
}

/* Rows of positions [pos, pos + n) in place. */
static void run(struct sl_device *device, const uint32_t *pages, uint32_t pos, uint32_t n, uint32_t kv_only,
                uint64_t *rows)
{
    const struct sl_device_ops *ops = device->ops;
    uint8_t ids[4 * TOKENS];
    struct sl_attention_slice slice = {0, n, pos, pages, kv_only};
    for (uint32_t i = 0; i < n; i++)
        sl_put32(ids + 4 * (size_t)i, (pos + i) % 7);
    struct sl_device_at at = ops->rows(device, 0, (float *)(void *)rows);
    ops->embed(device, at, ids, n);
    ops->begin(device, &(struct sl_device_chunk){.rows = at, .n_rows = n, .n_slices = 1, .slices = &slice});
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        ops->attention(device, layer);
        ops->experts(device, layer);
    }
    ops->finish(device);
}

static void clear(struct sl_device *device, const uint32_t *pages, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        device->ops->clear(device, pages[i]);
}

static uint64_t last_row(const uint32_t *pages, uint32_t cut)
{
    uint64_t rows[TOKENS];
    struct sl_device *device = make();
    clear(device, pages, 3);
    if (cut > 0)
        run(device, pages, 0, cut, 0, rows);
    run(device, pages, cut, TOKENS - cut, 0, rows);
    device->ops->destroy(device);
    return rows[TOKENS - cut - 1];
}

SL_TEST(rows_depend_on_no_cut_and_on_no_page_number)
{
    static const uint32_t pages[3] = {4, 1, 6}, others[3] = {0, 7, 2};
    uint64_t whole = last_row(pages, 0);
    static const uint32_t cuts[] = {1, 63, 64, 65, 100, 128, 149};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
        CHECK(last_row(pages, cuts[i]) == whole);
    CHECK(last_row(others, 70) == whole);
}

SL_TEST(a_page_in_anothers_place_an_old_one_and_one_that_was_not_cleared_give_other_rows)
{
    static const uint32_t pages[3] = {4, 1, 6}, swapped[3] = {1, 4, 6};
    uint64_t rows[TOKENS], whole = last_row(pages, 100);
    struct sl_device *device = make();
    clear(device, pages, 3);
    run(device, pages, 0, 100, 0, rows);
    run(device, swapped, 100, 50, 0, rows);
    CHECK(rows[49] != whole); /* pages 4 and 1 were read in each other's place */
    clear(device, pages, 3);
    run(device, pages, 0, 64, 0, rows);
    device->ops->clear(device, 4); /* what was there is gone */
    run(device, pages, 64, TOKENS - 64, 0, rows);
    CHECK(rows[TOKENS - 65] != whole);
    clear(device, pages, 2); /* but not the third, which has what a former sequence wrote */
    run(device, pages, 0, TOKENS, 0, rows);
    CHECK(rows[TOKENS - 1] != whole);
    device->ops->destroy(device);
}

SL_TEST(rows_that_nobody_wants_go_and_the_others_stay_in_their_order)
{
    static const uint32_t pages[3] = {0, 1, 2};
    uint64_t all[TOKENS], some[TOKENS];
    struct sl_device *device = make();
    clear(device, pages, 3);
    run(device, pages, 0, TOKENS, 0, all);
    clear(device, pages, 3);
    run(device, pages, 0, TOKENS, TOKENS - 3, some);
    CHECK(memcmp(some, all + TOKENS - 3, 3 * sizeof *all) == 0);
    device->ops->destroy(device);
}

SL_TEST(its_time_is_the_cost_models)
{
    static const uint32_t pages[3] = {0, 1, 2};
    uint64_t rows[TOKENS];
    struct sl_cost cost = {.us = {[SL_COST_C] = 100, [SL_COST_B] = 2, [SL_COST_E] = 7}};
    struct sl_device *device = make();
    clear(device, pages, 3);
    run(device, pages, 0, 10, 0, rows);
    CHECK(sl_device_hash_took_us(device) == 0);
    sl_device_hash_cost(device, &cost, 3);
    run(device, pages, 10, 10, 9, rows);
    CHECK(sl_device_hash_took_us(device) == 3 * (100 + 2 * 10 + 7));
    sl_device_hash_begin(device);
    CHECK(sl_device_hash_took_us(device) == 0);
    device->ops->destroy(device);
}
