/* Fuzzing of model.safetensors.index.json: the input is its text, beside two sound shards "s1" and
 * "s2" and a third file that lies outside the directory.
 *
 * Whatever the index says, only files of its own directory may be opened, and each tensor must lie
 * in the file that it is said to lie in. */
#include "model/source/safetensors.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char outer[64] = "/tmp/sluice-fuzz-index-XXXXXX", dir[80], index_path[160];

static void put(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f) != 0)
        abort();
}

static void put_shard(const char *folder, const char *file, const char *tensor)
{
    char header[128], path[160], all[256];
    uint64_t n = (uint64_t)snprintf(
        header, sizeof header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", tensor);
    memcpy(all, &n, 8);
    memcpy(all + 8, header, n);
    memcpy(all + 8 + n, "data", 4);
    snprintf(path, sizeof path, "%s/%s", folder, file);
    put(path, all, 8 + n + 4);
}

static void clean(void)
{
    static const char *const files[] = {"in/s1", "in/s2", "in/model.safetensors.index.json", "s3"};
    char path[160];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", outer, files[i]);
        unlink(path);
    }
    rmdir(dir);
    rmdir(outer);
}

static void prepare(void)
{
    if (!mkdtemp(outer))
        abort();
    snprintf(dir, sizeof dir, "%s/in", outer);
    snprintf(index_path, sizeof index_path, "%s/model.safetensors.index.json", dir);
    if (mkdir(dir, 0700) != 0)
        abort();
    put_shard(dir, "s1", "a");
    put_shard(dir, "s2", "b");
    put_shard(outer, "s3", "c");
    atexit(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (!dir[0])
        prepare();
    put(index_path, data, bytes);
    struct sl_index index;
    struct sl_err err = {SL_OK, ""};
    if (sl_index_open_dir(&index, dir, &err) == SL_OK) {
        for (uint32_t i = 0; i < index.n_tensors; i++) {
            const struct sl_tensor *t = &index.tensors[i];
            const char *path = index.files[t->file].path;
            assert(strncmp(path, dir, strlen(dir)) == 0 && !strstr(path + strlen(dir) + 1, "/"));
            assert(strcmp(path + strlen(dir), t->name[0] == 'a' ? "/s1" : "/s2") == 0);
            assert(memcmp(sl_index_data(&index, t), "data", 4) == 0);
        }
        assert(index.n_tensors > 0);
    } else {
        assert(!index.files && strlen(err.text) > 0 && !strchr(err.text, '\n'));
    }
    sl_index_close(&index);
    return 0;
}
