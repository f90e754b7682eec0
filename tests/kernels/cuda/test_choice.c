/* kernels/cuda/choice.c: which GPU --device means, and why one can't be had. */
#include "kernels/cuda/choice.h"
#include "kernels/cuda/driver.h"
#include "tests/check.h"

static const char uuid_text[] = "01234567-89ab-cdef-0123-456789abcdef";
static const uint8_t uuid[16] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
                                 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};

SL_TEST(a_number_a_uuid_and_any_are_read)
{
    struct sl_gpu_choice c;
    struct sl_err err;
    static const char *const any[] = {"cuda", "auto"};
    for (size_t i = 0; i < 2; i++) {
        CHECK_INT(sl_gpu_choice_read(&c, any[i], &err), SL_OK);
        CHECK_INT(c.by, SL_GPU_ANY);
    }
    CHECK_INT(sl_gpu_choice_read(&c, "cuda:0", &err), SL_OK);
    CHECK(c.by == SL_GPU_BY_NUMBER && c.number == 0);
    CHECK_INT(sl_gpu_choice_read(&c, "cuda:63", &err), SL_OK);
    CHECK_INT(c.number, 63);
    static const char *const prefixes[] = {"cuda:", "cuda:GPU-", "cuda:MIG-"};
    for (size_t i = 0; i < 3; i++) {
        char text[64];
        snprintf(text, sizeof text, "%s%s", prefixes[i], uuid_text);
        CHECK_INT(sl_gpu_choice_read(&c, text, &err), SL_OK);
        CHECK(c.by == SL_GPU_BY_UUID && memcmp(c.uuid, uuid, 16) == 0);
    }
    CHECK_INT(sl_gpu_choice_read(&c, "cuda:GPU-01234567-89AB-CDEF-0123-456789ABCDEF", &err), SL_OK);
    CHECK(memcmp(c.uuid, uuid, 16) == 0);
    CHECK(!c.shared);
}

SL_TEST(who_shares_it_says_so_behind_it)
{
    static const char *const good[] = {"cuda:7/shared",
                                       "cuda:GPU-01234567-89ab-cdef-0123-456789abcdef/shared"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct sl_gpu_choice c;
        struct sl_err err;
        CHECK_INT(sl_gpu_choice_read(&c, good[i], &err), SL_OK);
        CHECK(c.shared && (c.by == SL_GPU_BY_UUID || c.number == 7));
    }
}

SL_TEST(what_names_no_gpu_is_refused_with_what_would)
{
    static const char *const bad[] = {"",
                                      "cuda:",
                                      "cuda:-1",
                                      "cuda:64",
                                      "cuda:4294967296",
                                      "cuda:00",
                                      "cuda:1/",
                                      "cuda:1/share",
                                      "cuda:1/shared ",
                                      "cuda:00/shared",
                                      "cuda:/shared",
                                      "auto/shared",
                                      "cuda/shared",
                                      "cuda0",
                                      "cuda:1 ",
                                      " cuda:1",
                                      "CUDA:1",
                                      "cuda:0x1",
                                      "gpu:0",
                                      "autos",
                                      "cuda:GPU-",
                                      "cuda:01234567-89ab-cdef-0123-456789abcde",
                                      "cuda:01234567-89ab-cdef-0123-456789abcdeff",
                                      "cuda:0123456789abcdef0123456789abcdef",
                                      "cuda:01234567-89ab-cdef-0123-456789abcdeg",
                                      "cuda:GPU-GPU-01234567",
                                      "cuda:MIG-GPU-01234567-89ab-cdef-0123-456789abcdef/1/0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_gpu_choice c;
        struct sl_err err = {0};
        if (sl_gpu_choice_read(&c, bad[i], &err) != SL_E_USAGE)
            sl_test_fail(__FILE__, __LINE__, "\"%s\" was taken", bad[i]);
        CHECK_CONTAINS(err.text, "names no GPU: use cuda, cuda:N with N from 0 to 63, or cuda:UUID");
    }
}

SL_TEST(a_uuid_is_written_as_nvidia_smi_does)
{
    struct sl_gpu gpu = {.name = "NVIDIA H200"};
    char text[SL_GPU_UUID_TEXT];
    memcpy(gpu.uuid, uuid, 16);
    sl_gpu_uuid_text(text, &gpu);
    CHECK_STR(text, "GPU-01234567-89ab-cdef-0123-456789abcdef");
    snprintf(gpu.name, sizeof gpu.name, "NVIDIA A100-SXM4-40GB MIG 1g.5gb");
    sl_gpu_uuid_text(text, &gpu);
    CHECK_STR(text, "MIG-01234567-89ab-cdef-0123-456789abcdef");
}

SL_TEST(one_is_found_by_number_or_uuid_and_a_miss_says_what_there_is)
{
    struct sl_gpu gpus[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    struct sl_gpu_choice c = {.by = SL_GPU_BY_NUMBER, .number = 2};
    struct sl_err err;
    uint32_t found = 9;
    memcpy(gpus[1].uuid, uuid, 16);
    CHECK_INT(sl_gpu_find(gpus, 3, &c, &found, &err), SL_OK);
    CHECK_INT(found, 2);
    CHECK_INT(sl_gpu_find(gpus, 2, &c, &found, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "there is no cuda:2: the driver lists 2, from cuda:0 on");
    c.by = SL_GPU_BY_UUID;
    memcpy(c.uuid, uuid, 16);
    CHECK_INT(sl_gpu_find(gpus, 3, &c, &found, &err), SL_OK);
    CHECK_INT(found, 1);
    c.uuid[0] = 0xff;
    CHECK_INT(sl_gpu_find(gpus, 3, &c, &found, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text,
                   "no GPU has the UUID ff234567-89ab-cdef-0123-456789abcdef: the driver lists 3 others");
}

SL_TEST(one_that_cannot_be_had_is_said_with_its_numbers)
{
    const struct sl_gpu good = {.number = 3, .name = "NVIDIA A100", .capability = 80, .bytes = 40ull << 30};
    const struct sl_gpu_need need = {.capability = 80, .bytes = 40ull << 30};
    struct sl_err err;
    CHECK_INT(sl_gpu_suits(&good, &need, &err), SL_OK);
    struct sl_gpu bad = good;
    bad.mode = SL_CU_MODE_PROHIBITED;
    CHECK_INT(sl_gpu_suits(&bad, &need, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(
        err.text,
        "cuda:3 (NVIDIA A100) is in the compute mode that forbids programs: `nvidia-smi -i 3 -c DEFAULT`");
    bad = good, bad.capability = 75;
    CHECK_INT(sl_gpu_suits(&bad, &need, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "has compute capability 7.5; our kernels need 8.0");
    bad = good, bad.bytes--;
    CHECK_INT(sl_gpu_suits(&bad, &(struct sl_gpu_need){80, 60ull << 30}, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "has 40.00 GiB and this stage needs 60.00: give it fewer layers or pages");
    bad = good, bad.mode = SL_CU_MODE_EXCLUSIVE; /* until somebody has it, which the driver says */
    CHECK_INT(sl_gpu_suits(&bad, &need, &err), SL_OK);
}
