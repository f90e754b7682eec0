/* kernels/cuda/driver.c: NVIDIA's driver is opened when it is asked for, and what is missing is one sentence. */
#include "kernels/cuda/driver.h"
#include "tests/check.h"
#include <stdlib.h>

SL_TEST(a_driver_that_is_not_there_is_said_with_the_remedy)
{
    struct sl_cuda cuda;
    struct sl_err err;
    CHECK_INT(sl_cuda_open_file(&cuda, "libnothing.so.1", &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "a GPU needs NVIDIA's driver, which can't be opened (libnothing.so.1");
    CHECK_CONTAINS(err.text, "install version 580 or newer");
    CHECK_INT(sl_status_exit_code(err.status), 69);
    CHECK_INT(sl_cuda_open_file(&cuda, "libm.so.6", &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "libm.so.6 is no driver of NVIDIA's: install one of version 580 or newer");
}

SL_TEST(an_error_is_final_when_no_later_call_can_go_well)
{
    static const sl_cu_result final[] = {46,  214, 220, 226, 700, 702, 709, 710, 714,
                                         715, 716, 717, 718, 719, 721, 810, 999};
    static const sl_cu_result not_final[] = {0,   1,   2,   100, 201, 209, 400, 500,
                                             600, 701, 704, 712, 713, 720, 801};
    for (size_t i = 0; i < sizeof final / sizeof *final; i++)
        CHECK(sl_cu_is_final(final[i]));
    for (size_t i = 0; i < sizeof not_final / sizeof *not_final; i++)
        CHECK(!sl_cu_is_final(not_final[i]));
}

/* ---- over the twin, as a library ---- */

static sl_status open_twin(struct sl_cuda *cuda, const char *name, const char *value, struct sl_err *err)
{
    setenv(name, value, 1);
    sl_status status = sl_cuda_open_file(cuda, SL_TWIN_LIBCUDA, err);
    unsetenv(name);
    return status;
}

SL_TEST(a_driver_is_opened_and_its_functions_are_there)
{
    struct sl_cuda cuda;
    struct sl_err err;
    int n = 0;
    if (sl_cuda_open_file(&cuda, SL_TWIN_LIBCUDA, &err) != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        return;
    }
    CHECK_INT(cuda.device_count(&n), SL_CU_OK);
    CHECK_INT(n, 1);
}

SL_TEST(an_old_driver_is_said_with_both_versions)
{
    struct sl_cuda cuda;
    struct sl_err err;
    CHECK_INT(open_twin(&cuda, "TWIN_VERSION", "12080", &err), SL_E_UNAVAILABLE);
    CHECK_STR(err.text,
              "the GPU driver serves CUDA 12.8, and our kernels need 13.0: install driver 580 or newer");
    CHECK_INT(open_twin(&cuda, "TWIN_VERSION", "13010", &err), SL_OK);
    CHECK_INT(open_twin(&cuda, "TWIN_MISSING", "cuFuncLoad", &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "libcuda.so.1 has no cuFuncLoad: install driver 580 or newer");
}

SL_TEST(a_driver_that_does_not_start_is_said_with_its_reason)
{
    static const struct {
        const char *result, *text;
    } cases[] = {
        {"100",
         "the driver finds no GPU: see `nvidia-smi -L`, CUDA_VISIBLE_DEVICES, and in MIG mode whether there is an instance"},
        {"34", "the library is the toolkit's stub"},
        {"802", "start the service nvidia-fabricmanager"},
        {"803", "restart the machine"},
        {"804", "a compatibility package, which this GPU can't use"},
        {"999", "see `dmesg`, and whether the device files /dev/nvidia* may be used (error 999 of cuInit)"},
        {"46",
         "starting the GPU driver failed on the GPU: CUDA-capable device(s) is/are busy or unavailable"},
    };
    struct sl_cuda cuda;
    struct sl_err err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_INT(open_twin(&cuda, "TWIN_INIT", cases[i].result, &err), SL_E_UNAVAILABLE);
        CHECK_CONTAINS(err.text, cases[i].text);
    }
    CHECK_INT(open_twin(&cuda, "TWIN_DEVICES", "0", &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "no GPU can be used: the driver finds no GPU");
}

SL_TEST(the_processs_driver_is_the_one_that_the_environment_names)
{
    const struct sl_cuda *cuda, *again;
    struct sl_err err;
    setenv("SLUICE_LIBCUDA", SL_TWIN_LIBCUDA, 1);
    CHECK_INT(sl_cuda_open(&cuda, &err), SL_OK);
    setenv("SLUICE_LIBCUDA", "libnothing.so.1", 1);
    CHECK_INT(sl_cuda_open(&again, &err), SL_OK); /* it is opened once */
    CHECK(cuda == again);
    unsetenv("SLUICE_LIBCUDA");
}
