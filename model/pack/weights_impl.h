/* What mapping, verifying and scrubbing the weights of a range share. Private to the room; weights.h is the contract. */
#ifndef SL_MODEL_PACK_WEIGHTS_IMPL_H
#define SL_MODEL_PACK_WEIGHTS_IMPL_H

#include "model/pack/bus_error.h"
#include "model/pack/pack_impl.h"
#include "model/pack/weights.h"
#include <sys/stat.h>

struct sl_weights_file {
    struct sl_index index;           /* one file; its bytes are `bytes` of it, mapped or copied */
    const struct sl_pack_file *file; /* of the manifest, which is the pack's */
    char *path;
    uint32_t layer; /* SL_NO_LAYER: embedding, head */
    bool is_embed;
    struct sl_mapping *mapping; /* of the bytes, as long as they are the file's */
    struct stat known;          /* of the file, before a byte of it was read */
    uint64_t opened_ns;
    bool copied;             /* the bytes lie in private memory, or are apart */
    const uint64_t *digests; /* of its blocks, as packed or as computed here; NULL: never asked for */
    uint64_t *own;           /* those computed here */
};

struct sl_weights_files {
    const struct sl_pack *pack;
    struct sl_weights_file *files;
    uint32_t n;
    struct verifying *apart; /* what brings them, and has its threads; NULL: they are memory */
};

/* The bytes of block i of a file. */
static inline const uint8_t *sl_weights_block(const struct sl_weights_file *f, uint64_t i, size_t *bytes)
{
    const struct sl_st_file *st = &f->index.files[0];
    uint64_t begin = i * SL_PACK_BLOCK, left = st->bytes - begin;
    *bytes = left < SL_PACK_BLOCK ? (size_t)left : SL_PACK_BLOCK;
    return st->map + begin;
}

/* Copies the files into private memory, or sets them apart, when that is asked for, and compares what they hold with the pack, as
 * `options` say. */
sl_status sl_weights_verify(struct sl_weights_files *files, const struct sl_loading *options,
                            struct sl_err *err);
void sl_weights_verify_end(struct sl_weights_files *files); /* gives back what brings those that are apart */

/* SL_E_DATA: block i of a file is not what was packed; names the file, the tensors that lie there and the remedy. */
sl_status sl_weights_damaged(const struct sl_weights_file *f, const char *pack_path, uint64_t block,
                             struct sl_err *err);

#endif
