/* The one cut of layers over nodes: what `serve` starts, what `plan` says and what a log proposes come from here.
 *
 * Stage k gets a run of layers, at least one, in the order of the model and of the nodes. When nodes and layers are all alike that
 * is the equal cut, [n·k/S, n·(k+1)/S): the larger parts come last, where they wait for rows anyway. Else it is the cut that has
 * the fastest slowest stage, since all others wait for it, among those in which no node holds more than it has room for; of several
 * the one that is most even. Pure. */
#ifndef SL_PIPELINE_DECIDE_LAYERS_H
#define SL_PIPELINE_DECIDE_LAYERS_H

#include "pipeline/record/order.h"

enum {
    SL_LAYERS_MOST = 256,
    SL_LAYERS_TEXT = 4 * SL_MAX_STAGES + 1 /* of a cut as text */
};

struct sl_layers_node {
    const double *us;    /* [n_layers]: what each layer takes on this node, of some load; none is negative */
    const double *bytes; /* [n_layers]: what it holds there */
    double room;         /* bytes for layers */
};

/* begin: [n_stages + 1]. 1 <= n_stages <= n_layers. */
void sl_layers_equal(uint32_t *begin, uint32_t n_layers, uint32_t n_stages);

/* The cut over nodes[0, n_stages), n_layers <= SL_LAYERS_MOST. False: in every cut some node lacks room; begin is then the one
 * in which the largest lack is least. */
bool sl_layers_cut(uint32_t *begin, uint32_t n_layers, const struct sl_layers_node *nodes, uint32_t n_stages);

double sl_layers_sum(const double *of_layers, uint32_t begin, uint32_t end);

/* A cut as --layers has it: how many layers each stage has, first to last, "3,2,1". */
void sl_layers_write(char text[SL_LAYERS_TEXT], const uint32_t *begin, uint32_t n_stages);
/* *layers becomes `room`, or NULL when there is no text: cut equally. SL_E_USAGE with a sentence that names --layers: no such list,
 * or one for another number of stages. Whether they are the model's is for the plan to say. */
sl_status sl_layers_read(const uint32_t **layers, uint32_t room[SL_MAX_STAGES], const char *text,
                         uint32_t n_stages, struct sl_err *err);

#endif
