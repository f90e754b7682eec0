/* TYPE, UNIT and HELP of a metric (metric.h). */
#include "base/metric.h"
#include <string.h>

static const char *unit_of(const char *name)
{
    static const char *const units[] = {"seconds", "bytes", "ratio"};
    const char *last = strrchr(name, '_');
    for (size_t i = 0; last && i < sizeof units / sizeof *units; i++)
        if (strcmp(last + 1, units[i]) == 0)
            return units[i];
    return NULL;
}

void sl_metric_head(struct sl_text *text, const char *kind, const char *name, const char *help)
{
    const char *unit = unit_of(name);
    sl_text_add(text, "# TYPE %s %s\n", name, kind);
    if (unit)
        sl_text_add(text, "# UNIT %s %s\n", name, unit);
    sl_text_add(text, "# HELP %s %s\n", name, help);
}
