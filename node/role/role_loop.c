/* The loop around a role's steps (role.h): events from the io in, actions to the io out. All that is not a decision of the
 * role is here: its links, its stop, and who is told of them. */
#include "base/clock.h"
#include "node/coordinator/links.h"
#include "node/role/role.h"
#include "node/role/role_decode.h"
#include "node/role/role_stage.h"
#include "pipeline/stage/stage.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

struct sl_role { /* one of the two is there */
    struct sl_stage_role *stage;
    struct sl_decode_role *decode;
    const struct sl_plan *plan;
    uint32_t k;
    struct sl_stage *held; /* its weights */
    struct sl_role_state *state;
    struct sl_role_actions actions;
    struct sl_io *io; /* while it runs */
};

static uint64_t own_clock_us(void *clock)
{
    (void)clock;
    return sl_clock_ns() / 1000u;
}

/* The last stage's next node is the coordinator, which gets its results. */
static int64_t next_offset_us(void *clock)
{
    const struct sl_role *role = clock;
    uint32_t node = sl_plan_stage_node(role->k), next = role->k + 1 == role->plan->n_stages ? 0 : node + 1;
    return role->io ? sl_io_clock(role->io, sl_plan_link_id(role->plan, node, next)).offset_us : 0;
}

sl_status sl_role_create(struct sl_role **out, struct sl_stage *stage, const struct sl_plan *plan, uint32_t k,
                         struct sl_role_state *state, struct sl_err *err)
{
    struct sl_role *role = calloc(1, sizeof *role);
    if (!role)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a role");
    role->plan = plan;
    role->k = k;
    role->state = state;
    role->held = stage;
    struct sl_role_config config = {.stage = stage,
                                    .plan = plan,
                                    .k = k,
                                    .meter = &state->meter,
                                    .now_us = own_clock_us,
                                    .next_offset_us = next_offset_us,
                                    .clock = role};
    sl_status status = k == plan->n_stages ? sl_decode_role_create(&role->decode, &config, err)
                                           : sl_stage_role_create(&role->stage, &config, err);
    if (status != SL_OK) {
        free(role);
        return status;
    }
    *out = role;
    return SL_OK;
}

void sl_role_destroy(struct sl_role *role)
{
    if (!role)
        return;
    sl_stage_role_destroy(role->stage);
    sl_decode_role_destroy(role->decode);
    free(role);
}

void sl_role_step_life(struct sl_role_state *state, enum sl_life_event event)
{
    enum sl_life before = atomic_load(&state->life), after;
    do {
        after = before;
        if (!sl_life_step(&after, event))
            return;
    } while (!atomic_compare_exchange_weak(&state->life, &before, after));
}

sl_status sl_role_check_sent(const struct sl_io_event *event, struct sl_err *err)
{
    if (event->status != SL_E_INVALID)
        return SL_OK;
    return sl_fail(
        err, SL_E_PROTOCOL,
        "a frame of kind %u is larger than the neighbour's slots; run the same version on all nodes",
        event->wire.kind);
}

bool sl_role_last_word(struct sl_last_word *word, const struct sl_stage *stage, const char *from,
                       uint64_t link, uint64_t tag, struct sl_role_actions *actions)
{
    const struct sl_spoiled *spoiled = sl_stage_found(stage);
    struct sl_spoiled_word say;
    if (!spoiled || word->said)
        return false;
    word->said = true;
    say.age_us = (sl_clock_ns() - spoiled->good_ns) / 1000u;
    snprintf(say.sentence, sizeof say.sentence, "%s: %.290s", from, spoiled->sentence);
    struct sl_role_action send = {.kind = SL_ROLE_SEND,
                                  .link = link,
                                  .wire = {.kind = SL_WIRE_SPOILED},
                                  .payload = word->bytes,
                                  .tag = tag};
    send.wire.payload_bytes = sl_spoiled_pack(word->bytes, &say);
    send.wire.meta_bytes = (uint32_t)send.wire.payload_bytes;
    sl_frame_seal(&send.wire, word->bytes);
    sl_role_act(actions, &send);
    return true;
}

/* Sends are never more than the io takes: the roles count theirs against SL_IO_SENDS. */
static void carry_out(struct sl_io *io, const struct sl_role_actions *actions)
{
    for (uint32_t i = 0; i < actions->n; i++) {
        const struct sl_role_action *a = &actions->list[i];
        sl_status status = SL_OK;
        switch (a->kind) {
        case SL_ROLE_RELEASE:
            sl_io_release(io, a->link, a->slot);
            break;
        case SL_ROLE_SEND:
            status = sl_io_send(io, a->link, &a->wire, a->payload, a->tag);
            break;
        }
        assert(status == SL_OK);
    }
}

static sl_status step(struct sl_role *role, struct sl_io *io, const struct sl_io_event *event,
                      struct sl_err *err)
{
    sl_status status = role->stage ? sl_stage_role_step(role->stage, event, &role->actions, err)
                                   : sl_decode_role_step(role->decode, event, &role->actions, err);
    carry_out(io, &role->actions);
    return status;
}

static void on_silence(const struct sl_role *role, const struct sl_io *io)
{
    uint64_t link = sl_io_silent(io);
    if (role->state->on_silence)
        role->state->on_silence(role->state->user, link != 0,
                                link ? sl_plan_link_peer(link, 1 + role->k) : 0);
}

static sl_status on_event(struct sl_role *role, struct sl_io *io, const struct sl_io_event *event,
                          struct sl_links *links, struct sl_err *err)
{
    if (event->kind == SL_IO_FRAME || event->kind == SL_IO_SENT)
        return step(role, io, event, err);
    if (event->kind == SL_IO_SILENCE)
        on_silence(role, io);
    if (!sl_links_on_event(links, event, "this node stops, restart it with the others", err))
        return SL_OK;
    if (links->state == SL_LINKS_LOST) {
        bool expected = !sl_role_goes_on(role->state); /* we were told to end, and so were the neighbours */
        sl_role_step_life(role->state, SL_LIFE_LOSE);
        return expected ? SL_OK : err->status;
    }
    sl_role_step_life(role->state, SL_LIFE_COMPLETE);
    if (role->state->on_ready)
        role->state->on_ready(role->state->user);
    return SL_OK;
}

/* How long a node whose weights are spoiled stays to pass on its last word, and what neighbours have under way. */
enum { LAST_WORD_MS = 3000 };

/* True when there is nothing more to wait for. Before all links are up nobody has been answered, and nobody is to be told. */
static bool has_said_its_last(const struct sl_role *role, uint64_t *since_ns)
{
    if (!sl_stage_found(role->held))
        return false;
    if (atomic_load(&role->state->life) == SL_LIFE_FORMING)
        return true;
    *since_ns = *since_ns ? *since_ns : sl_clock_ns();
    return sl_clock_ns() - *since_ns > LAST_WORD_MS * 1000000ull;
}

/* What has happened is taken in before the next piece of work is begun; it can't be much at once, because frames and sends
 * are bounded and only work makes room for more. */
static sl_status run(struct sl_role *role, struct sl_io *io, uint32_t n_links, struct sl_err *err)
{
    struct sl_links links = {.plan = role->plan, .node = 1 + role->k, .n_links = n_links};
    uint64_t said_ns = 0;
    role->actions.go_on = false;
    role->io = io;
    while (sl_role_goes_on(role->state) && !has_said_its_last(role, &said_ns)) {
        struct sl_io_event event;
        for (int wait = role->actions.go_on ? 0
                        : said_ns           ? LAST_WORD_MS / 10
                                            : -1;
             sl_io_poll(io, &event, wait) == SL_OK; wait = 0)
            SL_TRY(on_event(role, io, &event, &links, err));
        SL_TRY(step(role, io, NULL, err));
    }
    return SL_OK;
}

sl_status sl_role_run(struct sl_role *role, struct sl_io *io, uint32_t n_links, struct sl_err *err)
{
    sl_status status = run(role, io, n_links, err);
    const struct sl_spoiled *spoiled =
        sl_stage_found(role->held); /* then that is why, whatever ended first */
    return spoiled ? sl_fail(err, SL_E_DATA, "%s", spoiled->sentence) : status;
}
