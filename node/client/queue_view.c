/* JSON of /debug/schedule, read without trust: another version, or who knows what, may answer at that port. */
#include "node/client/queue_view.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

static double number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static uint32_t count(const json_t *object, const char *name)
{
    double value = number(object, name);
    return value >= 0 && value <= UINT32_MAX ? (uint32_t)value : 0;
}

void sl_printable(char *out, size_t room, const char *text)
{
    size_t n = 0;
    for (; *text && n + 1 < room; text++)
        out[n++] = (unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text;
    if (*text) /* cut: not within a character */
        while (n > 0 && ((unsigned char)text[0] & 0xc0) == 0x80) {
            text--;
            n--;
        }
    out[n] = 0;
}

static void read_name(char out[SL_QUEUE_NAME], const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    sl_printable(out, SL_QUEUE_NAME, text ? text : "");
}

bool sl_queue_view_read(struct sl_queue_view *view, const char *json, size_t bytes)
{
    *view = (struct sl_queue_view){0};
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, NULL);
    const json_t *queue = json_object_get(root, "queue"), *pages = json_object_get(root, "pages");
    if (!json_is_array(queue) || !json_is_object(pages)) {
        json_decref(root);
        return false;
    }
    view->runs_in_flight = count(root, "runs_in_flight");
    view->max_runs = count(root, "max_runs");
    view->requests = count(root, "requests");
    view->budget_ms = number(root, "budget_ms");
    view->stage_pages = count(pages, "stages");
    view->cached_pages = count(pages, "cached");
    view->decode_pages = count(pages, "decode");
    view->all_pages = count(pages, "of");
    for (size_t i = 0; i < json_array_size(queue) && view->n < SL_QUEUE_ROWS; i++) {
        const json_t *entry = json_array_get(queue, i);
        struct sl_queue_row *row = &view->rows[view->n++];
        read_name(row->request, entry, "request");
        read_name(row->tenant, entry, "tenant");
        row->prompt_tokens = count(entry, "prompt_tokens");
        row->tokens_cut = count(entry, "tokens_cut");
        row->admitted = json_is_true(json_object_get(entry, "admitted"));
        row->late = json_is_true(json_object_get(entry, "late"));
        row->due_ms = number(entry, "due_ms");
        row->begin_ms = number(entry, "predicted_begin_ms");
    }
    json_decref(root);
    return true;
}
