/* PATH -> a pack: the path itself, or the cached pack of a checkpoint, made on first use (cache_store.h), and the name that the path
 * gives it. What the kernels learn about the processor (kernels/tune.h) is kept in the same directory. */
#include "model/pack/pack_cache.h"
#include "base/log.h"
#include "kernels/isa.h"
#include "kernels/tune.h"
#include "model/pack/cache_store.h"
#include "model/pack/pack_impl.h"
#include "model/pack/pack_place.h"
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The name that a path gives to what lies there: its last part as it was given, not what links lead to. */
static sl_status name_of(const char *path, const char *real, char **name, struct sl_err *err)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    bool nameless = end == begin || (path[begin] == '.' &&
                                     (end - begin == 1 || (end - begin == 2 && path[begin + 1] == '.')));
    const char *base = strrchr(real, '/');
    *name = nameless ? strdup(base && base[1] ? base + 1 : real) : strndup(path + begin, end - begin);
    return *name ? SL_OK : sl_fail(err, SL_E_NOMEM, "out of memory");
}

/* The cached pack of a checkpoint; made when it is not there. */
static sl_status ensure(const char *real, char *pack, size_t room, struct sl_err *err)
{
    char dir[PATH_MAX];
    SL_TRY(sl_cache_place(real, pack, room, err));
    if (sl_pack_is_pack(pack))
        return SL_OK;
    SL_TRY(sl_cache_dir(dir, sizeof dir, err));
    if (access(dir, W_OK) != 0)
        return sl_fail(err, SL_E_IO,
                       "cannot write into the cache directory %.90s: %s; pack %.90s before, or set "
                       "XDG_CACHE_HOME to a directory that can be written",
                       dir, strerror(errno), real);
    uint32_t left = sl_place_sweep(dir, NULL);
    if (left > 0)
        sl_log_info("removed what %u killed packers had left in %s", left, dir);
    sl_log_info("packing %s into %s", real, pack);
    sl_status status = sl_pack_write(real, pack, &(struct sl_pack_options){.progress = true}, err);
    if (status != SL_OK && !sl_pack_is_pack(pack)) /* another process may have been quicker */
        return status;
    sl_cache_made(pack, real);
    return SL_OK;
}

/* A volume that was not filled, say: nothing is packed before that is said. */
static bool is_empty_handed(const char *dir)
{
    char *config = sl_path_join(dir, "config.json");
    bool none = config && access(config, F_OK) != 0 && errno == ENOENT;
    free(config);
    return none;
}

static sl_status find(const char *path, char *real, char *pack, size_t room, const char **found,
                      struct sl_err *err)
{
    if (!realpath(path, real))
        return sl_fail(err, SL_E_DATA, "cannot open %s: %s; give a pack or a checkpoint directory", path,
                       strerror(errno));
    *found = real;
    if (sl_pack_is_pack(real))
        return SL_OK;
    if (sl_pack_is_half(real))
        return sl_fail(err, SL_E_DATA,
                       "%s has files of a pack and no pack.json, which is written last; copy it again, whole",
                       path);
    if (is_empty_handed(real))
        return sl_fail(err, SL_E_DATA,
                       "%s has neither pack.json nor config.json; give a pack or a checkpoint directory",
                       path);
    *found = pack;
    return ensure(real, pack, room, err);
}

sl_status sl_pack_ensure(const char *path, char **pack_path, struct sl_err *err)
{
    char real[PATH_MAX], pack[PATH_MAX];
    const char *found;
    SL_TRY(find(path, real, pack, sizeof pack, &found, err));
    *pack_path = strdup(found);
    return *pack_path ? SL_OK : sl_fail(err, SL_E_NOMEM, "out of memory");
}

sl_status sl_pack_open_any(struct sl_pack **pack, const char *path, struct sl_err *err)
{
    char real[PATH_MAX], cached[PATH_MAX], *name;
    const char *found;
    *pack = NULL;
    SL_TRY(find(path, real, cached, sizeof cached, &found, err));
    SL_TRY(name_of(path, real, &name, err));
    sl_status status = sl_pack_open(pack, found, err);
    if (status == SL_OK)
        status = sl_pack_set_name(*pack, name, err);
    free(name);
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
    if (sl_ops_select_profile(&ops, profile, &err) == SL_OK && sl_cache_dir(dir, sizeof dir, &err) == SL_OK &&
        sl_tune_ensure(&tune, ops, dir, &saved, &err) == SL_OK)
        sl_tune_set(&tune);
    else
        sl_log_warn("the kernels stay untuned: %s", err.text);
}
