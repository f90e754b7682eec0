/* The safetensors reader: header, extents, sharded directories (safetensors.h).
 *
 * A file is a promise about ranges of bytes, and none of it is believed before it is checked: the
 * header's length against the file, each tensor's range against its dtype and shape, and all ranges
 * together against the data, which they must tile without hole or overlap. So a view that the index
 * hands out always lies inside its mapping. Errors name the tensor. Reading is by mmap: a page that
 * nobody looks at costs nothing. */
#include "model/source/safetensors.h"
#include "base/bytes.h"
#include "model/json_impl.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_SHARDS = 4096 };

struct dtype_info {
    const char *name;
    uint32_t bits;
    enum sl_tensor_type type;
};

static const struct dtype_info dtypes[] = {
    {"BF16", 16, SL_T_BF16},        {"F16", 16, SL_T_F16},          {"F32", 32, SL_T_F32},
    {"BOOL", 8, SL_T_OTHER},        {"U8", 8, SL_T_OTHER},          {"I8", 8, SL_T_OTHER},
    {"F8_E4M3", 8, SL_T_OTHER},     {"F8_E5M2", 8, SL_T_OTHER},     {"F8_E8M0", 8, SL_T_OTHER},
    {"F8_E4M3FNUZ", 8, SL_T_OTHER}, {"F8_E5M2FNUZ", 8, SL_T_OTHER}, {"F4", 4, SL_T_OTHER},
    {"F6_E2M3", 6, SL_T_OTHER},     {"F6_E3M2", 6, SL_T_OTHER},     {"I16", 16, SL_T_OTHER},
    {"U16", 16, SL_T_OTHER},        {"I32", 32, SL_T_OTHER},        {"U32", 32, SL_T_OTHER},
    {"I64", 64, SL_T_OTHER},        {"U64", 64, SL_T_OTHER},        {"F64", 64, SL_T_OTHER},
    {"C64", 64, SL_T_OTHER}};

static const struct dtype_info *dtype_find(const char *name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    return NULL;
}

/* A non-negative JSON integer; 1.0, 1e3, "1" and true are none. */
static bool json_natural(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static sl_status parse_shape(struct sl_tensor *t, const json_t *shape, const char *file, struct sl_err *err)
{
    if (!json_is_array(shape))
        return sl_fail(err, SL_E_DATA, "tensor '%.120s' in %.100s: shape must be a list", t->name, file);
    if (json_array_size(shape) > SL_MAX_RANK)
        return sl_fail(err, SL_E_DATA, "tensor '%.120s' in %.100s: %zu dimensions; at most %d are read",
                       t->name, file, json_array_size(shape), SL_MAX_RANK);
    t->rank = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < t->rank; i++)
        if (!json_natural(json_array_get(shape, i), &t->shape[i]))
            return sl_fail(err, SL_E_DATA,
                           "tensor '%.120s' in %.100s: dimension %u is not a non-negative integer", t->name,
                           file, i);
    return SL_OK;
}

/* The bytes that dtype and shape ask for. A zero dimension does not excuse an overflow in the
 * others. */
static sl_status tensor_bytes(const struct sl_tensor *t, uint32_t bits, uint64_t *bytes, const char *file,
                              struct sl_err *err)
{
    uint64_t product = bits;
    bool empty = false, overflow = false;
    for (uint32_t i = 0; i < t->rank; i++) {
        empty |= t->shape[i] == 0;
        overflow |= __builtin_mul_overflow(product, t->shape[i] ? t->shape[i] : 1, &product);
    }
    if (overflow)
        return sl_fail(err, SL_E_DATA, "tensor '%.120s' in %.100s: its shape overflows 64 bits", t->name,
                       file);
    if (empty)
        product = 0;
    if (product % 8 != 0)
        return sl_fail(err, SL_E_DATA,
                       "tensor '%.120s' in %.100s: %s of its shape is not a whole number "
                       "of bytes",
                       t->name, file, t->dtype);
    *bytes = product / 8;
    return SL_OK;
}

/* Offsets are relative to the data section, which begins at data_begin and has data_bytes. */
static sl_status parse_offsets(struct sl_tensor *t, const json_t *offsets, uint64_t want, uint64_t data_begin,
                               uint64_t data_bytes, const char *file, struct sl_err *err)
{
    uint64_t begin, end;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !json_natural(json_array_get(offsets, 0), &begin) ||
        !json_natural(json_array_get(offsets, 1), &end) || begin > end)
        return sl_fail(err, SL_E_DATA,
                       "tensor '%.120s' in %.100s: data_offsets must be [begin, end], begin <= end, both "
                       "non-negative integers",
                       t->name, file);
    if (end > data_bytes)
        return sl_fail(err, SL_E_DATA,
                       "tensor '%.120s' in %.100s ends at byte %llu of the data, which has only %llu: the "
                       "file is truncated, fetch it again",
                       t->name, file, (unsigned long long)end, (unsigned long long)data_bytes);
    if (end - begin != want)
        return sl_fail(err, SL_E_DATA,
                       "tensor '%.120s' in %.100s has %llu bytes, but %s and its shape need %llu", t->name,
                       file, (unsigned long long)(end - begin), t->dtype, (unsigned long long)want);
    t->begin = data_begin + begin;
    t->end = data_begin + end;
    return SL_OK;
}

static sl_status parse_tensor(struct sl_tensor *t, json_t *entry, uint64_t data_begin, uint64_t data_bytes,
                              const char *file, struct sl_err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(entry, key, value)
    {
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 && strcmp(key, "data_offsets") != 0)
            return sl_fail(err, SL_E_DATA, "tensor '%.120s' in %.100s: unknown key '%.40s'", t->name, file,
                           key);
    }
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype)
        return sl_fail(err, SL_E_DATA,
                       "tensor '%.120s' in %.100s must be an object with dtype, shape, data_offsets", t->name,
                       file);
    const struct dtype_info *info = dtype_find(dtype);
    if (!info)
        return sl_fail(err, SL_E_DATA, "tensor '%.120s' in %.100s: unknown dtype '%.20s'", t->name, file,
                       dtype);
    t->type = info->type;
    assert(strlen(info->name) < sizeof t->dtype);
    strcpy(t->dtype, info->name);
    uint64_t want = 0;
    SL_TRY(parse_shape(t, json_object_get(entry, "shape"), file, err));
    SL_TRY(tensor_bytes(t, info->bits, &want, file, err));
    return parse_offsets(t, json_object_get(entry, "data_offsets"), want, data_begin, data_bytes, file, err);
}

static int by_extent(const void *a, const void *b)
{
    const struct sl_tensor *s = *(const struct sl_tensor *const *)a;
    const struct sl_tensor *t = *(const struct sl_tensor *const *)b;
    if (s->begin != t->begin)
        return s->begin < t->begin ? -1 : 1;
    return s->end < t->end ? -1 : s->end > t->end;
}

/* Sorted by offset, the n tensors must tile [begin, end). */
static sl_status check_tiling(const struct sl_tensor *tensors, uint32_t n, uint64_t begin, uint64_t end,
                              const char *file, struct sl_err *err)
{
    const struct sl_tensor **order = malloc((n + 1) * sizeof *order);
    if (!order)
        return sl_fail(err, SL_E_NOMEM, "no memory for the %u tensors of %.200s", n, file);
    for (uint32_t i = 0; i < n; i++)
        order[i] = &tensors[i];
    qsort(order, n, sizeof *order, by_extent);
    sl_status status = SL_OK;
    uint64_t at = begin;
    for (uint32_t i = 0; i < n && status == SL_OK; at = order[i]->end, i++) {
        if (order[i]->begin < at)
            status = sl_fail(err, SL_E_DATA, "tensor '%.100s' in %.80s overlaps tensor '%.100s'",
                             order[i]->name, file, order[i - 1]->name);
        else if (order[i]->begin > at)
            status = sl_fail(err, SL_E_DATA,
                             "tensor '%.100s' in %.80s begins %llu bytes after the tensor before it: "
                             "holes are not allowed",
                             order[i]->name, file, (unsigned long long)(order[i]->begin - at));
    }
    free(order);
    if (status == SL_OK && at != end)
        status = sl_fail(err, SL_E_DATA, "%.200s has %llu bytes that belong to no tensor at its end", file,
                         (unsigned long long)(end - at));
    return status;
}

static sl_status check_metadata(json_t *metadata, const char *file, struct sl_err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return sl_fail(err, SL_E_DATA, "__metadata__ in %.200s must be an object of strings", file);
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return sl_fail(err, SL_E_DATA, "__metadata__ in %.120s: '%.60s' must be a string", file, key);
    }
    return SL_OK;
}

/* All entries of one header, appended to the index as tensors of file number `file_number`. */
static sl_status add_tensors(struct sl_index *index, json_t *header, uint32_t file_number,
                             uint64_t data_begin, uint64_t file_bytes, const char *file, struct sl_err *err)
{
    size_t room = index->n_tensors + json_object_size(header);
    if (room > UINT32_MAX / 2)
        return sl_fail(err, SL_E_DATA, "%.200s: too many tensors", file);
    struct sl_tensor *tensors = realloc(index->tensors, (room + 1) * sizeof *tensors);
    if (!tensors)
        return sl_fail(err, SL_E_NOMEM, "no memory for the tensors of %.200s", file);
    index->tensors = tensors;
    uint32_t first = index->n_tensors;
    const char *key;
    json_t *value;
    json_object_foreach(header, key, value)
    {
        if (strcmp(key, "__metadata__") == 0) {
            SL_TRY(check_metadata(value, file, err));
            continue;
        }
        struct sl_tensor *t = &tensors[index->n_tensors];
        memset(t, 0, sizeof *t);
        t->name = strdup(key);
        if (!t->name)
            return sl_fail(err, SL_E_NOMEM, "no memory for the tensors of %.200s", file);
        index->n_tensors++;
        t->file = file_number;
        SL_TRY(parse_tensor(t, value, data_begin, file_bytes - data_begin, file, err));
    }
    return check_tiling(tensors + first, index->n_tensors - first, data_begin, file_bytes, file, err);
}

static sl_status parse_header(struct sl_index *index, const uint8_t *head, size_t head_bytes,
                              uint64_t file_bytes, uint32_t file_number, const char *file, struct sl_err *err)
{
    if (file_bytes < 8 || head_bytes < 8)
        return sl_fail(err, SL_E_DATA, "%.200s is truncated: %llu bytes are no safetensors file", file,
                       (unsigned long long)file_bytes);
    if (sl_is_lfs_pointer(head, head_bytes))
        return sl_fail(err, SL_E_DATA, SL_LFS_SENTENCE, file);
    uint64_t n = sl_get64(head);
    if (n > SL_JSON_MAX_BYTES)
        return sl_fail(err, SL_E_DATA,
                       "%.200s: a header of %llu bytes is beyond the format's limit of %d: it is no "
                       "safetensors file",
                       file, (unsigned long long)n, SL_JSON_MAX_BYTES);
    if (n > file_bytes - 8 || n > head_bytes - 8)
        return sl_fail(err, SL_E_DATA, "%.200s is truncated: its header of %llu bytes is not all there", file,
                       (unsigned long long)n);
    if (n < 2 || head[8] != '{')
        return sl_fail(err, SL_E_DATA,
                       "%.200s: the header does not begin with '{': it is no safetensors "
                       "file",
                       file);
    json_t *header;
    SL_TRY(sl_json_parse(&header, (const char *)head + 8, (size_t)n, file, err));
    sl_status status = add_tensors(index, header, file_number, 8 + n, file_bytes, file, err);
    json_decref(header);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct sl_tensor *)a)->name, ((const struct sl_tensor *)b)->name);
}

static sl_status sort_tensors(struct sl_index *index, struct sl_err *err)
{
    if (index->n_tensors)
        qsort(index->tensors, index->n_tensors, sizeof *index->tensors, by_name);
    for (uint32_t i = 1; i < index->n_tensors; i++) {
        const struct sl_tensor *a = &index->tensors[i - 1], *b = &index->tensors[i];
        if (strcmp(a->name, b->name) == 0)
            return sl_fail(err, SL_E_DATA, "tensor '%.100s' is in both %.90s and %.90s", a->name,
                           index->files[a->file].path, index->files[b->file].path);
    }
    return SL_OK;
}

static sl_status add_file(struct sl_index *index, const char *path, struct sl_st_file **file,
                          struct sl_err *err)
{
    struct sl_st_file *files = realloc(index->files, (index->n_files + 1) * sizeof *files);
    if (files)
        index->files = files;
    char *copy = files ? strdup(path) : NULL;
    if (!copy)
        return sl_fail(err, SL_E_NOMEM, "no memory to open %.200s", path);
    *file = &files[index->n_files++];
    **file = (struct sl_st_file){.path = copy, .fd = -1};
    return SL_OK;
}

static sl_status map_file(struct sl_index *index, const char *path, struct sl_err *err)
{
    struct sl_st_file *file;
    SL_TRY(add_file(index, path, &file, err));
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* or a FIFO in its place is waited for */
    if (file->fd < 0)
        return sl_fail(err, errno == ENOENT ? SL_E_DATA : SL_E_IO, "can't open %.200s: %s", path,
                       strerror(errno));
    struct stat st;
    if (fstat(file->fd, &st) != 0 || !S_ISREG(st.st_mode))
        return sl_fail(err, SL_E_DATA, "%.200s is not a regular file", path);
    if (st.st_size < 8)
        return sl_fail(err, SL_E_DATA, "%.200s is truncated: %lld bytes are no safetensors file", path,
                       (long long)st.st_size);
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, file->fd, 0);
    if (map == MAP_FAILED)
        return sl_fail(err, SL_E_IO, "can't map %.200s: %s", path, strerror(errno));
    /* A wish: where the file system has large folios the weights then lie in huge pages, and reading a layer
     * costs 512 times fewer TLB entries. */
    madvise(map, (size_t)st.st_size, MADV_HUGEPAGE);
    file->map = map;
    file->bytes = (uint64_t)st.st_size;
    return SL_OK;
}

static sl_status parse_map(struct sl_index *index, uint32_t number, struct sl_err *err)
{
    const struct sl_st_file *file = &index->files[number];
    return parse_header(index, file->map, (size_t)file->bytes, file->bytes, number, file->path, err);
}

static sl_status closed_on_error(struct sl_index *index, sl_status status)
{
    if (status != SL_OK)
        sl_index_close(index);
    return status;
}

sl_status sl_safetensors_parse(struct sl_index *index, const uint8_t *head, size_t head_bytes,
                               uint64_t file_bytes, const char *name, struct sl_err *err)
{
    struct sl_st_file *file;
    sl_status status = add_file(index, name, &file, err);
    if (status == SL_OK) {
        file->bytes = file_bytes;
        status = parse_header(index, head, head_bytes, file_bytes, index->n_files - 1, name, err);
    }
    if (status == SL_OK)
        status = sort_tensors(index, err);
    return closed_on_error(index, status);
}

sl_status sl_index_map_file(struct sl_index *index, const char *path, struct sl_err *err)
{
    *index = (struct sl_index){0};
    return closed_on_error(index, map_file(index, path, err));
}

sl_status sl_index_read_header(struct sl_index *index, struct sl_err *err)
{
    SL_TRY(parse_map(index, 0, err));
    return sort_tensors(index, err);
}

sl_status sl_index_open_file(struct sl_index *index, const char *path, struct sl_err *err)
{
    SL_TRY(sl_index_map_file(index, path, err));
    return closed_on_error(index, sl_index_read_header(index, err));
}

/* The shards that an index names, each opened once, in the order of their first mention; `numbers`
 * maps a shard's name to its number in index->files. */
static sl_status open_shards(struct sl_index *index, json_t *weight_map, json_t *numbers, const char *dir,
                             struct sl_err *err)
{
    const char *tensor;
    json_t *value;
    json_object_foreach(weight_map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (!name || !sl_name_is_plain(name))
            return sl_fail(err, SL_E_DATA,
                           "model.safetensors.index.json: tensor '%.80s' points to '%.80s'; a shard must "
                           "be a file name inside the checkpoint's directory",
                           tensor, name ? name : "no string");
        if (json_object_get(numbers, name))
            continue;
        if (index->n_files == MAX_SHARDS)
            return sl_fail(err, SL_E_DATA, "model.safetensors.index.json names more than %d shards",
                           MAX_SHARDS);
        if (json_object_set_new(numbers, name, json_integer(index->n_files)) != 0)
            return sl_fail(err, SL_E_NOMEM, "no memory to open the shards of %.200s", dir);
        char *path = sl_path_join(dir, name);
        if (!path)
            return sl_fail(err, SL_E_NOMEM, "no memory to open the shards of %.200s", dir);
        sl_status status = map_file(index, path, err);
        if (status == SL_OK)
            status = parse_map(index, index->n_files - 1, err);
        free(path);
        SL_TRY(status);
    }
    return SL_OK;
}

/* Index and shards must agree in both directions: what the index says is where it says, and nothing
 * else is there. */
static sl_status check_weight_map(const struct sl_index *index, json_t *weight_map, json_t *numbers,
                                  struct sl_err *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(weight_map, name, value)
    {
        const struct sl_tensor *t = sl_index_find(index, name);
        json_int_t number = json_integer_value(json_object_get(numbers, json_string_value(value)));
        if (!t || t->file != (uint32_t)number)
            return sl_fail(err, SL_E_DATA,
                           "tensor '%.100s' is not in %.100s, where model.safetensors.index.json says it "
                           "is",
                           name, json_string_value(value));
    }
    for (uint32_t i = 0; i < index->n_tensors; i++)
        if (!json_object_get(weight_map, index->tensors[i].name))
            return sl_fail(err, SL_E_DATA,
                           "tensor '%.100s' is in %.100s but not in model.safetensors.index.json",
                           index->tensors[i].name, index->files[index->tensors[i].file].path);
    return SL_OK;
}

static sl_status open_sharded(struct sl_index *index, const char *dir, const char *index_path,
                              struct sl_err *err)
{
    json_t *root;
    SL_TRY(sl_json_read(&root, index_path, SL_JSON_MAX_BYTES, err));
    json_t *weight_map = json_object_get(root, "weight_map");
    json_t *numbers = json_object();
    sl_status status = SL_OK;
    if (!numbers)
        status = sl_fail(err, SL_E_NOMEM, "no memory to open the shards of %.200s", dir);
    else if (!json_is_object(weight_map) || json_object_size(weight_map) == 0)
        status = sl_fail(err, SL_E_DATA, "%.200s: weight_map must be an object: tensor -> file", index_path);
    if (status == SL_OK)
        status = open_shards(index, weight_map, numbers, dir, err);
    if (status == SL_OK)
        status = sort_tensors(index, err);
    if (status == SL_OK)
        status = check_weight_map(index, weight_map, numbers, err);
    json_decref(numbers);
    json_decref(root);
    return status;
}

/* Any file NAME.safetensors of the folder. */
static bool find_shard(const char *dir, char shard[256])
{
    static const char end[] = ".safetensors";
    DIR *folder = opendir(dir);
    bool found = false;
    for (struct dirent *entry; folder && !found && (entry = readdir(folder));) {
        size_t bytes = strlen(entry->d_name);
        found = bytes >= sizeof end && strcmp(entry->d_name + bytes - (sizeof end - 1), end) == 0;
        if (found)
            snprintf(shard, 256, "%s", entry->d_name);
    }
    if (folder)
        closedir(folder);
    return found;
}

sl_status sl_index_open_dir(struct sl_index *index, const char *dir, struct sl_err *err)
{
    *index = (struct sl_index){0};
    char *single = sl_path_join(dir, "model.safetensors");
    char *sharded = sl_path_join(dir, "model.safetensors.index.json");
    char shard[256];
    sl_status status;
    if (!single || !sharded)
        status = sl_fail(err, SL_E_NOMEM, "no memory to open %.200s", dir);
    else if (access(single, F_OK) == 0)
        status = sl_index_open_file(index, single, err);
    else if (access(sharded, F_OK) == 0)
        status = closed_on_error(index, open_sharded(index, dir, sharded, err));
    else if (find_shard(dir, shard))
        status = sl_fail(
            err, SL_E_DATA,
            "%.120s holds shards (%.80s) but no model.safetensors.index.json, which says what is in which; "
            "fetch that file, too",
            dir, shard);
    else
        status = sl_fail(err, SL_E_DATA,
                         "%.150s holds neither model.safetensors nor model.safetensors.index.json; save "
                         "the checkpoint as safetensors (save_pretrained does)",
                         dir);
    free(single);
    free(sharded);
    return status;
}

void sl_index_close(struct sl_index *index)
{
    for (uint32_t i = 0; i < index->n_tensors; i++)
        free((char *)(uintptr_t)index->tensors[i].name);
    for (uint32_t i = 0; i < index->n_files; i++) {
        if (index->files[i].map)
            munmap((void *)(uintptr_t)index->files[i].map, (size_t)index->files[i].bytes);
        if (index->files[i].fd >= 0)
            close(index->files[i].fd);
        free(index->files[i].path);
    }
    free(index->tensors);
    free(index->files);
    *index = (struct sl_index){0};
}

const struct sl_tensor *sl_index_find(const struct sl_index *index, const char *name)
{
    struct sl_tensor key = {.name = name};
    return index->n_tensors ? bsearch(&key, index->tensors, index->n_tensors, sizeof key, by_name) : NULL;
}

const void *sl_index_data(const struct sl_index *index, const struct sl_tensor *tensor)
{
    const uint8_t *map = index->files[tensor->file].map;
    return map ? map + tensor->begin : NULL;
}
