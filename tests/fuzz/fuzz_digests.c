/* Fuzzing of blocks.xxh3: the first two bytes say how many blocks two weights files have, the rest is the file. What is
 * accepted prints as the very same bytes. */
#include "model/pack/pack_impl.h"
#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct sl_manifest manifest;
    struct sl_err err = {SL_OK, ""};
    uint64_t *digests;
    if (bytes < 2)
        return 0;
    manifest.n_files = 3;
    manifest.files[0] =
        (struct sl_pack_file){.name = "embed.safetensors", .bytes = (uint64_t)data[0] * SL_PACK_BLOCK};
    manifest.files[1] = (struct sl_pack_file){.name = "config.json", .bytes = 5};
    manifest.files[2] = (struct sl_pack_file){.name = "head.safetensors",
                                              .bytes = data[1] ? (uint64_t)data[1] * SL_PACK_BLOCK - 1 : 0};
    uint64_t n = (uint64_t)data[0] + data[1];
    assert(sl_manifest_blocks(&manifest, 3) == n && sl_manifest_blocks(&manifest, 2) == data[0]);
    sl_status status = sl_digests_parse(&digests, &manifest, data + 2, bytes - 2, &err);
    assert((status == SL_OK) == (digests != NULL));
    if (status != SL_OK) {
        assert(strlen(err.text) > 0 && !strchr(err.text, '\n'));
        return 0;
    }
    char *text;
    size_t again;
    if (sl_digests_print(digests, n, &text, &again, &err) != SL_OK)
        abort();
    assert(again == bytes - 2 && memcmp(text, data + 2, again) == 0);
    free(text);
    free(digests);
    return 0;
}
