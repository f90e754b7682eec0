/* Tests of the archive: tar reads it, nothing that is there is written over, what can't be written is not left half. */
#include "node/client/tar.h"
#include "tests/check.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void path_in(char out[300], const char *name)
{
    snprintf(out, 300, "%s/%s", sl_test_dir(), name);
}

SL_TEST(tar_reads_files_of_every_length_and_their_bytes)
{
    char path[300], command[1000], data[1100], name[40], all[8000] = "";
    struct sl_tar tar;
    struct sl_err err = {0};
    static const size_t lengths[] = {0, 1, 511, 512, 513, 1100};
    path_in(path, "a.tar");
    memset(data, 'x', sizeof data);
    REQUIRE(sl_tar_begin(&tar, path, 1700000000, &err) == SL_OK);
    for (size_t i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "folder/%zu", lengths[i]);
        REQUIRE(sl_tar_add(&tar, name, data, lengths[i], &err) == SL_OK);
    }
    REQUIRE(sl_tar_end(&tar, &err) == SL_OK);
    snprintf(command, sizeof command,
             "TZ=UTC tar --full-time -tvf %s && tar xOf %s folder/513 | tr -d x | wc -c", path, path);
    FILE *pipe = popen(command, "r");
    REQUIRE(pipe != NULL);
    all[fread(all, 1, sizeof all - 1, pipe)] = 0;
    CHECK_INT(pclose(pipe), 0);
    for (size_t i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "folder/%zu\n", lengths[i]);
        CHECK_CONTAINS(all, name);
    }
    CHECK_CONTAINS(all, "-rw-------");
    CHECK_CONTAINS(all, "1100 2023-11-14 22:13:20");
    CHECK_CONTAINS(all, "folder/1100\n0\n");
    struct stat info;
    CHECK(stat(path, &info) == 0 && (info.st_mode & 0777) == 0600);
}

SL_TEST(a_file_that_is_there_is_not_touched)
{
    char path[300], kept[8] = "";
    struct sl_tar tar;
    struct sl_err err = {0};
    path_in(path, "precious");
    FILE *file = fopen(path, "w");
    REQUIRE(file != NULL);
    fputs("mine", file);
    fclose(file);
    CHECK_INT(sl_tar_begin(&tar, path, 0, &err), SL_E_EXISTS);
    CHECK_CONTAINS(err.text, "is there already; move it away, or give another file with --to");
    file = fopen(path, "r");
    REQUIRE(file && fgets(kept, sizeof kept, file));
    CHECK_STR(kept, "mine");
    fclose(file);
}

SL_TEST(what_can_not_be_written_gets_a_sentence_and_leaves_nothing)
{
    char path[300];
    struct sl_tar tar;
    struct sl_err err = {0};
    path_in(path, "nowhere/a.tar");
    CHECK_INT(sl_tar_begin(&tar, path, 0, &err), SL_E_IO);
    path_in(path, "dropped.tar");
    REQUIRE(sl_tar_begin(&tar, path, 0, &err) == SL_OK);
    sl_tar_drop(&tar);
    CHECK(access(path, F_OK) != 0);
    static char endless[201];
    memset(endless, 'n', 200);
    REQUIRE(sl_tar_begin(&tar, path, 0, &err) == SL_OK);
    CHECK_INT(sl_tar_add(&tar, endless, "", 0, &err), SL_E_INTERNAL);
    fclose(tar.file);
    tar.file = fopen("/dev/full", "wb"); /* a disk that fills up while it is written */
    REQUIRE(tar.file != NULL);
    CHECK_INT(sl_tar_end(&tar, &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "No space left");
    CHECK(access(path, F_OK) != 0);
}
