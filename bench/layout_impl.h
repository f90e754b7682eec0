/* What the files of a layout's world share: a node, its clock and its frames. Private to bench/layout_*. */
#ifndef SL_BENCH_LAYOUT_IMPL_H
#define SL_BENCH_LAYOUT_IMPL_H

#include "bench/layout_world.h"
#include "pipeline/link/transport.h"
#include "pipeline/stage/stage.h"
#include <pthread.h>
#include <stdatomic.h>

enum {
    SL_LAYOUT_SLOTS = 4,      /* frames of a peer that lie with a node */
    SL_LAYOUT_HEAD_BYTES = 64 /* of a payload, before what is in it */
};

struct sl_layout_frame { /* one that came in */
    uint64_t link;
    struct sl_wire wire;
    uint8_t *payload;
    uint32_t slot;
};

struct sl_layout_inbox { /* of one peer: what came and was not taken */
    struct sl_layout_frame frames[SL_LAYOUT_SLOTS];
    uint32_t first, n;
};

struct sl_layout_buffer { /* a frame that goes out is made here */
    uint8_t *data;
    size_t bytes;
    bool out;
};

struct sl_layout_program;
struct sl_layout_node {
    struct sl_layout_world *world;
    uint32_t index;
    struct sl_io *io;
    struct sl_stage *stage;
    struct sl_sequence *sequence;
    void *state; /* the program's */
    struct sl_tape tape;
    struct sl_layout_inbox inbox[SL_LAYOUT_NODES_MAX];
    struct sl_layout_buffer *buffers;
    uint32_t n_buffers;
    uint64_t
        line_free_ns; /* when what was sent has left at --gbit, where the transport does not see to that */
    bool holds;       /* the processor, where there are fewer than nodes */
    uint64_t since_ns, begun_ns, done_ns;
    float *logits; /* of the last row, [vocab]: of the node that has it; else NULL */
    pthread_t thread;
    bool running;
    struct sl_err err;
};

struct sl_layout_program {
    /* What node `index` has of the model, which is all of it when this is called. NULL: that. */
    void (*narrow)(const struct sl_layout_world *world, uint32_t index, struct sl_share *share);
    size_t (*frame_bytes)(const struct sl_layout_world *world); /* the most that a payload has */
    sl_status (*open)(struct sl_layout_node *node, struct sl_err *err);
    void (*run)(struct sl_layout_node *node);
    void (*close)(struct sl_layout_node *node);
};
extern const struct sl_layout_program sl_layout_layers, sl_layout_experts;

struct sl_layout_world {
    struct sl_layout_config config;
    const struct sl_shape *shape;
    const struct sl_layout_program *program;
    struct sl_fabric *fabric;
    struct sl_layout_node nodes[SL_LAYOUT_NODES_MAX];
    struct sl_layout_gate { /* all nodes and the caller pass it together */
        pthread_mutex_t mutex;
        pthread_cond_t moved;
        uint32_t n_waiting;
        uint64_t n_passed;
        bool broken; /* nobody waits any more */
    } gate;
    uint32_t n_running;
    pthread_mutex_t processor;
    _Atomic bool failed;
    float *logits;
};

/* ---- the clock: whatever costs stands between these two; waiting never does ---- */
void sl_layout_work(struct sl_layout_node *node);
void sl_layout_worked(struct sl_layout_node *node, enum sl_tape_part part, size_t amount);
void sl_layout_rest(struct sl_layout_node *node); /* others may work now */

/* ---- frames (layout_wires.c) ---- */
sl_status sl_layout_wire(struct sl_layout_world *world,
                         struct sl_err *err); /* ios and links, all of them up */
void sl_layout_unwire(struct sl_layout_world *world);
sl_status sl_layout_buffers(struct sl_layout_node *node, uint32_t n, size_t bytes, struct sl_err *err);
/* A buffer that is not under way any more: waits until its frame has come home. */
uint8_t *sl_layout_buffer(struct sl_layout_node *node, uint32_t buffer);
/* Sealed here, as work. `what` is looked at by who takes it. */
void sl_layout_send(struct sl_layout_node *node, uint32_t to, uint32_t buffer, size_t bytes, uint32_t what);
/* The next frame of a peer, checked: what it carries begins SL_LAYOUT_HEAD_BYTES into it. payload NULL: the world has failed,
 * and whoever hears it returns. */
struct sl_layout_frame sl_layout_take(struct sl_layout_node *node, uint32_t from, uint32_t what);
void sl_layout_give_back(struct sl_layout_node *node, const struct sl_layout_frame *frame);
void sl_layout_fail(struct sl_layout_node *node, const char *why); /* the world, once */

#endif
