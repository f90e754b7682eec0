/* Medians, and the lists of numbers that the benches take. */
#include "bench/bench_stage.h"
#include "bench/samples.h"
#include "tests/check.h"

SL_TEST(the_median_is_the_middle)
{
    double odd[] = {9, 1, 5}, even[] = {4, 1, 3, 100}, one[] = {7};
    CHECK(sl_median(odd, 3) == 5);
    CHECK(sl_median(even, 4) == 3.5);
    CHECK(sl_median(one, 1) == 7);
    CHECK(odd[0] == 9); /* left as it was: rounds are paired by their place */
}

SL_TEST(lists_of_numbers)
{
    uint32_t values[4], n = 0;
    struct sl_err err;
    REQUIRE(sl_bench_numbers("512,2048,1", "batch", 1, 4096, values, 4, &n, &err) == SL_OK);
    CHECK_INT(n, 3);
    CHECK_INT(values[0], 512);
    CHECK_INT(values[2], 1);
    static const char *const bad[] = {
        "", ",", "1,", ",1", "0", "-1", "1;2", "4097", "1,2,3,4,5", "99999999999999999999", "x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (struct sl_err){0};
        CHECK_INT(sl_bench_numbers(bad[i], "batch", 1, 4096, values, 4, &n, &err), SL_E_USAGE);
        CHECK_CONTAINS(err.text, "--batch");
    }
}
