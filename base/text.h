/* A growing piece of text: for metrics, JSON and SVG that are written once and handed out. */
#ifndef SL_BASE_TEXT_H
#define SL_BASE_TEXT_H

#include <stddef.h>

struct sl_text {
    char *data; /* NUL-terminated once something was added; free() it */
    size_t bytes, room;
};
void sl_text_add(struct sl_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
