/* The attention block. Five steps, each shared by the team and closed by its barrier:
 *   norm rows -> q|k|v product -> per row: bias, q/k norm, rope, append -> attend -> output product onto the residual.
 * A row's result depends on its own x, its position and the pages alone, so chunking and neighbours change nothing. */
#include "attention/attention.h"
#include "kernels/team_ops.h"

struct pass {
    const struct sl_attention *a;
    const struct sl_attention_weights *w;
    uint32_t layer;
    float *x;
    uint32_t n_rows;
    const struct sl_attention_slice *slices;
    uint32_t n_slices;
    const float *cosine, *sine;
};

enum { ATTEND_ROWS = 48 }; /* (token, head) rows of one attend task: enough tiles to reuse a page while it is in L1 */

static uint32_t qkv_width(const struct sl_attention_dims *d)
{
    return (d->n_q + 2 * d->n_kv) * d->d_head;
}

static void place_row(const struct pass *p, const struct sl_attention_slice *slice, uint32_t row)
{
    const struct sl_attention *a = p->a;
    const struct sl_attention_dims *d = &a->dims;
    uint32_t width = qkv_width(d), half = d->d_head / 2;
    float *q = a->buffers.qkv + (size_t)row * width;
    float *k = q + (size_t)d->n_q * d->d_head, *v = k + (size_t)d->n_kv * d->d_head;
    const float *cosine = p->cosine + (size_t)row * half, *sine = p->sine + (size_t)row * half;
    if (p->w->qkv_bias)
        for (uint32_t i = 0; i < width; i++)
            q[i] += p->w->qkv_bias[i];
    for (uint32_t h = 0; h < d->n_q + d->n_kv; h++) {
        float *head = q + (size_t)h * d->d_head; /* the k heads follow the q heads */
        const float *gain = h < d->n_q ? p->w->q_norm : p->w->k_norm;
        if (gain)
            a->ops->rmsnorm(head, head, gain, d->d_head, d->norm_eps);
        a->ops->rope(head, cosine, sine, half);
    }
    uint32_t pos = slice->pos + (row - slice->row);
    sl_kv_append(a->kv, slice->pages[pos / SL_PAGE_TOKENS], p->layer, pos % SL_PAGE_TOKENS, k, v);
}

static void place_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct pass *p = arg;
    (void)scratch;
    uint32_t begin, end;
    sl_piece(p->n_rows, 1, n_members, member, &begin, &end);
    for (uint32_t s = 0; s < p->n_slices; s++) {
        const struct sl_attention_slice *slice = &p->slices[s];
        uint32_t first = begin > slice->row ? begin : slice->row;
        uint32_t last = end < slice->row + slice->n ? end : slice->row + slice->n;
        for (uint32_t r = first; r < last; r++)
            place_row(p, slice, r);
    }
}

static void attend_tile(const struct pass *p, const struct sl_attention_slice *slice, uint32_t kv_head, uint32_t token,
                        uint32_t n_tokens, const void **lists, void *scratch)
{
    const struct sl_attention *a = p->a;
    const struct sl_attention_dims *d = &a->dims;
    uint32_t rep = d->n_q / d->n_kv, width = qkv_width(d), row = slice->row + token;
    uint32_t last_page = (slice->pos + token + n_tokens - 1) / SL_PAGE_TOKENS;
    const void **k_list = lists, **v_list = lists + a->buffers.max_pages;
    assert(last_page < a->buffers.max_pages);
    for (uint32_t i = 0; i <= last_page; i++) {
        k_list[i] = sl_kv_k(a->kv, slice->pages[i], p->layer, kv_head);
        v_list[i] = sl_kv_v(a->kv, slice->pages[i], p->layer, kv_head);
    }
    size_t out_width = (size_t)d->n_q * d->d_head, head_at = (size_t)kv_head * rep * d->d_head;
    a->ops->attend(&(struct sl_attend){.q = a->buffers.qkv + (size_t)row * width + head_at,
                                       .q_stride = width,
                                       .n_rep = rep,
                                       .d_head = d->d_head,
                                       .n_tok = n_tokens,
                                       .pos = slice->pos + token,
                                       .k_pages = k_list,
                                       .v_pages = v_list,
                                       .kv_dtype = a->kv->layout.dtype,
                                       .scale = d->softmax_scale,
                                       .out = a->buffers.mixed + row * out_width + head_at,
                                       .out_stride = out_width},
                   scratch);
}

/* Tasks: (slice, kv head, tile of tokens), numbered through all slices. Later tiles see more keys, so they are
 * numbered first: the longest tasks start first. */
static void attend_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct pass *p = arg;
    const struct sl_attention_dims *d = &p->a->dims;
    (void)n_members;
    uint32_t rep = d->n_q / d->n_kv, step = rep < ATTEND_ROWS ? ATTEND_ROWS / rep : 1;
    const void **lists = p->a->buffers.page_table + (size_t)member * 2 * p->a->buffers.max_pages;
    for (uint32_t task = sl_team_next(p->a->team), base = 0, s = 0; s < p->n_slices;) {
        const struct sl_attention_slice *slice = &p->slices[s];
        uint32_t tiles = (slice->n + step - 1) / step, here = tiles * d->n_kv;
        if (task >= base + here) {
            base += here;
            s++;
            continue;
        }
        uint32_t tile = tiles - 1 - (task - base) / d->n_kv, head = (task - base) % d->n_kv;
        uint32_t token = tile * step, left = slice->n - token;
        attend_tile(p, slice, head, token, left < step ? left : step, lists, scratch);
        task = sl_team_next(p->a->team);
    }
}

void sl_attention_run(const struct sl_attention *a, const struct sl_attention_weights *w, uint32_t layer, float *x,
                      uint32_t n_rows, const struct sl_attention_slice *slices, uint32_t n_slices, const float *cosine,
                      const float *sine)
{
    struct pass p = {a, w, layer, x, n_rows, slices, n_slices, cosine, sine};
    uint32_t width = qkv_width(&a->dims), mixed_width = a->dims.n_q * a->dims.d_head;
    sl_rmsnorm_team(a->team, a->ops, a->buffers.normed, x, w->norm, n_rows, a->dims.d_model, a->dims.norm_eps);
    sl_observe(a->observer, SL_SITE_QKV, 0, a->buffers.normed, n_rows, a->dims.d_model);
    sl_gemm_team(a->team, a->ops,
                 &(struct sl_gemm){.x = a->buffers.normed, .x_stride = a->dims.d_model, .m = n_rows, .w = w->qkv,
                                   .col_end = width, .y = a->buffers.qkv, .y_stride = width},
                 false, SL_PART_PROJECTION);
    sl_team_run(a->team, place_rows, &p);
    sl_team_run(a->team, attend_rows, &p);
    sl_observe(a->observer, SL_SITE_O, 0, a->buffers.mixed, n_rows, mixed_width);
    sl_gemm_team(a->team, a->ops,
                 &(struct sl_gemm){.x = a->buffers.mixed, .x_stride = mixed_width, .m = n_rows, .w = w->o,
                                   .col_end = a->dims.d_model, .y = x, .y_stride = a->dims.d_model, .accumulate = true},
                 false, SL_PART_PROJECTION);
}
