/* N nodes that prefill one prompt together, in one of two layouts, over links of a transport:
 *
 *   layers    node k has a range of the layers with all their experts, and passes each chunk's rows on: a pipeline
 *   experts   every node has a part of each layer's experts, and a share of the rows; K and V go to everybody, rows to the
 *             experts that they chose and what these make of them back, three times a layer
 *
 * Each node is a thread with a stage, an io and a program (layout_layers.c, layout_experts.c); what it does goes on a tape
 * (layout_tape.h). With a processor for each (`real`) they run at once, and the clock is the wall's; else one works at a
 * time, its work is what it had of its processor, and only a play of the tapes has a latency. Frames are real on both clocks. */
#ifndef SL_BENCH_LAYOUT_WORLD_H
#define SL_BENCH_LAYOUT_WORLD_H

#include "base/status.h"
#include "bench/layout_tape.h"
#include "model/pack/pack.h"

enum sl_layout_kind { SL_LAYOUT_LAYERS, SL_LAYOUT_EXPERTS };
enum sl_layout_combine {
    SL_COMBINE_EXACT, /* each expert's output comes back by itself, in f32, and they are summed where the row is, in the
                         order of its choices: the bits of one process */
    SL_COMBINE_NODE /* what a node's experts make of a row is summed there and comes back once, in bf16, as in the field;
                         rows go out in bf16, too, where the experts are not integers */
};

struct sl_layout_config {
    const struct sl_pack *pack; /* outlives the world */
    const char *kv;
    enum sl_layout_kind kind;
    enum sl_layout_combine combine;
    uint32_t n_nodes; /* at most as many as layers, or experts */
    const uint32_t *ids;
    uint32_t n_ids;
    uint32_t rows; /* that a node has at once: a chunk of a pipeline, a share of a step; whole pages */
    const char *transport; /* "local", "ucx": on loopback */
    bool real;
    uint32_t
        delay_us; /* imposed on a real clock: by the local transport, and by who takes a frame that came over UCX */
    double gbit; /* likewise; 0: without limit */
};

struct sl_layout_result { /* of one round */
    double latency_ns;    /* on the wall; of no meaning when not real */
    uint64_t digest;      /* of the last row's logits, and of all K and V */
    const float *logits;  /* [vocab], until the next round */
};

struct sl_layout_world;
sl_status sl_layout_open(struct sl_layout_world **world, const struct sl_layout_config *config,
                         struct sl_err *err);
/* The prompt once, from empty pages. tapes: [n_nodes], the caller's, whose contents are replaced. */
sl_status sl_layout_round(struct sl_layout_world *world, struct sl_tape *tapes,
                          struct sl_layout_result *result, struct sl_err *err);
void sl_layout_close(struct sl_layout_world *world); /* NULL is fine */

#endif
