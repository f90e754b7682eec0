/* Reads the prompt of `generate` and `score`. A text keeps every byte of its file, the last newline
 * too: what is scored is what is there. Ids are read strictly: a stray word is a mistake to be
 * named, not a token to be guessed. */
#include "node/client/prompt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROMPT_BYTES = 64 << 20 };

static sl_status read_stream(FILE *from, const char *name, char **text, size_t *bytes, struct sl_err *err)
{
    char *data = NULL;
    size_t used = 0, room = 0;
    for (;;) {
        if (used == room) {
            room = room ? 2 * room : 1 << 16;
            char *more = realloc(data, room);
            if (!more) {
                free(data);
                return sl_fail(err, SL_E_NOMEM, "no memory for %s", name);
            }
            data = more;
        }
        size_t n = fread(data + used, 1, room - used, from);
        used += n;
        if (n == 0 || used > MAX_PROMPT_BYTES)
            break;
    }
    if (ferror(from) || used > MAX_PROMPT_BYTES) {
        bool too_large = !ferror(from);
        int number = errno;
        free(data);
        return too_large ? sl_fail(err, SL_E_DATA, "%s is larger than 64 MiB; give a shorter prompt", name)
                         : sl_fail(err, SL_E_IO, "%s cannot be read: %s", name, strerror(number));
    }
    *text = data;
    *bytes = used;
    return SL_OK;
}

static sl_status read_file(const char *path, char **text, size_t *bytes, struct sl_err *err)
{
    if (strcmp(path, "-") == 0)
        return read_stream(stdin, "standard input", text, bytes, err);
    FILE *from = fopen(path, "rb");
    if (!from)
        return sl_fail(err, SL_E_IO, "%s cannot be opened: %s", path, strerror(errno));
    sl_status status = read_stream(from, path, text, bytes, err);
    fclose(from);
    return status;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static size_t skip_blanks(const char *text, size_t at, size_t bytes)
{
    while (at < bytes && is_blank(text[at]))
        at++;
    return at;
}

/* One number at *at; false when there is none or it does not fit. */
static bool parse_id(const char *text, size_t bytes, size_t *at, uint32_t *id)
{
    uint64_t value = 0;
    size_t begin = *at;
    while (*at < bytes && text[*at] >= '0' && text[*at] <= '9' && value <= UINT32_MAX)
        value = 10 * value + (uint64_t)(text[(*at)++] - '0');
    *id = (uint32_t)value;
    bool ended = *at == bytes || is_blank(text[*at]) || text[*at] == ',' || text[*at] == ']';
    return *at > begin && value <= UINT32_MAX && ended;
}

sl_status sl_prompt_parse_ids(struct sl_prompt *prompt, const char *text, size_t bytes, const char *name,
                              struct sl_err *err)
{
    uint32_t *ids = malloc((bytes / 2 + 1) * sizeof *ids),
             n = 0; /* an id and what parts it from the next: two bytes */
    if (!ids)
        return sl_fail(err, SL_E_NOMEM, "no memory for the token ids of %s", name);
    size_t at = skip_blanks(text, 0, bytes);
    bool list = at < bytes && text[at] == '[', comma = false, closed = false, whole = true;
    if (list)
        at = skip_blanks(text, at + 1, bytes);
    while (at < bytes && text[at] != ']') {
        whole = parse_id(text, bytes, &at, &ids[n]);
        if (!whole)
            break;
        n++;
        at = skip_blanks(text, at, bytes);
        comma = at < bytes && text[at] == ',';
        if (comma)
            at = skip_blanks(text, at + 1, bytes);
        else if (list)
            break;
    }
    if (list && at < bytes && text[at] == ']' && !comma) {
        closed = true;
        at = skip_blanks(text, at + 1, bytes);
    }
    if (!whole || at < bytes || list != closed || comma) {
        free(ids);
        return sl_fail(err, SL_E_DATA,
                       "%s is not a list of token ids (byte %zu); write whole numbers, [1, 2, 3]", name, at);
    }
    prompt->ids = ids;
    prompt->n_ids = n;
    return SL_OK;
}

sl_status sl_prompt_read(struct sl_prompt *prompt, const char *text, const char *file, const char *ids_file,
                         const struct sl_tokenizer *tokenizer, struct sl_err *err)
{
    memset(prompt, 0, sizeof *prompt);
    char *data = NULL;
    size_t bytes = text ? strlen(text) : 0;
    if (!text)
        SL_TRY(read_file(file ? file : ids_file, &data, &bytes, err));
    sl_status status = ids_file ? sl_prompt_parse_ids(prompt, data, bytes, ids_file, err)
                                : sl_tokenizer_encode(tokenizer, text ? text : data, bytes, &prompt->ids,
                                                      &prompt->n_ids, err);
    free(data);
    if (status == SL_E_INVALID && file)
        status = sl_err_prefix(err, "%s", file);
    if (status == SL_OK && prompt->n_ids == 0) {
        sl_prompt_free(prompt);
        return sl_fail(err, SL_E_USAGE, "the prompt is empty; give at least one token");
    }
    return status;
}

void sl_prompt_free(struct sl_prompt *prompt)
{
    free(prompt->ids);
    memset(prompt, 0, sizeof *prompt);
}
