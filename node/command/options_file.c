/* The configuration file of --config: YAML, one flat mapping from option names to scalars, for
 * example
 *
 *     threads: 4
 *     listen: 127.0.0.1:50051
 *
 * A nested value, an anchor or a second document is refused rather than half understood. The only
 * place that knows libyaml. */
#include "node/command/options_impl.h"

#include <errno.h>
#include <string.h>
#include <yaml.h>

enum { MAX_FILE_BYTES = 1 << 20 };

struct yaml_reader {
    const char *path;
    yaml_parser_t parser;
    yaml_event_t event;
};

static sl_status next(struct yaml_reader *r, struct sl_err *err)
{
    yaml_event_delete(&r->event);
    if (yaml_parser_parse(&r->parser, &r->event))
        return SL_OK;
    memset(&r->event, 0, sizeof r->event);
    return sl_fail(err, SL_E_CONFIG, "%s is not YAML: %s at line %zu; write one `option: value` per line",
                   r->path, r->parser.problem ? r->parser.problem : "it cannot be read",
                   r->parser.problem_mark.line + 1);
}

static sl_status not_flat(const struct yaml_reader *r, struct sl_err *err)
{
    return sl_fail(err, SL_E_CONFIG, "%s, line %zu: the file must be one flat list of `option: value`",
                   r->path, r->event.start_mark.line + 1);
}

static sl_status read_pair(struct yaml_reader *r,
                           sl_status (*take)(void *user, const char *key, const char *value,
                                             struct sl_err *err),
                           void *user, struct sl_err *err)
{
    if (r->event.type != YAML_SCALAR_EVENT)
        return not_flat(r, err);
    char key[64];
    if (r->event.data.scalar.length >= sizeof key ||
        strlen((char *)r->event.data.scalar.value) != r->event.data.scalar.length)
        return not_flat(r, err);
    memcpy(key, r->event.data.scalar.value, r->event.data.scalar.length + 1);
    SL_TRY(next(r, err));
    if (r->event.type != YAML_SCALAR_EVENT ||
        strlen((char *)r->event.data.scalar.value) != r->event.data.scalar.length)
        return not_flat(r, err);
    return take(user, key, (const char *)r->event.data.scalar.value, err);
}

static sl_status read_events(struct yaml_reader *r,
                             sl_status (*take)(void *user, const char *key, const char *value,
                                               struct sl_err *err),
                             void *user, struct sl_err *err)
{
    SL_TRY(next(r, err)); /* stream start */
    SL_TRY(next(r, err));
    if (r->event.type == YAML_STREAM_END_EVENT)
        return SL_OK; /* an empty file */
    SL_TRY(next(r, err));
    if (r->event.type == YAML_SCALAR_EVENT && r->event.data.scalar.length == 0)
        return SL_OK; /* only comments */
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return not_flat(r, err);
    for (;;) {
        SL_TRY(next(r, err));
        if (r->event.type == YAML_MAPPING_END_EVENT)
            break;
        SL_TRY(read_pair(r, take, user, err));
    }
    SL_TRY(next(r, err)); /* document end */
    SL_TRY(next(r, err));
    return r->event.type == YAML_STREAM_END_EVENT ? SL_OK : not_flat(r, err);
}

static int read_bounded(void *user, unsigned char *buffer, size_t size, size_t *size_read)
{
    FILE *file = user;
    *size_read = fread(buffer, 1, size, file);
    return !ferror(file) && ftell(file) <= MAX_FILE_BYTES;
}

sl_status sl_options_file_read(const char *path,
                               sl_status (*take)(void *user, const char *key, const char *value,
                                                 struct sl_err *err),
                               void *user, struct sl_err *err)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return sl_fail(err, SL_E_CONFIG, "the configuration file %s cannot be opened: %s", path,
                       strerror(errno));
    struct yaml_reader r = {.path = path};
    if (!yaml_parser_initialize(&r.parser)) {
        fclose(file);
        return sl_fail(err, SL_E_NOMEM, "no memory to read %s", path);
    }
    yaml_parser_set_input(&r.parser, read_bounded, file);
    sl_status status = read_events(&r, take, user, err);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    fclose(file);
    return status;
}
