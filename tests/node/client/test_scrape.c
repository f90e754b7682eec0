/* Tests of reading /metrics: what is asked for is found, what is no line is left out, quantiles are of what came in between. */
#include "node/client/scrape.h"
#include "tests/check.h"

#include <math.h>

static struct sl_scrape read(const char *text)
{
    struct sl_scrape scrape = {0};
    if (!sl_scrape_read(&scrape, text, strlen(text)))
        sl_test_fail(__FILE__, __LINE__, "no memory");
    return scrape;
}

SL_TEST(a_value_is_found_by_its_name_and_a_label)
{
    struct sl_scrape s =
        read("# TYPE a gauge\na 1\nb{role=\"stage 0\"} 2.5\nb{role=\"stage 1\"} 4e3\nab 9\n# EOF\n");
    CHECK_INT(s.n, 4);
    CHECK(sl_scrape_value(&s, "a", NULL) == 1);
    CHECK(sl_scrape_value(&s, "b", "role=\"stage 1\"") == 4000);
    CHECK(sl_scrape_sum(&s, "b") == 4002.5);
    CHECK(isnan(sl_scrape_value(&s, "c", NULL)) && isnan(sl_scrape_sum(&s, "c")));
    CHECK(isnan(sl_scrape_value(&s, "b", "role=\"stage 2\"")));
    sl_scrape_free(&s);
}

SL_TEST(a_label_may_hold_what_ends_one)
{
    struct sl_scrape s = read("a{x=\"}\\\" 7\",role=\"r\\\\,\"} 3\n");
    char out[20], two[2];
    REQUIRE(s.n == 1);
    CHECK(s.samples[0].value == 3);
    CHECK(sl_sample_label(&s.samples[0], "x", out, sizeof out));
    CHECK_STR(out, "}\" 7");
    CHECK(sl_sample_label(&s.samples[0], "role", out, sizeof out));
    CHECK_STR(out, "r\\,");
    CHECK(sl_sample_label(&s.samples[0], "role", two, sizeof two));
    CHECK_STR(two, "r");
    CHECK(!sl_sample_label(&s.samples[0], "le", out, sizeof out));
    sl_scrape_free(&s);
}

SL_TEST(what_is_no_line_is_left_out)
{
    struct sl_scrape s = read("\n \na\na{\na{x=\"1} 2\na{x=\"1\"}2\na b\na 1x\n{} 1\na 1 1700000000\nb 2");
    REQUIRE(s.n == 2);
    CHECK_STR(s.samples[0].name, "a");
    CHECK_STR(s.samples[1].name, "b");
    sl_scrape_free(&s);
    s = read("");
    CHECK_INT(s.n, 0);
    sl_scrape_free(&s);
}

SL_TEST(no_more_samples_are_kept_than_the_bound)
{
    static char text[2 * (SL_SCRAPE_SAMPLES + 9) * 2 + 1];
    for (size_t i = 0; i < SL_SCRAPE_SAMPLES + 9; i++)
        memcpy(text + 4 * i, "a 1\n", 4);
    struct sl_scrape s = read(text);
    CHECK_INT(s.n, SL_SCRAPE_SAMPLES);
    sl_scrape_free(&s);
}

#define HISTOGRAM(a, b, c)                                                                                   \
    "h_bucket{le=\"0.1\"} " #a "\nh_bucket{le=\"0.5\"} " #b "\nh_bucket{le=\"+Inf\"} " #c "\nh_count " #c "\n"

SL_TEST(a_quantile_is_of_what_came_between_two_scrapes)
{
    struct sl_scrape before = read(HISTOGRAM(100, 100, 100)), now = read(HISTOGRAM(100, 104, 108));
    CHECK(fabs(sl_scrape_quantile(&now, &before, "h", 0.25) - 0.3) < 1e-9); /* half-way through 0.1 to 0.5 */
    CHECK(sl_scrape_quantile(&now, &before, "h", 0.5) == 0.5);
    CHECK(sl_scrape_quantile(&now, &before, "h", 0.99) ==
          0.5); /* beyond the last bound: it is all that is known */
    CHECK(sl_scrape_quantile(&now, NULL, "h", 0.5) < 0.1); /* of all */
    CHECK(isnan(sl_scrape_quantile(&now, &now, "h", 0.5)));
    CHECK(isnan(sl_scrape_quantile(&now, &before, "g", 0.5)));
    CHECK(sl_scrape_quantile(&before, &now, "h", 0.5) < 0.1); /* counts fell: it was started anew */
    sl_scrape_free(&before);
    sl_scrape_free(&now);
}
