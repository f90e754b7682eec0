/* What goes wrong in a world (world_impl.h), drawn beforehand, and when what is sent arrives, which is most of it. What keeps nodes of the
 * chain from each other is bounded in all: a stage that is lost is the end of a pipeline, and here it is to go on. */
#include "bench/simulate/world_impl.h"

enum {
    HELD_MOST_US = 8000000, /* less than the ten seconds after which a node is lost */
    LEAST_US = 20,
    BYTES_PER_US = 1250 /* 10 Gb/s */
};

/* ---- drawing ---- */

static struct sl_world_fault *add(struct sl_world *w, enum sl_sim_fault kind, uint64_t span_us, uint32_t us)
{
    static struct sl_world_fault none;
    if (w->n_faults == SL_WORLD_FAULTS)
        return &none;
    struct sl_world_fault *f = &w->faults[w->n_faults++];
    uint64_t at_us = SL_WORLD_START_US + sl_rng_next(&w->rng) % span_us;
    *f = (struct sl_world_fault){.kind = kind, .at_us = at_us, .until_us = at_us + us, .times = 1};
    w->trouble_us += us;
    return f;
}

/* Mostly short, now and then so long that it is noticed. */
static uint32_t held_us(struct sl_world *w, uint32_t *left_us)
{
    uint32_t dice = sl_world_draw(w, 20), us = dice < 17   ? sl_world_draw(w, 200000)
                                               : dice < 19 ? 1000000 + sl_world_draw(w, 1500000)
                                                           : 5200000 + sl_world_draw(w, 2000000);
    us = us < *left_us ? us : *left_us;
    *left_us -= us;
    return us;
}

static void draw_ways(struct sl_world *w)
{
    bool reorder = sl_sim_has(w->config.faults, SL_SIM_REORDER);
    if (sl_sim_has(w->config.faults, SL_SIM_DELAY))
        w->max_delay_us = 1 + sl_world_draw(w, 3000);
    if (w->config.late_us)
        w->max_delay_us = w->config.late_us;
    for (uint32_t i = 0; i < w->n_nodes; i++)
        for (uint32_t k = 0; k < w->n_nodes; k++)
            w->base_us[i][k] = reorder && sl_world_draw(w, 3) == 0 ? sl_world_draw(w, 10000) : 0;
    for (uint32_t k = 0; w->config.slow_push && k < w->plan.n_stages; k++)
        for (uint32_t d = 0; d < w->plan.max_decoders; d++)
            w->base_us[sl_plan_stage_node(k)][sl_plan_decode_node(&w->plan, d)] += sl_world_draw(w, 100000);
}

static void draw_holds(struct sl_world *w, uint64_t span_us)
{
    uint32_t left_us = HELD_MOST_US;
    for (uint32_t n = sl_sim_has(w->config.faults, SL_SIM_CLOG) ? 1 + sl_world_draw(w, 3) : 0; n > 0; n--) {
        struct sl_world_fault *f = add(w, SL_SIM_CLOG, span_us, held_us(w, &left_us));
        f->from = sl_world_draw(w, w->n_nodes);
        f->to = sl_world_draw(w, w->n_nodes);
    }
    for (uint32_t n = sl_sim_has(w->config.faults, SL_SIM_PARTITION) ? 1 + sl_world_draw(w, 2) : 0; n > 0;
         n--) {
        struct sl_world_fault *f = add(w, SL_SIM_PARTITION, span_us, held_us(w, &left_us));
        f->side = sl_rng_next(&w->rng);
        f->hard = sl_world_draw(w, 2);
    }
    for (uint32_t n = sl_sim_has(w->config.faults, SL_SIM_FREEZE) ? 1 + sl_world_draw(w, 3) : 0; n > 0; n--)
        add(w, SL_SIM_FREEZE, span_us, held_us(w, &left_us))->to = sl_world_draw(w, w->n_nodes);
}

/* Among other faults now and then: it ends whatever they would have led to. */
static void draw_losses(struct sl_world *w, uint64_t span_us)
{
    bool alone = w->config.faults == 1u << SL_SIM_LOST_STAGE;
    if (!sl_sim_has(w->config.faults, SL_SIM_LOST_STAGE) || (!alone && sl_world_draw(w, 8) > 0))
        return;
    for (uint32_t n = 1 + sl_world_draw(w, 2); n > 0; n--) {
        struct sl_world_fault *f = add(w, SL_SIM_LOST_STAGE, span_us, 0);
        f->to = sl_plan_stage_node(sl_world_draw(w, w->plan.n_stages));
        f->hard = sl_world_draw(w, 2);
        w->trouble_us += 3000000; /* until the next one is there */
    }
}

void sl_faults_draw(struct sl_world *w, uint64_t span_us)
{
    uint32_t faults = w->config.faults;
    draw_ways(w);
    draw_holds(w, span_us);
    for (uint32_t n = sl_sim_has(faults, SL_SIM_CRASH) ? 1 + sl_world_draw(w, 6) : 0; n > 0; n--) {
        struct sl_world_fault *f = add(w, SL_SIM_CRASH, span_us, 50000);
        f->to = sl_world_draw(w, w->plan.n_decoders);
        f->hard = sl_world_draw(w, 2);
        f->from = sl_world_draw(w, 3); /* 0: it is told to go */
    }
    for (uint32_t n = sl_sim_has(faults, SL_SIM_SLOW) ? 1 + sl_world_draw(w, 2) : 0; n > 0; n--) {
        struct sl_world_fault *f = add(w, SL_SIM_SLOW, span_us, sl_world_draw(w, 500000));
        f->to = 1 + sl_world_draw(w, w->n_nodes - 1);
        f->times = 2 + sl_world_draw(w, 30);
        w->trouble_us += (uint64_t)(f->times * 100000);
    }
    for (uint32_t n = sl_sim_has(faults, SL_SIM_CLOCK) ? 1 + sl_world_draw(w, 3) : 0; n > 0; n--) {
        struct sl_world_fault *f = add(w, SL_SIM_CLOCK, span_us, 0);
        f->to = sl_world_draw(w, w->n_nodes);
        f->side = 1 + sl_rng_next(&w->rng) % (sl_world_draw(w, 2) ? 3000000 : 3600000000);
    }
    draw_losses(w, span_us);
    for (uint32_t i = 0; i < w->n_faults; i++) {
        sl_world_at(w, w->faults[i].at_us, SL_WORLD_FAULT)->which = i;
        if (w->faults[i].until_us > w->faults[i].at_us)
            sl_world_at(w, w->faults[i].until_us, SL_WORLD_FAULT_ENDS)->which = i;
    }
}

/* ---- what happens ---- */

static void crash(struct sl_world *w, const struct sl_world_fault *f)
{
    struct sl_world_node *n = &w->nodes[sl_plan_decode_node(&w->plan, f->to)];
    if (!n->io || !w->complete)
        return;
    if (f->from == 0) {
        sl_decider_let_go(w, f->to);
        return;
    }
    if (f->hard)
        sl_net_cut_power(w->net, n->port);
    sl_node_end(n);
    struct sl_world_event *e =
        sl_world_at(w, w->now_us + sl_world_draw(w, f->hard ? 2000000 : 20000), SL_WORLD_DEAD);
    e->which = f->to;
    e->life = n->life;
}

static void lose_stage(struct sl_world *w, const struct sl_world_fault *f)
{
    struct sl_world_node *n = &w->nodes[f->to];
    if (!n->io || !w->complete)
        return;
    w->losing = true;
    if (f->hard)
        sl_net_cut_power(w->net, n->port);
    sl_node_end(n);
    sl_world_at(w, w->now_us + sl_world_draw(w, f->hard ? 2000000 : 20000), SL_WORLD_LOST)->node = f->to;
}

static bool apart(const struct sl_world_fault *f, uint32_t a, uint32_t b)
{
    return (f->side >> a % 64 & 1) != (f->side >> b % 64 & 1);
}

static void cut_lines(struct sl_world *w, const struct sl_world_fault *f)
{
    for (uint32_t i = 0; i < w->n_nodes; i++)
        for (uint32_t k = 0; k < w->n_nodes; k++)
            if (i != k && apart(f, i, k) && w->nodes[i].io && w->nodes[k].io)
                sl_net_break(w->net, w->nodes[i].port, w->nodes[k].port);
}

void sl_faults_on_event(struct sl_world *w, const struct sl_world_event *e)
{
    struct sl_world_fault *f = &w->faults[e->which];
    struct sl_world_node *n = &w->nodes[f->to];
    f->active = e->kind == SL_WORLD_FAULT;
    w->report.faults += f->active;
    sl_world_tell(w, "%s %s: %u, %u, %llx, %s", sl_sim_fault_name(f->kind), f->active ? "begins" : "ends",
                  f->from, f->to, (unsigned long long)f->side, f->hard ? "hard" : "soft");
    if (f->kind == SL_SIM_CRASH && f->active)
        crash(w, f);
    if (f->kind == SL_SIM_LOST_STAGE && f->active)
        lose_stage(w, f);
    if (f->kind == SL_SIM_PARTITION && f->active && f->hard)
        cut_lines(w, f);
    if (f->kind == SL_SIM_FREEZE && f->active)
        n->frozen_until_us = f->until_us > n->frozen_until_us ? f->until_us : n->frozen_until_us;
    if (f->kind == SL_SIM_SLOW)
        n->times = f->active ? f->times : 1;
    if (f->kind == SL_SIM_CLOCK && f->active && n->io) {
        n->ahead_us += f->side;
        n->wake_us = w->now_us;
    }
}

/* ---- ways ---- */

static uint64_t arrives(struct sl_world *w, uint32_t from, uint32_t to, size_t bytes)
{
    uint64_t at_us = w->now_us + LEAST_US + w->base_us[from][to] + bytes / BYTES_PER_US +
                     sl_world_draw(w, w->max_delay_us);
    for (uint32_t i = 0; i < w->n_faults; i++) {
        const struct sl_world_fault *f = &w->faults[i];
        bool holds = f->active && ((f->kind == SL_SIM_CLOG && f->from == from && f->to == to) ||
                                   (f->kind == SL_SIM_PARTITION && apart(f, from, to)));
        if (holds && at_us < f->until_us)
            at_us = f->until_us + sl_world_draw(w, 1000);
    }
    return at_us;
}

uint64_t sl_faults_arrives_us(void *world, uint16_t from, uint16_t to, size_t bytes, uint64_t now_us)
{
    (void)now_us;
    return arrives(world, sl_node_at_port(from), sl_node_at_port(to), bytes);
}

uint64_t sl_faults_lands_us(void *world, size_t bytes)
{
    struct sl_world *w = world;
    return w->max_delay_us && bytes > 4096 ? sl_world_draw(w, w->max_delay_us) : 0;
}

uint64_t sl_faults_told_us(struct sl_world *w, uint32_t from, uint32_t to)
{
    uint64_t at_us = arrives(w, from, to, 0) + sl_world_draw(w, w->max_delay_us),
             *last_us = &w->told_us[from][to];
    *last_us = at_us > *last_us ? at_us : *last_us;
    return *last_us;
}
