/* The ring of finished.h, and its lines in the log: as many ids in each as fit. */
#include "node/coordinator/finished.h"
#include "base/log.h"
#include <stdio.h>
#include <string.h>

enum { LINE_BYTES = 700 };

void sl_finished_add(struct sl_finished *f, const char *id, uint64_t end_us)
{
    size_t at = f->n++ % SL_FINISHED_KEPT;
    snprintf(f->kept[at].id, sizeof f->kept[at].id, "%s", id);
    f->kept[at].end_us = end_us;
}

uint32_t sl_finished_name(const struct sl_finished *f, uint64_t since_us)
{
    char line[LINE_BYTES] = "";
    uint32_t named = 0;
    uint64_t kept = f->n < SL_FINISHED_KEPT ? f->n : SL_FINISHED_KEPT;
    for (; named < kept; named++) {
        size_t at = (f->n - 1 - named) % SL_FINISHED_KEPT, used = strlen(line);
        if (f->kept[at].end_us < since_us)
            break;
        if (used + SL_MAX_REQUEST_ID + 3 > sizeof line) {
            sl_log_warn("answered since then, perhaps wrongly: %s", line);
            used = 0;
        }
        snprintf(line + used, sizeof line - used, "%s%s", used ? ", " : "", f->kept[at].id);
    }
    if (named > 0)
        sl_log_warn("answered since then, perhaps wrongly: %s", line);
    if (named == SL_FINISHED_KEPT && f->n > kept)
        sl_log_warn("and perhaps others before these, which are not kept");
    return named;
}
