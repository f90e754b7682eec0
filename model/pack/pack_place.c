/* The place of pack_place.h: flock(2) on the directory itself, which the system lets go with the process. */
#include "model/pack/pack_place.h"
#include "model/pack/pack_impl.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

void sl_place_remove(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));)
        unlinkat(dirfd(dir), entry->d_name, 0); /* "." and ".." refuse */
    closedir(dir);
    rmdir(path);
}

/* -1: it is not there, or somebody has the lock and `how` says not to wait. */
static int lock_dir(const char *path, int how)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (flock(fd, how) == 0)
        return fd;
    close(fd);
    return -1;
}

static bool is_still(const char *path, int fd)
{
    struct stat here, there;
    return fstat(fd, &here) == 0 && stat(path, &there) == 0 && here.st_ino == there.st_ino &&
           here.st_dev == there.st_dev;
}

/* Between making it and locking it, a sweep of another packer may take it for one that was left: then again. */
sl_status sl_place_make(const char *tmp, int *lock, struct sl_err *err)
{
    enum { TRIES = 100 };
    for (int i = 0; i < TRIES; i++) {
        if (mkdir(tmp, 0755) != 0)
            return sl_fail(err, SL_E_IO, "can't create %.200s: %s", tmp, strerror(errno));
        *lock = lock_dir(tmp, LOCK_EX);
        if (*lock >= 0 && is_still(tmp, *lock))
            return SL_OK;
        if (*lock >= 0)
            close(*lock);
        *lock = -1;
    }
    return sl_fail(err, SL_E_IO, "%.200s is removed again and again by others; choose another place", tmp);
}

/* ---- sweeping ---- */

/* "BASE.tmp-123"; without a base, any "X.pack.tmp-123". */
static bool is_left_name(const char *name, const char *base)
{
    const char *at = strstr(name, ".tmp-");
    if (!at || !isdigit((unsigned char)at[5]) || at[5 + strspn(at + 5, "0123456789")] != '\0')
        return false;
    size_t n = (size_t)(at - name);
    if (base)
        return n == strlen(base) && strncmp(name, base, n) == 0;
    return n > 5 && strncmp(at - 5, ".pack", 5) == 0;
}

static bool is_pack_name(const char *name)
{
    static const char *const ends[] = {".json", ".jinja", ".safetensors", ".xxh3"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(name), m = strlen(ends[i]);
        if (n > m && strcmp(name + n - m, ends[i]) == 0)
            return true;
    }
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static bool holds_a_pack(const char *path)
{
    DIR *dir = opendir(path);
    bool all = dir != NULL;
    for (struct dirent *e; all && (e = readdir(dir));)
        all = is_pack_name(e->d_name);
    if (dir)
        closedir(dir);
    return all;
}

static bool sweep_one(const char *parent, const char *name)
{
    char *path = sl_path_join(parent, name);
    int lock = path ? lock_dir(path, LOCK_EX | LOCK_NB) : -1;
    bool ours = lock >= 0 && is_still(path, lock) && holds_a_pack(path);
    if (ours)
        sl_place_remove(path);
    if (lock >= 0)
        close(lock);
    free(path);
    return ours;
}

uint32_t sl_place_sweep(const char *parent, const char *base)
{
    uint32_t n = 0;
    DIR *dir = opendir(parent);
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += is_left_name(e->d_name, base) && sweep_one(parent, e->d_name);
    if (dir)
        closedir(dir);
    return n;
}
