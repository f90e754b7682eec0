/* /debug/schedule of a coordinator, read: what is under way and who waits, in the order of the next chunk. */
#ifndef SL_NODE_CLIENT_QUEUE_VIEW_H
#define SL_NODE_CLIENT_QUEUE_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SL_QUEUE_ROWS = 64, SL_QUEUE_NAME = 64 };

struct sl_queue_row {
    char request[SL_QUEUE_NAME], tenant[SL_QUEUE_NAME]; /* cut to fit, printable */
    uint32_t prompt_tokens, tokens_cut;
    bool admitted, late;
    double due_ms, begin_ms; /* from now; NaN: not known */
};
struct sl_queue_view {
    uint32_t runs_in_flight, max_runs, requests; /* how many there are, also when not all are listed */
    double budget_ms;
    uint32_t stage_pages, cached_pages, decode_pages, all_pages;
    uint32_t n;
    struct sl_queue_row rows[SL_QUEUE_ROWS];
};

/* False: it is not that page. A field that is missing or of another kind counts as 0 or NaN. */
bool sl_queue_view_read(struct sl_queue_view *view, const char *json, size_t bytes);

/* Copies what a terminal may show: a control character becomes '?', and no character is cut in two. */
void sl_printable(char *out, size_t room, const char *text);

#endif
