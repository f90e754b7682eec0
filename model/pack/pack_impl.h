/* What writing and opening a pack share: the manifest (pack.json), the layout of one weights file,
 * the output stream that counts, digests and syncs. Private to the room; pack.h is the contract. */
#ifndef SL_MODEL_PACK_PACK_IMPL_H
#define SL_MODEL_PACK_PACK_IMPL_H

#include "kernels/panel.h"
#include "model/json_impl.h"
#include "model/pack/pack.h"
#include "model/source/safetensors.h"

enum {
    SL_PACK_FORMAT = 2, /* written; version 1, without integers, is read as well */
    SL_PACK_FORMAT_OLDEST = 1,
    SL_PACK_PAGE = 4096, /* the data section begins at a multiple of it */
    SL_PACK_ALIGN = 64,  /* and every tensor at a multiple of this */
    SL_PACK_MAX_FILES = SL_MAX_LAYERS + 16,
    SL_PACK_MAX_MANIFEST = 1 << 20,
    SL_PACK_MAX_TEXT =
        100 * 1000 * 1000,   /* of a configuration, tokenizer, ... : a file that is read, not mapped */
    SL_PACK_BLOCK = 1 << 20, /* digests.c */
    SL_PACK_MAX_TENSORS = 40 /* of one weights file, padding included */
};

/* ---- pack.json ---- */

struct sl_pack_file {
    char name[64];
    uint64_t bytes;
    char sha256[65];
};

struct sl_manifest {
    struct sl_pack_file files[SL_PACK_MAX_FILES];
    uint32_t n_files;
    uint32_t n_layers;
    uint32_t embed, head, layers[SL_MAX_LAYERS]; /* indices into files */
    uint32_t version;                            /* format_version */
    json_t *formats;                             /* class or class@layer -> format; owned */
    char sluice_version[32];
    char digest[65]; /* SHA-256 over the text of the manifest without it */
};

/* The text of pack.json, malloc'ed; fills manifest->digest. The same manifest gives the same bytes.
 */
sl_status sl_manifest_print(struct sl_manifest *manifest, char **text, struct sl_err *err);
/* Untrusted text -> manifest. It must be exactly what sl_manifest_print would print: one changed
 * byte is found. */
sl_status sl_manifest_parse(struct sl_manifest *manifest, const char *text, size_t bytes, struct sl_err *err);
void sl_manifest_fini(struct sl_manifest *manifest); /* a zeroed manifest is fine */
const struct sl_pack_file *sl_manifest_find(const struct sl_manifest *manifest, const char *name);
/* The format of a class in a layer (SL_NO_LAYER: embedding, head); bf16 when the manifest says nothing of it.
 * Of floats it only says that they are floats: which, the tensor itself says. */
struct sl_format sl_manifest_format(const struct sl_manifest *manifest, enum sl_class class_, uint32_t layer);

/* The canonical text of a manifest's JSON, and the digest over it; what sl_manifest_print is made
 * of. */
char *sl_manifest_dump(const json_t *root);
bool sl_manifest_digest(const char *body, char hex[65]);

const struct sl_manifest *sl_pack_manifest(const struct sl_pack *pack);
sl_status sl_pack_set_name(struct sl_pack *pack, const char *name, struct sl_err *err);

/* ---- blocks.xxh3: a digest of every block of the weights ---- */

#define SL_PACK_DIGESTS "blocks.xxh3"

bool sl_pack_is_weights_name(const char *name);
bool sl_pack_is_weights(const struct sl_pack_file *file);
uint64_t sl_blocks_of(uint64_t bytes);
/* How many blocks the weights files before file `until` have: where the digests of that one begin. */
uint64_t sl_manifest_blocks(const struct sl_manifest *manifest, uint32_t until);
/* The bytes of the file, malloc'ed. */
sl_status sl_digests_print(const uint64_t *digests, uint64_t n, char **text, size_t *bytes,
                           struct sl_err *err);
/* Untrusted bytes -> as many digests as the manifest's weights have blocks, malloc'ed. */
sl_status sl_digests_parse(uint64_t **digests, const struct sl_manifest *manifest, const uint8_t *text,
                           size_t bytes, struct sl_err *err);
/* Of an opened pack: those of one weights file, or NULL when it was packed without. */
const uint64_t *sl_pack_digests_of(const struct sl_pack *pack, uint32_t file);

/* ---- progress ---- */

struct sl_progress {
    bool on, terminal;
    const char *label;
    uint64_t done, total;
    uint64_t begin_ns;
    uint32_t shown; /* per mille on a terminal, tenths otherwise; plus one, 0: nothing yet */
};
void sl_progress_start(struct sl_progress *progress, bool on, const char *label, uint64_t total);
void sl_progress_add(struct sl_progress *progress, uint64_t bytes);
void sl_progress_end(struct sl_progress *progress);

/* ---- one output file ---- */

struct sl_sha256;
struct sl_out {
    int fd;
    const char *path; /* borrowed */
    uint8_t *buffer;
    size_t held;
    uint64_t written;
    uint64_t needed; /* bytes of the whole pack, for the sentence about a full disk */
    struct sl_sha256 *sha;
    uint64_t **digests; /* of weights: the array that grows by each block's; NULL: none wanted */
    uint64_t *n_digests;
    struct sl_progress *progress;
};
sl_status sl_out_open(struct sl_out *out, const char *path, uint64_t needed, struct sl_progress *progress,
                      struct sl_err *err);
sl_status sl_out_write(struct sl_out *out, const void *data, size_t bytes, struct sl_err *err);
/* Flush, sync, close; fills bytes and hex digest. */
sl_status sl_out_finish(struct sl_out *out, struct sl_pack_file *file, struct sl_err *err);
void sl_out_abandon(struct sl_out *out); /* after an error; a finished out is fine */

/* ---- the layout of one safetensors file ---- */

struct sl_layout_tensor {
    char name[40];
    const char *dtype; /* "BF16", "F32", "U8" */
    uint32_t rank;
    uint64_t shape[4];
    uint64_t begin, end; /* within the data section */
};
struct sl_layout {
    struct sl_layout_tensor tensors[SL_PACK_MAX_TENSORS];
    uint32_t n_tensors, n_pads;
};
/* Adds a tensor at the next multiple of 64; a "__pad.N" tensor fills the gap, since the format
 * forbids holes. */
void sl_layout_add(struct sl_layout *layout, const char *name, enum sl_dtype dtype, uint32_t rank,
                   const uint64_t *shape);
/* The eight length bytes and the JSON, space-padded to a multiple of a page. malloc'ed. */
sl_status sl_layout_header(const struct sl_layout *layout, uint8_t **head, size_t *bytes, struct sl_err *err);
uint64_t sl_layout_data_bytes(const struct sl_layout *layout);

#endif
