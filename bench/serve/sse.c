/* Server-sent events (sse.h), after the WHATWG text: fields by line, an empty line sends the event. */
#include "bench/serve/sse.h"
#include <stdlib.h>
#include <string.h>

static sl_status append(char **to, size_t *used, size_t *room, const char *bytes, size_t n)
{
    if (n >= SL_SSE_MAX_EVENT - *used)
        return SL_E_PROTOCOL;
    if (*used + n + 1 > *room) {
        size_t more = 2 * (*used + n + 1);
        char *grown = realloc(*to, more);
        if (!grown)
            return SL_E_NOMEM;
        *to = grown;
        *room = more;
    }
    if (n > 0)
        memcpy(*to + *used, bytes, n);
    *used += n;
    (*to)[*used] = 0;
    return SL_OK;
}

static void send_event(struct sl_sse *sse, sl_sse_fn *fn, void *user)
{
    if (sse->has_data)
        fn(user, sse->data, sse->data_used);
    sse->has_data = false;
    sse->data_used = 0;
}

static sl_status take_line(struct sl_sse *sse, const char *line, size_t n, sl_sse_fn *fn, void *user)
{
    if (n == 0) {
        send_event(sse, fn, user);
        return SL_OK;
    }
    if (n < 5 || memcmp(line, "data:", 5) != 0)
        return SL_OK;
    line += 5;
    n -= 5;
    if (n > 0 && line[0] == ' ') {
        line++;
        n--;
    }
    if (sse->has_data)
        SL_TRY(append(&sse->data, &sse->data_used, &sse->data_room, "\n", 1));
    sse->has_data = true;
    return append(&sse->data, &sse->data_used, &sse->data_room, line, n);
}

sl_status sl_sse_feed(struct sl_sse *sse, const char *bytes, size_t n, sl_sse_fn *fn, void *user)
{
    size_t at = 0;
    while (at < n) {
        if (sse->after_cr && bytes[at] == '\n') {
            sse->after_cr = false;
            at++;
            continue;
        }
        sse->after_cr = false;
        size_t end = at;
        while (end < n && bytes[end] != '\n' && bytes[end] != '\r')
            end++;
        bool whole = end < n;
        if (whole && sse->used == 0) { /* nothing of it came before: no copy */
            SL_TRY(take_line(sse, bytes + at, end - at, fn, user));
        } else {
            SL_TRY(append(&sse->line, &sse->used, &sse->room, bytes + at, end - at));
            if (whole) {
                size_t used = sse->used;
                sse->used = 0;
                SL_TRY(take_line(sse, sse->line, used, fn, user));
            }
        }
        if (whole)
            sse->after_cr = bytes[end] == '\r';
        at = end + whole;
    }
    return SL_OK;
}

void sl_sse_end(struct sl_sse *sse, sl_sse_fn *fn, void *user)
{
    size_t used = sse->used;
    sse->used = 0;
    if (used > 0 && take_line(sse, sse->line, used, fn, user) != SL_OK)
        return;
    send_event(sse, fn, user);
}

void sl_sse_reset(struct sl_sse *sse)
{
    sse->used = sse->data_used = 0;
    sse->has_data = sse->after_cr = false;
}

void sl_sse_free(struct sl_sse *sse)
{
    free(sse->line);
    free(sse->data);
    *sse = (struct sl_sse){0};
}
