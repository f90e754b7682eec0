/* `sluice cache`: the packs that were made on first use, listed or removed (model/pack/cache_store.h). */
#include "model/pack/cache_store.h"
#include "node/client/output.h"
#include "node/command/commands.h"
#include "node/command/shared_options.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

struct cache_values {
    bool json;
};

static const struct sl_option cache_options[] = {SL_OPTION_JSON(cache_values, json), {0}};

struct listing {
    bool json;
    uint32_t n;
    uint64_t bytes;
};

static void list_json(const struct listing *l, const struct sl_cached *cached)
{
    printf("%s\n  {\"path\": ", l->n ? "," : "");
    sl_json_string(stdout, cached->path, strlen(cached->path));
    fputs(", \"from\": ", stdout);
    if (cached->from[0])
        sl_json_string(stdout, cached->from, strlen(cached->from));
    else
        fputs("null", stdout);
    printf(", \"bytes\": %" PRIu64 ", \"whole\": %s}", cached->bytes, cached->whole ? "true" : "false");
}

static void list_one(void *user, const struct sl_cached *cached)
{
    struct listing *l = user;
    bool gone = cached->from[0] && access(cached->from, F_OK) != 0;
    if (l->json)
        list_json(l, cached);
    else
        printf("%10.1f MiB  %s\n                %s%s%s\n", (double)cached->bytes / 1048576, cached->path,
               !cached->whole    ? "being packed, or left by a packer that was killed"
               : cached->from[0] ? "from "
                                 : "made by an older version",
               cached->whole ? cached->from : "", gone ? " (which is gone)" : "");
    l->n++;
    l->bytes += cached->bytes;
}

static sl_status list(bool json, struct sl_err *err)
{
    struct listing l = {.json = json};
    if (json)
        fputs("{\"packs\": [", stdout);
    SL_TRY(sl_cache_each(list_one, &l, err));
    if (json)
        printf("],\n \"bytes\": %" PRIu64 "}\n", l.bytes);
    else
        printf("%10.1f MiB  in %u packs\n", (double)l.bytes / 1048576, l.n);
    return SL_OK;
}

static sl_status clear(bool json, struct sl_err *err)
{
    uint32_t n;
    uint64_t bytes;
    SL_TRY(sl_cache_clear(&n, &bytes, err));
    printf(json ? "{\"removed\": %u, \"bytes\": %" PRIu64 "}\n" : "%u packs removed, %" PRIu64 " bytes\n", n,
           bytes);
    return SL_OK;
}

static int run_cache(const void *values, const char *const *args, uint32_t n_args)
{
    const struct cache_values *v = values;
    struct sl_err err = {0};
    sl_status status = SL_OK;
    if (n_args == 0 || strcmp(args[0], "list") == 0)
        status = list(v->json, &err);
    else if (strcmp(args[0], "clear") == 0)
        status = clear(v->json, &err);
    else
        status = sl_fail(&err, SL_E_USAGE,
                         "'%.40s' is nothing that can be done with the cache; say list or clear", args[0]);
    return status == SL_OK ? 0 : sl_command_failed("cache", &err);
}

const struct sl_command sl_command_cache = {
    "cache",
    "[list|clear]",
    "the packs that were made on first use",
    "A checkpoint that is served without having been packed is packed into the cache ($XDG_CACHE_HOME/sluice, or "
    "~/.cache/sluice), anew when its configuration, tokenizer or weights change, which replaces the pack before. list says "
    "what is there, of which checkpoint; clear removes all of it, and what chunks were measured to cost: who serves one of them goes on with the files that it has "
    "open.",
    cache_options,
    sizeof(struct cache_values),
    0,
    1,
    run_cache,
};
