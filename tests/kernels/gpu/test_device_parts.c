/* kernels/gpu/device_parts.c on the twin of the driver, whose clock counts operations: each part gets the microseconds between its
 * events and the work that was said of it, each once; pieces of work that have not come are not there, by any order of the streams. */
#include "base/rng.h"
#include "kernels/gpu/device_impl.h"
#include "tests/check.h"

enum { LAYERS = 3, EXPERTS = 5, BYTES = 64, SEEDS = 24 };

static struct {
    struct device_gpu d;
    sl_cu_at at;
    uint32_t *pinned;
    sl_cu_event begin, end; /* of the whole, the test's own */
    struct sl_rng rng;
    struct sl_parts want;
} w;

static uint32_t draw(uint32_t n)
{
    return (uint32_t)(sl_rng_next(&w.rng) % n);
}

static bool is_well(sl_cu_result result)
{
    if (result != SL_CU_OK)
        sl_test_fail(__FILE__, __LINE__, "the twin says %u", result);
    return result == SL_CU_OK;
}

static bool begin_world(uint64_t seed)
{
    const struct sl_cuda *cuda = sl_cu_twin();
    struct sl_err err;
    void *pinned = NULL;
    sl_cu_twin_start(
        &(struct sl_cu_twin_config){.seed = seed, .n_devices = 1, .device_bytes = 1 << 20, .capability = 90});
    memset(&w, 0, sizeof w);
    w.rng = (struct sl_rng){seed, 0};
    w.d.cuda = cuda;
    w.d.config.n_layers = LAYERS;
    w.d.config.experts.n_experts = EXPERTS;
    w.d.patience_ms = 60000;
    bool well = is_well(cuda->init(0)) && is_well(cuda->ctx_retain(&w.d.driver.context, 0)) &&
                is_well(cuda->ctx_set_current(w.d.driver.context)) &&
                is_well(cuda->mem_alloc(&w.at, BYTES)) && is_well(cuda->host_alloc(&pinned, BYTES, 0)) &&
                is_well(cuda->event_create(&w.begin, 0)) && is_well(cuda->event_create(&w.end, 0));
    for (int q = 0; q < SL_QUEUES; q++)
        well = well && is_well(cuda->stream_create(&w.d.streams[q], SL_CU_STREAM_NON_BLOCKING));
    w.pinned = pinned;
    w.d.b.n_tasks = (uint32_t *)(uintptr_t)w.at;
    return well && gpu_parts_create(&w.d, &err) == SL_OK;
}

static void end_world(void)
{
    const struct sl_cuda *cuda = w.d.cuda;
    gpu_parts_destroy(&w.d);
    is_well(cuda->event_destroy(w.begin));
    is_well(cuda->event_destroy(w.end));
    for (int q = 0; q < SL_QUEUES; q++)
        is_well(cuda->stream_destroy(w.d.streams[q]));
    is_well(cuda->mem_free(w.at));
    is_well(cuda->host_free(w.pinned));
    struct sl_cu_twin_report report = sl_cu_twin_take_report();
    CHECK_STR(report.first, "");
    sl_cu_twin_stop();
}

static void wait_for_all(void)
{
    struct sl_err err;
    is_well(w.d.cuda->event_record(w.end, w.d.streams[SL_QUEUE_COMPUTE]));
    CHECK_INT(sl_cu_wait(w.d.cuda, w.end, 60000, "all of it", &err), SL_OK);
    gpu_parts_read(&w.d);
}

static void fill(enum sl_device_queue queue)
{
    is_well(w.d.cuda->fill(w.at, 7, BYTES, w.d.streams[queue]));
}

/* n parts one after the other, each of a few operations; what the clock will say of them, if nothing else runs. */
static void draw_parts(uint32_t n, bool beside)
{
    for (uint32_t i = 0, before = SL_PARTS; i < n; i++) {
        uint32_t part = draw(SL_PARTS), operations = draw(4), ops = draw(1000), bytes = draw(1000);
        gpu_part(&w.d, part);
        gpu_work(&w.d, ops, bytes);
        for (uint32_t k = 0; k < operations; k++) {
            fill(SL_QUEUE_COMPUTE);
            if (beside)
                fill(SL_QUEUE_IN);
        }
        w.want.part[part].ns += 1000ull * (operations + (part != before)); /* an event is an operation, too */
        w.want.part[part].ops += ops;
        w.want.part[part].bytes += bytes;
        before = part;
    }
    gpu_parts_close(&w.d);
}

static uint64_t sum_of(const struct sl_parts *parts)
{
    uint64_t ns = 0;
    for (int p = 0; p < SL_PARTS; p++)
        ns += parts->part[p].ns;
    return ns;
}

static void check_parts(bool exactly)
{
    for (int p = 0; p < SL_PARTS; p++) {
        const struct sl_part_sum *got = &w.d.parts.sum.part[p], *want = &w.want.part[p];
        CHECK(exactly ? got->ns == want->ns : got->ns >= want->ns);
        CHECK_INT(got->ops, want->ops);
        CHECK_INT(got->bytes, want->bytes);
    }
}

SL_TEST(each_part_has_its_time_and_its_work_once)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        REQUIRE(begin_world(seed));
        for (uint32_t unit = 0; unit < 5; unit++) {
            fill(SL_QUEUE_COMPUTE); /* of no part */
            draw_parts(1 + draw(LAYERS * 10), false);
            if (draw(2))
                wait_for_all();
        }
        wait_for_all();
        check_parts(true);
        end_world();
    }
}

SL_TEST(parts_add_up_to_no_more_than_the_whole_whatever_runs_beside)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        float ms = 0;
        REQUIRE(begin_world(seed));
        is_well(w.d.cuda->event_record(w.begin, w.d.streams[SL_QUEUE_COMPUTE]));
        draw_parts(40, true);
        draw_parts(3, true);
        wait_for_all();
        is_well(w.d.cuda->event_elapsed(&ms, w.begin, w.end));
        check_parts(false);
        CHECK(sum_of(&w.d.parts.sum) > 0 && (double)sum_of(&w.d.parts.sum) <= (double)ms * 1e6);
        fill(SL_QUEUE_IN), wait_for_all();
        while (w.d.cuda->stream_query(w.d.streams[SL_QUEUE_IN]) == SL_CU_NOT_READY)
            ;
        end_world();
    }
}

SL_TEST(a_piece_of_work_counts_when_it_has_come_and_not_before)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        uint32_t looks = 0;
        REQUIRE(begin_world(seed));
        draw_parts(20, false);
        do { /* asking is what makes the twin go on: all of it is there, or nothing */
            gpu_parts_read(&w.d);
            CHECK(sum_of(&w.d.parts.sum) == (w.d.parts.n_read ? sum_of(&w.want) : 0));
        } while (w.d.parts.n_read == 0 && ++looks < 1000);
        check_parts(true);
        end_world();
    }
}

SL_TEST(a_host_that_is_far_ahead_waits_and_loses_nothing)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        REQUIRE(begin_world(seed));
        for (uint32_t unit = 0; unit < 3 * GPU_PARTS_UNITS; unit++)
            draw_parts(unit % 3 ? 1 : w.d.parts.most - 2, false);
        wait_for_all();
        CHECK_INT(w.d.parts.n_read, 3 * GPU_PARTS_UNITS);
        check_parts(true);
        end_world();
    }
}

/* What a layer's experts are of bytes is known when the counts of their tasks have come: no expert counts twice, and none that got
 * no row. */
SL_TEST(weights_of_experts_count_by_what_was_hit)
{
    static const uint32_t tasks[LAYERS] = {2, 0, EXPERTS + 4};
    const struct sl_panel panel = {.n = 32, .k = 64, .dtype = SL_I8, .digits = 1};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        REQUIRE(begin_world(seed));
        memcpy(w.pinned, tasks, sizeof tasks);
        is_well(w.d.cuda->copy_in(w.at, w.pinned, sizeof tasks, w.d.streams[SL_QUEUE_COMPUTE]));
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            gpu_part(&w.d, SL_PART_EXPERTS);
            gpu_work_product(&w.d, &(struct gpu_mul){.w = &panel,
                                                     .expert_stride = 1000,
                                                     .count = w.d.b.n_tasks + layer,
                                                     .n_rows = 10,
                                                     .n = 16,
                                                     .swiglu = true});
            gpu_part(&w.d, SL_PART_NORMS);
        }
        gpu_part(&w.d, SL_PART_HEAD);
        gpu_work_product(&w.d, &(struct gpu_mul){.w = &panel, .n_rows = 3, .n = 32});
        gpu_parts_close(&w.d);
        fill(SL_QUEUE_COMPUTE); /* the next chunk's counts */
        wait_for_all();
        CHECK_INT(w.d.parts.sum.part[SL_PART_EXPERTS].ops, LAYERS * 2 * 10 * 32 * 64);
        CHECK_INT(w.d.parts.sum.part[SL_PART_EXPERTS].bytes, (2 + EXPERTS) * 1000);
        CHECK_INT(w.d.parts.sum.part[SL_PART_HEAD].ops, 2 * 3 * 32 * 64);
        CHECK_INT(w.d.parts.sum.part[SL_PART_HEAD].bytes, sl_panel_bytes(SL_I8, 32, 64));
        end_world();
    }
}

/* A graph: asked for once for four rows, and gone twice, for three rows and for one. */
SL_TEST(what_is_kept_has_one_time_and_its_work_by_parts_for_the_rows_that_there_are)
{
    static const uint32_t tasks[LAYERS] = {2, 0, EXPERTS + 4};
    static const struct sl_attention_slice three[] = {
        {.n = 1, .pos = 9}, {.row = 1, .n = 1, .pos = 64}, {.row = 2, .n = 1}};
    static struct sl_layer_blocks layers[LAYERS];
    const struct sl_panel panel = {.n = 32, .k = 64, .dtype = SL_I8, .digits = 1};
    const uint64_t once = 2 * 32 * 64, panels = LAYERS * sl_panel_bytes(SL_I8, 32, 64);
    for (uint32_t i = 0; i < LAYERS; i++) {
        layers[i].experts.is_moe = i != 1;
        layers[i].experts.routed.gate_up_stride = 1000, layers[i].experts.routed.down_stride = 500;
    }
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct gpu_kept kept = {.rows = 4};
        REQUIRE(begin_world(seed));
        w.d.weights.layers = layers;
        w.d.config.attention = (struct sl_attention_dims){.n_q = 4, .n_kv = 2, .d_head = 8};
        w.d.sizes.k_bytes = w.d.sizes.v_bytes = 64;
        gpu_parts_keep(&w.d, &kept);
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            gpu_part(&w.d, SL_PART_PROJECTION);
            gpu_work_product(&w.d, &(struct gpu_mul){.w = &panel, .n_rows = 4, .n = 32});
            gpu_part(&w.d, SL_PART_ATTENTION);
            gpu_work_attention(&w.d, GPU_ALL);
            gpu_part(&w.d, SL_PART_EXPERTS);
            gpu_work_product(&w.d, &(struct gpu_mul){.w = &panel,
                                                     .expert_stride = 1000,
                                                     .count = w.d.b.n_tasks + layer,
                                                     .n_rows = 8,
                                                     .n = 32});
        }
        gpu_parts_keep(&w.d, NULL);
        CHECK_INT(w.d.parts.given, 0); /* no event */
        memcpy(w.pinned, tasks, sizeof tasks);
        for (int time = 0; time < 2; time++) {
            const uint32_t n = time ? 1 : 3;
            w.d.chunk = (struct sl_device_chunk){.n_rows = n, .n_slices = n, .slices = three};
            gpu_parts_again(&w.d, &kept);
            is_well(w.d.cuda->copy_in(w.at, w.pinned, sizeof tasks, w.d.streams[SL_QUEUE_COMPUTE]));
            gpu_parts_close(&w.d);
            draw_parts(2, false); /* the head */
        }
        wait_for_all();
        w.want.part[SL_PART_STEPS].ns += 2 * 3000; /* an event, the launch, and the counts on their way out */
        w.want.part[SL_PART_PROJECTION].ops += LAYERS * once * (3 + 1);
        w.want.part[SL_PART_PROJECTION].bytes += 2 * panels;
        w.want.part[SL_PART_EXPERTS].ops += 2 * LAYERS * once * (3 + 1);
        w.want.part[SL_PART_EXPERTS].bytes += 2 * (2 + EXPERTS) * 1500;
        w.want.part[SL_PART_ATTENTION].ops += LAYERS * 4 * 8 * 4 * (10 + 65 + 1 + 10);
        w.want.part[SL_PART_ATTENTION].bytes += LAYERS * (1 + 2 + 1 + 1) * 2 * 128;
        check_parts(true);
        end_world();
    }
}
