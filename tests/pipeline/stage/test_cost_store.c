/* The file in which a stage's cost is kept (pipeline/stage/cost_store.h): what we wrote is read, anything else is refused. */
#include "base/log.h"
#include "base/rng.h"
#include "pipeline/stage/cost_store.h"
#include "tests/model/files.h"

static const char key[] = "a processor\nmodel 1234\n";
static const struct sl_measured_cost measured = {
    .cost = {.us = {200, 0.1, 70.5, 1e-5, 17000, 250}, .hit = 0.0625},
    .reach_rows = 2048,
    .reach_pos = 4096,
    .n_points = 3,
    .points = {{0, 1, 1, 1234.5}, {1024, 16, 0, 2e4}, {4096, 2048, 0, 3.25e6}},
};

SL_TEST(what_was_written_is_read)
{
    char text[SL_COST_FILE], again[SL_COST_FILE];
    struct sl_measured_cost m;
    sl_cost_render(&measured, key, text);
    CHECK(sl_cost_parse(&m, key, text, strlen(text)) == NULL);
    CHECK_INT(m.n_points, 3);
    CHECK(m.points[2].us == 3.25e6 && m.points[2].rows == 2048 && m.points[2].pos == 4096);
    CHECK(m.cost.us[SL_COST_B] == 70.5 && m.cost.hit == 0.0625);
    sl_cost_render(&m, key, again);
    CHECK_STR(again, text);
}

SL_TEST(the_corpus_of_the_fuzzer_has_a_file_that_is_accepted)
{
    struct sl_measured_cost m;
    size_t n;
    char *text = read_text("tests/fuzz/corpus/cost/whole", &n);
    const char *why = sl_cost_parse(&m, key, text, n);
    CHECK(why == NULL);
    CHECK_INT(m.n_points, 3);
    free(text);
}

SL_TEST(the_fullest_file_fits)
{
    struct sl_measured_cost m = {.n_points = SL_COST_POINTS,
                                 .reach_rows = UINT32_MAX,
                                 .reach_pos = UINT32_MAX},
                            back;
    char text[SL_COST_FILE], longest[SL_COST_KEY];
    memset(longest, 'k', sizeof longest);
    longest[sizeof longest - 2] = '\n';
    longest[sizeof longest - 1] = 0;
    for (int i = 0; i < SL_COST_TERMS; i++)
        m.cost.us[i] = 1.23456789e12;
    for (int i = 0; i < SL_COST_POINTS; i++)
        m.points[i] = (struct sl_measured_point){UINT32_MAX, UINT32_MAX, UINT32_MAX, 1.23456789e12};
    sl_cost_render(&m, longest, text);
    CHECK(sl_cost_parse(&back, longest, text, strlen(text)) == NULL);
    CHECK_INT(back.n_points, SL_COST_POINTS);
}

SL_TEST(what_another_wrote_is_refused_with_a_reason)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", "of another version"},
        {"sluice cost 1\n", "of another version"},
        {"sluice cost 2\nanother processor\nmodel 1234\n", "of another model or machine"},
        {"sluice cost 2\na processor\nmodel 1234\n", "damaged"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4\nhit 0\nend\n", "a coefficient"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 -5\nhit 0\nend\n", "a coefficient"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 nan\nhit 0\nend\n", "a coefficient"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 inf\nhit 0\nend\n", "a coefficient"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 1e300\nhit 0\nend\n", "a coefficient"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 5 6\nhit 2\nend\n", "the share"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 5 6\nhit 0\nend\n", "the reach"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 5 6\nhit 0\nreach 1\nend\n", "the reach"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 5 6\nhit 0\nreach 1 1\n1 2 3\nend\n", "a point"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 5 6\nhit 0\nreach 1 1\n-1 2 3 4\nend\n",
         "a point"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 5 6\nhit 0\nreach 1 1\n", "a point"},
        {"sluice cost 2\na processor\nmodel 1234\nus 1 2 3 4 5 6\nhit 0\nreach 1 1\nend\n",
         "damaged"}, /* as we would not write it */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sl_measured_cost m;
        const char *why = sl_cost_parse(&m, key, cases[i].text, strlen(cases[i].text));
        CHECK(why != NULL);
        if (why)
            CHECK_CONTAINS(why, cases[i].why);
    }
}

SL_TEST(no_changed_byte_and_no_cut_is_believed)
{
    char text[SL_COST_FILE], changed[SL_COST_FILE];
    struct sl_measured_cost m;
    struct sl_rng rng = {1, 0};
    sl_cost_render(&measured, key, text);
    size_t n = strlen(text);
    for (size_t cut = 0; cut < n; cut++)
        CHECK(sl_cost_parse(&m, key, text, cut) != NULL);
    for (int round = 0; round < 20000; round++) {
        memcpy(changed, text, n);
        changed[sl_rng_next(&rng) % n] = (char)sl_rng_next(&rng);
        char again[SL_COST_FILE];
        if (sl_cost_parse(&m, key, changed, n) ==
            NULL) { /* another number, then: as we would have written it */
            sl_cost_render(&m, key, again);
            CHECK(strlen(again) == n && !memcmp(again, changed, n));
        }
    }
    char large[2 * SL_COST_FILE];
    memset(large, 'x', sizeof large);
    CHECK(sl_cost_parse(&m, key, large, sizeof large) != NULL);
}

SL_TEST(a_file_that_cannot_be_read_or_written_is_none)
{
    struct sl_measured_cost m;
    const char *dir = sl_test_dir();
    sl_log_init("test", SL_LOG_ERROR);
    CHECK(!sl_cost_load(&m, key, dir));
    CHECK(!sl_cost_save(&measured, key, path_in(dir, "not there")));
    CHECK(sl_cost_save(&measured, key, dir));
    CHECK(sl_cost_load(&m, key, dir));
    CHECK_INT(m.n_points, 3);
    CHECK(!sl_cost_load(&m, "another key\n", dir));
}
