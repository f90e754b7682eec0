/* YAML, read scalar by scalar: each with the path of keys that leads to it ("nodes.0.memory-gb"; what is in a list is counted).
 * Anchors, tags and further documents are refused rather than half understood. The only place that knows libyaml. */
#ifndef SL_NODE_COMMAND_YAML_H
#define SL_NODE_COMMAND_YAML_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

enum { SL_YAML_BYTES = 1 << 20, SL_YAML_PATH = 160, SL_YAML_DEPTH = 6 };

struct sl_yaml_scalar {
    const char *path, *key, *value; /* key: the last of the path; all valid during the call */
    uint32_t depth;                 /* 1: of the file's one mapping */
    bool in_list;                   /* it, or something above it, is of a list */
    size_t line;
};
typedef sl_status sl_yaml_take(void *user, const struct sl_yaml_scalar *scalar, struct sl_err *err);

/* In the order of the text; a file of comments has no scalar. SL_E_CONFIG: it is not YAML, or not a mapping, or deeper than
 * SL_YAML_DEPTH; or what take returned. name: for sentences. */
sl_status sl_yaml_parse(const char *name, const char *text, size_t bytes, sl_yaml_take *take, void *user,
                        struct sl_err *err);
/* The same of a file, of at most SL_YAML_BYTES. what: "the configuration file". */
sl_status sl_yaml_read(const char *what, const char *path, sl_yaml_take *take, void *user,
                       struct sl_err *err);

#endif
