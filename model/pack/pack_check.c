/* `sluice check`: whether a pack would be served, and block digests for one that was packed without (pack.h). */
#include "base/digest.h"
#include "model/pack/pack_cache.h"
#include "model/pack/weights_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* What serving would load, all of it: shape and recommended sampling were read when the pack was opened, here are its tokenizer
 * and its weights. All layers are mapped at once: that costs addresses, not memory. */
static sl_status open_all(struct sl_weights *weights, const struct sl_pack *pack,
                          const struct sl_loading *how, struct sl_err *err)
{
    struct sl_tokenizer *tokenizer;
    SL_TRY(sl_pack_tokenizer(pack, &tokenizer, err));
    sl_tokenizer_destroy(tokenizer);
    return sl_weights_open(weights, pack, 0, sl_pack_shape(pack)->n_layers, true, true, how, err);
}

sl_status sl_pack_verify(const struct sl_pack *pack, const struct sl_loading *how, struct sl_err *err)
{
    struct sl_weights weights;
    struct sl_loading full = how ? *how : (struct sl_loading){0};
    full.verify = SL_VERIFY_FULL;
    SL_TRY(open_all(&weights, pack, &full, err));
    sl_weights_close(&weights);
    return SL_OK;
}

/* ---- check --add ---- */

/* Beside its place, synced, renamed: a reader sees the old bytes or the new ones. */
static sl_status replace(const char *dir, const char *name, const char *text, size_t bytes,
                         struct sl_pack_file *file, struct sl_err *err)
{
    char *path = sl_path_join(dir, name), *tmp = NULL;
    struct sl_out out = {.fd = -1};
    struct sl_progress silent = {0};
    if (!path || asprintf(&tmp, "%s.tmp-%ld", path, (long)getpid()) < 0) {
        free(path);
        return sl_fail(err, SL_E_NOMEM, "no memory to write %.60s", name);
    }
    sl_status status = sl_out_open(&out, tmp, bytes, &silent, err);
    if (status == SL_OK)
        status = sl_out_write(&out, text, bytes, err);
    if (status == SL_OK)
        status = sl_out_finish(&out, file, err);
    sl_out_abandon(&out);
    if (status == SL_OK && rename(tmp, path) != 0)
        status = sl_fail(err, SL_E_IO, "can't rename %.150s to %.60s: %s", tmp, name, strerror(errno));
    if (status != SL_OK)
        unlink(tmp);
    free(tmp);
    free(path);
    return status;
}

/* In the order of the manifest; the files were mapped in the order of layers. */
static sl_status gather(const struct sl_pack *pack, const struct sl_weights *weights, uint64_t **digests,
                        uint64_t *n, struct sl_err *err)
{
    const struct sl_manifest *m = sl_pack_manifest(pack);
    const struct sl_weights_files *maps = weights->private_maps;
    *n = sl_manifest_blocks(m, m->n_files);
    *digests = calloc(*n + 1, sizeof **digests);
    if (!*digests)
        return sl_fail(err, SL_E_NOMEM, "no memory for the digests of %llu blocks", (unsigned long long)*n);
    uint64_t found = 0;
    for (uint32_t i = 0; i < maps->n; i++) {
        const struct sl_weights_file *f = &maps->files[i];
        uint64_t blocks = sl_blocks_of(f->file->bytes);
        memcpy(*digests + sl_manifest_blocks(m, (uint32_t)(f->file - m->files)), f->digests,
               blocks * sizeof **digests);
        found += blocks;
    }
    return found == *n
               ? SL_OK
               : sl_fail(err, SL_E_DATA,
                         "%.160s: pack.json lists weights files that no layer has, or one for two; pack the "
                         "checkpoint again",
                         sl_pack_path(pack));
}

static sl_status write_both(const struct sl_pack *pack, const uint64_t *digests, uint64_t n,
                            struct sl_err *err)
{
    struct sl_manifest *m = malloc(sizeof *m);
    char *text = NULL, *manifest = NULL;
    size_t bytes;
    if (!m)
        return sl_fail(err, SL_E_NOMEM, "no memory to write pack.json");
    *m = *sl_pack_manifest(pack);
    struct sl_pack_file *file = &m->files[m->n_files], itself;
    sl_status status = m->n_files < SL_PACK_MAX_FILES
                           ? sl_digests_print(digests, n, &text, &bytes, err)
                           : sl_fail(err, SL_E_DATA, "pack.json has no room for a file more");
    if (status == SL_OK) {
        *file = (struct sl_pack_file){.name = SL_PACK_DIGESTS};
        status = replace(sl_pack_path(pack), SL_PACK_DIGESTS, text, bytes, file, err);
    }
    m->n_files++;
    if (status == SL_OK)
        status = sl_manifest_print(m, &manifest, err);
    if (status == SL_OK) /* last: until then the pack is what it was, with a file that nobody lists */
        status = replace(sl_pack_path(pack), "pack.json", manifest, strlen(manifest), &itself, err);
    free(manifest);
    free(text);
    free(m); /* its formats are the pack's */
    return status;
}

sl_status sl_pack_add_digests(const struct sl_pack *pack, const struct sl_loading *how, struct sl_err *err)
{
    struct sl_weights weights;
    uint64_t *digests = NULL, n;
    struct sl_loading full = how ? *how : (struct sl_loading){0};
    full.verify = SL_VERIFY_FULL; /* what is given digests is what was packed */
    SL_TRY(open_all(&weights, pack, &full, err));
    sl_status status = gather(pack, &weights, &digests, &n, err);
    if (status == SL_OK)
        status = write_both(pack, digests, n, err);
    free(digests);
    sl_weights_close(&weights);
    return status;
}
