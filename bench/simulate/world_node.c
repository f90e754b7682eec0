/* A node of a simulated world: what node/role/role_loop.c does with a thread, done on a virtual clock. What a step would take is known
 * when it was made: its actions wait until then, and the node with them, while its io goes on. */
#include "bench/simulate/device_hash.h"
#include "bench/simulate/world_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- life ---- */

struct world_view { /* whose peers are where, for sl_links_open */
    const struct sl_world *world;
    uint32_t number;
};

static void peer_at(void *user, uint32_t node, struct sl_io_address *address)
{
    const struct world_view *v = user;
    uint32_t d = sl_plan_decoder_of(&v->world->plan, node);
    uint16_t port = sl_node_port(v->world, node, d == SL_NO_DECODER ? 0 : v->world->places[d].life);
    uint8_t bytes[2];
    sl_put16(bytes, port);
    sl_io_address_set(address, bytes, sizeof bytes);
}

static uint64_t own_clock_us(void *node)
{
    const struct sl_world_node *n = node;
    double took_us = sl_device_hash_took_us(sl_stage_device(n->stage));
    return n->now_us + n->ahead_us + (uint64_t)ceil(took_us * n->times) + (took_us > 0 ? n->late_us : 0);
}

static int64_t next_offset_us(void *node)
{
    const struct sl_world_node *n = node;
    uint32_t next = n->number == n->plan.n_stages ? 0 : n->number + 1;
    return sl_io_clock(n->io, sl_plan_link_id(&n->plan, n->number, next)).offset_us;
}

/* A stage has its share of the layers, and of what they cost. */
static struct sl_cost cost_of(const struct sl_world *w, uint32_t k)
{
    if (w->config.costs)
        return w->config.costs[k < w->plan.n_stages ? k : w->plan.n_stages];
    struct sl_cost cost = w->config.cost;
    double share = k < w->plan.n_stages
                       ? (double)(w->plan.begin[k + 1] - w->plan.begin[k]) / (double)w->plan.n_layers
                       : 1;
    for (int t = SL_COST_GAMMA; t < SL_COST_E; t++)
        cost.us[t] *= share;
    return cost;
}

static sl_status make_role(struct sl_world *w, struct sl_world_node *n, struct sl_err *err)
{
    uint32_t k = n->number - 1;
    struct sl_share share = sl_plan_share(&n->plan, k, 1);
    SL_TRY(sl_stage_create_bare(&n->stage, &w->shape, &share, &sl_device_hash, err));
    struct sl_cost cost = cost_of(w, k);
    sl_device_hash_cost(sl_stage_device(n->stage), &cost, 1);
    struct sl_role_config config = {.stage = n->stage,
                                    .plan = &n->plan,
                                    .k = k,
                                    .meter = &n->meter,
                                    .now_us = own_clock_us,
                                    .next_offset_us = next_offset_us,
                                    .clock = n};
    return k < w->plan.n_stages ? sl_stage_role_create(&n->role, &config, err)
                                : sl_decode_role_create(&n->decode, &config, err);
}

sl_status sl_node_begin(struct sl_world *w, uint32_t number, uint32_t life, struct sl_err *err)
{
    struct sl_world_node *n = &w->nodes[number];
    uint32_t d = sl_plan_decoder_of(&w->plan, number);
    *n = (struct sl_world_node){.number = number,
                                .life = life,
                                .port = sl_node_port(w, number, life),
                                .plan = w->plan,
                                .ahead_us = 1000000 + sl_rng_next(&w->rng) % 1000000000000,
                                .wake_us = w->now_us,
                                .times = 1};
    if (d != SL_NO_DECODER)
        n->plan.decoder_life[d] = life;
    struct sl_io_config config = {.transport = &sl_transport_sim,
                                  .net = w->net,
                                  .port = n->port,
                                  .limits = {1 << 30, SL_MAX_LAYERS, 1 << 22}};
    SL_TRY(sl_io_create_stepped(&n->io, &config, sl_rng_next(&w->rng), err));
    if (number > 0)
        SL_TRY(make_role(w, n, err));
    n->links = (struct sl_links){.plan = &n->plan, .node = number};
    struct world_view view = {w, number};
    SL_TRY(sl_links_open(n->io, &n->plan, number, w->secret, peer_at, &view, &n->links.n_links, err));
    for (uint32_t i = 0; n->role && i < w->plan.n_decoders; i++)
        n->decoder_links[i] = sl_plan_link_id(&n->plan, number, sl_plan_decode_node(&n->plan, i));
    return SL_OK;
}

void sl_node_end(struct sl_world_node *n)
{
    sl_io_destroy(n->io); /* before what it reads from */
    sl_stage_role_destroy(n->role);
    sl_decode_role_destroy(n->decode);
    sl_stage_destroy(n->stage);
    n->io = NULL;
    n->role = NULL;
    n->decode = NULL;
    n->stage = NULL;
}

/* ---- steps ---- */

static void carry_out(struct sl_world *w, struct sl_world_node *n)
{
    for (uint32_t i = 0; i < n->actions.n; i++) {
        const struct sl_role_action *a = &n->actions.list[i];
        if (a->kind == SL_ROLE_RELEASE) {
            sl_io_release(n->io, a->link, a->slot);
            continue;
        }
        if (sl_io_send(n->io, a->link, &a->wire, a->payload, a->tag) != SL_OK && !w->losing)
            sl_world_break(w, "node %u sends what its io does not take", n->number);
        w->report.frames++;
    }
    n->actions.n = 0;
}

static void look_at_tables(struct sl_world *w, struct sl_world_node *n)
{
    const char *bad = sl_sequences_check(sl_stage_sequences(n->stage));
    if (bad)
        sl_world_break(w, "node %u: %s", n->number, bad);
    uint64_t records = atomic_load(&n->meter.records);
    uint64_t before = n->number == 1 ? w->report.records - w->records_before
                                     : atomic_load(&w->nodes[n->number - 1].meter.records);
    if (n->role && (records < n->done_records || records > n->done_records + 1 || records > before))
        sl_world_break(w, "stage %u has applied %llu records, %llu before, and there are %llu", n->number - 1,
                       (unsigned long long)records, (unsigned long long)n->done_records,
                       (unsigned long long)before);
    n->done_records = records;
}

/* One step; its actions are carried out, or wait until it is over. */
static void step(struct sl_world *w, struct sl_world_node *n, const struct sl_io_event *event)
{
    struct sl_err err;
    n->late_us = sl_world_draw(w, w->config.late_us);
    sl_status status = n->role ? sl_stage_role_step(n->role, event, &n->actions, &err)
                               : sl_decode_role_step(n->decode, event, &n->actions, &err);
    if (status != SL_OK) {
        sl_world_break(w, "node %u: %.200s", n->number, err.text);
        return;
    }
    if (!event)
        look_at_tables(w, n);
    uint64_t took_us = (uint64_t)ceil(sl_device_hash_took_us(sl_stage_device(n->stage)) * n->times);
    sl_device_hash_begin(sl_stage_device(n->stage));
    if (took_us == 0) {
        carry_out(w, n);
        return;
    }
    n->acting = true;
    n->busy_until_us = w->now_us + took_us + n->late_us;
    sl_world_tell(w, "node %u works for %llu us", n->number, (unsigned long long)took_us);
}

/* ---- events of the io ---- */

static void on_silence(struct sl_world *w, struct sl_world_node *n)
{
    uint64_t link = sl_io_silent(n->io);
    if (n->role) {
        uint32_t after = n->number == w->plan.n_stages ? 0 : n->number + 1;
        uint64_t ways[2] = {sl_plan_link_id(&n->plan, n->number - 1, n->number),
                            sl_plan_link_id(&n->plan, n->number, after)};
        link = sl_io_is_silent(n->io, ways[0]) ? ways[0] : sl_io_is_silent(n->io, ways[1]) ? ways[1] : 0;
    }
    sl_world_tell(w, "node %u hears %s", n->number,
                  link ? "nothing from a neighbour" : "all neighbours again");
    struct sl_world_event *e = sl_world_at(w, sl_faults_told_us(w, n->number, 0), SL_WORLD_SILENT);
    e->node = n->number;
    e->life = n->life;
    e->number = link != 0;
}

static void on_down(struct sl_world *w, struct sl_world_node *n, const struct sl_io_event *event)
{
    uint32_t peer = sl_plan_link_peer(event->link, n->number), d = sl_plan_decoder_of(&w->plan, peer);
    sl_world_tell(w, "node %u: the link to node %u is down (%s)", n->number, peer,
                  event->reason ? event->reason : "no reason");
    if (n->role && d != SL_NO_DECODER) {
        if (n->decoder_links[d] == event->link) { /* its pages go nowhere */
            n->decoder_links[d] = 0;
            sl_stage_role_set_decoder(n->role, d, 0, 0, 0);
        }
    } else if (n->decode || w->losing) {
        n->dying = true;
    } else {
        sl_world_break(w, "node %u has lost node %u (%s)", n->number, peer,
                       event->reason ? event->reason : "no reason");
    }
}

static void on_up(struct sl_world *w, struct sl_world_node *n, const struct sl_io_event *event)
{
    if (n->role && sl_plan_decoder_of(&w->plan, sl_plan_link_peer(event->link, n->number)) != SL_NO_DECODER &&
        n->links.n_up == n->links.n_links)
        return; /* of one that came later */
    if (++n->links.n_up != n->links.n_links || !n->decode || n->life == 0)
        return;
    struct sl_world_event *e = sl_world_at(w, sl_faults_told_us(w, n->number, 0), SL_WORLD_READY);
    e->which = sl_plan_decoder_of(&w->plan, n->number);
    e->life = n->life;
}

static void on_event(struct sl_world *w, struct sl_world_node *n, const struct sl_io_event *event)
{
    static const char *const kinds[] = {"up", "down", "sent", "frame", "silence", "nudge"};
    if (sl_world_is_told(w) && event->kind != SL_IO_SENT)
        sl_world_tell(w, "node %u: %s from node %u, kind %u, seq %llu, %llu bytes", n->number,
                      kinds[event->kind], sl_plan_link_peer(event->link, n->number), event->wire.kind,
                      (unsigned long long)event->wire.seq, (unsigned long long)event->wire.payload_bytes);
    switch (event->kind) {
    case SL_IO_FRAME:
    case SL_IO_SENT:
        step(w, n, event);
        break;
    case SL_IO_LINK_UP:
        on_up(w, n, event);
        break;
    case SL_IO_LINK_DOWN:
        on_down(w, n, event);
        break;
    case SL_IO_SILENCE:
        on_silence(w, n);
        break;
    case SL_IO_NUDGE:
        break;
    }
}

/* ---- turns ---- */

/* Returns whether there was anything to do. */
static bool work(struct sl_world *w, struct sl_world_node *n)
{
    struct sl_io_event event;
    bool any = n->acting;
    if (n->acting && n->busy_until_us > w->now_us)
        return false;
    if (n->acting) {
        n->acting = false;
        carry_out(w, n);
    }
    do {
        for (; !w->broken[0] && sl_io_poll(n->io, &event, 0) == SL_OK; any = true)
            on_event(w, n, &event);
        if (!any || n->dying || w->broken[0])
            return any;
        step(w, n, NULL);
    } while (n->actions.go_on && !n->acting && !w->broken[0]);
    return true;
}

void sl_node_turn(struct sl_world *w, struct sl_world_node *n)
{
    n->now_us = w->now_us;
    uint64_t wake_us = UINT64_MAX;
    int wait_ms;
    bool any;
    do { /* until its io has nothing for it and it has nothing for its io */
        wait_ms = sl_io_turn(n->io, sl_node_clock_us(w, n));
        any = n->number == 0 ? sl_decider_work(w) : work(w, n);
    } while (any && !n->dying && !w->broken[0]);
    uint64_t at_us = n->number == 0 ? sl_core_wake_us(w->core) : 0;
    if (at_us > 0)
        wake_us = at_us > n->ahead_us + w->now_us ? at_us - n->ahead_us : w->now_us + 1;
    if (n->acting)
        wake_us = n->busy_until_us;
    if (n->dying) {
        sl_world_tell(w, "node %u ends", n->number);
        sl_node_end(n);
        n->dying = false;
        uint32_t d = sl_plan_decoder_of(&w->plan, n->number);
        struct sl_world_event *e = sl_world_at(w, sl_faults_told_us(w, n->number, 0),
                                               d == SL_NO_DECODER ? SL_WORLD_LOST : SL_WORLD_DEAD);
        e->node = n->number;
        e->which = d;
        e->life = n->life;
        return;
    }
    uint64_t wait_us = 1000 * (uint64_t)wait_ms;
    n->wake_us = w->now_us + wait_us < wake_us ? w->now_us + wait_us : wake_us;
}

uint64_t sl_node_wake_us(const struct sl_world *w, const struct sl_world_node *n)
{
    if (!n->io)
        return UINT64_MAX;
    uint64_t due_us = sl_net_due_us(w->net, n->port), at_us = due_us < n->wake_us ? due_us : n->wake_us;
    return at_us < n->frozen_until_us ? n->frozen_until_us : at_us;
}

/* ---- a stage's decode workers ---- */

void sl_node_tell_decoder(struct sl_world *w, struct sl_world_node *n, const struct sl_world_event *e)
{
    uint32_t d = e->which, to = sl_plan_decode_node(&w->plan, d);
    struct sl_plan then = n->plan;
    struct sl_io_address at;
    struct sl_err err;
    uint8_t bytes[2];
    then.decoder_life[d] = e->life;
    uint64_t named = sl_plan_link_id(&then, n->number, to);
    if (e->number == 0 ? n->decoder_links[d] != named : n->decoder_links[d] == named)
        return;
    if (n->decoder_links[d])
        sl_io_drop(n->io, n->decoder_links[d]);
    n->decoder_links[d] = 0;
    sl_stage_role_set_decoder(n->role, d, 0, 0, 0);
    n->wake_us = w->now_us;
    if (e->number == 0)
        return;
    sl_put16(bytes, sl_node_port(w, to, e->life));
    sl_io_address_set(&at, bytes, sizeof bytes);
    if (sl_links_open_decoder(n->io, &n->plan, n->number, to, e->life, w->secret, &at, &n->decoder_links[d],
                              &err) != SL_OK)
        sl_world_break(w, "stage %u: %.200s", n->number - 1, err.text);
    else
        sl_stage_role_set_decoder(n->role, d, 0, e->life, n->decoder_links[d]);
}
