/* Files that a measurement leaves behind: there whole or not at all, and no text of a stranger breaks
 * them.
 *
 * A file is written beside its place and moved there when it is complete, so a reader never sees half of
 * one and what stood there stays when the disk is full. What is no ordinary file (/dev/stdout, a pipe) is
 * written to directly. */
#ifndef SL_BENCH_SERVE_WRITTEN_H
#define SL_BENCH_SERVE_WRITTEN_H

#include "base/status.h"
#include <stdio.h>

struct sl_written {
    FILE *to;
    const char *what, *path; /* the caller's, until it is closed: "page", "results/a.html" */
    char *beside;            /* where it is written; NULL: in its place */
};

sl_status sl_written_open(struct sl_written *written, const char *what, const char *path, struct sl_err *err);
/* Moves it to its place. SL_E_IO names the path; then nothing is left of it. */
sl_status sl_written_close(struct sl_written *written, struct sl_err *err);
/* Gives it up: nothing is left of it. */
void sl_written_drop(struct sl_written *written);

/* Names and sentences come from command lines and from servers. Both repair what is no UTF-8 (U+FFFD). */
void sl_write_html(FILE *to, const char *text); /* as text, and within "quotes" of an attribute */
void sl_write_json(FILE *to, const char *text); /* with its quotes; NULL: null */
/* "key": value, with a comma before it unless it is the first after a brace; what is not finite is null:
 * JSON has no other word. */
void sl_write_key(FILE *to, const char *key, bool first);
void sl_write_number(FILE *to, double value);

#endif
