/* Tapes (layout_tape.h) and their playing. Frames between two nodes stay in order, so the k-th that a node takes from another
 * is the k-th that this one sent to it. */
#include "bench/layout_tape.h"
#include "bench/samples.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

void sl_tape_add(struct sl_tape *tape, struct sl_tape_event event)
{
    if (tape->n == tape->capacity) {
        uint32_t capacity = tape->capacity > 0 ? 2 * tape->capacity : 256;
        struct sl_tape_event *events = realloc(tape->events, capacity * sizeof *events);
        tape->torn = tape->torn || !events;
        if (!events)
            return;
        tape->events = events;
        tape->capacity = capacity;
    }
    tape->events[tape->n++] = event;
}

void sl_tape_free(struct sl_tape *tape)
{
    free(tape->events);
    *tape = (struct sl_tape){0};
}

static bool alike(const struct sl_tape *a, const struct sl_tape *b)
{
    if (a->n != b->n || a->torn || b->torn)
        return false;
    for (uint32_t i = 0; i < a->n; i++) {
        const struct sl_tape_event *x = &a->events[i], *y = &b->events[i];
        if (x->kind != y->kind || x->part != y->part || x->peer != y->peer || x->amount != y->amount)
            return false;
    }
    return true;
}

bool sl_tape_medians(struct sl_tape *to, const struct sl_tape *const *tapes, uint32_t n_tapes)
{
    double ns[SL_SAMPLES_MAX];
    assert(n_tapes > 0 && n_tapes <= SL_SAMPLES_MAX);
    for (uint32_t k = 0; k < n_tapes; k++)
        if (!alike(tapes[0], tapes[k]))
            return false;
    to->n = 0;
    for (uint32_t i = 0; i < tapes[0]->n; i++) {
        struct sl_tape_event event = tapes[0]->events[i];
        for (uint32_t k = 0; k < n_tapes; k++)
            ns[k] = tapes[k]->events[i].ns;
        event.ns = sl_median(ns, n_tapes);
        sl_tape_add(to, event);
    }
    return !to->torn;
}

/* ---- playing ---- */

struct line { /* from one node to another */
    double *arrived_ns;
    uint32_t n_sent, n_taken;
};

struct player {
    const struct sl_tape *tapes;
    uint32_t n_nodes;
    struct sl_layout_net net;
    struct line *lines; /* [from * n_nodes + to] */
    double *arrivals;   /* of all lines, one behind the other */
    uint32_t at[SL_LAYOUT_NODES_MAX];
    double now_ns[SL_LAYOUT_NODES_MAX], free_ns[SL_LAYOUT_NODES_MAX], waited_ns, bytes;
};

static bool take_lines(struct player *p)
{
    size_t n_frames = 0;
    p->lines = calloc((size_t)p->n_nodes * p->n_nodes, sizeof *p->lines);
    for (uint32_t k = 0; p->lines && k < p->n_nodes; k++)
        for (uint32_t i = 0; i < p->tapes[k].n; i++) {
            const struct sl_tape_event *event = &p->tapes[k].events[i];
            assert(event->kind == SL_TAPE_WORK || event->peer < p->n_nodes);
            if (event->kind != SL_TAPE_SEND)
                continue;
            p->lines[k * p->n_nodes + event->peer].n_sent++;
            n_frames++;
        }
    p->arrivals = malloc((n_frames + 1) * sizeof *p->arrivals);
    if (!p->lines || !p->arrivals)
        return false;
    double *next = p->arrivals;
    for (uint32_t i = 0; i < p->n_nodes * p->n_nodes; i++) {
        p->lines[i].arrived_ns = next;
        next += p->lines[i].n_sent;
        p->lines[i].n_sent = 0;
    }
    return true;
}

/* One event of a node; false: it waits for a frame that has not been sent. */
static bool play_event(struct player *p, uint32_t node)
{
    const struct sl_tape_event *event = &p->tapes[node].events[p->at[node]];
    if (event->kind == SL_TAPE_WORK) {
        p->now_ns[node] += event->ns;
    } else if (event->kind == SL_TAPE_SEND) {
        struct line *line = &p->lines[node * p->n_nodes + event->peer];
        double begin_ns = p->now_ns[node] > p->free_ns[node] ? p->now_ns[node] : p->free_ns[node];
        p->free_ns[node] = begin_ns + event->amount * p->net.ns_per_byte;
        line->arrived_ns[line->n_sent++] = p->free_ns[node] + p->net.delay_ns;
        p->bytes += event->amount;
    } else {
        struct line *line = &p->lines[event->peer * p->n_nodes + node];
        if (line->n_taken == line->n_sent)
            return false;
        double arrived_ns = line->arrived_ns[line->n_taken++];
        if (arrived_ns > p->now_ns[node]) {
            p->waited_ns += arrived_ns - p->now_ns[node];
            p->now_ns[node] = arrived_ns;
        }
    }
    p->at[node]++;
    return true;
}

bool sl_layout_play(const struct sl_tape *tapes, uint32_t n_nodes, const struct sl_layout_net *net,
                    struct sl_layout_played *played)
{
    struct player p = {.tapes = tapes, .n_nodes = n_nodes, .net = *net};
    assert(n_nodes > 0 && n_nodes <= SL_LAYOUT_NODES_MAX);
    bool any = take_lines(&p), done = any;
    while (any) {
        any = false;
        done = true;
        for (uint32_t k = 0; k < n_nodes; k++) {
            while (p.at[k] < tapes[k].n && play_event(&p, k))
                any = true;
            done = done && p.at[k] == tapes[k].n;
        }
        any = any && !done;
    }
    *played = (struct sl_layout_played){.waited_ns = p.waited_ns / n_nodes, .bytes = p.bytes};
    for (uint32_t k = 0; k < n_nodes; k++)
        if (p.now_ns[k] > played->latency_ns)
            played->latency_ns = p.now_ns[k];
    free(p.arrivals);
    free(p.lines);
    return done;
}

/* ---- sums ---- */

double sl_tape_sum(const struct sl_tape *tapes, uint32_t n_nodes, enum sl_tape_part part)
{
    double sum = 0;
    for (uint32_t k = 0; k < n_nodes; k++)
        for (uint32_t i = 0; i < tapes[k].n; i++)
            if (tapes[k].events[i].kind == SL_TAPE_WORK && tapes[k].events[i].part == part)
                sum += tapes[k].events[i].ns;
    return sum;
}

/* The next event of the experts' work behind *at; NULL: none. */
static const struct sl_tape_event *next_experts(const struct sl_tape *tape, uint32_t *at)
{
    while (*at < tape->n) {
        const struct sl_tape_event *event = &tape->events[(*at)++];
        if (event->kind == SL_TAPE_WORK && event->part == SL_TAPE_EXPERTS)
            return event;
    }
    return NULL;
}

double sl_tape_skew(const struct sl_tape *tapes, uint32_t n_nodes)
{
    uint32_t at[SL_LAYOUT_NODES_MAX] = {0};
    double most = 0, all = 0;
    assert(n_nodes > 0 && n_nodes <= SL_LAYOUT_NODES_MAX);
    for (;;) {
        double largest = 0;
        for (uint32_t k = 0; k < n_nodes; k++) {
            const struct sl_tape_event *event = next_experts(&tapes[k], &at[k]);
            if (!event)
                return all > 0 ? most * n_nodes / all : 1;
            largest = event->amount > largest ? event->amount : largest;
            all += event->amount;
        }
        most += largest;
    }
}
