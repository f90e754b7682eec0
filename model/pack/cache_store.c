/* The store of cache_store.h: names say everything, so that nothing has to be kept in step. */
#include "model/pack/cache_store.h"
#include "base/digest.h"
#include "base/log.h"
#include "model/pack/pack_impl.h"
#include "model/pack/pack_place.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_ENTRIES = 4096 };

sl_status sl_cache_dir(char *out, size_t room, struct sl_err *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n;
    if (cache && cache[0] == '/')
        n = snprintf(out, room, "%s/sluice", cache);
    else if (home && home[0] == '/')
        n = snprintf(out, room, "%s/.cache/sluice", strcmp(home, "/") == 0 ? "" : home);
    else
        n = snprintf(out, room, "/tmp/sluice-cache");
    if (n < 0 || (size_t)n >= room)
        return sl_fail(err, SL_E_CONFIG,
                       "the cache directory's path is too long; set XDG_CACHE_HOME to a shorter one");
    int why = 0; /* the first of its directories was not made; the others lack that one, which says nothing */
    for (char *p = out + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        if (mkdir(out, 0777) != 0 && errno != EEXIST && why == 0)
            why = errno;
        *p = '/';
    }
    if (mkdir(out, 0777) != 0 && errno != EEXIST)
        return sl_fail(err, SL_E_IO,
                       "cannot make the cache directory %s: %s; set XDG_CACHE_HOME to a writable one", out,
                       strerror(why ? why : errno));
    return SL_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What sl_pack_write reads; all else in the directory may change as it likes. */
static bool is_packed(const char *name)
{
    static const char *const exact[] = {"config.json",
                                        "generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        "model.safetensors.index.json"};
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++)
        if (strcmp(name, exact[i]) == 0)
            return true;
    return sl_pack_is_weights_name(name);
}

static void add_facts(struct sl_sha256 *sha, const char *dir, const char *name)
{
    struct stat st;
    char *path = sl_path_join(dir, name);
    if (path && stat(path, &st) == 0) {
        int64_t facts[3] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
        sl_sha256_add(sha, name, strlen(name) + 1);
        sl_sha256_add(sha, facts, sizeof facts);
    }
    free(path);
}

/* Names, sizes and times of what is packed, in order of name. */
static sl_status checkpoint_key(const char *dir, char hex[65], struct sl_err *err)
{
    char *names[MAX_ENTRIES];
    size_t n = 0;
    DIR *d = opendir(dir);
    if (!d)
        return sl_fail(err, SL_E_DATA, "cannot open %s: %s; give a pack or a checkpoint directory", dir,
                       strerror(errno));
    for (struct dirent *e; n < MAX_ENTRIES && (e = readdir(d));)
        if (is_packed(e->d_name) && (names[n] = strdup(e->d_name)))
            n++;
    closedir(d);
    qsort(names, n, sizeof *names, by_name);
    struct sl_sha256 *sha = sl_sha256_begin();
    for (size_t i = 0; i < n; i++) {
        if (sha)
            add_facts(sha, dir, names[i]);
        free(names[i]);
    }
    if (!sha)
        return sl_fail(err, SL_E_NOMEM, "out of memory");
    sl_sha256_end(sha, hex);
    return SL_OK;
}

sl_status sl_cache_place(const char *real, char *path, size_t room, struct sl_err *err)
{
    char dir[PATH_MAX], key[65], place[65];
    const char *base = strrchr(real, '/');
    SL_TRY(sl_cache_dir(dir, sizeof dir, err));
    SL_TRY(checkpoint_key(real, key, err));
    struct sl_sha256 *sha = sl_sha256_begin();
    if (!sha)
        return sl_fail(err, SL_E_NOMEM, "out of memory");
    sl_sha256_add(sha, real, strlen(real));
    sl_sha256_end(sha, place);
    if ((size_t)snprintf(path, room, "%s/%.64s-%.12s-%.16s.pack", dir, base ? base + 1 : real, place, key) >=
        room)
        return sl_fail(err, SL_E_CONFIG,
                       "the cache directory's path is too long; set XDG_CACHE_HOME to a shorter one");
    return SL_OK;
}

/* ---- what is there ---- */

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

static uint64_t bytes_of(const char *path)
{
    uint64_t bytes = 0;
    struct stat st;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            bytes += (uint64_t)st.st_size;
    if (dir)
        closedir(dir);
    return bytes;
}

static void read_from(const char *path, char *from, size_t room)
{
    char name[PATH_MAX + 8];
    from[0] = '\0';
    snprintf(name, sizeof name, "%s.from", path);
    FILE *f = fopen(name, "re");
    size_t n = f ? fread(from, 1, room - 1, f) : 0;
    from[n] = '\0';
    if (f)
        fclose(f);
}

static void remove_pack(const char *path)
{
    char name[PATH_MAX + 8];
    snprintf(name, sizeof name, "%s.from", path);
    unlink(name);
    sl_place_remove(path);
}

sl_status sl_cache_each(void (*fn)(void *user, const struct sl_cached *cached), void *user,
                        struct sl_err *err)
{
    char dir[PATH_MAX], path[2 * PATH_MAX], from[PATH_MAX];
    SL_TRY(sl_cache_dir(dir, sizeof dir, err));
    DIR *d = opendir(dir);
    if (!d)
        return sl_fail(err, SL_E_IO, "cannot read the cache directory %s: %s", dir, strerror(errno));
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        bool whole = ends_with(e->d_name, ".pack") && sl_pack_is_pack(path);
        if (!whole && !strstr(e->d_name, ".pack.tmp-"))
            continue;
        read_from(path, from, sizeof from);
        fn(user, &(struct sl_cached){.path = path, .from = from, .bytes = bytes_of(path), .whole = whole});
    }
    closedir(d);
    return SL_OK;
}

struct cleared {
    uint32_t n;
    uint64_t bytes;
};

static void clear_one(void *user, const struct sl_cached *cached)
{
    struct cleared *sum = user;
    if (!cached->whole)
        return;
    remove_pack(cached->path);
    sum->n++;
    sum->bytes += cached->bytes;
}

/* What chunks cost (pipeline/stage/cost_store.h): of packs that are gone nobody asks for it again. */
static void clear_costs(const char *dir)
{
    char path[2 * PATH_MAX];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (strncmp(e->d_name, "cost-", 5) == 0 && ends_with(e->d_name, ".txt"))
            unlink(path);
    }
    if (d)
        closedir(d);
}

sl_status sl_cache_clear(uint32_t *n_packs, uint64_t *bytes, struct sl_err *err)
{
    char dir[PATH_MAX];
    struct cleared sum = {0};
    SL_TRY(sl_cache_each(clear_one, &sum, err));
    SL_TRY(sl_cache_dir(dir, sizeof dir, err));
    sl_place_sweep(dir, NULL);
    clear_costs(dir);
    *n_packs = sum.n;
    *bytes = sum.bytes;
    return SL_OK;
}

/* ---- a new pack ---- */

struct replaced {
    const char *path;
    size_t same; /* bytes of the path that packs of one checkpoint share: all up to the key */
};

static void remove_older(void *user, const struct sl_cached *cached)
{
    const struct replaced *r = user;
    if (!cached->whole || strncmp(cached->path, r->path, r->same) != 0 || strcmp(cached->path, r->path) == 0)
        return;
    sl_log_info("removing %s, the pack of an earlier state of the checkpoint", cached->path);
    remove_pack(cached->path);
}

void sl_cache_made(const char *path, const char *real)
{
    char name[PATH_MAX + 8];
    snprintf(name, sizeof name, "%s.from", path);
    FILE *f = fopen(name, "we");
    if (f) { /* only `sluice cache` misses it */
        fputs(real, f);
        fclose(f);
    }
    struct replaced r = {path, (size_t)(strrchr(path, '-') - path)};
    sl_cache_each(remove_older, &r, NULL);
}
