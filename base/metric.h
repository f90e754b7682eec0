/* What stands before the lines of a metric in /metrics, as OpenMetrics has it. A metric whose name ends in a unit says so, too. */
#ifndef SL_BASE_METRIC_H
#define SL_BASE_METRIC_H

#include "base/text.h"

/* kind: "gauge", "counter" (whose lines have _total behind the name), "histogram", "info" (_info); help: a sentence that stands
 * alone, without a newline or a backslash. */
void sl_metric_head(struct sl_text *text, const char *kind, const char *name, const char *help);

#endif
