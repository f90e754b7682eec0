/* The decider's queue as JSON, for /debug/schedule. */
#ifndef SL_NODE_EDGE_SCHEDULE_JSON_H
#define SL_NODE_EDGE_SCHEDULE_JSON_H

#include "base/text.h"
#include "pipeline/decide/view.h"

/* Times are milliseconds from the moment of the view, those of what has passed are below 0; what is not known is null. */
void sl_schedule_json(const struct sl_core_view *view, struct sl_text *text);

#endif
