/* PATH -> a pack: the path itself, or the cached pack of a checkpoint, made on first use. The cache key is the checkpoint's
 * absolute path together with the size and time of its config and weight files, so a changed checkpoint is packed anew.
 * What the kernels learn about the processor (kernels/tune.h) is kept in the same directory. */
#include "model/pack/pack_cache.h"
#include "base/digest.h"
#include "base/log.h"
#include "kernels/isa.h"
#include "kernels/tune.h"
#include "model/pack/pack.h"
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static sl_status cache_dir(char *out, size_t room, struct sl_err *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n;
    if (cache && cache[0] == '/')
        n = snprintf(out, room, "%s/sluice", cache);
    else if (home && home[0] == '/')
        n = snprintf(out, room, "%s/.cache/sluice", home);
    else
        n = snprintf(out, room, "/tmp/sluice-cache");
    if (n < 0 || (size_t)n >= room)
        return sl_fail(err, SL_E_CONFIG,
                       "the cache directory's path is too long; set XDG_CACHE_HOME to a shorter one");
    for (char *p = out + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        mkdir(out, 0777);
        *p = '/';
    }
    if (mkdir(out, 0777) != 0 && errno != EEXIST)
        return sl_fail(err, SL_E_IO,
                       "cannot make the cache directory %s: %s; set XDG_CACHE_HOME to a writable one", out,
                       strerror(errno));
    return SL_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names, sizes and times of everything in the checkpoint directory, in order of name. */
static sl_status checkpoint_key(const char *dir, char hex[65], struct sl_err *err)
{
    char *names[4096];
    size_t n = 0;
    DIR *d = opendir(dir);
    if (!d)
        return sl_fail(err, SL_E_USAGE, "cannot open %s: %s; give a pack or a checkpoint directory", dir,
                       strerror(errno));
    for (struct dirent *e; (e = readdir(d)) && n < sizeof names / sizeof *names;)
        if (e->d_name[0] != '.' && (names[n] = strdup(e->d_name)))
            n++;
    closedir(d);
    qsort(names, n, sizeof *names, by_name);
    struct sl_sha256 *sha = sl_sha256_begin();
    if (sha)
        sl_sha256_add(sha, dir, strlen(dir) + 1);
    for (size_t i = 0; i < n; i++) {
        char path[PATH_MAX];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (sha && stat(path, &st) == 0) {
            int64_t facts[3] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
            sl_sha256_add(sha, names[i], strlen(names[i]) + 1);
            sl_sha256_add(sha, facts, sizeof facts);
        }
        free(names[i]);
    }
    if (!sha)
        return sl_fail(err, SL_E_NOMEM, "out of memory");
    sl_sha256_end(sha, hex);
    return SL_OK;
}

sl_status sl_pack_ensure(const char *path, char **pack_path, struct sl_err *err)
{
    char real[PATH_MAX], dir[PATH_MAX - 128], hex[65], pack[PATH_MAX];
    if (!realpath(path, real))
        return sl_fail(err, SL_E_USAGE, "cannot open %s: %s; give a pack or a checkpoint directory", path,
                       strerror(errno));
    const char *found = real;
    if (!sl_pack_is_pack(real)) {
        SL_TRY(cache_dir(dir, sizeof dir, err));
        SL_TRY(checkpoint_key(real, hex, err));
        const char *base = strrchr(real, '/');
        snprintf(pack, sizeof pack, "%s/%.64s-%.16s.pack", dir, base ? base + 1 : real, hex);
        found = pack;
        if (!sl_pack_is_pack(pack)) {
            sl_log_info("packing %s into %s", real, pack);
            sl_status status = sl_pack_write(real, pack, &(struct sl_pack_options){.progress = true}, err);
            if (status != SL_OK && !sl_pack_is_pack(pack)) /* another process may have been quicker */
                return status;
        }
    }
    *pack_path = strdup(found);
    return *pack_path ? SL_OK : sl_fail(err, SL_E_NOMEM, "out of memory");
}

sl_status sl_pack_open_any(struct sl_pack **pack, const char *path, struct sl_err *err)
{
    char *pack_path;
    SL_TRY(sl_pack_ensure(path, &pack_path, err));
    sl_status status = sl_pack_open(pack, pack_path, err);
    free(pack_path);
    return status;
}

sl_status sl_pack_tokenizer(const struct sl_pack *pack, struct sl_tokenizer **tokenizer, struct sl_err *err)
{
    char *text;
    size_t bytes;
    sl_status status = sl_pack_read(pack, "tokenizer.json", &text, &bytes, err);
    if (status == SL_E_NOT_FOUND)
        return sl_tokenizer_none(tokenizer, err);
    if (status == SL_OK) {
        status = sl_tokenizer_parse(tokenizer, text, bytes, err);
        if (status != SL_OK)
            sl_err_prefix(err, "%.200s/tokenizer.json", sl_pack_path(pack));
    }
    free(text);
    return status;
}

void sl_tune_for(const struct sl_pack *pack, enum sl_profile profile)
{
    static atomic_flag begun = ATOMIC_FLAG_INIT; /* stages may be threads of one process */
    const struct sl_ops *ops;
    struct sl_tune tune;
    struct sl_err err;
    char dir[4096];
    bool saved;
    if (sl_pack_kv_dtype(pack, "auto") != SL_I8) /* no integer experts: nothing to choose */
        return;
    if (atomic_flag_test_and_set(&begun)) /* who comes second need not wait: the choice changes no bit */
        return;
    if (sl_ops_select_profile(&ops, profile, &err) == SL_OK && cache_dir(dir, sizeof dir, &err) == SL_OK &&
        sl_tune_ensure(&tune, ops, dir, &saved, &err) == SL_OK)
        sl_tune_set(&tune);
    else
        sl_log_warn("the kernels stay untuned: %s", err.text);
}
