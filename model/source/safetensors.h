/* A reader and a writer of safetensors files: names, dtypes, shapes, extents. Knows no model.
 * Every rule of the format is enforced before a byte of data is believed. */
#ifndef SL_MODEL_SOURCE_SAFETENSORS_H
#define SL_MODEL_SOURCE_SAFETENSORS_H

#include "base/status.h"
#include <stdint.h>

enum { SL_MAX_RANK = 8 };

/* OTHER: legal, but we cannot compute with it */
enum sl_tensor_type { SL_T_BF16, SL_T_F16, SL_T_F32, SL_T_OTHER };

struct sl_tensor {
    const char *name; /* owned by the index */
    enum sl_tensor_type type;
    char dtype[12]; /* as written */
    uint32_t rank;
    uint64_t shape[SL_MAX_RANK];
    uint64_t begin, end; /* within the file */
    uint32_t file;       /* index into files */
};

struct sl_st_file {
    char *path;
    const uint8_t *map; /* the whole file, read-only, or NULL when only the header was read */
    uint64_t bytes;
    int fd;
};

struct sl_index {
    struct sl_tensor *tensors; /* sorted by name */
    uint32_t n_tensors;
    struct sl_st_file *files;
    uint32_t n_files;
};

/* Parse one header. file_bytes: size of the whole file; head: its first head_bytes bytes (>= 8 + N are needed). */
sl_status sl_safetensors_parse(struct sl_index *index, const uint8_t *head, size_t head_bytes,
                               uint64_t file_bytes, const char *name, struct sl_err *err);
/* One file, mapped. */
sl_status sl_index_open_file(struct sl_index *index, const char *path, struct sl_err *err);
/* The same in two steps, for who checks the bytes before it believes any: mapped, without a tensor; then its header. After an
 * error of the second the index is still to be closed. */
sl_status sl_index_map_file(struct sl_index *index, const char *path, struct sl_err *err);
sl_status sl_index_read_header(struct sl_index *index, struct sl_err *err);
/* A checkpoint directory: model.safetensors, or model.safetensors.index.json and its shards (which must stay inside DIR). */
sl_status sl_index_open_dir(struct sl_index *index, const char *dir, struct sl_err *err);
void sl_index_close(struct sl_index *index); /* a zeroed index is fine */

const struct sl_tensor *sl_index_find(const struct sl_index *index, const char *name);
const void *sl_index_data(const struct sl_index *index, const struct sl_tensor *tensor);

#endif
