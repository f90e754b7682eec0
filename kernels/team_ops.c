/* Tasks of a shared product. Rows are cut only when there are many: packing a row block of x is repeated for every
 * column piece, so pieces are wide; with one member there is one task. */
#include "kernels/team_ops.h"

enum { ROW_BLOCK = 240, PIECES_PER_MEMBER = 3, COLUMN_UNIT = 64 };

struct job {
    struct sl_team *team;
    const struct sl_ops *ops;
    const struct sl_gemm *g;
    bool swiglu;
    uint32_t row_blocks, pieces;
};

static void run_tasks(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    struct job *job = arg;
    (void)member, (void)n_members;
    for (;;) {
        uint32_t task = sl_team_next(job->team);
        if (task >= job->row_blocks * job->pieces)
            return;
        struct sl_gemm part = *job->g;
        uint32_t row_begin, row_end, begin, end;
        sl_piece(job->g->m, 1, job->row_blocks, task / job->pieces, &row_begin, &row_end);
        sl_piece(job->g->col_end - job->g->col_begin, COLUMN_UNIT, job->pieces, task % job->pieces, &begin, &end);
        if (begin == end || row_begin == row_end)
            continue;
        part.m = row_end - row_begin;
        if (part.rows)
            part.rows += row_begin;
        else
            part.x += row_begin * part.x_stride;
        part.y += row_begin * part.y_stride;
        part.col_begin = job->g->col_begin + begin;
        part.col_end = job->g->col_begin + end;
        if (job->swiglu)
            job->ops->gemm_swiglu(&part, scratch);
        else
            job->ops->gemm(&part, scratch);
    }
}

void sl_gemm_team(struct sl_team *team, const struct sl_ops *ops, const struct sl_gemm *g, bool swiglu)
{
    if (g->m == 0)
        return;
    uint32_t members = sl_team_size(team);
    struct job job = {team, ops, g, swiglu, 1, 1};
    if (members > 1) {
        job.row_blocks = (g->m + ROW_BLOCK - 1) / ROW_BLOCK;
        uint32_t wanted = (members * PIECES_PER_MEMBER + job.row_blocks - 1) / job.row_blocks;
        uint32_t most = (g->col_end - g->col_begin + COLUMN_UNIT - 1) / COLUMN_UNIT;
        job.pieces = wanted < most ? wanted : most;
    }
    sl_team_run(team, run_tasks, &job);
}

struct norm_job {
    const struct sl_ops *ops;
    float *y;
    const float *x, *gain;
    uint32_t n_rows, n;
    float eps;
};

static void norm_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct norm_job *job = arg;
    uint32_t begin, end;
    (void)scratch;
    sl_piece(job->n_rows, 1, n_members, member, &begin, &end);
    for (size_t r = begin; r < end; r++)
        job->ops->rmsnorm(job->y + r * job->n, job->x + r * job->n, job->gain, job->n, job->eps);
}

void sl_rmsnorm_team(struct sl_team *team, const struct sl_ops *ops, float *y, const float *x, const float *gain,
                     uint32_t n_rows, uint32_t n, float eps)
{
    struct norm_job job = {ops, y, x, gain, n_rows, n, eps};
    sl_team_run(team, norm_rows, &job);
}
