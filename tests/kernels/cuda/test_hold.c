/* kernels/cuda/hold.c: a GPU is one stage's, by a file that the system unlocks with the process. */
#include "kernels/cuda/hold.h"
#include "tests/check.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char uuid[] = "GPU-01234567-89ab-cdef-0123-456789abcdef";

SL_TEST(a_second_stage_of_this_process_does_not_get_it_and_another_gpu_it_does)
{
    struct sl_gpu_hold one, two, other;
    struct sl_err err;
    const char *folder = sl_test_dir();
    REQUIRE(sl_gpu_hold_take(&one, uuid, folder, &err) == SL_OK);
    CHECK_INT(sl_gpu_hold_take(&two, uuid, folder, &err), SL_E_EXISTS);
    CHECK_INT(two.fd, -1);
    CHECK_CONTAINS(
        err.text,
        "another stage of this process has the GPU GPU-01234567-89ab-cdef-0123-456789abcdef: one stage");
    CHECK_INT(sl_gpu_hold_take(&other, "GPU-other", folder, &err), SL_OK);
    sl_gpu_hold_release(&other);
    sl_gpu_hold_release(&one);
    sl_gpu_hold_release(&one); /* again is nothing */
    CHECK_INT(sl_gpu_hold_take(&two, uuid, folder, &err), SL_OK);
    sl_gpu_hold_release(&two);
}

SL_TEST(who_holds_it_is_named_and_it_is_free_when_he_is_killed)
{
    struct sl_gpu_hold mine;
    struct sl_err err;
    const char *folder = sl_test_dir();
    int ready[2];
    char byte = 0, said[64];
    REQUIRE(pipe(ready) == 0);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        struct sl_gpu_hold his;
        byte = sl_gpu_hold_take(&his, uuid, folder, &err) == SL_OK ? 'y' : 'n';
        _exit(write(ready[1], &byte, 1) == 1 ? pause() : 1);
    }
    REQUIRE(read(ready[0], &byte, 1) == 1);
    CHECK_INT(byte, 'y');
    CHECK_INT(sl_gpu_hold_take(&mine, uuid, folder, &err), SL_E_EXISTS);
    snprintf(said, sizeof said, "process %ld has the GPU", (long)child);
    CHECK_CONTAINS(err.text, said);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK_INT(sl_gpu_hold_take(&mine, uuid, folder, &err), SL_OK);
    sl_gpu_hold_release(&mine);
    close(ready[0]);
    close(ready[1]);
}

SL_TEST(what_is_no_file_of_ours_is_not_followed_or_opened)
{
    struct sl_gpu_hold hold;
    struct sl_err err;
    char path[512], target[512];
    const char *folder = sl_test_dir();
    snprintf(path, sizeof path, "%s/sluice-%s.lock", folder, uuid);
    snprintf(target, sizeof target, "%s/target", folder);
    REQUIRE(symlink(target, path) == 0);
    CHECK_INT(sl_gpu_hold_take(&hold, uuid, folder, &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "which keeps stages apart on a GPU, can't be opened");
    CHECK(access(target, F_OK) != 0);
    REQUIRE(unlink(path) == 0 && mkfifo(path, 0600) == 0);
    CHECK_INT(sl_gpu_hold_take(&hold, uuid, folder, &err), SL_E_IO);
    CHECK_INT(hold.fd, -1);
    CHECK_INT(sl_gpu_hold_take(&hold, uuid, "/nonexistent", &err), SL_E_IO);
}

SL_TEST(what_is_in_the_file_is_believed_for_no_more_than_a_name)
{
    struct sl_gpu_hold one, two;
    struct sl_err err;
    char path[512];
    const char *folder = sl_test_dir();
    snprintf(path, sizeof path, "%s/sluice-%s.lock", folder, uuid);
    REQUIRE(sl_gpu_hold_take(&one, uuid, folder, &err) == SL_OK);
    FILE *file = fopen(path, "w");
    REQUIRE(file);
    fputs("99999999999999999999999999999999999 and more", file);
    fclose(file);
    CHECK_INT(sl_gpu_hold_take(&two, uuid, folder, &err), SL_E_EXISTS);
    CHECK_CONTAINS(err.text, "another process has the GPU");
    sl_gpu_hold_release(&one);
}

/* As systemd runs units: each is a user of its own, and files that it makes are nobody else's. */
SL_TEST(another_user_finds_the_lock_whatever_the_umask_was)
{
    enum { HELD = 1, FREE, NEITHER, NOBODY = 65534 };
    struct sl_gpu_hold mine;
    struct sl_err err;
    const char *folder = sl_test_dir();
    if (geteuid() != 0) {
        sl_test_skip("only root becomes another user");
        return;
    }
    REQUIRE(chmod(folder, 01777) == 0);
    mode_t before = umask(077);
    sl_status status = sl_gpu_hold_take(&mine, uuid, folder, &err);
    umask(before);
    REQUIRE(status == SL_OK);
    for (int held = 1; held >= 0; held--) {
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            struct sl_gpu_hold his;
            sl_status his_status =
                setuid(NOBODY) == 0 ? sl_gpu_hold_take(&his, uuid, folder, &err) : SL_E_INTERNAL;
            _exit(his_status == SL_OK ? FREE : strstr(err.text, " has the GPU ") ? HELD : NEITHER);
        }
        int end;
        REQUIRE(waitpid(child, &end, 0) == child && WIFEXITED(end));
        CHECK_INT(WEXITSTATUS(end), held ? HELD : FREE);
        sl_gpu_hold_release(&mine);
    }
}
