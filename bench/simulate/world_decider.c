/* The coordinator of a simulated world: what node/coordinator/ does with a thread around the core, in as few words: frames in, actions
 * out, who has which place for a decode worker. All decisions are the core's. */
#include "bench/simulate/world_impl.h"
#include <stdlib.h>

/* ---- actions ---- */

static struct sl_world_bytes *take_bytes(struct sl_world *w, size_t n)
{
    struct sl_world_bytes *b = malloc(sizeof *b + n);
    if (!b)
        abort();
    b->next = w->out;
    b->before = &w->out;
    if (b->next)
        b->next->before = &b->next;
    w->out = b;
    w->n_out++;
    return b;
}

static void give_bytes(struct sl_world *w, struct sl_world_bytes *b)
{
    *b->before = b->next;
    if (b->next)
        b->next->before = b->before;
    free(b);
    w->n_out--;
}

static void send(struct sl_world *w, uint64_t link, struct sl_wire *wire, struct sl_world_bytes *b)
{
    wire->meta_bytes = (uint32_t)wire->payload_bytes;
    sl_frame_seal(wire, b->bytes);
    w->report.frames++;
    if (sl_io_send(w->nodes[0].io, link, wire, b->bytes, (uintptr_t)b) == SL_OK)
        return;
    if (!w->losing)
        sl_world_break(w, "the decider sends what its io does not take");
    give_bytes(w, b);
}

/* It goes to each stage on its own way, twice, or never. */
static void foretell(struct sl_world *w, uint64_t seq, uint64_t number)
{
    if (!sl_sim_has(w->config.faults, SL_SIM_REORDER))
        return;
    for (uint32_t k = 0; k < w->plan.n_stages; k++)
        for (uint32_t n = sl_world_draw(w, 3); n > 0; n--) {
            struct sl_world_event *e =
                sl_world_at(w, sl_faults_told_us(w, 0, sl_plan_stage_node(k)), SL_WORLD_FORETELL);
            e->node = sl_plan_stage_node(k);
            e->seq = seq;
            e->number = number;
        }
}

static void send_record(struct sl_world *w, const struct sl_action *a)
{
    struct sl_order control = {.number = a->record.number, .kind = a->record.kind, .seq = a->seq};
    const struct sl_run *run = a->record.run;
    const struct sl_order *order = run ? &run->order : &control;
    struct sl_world_bytes *b = take_bytes(w, w->plan.meta_bytes);
    sl_order_pack(b->bytes, order, run ? run->ids : NULL, run ? run->pages : NULL, &w->limits);
    struct sl_wire wire = {.kind = SL_WIRE_ORDER, .seq = order->seq, .payload_bytes = w->plan.meta_bytes};
    const char *bad = run ? sl_fair_look(&w->fair, sl_node_clock_us(w, &w->nodes[0]), order) : NULL;
    if (bad)
        sl_world_break(w, "%s", bad);
    w->report.records++;
    if (w->config.record)
        w->config.record(w->config.record_user, w->now_us, order, run ? run->pages : NULL);
    sl_world_tell(w, "record %llu, kind %u, %u slices, %u tokens", (unsigned long long)order->number,
                  order->kind, order->n_slices, order->n_tokens);
    send(w, sl_plan_link_id(&w->plan, 0, sl_plan_stage_node(0)), &wire, b);
    sl_world_call_next(w);
    if (a->record.in_vain)
        foretell(w, a->seq, a->record.number);
}

static void send_adopt(struct sl_world *w, const struct sl_action *a)
{
    uint64_t link = w->places[a->decoder].link;
    if (!link)
        return; /* it is gone: the core will hear of it */
    struct sl_world_bytes *b = take_bytes(w, w->plan.adopt_bytes);
    struct sl_wire wire = {.kind = SL_WIRE_ADOPT, .seq = a->seq};
    wire.payload_bytes = sl_adopt_pack(b->bytes, a->adopt);
    sl_world_tell(w, "adopt kind %u of %llu to place %u", a->adopt->kind, (unsigned long long)a->adopt->seq,
                  a->decoder);
    send(w, link, &wire, b);
}

/* Nobody has the place any more; its link says so to who had it, and the stages are told. */
static void forget(struct sl_world *w, uint32_t d)
{
    struct sl_world_place *p = &w->places[d];
    sl_io_drop(w->nodes[0].io, p->link);
    for (uint32_t k = 0; k < w->plan.n_stages; k++) {
        struct sl_world_event *e =
            sl_world_at(w, sl_faults_told_us(w, 0, sl_plan_stage_node(k)), SL_WORLD_TELL);
        e->node = sl_plan_stage_node(k);
        e->which = d;
        e->life = p->life;
        e->number = 0;
    }
    struct sl_world_event *e = sl_world_at(w, w->now_us + 1 + sl_world_draw(w, 30000), SL_WORLD_COMES);
    e->which = d;
    *p = (struct sl_world_place){.life = p->life};
}

static void on_left(struct sl_world *w, uint32_t d)
{
    if (!w->places[d].link)
        return;
    sl_world_tell(w, "place %u has nothing left and goes", d);
    w->report.left++;
    struct sl_world_event *e =
        sl_world_at(w, sl_faults_told_us(w, 0, sl_plan_decode_node(&w->plan, d)), SL_WORLD_STOP);
    e->which = d;
    e->life = w->places[d].life;
    forget(w, d);
}

static void act(void *world, const struct sl_action *a)
{
    struct sl_world *w = world;
    if (a->kind == SL_ACTION_RECORD)
        send_record(w, a);
    else if (a->kind == SL_ACTION_ADOPT)
        send_adopt(w, a);
    else if (a->kind == SL_ACTION_LEFT)
        on_left(w, a->decoder);
}

static void carry_out(struct sl_world *w)
{
    const char *bad = sl_holders_carry_out(&w->holders, w->core, &w->actions, w->now_us, act, w);
    if (bad)
        sl_world_break(w, "%s", bad);
    w->nodes[0].wake_us = w->now_us; /* it decides after the inputs that happen to be there */
}

/* ---- the pipeline ---- */

void sl_decider_lose(struct sl_world *w, const char *why)
{
    if (w->lost)
        return;
    w->lost = true;
    w->report.pipelines_lost++;
    sl_world_tell(w, "the pipeline is lost (%s)", why);
    sl_core_lose(w->core, SL_E_UNAVAILABLE, why, &w->actions);
    carry_out(w);
    for (uint32_t i = 0; i < w->holders.n; i++)
        if (w->seqs[i] && !w->holders.requests[i].ended)
            sl_world_break(w, "request %u has not ended with its pipeline", i);
    sl_world_at(w, w->now_us + 1 + sl_world_draw(w, 300000), SL_WORLD_AGAIN);
}

/* ---- decode workers ---- */

static void lose(struct sl_world *w, uint32_t d, const char *why)
{
    if (!w->places[d].link)
        return;
    sl_world_tell(w, "place %u is lost (%s)", d, why);
    w->report.lost++;
    sl_core_decoder_lost(w->core, d, NULL, &w->actions);
    forget(w, d);
    carry_out(w);
}

static void join_when_complete(struct sl_world *w, uint32_t d)
{
    struct sl_world_place *p = &w->places[d];
    if (!p->link || !p->up || !p->ready || p->here)
        return;
    p->here = true;
    sl_world_tell(w, "place %u is ready in life %u", d, p->life);
    sl_core_decoder_joins(w->core, d, p->life, &w->actions);
    carry_out(w);
}

void sl_decider_expect(struct sl_world *w, uint32_t d, uint32_t life)
{
    struct sl_world_place *p = &w->places[d];
    struct sl_io_address at;
    struct sl_err err;
    uint32_t node = sl_plan_decode_node(&w->plan, d);
    uint8_t bytes[2];
    *p = (struct sl_world_place){.life = life};
    sl_put16(bytes, sl_node_port(w, node, life));
    sl_io_address_set(&at, bytes, sizeof bytes);
    if (sl_links_open_decoder(w->nodes[0].io, &w->plan, 0, node, life, w->secret, &at, &p->link, &err) !=
        SL_OK)
        sl_world_break(w, "the decider: %.200s", err.text);
    for (uint32_t k = 0; k < w->plan.n_stages; k++) {
        struct sl_world_event *e =
            sl_world_at(w, sl_faults_told_us(w, 0, sl_plan_stage_node(k)), SL_WORLD_TELL);
        e->node = sl_plan_stage_node(k);
        e->which = d;
        e->life = life;
        e->number = 1;
    }
    w->nodes[0].wake_us = w->now_us;
}

void sl_decider_let_go(struct sl_world *w, uint32_t d)
{
    if (!w->places[d].here || w->lost)
        return;
    sl_core_decoder_leaves(w->core, d, sl_world_draw(w, 20000), &w->actions);
    carry_out(w);
}

static void set_silent(struct sl_world *w, uint32_t d, uint32_t bit, bool silent)
{
    struct sl_world_place *p = &w->places[d];
    uint32_t before = p->silent;
    p->silent = silent ? before | bit : before & ~bit;
    if (!p->link || (p->silent != 0) == (before != 0))
        return;
    sl_core_decoder_silence(w->core, d, p->silent != 0, &w->actions);
    carry_out(w);
}

static void set_chain_silent(struct sl_world *w, uint32_t node, bool silent)
{
    uint64_t before = w->silent_nodes, bit = UINT64_C(1) << node;
    w->silent_nodes = silent ? before | bit : before & ~bit;
    if ((w->silent_nodes != 0) == (before != 0))
        return;
    sl_core_silence(w->core, w->silent_nodes != 0, &w->actions);
    carry_out(w);
}

void sl_decider_hear(struct sl_world *w, const struct sl_world_event *e)
{
    uint32_t d = e->kind == SL_WORLD_SILENT ? sl_plan_decoder_of(&w->plan, e->node) : e->which;
    if (w->lost || (d != SL_NO_DECODER && (!w->places[d].link || w->places[d].life != e->life)))
        return; /* of one that is gone */
    if (e->kind == SL_WORLD_DEAD) {
        lose(w, d, "its control stream has ended");
    } else if (e->kind == SL_WORLD_READY) {
        w->places[d].ready = true;
        join_when_complete(w, d);
    } else if (d != SL_NO_DECODER) {
        set_silent(w, d, 2, e->number != 0);
    } else {
        set_chain_silent(w, e->node, e->number != 0);
    }
}

/* ---- events of the io ---- */

static void on_silence(struct sl_world *w)
{
    const struct sl_io *io = w->nodes[0].io;
    uint64_t first = sl_plan_link_id(&w->plan, 0, sl_plan_stage_node(0)),
             last = sl_plan_link_id(&w->plan, sl_plan_stage_node(w->plan.n_stages - 1), 0);
    set_chain_silent(w, 0, sl_io_is_silent(io, first) || sl_io_is_silent(io, last));
    for (uint32_t d = 0; d < w->plan.max_decoders; d++)
        if (w->places[d].link)
            set_silent(w, d, 1, sl_io_is_silent(io, w->places[d].link));
}

static uint32_t place_of(const struct sl_world *w, uint64_t link)
{
    for (uint32_t d = 0; d < w->plan.max_decoders; d++)
        if (w->places[d].link == link)
            return d;
    return SL_NO_DECODER;
}

static void on_link(struct sl_world *w, const struct sl_io_event *event)
{
    struct sl_world_node *n = &w->nodes[0];
    uint32_t peer = sl_plan_link_peer(event->link, 0), d = place_of(w, event->link);
    bool up = event->kind == SL_IO_LINK_UP;
    if (w->lost)
        return;
    if (w->complete && sl_plan_decoder_of(&w->plan, peer) != SL_NO_DECODER) {
        if (d == SL_NO_DECODER)
            return; /* of one that is gone */
        if (!up)
            lose(w, d, event->reason ? event->reason : "its link is down");
        w->places[d].up = up && w->places[d].link;
        join_when_complete(w, d);
        return;
    }
    if (!up && w->losing) {
        sl_decider_lose(w, "a link of the chain is down");
        return;
    }
    if (!up) {
        sl_world_break(w, "the decider has lost node %u (%s)", peer,
                       event->reason ? event->reason : "no reason");
        return;
    }
    if (++n->links.n_up < n->links.n_links)
        return;
    w->complete = true;
    for (uint32_t k = 0; w->config.costs && k < w->plan.n_stages; k++)
        sl_core_cost(w->core, k, &w->config.costs[k]);
    for (uint32_t i = 0; i < w->plan.n_decoders; i++)
        w->places[i].up = w->places[i].ready = w->places[i].here = true;
    sl_core_complete(w->core, &w->actions);
    carry_out(w);
    sl_world_call_next(w);
}

static const char *on_tokens(struct sl_world *w, uint32_t d, const struct sl_io_event *event)
{
    struct sl_cursor in = sl_cursor_over(event->payload, event->wire.meta_bytes);
    struct sl_tokens_entry entry;
    const char *bad = NULL;
    while (!bad && sl_tokens_get(&in, &entry)) {
        bad = sl_core_entry(w->core, d, &entry, &w->actions);
        carry_out(w);
    }
    return bad ? bad : in.bad ? "its length" : NULL;
}

static void on_frame(struct sl_world *w, const struct sl_io_event *event)
{
    const char *bad = NULL;
    uint32_t d = place_of(w, event->link);
    bool of_decoder = sl_plan_decoder_of(&w->plan, sl_plan_link_peer(event->link, 0)) != SL_NO_DECODER;
    if (!of_decoder || d != SL_NO_DECODER) {
        if (!sl_frame_whole(&event->wire, event->payload))
            bad = "its checksum does not match";
        else if (event->wire.kind == SL_WIRE_TOKENS && of_decoder)
            bad = on_tokens(w, d, event);
        else if (event->wire.kind == SL_WIRE_RESULT && !of_decoder)
            bad = sl_core_result(w->core, event->payload, event->wire.meta_bytes, &w->actions);
        else
            bad = "its kind does not belong there";
        carry_out(w);
    }
    sl_io_release(w->nodes[0].io, event->link, event->slot);
    if (bad && !w->lost)
        sl_world_break(w, "the decider cannot use a frame of kind %u: %s", event->wire.kind, bad);
}

bool sl_decider_work(struct sl_world *w)
{
    struct sl_io_event event;
    bool any = false;
    for (; !w->broken[0] && sl_io_poll(w->nodes[0].io, &event, 0) == SL_OK; any = true)
        switch (event.kind) {
        case SL_IO_LINK_UP:
        case SL_IO_LINK_DOWN:
            on_link(w, &event);
            break;
        case SL_IO_SENT:
            give_bytes(w, (struct sl_world_bytes *)(uintptr_t)event.tag);
            break;
        case SL_IO_FRAME:
            on_frame(w, &event);
            break;
        case SL_IO_SILENCE:
            on_silence(w);
            break;
        case SL_IO_NUDGE:
            break;
        }
    if (w->broken[0])
        return true;
    sl_core_decide(w->core, sl_node_clock_us(w, &w->nodes[0]), &w->actions);
    any = any || w->actions.n > 0;
    carry_out(w);
    return any;
}

/* ---- requests, life ---- */

void sl_decider_submit(struct sl_world *w, uint32_t i)
{
    uint64_t clock_us = sl_node_clock_us(w, &w->nodes[0]);
    struct sl_sim_request *r = &w->holders.requests[i];
    struct sl_ask *ask = sl_holders_ask(&w->holders, i);
    ask->target_us = r->target_us ? clock_us + r->target_us - r->arrive_us : 0;
    ask->deadline_us = r->deadline_us ? clock_us + r->deadline_us - r->arrive_us : 0;
    sl_world_tell(w, "request %u of %u tokens comes, for %u answers of %u", i, r->n_ids, r->n ? r->n : 1,
                  r->max_tokens);
    w->seqs[i] = sl_core_submit(w->core, clock_us, ask, &w->actions);
    sl_fair_take(&w->fair, i, w->seqs[i], ask->target_us, ask->deadline_us);
    carry_out(w);
}

void sl_decider_cancel(struct sl_world *w, uint32_t i)
{
    sl_world_tell(w, "who asked for request %u is gone", i);
    sl_core_cancel(w->core, w->seqs[i], &w->actions);
    carry_out(w);
}

sl_status sl_decider_begin(struct sl_world *w, struct sl_err *err)
{
    const struct sl_world_config *c = &w->config;
    struct sl_core_config core = {.plan = &w->plan,
                                  .n_decoders = w->plan.n_decoders,
                                  .n_end_ids = 1,
                                  .end_ids = {SL_WORLD_END_ID},
                                  .max_requests = c->max_requests,
                                  .expect_tokens = c->expect_tokens,
                                  .prefix_cache = c->prefix_cache,
                                  .schedule = c->schedule,
                                  .chunk_us = c->budget_us,
                                  .slo_us = c->slo_us,
                                  .runs = c->runs};
    SL_TRY(sl_arena_init(&w->arena, sl_core_bytes(&core), err));
    SL_TRY(sl_core_init(&w->core, &w->arena, &core));
    w->actions.room = sl_core_max_actions(w->core);
    w->actions.list = calloc(w->actions.room, sizeof *w->actions.list);
    if (!w->actions.list)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a world");
    for (uint32_t d = 0; d < w->plan.n_decoders; d++)
        w->places[d].link = sl_plan_link_id(&w->plan, 0, sl_plan_decode_node(&w->plan, d));
    return SL_OK;
}

void sl_decider_end(struct sl_world *w)
{
    while (w->out)
        give_bytes(w, w->out);
    free(w->actions.list);
    sl_arena_fini(&w->arena);
}
