/* base/metric.c: the head of a metric in /metrics, its unit included. */
#include "base/metric.h"
#include "tests/check.h"
#include <stdlib.h>

SL_TEST(a_unit_is_said_when_the_name_ends_in_it)
{
    struct sl_text text = {0};
    sl_metric_head(&text, "counter", "a_busy_seconds", "Time.");
    sl_metric_head(&text, "gauge", "a_bytes", "Bytes.");
    sl_metric_head(&text, "gauge", "a_bytes_more", "None.");
    sl_metric_head(&text, "gauge", "ready", "None.");
    CHECK_STR(text.data,
              "# TYPE a_busy_seconds counter\n# UNIT a_busy_seconds seconds\n# HELP a_busy_seconds Time.\n"
              "# TYPE a_bytes gauge\n# UNIT a_bytes bytes\n# HELP a_bytes Bytes.\n"
              "# TYPE a_bytes_more gauge\n# HELP a_bytes_more None.\n"
              "# TYPE ready gauge\n# HELP ready None.\n");
    free(text.data);
}
