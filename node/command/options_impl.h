/* Shared by options.c, which knows the table, and options_file.c, which knows YAML and nothing of
 * types: a file is handed over key by key, as text. Private to those two. */
#ifndef SL_NODE_COMMAND_OPTIONS_IMPL_H
#define SL_NODE_COMMAND_OPTIONS_IMPL_H

#include "node/command/options.h"

/* Calls take(user, key, value, err) for each `key: value` of the file, in order; key and value are
 * valid during the call. SL_E_CONFIG: no such file, not YAML, not one flat mapping of scalars; or
 * what take returned. */
sl_status sl_options_file_read(const char *path,
                               sl_status (*take)(void *user, const char *key, const char *value,
                                                 struct sl_err *err),
                               void *user, struct sl_err *err);

#endif
