/* kernels/cuda/modules.c: images are loaded, kernels are looked up ready to be launched; over the twin. */
#include "kernels/cuda/modules.h"
#include "kernels/cuda/twin.h"
#include "tests/check.h"

static void nothing(const struct sl_cu_twin_kernel *kernel, const void *params, uint32_t n_blocks,
                    size_t shared_bytes, uint64_t seed)
{
    (void)kernel, (void)params, (void)n_blocks, (void)shared_bytes, (void)seed;
}
static const struct sl_cu_twin_kernel kernels[] = {{"one", 4, 32, 1, nothing, NULL},
                                                   {"other", 8, 64, 1, nothing, NULL}};
static const size_t n_bytes = 4;
static const struct sl_gpu_image images[] = {{"a", (const uint8_t *)"abc", &n_bytes},
                                             {"b", (const uint8_t *)"abc", &n_bytes}};

static const struct sl_cuda *begin_of(uint32_t capability)
{
    const struct sl_cuda *cuda = sl_cu_twin();
    sl_cu_context context;
    sl_cu_twin_start(&(struct sl_cu_twin_config){.n_devices = 1,
                                                 .device_bytes = 1 << 20,
                                                 .capability = capability,
                                                 .kernels = kernels,
                                                 .n_kernels = 2});
    if (cuda->init(0) != SL_CU_OK || cuda->ctx_retain(&context, 0) != SL_CU_OK ||
        cuda->ctx_set_current(context) != SL_CU_OK)
        sl_test_fail(__FILE__, __LINE__, "the twin does not start");
    return cuda;
}
static const struct sl_cuda *begin(void)
{
    return begin_of(90);
}

SL_TEST(a_kernel_is_found_ready_and_with_the_shared_memory_that_it_asks_for)
{
    const struct sl_cuda *cuda = begin();
    struct sl_gpu_modules modules;
    struct sl_err err;
    sl_cu_function function;
    sl_cu_stream stream;
    uint64_t parameter = 0;
    void *arguments[] = {&parameter};
    REQUIRE(sl_gpu_modules_load(&modules, cuda, images, 2, &err) == SL_OK);
    REQUIRE(sl_gpu_modules_find(&modules, "other", 100 * 1024, &function, &err) == SL_OK);
    REQUIRE(cuda->stream_create(&stream, SL_CU_STREAM_NON_BLOCKING) == SL_CU_OK);
    CHECK_INT(cuda->launch(function, 1, 1, 1, 64, 1, 1, 100 * 1024, stream, arguments, NULL), SL_CU_OK);
    while (cuda->stream_query(stream) == SL_CU_NOT_READY)
        ;
    CHECK_INT(sl_gpu_modules_find(&modules, "other", 228 * 1024, &function, &err), SL_E_UNAVAILABLE);
    CHECK_STR(
        err.text,
        "the kernel other wants 228 KiB of shared memory, and a block of this GPU may not have as much");
    CHECK_INT(sl_gpu_modules_find(&modules, "nothing", 0, &function, &err), SL_E_INTERNAL);
    CHECK_STR(err.text, "no image of this sluice has the kernel nothing");
    sl_gpu_modules_unload(&modules);
    CHECK_INT(modules.n, 0);
    CHECK_INT(sl_cu_twin_take_report().misuses, 0); /* it was loaded before its launch */
    sl_cu_twin_stop();
}

SL_TEST(a_block_has_the_shared_memory_of_its_capability)
{
    static const struct {
        uint32_t capability, kib;
    } cases[] = {{80, 163}, {86, 99}, {89, 99}, {90, 227}, {100, 227}, {120, 99}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct sl_cuda *cuda = begin_of(cases[i].capability);
        struct sl_gpu_modules modules;
        struct sl_err err;
        sl_cu_function function;
        int most = 0;
        REQUIRE(sl_gpu_modules_load(&modules, cuda, images, 2, &err) == SL_OK);
        CHECK_INT(cuda->device_attribute(&most, SL_CU_SHARED_BYTES, 0), SL_CU_OK);
        CHECK_INT(most, cases[i].kib * 1024);
        CHECK_INT(sl_gpu_modules_find(&modules, "other", (uint32_t)most, &function, &err), SL_OK);
        CHECK_INT(sl_gpu_modules_find(&modules, "other", (uint32_t)most + 16, &function, &err),
                  SL_E_UNAVAILABLE);
        sl_gpu_modules_unload(&modules);
        sl_cu_twin_stop();
    }
}

SL_TEST(a_program_without_kernels_says_why_and_a_bad_image_leaves_none)
{
    const struct sl_cuda *cuda = begin();
    const struct sl_gpu_image bad[] = {images[0], {"c", NULL, &n_bytes}};
    struct sl_gpu_modules modules;
    struct sl_err err;
    CHECK_INT(sl_gpu_modules_load(&modules, cuda, images, 0, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "build it where nvcc 13.0 or newer is in PATH");
    CHECK_INT(sl_gpu_modules_load(&modules, cuda, bad, 2, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "loading kernels failed on the GPU: invalid argument");
    CHECK_INT(modules.n, 0);
    sl_cu_twin_stop();
}

static sl_cu_result refusing(sl_cu_module *module, const void *image)
{
    return strcmp(image, "90a") == 0 ? SL_CU_NO_BINARY_FOR_GPU : sl_cu_twin()->module_load(module, image);
}

SL_TEST(kernels_of_another_architecture_alone_are_left_out_and_no_others)
{
    struct sl_cuda cuda = *begin();
    const struct sl_gpu_image all[] = {
        {"body_sm90a", (const uint8_t *)"90a", &n_bytes}, images[0], images[1]};
    const struct sl_gpu_image lacking[] = {images[0], {"body", (const uint8_t *)"90a", &n_bytes}};
    struct sl_gpu_modules modules;
    struct sl_err err;
    cuda.module_load = refusing;
    REQUIRE(sl_gpu_modules_load(&modules, &cuda, all, 3, &err) == SL_OK);
    CHECK_INT(modules.n, 2);
    sl_gpu_modules_unload(&modules);
    CHECK_INT(sl_gpu_modules_load(&modules, &cuda, lacking, 2, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "are not for this GPU");
    sl_cu_twin_stop();
}
