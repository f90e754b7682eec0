/* node/coordinator/finished.c: what was answered since a moment, newest first, and no more than is kept. */
#include "base/log.h"
#include "node/coordinator/finished.h"
#include "tests/check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What naming writes to the log. */
static char *named(const struct sl_finished *f, uint64_t since_us, uint32_t *n)
{
    static char text[1 << 18];
    char path[300];
    snprintf(path, sizeof path, "%s/log", sl_test_dir());
    fflush(stderr);
    int before = dup(STDERR_FILENO);
    FILE *log = fopen(path, "w+");
    dup2(fileno(log), STDERR_FILENO);
    *n = sl_finished_name(f, since_us);
    dup2(before, STDERR_FILENO);
    close(before);
    rewind(log);
    text[fread(text, 1, sizeof text - 1, log)] = 0;
    fclose(log);
    return text;
}

SL_TEST(those_that_ended_since_are_named_and_no_others)
{
    struct sl_finished *f = calloc(1, sizeof *f);
    uint32_t n;
    sl_log_init("test", SL_LOG_INFO);
    CHECK_STR(named(f, 0, &n), "");
    CHECK_INT(n, 0);
    sl_finished_add(f, "first", 100);
    sl_finished_add(f, "second", 200);
    sl_finished_add(f, "third", 300);
    CHECK_CONTAINS(named(f, 200, &n), "perhaps wrongly: third, second\"");
    CHECK_INT(n, 2);
    CHECK_STR(named(f, 301, &n), "");
    CHECK_INT(n, 0);
    free(f);
}

SL_TEST(many_are_named_line_by_line_and_those_not_kept_are_spoken_of)
{
    struct sl_finished *f = calloc(1, sizeof *f);
    uint32_t n;
    char id[SL_MAX_REQUEST_ID];
    sl_log_init("test", SL_LOG_INFO);
    for (uint32_t i = 0; i < 3 * SL_FINISHED_KEPT; i++) {
        snprintf(id, sizeof id, "%0100u", i);
        sl_finished_add(f, id, i);
    }
    char *text = named(f, 0, &n);
    CHECK_INT(n, SL_FINISHED_KEPT);
    for (uint32_t i = 2 * SL_FINISHED_KEPT; i < 3 * SL_FINISHED_KEPT; i++) {
        snprintf(id, sizeof id, "%0100u", i);
        if (!strstr(text, id))
            sl_test_fail(__FILE__, __LINE__, "%s is not named", id);
    }
    CHECK_CONTAINS(text, "perhaps others before these");
    named(f, 3 * SL_FINISHED_KEPT - 5, &n);
    CHECK_INT(n, 5);
    free(f);
}
