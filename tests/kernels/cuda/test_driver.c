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
