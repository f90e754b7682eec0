/* The cut of tasks.h.
 *
 * A block has at least 64 rows, where decoding a weight is already amortised to a few per cent, and at most 192, so that its
 * hidden rows (192 x 768 floats = 590 KB) stay in a second-level cache between gate|up and down. Between these it is an
 * eighth of a member's share, so that the last tasks are short. Members are kept busy by rows as long as there are three
 * tasks for each; then longest-first leaves at most a third of a task idle. */
#include "experts/tasks.h"

enum { TASKS_PER_MEMBER = 8, ENOUGH_PER_MEMBER = 3 };

uint32_t sl_expert_tasks_max(uint32_t max_pairs, uint32_t n_experts)
{
    return n_experts + max_pairs / SL_EXPERT_ROWS_MIN;
}

static uint32_t rows_per_block(uint32_t n_pairs, uint32_t n_members)
{
    uint32_t rows = n_pairs / (n_members * TASKS_PER_MEMBER);
    rows = rows < SL_EXPERT_ROWS_MIN ? SL_EXPERT_ROWS_MIN : rows;
    return rows > SL_EXPERT_ROWS_MAX ? SL_EXPERT_ROWS_MAX : rows;
}

/* The blocks of one expert's rows, nearly equal in height. */
struct blocks {
    uint32_t begin, total, n;
};

static struct blocks blocks_of(const struct sl_route *route, uint32_t expert, uint32_t rows)
{
    uint32_t begin = route->offsets[expert], total = route->offsets[expert + 1] - begin;
    return (struct blocks){begin, total, (total + rows - 1) / rows};
}

static uint32_t block_begin(const struct blocks *b, uint32_t i)
{
    return (uint32_t)((uint64_t)b->total * i / b->n);
}

void sl_expert_tasks_make(struct sl_expert_tasks *s, const struct sl_route *route, uint32_t n_members)
{
    uint32_t n_pairs = route->offsets[route->n_experts], rows = rows_per_block(n_pairs, n_members);
    uint32_t at[SL_EXPERT_ROWS_MAX + 1] = {0}, sum = 0;
    for (uint32_t e = 0; e < route->n_experts; e++) {
        struct blocks b = blocks_of(route, e, rows);
        for (uint32_t i = 0; i < b.n; i++)
            at[block_begin(&b, i + 1) - block_begin(&b, i)]++;
    }
    /* a counting sort by height, tallest first: at[m] becomes the place of the next block of m rows */
    for (uint32_t m = SL_EXPERT_ROWS_MAX + 1; m-- > 0;) {
        uint32_t here = at[m];
        at[m] = sum;
        sum += here;
    }
    for (uint32_t e = 0; e < route->n_experts; e++) {
        struct blocks b = blocks_of(route, e, rows);
        for (uint32_t i = 0; i < b.n; i++) {
            uint32_t from = block_begin(&b, i), m = block_begin(&b, i + 1) - from;
            s->task[at[m]++] = (struct sl_expert_task){e, b.begin + from, m};
        }
    }
    s->n_tasks = sum;
    s->pieces = 0;
    if (n_members > 1 && sum > 0 && sum < n_members * ENOUGH_PER_MEMBER)
        s->pieces = (n_members * ENOUGH_PER_MEMBER + sum - 1) / sum;
}
