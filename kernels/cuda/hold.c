/* A GPU held by a lock on a file (hold.h). The file is never removed: who waits for it and who makes it anew would hold two. */
#include "kernels/cuda/hold.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HELD_MOST = 64 };
static struct { /* by this process; of a place that nobody has, n is 0 */
    int fd;
    unsigned n;
    dev_t dev;
    ino_t ino;
    pid_t pid; /* a fork has what its parent had, and it is not its own */
} held[HELD_MOST];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Others' files can be locked, too, which needs no right to write: in a folder where everybody may make files, whoever came
 * first made this one (and the kernel refuses O_CREAT on it to others). No link is followed. */
static int open_lock(const char *path)
{
    static const int ways[] = {O_RDWR, O_RDONLY, O_RDWR | O_CREAT, O_RDWR, O_RDONLY};
    int fd = -1;
    for (size_t i = 0; fd < 0 && i < sizeof ways / sizeof *ways; i++)
        fd = open(path, ways[i] | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    struct stat s;
    if (fd >= 0 && (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode))) {
        close(fd);
        fd = -1;
        errno = EEXIST;
    }
    if (fd >= 0 && s.st_uid == geteuid()) /* whatever our umask is: who can't read it can't lock it, either */
        (void)fchmod(fd, 0644);
    return fd;
}

/* Who holds it left its number there, of several who share it the last; 0: not to be read. */
static long holder(int fd)
{
    char text[24];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    char *end = NULL;
    long pid = strtol(text, &end, 10);
    return pid > 0 && *end == '\n' ? pid : 0;
}

static void sign(int fd)
{
    char text[24];
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)n, 0) != n)
        (void)ftruncate(
            fd, 0); /* better nobody than half a number; of another's file it fails, and his number is old */
}

/* Notes whose lock this is, or, when the process has it already, takes part in that one. False: it is new. */
static bool is_ours(struct sl_gpu_hold *hold)
{
    struct stat s;
    if (fstat(hold->fd, &s) != 0)
        return false;
    for (int i = 0; i < HELD_MOST; i++)
        if (held[i].n > 0 && held[i].pid == getpid() && held[i].dev == s.st_dev && held[i].ino == s.st_ino) {
            held[i].n++;
            close(hold->fd);
            hold->fd = held[i].fd;
            return true;
        }
    return false;
}

static void note(const struct sl_gpu_hold *hold)
{
    struct stat s;
    for (int i = 0; i < HELD_MOST; i++)
        if (held[i].n == 0 && fstat(hold->fd, &s) == 0) {
            held[i].fd = hold->fd;
            held[i].n = 1;
            held[i].dev = s.st_dev;
            held[i].ino = s.st_ino;
            held[i].pid = getpid();
            return;
        }
}

static sl_status take(struct sl_gpu_hold *hold, const char *uuid, bool shared, const char *folder,
                      struct sl_err *err)
{
    static const char *const places[] = {"/run/lock", "/tmp"};
    char path[512] = "";
    hold->fd = -1;
    for (size_t i = 0; hold->fd < 0 && i < (folder ? 1 : sizeof places / sizeof *places); i++) {
        snprintf(path, sizeof path, "%s/sluice-%s.lock", folder ? folder : places[i], uuid);
        hold->fd = open_lock(path);
    }
    if (hold->fd < 0)
        return sl_fail(err, SL_E_IO, "%.200s, which keeps stages apart on a GPU, can't be opened: %s", path,
                       strerror(errno));
    if (is_ours(hold))
        return SL_OK;
    if (flock(hold->fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) {
        sign(hold->fd);
        note(hold);
        return SL_OK;
    }
    int why = errno;
    long pid = holder(hold->fd);
    close(hold->fd);
    hold->fd = -1;
    if (why != EWOULDBLOCK)
        return sl_fail(err, SL_E_IO, "%.200s can't be locked: %s", path, strerror(why));
    char who[48] = "another process";
    if (pid)
        snprintf(who, sizeof who, "process %ld", pid);
    return sl_fail(
        err, SL_E_UNAVAILABLE,
        "%s has the GPU %s%s: one process has one GPU, take another, or start all that are to share "
        "it with --device cuda:N/shared (%.200s)",
        who, uuid, shared ? " for itself" : "", path);
}

sl_status sl_gpu_hold_take(struct sl_gpu_hold *hold, const char *uuid, bool shared, const char *folder,
                           struct sl_err *err)
{
    pthread_mutex_lock(&mutex);
    sl_status status = take(hold, uuid, shared, folder, err);
    pthread_mutex_unlock(&mutex);
    return status;
}

void sl_gpu_hold_release(struct sl_gpu_hold *hold)
{
    pthread_mutex_lock(&mutex);
    for (int i = 0; hold->fd >= 0 && i < HELD_MOST; i++)
        if (held[i].n > 0 && held[i].fd == hold->fd && --held[i].n == 0)
            close(hold->fd);
    hold->fd = -1;
    pthread_mutex_unlock(&mutex);
}
