/* Shared by options.c, which knows the table, options_file.c, which knows YAML and nothing of types (a file is handed over key
 * by key, as text), options_environment.c and foreign_options.c, and the man pages and completions (manual.c, completion.c), which say what the help
 * says. Private to those. */
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

enum {
    SL_OPTION_NAME = 64,
    SL_OPTION_LINE = 1024
}; /* room for an option's name or variable, and for what is said of it */

const char *sl_option_placeholder(const struct sl_option *option); /* "N", "HOST:PORT"; "" of a switch */
/* Its help, default, unit and bounds, in sentences. */
void sl_option_text(const struct sl_option *option, char line[SL_OPTION_LINE]);

/* "max-tokens" -> "SLUICE_MAX_TOKENS" */
void sl_option_variable(char out[SL_OPTION_NAME], const char *name);
/* How many letters differ (Levenshtein). */
uint32_t sl_option_distance(const char *a, const char *b);

struct sl_foreign_option {
    const char *name, *ours; /* what other engines call it, and we; NULL: it has no option here, */
    const char *note;        /* and this says why; otherwise its value */
};
/* Ends with name == NULL. */
const struct sl_foreign_option *sl_foreign_options(void);
const struct sl_foreign_option *sl_foreign_option_find(const char *name); /* NULL: nobody's */

#endif
