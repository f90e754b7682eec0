/* The feed-forward that every row takes: a dense layer's, or the shared expert beside the routed ones. Its two products
 * are shared by the team like any other; between them the hidden rows are quantised where down is an integer matrix. */
#include "experts/experts_impl.h"
#include "kernels/team_ops.h"

struct rows_job {
    const struct experts_pass *p;
    const struct sl_panel *w; /* whose inputs x are */
    const float *x;
    struct sl_rows8 *to, second;
};

static void quantise_piece(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct rows_job *job = arg;
    struct sl_experts *e = job->p->e;
    uint32_t begin, end;
    uint64_t since = sl_clock_ns();
    sl_piece(job->p->n_rows, 1, n_members, member, &begin, &end);
    sl_quantise_rows(e->ops, job->w, job->x, job->w->k, job->to, &job->second, begin, end, scratch);
    sl_part_add(sl_team_parts(e->team, member), SL_PART_QUANTISE, &since, 0, 0);
}

/* normed8 holds the rows as the routed experts want them; another rotation, more digits, or floats ask for new ones. */
static void quantise_normed(const struct experts_pass *p)
{
    const struct sl_panel *w = &p->w->gate_up;
    struct sl_experts *e = p->e;
    if (sl_dtype_is_integer(p->first.dtype) && p->first.rotation == w->rotation &&
        p->first.digits >= w->digits)
        return;
    sl_team_run(e->team, quantise_piece, &(struct rows_job){p, w, e->normed, &e->normed8, normed_second(e)});
}

/* gate|up of two digits: a member has rows of its own. */
static void swiglu2_piece(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct experts_pass *p = arg;
    struct sl_experts *e = p->e;
    uint32_t begin, end, width = p->w->down.k;
    uint64_t since = sl_clock_ns();
    sl_piece(p->n_rows, 1, n_members, member, &begin, &end);
    if (begin == end)
        return;
    struct sl_rows8 all = normed_second(e), second = sl_rows8_from(&all, begin);
    sl_experts_swiglu2(e,
                       &(struct sl_gemm8){.x = sl_rows8_from(&e->normed8, begin),
                                          .m = end - begin,
                                          .w = p->w->gate_up,
                                          .col_end = width,
                                          .y = e->hidden + (size_t)begin * width,
                                          .y_stride = width},
                       &second, e->wide + member * e->wide_floats, scratch);
    sl_part_add(sl_team_parts(e->team, member), SL_PART_EXPERTS, &since,
                4ull * (end - begin) * p->w->gate_up.n * p->w->gate_up.k,
                sl_panel_bytes(p->w->gate_up.dtype, p->w->gate_up.n, p->w->gate_up.k));
}

static void gate_up(struct experts_pass *p, uint32_t width)
{
    struct sl_experts *e = p->e;
    uint32_t h = e->dims.d_model;
    if (!sl_dtype_is_integer(p->w->gate_up.dtype)) {
        sl_gemm_team(e->team, e->ops,
                     &(struct sl_gemm){.x = e->normed,
                                       .x_stride = h,
                                       .m = p->n_rows,
                                       .w = p->w->gate_up,
                                       .col_end = width,
                                       .y = e->hidden,
                                       .y_stride = width},
                     true, SL_PART_EXPERTS);
        return;
    }
    quantise_normed(p);
    if (p->w->gate_up.digits == 2)
        sl_team_run(e->team, swiglu2_piece, p);
    else
        sl_gemm8_team(e->team, e->ops,
                      &(struct sl_gemm8){.x = e->normed8,
                                         .m = p->n_rows,
                                         .w = p->w->gate_up,
                                         .col_end = width,
                                         .y = e->hidden,
                                         .y_stride = width},
                      NULL, true, SL_PART_EXPERTS);
}

static void down(const struct experts_pass *p, uint32_t width, float *y, bool accumulate)
{
    struct sl_experts *e = p->e;
    uint32_t h = e->dims.d_model;
    if (!sl_dtype_is_integer(p->w->down.dtype)) {
        sl_gemm_team(e->team, e->ops,
                     &(struct sl_gemm){.x = e->hidden,
                                       .x_stride = width,
                                       .m = p->n_rows,
                                       .w = p->w->down,
                                       .col_end = h,
                                       .y = y,
                                       .y_stride = h,
                                       .accumulate = accumulate},
                     false, SL_PART_EXPERTS);
        return;
    }
    e->hidden8.stride = sl_rows8_stride(width);
    struct sl_rows8 second = hidden_second(e, e->max_tokens);
    sl_team_run(e->team, quantise_piece, &(struct rows_job){p, &p->w->down, e->hidden, &e->hidden8, second});
    sl_gemm8_team(e->team, e->ops,
                  &(struct sl_gemm8){.x = e->hidden8,
                                     .m = p->n_rows,
                                     .w = p->w->down,
                                     .col_end = h,
                                     .y = y,
                                     .y_stride = h,
                                     .accumulate = accumulate},
                  &second, false, SL_PART_EXPERTS);
}

/* The shared expert's output is scaled per token before it is added; the dense one goes straight onto the residual. */
static void scale_and_add(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct experts_pass *p = arg;
    struct sl_experts *e = p->e;
    uint32_t begin, end, h = e->dims.d_model;
    (void)scratch;
    sl_piece(p->n_rows, 1, n_members, member, &begin, &end);
    uint64_t since = sl_clock_ns();
    for (size_t r = begin; r < end; r++) {
        const float *row = e->outputs + r * h;
        float gate = 0;
        for (uint32_t i = 0; i < h; i++)
            gate = __builtin_fmaf(p->w->shared_gate[i], e->normed[r * h + i], gate);
        gate = 1.0f / (1.0f + sl_expf(-gate));
        e->ops->combine(p->x + r * h, &row, &gate, 1, h);
    }
    sl_part_add(sl_team_parts(e->team, member), SL_PART_NORMS, &since, 0, 0);
}

void sl_experts_single(struct experts_pass *p)
{
    struct sl_experts *e = p->e;
    uint32_t width = p->w->down.k;
    bool gated = p->w->shared_gate != NULL;
    if (p->w->is_moe)
        sl_observe(e->observer, SL_SITE_SINGLE_GATE_UP, 0, e->normed, p->n_rows, e->dims.d_model);
    gate_up(p, width);
    sl_observe(e->observer, SL_SITE_SINGLE_DOWN, 0, e->hidden, p->n_rows, width);
    down(p, width, gated ? e->outputs : p->x, !gated);
    if (gated)
        sl_team_run(e->team, scale_and_add, p);
}
