/* A growing piece of text (text.h). When memory runs out the piece stays as it was and every later
 * addition is dropped as well: a truncated metrics page is refused by its reader, a crashed node is
 * worse. */
#include "base/text.h"
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIRST_ROOM = 1024 };

void sl_text_add(struct sl_text *text, const char *format, ...)
{
    va_list args, again;
    if (text->room == SIZE_MAX)
        return; /* memory has run out before */
    va_start(args, format);
    va_copy(again, args);
    size_t left = text->room - text->bytes;
    int wanted = vsnprintf(text->data ? text->data + text->bytes : NULL, left, format, args);
    if (wanted >= 0 && (size_t)wanted >= left) {
        size_t room = text->room ? text->room : FIRST_ROOM;
        while (room - text->bytes <= (size_t)wanted)
            room *= 2;
        char *grown = realloc(text->data, room);
        if (grown) {
            text->data = grown;
            text->room = room;
            vsnprintf(text->data + text->bytes, room - text->bytes, format, again);
        } else {
            if (text->data)
                text->data[text->bytes] = 0;
            text->room = SIZE_MAX;
            wanted = 0;
        }
    }
    if (wanted > 0)
        text->bytes += (size_t)wanted;
    va_end(again);
    va_end(args);
}
