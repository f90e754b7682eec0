/* A stage that waits: chunks take what was said, and nothing is computed. No test asserts how punctual it is, only that it is not
 * early. */
#include "base/clock.h"
#include "pipeline/stage/device_wait.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

SL_TEST(a_chunk_is_not_done_before_its_cost_is_over)
{
    struct sl_cost cost = {.us = {[SL_COST_C] = 1000, [SL_COST_B] = 10, [SL_COST_E] = 3000}};
    struct sl_cost known;
    CHECK(sl_device_wait() == NULL && !sl_stage_waited(&known)); /* nobody has said so */
    sl_stage_waits(&cost);
    CHECK(sl_stage_waited(&known) && memcmp(&known, &cost, sizeof cost) == 0);
    const struct sl_device_ops *ops = sl_device_wait();
    REQUIRE(ops != NULL);
    struct sl_attention_slice slice = {.n = 100, .kv_only = 99};
    float *rows = malloc(100 * 64 * sizeof *rows);
    for (int i = 0; i < 100 * 64; i++)
        rows[i] = 1;
    struct sl_device_config config = {.attention = {.d_model = 64, .n_q = 1, .n_kv = 1, .d_head = 64},
                                      .experts = {.d_model = 64, .d_single = 64},
                                      .rope_inv_freq = rows,
                                      .rope_factor = 1,
                                      .n_layers = 1,
                                      .vocab = 64,
                                      .with_head = true,
                                      .with_embed = true,
                                      .kv_dtype = SL_BF16,
                                      .profile = SL_PROFILE_F32,
                                      .n_pages = 2,
                                      .max_pages = 2,
                                      .max_tokens = 100,
                                      .max_slices = 1,
                                      .head_rows = 1,
                                      .n_threads = 1};
    struct sl_device_weights weights = {.embed_dtype = SL_F32};
    struct sl_device *device;
    struct sl_err err = {0};
    sl_status status = ops->create(&device, &config, &weights, &err);
    if (status != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        free(rows);
        return;
    }
    CHECK(device->ops == ops);
    struct sl_device_at at = ops->rows(device, 0, rows);
    uint64_t since = sl_clock_ns();
    ops->embed(device, at, NULL, 100);
    ops->begin(device, &(struct sl_device_chunk){.rows = at, .n_rows = 100, .n_slices = 1, .slices = &slice});
    ops->attention(device, 0);
    ops->experts(device, 0);
    ops->finish(device);
    CHECK(sl_clock_ns() - since >= 5000000); /* 1 ms, 100 rows of 10 us, an end of 3 ms */
    CHECK(rows[0] == 0 && rows[100 * 64 - 1] == 0);
    const float *logits = (const float *)ops->logits(device, at, 1).at;
    CHECK(logits[0] == 0 && logits[63] == 0);
    ops->destroy(device);
    free(rows);
}
