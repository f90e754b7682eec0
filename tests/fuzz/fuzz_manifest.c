/* Fuzzing of pack.json: the input is its text.
 *
 * The digest makes random acceptance impossible, so the seeds carry the weight: sound manifests,
 * and each refusal before the digest. What is accepted prints as the very same bytes. A second pass
 * repairs the digest first, by printing what was understood up to it, so that mutations reach
 * beyond that check. */
#include "model/pack/pack_impl.h"
#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(struct sl_manifest *m, const uint8_t *data, size_t bytes)
{
    char *text;
    struct sl_err err;
    assert(m->n_files <= SL_PACK_MAX_FILES && m->n_layers >= 1 && m->n_layers <= SL_MAX_LAYERS);
    assert(m->embed < m->n_files && m->head < m->n_files);
    for (uint32_t i = 0; i < m->n_layers; i++)
        assert(m->layers[i] < m->n_files);
    for (uint32_t i = 0; i < m->n_files; i++)
        assert(sl_name_is_plain(m->files[i].name) && strlen(m->files[i].sha256) == 64 &&
               sl_manifest_find(m, m->files[i].name) == &m->files[i]);
    if (sl_manifest_print(m, &text, &err) != SL_OK)
        abort();
    assert(strlen(text) == bytes && memcmp(text, data, bytes) == 0);
    free(text);
}

/* Text with its digest set right, or NULL when it is no JSON object. */
static char *repaired(const char *text, size_t bytes)
{
    json_t *root;
    if (sl_json_parse(&root, text, bytes, "input", NULL) != SL_OK)
        return NULL;
    json_object_del(root, "digest");
    char *body = sl_manifest_dump(root), *whole = NULL;
    char hex[65];
    if (body && sl_manifest_digest(body, hex)) {
        json_object_set_new(root, "digest", json_string(hex));
        whole = sl_manifest_dump(root);
    }
    free(body);
    json_decref(root);
    return whole;
}

static bool try(const char *text, size_t bytes)
{
    struct sl_manifest manifest;
    struct sl_err err = {SL_OK, ""};
    sl_status status = sl_manifest_parse(&manifest, text, bytes, &err);
    if (status == SL_OK)
        check(&manifest, (const uint8_t *)text, bytes);
    else
        assert(!manifest.formats && strlen(err.text) > 0 && !strchr(err.text, '\n'));
    sl_manifest_fini(&manifest);
    return status == SL_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (try((const char *)data, bytes))
        return 0;
    char *text = repaired((const char *)data, bytes);
    if (text)
        try(text, strlen(text));
    free(text);
    return 0;
}
