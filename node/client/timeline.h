/* Drawings of a timeline (pipeline/record/span.h): on the terminal and as SVG. */
#ifndef SL_NODE_CLIENT_TIMELINE_H
#define SL_NODE_CLIENT_TIMELINE_H

#include "base/status.h"
#include "pipeline/record/span.h"
#include <stdio.h>

/* Terminal drawing: a row a stage, time from left to right over `columns` characters, one colour a chunk (ANSI when colour),
 * chunk numbers where they fit, a row for KV arrival at the decode worker when there is one, an axis in ms; below it TTFT and,
 * per stage: busy ms, busy %, bubble ms between its first begin and last end. MFU under each chunk and per stage when spans
 * have it, and what the stage's chunks should have taken. What a stage did for other requests until the first token is grey, is no
 * bubble, and has its sum. */
void sl_timeline_draw(const struct sl_timeline *timeline, FILE *to, uint32_t columns, bool colour);
/* The same as a self-contained SVG. */
void sl_timeline_svg_to(const struct sl_timeline *timeline, FILE *to);
enum { SL_TIMELINE_SVG_WIDTH = 1120 };
double sl_timeline_svg_height(const struct sl_timeline *timeline);
/* Into a file. SL_E_IO names the path. */
sl_status sl_timeline_svg(const struct sl_timeline *timeline, const char *path, struct sl_err *err);

#endif
