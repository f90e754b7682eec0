/* The reader of yaml.h: libyaml's events with a stack of where they are. */
#include "node/command/yaml.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct level {
    bool is_list;
    uint32_t n;    /* items so far */
    size_t parent; /* bytes of the path above it */
    bool has_key;  /* of a mapping: its value is next */
};

struct reader {
    const char *name;
    yaml_parser_t parser;
    yaml_event_t event;
    char path[SL_YAML_PATH];
    size_t path_bytes, key_at;
    struct level levels[SL_YAML_DEPTH];
    uint32_t depth;
};

static sl_status next(struct reader *r, struct sl_err *err)
{
    yaml_event_delete(&r->event);
    if (yaml_parser_parse(&r->parser, &r->event))
        return SL_OK;
    memset(&r->event, 0, sizeof r->event);
    return sl_fail(err, SL_E_CONFIG, "%s is not YAML: %s at line %zu; write one `key: value` per line",
                   r->name, r->parser.problem ? r->parser.problem : "it cannot be read",
                   r->parser.problem_mark.line + 1);
}

static sl_status refuse(const struct reader *r, const char *why, struct sl_err *err)
{
    return sl_fail(err, SL_E_CONFIG, "%s, line %zu: %s", r->name, r->event.start_mark.line + 1, why);
}

/* What is next of this level gets its piece of the path. */
static sl_status extend(struct reader *r, const char *piece, struct sl_err *err)
{
    struct level *level = &r->levels[r->depth - 1];
    size_t bytes = strlen(piece), dot = level->parent > 0;
    if (level->parent + dot + bytes >= sizeof r->path)
        return refuse(r, "a key is longer than any that is known", err);
    if (dot)
        r->path[level->parent] = '.';
    r->key_at = level->parent + dot;
    memcpy(r->path + r->key_at, piece, bytes + 1);
    r->path_bytes = r->key_at + bytes;
    return SL_OK;
}

static sl_status number(struct reader *r, struct sl_err *err)
{
    char piece[16];
    snprintf(piece, sizeof piece, "%u", r->levels[r->depth - 1].n++);
    return extend(r, piece, err);
}

static bool has_zero(const yaml_event_t *event)
{
    return strlen((const char *)event->data.scalar.value) != event->data.scalar.length;
}

static sl_status scalar(struct reader *r, sl_yaml_take *take, void *user, struct sl_err *err)
{
    struct level *level = &r->levels[r->depth - 1];
    const char *text = (const char *)r->event.data.scalar.value;
    if (has_zero(&r->event))
        return refuse(r, "a byte of 0 is in no value", err);
    if (!level->is_list && !level->has_key) {
        level->has_key = true;
        return extend(r, text, err);
    }
    if (level->is_list)
        SL_TRY(number(r, err));
    else
        level->n++;
    level->has_key = false;
    struct sl_yaml_scalar s = {.path = r->path,
                               .key = r->path + r->key_at,
                               .value = text,
                               .depth = r->depth,
                               .line = r->event.start_mark.line + 1};
    for (uint32_t i = 0; i < r->depth; i++)
        s.in_list = s.in_list || r->levels[i].is_list;
    return take(user, &s, err);
}

static sl_status begin(struct reader *r, bool is_list, struct sl_err *err)
{
    struct level *above = r->depth > 0 ? &r->levels[r->depth - 1] : NULL;
    if (above && !above->is_list && !above->has_key)
        return refuse(r, "a key is a word and nothing else", err);
    if (above && above->is_list)
        SL_TRY(number(r, err));
    if (above)
        above->has_key = false;
    if (r->depth == SL_YAML_DEPTH)
        return refuse(r, "it is nested deeper than anything that is known", err);
    if (above && !above->is_list)
        r->levels[r->depth - 1].n++;
    r->levels[r->depth++] = (struct level){.is_list = is_list, .parent = r->path_bytes};
    return SL_OK;
}

/* An empty one says so with a scalar of its own: not every reader may pass over it. */
static sl_status end(struct reader *r, sl_yaml_take *take, void *user, struct sl_err *err)
{
    struct level *level = &r->levels[r->depth - 1];
    struct sl_yaml_scalar s = {.path = r->path,
                               .value = "",
                               .depth = r->depth,
                               .in_list = true,
                               .line = r->event.start_mark.line + 1};
    r->path[level->parent] = 0;
    r->path_bytes = level->parent;
    const char *dot = strrchr(r->path, '.');
    s.key = dot ? dot + 1 : r->path;
    r->depth--;
    return level->n > 0 || r->depth == 0 ? SL_OK : take(user, &s, err);
}

static sl_status one(struct reader *r, sl_yaml_take *take, void *user, struct sl_err *err)
{
    switch (r->event.type) {
    case YAML_SCALAR_EVENT:
        return scalar(r, take, user, err);
    case YAML_MAPPING_START_EVENT:
        return begin(r, false, err);
    case YAML_SEQUENCE_START_EVENT:
        return begin(r, true, err);
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        return end(r, take, user, err);
    default:
        return refuse(r, "anchors and aliases are not understood; write the value out", err);
    }
}

static sl_status read_events(struct reader *r, sl_yaml_take *take, void *user, struct sl_err *err)
{
    SL_TRY(next(r, err)); /* stream start */
    SL_TRY(next(r, err));
    if (r->event.type == YAML_STREAM_END_EVENT)
        return SL_OK; /* an empty file */
    SL_TRY(next(r, err));
    if (r->event.type == YAML_SCALAR_EVENT && r->event.data.scalar.length == 0)
        return SL_OK; /* only comments */
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return refuse(r, "the file must be one flat list of `option: value`, or of what it describes", err);
    do {
        SL_TRY(one(r, take, user, err));
        if (r->depth > 0)
            SL_TRY(next(r, err));
    } while (r->depth > 0);
    SL_TRY(next(r, err)); /* document end */
    SL_TRY(next(r, err));
    return r->event.type == YAML_STREAM_END_EVENT
               ? SL_OK
               : refuse(r, "there is a second document; leave it out", err);
}

sl_status sl_yaml_parse(const char *name, const char *text, size_t bytes, sl_yaml_take *take, void *user,
                        struct sl_err *err)
{
    struct reader r = {.name = name};
    if (!yaml_parser_initialize(&r.parser))
        return sl_fail(err, SL_E_NOMEM, "no memory to read %s", name);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, bytes);
    sl_status status = read_events(&r, take, user, err);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    return status;
}

sl_status sl_yaml_read(const char *what, const char *path, sl_yaml_take *take, void *user, struct sl_err *err)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return sl_fail(err, SL_E_CONFIG, "%s %s cannot be opened: %s", what, path, strerror(errno));
    char *text = malloc(SL_YAML_BYTES + 1);
    size_t bytes = text ? fread(text, 1, SL_YAML_BYTES + 1, file) : 0;
    bool failed = ferror(file);
    fclose(file);
    sl_status status =
        !text    ? sl_fail(err, SL_E_NOMEM, "no memory to read %s", path)
        : failed ? sl_fail(err, SL_E_CONFIG, "%s %s cannot be read: %s", what, path, strerror(errno))
        : bytes > SL_YAML_BYTES
            ? sl_fail(err, SL_E_CONFIG, "%s %s is longer than %d bytes", what, path, SL_YAML_BYTES)
            : sl_yaml_parse(path, text, bytes, take, user, err);
    free(text);
    return status;
}
