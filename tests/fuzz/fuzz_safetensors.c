/* Fuzzing of the safetensors header: the input is a whole file.
 *
 * What is accepted must keep the promises that everybody above relies on: names sorted and
 * distinct, each tensor inside the file and exactly as long as its shape asks for, all together
 * tiling the data. What is refused comes with one sentence and an empty index. */
#include "model/source/safetensors.h"
#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static uint64_t elements(const struct sl_tensor *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        n *= t->shape[i];
    return n;
}

static void check(const struct sl_index *index, size_t bytes)
{
    uint64_t total = 0, first = bytes;
    for (uint32_t i = 0; i < index->n_tensors; i++) {
        const struct sl_tensor *t = &index->tensors[i];
        assert(t->begin <= t->end && t->end <= bytes && t->rank <= SL_MAX_RANK && t->file == 0);
        assert(i == 0 || strcmp(index->tensors[i - 1].name, t->name) < 0);
        assert(sl_index_find(index, t->name) == t && !sl_index_data(index, t));
        if (t->type == SL_T_F32)
            assert(elements(t) * 4 == t->end - t->begin);
        if (t->type == SL_T_BF16 || t->type == SL_T_F16)
            assert(elements(t) * 2 == t->end - t->begin);
        total += t->end - t->begin;
        first = t->begin < first ? t->begin : first;
    }
    assert(first + total == bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct sl_index index = {0};
    struct sl_err err = {SL_OK, ""};
    if (sl_safetensors_parse(&index, data, bytes, bytes, "input", &err) == SL_OK)
        check(&index, bytes);
    else
        assert(!index.tensors && !index.files && strlen(err.text) > 0 && !strchr(err.text, '\n'));
    sl_index_close(&index);
    return 0;
}
