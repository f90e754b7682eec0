/* The loop around a role's steps (role.h): events from the io in, actions to the io out. All that is not a decision of the
 * role is here: its links, its stop, and who is told of them. */
#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/ring.h"
#include "node/coordinator/links.h"
#include "node/role/role.h"
#include "node/role/role_decode.h"
#include "node/role/role_part.h"
#include "node/role/role_stage.h"
#include "pipeline/stage/stage.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

struct sl_role { /* one of the three is there */
    struct sl_stage_role *stage;
    struct sl_decode_role *decode;
    struct sl_part_role *part;
    const struct sl_plan *plan;
    uint32_t k;
    struct sl_stage *held; /* its weights */
    struct sl_role_state *state;
    struct sl_role_actions actions;
    struct sl_io *io;                                      /* while it runs */
    uint64_t decoder_links[SL_MAX_DECODERS][SL_MAX_PARTS]; /* a stage's, to decode workers; 0: none */
    struct sl_ring foretold;                               /* of struct sl_foretold_cancel; a stage's */
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
    uint32_t node = 1 + role->k, next = role->k + 1 == role->plan->n_stages ? 0 : node + 1;
    return role->io ? sl_io_clock(role->io, sl_plan_link_id(role->plan, node, next)).offset_us : 0;
}

sl_status sl_role_create(struct sl_role **out, struct sl_stage *stage, const struct sl_plan *plan, uint32_t k,
                         struct sl_role_state *state, struct sl_err *err)
{
    struct sl_role *role = aligned_alloc(64, sizeof *role); /* as its ring wants */
    if (!role)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a role");
    *role = (struct sl_role){.plan = plan, .k = k, .state = state, .held = stage};
    struct sl_role_config config = {.stage = stage,
                                    .plan = plan,
                                    .k = k,
                                    .meter = &state->meter,
                                    .now_us = own_clock_us,
                                    .next_offset_us = next_offset_us,
                                    .clock = role};
    sl_status status = k < plan->n_stages ? sl_stage_role_create(&role->stage, &config, err)
                       : k < plan->n_stages + plan->max_decoders
                           ? sl_decode_role_create(&role->decode, &config, err)
                           : sl_part_role_create(&role->part, &config, err);
    if (status == SL_OK &&
        sl_ring_init(&role->foretold, SL_FORETOLD, sizeof(struct sl_foretold_cancel)) != SL_OK)
        status = sl_fail(err, SL_E_NOMEM, "out of memory for a role");
    if (status != SL_OK) {
        sl_role_destroy(role);
        return status;
    }
    *out = role;
    return SL_OK;
}

static struct sl_role_post *take_posts(struct sl_role_state *state) /* the oldest first */
{
    struct sl_role_post *newest = atomic_exchange(&state->posts, NULL), *oldest = NULL;
    while (newest) {
        struct sl_role_post *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

sl_status sl_role_tell_decoder(struct sl_role_state *state, const struct sl_role_decoder *decoder)
{
    struct sl_role_post *post = malloc(sizeof *post);
    if (!post)
        return SL_E_NOMEM;
    post->decoder = *decoder;
    post->next = atomic_load(&state->posts);
    while (!atomic_compare_exchange_weak(&state->posts, &post->next, post))
        ;
    return SL_OK;
}

void sl_role_foretell(struct sl_role *role, struct sl_foretold_cancel cancel)
{
    if (role->stage)
        (void)sl_ring_push(&role->foretold, &cancel);
}

void sl_role_destroy(struct sl_role *role)
{
    if (!role)
        return;
    for (struct sl_role_post *post = take_posts(role->state), *next; post; post = next) {
        next = post->next;
        free(post);
    }
    sl_stage_role_destroy(role->stage);
    sl_decode_role_destroy(role->decode);
    sl_part_role_destroy(role->part);
    sl_ring_fini(&role->foretold);
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

static void send_word(struct sl_last_word *word, const struct sl_spoiled_word *say, uint64_t link,
                      uint64_t tag, struct sl_role_actions *actions)
{
    struct sl_role_action send = {.kind = SL_ROLE_SEND,
                                  .link = link,
                                  .wire = {.kind = SL_WIRE_SPOILED},
                                  .payload = word->bytes,
                                  .tag = tag};
    send.wire.payload_bytes = sl_spoiled_pack(word->bytes, say);
    send.wire.meta_bytes = (uint32_t)send.wire.payload_bytes;
    sl_frame_seal(&send.wire, word->bytes);
    sl_role_act(actions, &send);
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
    send_word(word, &say, link, tag, actions);
    return true;
}

const char *sl_role_pass_word(struct sl_last_word *word, const struct sl_io_event *frame, uint64_t link,
                              uint64_t tag, struct sl_role_actions *actions, bool *sent)
{
    struct sl_spoiled_word say;
    const char *bad = sl_frame_whole(&frame->wire, frame->payload)
                          ? sl_spoiled_unpack(&say, frame->payload, frame->wire.payload_bytes)
                          : "its checksum does not match";
    *sent = !bad && !word->said;
    if (!*sent)
        return bad; /* the first one ends the pipeline */
    word->said = true;
    send_word(word, &say, link, tag, actions);
    return NULL;
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
    sl_status status = role->stage    ? sl_stage_role_step(role->stage, event, &role->actions, err)
                       : role->decode ? sl_decode_role_step(role->decode, event, &role->actions, err)
                                      : sl_part_role_step(role->part, event, &role->actions, err);
    carry_out(io, &role->actions);
    return status;
}

/* A decode worker that a stage does not hear tells so itself, or is not heard by the coordinator: what a stage says is of the chain. */
static uint64_t silent_link(const struct sl_role *role, const struct sl_io *io)
{
    uint32_t node = 1 + role->k, after = role->k + 1 == role->plan->n_stages ? 0 : node + 1;
    uint64_t before_link = sl_plan_link_id(role->plan, node - 1, node),
             after_link = sl_plan_link_id(role->plan, node, after);
    if (!role->stage)
        return sl_io_silent(io);
    return sl_io_is_silent(io, before_link) ? before_link : sl_io_is_silent(io, after_link) ? after_link : 0;
}

/* ---- a stage's decode workers ---- */

static void set_decoder(struct sl_role *role, uint32_t decoder, uint32_t part, uint32_t life, uint64_t link)
{
    role->decoder_links[decoder][part] = link;
    sl_stage_role_set_decoder(role->stage, decoder, part, life, link);
}

static void drop_decoder(struct sl_role *role, uint32_t decoder, uint32_t part)
{
    if (role->decoder_links[decoder][part])
        sl_io_drop(role->io, role->decoder_links[decoder][part]);
    set_decoder(role, decoder, part, 0, 0);
}

/* The link to a part of whoever has the place in this life of it. */
static uint64_t name_link(const struct sl_role *role, const struct sl_role_decoder *d, uint32_t part)
{
    struct sl_plan then = *role->plan;
    then.decoder_life[d->decoder] = d->life;
    return sl_plan_link_id(&then, 1 + role->k, sl_plan_part_node(&then, d->decoder, part));
}

/* What was there in another life of the place goes. */
static void drop_others(struct sl_role *role, const struct sl_role_decoder *d)
{
    for (uint32_t part = 0; part < role->plan->n_parts; part++) {
        uint64_t link = role->decoder_links[d->decoder][part];
        if (link && link != name_link(role, d, part))
            drop_decoder(role, d->decoder, part);
    }
}

static void on_decoder(struct sl_role *role, const struct sl_role_decoder *d)
{
    struct sl_err err;
    uint64_t link;
    uint32_t begin, end;
    const struct sl_plan *plan = role->plan;
    if (!role->stage || d->decoder >= plan->max_decoders || d->part >= plan->n_parts ||
        d->life >= SL_DECODER_LIVES || !sl_plan_overlap(plan, role->k, d->part, &begin, &end))
        return;
    uint64_t named = name_link(role, d, d->part), now = role->decoder_links[d->decoder][d->part];
    if (d->gone ? now != named : now == named)
        return; /* told before */
    drop_others(role, d);
    if (d->gone) {
        drop_decoder(role, d->decoder, d->part);
        return;
    }
    if (sl_links_open_decoder(role->io, plan, 1 + role->k, sl_plan_part_node(plan, d->decoder, d->part),
                              d->life, d->secret, &d->at, &link, &err) == SL_OK)
        set_decoder(role, d->decoder, d->part, d->life, link);
    else
        sl_log_error("%s: it gets no pages from here", err.text);
}

static void heed_posts(struct sl_role *role)
{
    for (struct sl_role_post *post = take_posts(role->state), *next; post; post = next) {
        next = post->next;
        on_decoder(role, &post->decoder);
        free(post);
    }
    for (struct sl_foretold_cancel cancel; role->stage && sl_ring_pop(&role->foretold, &cancel) == SL_OK;)
        sl_stage_role_foretell(role->stage, cancel);
}

/* True: it is the link of a decode worker, without which the stage goes on, and not one that it waits for to be ready. */
static bool is_of_decoder(struct sl_role *role, const struct sl_io_event *event)
{
    uint32_t decoder = sl_plan_decoder_of(role->plan, sl_plan_link_peer(event->link, 1 + role->k));
    if (!role->stage || decoder == SL_NO_DECODER)
        return false;
    uint32_t part = sl_plan_part_of(role->plan, sl_plan_link_peer(event->link, 1 + role->k));
    if (event->kind == SL_IO_LINK_DOWN && role->decoder_links[decoder][part] == event->link)
        set_decoder(role, decoder, part, 0, 0); /* its pages go nowhere; the coordinator finds it another */
    return event->kind == SL_IO_LINK_DOWN || decoder >= role->plan->n_decoders;
}

static void on_silence(const struct sl_role *role, const struct sl_io *io)
{
    uint64_t link = silent_link(role, io);
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
    if (event->kind == SL_IO_NUDGE)
        heed_posts(role);
    bool of_link = event->kind == SL_IO_LINK_UP || event->kind == SL_IO_LINK_DOWN;
    if (of_link && is_of_decoder(role, event))
        return SL_OK;
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
    for (uint32_t i = 0, begin, end; role->stage && i < role->plan->n_decoders * role->plan->n_parts; i++) {
        uint32_t d = i / role->plan->n_parts, part = i % role->plan->n_parts;
        if (sl_plan_overlap(role->plan, role->k, part, &begin, &end))
            role->decoder_links[d][part] =
                sl_plan_link_id(role->plan, 1 + role->k, sl_plan_part_node(role->plan, d, part));
    }
    heed_posts(role);
    while (sl_role_goes_on(role->state) && !has_said_its_last(role, &said_ns)) {
        struct sl_io_event event;
        sl_notify_turn();
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
