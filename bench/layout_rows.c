/* Rows that go to their experts and come back (layout_rows.h). Nothing here changes a bit of an exact layer: an output is one row's
 * and one expert's, whatever rows lie beside it, and it is summed where and in the order in which one process does it. */
#include "bench/layout_rows.h"
#include "base/bytes.h"
#include "bench/layout_share.h"
#include "kernels/team_ops.h"
#include <assert.h>
#include <string.h>

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Of a row's top_k as many can be on one node. */
static uint32_t pairs_most(const struct sl_experts_dims *d, uint32_t n_nodes)
{
    return least(d->top_k, (d->n_experts + n_nodes - 1) / n_nodes);
}

/* ---- memory ---- */

static size_t ticket_bytes(uint32_t rows, uint32_t pairs)
{
    return 2 * sl_arena_round(rows * sizeof(uint32_t)) + sl_arena_round(pairs * sizeof(uint32_t));
}

static bool take_ticket(struct sl_layout_ticket *t, struct sl_arena *arena, uint32_t rows, uint32_t pairs)
{
    t->rows = sl_arena_take(arena, rows * sizeof(uint32_t));
    t->of_row = sl_arena_take(arena, rows * sizeof(uint32_t));
    t->position = sl_arena_take(arena, pairs * sizeof(uint32_t));
    return t->rows && t->of_row && t->position;
}

static bool take_tables(struct sl_layout_rows *r, uint32_t top_k, uint32_t pairs)
{
    size_t all = (size_t)pairs * r->n_nodes;
    bool good = true;
    for (uint32_t k = 0; k < r->n_nodes; k++)
        good = good && take_ticket(&r->out[k], &r->arena, r->max_rows, pairs) &&
               take_ticket(&r->in[k], &r->arena, r->max_rows, pairs);
    r->index_of = sl_arena_take(&r->arena, (size_t)r->max_rows * top_k * sizeof *r->index_of);
    r->summands = sl_arena_take(&r->arena, top_k * sizeof *r->summands);
    r->pair_expert = sl_arena_take(&r->arena, all * sizeof *r->pair_expert);
    r->pair_gate = sl_arena_take(&r->arena, all * sizeof *r->pair_gate);
    return good && r->index_of && r->summands && r->pair_expert && r->pair_gate;
}

sl_status sl_layout_rows_init(struct sl_layout_rows *r, struct sl_experts *home, uint32_t n_nodes,
                              uint32_t index, uint32_t max_rows, enum sl_layout_combine combine,
                              struct sl_err *err)
{
    struct sl_experts_dims dims = home->dims;
    uint32_t top_k = dims.top_k, most = pairs_most(&dims, n_nodes), pairs = max_rows * most,
             all_rows = max_rows * n_nodes;
    *r = (struct sl_layout_rows){
        .n_nodes = n_nodes, .index = index, .max_rows = max_rows, .combine = combine, .home = home};
    dims.top_k = most; /* of what may be here */
    dims.d_single = 0;
    SL_TRY(sl_arena_init(&r->arena,
                         2 * n_nodes * ticket_bytes(max_rows, pairs) +
                             sl_arena_round((size_t)max_rows * top_k * sizeof(uint32_t)) +
                             sl_arena_round(top_k * sizeof(float *)) +
                             2 * sl_arena_round((size_t)pairs * n_nodes * sizeof(uint32_t)),
                         err));
    SL_TRY(sl_arena_init(&r->guest_arena, sl_experts_bytes(&dims, all_rows, sl_team_size(home->team)), err));
    if (!take_tables(r, top_k, pairs) ||
        sl_experts_init(&r->guest, &r->guest_arena, home->ops, home->team, &dims, all_rows) != SL_OK)
        return sl_fail(err, SL_E_INTERNAL, "the memory plan of %u rows of %u nodes is too small; report this",
                       max_rows, n_nodes);
    return SL_OK;
}

void sl_layout_rows_fini(struct sl_layout_rows *r)
{
    sl_arena_fini(&r->guest_arena);
    sl_arena_fini(&r->arena);
}

static size_t row_bytes_most(const struct sl_experts_dims *d)
{
    size_t floats = d->d_model * sizeof(float), digits = 2 * (sl_rows8_stride(d->d_model) + 8);
    return floats > digits ? floats : digits;
}

static size_t head_bytes(uint32_t n_rows, uint32_t n_pairs)
{
    return (8 + 4 * (size_t)n_rows + 8 * (size_t)n_pairs + 63) / 64 * 64;
}

size_t sl_layout_rows_bytes(const struct sl_experts_dims *d, uint32_t n_nodes, uint32_t max_rows)
{
    return head_bytes(max_rows, max_rows * pairs_most(d, n_nodes)) + max_rows * row_bytes_most(d);
}

size_t sl_layout_back_bytes(const struct sl_experts_dims *d, uint32_t n_nodes, uint32_t max_rows,
                            enum sl_layout_combine combine)
{
    size_t pairs = (size_t)max_rows * pairs_most(d, n_nodes);
    return combine == SL_COMBINE_EXACT ? pairs * d->d_model * sizeof(float)
                                       : (size_t)max_rows * d->d_model * sizeof(uint16_t);
}

/* ---- rows out ---- */

void sl_layout_deal(struct sl_layout_rows *r, uint32_t n_rows)
{
    const struct sl_route *route = &r->home->route;
    uint32_t top_k = r->home->dims.top_k, n_experts = r->home->dims.n_experts;
    assert(n_rows <= r->max_rows);
    for (uint32_t k = 0; k < r->n_nodes; k++)
        r->out[k].n_rows = r->out[k].n_pairs = 0;
    for (uint32_t row = 0; row < n_rows; row++)
        for (uint32_t i = 0; i < top_k; i++) {
            uint32_t pair = row * top_k + i;
            struct sl_layout_ticket *t =
                &r->out[sl_layout_expert_owner(route->experts[pair], r->n_nodes, n_experts)];
            if (t->n_rows == 0 || t->rows[t->n_rows - 1] != row) {
                t->rows[t->n_rows] = row;
                t->of_row[t->n_rows++] = 0;
            }
            t->of_row[t->n_rows - 1]++;
            r->index_of[pair] = t->n_pairs++;
        }
}

static bool is_int(const struct sl_experts_weights *w)
{
    return sl_dtype_is_integer(w->routed.gate_up.dtype);
}

/* s8 rows, digit by digit: q of all rows, then scales, then sums. */
static uint8_t *pack_digits(uint8_t *to, const struct sl_rows8 *from, const struct sl_layout_ticket *t)
{
    for (uint32_t i = 0; i < t->n_rows; i++, to += from->stride)
        memcpy(to, from->q + t->rows[i] * from->stride, from->stride);
    for (uint32_t i = 0; i < t->n_rows; i++, to += 8) {
        memcpy(to, &from->scale[t->rows[i]], 4);
        memcpy(to + 4, &from->sum[t->rows[i]], 4);
    }
    return to;
}

/* Blocks of a fixed number of values become vector instructions. */
enum { BLOCK = 16 };

static void to_bf16(uint16_t *to, const float *from, uint32_t n)
{
    uint32_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK)
        for (uint32_t j = 0; j < BLOCK; j++)
            to[i + j] = sl_f32_to_bf16(from[i + j]);
    for (; i < n; i++)
        to[i] = sl_f32_to_bf16(from[i]);
}

static void add_bf16(float *to, const uint16_t *from, uint32_t n)
{
    uint32_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK)
        for (uint32_t j = 0; j < BLOCK; j++)
            to[i + j] += sl_bf16_to_f32(from[i + j]);
    for (; i < n; i++)
        to[i] += sl_bf16_to_f32(from[i]);
}

static uint8_t *pack_floats(uint8_t *to, const float *from, uint32_t n, enum sl_layout_combine combine)
{
    if (combine == SL_COMBINE_EXACT) {
        memcpy(to, from, n * sizeof *from);
        return to + n * sizeof *from;
    }
    to_bf16((uint16_t *)(void *)to, from,
            n); /* frames are aligned, and what is before this in them is even */
    return to + 2 * (size_t)n;
}

static const uint8_t *unpack_floats(float *to, const uint8_t *from, uint32_t n,
                                    enum sl_layout_combine combine)
{
    if (combine == SL_COMBINE_EXACT) {
        memcpy(to, from, n * sizeof *to);
        return from + n * sizeof *to;
    }
    memset(to, 0, n * sizeof *to);
    add_bf16(to, (const uint16_t *)(const void *)from, n);
    return from + 2 * (size_t)n;
}

size_t sl_layout_pack_rows(struct sl_layout_rows *r, const struct sl_experts_weights *w, uint32_t node,
                           uint8_t *to)
{
    const struct sl_experts *home = r->home;
    const struct sl_layout_ticket *t = &r->out[node];
    uint32_t top_k = home->dims.top_k, d = home->dims.d_model;
    uint8_t *expert = to + 8 + 4 * (size_t)t->n_rows, *gate = expert + 4 * (size_t)t->n_pairs;
    sl_put32(to, t->n_rows);
    sl_put32(to + 4, t->n_pairs);
    for (uint32_t i = 0; i < t->n_rows; i++) {
        sl_put32(to + 8 + 4 * (size_t)i, t->of_row[i]);
        for (size_t pair = (size_t)t->rows[i] * top_k; pair < (size_t)(t->rows[i] + 1) * top_k; pair++) {
            uint32_t e = home->route.experts[pair];
            if (sl_layout_expert_owner(e, r->n_nodes, home->dims.n_experts) != node)
                continue;
            sl_put32(expert, e);
            memcpy(gate, &home->route.gates[pair], 4);
            expert += 4;
            gate += 4;
        }
    }
    uint8_t *at = to + head_bytes(t->n_rows, t->n_pairs);
    if (is_int(w)) {
        struct sl_rows8 second = sl_rows8_from(&home->normed8, home->max_tokens);
        at = pack_digits(at, &home->normed8, t);
        if (w->routed.gate_up.digits == 2)
            at = pack_digits(at, &second, t);
    } else {
        for (uint32_t i = 0; i < t->n_rows; i++)
            at = pack_floats(at, home->normed + (size_t)t->rows[i] * d, d, r->combine);
    }
    return (size_t)(at - to);
}

/* ---- guests ---- */

void sl_layout_guests_begin(struct sl_layout_rows *r)
{
    r->n_guests = r->n_guest_pairs = 0;
}

static const uint8_t *unpack_digits(const struct sl_rows8 *to, uint32_t first, uint32_t n,
                                    const uint8_t *from)
{
    memcpy(to->q + first * to->stride, from, n * to->stride);
    from += n * to->stride;
    for (uint32_t i = first; i < first + n; i++, from += 8) {
        memcpy(&to->scale[i], from, 4);
        memcpy(&to->sum[i], from + 4, 4);
    }
    return from;
}

static size_t rows_part_bytes(const struct sl_layout_rows *r, const struct sl_experts_weights *w,
                              uint32_t n_rows)
{
    size_t d = r->guest.dims.d_model;
    if (is_int(w))
        return n_rows * (r->guest.normed8.stride + 8) * (w->routed.gate_up.digits == 2 ? 2 : 1);
    return n_rows * d * (r->combine == SL_COMBINE_EXACT ? sizeof(float) : sizeof(uint16_t));
}

/* The rows themselves, behind the guests that are there. */
static void unpack_rows(struct sl_layout_rows *r, const struct sl_experts_weights *w, uint32_t n_rows,
                        const uint8_t *from)
{
    struct sl_experts *g = &r->guest;
    uint32_t d = g->dims.d_model;
    if (is_int(w)) {
        struct sl_rows8 second = sl_rows8_from(&g->normed8, g->max_tokens);
        from = unpack_digits(&g->normed8, r->n_guests, n_rows, from);
        if (w->routed.gate_up.digits == 2)
            unpack_digits(&second, r->n_guests, n_rows, from);
        return;
    }
    for (uint32_t i = 0; i < n_rows; i++)
        from = unpack_floats(g->normed + (size_t)(r->n_guests + i) * d, from, d, r->combine);
}

bool sl_layout_guests_add(struct sl_layout_rows *r, const struct sl_experts_weights *w, uint32_t node,
                          const uint8_t *from, size_t bytes)
{
    struct sl_layout_ticket *t = &r->in[node];
    uint32_t begin = sl_layout_expert_begin(r->index, r->n_nodes, r->guest.dims.n_experts),
             end = sl_layout_expert_begin(r->index + 1, r->n_nodes, r->guest.dims.n_experts), sum = 0;
    if (bytes < 8)
        return false;
    t->n_rows = sl_get32(from);
    t->n_pairs = sl_get32(from + 4);
    t->first = r->n_guests;
    if (t->n_rows > r->max_rows || t->n_pairs > t->n_rows * r->guest.dims.top_k ||
        bytes != head_bytes(t->n_rows, t->n_pairs) + rows_part_bytes(r, w, t->n_rows))
        return false;
    const uint8_t *expert = from + 8 + 4 * (size_t)t->n_rows, *gate = expert + 4 * (size_t)t->n_pairs;
    for (uint32_t i = 0; i < t->n_rows; i++) {
        t->of_row[i] = sl_get32(from + 8 + 4 * (size_t)i);
        if (t->of_row[i] > t->n_pairs - sum)
            return false;
        sum += t->of_row[i];
    }
    for (uint32_t i = 0; i < t->n_pairs; i++) {
        uint32_t e = sl_get32(expert + 4 * (size_t)i);
        if (e < begin || e >= end)
            return false;
        r->pair_expert[r->n_guest_pairs + i] = e;
        memcpy(&r->pair_gate[r->n_guest_pairs + i], gate + 4 * (size_t)i, 4);
    }
    unpack_rows(r, w, t->n_rows, from + head_bytes(t->n_rows, t->n_pairs));
    r->n_guests += t->n_rows;
    r->n_guest_pairs += t->n_pairs;
    return sum == t->n_pairs;
}

/* Pairs by expert, a counting sort: within an expert in the order in which they came. */
void sl_layout_guests_group(struct sl_layout_rows *r)
{
    struct sl_route *route = &r->guest.route;
    uint32_t n_experts = r->guest.dims.n_experts, pair = 0;
    memset(route->offsets, 0, (n_experts + 1) * sizeof *route->offsets);
    for (uint32_t i = 0; i < r->n_guest_pairs; i++)
        route->offsets[r->pair_expert[i] + 1]++;
    for (uint32_t e = 0; e < n_experts; e++)
        route->offsets[e + 1] += route->offsets[e];
    for (uint32_t k = 0; k < r->n_nodes; k++) {
        struct sl_layout_ticket *t = &r->in[k];
        for (uint32_t i = 0, p = 0; i < t->n_rows; i++)
            for (uint32_t j = 0; j < t->of_row[i]; j++, p++, pair++) {
                t->position[p] = route->offsets[r->pair_expert[pair]]++;
                route->rows[t->position[p]] = t->first + i;
            }
    }
    for (uint32_t e = n_experts; e > 0; e--)
        route->offsets[e] = route->offsets[e - 1];
    route->offsets[0] = 0;
}

/* ---- and back ---- */

/* Of one row's pairs here: their sum, by gates, in bf16. */
static void pack_sum(struct sl_layout_rows *r, const uint32_t *position, const float *gates, uint32_t n,
                     uint8_t *to)
{
    uint32_t d = r->guest.dims.d_model;
    float *sum = r->guest.normed; /* has been used: room for a row of floats */
    memset(sum, 0, d * sizeof *sum);
    for (uint32_t i = 0; i < n; i++)
        r->summands[i] = r->guest.outputs + (size_t)position[i] * d;
    r->guest.ops->combine(sum, r->summands, gates, n, d);
    pack_floats(to, sum, d, SL_COMBINE_NODE);
}

size_t sl_layout_pack_back(struct sl_layout_rows *r, uint32_t node, uint8_t *to)
{
    const struct sl_layout_ticket *t = &r->in[node];
    size_t d = r->guest.dims.d_model;
    uint32_t pair = 0;
    for (uint32_t k = 0; k < node; k++)
        pair += r->in[k].n_pairs;
    if (r->combine == SL_COMBINE_EXACT) {
        for (uint32_t i = 0; i < t->n_pairs; i++)
            memcpy(to + i * d * sizeof(float), r->guest.outputs + t->position[i] * d, d * sizeof(float));
        return t->n_pairs * d * sizeof(float);
    }
    for (uint32_t i = 0, p = 0; i < t->n_rows; p += t->of_row[i], i++)
        pack_sum(r, t->position + p, r->pair_gate + pair + p, t->of_row[i], to + i * d * sizeof(uint16_t));
    return t->n_rows * d * sizeof(uint16_t);
}

static void sum_exact(struct sl_layout_rows *r, float *x, uint32_t n_rows, const uint8_t *const *back)
{
    const struct sl_experts *home = r->home;
    uint32_t top_k = home->dims.top_k, d = home->dims.d_model;
    for (size_t row = 0; row < n_rows; row++) {
        for (uint32_t i = 0; i < top_k; i++) {
            size_t pair = row * top_k + i;
            uint32_t node =
                sl_layout_expert_owner(home->route.experts[pair], r->n_nodes, home->dims.n_experts);
            r->summands[i] = (const float *)(const void *)back[node] + (size_t)r->index_of[pair] * d;
        }
        home->ops->combine(x + row * d, r->summands, home->route.gates + row * top_k, top_k, d);
    }
}

void sl_layout_sum(struct sl_layout_rows *r, float *x, uint32_t n_rows, const uint8_t *const *back)
{
    size_t d = r->home->dims.d_model;
    if (r->combine == SL_COMBINE_EXACT) {
        sum_exact(r, x, n_rows, back);
        return;
    }
    for (uint32_t k = 0; k < r->n_nodes; k++)
        for (uint32_t i = 0; i < r->out[k].n_rows; i++) {
            float *to = x + r->out[k].rows[i] * d;
            const uint8_t *from = back[k] + i * d * sizeof(uint16_t);
            add_bf16(to, (const uint16_t *)(const void *)from, (uint32_t)d);
        }
}
