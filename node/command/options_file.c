/* The configuration file of --config: YAML (yaml.h), one flat mapping from option names to scalars, for example
 *
 *     threads: 4
 *     listen: 127.0.0.1:50051
 *
 * What is nested is refused rather than half understood. */
#include "node/command/options_impl.h"
#include "node/command/yaml.h"

#include <string.h>

struct file {
    const char *path;
    sl_status (*take)(void *user, const char *key, const char *value, struct sl_err *err);
    void *user;
};

static sl_status take_flat(void *user, const struct sl_yaml_scalar *s, struct sl_err *err)
{
    struct file *file = user;
    if (s->depth != 1 || s->in_list || strlen(s->key) >= SL_OPTION_NAME)
        return sl_fail(err, SL_E_CONFIG, "%s, line %zu: the file must be one flat list of `option: value`",
                       file->path, s->line);
    return file->take(file->user, s->key, s->value, err);
}

sl_status sl_options_file_read(const char *path,
                               sl_status (*take)(void *user, const char *key, const char *value,
                                                 struct sl_err *err),
                               void *user, struct sl_err *err)
{
    struct file file = {path, take, user};
    return sl_yaml_read("the configuration file", path, take_flat, &file, err);
}
