/* blocks.xxh3: a digest of every block of every weights file of a pack (pack_impl.h).
 *
 * SHA-256 says that a file is the one that was packed, once, at a gigabyte or two a second; XXH3 at the speed of memory says
 * the same of each block, so that it can be asked whenever a pack is loaded, and again while it is served. The file lies
 * beside the weights and is listed in pack.json with its own SHA-256, so a wrong byte of it is found before it is used.
 *
 *   "slblocks", block bytes, number of blocks   8 bytes each, little-endian
 *   then 8 bytes a block: weights files in the order of pack.json, blocks in the order of the file, the last one short
 *
 * A block is 1 MiB. Measured, 256 KiB to 4 MiB are digested at the same speed; this one is small enough that a processor that
 * scrubs at a hundredth of its time is never away for more than a tenth of a millisecond, and that what is found names the
 * tensor, and large enough that half a terabyte of weights has 4 MB of digests. */
#include "base/bytes.h"
#include "model/pack/pack_impl.h"
#include <stdlib.h>

static const char magic[9] = "slblocks";
enum { HEAD_BYTES = 24 };

bool sl_pack_is_weights_name(const char *name)
{
    size_t n = strlen(name), m = strlen(".safetensors");
    return n > m && strcmp(name + n - m, ".safetensors") == 0;
}

bool sl_pack_is_weights(const struct sl_pack_file *file)
{
    return sl_pack_is_weights_name(file->name);
}

uint64_t sl_blocks_of(uint64_t bytes)
{
    return bytes / SL_PACK_BLOCK + (bytes % SL_PACK_BLOCK != 0);
}

uint64_t sl_manifest_blocks(const struct sl_manifest *manifest, uint32_t until)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < until; i++)
        if (sl_pack_is_weights(&manifest->files[i]))
            n += sl_blocks_of(manifest->files[i].bytes);
    return n;
}

sl_status sl_digests_print(const uint64_t *digests, uint64_t n, char **text, size_t *bytes,
                           struct sl_err *err)
{
    *bytes = HEAD_BYTES + n * 8;
    uint8_t *out = malloc(*bytes);
    *text = (char *)out;
    if (!out)
        return sl_fail(err, SL_E_NOMEM, "no memory to write " SL_PACK_DIGESTS);
    memcpy(out, magic, 8);
    sl_put64(out + 8, SL_PACK_BLOCK);
    sl_put64(out + 16, n);
    for (uint64_t i = 0; i < n; i++)
        sl_put64(out + HEAD_BYTES + 8 * i, digests[i]);
    return SL_OK;
}

sl_status sl_digests_parse(uint64_t **digests, const struct sl_manifest *manifest, const uint8_t *text,
                           size_t bytes, struct sl_err *err)
{
    uint64_t n = sl_manifest_blocks(manifest, manifest->n_files);
    *digests = NULL;
    if (bytes < HEAD_BYTES || memcmp(text, magic, 8) != 0)
        return sl_fail(err, SL_E_DATA,
                       SL_PACK_DIGESTS " is not a list of block digests; pack the checkpoint again");
    if (sl_get64(text + 8) != SL_PACK_BLOCK)
        return sl_fail(err, SL_E_DATA,
                       SL_PACK_DIGESTS " has blocks of %llu bytes, this version reads %d; use a newer sluice",
                       (unsigned long long)sl_get64(text + 8), SL_PACK_BLOCK);
    if (sl_get64(text + 16) != n || (bytes - HEAD_BYTES) % 8 != 0 || (bytes - HEAD_BYTES) / 8 != n)
        return sl_fail(
            err, SL_E_DATA,
            SL_PACK_DIGESTS
            " has not the %llu digests that the files of pack.json need; pack the checkpoint again",
            (unsigned long long)n);
    *digests = malloc((n + 1) * sizeof **digests);
    if (!*digests)
        return sl_fail(err, SL_E_NOMEM, "no memory for the digests of %llu blocks", (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++)
        (*digests)[i] = sl_get64(text + HEAD_BYTES + 8 * i);
    return SL_OK;
}
