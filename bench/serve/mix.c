/* Files that say what a load is: the mix of classes (JSON), and prompts from a text or a JSONL file (workload.h). */
#include "bench/serve/workload.h"
#include "model/json_impl.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIX_BYTES = 1 << 20, CORPUS_BYTES = 256 << 20, IDS_MAX = 1 << 22 };

/* ---- members of a class ---- */

enum member_kind { NUMBER, WHOLE, STRING, LENGTH };
struct member {
    const char *key;
    enum member_kind kind;
    size_t offset;
    double minimum, maximum;
};

#define OF(field) offsetof(struct sl_load_class, field)
static const struct member members[] = {
    {"rate", NUMBER, OF(rate), 1e-6, 1e6},
    {"concurrency", WHOLE, OF(concurrency), 1, 65536},
    {"trace_speed", NUMBER, OF(trace_speed), 1e-6, 1e6},
    {"requests", WHOLE, OF(n_requests), 1, 1 << 24},
    {"input", LENGTH, OF(input), 0, 0},
    {"output", LENGTH, OF(output), 0, 0},
    {"prefix_groups", WHOLE, OF(prefix_groups), 0, 1 << 24},
    {"prefix_tokens", WHOLE, OF(prefix_tokens), 0, SL_LOAD_MAX_TOKENS},
    {"turns", WHOLE, OF(turns), 1, 1000},
    {"think_ms", WHOLE, OF(think_ms), 0, 3600000},
    {"deadline_ms", WHOLE, OF(deadline_ms), 1, 3600000},
};
static const struct member slo_members[] = {
    {"ttft", NUMBER, OF(limits.ttft_ms), 0, 1e9},
    {"tpot", NUMBER, OF(limits.tpot_ms), 0, 1e9},
    {"e2e", NUMBER, OF(limits.e2e_ms), 0, 1e9},
};
static const struct member cancel_members[] = {
    {"share", NUMBER, OF(cancel_share), 0, 1},
    {"tokens", WHOLE, OF(cancel_tokens), 1, SL_LOAD_MAX_TOKENS},
    {"ms", WHOLE, OF(cancel_ms), 1, 3600000},
};
#undef OF

static sl_status take_length(struct sl_length *length, const json_t *value, struct sl_err *err)
{
    char text[32];
    if (json_is_string(value))
        return sl_length_parse(length, json_string_value(value), err);
    snprintf(text, sizeof text, "%.17g", json_is_number(value) ? json_number_value(value) : 0);
    return sl_length_parse(length, text, err);
}

static sl_status take_member(struct sl_load_class *c, const struct member *m, const json_t *value,
                             struct sl_err *err)
{
    void *field = (char *)c + m->offset;
    if (m->kind == LENGTH)
        return take_length(field, value, err);
    double number = json_is_number(value) ? json_number_value(value) : NAN;
    if (!(number >= m->minimum && number <= m->maximum) || (m->kind == WHOLE && number != floor(number)))
        return sl_fail(err, SL_E_DATA, "\"%s\" is no %snumber from %.10g to %.10g", m->key,
                       m->kind == WHOLE ? "whole " : "", m->minimum, m->maximum);
    if (m->kind == WHOLE)
        *(uint32_t *)field = (uint32_t)number;
    else
        *(double *)field = number;
    return SL_OK;
}

static sl_status take_members(struct sl_load_class *c, const struct member *list, size_t n, json_t *object,
                              const char *of, struct sl_err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return sl_fail(err, SL_E_DATA, "\"%s\" is no object", of);
    json_object_foreach(object, key, value)
    {
        size_t i = 0;
        while (i < n && strcmp(list[i].key, key) != 0)
            i++;
        if (i == n)
            return sl_fail(err, SL_E_DATA, "\"%.40s\" is no member of \"%s\"", key, of);
        SL_TRY(take_member(c, &list[i], value, err));
    }
    return SL_OK;
}

static sl_status take_headers(struct sl_load_class *c, json_t *object, struct sl_err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return sl_fail(err, SL_E_DATA, "\"headers\" is no object");
    json_object_foreach(object, key, value)
    {
        char line[1024];
        if (!json_is_string(value))
            return sl_fail(err, SL_E_DATA, "header \"%.40s\" is no string", key);
        if (snprintf(line, sizeof line, "%s: %s", key, json_string_value(value)) >= (int)sizeof line)
            return sl_fail(err, SL_E_DATA, "header \"%.40s\" has more than a kilobyte", key);
        SL_TRY(sl_load_class_header(c, line, err));
    }
    return SL_OK;
}

/* The members that are not numbers. *known: it was one. */
static sl_status take_other(struct sl_load_class *c, const char *key, json_t *value, bool *known,
                            struct sl_err *err)
{
    const char *text = json_string_value(value);
    *known = true;
    if (strcmp(key, "slo") == 0)
        return take_members(c, slo_members, sizeof slo_members / sizeof *slo_members, value, key, err);
    if (strcmp(key, "cancel") == 0)
        return take_members(c, cancel_members, sizeof cancel_members / sizeof *cancel_members, value, key,
                            err);
    if (strcmp(key, "headers") == 0)
        return take_headers(c, value, err);
    bool is_text = strcmp(key, "name") == 0 || strcmp(key, "arrivals") == 0 || strcmp(key, "trace") == 0 ||
                   strcmp(key, "prompts") == 0;
    if (is_text && !text)
        return sl_fail(err, SL_E_DATA, "\"%s\" is no string", key);
    if (strcmp(key, "name") == 0)
        snprintf(c->name, sizeof c->name, "%s", text);
    else if (strcmp(key, "arrivals") == 0)
        return sl_arrivals_parse(&c->arrivals, text, err);
    else if (strcmp(key, "trace") == 0 && !c->trace)
        return sl_arrival_trace_read(&c->trace, text, 0, err);
    else if (strcmp(key, "prompts") == 0 && !c->corpus)
        return sl_corpus_read(&c->corpus, text, err);
    else
        *known = is_text;
    return SL_OK;
}

static sl_status take_class(struct sl_load_class *c, json_t *object, struct sl_err *err)
{
    enum { N = sizeof members / sizeof *members };
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return sl_fail(err, SL_E_DATA, "it is no object");
    json_object_foreach(object, key, value)
    {
        size_t i = 0;
        bool known;
        while (i < N && strcmp(members[i].key, key) != 0)
            i++;
        SL_TRY(i < N ? (known = true, take_member(c, &members[i], value, err))
                     : take_other(c, key, value, &known, err));
        if (!known)
            return sl_fail(err, SL_E_DATA, "\"%.40s\" is no member of a class", key);
    }
    return SL_OK;
}

static sl_status take_root(struct sl_workload *w, json_t *root, const char *path, struct sl_err *err)
{
    json_t *list = json_object_get(root, "classes");
    size_t n = json_array_size(list);
    if (json_object_size(root) != 1 || n == 0 || n > SL_LOAD_CLASSES)
        return sl_fail(err, SL_E_DATA, "%.150s: a mix is {\"classes\": [...]} with 1 to %d of them", path,
                       SL_LOAD_CLASSES);
    for (size_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "class-%zu", i);
        struct sl_load_class *c = &w->classes[w->n_classes++];
        sl_load_class_init(c, name);
        if (take_class(c, json_array_get(list, i), err) != SL_OK)
            return sl_err_prefix(err, "%.150s, class %zu", path, i);
    }
    return SL_OK;
}

sl_status sl_mix_parse(struct sl_workload *workload, const char *text, size_t bytes, const char *name,
                       struct sl_err *err)
{
    json_t *root;
    SL_TRY(sl_json_parse(&root, text, bytes, name, err));
    workload->n_classes = 0;
    sl_status status = take_root(workload, root, name, err);
    json_decref(root);
    return status;
}

sl_status sl_mix_read(struct sl_workload *workload, const char *path, struct sl_err *err)
{
    char *text;
    size_t bytes;
    SL_TRY(sl_file_read(&text, &bytes, path, MIX_BYTES, err));
    sl_status status = sl_mix_parse(workload, text, bytes, path, err);
    free(text);
    return status;
}

/* ---- prompts from a file ---- */

static sl_status take_ids(struct sl_corpus_line *line, const json_t *list, struct sl_err *err)
{
    size_t n = json_array_size(list);
    if (n == 0 || n > IDS_MAX)
        return sl_fail(err, SL_E_DATA, "its input_ids are no list of 1 to %d ids", IDS_MAX);
    uint32_t *ids = malloc(n * sizeof *ids);
    if (!ids)
        return sl_fail(err, SL_E_NOMEM, "no memory for prompts");
    line->ids = ids;
    for (size_t i = 0; i < n; i++) {
        json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > UINT32_MAX)
            return sl_fail(err, SL_E_DATA, "its input_ids have something that is no id");
        ids[i] = (uint32_t)json_integer_value(id);
    }
    line->n_ids = (uint32_t)n;
    return SL_OK;
}

static sl_status take_prompt(struct sl_corpus_line *line, json_t *root, struct sl_err *err)
{
    json_t *prompt = json_object_get(root, "prompt"), *ids = json_object_get(root, "input_ids");
    json_t *messages = json_object_get(root, "messages"), *output = json_object_get(root, "output_tokens");
    json_int_t tokens = json_is_integer(output) ? json_integer_value(output) : 0;
    if (output && (tokens < 1 || tokens > SL_LOAD_MAX_TOKENS))
        return sl_fail(err, SL_E_DATA, "its output_tokens are no number from 1 to %d", SL_LOAD_MAX_TOKENS);
    line->output_tokens = (uint32_t)tokens;
    if (ids)
        return take_ids(line, ids, err);
    if (json_is_string(prompt))
        line->text = strdup(json_string_value(prompt));
    else if (json_is_array(messages))
        line->messages = json_dumps(messages, JSON_COMPACT);
    else
        return sl_fail(err, SL_E_DATA, "it has no prompt, input_ids or messages");
    return line->text || line->messages ? SL_OK : sl_fail(err, SL_E_NOMEM, "no memory for prompts");
}

static sl_status take_lines(struct sl_corpus *corpus, const char *path, struct sl_err *err)
{
    uint32_t room = 0, number = 0;
    for (char *at = corpus->text, *end; *at; at = end) {
        end = at + strcspn(at, "\n");
        size_t n = (size_t)(end - at);
        end += *end == '\n';
        number++;
        if (strspn(at, " \t\r") >= n)
            continue;
        if (corpus->n_lines == room) {
            room = room ? 2 * room : 256;
            struct sl_corpus_line *grown = realloc(corpus->lines, room * sizeof *grown);
            if (!grown)
                return sl_fail(err, SL_E_NOMEM, "no memory for prompts");
            corpus->lines = grown;
        }
        json_t *root;
        char what[32];
        snprintf(what, sizeof what, "line %u", number);
        struct sl_corpus_line *line = &corpus->lines[corpus->n_lines++];
        *line = (struct sl_corpus_line){0};
        sl_status status = sl_json_parse(&root, at, n, what, err);
        if (status == SL_OK) {
            status = take_prompt(line, root, err) == SL_OK ? SL_OK : sl_err_prefix(err, "%s", what);
            json_decref(root);
        }
        if (status != SL_OK)
            return sl_err_prefix(err, "%.150s", path);
    }
    return corpus->n_lines ? SL_OK : sl_fail(err, SL_E_DATA, "%.200s has no lines", path);
}

/* Takes the text, also when it fails. */
sl_status sl_corpus_parse(struct sl_corpus **out, char *text, size_t bytes, const char *name,
                          struct sl_err *err)
{
    struct sl_corpus *corpus = calloc(1, sizeof *corpus);
    size_t n = strlen(name);
    *out = NULL;
    if (!corpus) {
        free(text);
        return sl_fail(err, SL_E_NOMEM, "no memory for prompts");
    }
    corpus->text = text;
    corpus->bytes = bytes;
    sl_status status = SL_OK;
    if (bytes == 0 || strlen(text) < bytes)
        status = sl_fail(err, SL_E_DATA, "%.200s is empty, or no text", name);
    if (status == SL_OK && n > 6 && strcmp(name + n - 6, ".jsonl") == 0)
        status = take_lines(corpus, name, err);
    if (status == SL_OK)
        *out = corpus;
    else
        sl_corpus_free(corpus);
    return status;
}

sl_status sl_corpus_read(struct sl_corpus **out, const char *path, struct sl_err *err)
{
    char *text;
    size_t bytes;
    *out = NULL;
    SL_TRY(sl_file_read(&text, &bytes, path, CORPUS_BYTES, err));
    return sl_corpus_parse(out, text, bytes, path, err);
}

void sl_corpus_free(struct sl_corpus *corpus)
{
    if (!corpus)
        return;
    for (uint32_t i = 0; i < corpus->n_lines; i++) {
        free((void *)(uintptr_t)corpus->lines[i].text);
        free((void *)(uintptr_t)corpus->lines[i].messages);
        free((void *)(uintptr_t)corpus->lines[i].ids);
    }
    free(corpus->lines);
    free(corpus->text);
    free(corpus);
}
