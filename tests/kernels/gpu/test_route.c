/* kernels/gpu/route: the twin's routes are router/'s and its tasks those of experts/tasks.h, byte for byte, and nothing is found. Tasks
 * for tiles that the host has none of (16 rows) are held to what is said of them. */
#define DRAW_SEED 20261131
#include "tests/kernels/gpu/route_cases.h"

static struct gpu_outcome check_route(const struct route_case *c, uint64_t seed)
{
    struct gpu_outcome o = route_go(c, seed);
    expect_sound(&o, "%u tokens, %u of %u experts, logits %d", c->n_tokens, c->top_k, c->n_experts,
                 (int)c->logits);
    return o;
}

SL_TEST(a_route_and_its_tasks_have_the_bytes_of_the_host)
{
    for (uint32_t i = 0; i < ROUTE_CASES; i++)
        check_route(&route_cases[i], i);
}

SL_TEST(drawn_routes_do_too)
{
    struct sweep s = sweep_of("choose, group and tasks", 6);
    while (sweep_goes_on(&s)) {
        uint32_t n_experts = 1 + below(s.n_cases % 8 == 0 ? 1024 : 130),
                 k = 1 + below(n_experts < 64 ? n_experts : 64);
        struct route_case c = {sweep_rows(&s, 300), n_experts, k, below(2), (enum logits)below(N_LOGITS)};
        struct gpu_outcome o = check_route(&c, s.n_cases);
        sweep_count(&s, &o);
    }
}

/* Tasks of an expert that takes `pairs` from `begin` on, marked: false: some overlap, or are not its own. */
static bool mark(uint8_t *marked, const struct gemm8_tile *task, const uint32_t *offsets)
{
    bool own = task->first >= offsets[task->expert] && task->first + task->m <= offsets[task->expert + 1];
    for (uint32_t i = task->first; own && i < task->first + task->m; i++)
        own = marked[i]++ == 0;
    return own;
}

/* Every pair is in one task, none has more than `rows`, no expert more tasks than it takes, and the highest come first. */
static void check_tasks(const uint32_t *offsets, uint32_t n_experts, uint32_t rows)
{
    const uint32_t pairs = offsets[n_experts], most = n_experts + pairs / rows;
    struct sl_gpu_tasks p = {.offsets = on_device(offsets, (n_experts + 1) * 4),
                             .task = unwritten(most * sizeof *p.task),
                             .n_tasks = unwritten(sizeof *p.n_tasks),
                             .n_experts = n_experts,
                             .rows = rows};
    uint8_t *marked = calloc(pairs + 1, 1);
    uint32_t wanted = 0, covered = 0;
    struct gpu_outcome o = {0};
    run_kernel(&o, &sl_gpu_tasks, &p, 1, SL_GPU_TASKS_SHARED, rows, CONFLICTS_MAY_BE);
    for (uint32_t e = 0; e < n_experts; e++)
        wanted += (offsets[e + 1] - offsets[e] + rows - 1) / rows;
    CHECK_INT(*p.n_tasks, wanted);
    for (uint32_t i = 0; i < wanted; i++) {
        const struct gemm8_tile *task = &p.task[i], *before = &p.task[i - (i > 0)];
        CHECK(task->m >= 1 && task->m <= rows && mark(marked, task, offsets));
        CHECK(before->m > task->m || (before->m == task->m && before->expert <= task->expert));
        covered += task->m;
    }
    CHECK_INT(covered, pairs);
    expect_sound(&o, "tasks of %u rows", rows);
    gpu_free_all();
    free(marked);
}

SL_TEST(tasks_of_any_height_have_each_pair_once_and_the_highest_first)
{
    static const uint32_t heights[] = {1, 15, 16, 64, 127, 128, SL_GPU_TASK_ROWS_MAX};
    for (uint32_t i = 0; i < sizeof heights / sizeof *heights; i++) {
        uint32_t offsets[71] = {0};
        for (uint32_t e = 0; e < 70; e++)
            offsets[e + 1] = offsets[e] + (e % 5 == 3   ? 0
                                           : e % 7 == 1 ? 2 * heights[i]
                                                        : below(3 * heights[i]));
        check_tasks(offsets, 70, heights[i]);
        check_tasks(offsets, 1, heights[i]);
    }
}
