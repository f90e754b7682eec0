/* The sums of layout_algebra.h: a flow shop, chunk by chunk, and what an exchange of every layer adds up to. */
#include "bench/layout_algebra.h"
#include <assert.h>

enum { HEAD_BYTES = 192 }; /* of a frame: header and what it is */

double sl_layout_hit(uint32_t n_experts, uint32_t top_k, uint32_t n_nodes)
{
    double others = n_experts - (double)n_experts / n_nodes, missed = 1;
    for (uint32_t i = 0; i < top_k; i++)
        missed *= others > i ? (others - i) / (n_experts - i) : 0;
    return 1 - missed;
}

/* ---- layers ---- */

struct layout_walk {
    const struct sl_layout_model *model;
    const struct sl_layout_one *one;
    uint32_t n_nodes;
    struct sl_layout_net net;
    double end_ns[SL_LAYOUT_NODES_MAX], line_free_ns[SL_LAYOUT_NODES_MAX], bytes;
};

static uint32_t layers_of(const struct layout_walk *w, uint32_t stage)
{
    return w->model->n_layers * (stage + 1) / w->n_nodes - w->model->n_layers * stage / w->n_nodes;
}

/* Chunk i goes through all stages. */
static void walk_chunk(struct layout_walk *w, uint32_t i)
{
    const struct sl_layout_one *one = w->one;
    uint32_t left = one->n_rows - i * one->chunk_rows, rows = left < one->chunk_rows ? left : one->chunk_rows;
    double bytes = rows * w->model->row_bytes, here_ns = 0;
    double carry_ns = bytes * (one->seal_ns_per_byte + one->copy_ns_per_byte); /* at either end */
    for (uint32_t s = 0; s < w->n_nodes; s++) {
        bool last = s + 1 == w->n_nodes;
        double begin_ns = here_ns > w->end_ns[s] ? here_ns : w->end_ns[s];
        double ns = one->chunk_ns[i] * layers_of(w, s) / w->model->n_layers;
        ns += s == 0 ? rows * one->embed_ns : carry_ns;
        ns += last ? (i + 1 == one->n_chunks ? one->head_ns : 0) : carry_ns;
        w->end_ns[s] = begin_ns + ns;
        if (last)
            return;
        double line_ns = w->end_ns[s] > w->line_free_ns[s] ? w->end_ns[s] : w->line_free_ns[s];
        w->line_free_ns[s] = line_ns + (bytes + HEAD_BYTES) * w->net.ns_per_byte;
        here_ns = w->line_free_ns[s] + w->net.delay_ns;
        w->bytes += bytes + HEAD_BYTES;
    }
}

struct sl_layout_foretold sl_layout_foretell_layers(const struct sl_layout_model *model,
                                                    const struct sl_layout_one *one, uint32_t n_nodes,
                                                    const struct sl_layout_net *net)
{
    struct sl_layout_foretold foretold = {0};
    assert(n_nodes > 0 && n_nodes <= SL_LAYOUT_NODES_MAX);
    for (int with_net = 0; with_net < 2; with_net++) {
        struct layout_walk w = {.model = model, .one = one, .n_nodes = n_nodes};
        if (with_net)
            w.net = *net;
        for (uint32_t i = 0; i < one->n_chunks; i++)
            walk_chunk(&w, i);
        *(with_net ? &foretold.latency_ns : &foretold.ideal_ns) = w.end_ns[n_nodes - 1];
        foretold.bytes = w.bytes;
    }
    return foretold;
}

/* ---- experts ---- */

struct sl_layout_foretold sl_layout_foretell_experts(const struct sl_layout_model *m,
                                                     const struct sl_layout_one *one, uint32_t n_nodes,
                                                     uint32_t step_rows, double skew,
                                                     const struct sl_layout_net *net)
{
    double n = n_nodes, peers = n - 1, share = one->n_rows / n; /* rows of a node, in all steps */
    double n_steps = (one->n_rows + step_rows - 1) / step_rows;
    double hit = sl_layout_hit(m->n_experts, m->top_k, n_nodes), pairs = m->top_k / n;
    double pages = share * peers * m->kv_row_bytes * m->n_layers; /* what leaves a node */
    double out = share * peers * (hit * m->out_bytes + pairs * m->pair_bytes) * m->n_routed;
    double back = share * peers * (m->exact ? pairs : hit) * m->back_bytes * m->n_routed;
    double frames = n_steps * peers * (m->n_layers + 2.0 * m->n_routed);
    double leaves = pages + out + back + frames * HEAD_BYTES;
    /* What crosses is sealed and looked at, and pages are copied at both ends. Exact: as many pairs come back as ever. Else each
     * pair is read once, whoever sums it, and what is made of them is more on more nodes. */
    double carry = 2 * (leaves * one->seal_ns_per_byte + pages * one->copy_ns_per_byte);
    double read =
        m->exact ? 0 : one->n_rows * n * pairs * 2 * m->back_bytes * m->n_routed * one->copy_ns_per_byte;
    read = read < one->back_ns ? read : one->back_ns;
    double rows =
        hit * one->pack_ns + read / n + (m->exact ? 1 / n : hit) * (one->back_ns - read + one->sum_ns);
    double work = (one->attention_ns + one->route_ns + skew * one->experts_ns) / n + rows +
                  share * one->embed_ns + one->head_ns;
    double waits = n_steps * (m->n_layers + 2.0 * m->n_routed) * net->delay_ns;
    struct sl_layout_foretold foretold = {
        .ideal_ns = work + carry, .latency_ns = work + carry, .bytes = n * leaves};
    if (n_nodes > 1)
        foretold.latency_ns += waits + leaves * net->ns_per_byte;
    return foretold;
}
