/* pipeline/record/rows.c: the names of the ways that rows can go. */
#include "pipeline/record/rows.h"
#include "tests/check.h"

SL_TEST(each_way_has_a_name_by_which_it_is_found)
{
    enum sl_rows_way way = SL_ROWS_WAYS;
    for (int i = 0; i < SL_ROWS_WAYS; i++) {
        CHECK(sl_rows_by_name(sl_rows_name((enum sl_rows_way)i), &way));
        CHECK_INT(way, i);
    }
    CHECK(!sl_rows_by_name("auto", &way)); /* what is asked for, no way */
    CHECK(!sl_rows_by_name("", &way));
    CHECK_STR(sl_rows_name(SL_ROWS_NCCL), "nccl");
}
