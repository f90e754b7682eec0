/* model/pack/pack_place.c: a place that is locked is not swept, one that is not is, and files that no packer writes stay. */
#include "model/pack/pack_place.h"
#include "tests/model/files.h"

SL_TEST(the_place_of_a_living_packer_stays_and_that_of_a_dead_one_goes)
{
    struct sl_err err;
    int lock;
    char parent[512], tmp[600];
    snprintf(parent, sizeof parent, "%s", sl_test_dir());
    snprintf(tmp, sizeof tmp, "%s/x.pack.tmp-77", parent);
    REQUIRE(sl_place_make(tmp, &lock, &err) == SL_OK);
    write_bytes(path_in(tmp, "config.json"), "{}", 2);
    CHECK_INT(sl_place_sweep(parent, "x.pack"), 0);
    CHECK_INT(sl_place_sweep(parent, NULL), 0);
    close(lock); /* as when its process ends */
    CHECK_INT(sl_place_sweep(parent, "y.pack"), 0);
    CHECK_INT(sl_place_sweep(parent, "x"), 0);
    CHECK_INT(sl_place_sweep(parent, "x.pack"), 1);
    CHECK(access(tmp, F_OK) != 0);
    REQUIRE(sl_place_make(tmp, &lock, &err) == SL_OK);
    CHECK_INT(sl_place_make(tmp, &lock, &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "x.pack.tmp-77");
}

SL_TEST(what_is_not_a_packers_is_not_swept)
{
    static const char *const names[] = {"x.pack.tmp-", "x.pack.tmp-1a", "x.pack.tmp",
                                        "x.pack",      "x.packtmp-1",   "y.tmp-5"};
    char parent[512], own[600];
    snprintf(parent, sizeof parent, "%s", sl_test_dir());
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        mkdir(path_in(parent, names[i]), 0755);
    snprintf(own, sizeof own, "%s/x.pack.tmp-12", parent);
    mkdir(own, 0755);
    write_bytes(path_in(own, "letter.txt"), "mine", 4);
    write_bytes(path_in(parent, "x.pack.tmp-13"), "a file", 6);
    CHECK_INT(sl_place_sweep(parent, "x.pack"), 0);
    CHECK_INT(sl_place_sweep(parent, NULL), 0);
    CHECK(access(path_in(own, "letter.txt"), F_OK) == 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        CHECK(access(path_in(parent, names[i]), F_OK) == 0);
}
