/* How the grouped products of a chunk are cut into tasks: pure, no threads, no weights.
 *
 * Two shapes, chosen by how much work there is for so many members:
 *  - by rows (prefill): a task is an expert with up to a block of its rows, and does everything for them: gate|up,
 *    quantise, down. Nobody waits for anybody. Blocks are tall enough that reading the expert's weights again for the next
 *    block costs little. Longest first, so the members finish together.
 *  - by columns (decode, few rows): there are fewer experts than would keep the members busy, so each is cut into column
 *    pieces; the down pieces of an expert follow when its gate|up pieces are done.
 * Neither changes a bit: every output is one row's and one column's. */
#ifndef SL_EXPERTS_TASKS_H
#define SL_EXPERTS_TASKS_H

#include "router/route.h"

struct sl_expert_task {
    uint32_t expert;
    uint32_t first, m; /* pairs [first, first + m) of the route */
};

struct sl_expert_tasks {
    uint32_t n_tasks;
    /* 0: by rows; else column pieces of each task, first all gate|up pieces, then all down pieces */
    uint32_t pieces;
    struct sl_expert_task *task; /* descending m, ties in expert order */
};

enum { SL_EXPERT_ROWS_MIN = 64, SL_EXPERT_ROWS_MAX = 192 }; /* of a block, see tasks.c */

/* The most tasks that a chunk may need. */
uint32_t sl_expert_tasks_max(uint32_t max_pairs, uint32_t n_experts);
void sl_expert_tasks_make(struct sl_expert_tasks *tasks, const struct sl_route *route, uint32_t n_members);

#endif
