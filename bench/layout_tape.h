/* What the nodes of a layout did for one prompt, as it was measured, and what it comes to on a network: pure.
 *
 * A tape is one node's list: work, frames sent, frames waited for, in order. Its order is the program's and no clock's, so tapes of
 * several rounds differ in their times only. Played on a virtual clock, each node goes through its tape; a frame leaves behind
 * those that its node sent before, at the network's rate, and is there a delay later; who waits for it has waited until then.
 * So one measurement says what every delay and rate would have made of it, and none needs as many processors as nodes. */
#ifndef SL_BENCH_LAYOUT_TAPE_H
#define SL_BENCH_LAYOUT_TAPE_H

#include <stdbool.h>
#include <stdint.h>

enum sl_tape_kind { SL_TAPE_WORK, SL_TAPE_SEND, SL_TAPE_TAKE };
enum sl_tape_part {                    /* of work */
                    SL_TAPE_STAGE,     /* all of a chunk on a stage of a pipeline */
                    SL_TAPE_ATTENTION, /* the attention block */
                    SL_TAPE_ROUTE,     /* norm, router, top-k */
                    SL_TAPE_EXPERTS,   /* the experts that are here; amount: pairs */
                    SL_TAPE_SUM,       /* what came of them onto the rows; a shared expert */
                    SL_TAPE_PACK,      /* rows to and from their experts' side; amount: bytes */
                    SL_TAPE_BACK,      /* what comes of them made ready to go back; amount: bytes */
                    SL_TAPE_CARRY, /* frames sealed and checked, and pages and a pipeline's rows copied; amount: bytes */
                    SL_TAPE_ENDS, /* ids to rows, the last row to logits */
                    SL_TAPE_PARTS
};

struct sl_tape_event {
    uint8_t kind, part;
    uint16_t peer;   /* of a frame */
    uint32_t amount; /* bytes of a frame, with its header */
    double ns;       /* of work; on a real clock also what a frame was waited for */
};

struct sl_tape {
    struct sl_tape_event *events;
    uint32_t n, capacity;
    bool torn; /* no memory for all of it */
};

void sl_tape_add(struct sl_tape *tape, struct sl_tape_event event);
void sl_tape_free(struct sl_tape *tape);

/* The times of *to become the medians of those of n_tapes alike (at most SL_SAMPLES_MAX), to->events as many as theirs. false: they
 * differ in more than times, or are torn. */
bool sl_tape_medians(struct sl_tape *to, const struct sl_tape *const *tapes, uint32_t n_tapes);

struct sl_layout_net {
    double delay_ns, ns_per_byte;
};
struct sl_layout_played {
    double latency_ns; /* until the last node is done */
    double waited_ns;  /* mean of the nodes */
    double bytes;      /* of all frames */
};
enum { SL_LAYOUT_NODES_MAX = 32 };
/* false: a frame is waited for that nobody sends, or no memory. */
bool sl_layout_play(const struct sl_tape *tapes, uint32_t n_nodes, const struct sl_layout_net *net,
                    struct sl_layout_played *played);

double sl_tape_sum(const struct sl_tape *tapes, uint32_t n_nodes, enum sl_tape_part part);
/* How much more than its share the busiest node has, of pairs, weighted by time: 1 when all have the same. Each node has as many
 * events of SL_TAPE_EXPERTS. */
double sl_tape_skew(const struct sl_tape *tapes, uint32_t n_nodes);

#endif
