/* Reading traces (trace.h), a line at a time: a file of ten million rows is no reason for memory. */
#include "bench/serve/trace.h"
#include "model/json_impl.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 1 << 22, SECONDS_MAX = 1000000000, LINE_MAX_BYTES = 1 << 20 };

enum trace_form { UNKNOWN, MOONCAKE, BURSTGPT };

struct trace_reader {
    struct sl_arrival_trace *trace;
    const char *name;
    enum trace_form form;
    uint32_t line, max_rows, room_rows, room_hashes;
    int columns[3]; /* BurstGPT: of time, request and response */
    double first_s, last_s;
    bool full;
};

static sl_status bad(const struct trace_reader *r, struct sl_err *err, const char *what)
{
    return sl_fail(err, SL_E_DATA, "%.150s line %u: %s", r->name, r->line, what);
}

static sl_status grow(void **array, uint32_t *room, uint32_t n, size_t size, struct sl_err *err)
{
    if (n < *room)
        return SL_OK;
    uint32_t more = *room ? 2 * *room : 1024;
    void *grown = realloc(*array, (size_t)more * size);
    if (!grown)
        return sl_fail(err, SL_E_NOMEM, "no memory for the trace; take a part of it with --requests N");
    *array = grown;
    *room = more;
    return SL_OK;
}

static sl_status add_row(struct trace_reader *r, double at_s, double input, double output, struct sl_err *err)
{
    struct sl_arrival_trace *trace = r->trace;
    if (!(at_s >= 0 && at_s <= SECONDS_MAX))
        return bad(r, err, "its time is no number from 0 to 1e9 s");
    if (!(input >= 1 && input <= TOKENS_MAX) || !(output >= 0 && output <= TOKENS_MAX))
        return bad(r, err, "its lengths are no numbers of tokens from 1 to 4194304");
    if (trace->n_rows == SL_TRACE_ROWS)
        return bad(r, err, "more than 4194304 rows; take a part of it with --requests N");
    if (trace->n_rows + trace->n_left_out == 0)
        r->first_s = r->last_s = at_s;
    if (at_s < r->last_s)
        return bad(r, err, "its time is before that of the row above; sort the trace");
    r->last_s = at_s;
    if (output < 1) {
        trace->n_left_out++;
        return SL_OK;
    }
    SL_TRY(grow((void **)&trace->rows, &r->room_rows, trace->n_rows, sizeof *trace->rows, err));
    trace->rows[trace->n_rows++] =
        (struct sl_arrival_row){.at_us = (uint64_t)llround((at_s - r->first_s) * 1e6),
                                .input_tokens = (uint32_t)input,
                                .output_tokens = (uint32_t)output,
                                .first_hash = trace->n_hashes};
    r->full = r->max_rows && trace->n_rows == r->max_rows;
    return SL_OK;
}

/* ---- Mooncake ---- */

static sl_status add_hashes(struct trace_reader *r, const json_t *list, struct sl_err *err)
{
    struct sl_arrival_trace *trace = r->trace;
    struct sl_arrival_row *row = &trace->rows[trace->n_rows - 1];
    size_t n = json_array_size(list), most = (row->input_tokens + SL_TRACE_BLOCK - 1) / SL_TRACE_BLOCK;
    for (size_t i = 0; i < n && i < most; i++) {
        json_t *one = json_array_get(list, i);
        if (!json_is_integer(one))
            return bad(r, err, "hash_ids has something that is no whole number");
        if (trace->n_hashes == SL_TRACE_HASHES)
            return bad(r, err, "more than 67108864 hash_ids; take a part of it with --requests N");
        SL_TRY(grow((void **)&trace->hashes, &r->room_hashes, trace->n_hashes, sizeof *trace->hashes, err));
        trace->hashes[trace->n_hashes++] = (uint64_t)json_integer_value(one);
    }
    row->n_hashes = (uint32_t)(n < most ? n : most);
    return SL_OK;
}

static sl_status mooncake_row(struct trace_reader *r, const json_t *root, struct sl_err *err)
{
    json_t *at = json_object_get(root, "timestamp"), *input = json_object_get(root, "input_length");
    json_t *output = json_object_get(root, "output_length"), *hashes = json_object_get(root, "hash_ids");
    uint32_t before = r->trace->n_rows;
    if (!json_is_number(at) || !json_is_number(input) || !json_is_number(output))
        return bad(r, err, "it has no timestamp, input_length or output_length");
    if (hashes && !json_is_array(hashes))
        return bad(r, err, "its hash_ids are no list");
    SL_TRY(
        add_row(r, json_number_value(at) * 1e-3, json_number_value(input), json_number_value(output), err));
    return hashes && r->trace->n_rows > before ? add_hashes(r, hashes, err) : SL_OK;
}

static sl_status mooncake_line(struct trace_reader *r, const char *line, size_t bytes, struct sl_err *err)
{
    json_t *root;
    struct sl_err why;
    if (sl_json_parse(&root, line, bytes, "it", &why) != SL_OK)
        return bad(r, err, "it is no JSON object");
    sl_status status = mooncake_row(r, root, err);
    json_decref(root);
    return status;
}

/* ---- BurstGPT ---- */

/* The column's text, cut at the comma, or NULL. Its fields have no commas. */
static const char *column(const char *line, int number, char *room, size_t bytes)
{
    for (; number > 0; number--) {
        line = strchr(line, ',');
        if (!line)
            return NULL;
        line++;
    }
    size_t n = strcspn(line, ",\r\n");
    if (n >= bytes)
        return NULL;
    memcpy(room, line, n);
    room[n] = 0;
    return room;
}

static sl_status burstgpt_header(struct trace_reader *r, const char *line, struct sl_err *err)
{
    static const char *const names[] = {"Timestamp", "Request tokens", "Response tokens"};
    char field[64];
    for (int k = 0; k < 3; k++) {
        r->columns[k] = -1;
        for (int i = 0; i < 32 && r->columns[k] < 0; i++) {
            const char *name = column(line, i, field, sizeof field);
            if (name && strcmp(name, names[k]) == 0)
                r->columns[k] = i;
        }
        if (r->columns[k] < 0)
            return sl_fail(
                err, SL_E_DATA,
                "%.150s is no trace: its first line is neither JSON with a timestamp (Mooncake) nor a CSV "
                "header with Timestamp, Request tokens and Response tokens (BurstGPT)",
                r->name);
    }
    r->form = BURSTGPT;
    return SL_OK;
}

static sl_status burstgpt_line(struct trace_reader *r, const char *line, struct sl_err *err)
{
    double values[3];
    for (int k = 0; k < 3; k++) {
        char field[64], *end;
        const char *text = column(line, r->columns[k], field, sizeof field);
        values[k] = text ? strtod(text, &end) : NAN;
        if (!text || !text[0] || *end)
            return bad(r, err, "a column has no number in it");
    }
    return add_row(r, values[0], values[1], values[2], err);
}

/* ---- both ---- */

static sl_status take_line(struct trace_reader *r, const char *line, size_t bytes, struct sl_err *err)
{
    size_t blank = strspn(line, " \t\r\n");
    r->line++;
    if (blank >= bytes)
        return SL_OK;
    if (strlen(line) < bytes)
        return bad(r, err, "it has a zero byte");
    if (r->form == UNKNOWN && line[blank] == '{')
        r->form = MOONCAKE;
    if (r->form == UNKNOWN)
        return burstgpt_header(r, line, err);
    return r->form == MOONCAKE ? mooncake_line(r, line, bytes, err) : burstgpt_line(r, line, err);
}

/* A line with its end, in room of LINE_MAX_BYTES; 0: none is left; more than fits is said as LINE_MAX_BYTES. */
static size_t next_line(FILE *from, char *room)
{
    size_t n = 0;
    for (int c; n < LINE_MAX_BYTES && (c = getc_unlocked(from)) != EOF;) {
        room[n++] = (char)c;
        if (c == '\n')
            break;
    }
    room[n < LINE_MAX_BYTES ? n : n - 1] = 0;
    return n;
}

static sl_status read_lines(struct trace_reader *r, FILE *from, struct sl_err *err)
{
    char *line = malloc(LINE_MAX_BYTES);
    sl_status status = line ? SL_OK : sl_fail(err, SL_E_NOMEM, "no memory for a trace");
    for (size_t n; status == SL_OK && !r->full && (n = next_line(from, line)) > 0;)
        status = n < LINE_MAX_BYTES
                     ? take_line(r, line, n, err)
                     : sl_fail(err, SL_E_DATA, "%.150s line %u: longer than 1 MiB", r->name, r->line + 1);
    free(line);
    if (status == SL_OK && ferror(from))
        status = sl_fail(err, SL_E_IO, "%.200s cannot be read: %s", r->name, strerror(errno));
    if (status == SL_OK && r->trace->n_rows == 0)
        status = sl_fail(err, SL_E_DATA, "%.200s has no rows", r->name);
    return status;
}

static sl_status read_from(struct sl_arrival_trace **trace, FILE *from, const char *name, uint32_t max_rows,
                           struct sl_err *err)
{
    struct trace_reader r = {.trace = calloc(1, sizeof *r.trace), .name = name, .max_rows = max_rows};
    *trace = NULL;
    if (!r.trace)
        return sl_fail(err, SL_E_NOMEM, "no memory for a trace");
    sl_status status = read_lines(&r, from, err);
    if (status == SL_OK)
        *trace = r.trace;
    else
        sl_arrival_trace_free(r.trace);
    return status;
}

sl_status sl_arrival_trace_read(struct sl_arrival_trace **trace, const char *path, uint32_t max_rows,
                                struct sl_err *err)
{
    FILE *from = fopen(path, "rbe");
    *trace = NULL;
    if (!from)
        return sl_fail(err, SL_E_IO, "%.200s cannot be opened: %s", path, strerror(errno));
    sl_status status = read_from(trace, from, path, max_rows, err);
    fclose(from);
    return status;
}

sl_status sl_arrival_trace_parse(struct sl_arrival_trace **trace, const char *text, size_t bytes,
                                 const char *name, uint32_t max_rows, struct sl_err *err)
{
    FILE *from = fmemopen((void *)(uintptr_t)text, bytes ? bytes : 1, "rb");
    *trace = NULL;
    if (!from || bytes == 0) {
        if (from)
            fclose(from);
        return sl_fail(err, SL_E_DATA, "%.200s is empty", name);
    }
    sl_status status = read_from(trace, from, name, max_rows, err);
    fclose(from);
    return status;
}

void sl_arrival_trace_free(struct sl_arrival_trace *trace)
{
    if (!trace)
        return;
    free(trace->rows);
    free(trace->hashes);
    free(trace);
}
