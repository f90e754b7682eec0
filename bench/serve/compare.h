/* Two results beside each other (--compare a.json b.json), and which differences are more than chance. */
#ifndef SL_BENCH_SERVE_COMPARE_H
#define SL_BENCH_SERVE_COMPARE_H

#include "base/status.h"
#include <stdio.h>

sl_status sl_compare_files(const char *a, const char *b, FILE *to, struct sl_err *err);

#endif
