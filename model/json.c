/* Bounded JSON and whole-file reading for the parsers of this room (json_impl.h).
 *
 * The depth is counted by our own scan first: jansson descends recursively, and a header of a
 * hundred million brackets must end in a sentence, not in a used-up stack. The scan knows strings
 * and escapes, nothing more; what it lets through is judged by jansson. */
#include "model/json_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool depth_is_fine(const char *text, size_t bytes)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > SL_JSON_MAX_DEPTH)
                return false;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return true;
}

sl_status sl_json_parse(json_t **root, const char *text, size_t bytes, const char *what, struct sl_err *err)
{
    *root = NULL;
    if (bytes > SL_JSON_MAX_BYTES)
        return sl_fail(err, SL_E_DATA, "%.120s: JSON of %zu bytes; at most %d are read", what, bytes,
                       SL_JSON_MAX_BYTES);
    if (!depth_is_fine(text, bytes))
        return sl_fail(err, SL_E_DATA, "%.120s: JSON nested deeper than %d levels", what, SL_JSON_MAX_DEPTH);
    json_error_t error;
    json_t *value = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!value && json_error_code(&error) == json_error_out_of_memory)
        return sl_fail(err, SL_E_NOMEM, "%.120s: no memory to parse it", what);
    if (!value)
        return sl_fail(err, SL_E_DATA, "%.120s: not valid JSON at byte %d: %.100s", what, error.position,
                       error.text);
    if (!json_is_object(value)) {
        json_decref(value);
        return sl_fail(err, SL_E_DATA, "%.120s: must be a JSON object", what);
    }
    *root = value;
    return SL_OK;
}

static sl_status read_all(int fd, char *to, size_t bytes, const char *path, struct sl_err *err)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t n = read(fd, to + at, bytes - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return sl_fail(err, SL_E_IO, "can't read %.200s: %s", path, strerror(errno));
        if (n == 0)
            return sl_fail(err, SL_E_IO, "%.200s became shorter while it was read", path);
        at += (size_t)n;
    }
    return SL_OK;
}

bool sl_is_lfs_pointer(const void *data, size_t bytes)
{
    static const char begin[] = "version https://git-lfs.github.com/spec/";
    return bytes >= sizeof begin - 1 && memcmp(data, begin, sizeof begin - 1) == 0;
}

sl_status sl_file_read(char **text, size_t *bytes, const char *path, size_t limit, struct sl_err *err)
{
    *text = NULL;
    *bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* or a FIFO in its place is waited for */
    if (fd < 0)
        return sl_fail(err, errno == ENOENT || errno == ENOTDIR ? SL_E_DATA : SL_E_IO,
                       "can't open %.200s: %s", path, strerror(errno));
    struct stat st;
    sl_status status = SL_OK;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        status = sl_fail(err, SL_E_DATA, "%.200s is not a regular file", path);
    else if ((uint64_t)st.st_size > limit)
        status = sl_fail(err, SL_E_DATA, "%.200s has %lld bytes; at most %zu are read", path,
                         (long long)st.st_size, limit);
    char *buffer = status == SL_OK ? malloc((size_t)st.st_size + 1) : NULL;
    if (status == SL_OK && !buffer)
        status = sl_fail(err, SL_E_NOMEM, "no memory to read %.200s", path);
    if (status == SL_OK)
        status = read_all(fd, buffer, (size_t)st.st_size, path, err);
    if (status == SL_OK && sl_is_lfs_pointer(buffer, (size_t)st.st_size))
        status = sl_fail(err, SL_E_DATA, SL_LFS_SENTENCE, path);
    close(fd);
    if (status != SL_OK) {
        free(buffer);
        return status;
    }
    buffer[st.st_size] = '\0';
    *text = buffer;
    *bytes = (size_t)st.st_size;
    return SL_OK;
}

sl_status sl_json_read(json_t **root, const char *path, size_t limit, struct sl_err *err)
{
    *root = NULL;
    char *text;
    size_t bytes;
    SL_TRY(sl_file_read(&text, &bytes, path, limit, err));
    sl_status status = sl_json_parse(root, text, bytes, path, err);
    free(text);
    return status;
}

char *sl_path_join(const char *dir, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

bool sl_name_is_plain(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strlen(name) <= 200 && !strchr(name, '/') &&
           !strstr(name, "..");
}
