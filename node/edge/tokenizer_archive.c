/* GetTokenizer (tokenizer_archive.h): the archive is made by the first who asks, and sent in chunks as its client takes them. */
#include "node/edge/tokenizer_archive.h"
#include "base/digest.h"
#include "node/edge/engine_impl.h"
#include "node/edge/zip.h"
#include <pthread.h>
#include <stdlib.h>

enum { TOKENIZER_CHUNK = 1 << 20 };

struct sl_archive {
    sl_archive_read_fn read;
    void *context;
    pthread_mutex_t lock; /* between workers */
    struct sl_zip zip;    /* immutable once made */
    char sha256[65];
};

struct download { /* of one client, worker only */
    struct sl_archive *archive;
    size_t sent;
};

/* As it was verified: what a gateway encodes with is as much part of an answer as a weight. */
static sl_status add_file(const struct sl_archive *archive, struct sl_zip *zip, const char *name,
                          struct sl_err *err)
{
    char *text;
    size_t bytes;
    sl_status status = archive->read(archive->context, name, &text, &bytes, err);
    if (status == SL_E_NOT_FOUND)
        return SL_OK;
    if (status != SL_OK)
        return status == SL_E_DATA ? SL_E_CORRUPT : status; /* the sentence is the reader's */
    if (sl_zip_add(zip, name, text, bytes) != SL_OK)
        status = sl_fail(err, SL_E_EXHAUSTED, "no memory for %s in the tokenizer's archive", name);
    free(text);
    return status;
}

static sl_status make_archive(struct sl_archive *archive, struct sl_err *err)
{
    static const char *const names[] = {
        "tokenizer.json",    "tokenizer_config.json",  "special_tokens_map.json",
        "added_tokens.json", "chat_template.jinja",    "chat_template.json",
        "config.json",       "generation_config.json",
    };
    struct sl_zip zip = {0};
    sl_status status = SL_OK;
    for (size_t i = 0; status == SL_OK && i < sizeof names / sizeof *names; i++)
        status = add_file(archive, &zip, names[i], err);
    if (status == SL_OK && sl_zip_end(&zip) != SL_OK)
        status = sl_fail(err, SL_E_EXHAUSTED, "no memory for the tokenizer's archive");
    struct sl_sha256 *sha = status == SL_OK ? sl_sha256_begin() : NULL;
    if (status == SL_OK && !sha)
        status = sl_fail(err, SL_E_EXHAUSTED, "no memory for the digest of the tokenizer's archive");
    if (status != SL_OK) {
        sl_zip_fini(&zip);
        return status;
    }
    sl_sha256_add(sha, zip.data, zip.bytes);
    sl_sha256_end(sha, archive->sha256);
    archive->zip = zip;
    return SL_OK;
}

static void send_archive(struct sl_rpc_call *call, struct download *download)
{
    struct sl_archive *archive = download->archive;
    while (download->sent < archive->zip.bytes) {
        Smg__Grpc__Common__GetTokenizerChunk chunk = SMG__GRPC__COMMON__GET_TOKENIZER_CHUNK__INIT;
        size_t left = archive->zip.bytes - download->sent;
        chunk.data.data = archive->zip.data + download->sent;
        chunk.data.len = left < TOKENIZER_CHUNK ? left : TOKENIZER_CHUNK;
        if (chunk.data.len == left)
            chunk.sha256 = archive->sha256;
        sl_status status = sl_pb_write(call, &chunk.base);
        if (status == SL_E_NOMEM)
            sl_engine_refuse(call, SL_E_EXHAUSTED, "out of memory for the reply; try again later", 0);
        if (status != SL_OK)
            return; /* when full, on_writable goes on */
        download->sent += chunk.data.len;
    }
    sl_rpc_finish(call, SL_OK, NULL);
}

static void on_writable(struct sl_rpc_call *call, void *user)
{
    send_archive(call, user);
}

static void on_done(struct sl_rpc_call *call, void *user, bool cancelled)
{
    (void)call, (void)cancelled;
    free(user);
}

void sl_archive_on_call(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_archive *archive = context;
    struct sl_err err = {0};
    (void)message, (void)bytes;
    pthread_mutex_lock(&archive->lock);
    sl_status status = archive->zip.bytes ? SL_OK : make_archive(archive, &err);
    pthread_mutex_unlock(&archive->lock);
    struct download *download = status == SL_OK ? calloc(1, sizeof *download) : NULL;
    if (status == SL_OK && !download)
        status = sl_fail(&err, SL_E_EXHAUSTED, "out of memory for this download; try again later");
    if (status != SL_OK) {
        sl_engine_refuse(call, status, err.text, 0);
        return;
    }
    download->archive = archive;
    sl_rpc_hooks(call, download, on_done, on_writable);
    send_archive(call, download);
}

struct sl_archive *sl_archive_create(sl_archive_read_fn read, void *context)
{
    struct sl_archive *archive = calloc(1, sizeof *archive);
    if (!archive)
        return NULL;
    archive->read = read;
    archive->context = context;
    pthread_mutex_init(&archive->lock, NULL);
    return archive;
}

void sl_archive_destroy(struct sl_archive *archive)
{
    if (!archive)
        return;
    sl_zip_fini(&archive->zip);
    pthread_mutex_destroy(&archive->lock);
    free(archive);
}
