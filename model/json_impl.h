/* JSON from outside, read with limits: private to the room. Depth and size are bounded before
 * jansson sees a byte, duplicate keys are refused (readers disagree on which one counts), and an
 * error says where it stands. jansson refuses NaN, Infinity, numbers beyond 64 bits and text that
 * is not UTF-8 by itself. */
#ifndef SL_MODEL_JSON_IMPL_H
#define SL_MODEL_JSON_IMPL_H

#include "base/status.h"
#include <jansson.h>
#include <stdint.h>

enum { SL_JSON_MAX_DEPTH = 16, SL_JSON_MAX_BYTES = 100 * 1000 * 1000 };

/* `what` names the text in errors: a path as a rule. The root is an object, or it is refused. */
sl_status sl_json_parse(json_t **root, const char *text, size_t bytes, const char *what, struct sl_err *err);

/* What git leaves in place of a large file that was not fetched; SL_LFS_SENTENCE takes its path. */
bool sl_is_lfs_pointer(const void *data, size_t bytes);
#define SL_LFS_SENTENCE "%.200s is a git-lfs pointer, not the file itself; run `git lfs pull` in its folder"
/* A whole file of at most `limit` bytes; *text is malloc'ed and terminated by a zero that does not
 * count. */
sl_status sl_file_read(char **text, size_t *bytes, const char *path, size_t limit, struct sl_err *err);
sl_status sl_json_read(json_t **root, const char *path, size_t limit, struct sl_err *err);

/* "a/b" in fresh memory, or NULL. */
char *sl_path_join(const char *dir, const char *name);
/* A name that stays in its directory: no '/', no "..", not empty, not hidden, at most 200 bytes. */
bool sl_name_is_plain(const char *name);

#endif
