/* The live view of a running node (`sluice top`): what two scrapes of its ops port say about the time between them, drawn. */
#ifndef SL_NODE_CLIENT_TOP_H
#define SL_NODE_CLIENT_TOP_H

#include "base/text.h"
#include "node/client/queue_view.h"
#include "node/client/scrape.h"

enum { SL_TOP_SOURCES = 32, SL_TOP_HISTORY = 30, SL_TOP_MIN_COLUMNS = 60, SL_TOP_MAX_COLUMNS = 200 };

/* One ops port. The first is the coordinator's (or `serve`'s); those of stages add what only they know: MFU and tokens/s. */
struct sl_top_source {
    const char *address;
    char problem[320];            /* why it has no `now`; "" */
    struct sl_scrape now, before; /* text NULL: there is none */
    double now_s, before_s;       /* when they were taken */
};
struct sl_top {
    struct sl_top_source sources[SL_TOP_SOURCES];
    uint32_t n;
    struct sl_scrape past
        [SL_TOP_HISTORY]; /* of the first, before `before`, oldest first: quantiles are of what came since */
    uint32_t n_past;
    bool has_queue; /* /debug/schedule answered */
    struct sl_queue_view queue;
    double history[SL_TOP_HISTORY]; /* prefilled tokens a second, the newest last */
    uint32_t n_history;
};

/* The scrape just taken (NULL: there is none, problem says why) becomes `now`, what was now `before`. Takes it over. */
void sl_top_take(struct sl_top *top, uint32_t source, struct sl_scrape *scrape, double at_s,
                 const char *problem);
/* After all sources were taken: the newest rate joins the history. */
void sl_top_note(struct sl_top *top);
/* Adds a frame of at most `rows` lines (0: as many as there are) of at most `columns`. */
void sl_top_draw(const struct sl_top *top, uint32_t columns, uint32_t rows, bool colour,
                 struct sl_text *text);
void sl_top_free(struct sl_top *top);

#endif
