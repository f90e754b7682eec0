/* pack.json: printing and parsing (pack_impl.h).
 *
 * The manifest is what nodes compare when they join, so its text is canonical: sorted keys, fixed
 * indentation, and a digest over all of it but the digest itself. The parser treats it as
 * untrusted: every name stays in the directory, every number is bounded, and the text must equal
 * what the printer prints for what was understood. Thus no key can be added, and no byte changed,
 * without being noticed. */
#include "base/digest.h"
#include "model/pack/pack_impl.h"
#include <stdio.h>
#include <stdlib.h>

static const char remedy[] = "pack the checkpoint again";

void sl_manifest_fini(struct sl_manifest *manifest)
{
    json_decref(manifest->formats);
    manifest->formats = NULL;
}

const struct sl_pack_file *sl_manifest_find(const struct sl_manifest *manifest, const char *name)
{
    for (uint32_t i = 0; i < manifest->n_files; i++)
        if (strcmp(manifest->files[i].name, name) == 0)
            return &manifest->files[i];
    return NULL;
}

/* ---- printing ---- */

static json_t *file_list(const struct sl_manifest *m)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < m->n_files; i++) {
        json_t *file = json_pack("{s:s, s:I, s:s}", "name", m->files[i].name, "bytes",
                                 (json_int_t)m->files[i].bytes, "sha256", m->files[i].sha256);
        json_array_append_new(list, file);
    }
    return list;
}

static json_t *layer_list(const struct sl_manifest *m)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < m->n_layers; i++)
        json_array_append_new(list, json_string(m->files[m->layers[i]].name));
    return list;
}

/* Everything but the digest. A failed allocation leaves an entry out, which the size check finds.
 */
static json_t *to_json(const struct sl_manifest *m)
{
    json_t *root = json_object();
    json_object_set_new(root, "format", json_string("sluice-pack"));
    json_object_set_new(root, "format_version", json_integer(m->version));
    json_object_set_new(root, "sluice_version", json_string(m->sluice_version));
    json_object_set_new(root, "numerics", json_string("f32"));
    json_object_set(root, "formats", m->formats);
    json_object_set_new(root, "files", file_list(m));
    json_object_set_new(root, "embed", json_string(m->files[m->embed].name));
    json_object_set_new(root, "layers", layer_list(m));
    json_object_set_new(root, "head", json_string(m->files[m->head].name));
    if (json_object_size(root) == 9 && json_array_size(json_object_get(root, "files")) == m->n_files &&
        json_array_size(json_object_get(root, "layers")) == m->n_layers)
        return root;
    json_decref(root);
    return NULL;
}

char *sl_manifest_dump(const json_t *root)
{
    return json_dumps(root, JSON_INDENT(1) | JSON_SORT_KEYS | JSON_ENSURE_ASCII);
}

bool sl_manifest_digest(const char *body, char hex[65])
{
    struct sl_sha256 *sha = sl_sha256_begin();
    if (!sha)
        return false;
    sl_sha256_add(sha, body, strlen(body));
    sl_sha256_end(sha, hex);
    return true;
}

sl_status sl_manifest_print(struct sl_manifest *manifest, char **text, struct sl_err *err)
{
    *text = NULL;
    json_t *root = to_json(manifest);
    char *body = root ? sl_manifest_dump(root) : NULL;
    if (body && sl_manifest_digest(body, manifest->digest) &&
        json_object_set_new(root, "digest", json_string(manifest->digest)) == 0)
        *text = sl_manifest_dump(root);
    free(body);
    json_decref(root);
    return *text ? SL_OK : sl_fail(err, SL_E_NOMEM, "no memory to write pack.json");
}

/* ---- parsing ---- */

static sl_status bad(struct sl_err *err, const char *what)
{
    return sl_fail(err, SL_E_DATA, "pack.json: %s; %s", what, remedy);
}

static bool is_digest(const char *text)
{
    return text && strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

static sl_status parse_file(struct sl_manifest *m, const json_t *entry, struct sl_err *err)
{
    struct sl_pack_file *file = &m->files[m->n_files];
    const char *name = json_string_value(json_object_get(entry, "name"));
    const char *sha = json_string_value(json_object_get(entry, "sha256"));
    const json_t *bytes = json_object_get(entry, "bytes");
    if (!name || !sl_name_is_plain(name) || strlen(name) >= sizeof file->name)
        return bad(err, "a file's name must be a plain file name of less than 64 bytes");
    if (!is_digest(sha))
        return bad(err, "a file's sha256 must be 64 lower-case hex digits");
    if (!json_is_integer(bytes) || json_integer_value(bytes) < 0)
        return bad(err, "a file's bytes must be a non-negative integer");
    if (sl_manifest_find(m, name))
        return bad(err, "a file is listed twice");
    strcpy(file->name, name);
    strcpy(file->sha256, sha);
    file->bytes = (uint64_t)json_integer_value(bytes);
    m->n_files++;
    return SL_OK;
}

static sl_status parse_files(struct sl_manifest *m, const json_t *list, struct sl_err *err)
{
    if (!json_is_array(list) || json_array_size(list) > SL_PACK_MAX_FILES)
        return bad(err, "files must be a list of at most 272");
    for (size_t i = 0; i < json_array_size(list); i++)
        SL_TRY(parse_file(m, json_array_get(list, i), err));
    return SL_OK;
}

static sl_status parse_name(const struct sl_manifest *m, const json_t *value, uint32_t *index,
                            struct sl_err *err)
{
    const char *name = json_string_value(value);
    const struct sl_pack_file *file = name ? sl_manifest_find(m, name) : NULL;
    if (!file)
        return bad(err, "embed, head and every layer must name a listed file");
    *index = (uint32_t)(file - m->files);
    return SL_OK;
}

static sl_status parse_layers(struct sl_manifest *m, const json_t *list, struct sl_err *err)
{
    if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > SL_MAX_LAYERS)
        return bad(err, "layers must be a list of 1 to 256 file names");
    m->n_layers = (uint32_t)json_array_size(list);
    for (uint32_t i = 0; i < m->n_layers; i++)
        SL_TRY(parse_name(m, json_array_get(list, i), &m->layers[i], err));
    return SL_OK;
}

/* "class" or, where layers can differ, "class@LAYER" with the number as printed. */
static bool parse_class(const struct sl_manifest *m, const char *key, enum sl_class *class_)
{
    const char *at = strchr(key, '@');
    if (!sl_class_find(class_, key, at ? (size_t)(at - key) : strlen(key)))
        return false;
    if (!at)
        return true;
    char *end, again[16];
    unsigned long layer = strtoul(at + 1, &end, 10);
    snprintf(again, sizeof again, "%lu", layer);
    return layer < m->n_layers && strcmp(at + 1, again) == 0 && *class_ < SL_CLASS_ROUTER &&
           *class_ != SL_CLASS_HEAD;
}

static sl_status parse_format(const struct sl_manifest *m, const char *key, const json_t *value,
                              struct sl_err *err)
{
    struct sl_format format;
    enum sl_class class_ = SL_CLASSES;
    if (m->version == SL_PACK_FORMAT && !parse_class(m, key, &class_))
        return sl_fail(err, SL_E_DATA,
                       "pack.json: formats has '%.40s', which is no class of weights, nor one of its "
                       "layers; use a newer sluice or %s",
                       key, remedy);
    if (!json_is_string(value) || !sl_format_parse(&format, json_string_value(value)))
        return sl_fail(err, SL_E_DATA,
                       "pack.json: the format of '%.40s' is unknown to this version (known: bf16, "
                       "f32, i8, i4, i4g16, "
                       "i3, i2, with +h2 to +h256); use a newer sluice or %s",
                       key, remedy);
    if (sl_dtype_is_integer(format.dtype) && (class_ >= SL_CLASS_ROUTER || m->version < SL_PACK_FORMAT))
        return sl_fail(err, SL_E_DATA, "pack.json: '%.40s' cannot be %s, only bf16 or f32; %s", key,
                       json_string_value(value), remedy);
    return SL_OK;
}

static sl_status parse_formats(struct sl_manifest *m, json_t *formats, struct sl_err *err)
{
    enum { MAX_FORMATS = SL_CLASSES + SL_CLASS_HEAD * SL_MAX_LAYERS };
    if (!json_is_object(formats) || json_object_size(formats) > MAX_FORMATS)
        return bad(err, "formats must be an object: class -> format");
    const char *key;
    json_t *value;
    json_object_foreach(formats, key, value) SL_TRY(parse_format(m, key, value, err));
    m->formats = json_incref(formats);
    return SL_OK;
}

struct sl_format sl_manifest_format(const struct sl_manifest *manifest, enum sl_class class_, uint32_t layer)
{
    char key[64];
    struct sl_format format = {.dtype = SL_BF16};
    snprintf(key, sizeof key, "%s@%u", sl_class_name(class_), layer);
    const json_t *value = json_object_get(manifest->formats, key);
    if (!value)
        value = json_object_get(manifest->formats, sl_class_name(class_));
    if (value)
        sl_format_parse(&format, json_string_value(value)); /* succeeds: it was checked, or written by us */
    return format;
}

static sl_status parse_versions(struct sl_manifest *m, const json_t *root, struct sl_err *err)
{
    const char *format = json_string_value(json_object_get(root, "format"));
    const json_t *version = json_object_get(root, "format_version");
    const char *numerics = json_string_value(json_object_get(root, "numerics"));
    const char *sluice = json_string_value(json_object_get(root, "sluice_version"));
    if (!format || strcmp(format, "sluice-pack") != 0)
        return bad(err, "format must be 'sluice-pack'");
    if (!json_is_integer(version) || json_integer_value(version) < SL_PACK_FORMAT_OLDEST)
        return bad(err, "format_version must be a number from 1 on");
    if (json_integer_value(version) > SL_PACK_FORMAT)
        return sl_fail(
            err, SL_E_DATA,
            "pack.json: format_version is %lld, and this sluice reads %d to %d; use a newer one, or "
            "pack the checkpoint again",
            (long long)json_integer_value(version), SL_PACK_FORMAT_OLDEST, SL_PACK_FORMAT);
    m->version = (uint32_t)json_integer_value(version);
    if (!numerics || strcmp(numerics, "f32") != 0)
        return bad(err, "numerics must be 'f32', the only profile that this sluice has");
    if (!sluice || strlen(sluice) >= sizeof m->sluice_version)
        return bad(err, "sluice_version must be a short string");
    strcpy(m->sluice_version, sluice);
    return SL_OK;
}

/* Print what was understood and compare: the digest and every byte. */
static sl_status check_canonical(struct sl_manifest *m, const char *text, size_t bytes, const json_t *root,
                                 struct sl_err *err)
{
    char *again;
    SL_TRY(sl_manifest_print(m, &again, err));
    const char *digest = json_string_value(json_object_get(root, "digest"));
    sl_status status = SL_OK;
    if (!digest || strcmp(digest, m->digest) != 0)
        status = bad(err, "its digest does not match its content: it was changed");
    else if (strlen(again) != bytes || memcmp(again, text, bytes) != 0)
        status = bad(err, "it is not the text that sluice writes: it was changed");
    free(again);
    return status;
}

sl_status sl_manifest_parse(struct sl_manifest *manifest, const char *text, size_t bytes, struct sl_err *err)
{
    *manifest = (struct sl_manifest){0};
    if (bytes > SL_PACK_MAX_MANIFEST)
        return bad(err, "it is larger than 1 MiB");
    json_t *root;
    SL_TRY(sl_json_parse(&root, text, bytes, "pack.json", err));
    sl_status status = parse_versions(manifest, root, err);
    if (status == SL_OK)
        status = parse_files(manifest, json_object_get(root, "files"), err);
    if (status == SL_OK)
        status = parse_layers(manifest, json_object_get(root, "layers"), err);
    if (status == SL_OK)
        status = parse_formats(manifest, json_object_get(root, "formats"), err);
    if (status == SL_OK)
        status = parse_name(manifest, json_object_get(root, "embed"), &manifest->embed, err);
    if (status == SL_OK)
        status = parse_name(manifest, json_object_get(root, "head"), &manifest->head, err);
    if (status == SL_OK)
        status = check_canonical(manifest, text, bytes, root, err);
    json_decref(root);
    if (status != SL_OK)
        sl_manifest_fini(manifest);
    return status;
}
