/* Opening and verifying a pack (pack.h).
 *
 * Opening reads pack.json as untrusted input, compares every listed file's size, and digests the
 * small ones (configuration, tokenizer, digests of blocks): what decides shapes and ids is verified before it is used, and
 * whoever reads one of them gets the bytes that were digested (sl_pack_read). The weights are verified by sl_weights_open. */
#include "base/digest.h"
#include "model/pack/pack_impl.h"
#include "model/pack/pack_plan_impl.h"
#include <dirent.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

struct sl_pack {
    char *path;
    char *name; /* NULL: the last part of the path */
    struct sl_shape shape;
    struct sl_manifest manifest;
    uint64_t *digests; /* of all blocks; NULL: packed by a version that made none */
};

bool sl_pack_is_pack(const char *path)
{
    struct stat st;
    char *manifest = sl_path_join(path, "pack.json");
    bool is = manifest && stat(manifest, &st) == 0 && S_ISREG(st.st_mode);
    free(manifest);
    return is;
}

bool sl_pack_is_half(const char *path)
{
    if (sl_pack_is_pack(path))
        return false;
    bool is = false;
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && !is && (e = readdir(dir));)
        is = fnmatch("layer-[0-9][0-9][0-9][0-9].safetensors", e->d_name, 0) == 0;
    if (dir)
        closedir(dir);
    return is;
}

static sl_status check_size(const struct sl_pack *pack, const struct sl_pack_file *file, struct sl_err *err)
{
    struct stat st;
    char *path = sl_path_join(pack->path, file->name);
    if (!path)
        return sl_fail(err, SL_E_NOMEM, "no memory to open %.200s", pack->path);
    bool is = stat(path, &st) == 0 && S_ISREG(st.st_mode);
    free(path);
    if (!is)
        return sl_fail(err, SL_E_DATA, "%.160s: %.60s is missing; pack the checkpoint again", pack->path,
                       file->name);
    if ((uint64_t)st.st_size != file->bytes)
        return sl_fail(
            err, SL_E_DATA, "%.140s: %.60s has %llu bytes, pack.json says %llu; pack the checkpoint again",
            pack->path, file->name, (unsigned long long)st.st_size, (unsigned long long)file->bytes);
    return SL_OK;
}

static sl_status damaged(const struct sl_pack *pack, const struct sl_pack_file *file, struct sl_err *err)
{
    return sl_fail(
        err, SL_E_DATA,
        "%.140s: %.60s has other bytes than when it was packed (SHA-256 differs); fetch it again, or pack the "
        "checkpoint again",
        pack->path, file->name);
}

static sl_status read_file(const struct sl_pack *pack, const struct sl_pack_file *file, char **text,
                           size_t *bytes, struct sl_err *err)
{
    char hex[65];
    *text = NULL;
    SL_TRY(check_size(pack, file, err));
    char *path = sl_path_join(pack->path, file->name);
    if (!path)
        return sl_fail(err, SL_E_NOMEM, "no memory to open %.200s", pack->path);
    sl_status status = sl_file_read(text, bytes, path, SL_PACK_MAX_TEXT, err);
    free(path);
    SL_TRY(status);
    struct sl_sha256 *sha = sl_sha256_begin();
    if (sha) {
        sl_sha256_add(sha, *text, *bytes);
        sl_sha256_end(sha, hex);
    }
    if (sha && strcmp(hex, file->sha256) == 0)
        return SL_OK;
    free(*text);
    *text = NULL;
    return sha ? damaged(pack, file, err) : sl_fail(err, SL_E_NOMEM, "no memory to verify %.60s", file->name);
}

sl_status sl_pack_read(const struct sl_pack *pack, const char *name, char **text, size_t *bytes,
                       struct sl_err *err)
{
    const struct sl_pack_file *file = sl_manifest_find(&pack->manifest, name);
    *text = NULL;
    *bytes = 0;
    if (!file || sl_pack_is_weights(file))
        return sl_fail(err, SL_E_NOT_FOUND, "%.200s has no %.60s", pack->path, name);
    return read_file(pack, file, text, bytes, err);
}

const char *sl_pack_sha256(const struct sl_pack *pack, const char *name)
{
    const struct sl_pack_file *file = sl_manifest_find(&pack->manifest, name);
    return file ? file->sha256 : NULL;
}

static sl_status read_manifest(struct sl_pack *pack, struct sl_err *err)
{
    char *text;
    size_t bytes;
    char *path = sl_path_join(pack->path, "pack.json");
    if (!path)
        return sl_fail(err, SL_E_NOMEM, "no memory to open %.200s", pack->path);
    sl_status status = sl_file_read(&text, &bytes, path, SL_PACK_MAX_MANIFEST, err);
    if (status == SL_OK) {
        status = sl_manifest_parse(&pack->manifest, text, bytes, err);
        if (status != SL_OK)
            sl_err_prefix(err, "%.160s", pack->path);
    }
    free(text);
    free(path);
    return status;
}

/* Every file is there with its size, and what is not weights is as it was packed. */
static sl_status check_files(struct sl_pack *pack, struct sl_err *err)
{
    const struct sl_manifest *m = &pack->manifest;
    for (uint32_t i = 0; i < m->n_files; i++) {
        char *text;
        size_t bytes;
        if (sl_pack_is_weights(&m->files[i])) {
            SL_TRY(check_size(pack, &m->files[i], err));
            continue;
        }
        SL_TRY(read_file(pack, &m->files[i], &text, &bytes, err));
        sl_status status = SL_OK;
        if (strcmp(m->files[i].name, SL_PACK_DIGESTS) == 0) {
            status = sl_digests_parse(&pack->digests, m, (const uint8_t *)text, bytes, err);
            if (status != SL_OK)
                sl_err_prefix(err, "%.160s", pack->path);
        }
        free(text);
        SL_TRY(status);
    }
    return SL_OK;
}

/* From the bytes that were digested, not from a second look at the files. */
static sl_status read_shape(struct sl_pack *pack, struct sl_err *err)
{
    char *config, *generation = NULL;
    size_t config_bytes, generation_bytes = 0;
    SL_TRY(sl_pack_read(pack, "config.json", &config, &config_bytes, err));
    sl_status status = sl_pack_read(pack, "generation_config.json", &generation, &generation_bytes, NULL);
    if (status == SL_OK || status == SL_E_NOT_FOUND)
        status = sl_shape_parse(&pack->shape, config, config_bytes, generation, generation_bytes, err);
    else
        sl_fail(err, status, "generation_config.json changed while it was read; pack the checkpoint again");
    if (status != SL_OK)
        sl_err_prefix(err, "%.120s", pack->path);
    free(config);
    free(generation);
    return status;
}

static sl_status open_pack(struct sl_pack *pack, struct sl_err *err)
{
    const struct sl_manifest *m = &pack->manifest;
    SL_TRY(read_manifest(pack, err));
    if (!sl_manifest_find(m, "config.json"))
        return sl_fail(err, SL_E_DATA, "%.200s: pack.json lists no config.json; pack the checkpoint again",
                       pack->path);
    SL_TRY(check_files(pack, err));
    SL_TRY(read_shape(pack, err));
    if (pack->shape.n_layers != m->n_layers)
        return sl_fail(err, SL_E_DATA,
                       "%.160s: pack.json lists %u layers, config.json says %u; pack the checkpoint again",
                       pack->path, m->n_layers, pack->shape.n_layers);
    return SL_OK;
}

sl_status sl_pack_open(struct sl_pack **pack, const char *path, struct sl_err *err)
{
    *pack = NULL;
    struct sl_pack *p = calloc(1, sizeof *p);
    if (p)
        p->path = strdup(path);
    sl_status status =
        p && p->path ? open_pack(p, err) : sl_fail(err, SL_E_NOMEM, "no memory to open %.200s", path);
    if (status != SL_OK)
        sl_pack_close(p);
    else
        *pack = p;
    return status;
}

/* The files as an exact pack would have them: each has its data behind the header, which is padded to whole pages. */
static void foresee_files(struct sl_manifest *m, const struct sl_pack_plan *plan, uint32_t n_layers)
{
    m->version = SL_PACK_FORMAT;
    m->n_files = plan->n_files;
    m->n_layers = n_layers;
    m->head = 1 + n_layers;
    for (uint32_t i = 0; i < n_layers; i++)
        m->layers[i] = 1 + i;
    for (uint32_t i = 0; i < plan->n_files; i++) {
        snprintf(m->files[i].name, sizeof m->files[i].name, "%s", plan->files[i].name);
        m->files[i].bytes = sl_layout_data_bytes(&plan->files[i].layout) + SL_PACK_PAGE;
    }
}

static sl_status foresee(struct sl_pack *pack, struct sl_index *index, struct sl_pack_plan *plan,
                         struct sl_err *err)
{
    static const struct sl_formats exact = {0};
    struct sl_progress quiet = {0};
    SL_TRY(sl_shape_load(&pack->shape, pack->path, err));
    SL_TRY(sl_index_open_dir(index, pack->path, err));
    SL_TRY(sl_pack_plan_make(plan, &pack->shape, &exact, index, &quiet, err));
    foresee_files(&pack->manifest, plan, pack->shape.n_layers);
    pack->manifest.formats = sl_pack_plan_formats(plan);
    return pack->manifest.formats ? SL_OK : sl_fail(err, SL_E_NOMEM, "no memory to plan %.200s", pack->path);
}

sl_status sl_pack_foresee(struct sl_pack **out, const char *src, struct sl_err *err)
{
    struct sl_index index = {0};
    struct sl_pack_plan plan = {0};
    struct sl_pack *pack = calloc(1, sizeof *pack);
    *out = NULL;
    if (!pack || !(pack->path = strdup(src))) {
        sl_pack_close(pack);
        return sl_fail(err, SL_E_NOMEM, "no memory to plan %.200s", src);
    }
    sl_status status = foresee(pack, &index, &plan, err);
    sl_pack_plan_free(&plan);
    sl_index_close(&index);
    if (status == SL_OK)
        *out = pack;
    else
        sl_pack_close(pack);
    return status;
}

void sl_pack_close(struct sl_pack *pack)
{
    if (!pack)
        return;
    sl_manifest_fini(&pack->manifest);
    free(pack->digests);
    free(pack->path);
    free(pack->name);
    free(pack);
}

const struct sl_shape *sl_pack_shape(const struct sl_pack *pack)
{
    return &pack->shape;
}

const char *sl_pack_path(const struct sl_pack *pack)
{
    return pack->path;
}

sl_status sl_pack_set_name(struct sl_pack *pack, const char *name, struct sl_err *err)
{
    pack->name = strdup(name);
    return pack->name ? SL_OK : sl_fail(err, SL_E_NOMEM, "no memory to open %.200s", pack->path);
}

const char *sl_pack_name(const struct sl_pack *pack)
{
    const char *slash = strrchr(pack->path, '/');
    return pack->name ? pack->name : slash && slash[1] ? slash + 1 : pack->path;
}

const char *sl_pack_digest(const struct sl_pack *pack)
{
    return pack->manifest.digest;
}

const struct sl_manifest *sl_pack_manifest(const struct sl_pack *pack)
{
    return &pack->manifest;
}

const uint64_t *sl_pack_digests_of(const struct sl_pack *pack, uint32_t file)
{
    return pack->digests ? pack->digests + sl_manifest_blocks(&pack->manifest, file) : NULL;
}

bool sl_pack_has_digests(const struct sl_pack *pack)
{
    return pack->digests != NULL;
}

/* The layers whose format differs, run by run: ", layers 0-1 i8, layer 7 bf16". */
static void print_exceptions(const struct sl_pack *pack, enum sl_class class_, char *text, size_t room)
{
    char key[64];
    size_t used = strlen(text);
    for (uint32_t first = 0, end; first < pack->manifest.n_layers; first = end) {
        const char *format = NULL;
        for (end = first; end < pack->manifest.n_layers; end++) {
            snprintf(key, sizeof key, "%s@%u", sl_class_name(class_), end);
            const char *next = json_string_value(json_object_get(pack->manifest.formats, key));
            if (end > first && (!next || !format || strcmp(next, format) != 0))
                break;
            format = next;
        }
        if (!format || used + 40 > room)
            continue;
        if (end - first > 1)
            used += (size_t)snprintf(text + used, room - used, ", layers %u-%u %s", first, end - 1, format);
        else
            used += (size_t)snprintf(text + used, room - used, ", layer %u %s", first, format);
    }
}

void sl_pack_class_format(const struct sl_pack *pack, enum sl_class class_, char *text, size_t room)
{
    bool expert = class_ == SL_CLASS_GATE_UP || class_ == SL_CLASS_DOWN;
    const json_t *formats = pack->manifest.formats, *format = json_object_get(formats, sl_class_name(class_));
    if (!format && expert && pack->manifest.version == SL_PACK_FORMAT_OLDEST)
        format = json_object_get(formats, "experts");
    snprintf(text, room, "%s", format ? json_string_value(format) : "");
    if (format)
        print_exceptions(pack, class_, text, room);
}

enum sl_dtype sl_pack_kv_dtype(const struct sl_pack *pack, const char *kv)
{
    char text[200];
    if (strcmp(kv, "auto") != 0)
        return sl_dtype_named(kv);
    sl_pack_class_format(pack, pack->shape.n_experts ? SL_CLASS_GATE_UP : SL_CLASS_DENSE, text, sizeof text);
    return text[0] == 'i' ? SL_I8 : SL_BF16;
}

uint64_t sl_pack_layer_bytes(const struct sl_pack *pack, uint32_t layer)
{
    return layer < pack->manifest.n_layers ? pack->manifest.files[pack->manifest.layers[layer]].bytes : 0;
}

uint64_t sl_pack_embed_bytes(const struct sl_pack *pack)
{
    return pack->manifest.files[pack->manifest.embed].bytes;
}

uint64_t sl_pack_head_bytes(const struct sl_pack *pack)
{
    return pack->manifest.files[pack->manifest.head].bytes;
}
