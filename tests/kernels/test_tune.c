/* The tuned thresholds: that they are measured in bounds, come back from the file, and that no other file is
 * believed. */
#include "kernels/isa.h"
#include "kernels/tune.h"
#include "tests/check.h"
#include <dirent.h>
#include <stdlib.h>

static const struct sl_ops *best(void)
{
    uint32_t n;
    return sl_ops_available(&n)[0];
}

/* The one file in the directory. */
static const char *only_file(const char *dir, char path[512])
{
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' && ++n)
            snprintf(path, 512, "%s/%s", dir, e->d_name);
    if (d)
        closedir(d);
    return n == 1 ? path : NULL;
}

static size_t read_all(const char *path, char *text, size_t room)
{
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, room - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = 0;
    return n;
}

static void write_all(const char *path, const char *text, size_t n)
{
    FILE *f = fopen(path, "w");
    if (!f || fwrite(text, 1, n, f) != n)
        abort();
    fclose(f);
}

SL_TEST(a_setting_holds_until_it_is_taken_back)
{
    struct sl_tune tune;
    for (int d = 0; d < SL_DTYPES; d++)
        tune.few_rows[d] = d == SL_I3 ? SL_TUNE_DEFAULT : (uint32_t)d;
    CHECK_INT(sl_tune_few_rows(SL_I4, 77), 77);
    sl_tune_set(&tune);
    CHECK_INT(sl_tune_few_rows(SL_I4, 77), SL_I4);
    CHECK_INT(sl_tune_few_rows(SL_I3, 77), 77);
    sl_tune_set(NULL);
    CHECK_INT(sl_tune_few_rows(SL_I4, 77), 77);
}

SL_TEST(what_was_measured_is_read_again)
{
    struct sl_tune tune, again;
    struct sl_err err;
    bool saved;
    char path[512], text[2000];
    REQUIRE(sl_tune_ensure(&tune, best(), sl_test_dir(), &saved, &err) == SL_OK);
    CHECK(saved);
    for (int d = 0; d < SL_DTYPES; d++)
        CHECK(tune.few_rows[d] <= SL_TUNE_DEFAULT);
    REQUIRE(only_file(sl_test_dir(), path) != NULL);
    size_t n = read_all(path, text, sizeof text);
    char *i3 = strstr(text, "i3 ");
    REQUIRE(i3 != NULL);
    char changed[2000]; /* another legal value, which no measurement gives, shows that the file was read */
    snprintf(changed, sizeof changed, "%.*si3 4001%s", (int)(i3 - text), text, strchr(i3, '\n'));
    write_all(path, changed, strlen(changed));
    REQUIRE(sl_tune_ensure(&again, best(), sl_test_dir(), &saved, &err) == SL_OK);
    CHECK(saved);
    CHECK_INT(again.few_rows[SL_I3], 4001);
    CHECK_INT(again.few_rows[SL_I4], tune.few_rows[SL_I4]);
    write_all(path, text, n);
}

SL_TEST(a_damaged_file_is_measured_anew)
{
    static const struct {
        const char *find, *put;
    } damages[] = {{"sluice", "slujce"}, {"i4 ", "i4  "}, {"i3 ", "i3 -"},
                   {"i3 ", "i3 99999"},  {"i2 ", "i2 0"}, {"i4g16", "i5"}};
    struct sl_tune tune;
    struct sl_err err;
    bool saved;
    char path[512], text[2000], damaged[2200];
    REQUIRE(sl_tune_ensure(&tune, best(), sl_test_dir(), &saved, &err) == SL_OK);
    REQUIRE(only_file(sl_test_dir(), path) != NULL);
    size_t n = read_all(path, text, sizeof text);
    for (size_t cut = 0; cut < n; cut += 9) {
        write_all(path, text, cut);
        REQUIRE(sl_tune_ensure(&tune, best(), sl_test_dir(), &saved, &err) == SL_OK);
        CHECK(read_all(path, damaged, sizeof damaged) > n / 2); /* whole again */
        for (int d = 0; d < SL_DTYPES; d++)
            CHECK(tune.few_rows[d] <= SL_TUNE_DEFAULT);
    }
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        char *at = strstr(text, damages[i].find);
        REQUIRE(at != NULL);
        int before = (int)(at - text);
        snprintf(damaged, sizeof damaged, "%.*s%s%s", before, text, damages[i].put,
                 at + strlen(damages[i].find));
        write_all(path, damaged, strlen(damaged));
        REQUIRE(sl_tune_ensure(&tune, best(), sl_test_dir(), &saved, &err) == SL_OK);
        CHECK(saved);
        char now[2000];
        read_all(path, now, sizeof now);
        CHECK(strcmp(now, damaged) != 0);
    }
}

SL_TEST(a_directory_that_is_not_there_is_no_error)
{
    struct sl_tune tune;
    struct sl_err err;
    bool saved = true;
    CHECK(sl_tune_ensure(&tune, best(), "/nonexistent/sluice", &saved, &err) == SL_OK);
    CHECK(!saved);
}
