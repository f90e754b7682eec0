/* Every allocation fails once: what is written of a report is whole, or an error in a sentence with
 * nothing left on the disk, and a sanitizer sees nothing leak. */
#include "tests/bench/serve/reports.h"
#include "tests/check.h"
#include "tests/failing.h"

#include <unistd.h>

static struct made made;

static void check_all(sl_status (*write)(const struct sl_report *, const char *, struct sl_err *),
                      const char *what, const char *file, const struct made_config *config)
{
    char path[512], place[600];
    long n = 0;
    REQUIRE(made_init(&made, config));
    snprintf(path, sizeof path, "%s/out", sl_test_dir());
    snprintf(place, sizeof place, "%s%s", path, file);
    unlink(place);
    for (;; n++) {
        struct sl_err err = {0};
        failed = false;
        countdown = n;
        sl_status status = write(&made.report, path, &err);
        countdown = -1;
        if (!failed) {
            CHECK_INT(status, SL_OK);
            break;
        }
        if (status != SL_E_NOMEM || !err.text[0] || (!*file && access(place, F_OK) == 0)) {
            sl_test_fail(__FILE__, __LINE__, "%s: allocation %ld failed: status %d, \"%s\"", what, n,
                         (int)status, err.text);
            break;
        }
    }
    CHECK_INT(access(place, R_OK), 0);
    CHECK(n > 3);
    made_fini(&made);
}

SL_TEST(without_memory_a_report_is_an_error)
{
    const struct made_config sweep = {.n_runs = 3,
                                      .n_requests = 40,
                                      .n_classes = 3,
                                      .n_stages = 2,
                                      .sweep = true,
                                      .rate = 9,
                                      .fail_share = 0.1,
                                      .most_tokens = 5};
    struct made_config repeats = sweep;
    repeats.sweep = false;
    check_all(sl_report_html, "page of a sweep", "", &sweep);
    check_all(sl_report_json, "results of a sweep", "", &sweep);
    check_all(sl_report_hgrm, "histograms of a sweep", "-point1-ttft.hgrm", &sweep);
    check_all(sl_report_html, "page of repeats", "", &repeats);
    check_all(sl_report_json, "results of repeats", "", &repeats);
}
