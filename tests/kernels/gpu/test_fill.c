/* kernels/gpu/fill: every word and no other, by itself and as a launch in a stream of the driver's twin; and that the images which
 * a build with nvcc carries have it. */
#include "kernels/cuda/images.h"
#include "kernels/gpu/fill.h"
#include "kernels/gpu/launched.h"
#include "tests/kernels/gpu/outcome.h"

enum { MOST = 700 };

SL_TEST(every_word_is_written_once_and_none_beside_it)
{
    static const uint32_t sizes[] = {0, 1, 31, 32, 33, 128, 129, MOST};
    uint32_t *to = gpu_alloc(MOST * 4);
    for (uint32_t blocks = 1; blocks < 4; blocks++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            gpu_poison(to, MOST * 4);
            struct gpu_outcome o = {0};
            run_kernel(&o, &gpu_fill, &(struct fill_params){to, 7, sizes[i]}, blocks, 0, i, CONFLICTS_COUNT);
            expect_sound(&o, "%u words by %u blocks", sizes[i], blocks);
            for (uint32_t w = 0; w < MOST; w++)
                CHECK_INT(to[w], w < sizes[i] ? 7 : 0xA5A5A5A5u);
        }
    gpu_free_all();
}

/* Two fills in one stream, the second held up by an event of another: the last word is the second's, and by no seed the first's. */
SL_TEST(it_is_launched_by_name_in_a_late_stream)
{
    const struct sl_cuda *cuda = sl_cu_twin();
    const struct sl_cu_twin_kernel kernel = gpu_launched(&gpu_fill);
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct sl_cu_twin_config config = {.seed = seed,
                                           .n_devices = 1,
                                           .device_bytes = 1 << 20,
                                           .capability = 90,
                                           .kernels = &kernel,
                                           .n_kernels = 1};
        sl_cu_context context;
        sl_cu_module module;
        sl_cu_function fill;
        sl_cu_stream one, two;
        sl_cu_event event;
        sl_cu_at at;
        void *host = NULL;
        struct sl_err err;
        gpu_launched_memory(&config);
        sl_cu_twin_start(&config);
        REQUIRE(cuda->init(0) == SL_CU_OK && cuda->ctx_retain(&context, 0) == SL_CU_OK);
        REQUIRE(cuda->ctx_set_current(context) == SL_CU_OK &&
                cuda->module_load(&module, "an image") == SL_CU_OK);
        REQUIRE(cuda->module_function(&fill, module, "gpu_fill") == SL_CU_OK &&
                cuda->function_load(fill) == SL_CU_OK);
        REQUIRE(cuda->stream_create(&one, SL_CU_STREAM_NON_BLOCKING) == SL_CU_OK);
        REQUIRE(cuda->stream_create(&two, SL_CU_STREAM_NON_BLOCKING) == SL_CU_OK);
        REQUIRE(cuda->event_create(&event, SL_CU_EVENT_NO_TIMING) == SL_CU_OK);
        REQUIRE(cuda->mem_alloc(&at, MOST * 4) == SL_CU_OK &&
                cuda->host_alloc(&host, MOST * 4, 0) == SL_CU_OK);
        for (uint32_t word = 1; word <= 2;
             word++) { /* the parameters are those of the call, whatever becomes of the struct */
            struct fill_params p = {(uint32_t *)(uintptr_t)at, word, MOST};
            void *arguments[] = {&p};
            CHECK_INT(cuda->launch(fill, 2, 1, 1, FILL_WARPS * 32, 1, 1, 0, one, arguments, NULL), SL_CU_OK);
        }
        CHECK_INT(cuda->event_record(event, one), SL_CU_OK);
        CHECK_INT(cuda->stream_wait(two, event, 0), SL_CU_OK);
        CHECK_INT(cuda->copy_out(host, at, MOST * 4, two), SL_CU_OK);
        CHECK_INT(cuda->event_record(event, two), SL_CU_OK);
        CHECK_INT(sl_cu_wait(cuda, event, 60000, "the test", &err), SL_OK);
        for (uint32_t w = 0; w < MOST; w++)
            CHECK_INT(((const uint32_t *)host)[w], 2);
        struct gpu_report report = gpu_take_report();
        CHECK_INT(gpu_findings(&report), 0);
        CHECK_INT(sl_cu_twin_take_report().launches, 2);
        sl_cu_twin_stop();
    }
}

SL_TEST(what_nvcc_made_is_in_the_program_as_bytes)
{
    if (sl_gpu_n_images == 0) {
        sl_test_skip(sl_gpu_images_made);
        return;
    }
    bool found = false;
    for (uint32_t i = 0; i < sl_gpu_n_images; i++) {
        static const uint8_t magic[] = {0x50, 0xED, 0x55, 0xBA}; /* of a fatbin */
        CHECK((uintptr_t)sl_gpu_images[i].bytes % 16 == 0 && *sl_gpu_images[i].n_bytes > 64);
        CHECK(memcmp(sl_gpu_images[i].bytes, magic, sizeof magic) == 0);
        found |= strcmp(sl_gpu_images[i].name, "fill") == 0;
    }
    CHECK(found);
}
