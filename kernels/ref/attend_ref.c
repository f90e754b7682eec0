/* The specification of attention: pages of floats, pages of i8, and how segments are merged.
 *
 * A row is one token's head. It goes through its segments in ascending order, through a segment's pages in
 * ascending order, and ends at its own key; nothing of another row enters. What a page does to the row's
 * state is one function for floats and one for i8; isa.h says the formulas, and this file their order. The
 * dot product of floats is an argument: a numerics profile is another dot product (ref/bf16_ref.c). */
#include "kernels/exp.h"
#include "kernels/ref/ref.h"
#include <assert.h>

/* The state of one segment of one row, and what stays the same along the row. */
struct attend_row {
    const struct sl_attend *a;
    sl_ref_dots *dots; /* of floats; NULL: i8 */
    const float *q;    /* floats: scaled by scale * log2 e */
    const int8_t *q8;  /* i8, with its scale */
    float q_scale;
    float max, sum;
    float *out; /* [round16(d_head)], not yet divided by sum */
};

/* Floats: one page, of which the row sees the first n_keys keys. */
static void page_of_floats(struct attend_row *row, uint32_t page, uint32_t n_keys)
{
    const struct sl_attend *a = row->a;
    struct sl_panel keys = {a->k_pages[page], SL_PAGE_TOKENS, a->d_head, a->kv_dtype, 0, 0};
    struct sl_panel values = {a->v_pages[page], a->d_head, SL_PAGE_TOKENS, a->kv_dtype, 0, 0};
    float p[SL_PAGE_TOKENS] = {0}, partial[SL_LANES] = {0};
    for (uint32_t block = 0; block < SL_PAGE_TOKENS / SL_LANES; block++)
        row->dots(row->q, &keys, block, p + block * SL_LANES);
    float max = row->max;
    for (uint32_t i = 0; i < n_keys; i++)
        max = p[i] > max ? p[i] : max;
    for (uint32_t i = 0; i < SL_PAGE_TOKENS; i++) {
        p[i] = i < n_keys ? sl_exp2_scalar(p[i] - max) : 0.0f;
        partial[i % SL_LANES] += p[i];
    }
    float c = sl_exp2_scalar(row->max - max);
    row->max = max;
    row->sum = fmaf(row->sum, c, sl_ref_tree(partial));
    for (uint32_t block = 0; block < sl_round_lanes(a->d_head) / SL_LANES; block++) {
        float *out = row->out + block * SL_LANES;
        for (uint32_t lane = 0; lane < SL_LANES; lane++)
            out[lane] *= c;
        row->dots(p, &values, block, out);
    }
}

/* i8: p[i] = exp2(score - the new maximum) of the visible keys; the state's maximum, sum and rescaling
 * follow. */
static void softmax_of_i8(struct attend_row *row, const uint8_t *keys, uint32_t n_keys, float *p)
{
    float top = -INFINITY, partial[SL_LANES] = {0};
    uint32_t d = row->a->d_head;
    for (uint32_t j = 0; j < n_keys; j++) {
        int32_t dot = 0;
        float scale;
        for (uint32_t i = 0; i < d; i++)
            dot += row->q8[i] * (keys[sl_page8_k_at(d, j, i)] - 128);
        memcpy(&scale, keys + sl_page8_k_scale_at(d, j), sizeof scale);
        p[j] = scale * (float)dot;
        top = p[j] > top ? p[j] : top;
    }
    top *= row->q_scale;
    float max = top > row->max ? top : row->max;
    for (uint32_t j = 0; j < n_keys; j++) {
        p[j] = sl_exp2_scalar(fmaf(p[j], row->q_scale, -max));
        partial[j % SL_LANES] += p[j];
    }
    float c = sl_exp2_scalar(row->max - max);
    row->max = max;
    row->sum = fmaf(row->sum, c, sl_ref_tree(partial));
    for (uint32_t i = 0; i < sl_round_lanes(d); i++)
        row->out[i] *= c;
}

/* The weights w[j] of a page to u[j], 0..255; returns the largest weight, NaN if it is no number of [0, inf).
 */
static float quantise_weights(const float *w, uint32_t n_keys, int32_t *u)
{
    uint32_t top = 0, bits;
    float most;
    for (uint32_t j = 0; j < n_keys; j++) {
        memcpy(&bits, &w[j], sizeof bits);
        top = bits > top ? bits : top; /* NaN, infinity and whatever is negative lie above the numbers */
    }
    memcpy(&most, &top, sizeof most);
    bool tiny = most < 0x1p-100f, odd = top >= 0x7F800000u;
    for (uint32_t j = 0; j < n_keys; j++)
        u[j] = tiny || odd ? 0 : (int32_t)lrintf(w[j] * (255.0f / most));
    return odd ? NAN : tiny ? 0.0f : most;
}

static void page_of_i8(struct attend_row *row, uint32_t page, uint32_t n_keys)
{
    const uint8_t *values = row->a->v_pages[page], *scales = values + sl_page8_scales_at(row->a->d_head);
    float w[SL_PAGE_TOKENS];
    int32_t u[SL_PAGE_TOKENS];
    softmax_of_i8(row, row->a->k_pages[page], n_keys, w);
    for (uint32_t j = 0; j < n_keys; j++) {
        float scale;
        memcpy(&scale, scales + j * sizeof scale, sizeof scale);
        w[j] *= scale;
    }
    float step = quantise_weights(w, n_keys, u) * SL_PAGE8_WEIGHT;
    for (uint32_t i = 0; i < row->a->d_head; i++) {
        int32_t dot = 0;
        for (uint32_t j = 0; j < n_keys; j++)
            dot += u[j] * (int8_t)values[sl_page8_v_at(j, i)];
        row->out[i] = fmaf((float)dot, step, row->out[i]);
    }
}

/* One segment of a row whose key is at `position`, from nothing. */
static void row_segment(struct attend_row *row, uint32_t segment, uint32_t position)
{
    uint32_t last = position / SL_PAGE_TOKENS, end = (segment + 1) * SL_SEGMENT_PAGES;
    row->max = -INFINITY;
    row->sum = 0.0f;
    memset(row->out, 0, sl_round_lanes(row->a->d_head) * sizeof *row->out);
    for (uint32_t page = segment * SL_SEGMENT_PAGES; page < end && page <= last; page++) {
        uint32_t n_keys = page < last ? SL_PAGE_TOKENS : position % SL_PAGE_TOKENS + 1;
        (row->dots ? page_of_floats : page_of_i8)(row, page, n_keys);
    }
}

static void state_store(const struct attend_row *row, uint32_t segment, uint32_t index)
{
    const struct sl_attend *a = row->a;
    uint32_t width = sl_round_lanes(a->d_head);
    size_t at = (size_t)(segment - a->segment) * a->n_tok * a->n_rep + index;
    float *state = a->states + at * sl_attend_state_floats(a->d_head);
    memcpy(state, row->out, width * sizeof *state);
    state[width] = row->max;
    state[width + 1] = row->sum;
}

/* total: o, m, l as in a state. */
static void merge_state(float *total, const float *o, float max, float sum, uint32_t width)
{
    float *total_max = &total[width], *total_sum = &total[width + 1];
    float new_max = max > *total_max ? max : *total_max;
    float old_factor = sl_exp2_scalar(*total_max - new_max), factor = sl_exp2_scalar(max - new_max);
    for (uint32_t i = 0; i < width; i++)
        total[i] = fmaf(o[i], factor, total[i] * old_factor);
    *total_sum = fmaf(sum, factor, *total_sum * old_factor);
    *total_max = new_max;
}

static void finish(const struct sl_attend *a, uint32_t index, const float *o, float sum)
{
    float *out = a->out + index / a->n_rep * a->out_stride + (size_t)(index % a->n_rep) * a->d_head;
    for (uint32_t i = 0; i < a->d_head; i++)
        out[i] = o[i] / sum;
}

/* All segments of a row, merged, to `out`; or those that are asked for, to states. total: a state. */
static void row_segments(struct attend_row *row, uint32_t index, float *total)
{
    const struct sl_attend *a = row->a;
    uint32_t position = a->pos + index / a->n_rep, width = sl_round_lanes(a->d_head);
    uint32_t begin = a->states ? a->segment : 0, end = sl_attend_segments(position);
    if (a->states && a->segment_end < end)
        end = a->segment_end;
    for (uint32_t segment = begin; segment < end; segment++) {
        row_segment(row, segment, position);
        if (a->states) {
            state_store(row, segment, index);
        } else if (segment == 0) {
            memcpy(total, row->out, width * sizeof *total);
            total[width] = row->max;
            total[width + 1] = row->sum;
        } else {
            merge_state(total, row->out, row->max, row->sum, width);
        }
    }
    if (!a->states)
        finish(a, index, total, total[width + 1]);
}

static void each_row(const struct sl_attend *a, void *scratch, sl_ref_dots *dots)
{
    uint32_t width = sl_round_lanes(a->d_head);
    float *q = scratch, *out = q + width, *total = out + width;
    int8_t *q8 = (int8_t *)(total + sl_attend_state_floats(a->d_head));
    struct attend_row row = {.a = a, .dots = dots, .q = q, .q8 = q8, .out = out};
    for (uint32_t index = 0; index < a->n_tok * a->n_rep; index++) {
        const float *from = a->q + index / a->n_rep * a->q_stride + (size_t)(index % a->n_rep) * a->d_head;
        int32_t sum; /* ref subtracts the zero point in each product instead */
        for (uint32_t i = 0; i < a->d_head; i++)
            q[i] = from[i] * (a->scale * SL_EXP_LOG2E_HI);
        if (!dots)
            sl_ref_quantise(q, a->d_head, q8, sl_rows8_stride(a->d_head), &row.q_scale, &sum);
        row_segments(&row, index, total);
    }
}

void sl_ref_attend_with(const struct sl_attend *a, void *scratch, sl_ref_dots *dots)
{
    each_row(a, scratch, dots);
}

void sl_ref_attend8(const struct sl_attend *a, void *scratch)
{
    assert(a->kv_dtype == SL_I8 && a->d_head <= 1024);
    each_row(a, scratch, NULL);
}

size_t sl_ref_attend_scratch(uint32_t d_head)
{
    return (2 * sl_round_lanes(d_head) + sl_attend_state_floats(d_head)) * sizeof(float) +
           sl_rows8_stride(d_head);
}

/* The first state of a row is its total from then on. */
void sl_ref_attend_merge(const struct sl_attend *a)
{
    uint32_t width = sl_round_lanes(a->d_head), n_rows = a->n_tok * a->n_rep;
    size_t floats = sl_attend_state_floats(a->d_head);
    assert(a->segment == 0);
    for (uint32_t index = 0; index < n_rows; index++) {
        float *total = a->states + index * floats;
        for (uint32_t segment = 1; segment < sl_attend_segments(a->pos + index / a->n_rep); segment++) {
            const float *state = total + (size_t)segment * n_rows * floats;
            merge_state(total, state, state[width], state[width + 1], width);
        }
        finish(a, index, total, total[width + 1]);
    }
}
