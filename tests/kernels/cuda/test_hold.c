/* kernels/cuda/hold.c: a GPU is one stage's, by a file that the system unlocks with the process. */
#include "kernels/cuda/hold.h"
#include "tests/check.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char uuid[] = "GPU-01234567-89ab-cdef-0123-456789abcdef";

/* Another process that takes it, says how that went, and has it until it is killed. */
struct holder {
    pid_t pid;
    int said[2];
    char text[256]; /* the sentence of a refusal; "" */
};

static void other_takes(struct holder *other, bool shared, const char *folder)
{
    struct sl_gpu_hold his;
    struct sl_err err = {0};
    size_t n = 0;
    if (pipe(other->said) != 0 || (other->pid = fork()) < 0)
        abort();
    if (other->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* of a test that is given up nobody is left */
        sl_gpu_hold_take(&his, uuid, shared, folder, &err);
        ssize_t written = write(other->said[1], err.text, strlen(err.text) + 1);
        _exit(written > 0 ? pause() : 1);
    }
    do {
        if (n == sizeof other->text || read(other->said[0], other->text + n, 1) != 1)
            abort();
    } while (other->text[n++]);
}

static void other_ends(struct holder *other)
{
    kill(other->pid, SIGKILL);
    waitpid(other->pid, NULL, 0);
    close(other->said[0]);
    close(other->said[1]);
}

SL_TEST(stages_of_one_process_have_it_together_and_another_process_has_it_when_all_are_done)
{
    struct sl_gpu_hold one, two, third;
    struct sl_err err;
    struct holder other;
    char said[64];
    const char *folder = sl_test_dir();
    REQUIRE(sl_gpu_hold_take(&one, uuid, false, folder, &err) == SL_OK);
    CHECK_INT(sl_gpu_hold_take(&two, uuid, false, folder, &err), SL_OK);
    CHECK_INT(sl_gpu_hold_take(&third, "GPU-other", false, folder, &err), SL_OK);
    sl_gpu_hold_release(&one);
    sl_gpu_hold_release(&one); /* again is nothing */
    sl_gpu_hold_release(&third);
    other_takes(&other, false, folder);
    snprintf(said, sizeof said, "process %ld has the GPU %.20s", (long)getpid(), uuid);
    CHECK_CONTAINS(other.text, said);
    CHECK_CONTAINS(other.text,
                   "one process has one GPU, take another, or start all that are to share it with");
    other_ends(&other);
    sl_gpu_hold_release(&two);
    other_takes(&other, false, folder);
    CHECK_STR(other.text, "");
    other_ends(&other);
}

SL_TEST(who_holds_it_is_named_and_it_is_free_when_he_is_killed)
{
    struct sl_gpu_hold mine;
    struct sl_err err;
    struct holder other;
    const char *folder = sl_test_dir();
    char said[64];
    other_takes(&other, false, folder);
    CHECK_STR(other.text, "");
    CHECK_INT(sl_gpu_hold_take(&mine, uuid, false, folder, &err), SL_E_UNAVAILABLE);
    CHECK_INT(mine.fd, -1);
    snprintf(said, sizeof said, "process %ld has the GPU", (long)other.pid);
    CHECK_CONTAINS(err.text, said);
    other_ends(&other);
    CHECK_INT(sl_gpu_hold_take(&mine, uuid, false, folder, &err), SL_OK);
    sl_gpu_hold_release(&mine);
}

SL_TEST(those_who_share_it_have_it_together_and_who_does_not_has_it_alone)
{
    struct sl_gpu_hold mine;
    struct sl_err err;
    struct holder one, two;
    const char *folder = sl_test_dir();
    other_takes(&one, true, folder);
    other_takes(&two, true, folder);
    CHECK_STR(one.text, "");
    CHECK_STR(two.text, "");
    CHECK_INT(sl_gpu_hold_take(&mine, uuid, false, folder, &err), SL_E_UNAVAILABLE);
    other_ends(&one);
    CHECK_INT(sl_gpu_hold_take(&mine, uuid, false, folder, &err), SL_E_UNAVAILABLE); /* two is there yet */
    CHECK_INT(sl_gpu_hold_take(&mine, uuid, true, folder, &err), SL_OK);
    sl_gpu_hold_release(&mine);
    other_ends(&two);
    other_takes(&one, false, folder);
    CHECK_STR(one.text, "");
    CHECK_INT(sl_gpu_hold_take(&mine, uuid, true, folder, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "has the GPU GPU-01234567-89ab-cdef-0123-456789abcdef for itself");
    other_ends(&one);
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
    CHECK_INT(sl_gpu_hold_take(&hold, uuid, false, folder, &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "which keeps stages apart on a GPU, can't be opened");
    CHECK(access(target, F_OK) != 0);
    REQUIRE(unlink(path) == 0 && mkfifo(path, 0600) == 0);
    CHECK_INT(sl_gpu_hold_take(&hold, uuid, false, folder, &err), SL_E_IO);
    CHECK_INT(hold.fd, -1);
    CHECK_INT(sl_gpu_hold_take(&hold, uuid, false, "/nonexistent", &err), SL_E_IO);
}

SL_TEST(what_is_in_the_file_is_believed_for_no_more_than_a_name)
{
    struct sl_gpu_hold mine;
    struct sl_err err;
    struct holder other;
    char path[512];
    const char *folder = sl_test_dir();
    snprintf(path, sizeof path, "%s/sluice-%s.lock", folder, uuid);
    other_takes(&other, false, folder);
    CHECK_STR(other.text, "");
    FILE *file = fopen(path, "w");
    REQUIRE(file);
    fputs("99999999999999999999999999999999999 and more", file);
    fclose(file);
    CHECK_INT(sl_gpu_hold_take(&mine, uuid, false, folder, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "another process has the GPU");
    other_ends(&other);
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
    sl_status status = sl_gpu_hold_take(&mine, uuid, false, folder, &err);
    umask(before);
    REQUIRE(status == SL_OK);
    for (int held = 1; held >= 0; held--) {
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            struct sl_gpu_hold his;
            sl_status his_status =
                setuid(NOBODY) == 0 ? sl_gpu_hold_take(&his, uuid, false, folder, &err) : SL_E_INTERNAL;
            _exit(his_status == SL_OK ? FREE : strstr(err.text, " has the GPU ") ? HELD : NEITHER);
        }
        int end;
        REQUIRE(waitpid(child, &end, 0) == child && WIFEXITED(end));
        CHECK_INT(WEXITSTATUS(end), held ? HELD : FREE);
        sl_gpu_hold_release(&mine);
    }
}
