/* Tasks of a shared product. Rows are cut only when there are many: packing a row block of x is repeated for every
 * column piece, so pieces are wide; of few rows packing is nothing, and pieces are so small that the last ones end at
 * nearly the same time. With one member there is one task. */
#include "kernels/team_ops.h"
#include <assert.h>

enum {
    ROW_BLOCK = 240,
    PIECES_PER_MEMBER = 3,
    COLUMN_UNIT = 64,
    FEW_ROWS = 16,
    PIECE_BYTES = 2 << 20 /* of weights for few rows: 60 to 120 microseconds of reading */
};

/* One product over floats or over integers: what is cut is the same. */
struct product_job {
    struct sl_team *team;
    const struct sl_ops *ops;
    const struct sl_gemm *g;   /* or NULL */
    const struct sl_gemm8 *g8; /* then this one */
    bool swiglu;
    enum sl_part part;
    uint32_t m, col_begin, col_end;
    uint32_t row_blocks, pieces;
};

static void run_floats(const struct product_job *job, uint32_t row, uint32_t m, uint32_t begin, uint32_t end,
                       void *scratch)
{
    struct sl_gemm part = *job->g;
    part.m = m;
    if (part.rows)
        part.rows += row;
    else
        part.x += row * part.x_stride;
    part.y += row * part.y_stride;
    part.col_begin = begin;
    part.col_end = end;
    if (job->swiglu)
        job->ops->gemm_swiglu(&part, scratch);
    else
        job->ops->gemm(&part, scratch);
}

static void run_integers(const struct product_job *job, uint32_t row, uint32_t m, uint32_t begin,
                         uint32_t end, void *scratch)
{
    struct sl_gemm8 part = *job->g8;
    part.m = m;
    if (part.rows) {
        part.rows += row;
    } else {
        part.x.q += row * part.x.stride;
        part.x.scale += row;
        part.x.sum += row;
    }
    part.y += row * part.y_stride;
    part.col_begin = begin;
    part.col_end = end;
    if (job->swiglu)
        job->ops->gemm8_swiglu(&part, scratch);
    else
        job->ops->gemm8(&part, scratch);
}

static void run_tasks(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    struct product_job *job = arg;
    struct sl_panel w = job->g ? job->g->w : job->g8->w;
    uint32_t outputs = job->swiglu ? 2 : 1; /* columns of w for a column of y */
    uint64_t since = sl_clock_ns();
    (void)n_members;
    for (uint32_t task; (task = sl_team_next(job->team)) < job->row_blocks * job->pieces;) {
        uint32_t row_begin, row_end, begin, end;
        sl_piece(job->m, 1, job->row_blocks, task / job->pieces, &row_begin, &row_end);
        sl_piece(job->col_end - job->col_begin, COLUMN_UNIT, job->pieces, task % job->pieces, &begin, &end);
        if (begin == end || row_begin == row_end)
            continue;
        uint32_t columns = outputs * (end - begin);
        (job->g ? run_floats : run_integers)(job, row_begin, row_end - row_begin, job->col_begin + begin,
                                             job->col_begin + end, scratch);
        sl_part_add(sl_team_parts(job->team, member), job->part, &since,
                    2ull * (row_end - row_begin) * columns * w.k, sl_panel_bytes(w.dtype, columns, w.k));
    }
}

static size_t job_bytes(const struct product_job *job)
{
    const struct sl_panel *w = job->g ? &job->g->w : &job->g8->w;
    return sl_panel_bytes(w->dtype, (job->swiglu ? 2 : 1) * (job->col_end - job->col_begin), w->k);
}

static void run_job(struct product_job *job)
{
    if (job->m == 0)
        return;
    uint32_t members = sl_team_size(job->team);
    job->row_blocks = job->pieces = 1;
    if (members > 1) {
        job->row_blocks = (job->m + ROW_BLOCK - 1) / ROW_BLOCK;
        uint32_t wanted = (members * PIECES_PER_MEMBER + job->row_blocks - 1) / job->row_blocks;
        uint32_t most = (job->col_end - job->col_begin + COLUMN_UNIT - 1) / COLUMN_UNIT;
        uint32_t small = job->m <= FEW_ROWS ? (uint32_t)(job_bytes(job) / PIECE_BYTES) : 0;
        wanted = wanted > small ? wanted : small;
        job->pieces = wanted < most ? wanted : most;
    }
    sl_team_run(job->team, run_tasks, job);
}

void sl_gemm_team(struct sl_team *team, const struct sl_ops *ops, const struct sl_gemm *g, bool swiglu,
                  enum sl_part part)
{
    run_job(&(struct product_job){.team = team,
                                  .ops = ops,
                                  .g = g,
                                  .swiglu = swiglu,
                                  .part = part,
                                  .m = g->m,
                                  .col_begin = g->col_begin,
                                  .col_end = g->col_end});
}

void sl_gemm8_team(struct sl_team *team, const struct sl_ops *ops, const struct sl_gemm8 *g,
                   const struct sl_rows8 *second, bool swiglu, enum sl_part part)
{
    struct product_job job = {.team = team,
                              .ops = ops,
                              .g8 = g,
                              .swiglu = swiglu,
                              .part = part,
                              .m = g->m,
                              .col_begin = g->col_begin,
                              .col_end = g->col_end};
    assert(g->w.digits < 2 || (second && !swiglu));
    run_job(&job);
    if (g->w.digits < 2)
        return;
    struct sl_gemm8 again = *g;
    again.x = *second;
    again.accumulate = true;
    job.g8 = &again;
    run_job(&job);
}

/* temp = row - scale * q: the product has 19 bits at most, so only the difference is rounded. */
static void leftover(float *temp, const float *row, const int8_t *q, float scale, uint32_t k)
{
    for (uint32_t i = 0; i < k; i++)
        temp[i] = row[i] - (float)q[i] * scale;
}

void sl_quantise_rows(const struct sl_ops *ops, const struct sl_panel *w, const float *x, size_t x_stride,
                      const struct sl_rows8 *to, const struct sl_rows8 *second, uint32_t begin, uint32_t end,
                      float *temp)
{
    for (size_t r = begin; r < end; r++) {
        const float *row = x + r * x_stride;
        int8_t *q = to->q + r * to->stride;
        if (w->rotation > 0) {
            memcpy(temp, row, w->k * sizeof *temp);
            ops->rotate(temp, w->k, w->rotation);
            row = temp;
        }
        ops->quantise(row, w->k, q, to->stride, &to->scale[r], &to->sum[r]);
        if (w->digits < 2)
            continue;
        leftover(temp, row, q, to->scale[r], w->k);
        ops->quantise(temp, w->k, second->q + r * second->stride, second->stride, &second->scale[r],
                      &second->sum[r]);
    }
}

struct norm_job {
    struct sl_team *team;
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
    uint64_t since = sl_clock_ns();
    (void)scratch;
    sl_piece(job->n_rows, 1, n_members, member, &begin, &end);
    for (size_t r = begin; r < end; r++)
        job->ops->rmsnorm(job->y + r * job->n, job->x + r * job->n, job->gain, job->n, job->eps);
    sl_part_add(sl_team_parts(job->team, member), SL_PART_NORMS, &since, 0, 0);
}

void sl_rmsnorm_team(struct sl_team *team, const struct sl_ops *ops, float *y, const float *x,
                     const float *gain, uint32_t n_rows, uint32_t n, float eps)
{
    struct norm_job job = {team, ops, y, x, gain, n_rows, n, eps};
    sl_team_run(team, norm_rows, &job);
}
