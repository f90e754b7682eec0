/* pipeline/stage/device_kind.c: what --device and --devices take, and what they refuse, by a sentence that says what they take. */
#include "base/profile.h"
#include "kernels/isa.h"
#include "pipeline/stage/device_kind.h"
#include "tests/check.h"
#include <stdlib.h>

SL_TEST(a_device_is_read_by_its_name)
{
    static const struct {
        const char *text;
        enum sl_device_kind kind;
    } names[] = {
        {NULL, SL_DEVICE_CPU},      {"cpu", SL_DEVICE_CPU},
        {"twin", SL_DEVICE_TWIN},   {"cuda", SL_DEVICE_CUDA},
        {"cuda:0", SL_DEVICE_CUDA}, {"cuda:GPU-01234567-89ab-cdef-0123-456789abcdef", SL_DEVICE_CUDA}};
    struct sl_err err;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        enum sl_device_kind kind = SL_DEVICE_LATE;
        CHECK_INT(sl_device_kind_read(&kind, names[i].text, &err), SL_OK);
        CHECK_INT((int)kind, (int)names[i].kind);
    }
}

SL_TEST(a_gpu_is_shared_that_says_so)
{
    CHECK(sl_device_is_shared("cuda:0/shared") &&
          sl_device_is_shared("cuda:GPU-01234567-89ab-cdef-0123-456789abcdef/shared"));
    CHECK(!sl_device_is_shared(NULL) && !sl_device_is_shared("cpu") && !sl_device_is_shared("cuda:0") &&
          !sl_device_is_shared("cuda:0/share"));
}

SL_TEST(auto_is_the_cpu_where_there_is_no_gpu)
{
    enum sl_device_kind kind = SL_DEVICE_LATE;
    struct sl_err err;
    setenv("SLUICE_LIBCUDA", "/nowhere/libcuda.so.1", 1);
    CHECK_INT(sl_device_kind_read(&kind, "auto", &err), SL_OK);
    CHECK_INT((int)kind, SL_DEVICE_CPU);
}

SL_TEST(what_is_no_device_is_refused)
{
    static const char *const bad[] = {"",      "gpu",   "cpu0",    "Twin",    "late",
                                      "cuda0", "cuda:", "cuda:-1", "cuda:64", "cuda:GPU-12"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        enum sl_device_kind kind;
        struct sl_err err = {0};
        CHECK_INT(sl_device_kind_read(&kind, bad[i], &err), SL_E_USAGE);
        CHECK_CONTAINS(err.text, "cuda:N");
    }
}

SL_TEST(a_list_is_of_nodes_in_their_order_and_the_last_ones_are_cpus)
{
    static const char *const want[] = {"twin", "cuda:1", "cpu", "cpu"};
    char text[SL_DEVICE_TEXT];
    struct sl_err err;
    for (uint32_t k = 0; k < 4; k++) {
        CHECK_INT(sl_device_of_list(text, "twin,cuda:1", k, 4, &err), SL_OK);
        CHECK_STR(text, want[k]);
    }
    CHECK_INT(sl_device_of_list(text, NULL, 0, 4, &err), SL_OK);
    CHECK_STR(text, "cpu");
    CHECK_INT(sl_device_of_list(text, "cpu,cpu,twin", 0, 2, &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "more than the 2 processes");
    CHECK_INT(sl_device_of_list(text, "cpu,,twin", 0, 3, &err), SL_E_USAGE);
    CHECK_INT(sl_device_of_list(text, "cpu,", 0, 3, &err), SL_E_USAGE);
}

SL_TEST(gpus_have_the_numerics_f32_only)
{
    CHECK_INT(sl_device_profiles(SL_DEVICE_TWIN), 1u << SL_PROFILE_F32);
    CHECK_INT(sl_device_profiles(SL_DEVICE_CUDA), 1u << SL_PROFILE_F32);
    CHECK_INT(sl_device_profiles(SL_DEVICE_CPU), sl_ops_profiles());
}
