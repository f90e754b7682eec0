/* The parts of a world: world.c (time, the loop, what must hold), world_node.c (a node: its io and its role), world_decider.c (the
 * coordinator's side), world_faults.c (what goes wrong, and when what is sent arrives). */
#ifndef SL_BENCH_SIMULATE_WORLD_IMPL_H
#define SL_BENCH_SIMULATE_WORLD_IMPL_H

#include "base/rng.h"
#include "bench/simulate/world.h"
#include "model/shape.h"
#include "node/coordinator/links.h"
#include "node/role/role_decode.h"
#include "node/role/role_stage.h"
#include "pipeline/link/transport_sim.h"
#include "pipeline/sim/fair.h"
#include "pipeline/sim/holder.h"
#include "pipeline/stage/split.h"

enum {
    SL_WORLD_NODES = 1 + SL_MAX_STAGES + SL_MAX_DECODERS,
    SL_WORLD_FAULTS = 24,
    SL_WORLD_LIVES = 500,       /* of a place: a port has room for so many */
    SL_WORLD_START_US = 1000000 /* when the first request may come: until then all links are up */
};

enum sl_world_event_kind {
    SL_WORLD_ARRIVE,
    SL_WORLD_CANCEL,
    SL_WORLD_FLUSH,
    SL_WORLD_FAULT,      /* which: begins */
    SL_WORLD_FAULT_ENDS, /* which */
    SL_WORLD_FORETELL,   /* stage `node`: a CANCEL of seq comes as `number` */
    SL_WORLD_SILENT,     /* the decider is told that `node` hears nothing; number 0: hears all */
    SL_WORLD_DEAD,       /* the decider is told that place `which` in `life` is dead */
    SL_WORLD_COMES,      /* another takes place `which` */
    SL_WORLD_READY,      /* the decider is told that place `which` in `life` has all its links */
    SL_WORLD_TELL,       /* stage `node` is told that place `which` is in `life`; number 0: that it is gone */
    SL_WORLD_STOP,       /* who has place `which` in `life` ends its process */
    SL_WORLD_LOST,       /* the decider is told that stage `node` is dead */
    SL_WORLD_AGAIN       /* another pipeline begins where one was lost */
};

struct sl_world_event {
    struct sl_world_event *next;
    uint64_t at_us;
    enum sl_world_event_kind kind;
    uint32_t which, node, life;
    uint64_t seq, number;
};

struct sl_world_fault {
    enum sl_sim_fault kind;
    uint64_t at_us, until_us;
    uint32_t from, to; /* nodes; of a partition: those with their bit in `from` are on one side */
    uint64_t side;
    double times;
    bool hard; /* of a partition: lines break; of a crash: without power */
    bool active;
};

struct sl_world_node {
    uint32_t number, life;
    uint16_t port;
    struct sl_plan plan; /* as it knows it: with its own life */
    struct sl_io *io;    /* NULL: nobody is there */
    struct sl_stage *stage;
    struct sl_stage_role *role;    /* of a stage, or */
    struct sl_decode_role *decode; /* of a decode worker; the decider has neither */
    struct sl_role_meter meter;
    struct sl_role_actions actions;
    struct sl_links links;
    uint64_t decoder_links[SL_MAX_DECODERS]; /* a stage's; 0: none */
    uint64_t ahead_us;                       /* its clock */
    uint64_t wake_us, frozen_until_us, busy_until_us;
    uint64_t now_us;       /* when it was turned */
    double times;          /* slower than it should be */
    bool acting;           /* a step was made that ends at busy_until_us, and its actions wait until then */
    bool dying;            /* its process has to end */
    uint64_t done_records; /* as of the last look */
    uint64_t late_us;      /* what it works at will be */
};

struct sl_world_place { /* for a decode worker, as the decider's node sees it */
    uint64_t link;      /* 0: nobody is there */
    uint32_t life;
    bool up, ready, here;
    uint32_t silent; /* bits: to us, to itself */
};

struct sl_world_bytes { /* a frame of the decider's, until it is home */
    struct sl_world_bytes *next, **before;
    uint8_t bytes[];
};

struct sl_world {
    struct sl_world_config config;
    struct sl_plan plan;
    struct sl_shape shape;
    struct sl_order_limits limits;
    struct sl_rng rng;
    struct sl_net *net;
    uint64_t now_us;
    struct sl_world_event *events;
    struct sl_world_node *nodes;
    uint32_t n_nodes;
    uint8_t secret[32];

    struct sl_arena arena;
    struct sl_core *core;
    struct sl_actions actions;
    struct sl_holders holders;
    struct sl_fair fair;
    uint64_t *seqs;       /* [n_requests], 0: not taken */
    uint64_t *ends_by_us; /* [n_requests] what waits longer, waits too long */
    uint32_t first_open;  /* all requests before it have ended */
    uint32_t n_called;    /* of those that come after others and records: are on their way or here */
    uint32_t n_come;
    struct sl_world_place places[SL_MAX_DECODERS];
    uint64_t silent_nodes; /* of the chain, a bit each */
    struct sl_world_bytes *out;
    uint32_t n_out;
    bool complete;
    bool losing, lost;       /* a stage has died; and the decider knows it */
    uint32_t port_lives;     /* of pipelines that were lost: ports that no other listens to */
    uint64_t records_before; /* of those */

    struct sl_world_fault faults[SL_WORLD_FAULTS];
    uint32_t n_faults;
    uint32_t base_us[SL_WORLD_NODES][SL_WORLD_NODES]; /* what a way takes at least */
    uint64_t told_us[SL_WORLD_NODES][SL_WORLD_NODES]; /* a control stream keeps its order */
    uint32_t max_delay_us;
    uint64_t trouble_us; /* of all faults: so much longer may everything take */

    struct sl_world_report report;
    char broken[240];
};

void sl_world_break(struct sl_world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sl_world_tell(struct sl_world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline bool sl_world_is_told(const struct sl_world *w)
{
    return w->config.tell != NULL;
}
struct sl_world_event *sl_world_at(struct sl_world *w, uint64_t at_us, enum sl_world_event_kind kind);
static inline uint32_t sl_world_draw(struct sl_world *w, uint32_t below) /* 0 of 0 */
{
    return below ? (uint32_t)(sl_rng_next(&w->rng) % below) : 0;
}

/* world_node.c */
static inline uint64_t sl_node_clock_us(const struct sl_world *w, const struct sl_world_node *n)
{
    return w->now_us + n->ahead_us;
}
static inline uint16_t sl_node_port(const struct sl_world *w, uint32_t number, uint32_t life)
{
    return (uint16_t)(1 + number + 128 * (w->port_lives + life));
}
static inline uint32_t sl_node_at_port(uint16_t port)
{
    return (uint32_t)(port - 1) % 128;
}
/* The node gets its io, its links, its stage and its role. */
sl_status sl_node_begin(struct sl_world *w, uint32_t number, uint32_t life, struct sl_err *err);
void sl_node_end(struct sl_world_node *n);                      /* as a process that is killed */
void sl_node_turn(struct sl_world *w, struct sl_world_node *n); /* all that can be done now */
uint64_t sl_node_wake_us(const struct sl_world *w, const struct sl_world_node *n);
void sl_node_tell_decoder(struct sl_world *w, struct sl_world_node *n, const struct sl_world_event *event);

/* world_decider.c */
sl_status sl_decider_begin(struct sl_world *w, struct sl_err *err);
void sl_decider_end(struct sl_world *w);
/* What its io has brought, then a decision; returns whether anything came of it. */
bool sl_decider_work(struct sl_world *w);
void sl_decider_submit(struct sl_world *w, uint32_t request);
void sl_decider_cancel(struct sl_world *w, uint32_t request);
/* Whoever comes after others and records (config.after), and all of these are there. */
void sl_world_call_next(struct sl_world *w);
void sl_decider_hear(struct sl_world *w, const struct sl_world_event *event); /* SILENT, DEAD, READY */
void sl_decider_expect(struct sl_world *w, uint32_t place, uint32_t life);
void sl_decider_let_go(struct sl_world *w, uint32_t place); /* it is told to go */
/* A node of the chain is gone, and with it the pipeline: all that it has ends, and soon another begins. */
void sl_decider_lose(struct sl_world *w, const char *why);

/* world_faults.c */
void sl_faults_draw(struct sl_world *w, uint64_t span_us);
void sl_faults_on_event(struct sl_world *w, const struct sl_world_event *event); /* FAULT and FAULT_ENDS */
uint64_t sl_faults_arrives_us(void *world, uint16_t from, uint16_t to, size_t bytes, uint64_t now_us);
uint64_t sl_faults_lands_us(void *world, size_t bytes);
/* When a word of a control stream arrives that leaves now. */
uint64_t sl_faults_told_us(struct sl_world *w, uint32_t from, uint32_t to);

#endif
