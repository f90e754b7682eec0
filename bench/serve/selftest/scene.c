/* The scripted server without a clock (scene.h): a heap of cues, a queue before the servers, and the steps of a turn. */
#include "bench/serve/selftest/scene.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ID_BYTES = 16 };
enum step { STEP_TOKENS, STEP_FINISH, STEP_EXTRA, STEP_FINISH_AGAIN, STEP_CLOSE, STEP_DROP, STEP_OVER };

/* ---- cues: a binary heap from 1 ---- */

static bool before(const struct sl_cue *a, const struct sl_cue *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void put(struct sl_cues *cues, struct sl_cue *cue, uint32_t place)
{
    cues->heap[place] = cue;
    cue->place = place;
}

static void settle(struct sl_cues *cues, struct sl_cue *cue, uint32_t place)
{
    while (place > 1 && before(cue, cues->heap[place / 2])) {
        put(cues, cues->heap[place / 2], place);
        place /= 2;
    }
    for (uint32_t child; (child = 2 * place) <= cues->n; place = child) {
        if (child < cues->n && before(cues->heap[child + 1], cues->heap[child]))
            child++;
        if (!before(cues->heap[child], cue))
            break;
        put(cues, cues->heap[child], place);
    }
    put(cues, cue, place);
}

static void drop_cue(struct sl_cues *cues, struct sl_cue *cue)
{
    uint32_t place = cue->place;
    if (!place)
        return;
    struct sl_cue *last = cues->heap[cues->n--];
    cue->place = 0;
    if (last != cue)
        settle(cues, last, place);
}

static void set_cue(struct sl_scene *scene, struct sl_cues *cues, struct sl_cue *cue, uint64_t at_ns)
{
    drop_cue(cues, cue);
    cue->at_ns = at_ns;
    cue->order = scene->n_orders++;
    settle(cues, cue, ++cues->n);
}

static uint64_t first_of(const struct sl_cues *cues)
{
    return cues->n ? cues->heap[1]->at_ns : SL_NOT_DUE;
}

/* ---- turns ---- */

sl_status sl_scene_init(struct sl_scene *scene, const struct sl_script *script, uint32_t n_servers,
                        struct sl_err *err)
{
    *scene = (struct sl_scene){.script = script, .n_servers = n_servers};
    scene->turns = calloc(SL_SCENE_TURNS, sizeof(struct sl_turn *));
    scene->free_slots = calloc(SL_SCENE_TURNS, sizeof *scene->free_slots);
    scene->leaves.heap = calloc(1 + (size_t)SL_SCENE_TURNS, sizeof(struct sl_cue *));
    scene->wakes.heap = calloc(1 + (size_t)SL_SCENE_TURNS, sizeof(struct sl_cue *));
    if (!scene->turns || !scene->free_slots || !scene->leaves.heap || !scene->wakes.heap) {
        sl_scene_fini(scene);
        return sl_fail(err, SL_E_NOMEM, "out of memory for %d requests", SL_SCENE_TURNS);
    }
    for (uint32_t i = 0; i < SL_SCENE_TURNS; i++)
        scene->free_slots[i] = SL_SCENE_TURNS - 1 - i;
    return SL_OK;
}

void sl_scene_fini(struct sl_scene *scene)
{
    assert(scene->n_turns == 0);
    free(scene->turns);
    free(scene->free_slots);
    free(scene->leaves.heap);
    free(scene->wakes.heap);
    *scene = (struct sl_scene){0};
}

void sl_turn_fini(struct sl_turn *turn)
{
    free((char *)(uintptr_t)turn->id);
    free(turn->token_ns);
    turn->id = NULL;
    turn->token_ns = NULL;
}

static uint64_t after(const struct sl_scene *scene, uint64_t at_ns, uint64_t work_ns)
{
    return scene->zero_ns + sl_script_after(scene->script, at_ns - scene->zero_ns, work_ns);
}

/* From here on all its times are known. */
static void begin(struct sl_scene *scene, struct sl_turn *turn, uint64_t at_ns)
{
    struct sl_send send;
    turn->begin_ns = turn->previous_ns = at_ns;
    for (uint32_t k = 0; k < turn->n_tokens; k++) /* they held the work until now */
        turn->token_ns[k] = after(scene, at_ns, turn->token_ns[k]);
    turn->leave_ns = turn->token_ns[turn->fault == SL_FAULT_GARBAGE ? 0 : turn->n_tokens - 1];
    turn->state = SL_TURN_SERVED;
    set_cue(scene, &scene->leaves, &turn->leave, turn->leave_ns);
    sl_turn_send(turn, 0, &send); /* at 0 nothing is due: it says from when on */
    set_cue(scene, &scene->wakes, &turn->wake, send.at_ns);
    atomic_store(&turn->begun, true);
}

/* A server is free from at_ns on. */
static void next_one(struct sl_scene *scene, uint64_t at_ns)
{
    struct sl_turn *turn = scene->first;
    if (!turn) {
        scene->n_busy--;
        return;
    }
    scene->first = turn->next;
    if (!scene->first)
        scene->last = NULL;
    scene->n_waiting--;
    turn->next = NULL;
    assert(at_ns >= turn->arrival_ns); /* it found every server busy, beyond its arrival */
    begin(scene, turn, at_ns);
}

/* Whose time is over makes room, in order, before anything else is looked at. */
static void end_turns(struct sl_scene *scene, uint64_t now_ns)
{
    while (first_of(&scene->leaves) <= now_ns) {
        struct sl_cue *cue = scene->leaves.heap[1];
        drop_cue(&scene->leaves, cue);
        cue->turn->state = SL_TURN_ENDED;
        next_one(scene, cue->at_ns);
    }
}

sl_status sl_scene_arrive(struct sl_scene *scene, struct sl_turn *turn, uint64_t now_ns, struct sl_err *err)
{
    if (scene->n_turns == SL_SCENE_TURNS)
        return sl_fail(err, SL_E_EXHAUSTED, "%d requests are open already; try again later", SL_SCENE_TURNS);
    enum sl_scripted_fault fault = sl_script_fault(scene->script, scene->n_arrived);
    if (fault == SL_FAULT_SLOW && !turn->http) /* a message comes whole there */
        fault = SL_FAULT_NONE;
    bool halved = fault == SL_FAULT_DROP || fault == SL_FAULT_HALF;
    uint32_t n = halved ? (turn->max_tokens + 1) / 2 : turn->max_tokens;
    turn->token_ns = malloc(n * sizeof *turn->token_ns);
    char *id = turn->id ? NULL : malloc(ID_BYTES);
    if (!turn->token_ns || (!turn->id && !id)) {
        free(id);
        return sl_fail(err, SL_E_EXHAUSTED, "out of memory for %u tokens; try again later", n);
    }
    if (id) {
        snprintf(id, ID_BYTES, "%u", scene->n_arrived);
        turn->id = id;
    }
    end_turns(scene, now_ns);
    if (!scene->opened)
        scene->zero_ns = now_ns;
    scene->opened = true;
    turn->fault = fault;
    turn->n_tokens = n;
    turn->per_message = scene->script->tokens_per_message;
    turn->number = scene->n_arrived++;
    turn->arrival_ns = now_ns;
    turn->wake.turn = turn->leave.turn = turn;
    turn->slot = scene->free_slots[SL_SCENE_TURNS - 1 - scene->n_turns++];
    scene->turns[turn->slot] = turn;
    sl_script_draw(scene->script, turn->number, n, turn->token_ns);
    if (fault == SL_FAULT_REFUSE || fault == SL_FAULT_NEVER) {
        turn->state = SL_TURN_APART;
        turn->n_tokens = 0;
    } else if (scene->n_servers == 0 || scene->n_busy < scene->n_servers) {
        scene->n_busy++;
        begin(scene, turn, now_ns);
    } else {
        turn->state = SL_TURN_WAITS;
        if (scene->last)
            scene->last->next = turn;
        else
            scene->first = turn;
        scene->last = turn;
        scene->n_waiting++;
    }
    return SL_OK;
}

uint64_t sl_scene_next(const struct sl_scene *scene)
{
    uint64_t leave_ns = first_of(&scene->leaves), wake_ns = first_of(&scene->wakes);
    return leave_ns < wake_ns ? leave_ns : wake_ns;
}

struct sl_turn *sl_scene_due(struct sl_scene *scene, uint64_t now_ns)
{
    end_turns(scene, now_ns);
    if (first_of(&scene->wakes) > now_ns)
        return NULL;
    struct sl_cue *cue = scene->wakes.heap[1];
    drop_cue(&scene->wakes, cue);
    return cue->turn;
}

void sl_scene_wake_at(struct sl_scene *scene, struct sl_turn *turn, uint64_t at_ns)
{
    set_cue(scene, &scene->wakes, &turn->wake, at_ns);
}

static void stop_waiting(struct sl_scene *scene, struct sl_turn *turn)
{
    struct sl_turn *previous = NULL;
    for (struct sl_turn *t = scene->first; t != turn; t = t->next)
        previous = t;
    if (previous)
        previous->next = turn->next;
    else
        scene->first = turn->next;
    if (scene->last == turn)
        scene->last = previous;
    turn->next = NULL;
    scene->n_waiting--;
}

void sl_scene_leave(struct sl_scene *scene, struct sl_turn *turn, uint64_t now_ns)
{
    end_turns(scene, now_ns);
    drop_cue(&scene->wakes, &turn->wake);
    drop_cue(&scene->leaves, &turn->leave);
    if (turn->state == SL_TURN_WAITS)
        stop_waiting(scene, turn);
    if (turn->state == SL_TURN_SERVED) /* its client has gone */
        next_one(scene, now_ns);
    turn->state = SL_TURN_ENDED;
    scene->turns[turn->slot] = NULL;
    scene->free_slots[SL_SCENE_TURNS - 1 - --scene->n_turns] = turn->slot;
}

/* ---- the steps of a turn ---- */

/* What comes next, and when it is due. */
static struct sl_send next_send(const struct sl_turn *turn)
{
    uint32_t left = turn->n_tokens - turn->n_sent, per = turn->per_message;
    uint64_t last_ns = turn->n_tokens ? turn->token_ns[turn->n_tokens - 1] : SL_NOT_DUE;
    switch ((enum step)turn->step) {
    case STEP_TOKENS:
        if (turn->fault == SL_FAULT_GARBAGE)
            return (struct sl_send){.kind = SL_SEND_GARBAGE, .at_ns = turn->token_ns[0]};
        if (turn->unary && turn->fault == SL_FAULT_DROP)
            return (struct sl_send){.kind = SL_SEND_DROP, .at_ns = last_ns};
        if (turn->unary && turn->fault == SL_FAULT_HALF)
            return (struct sl_send){.kind = SL_SEND_CLOSE, .at_ns = last_ns};
        if (turn->unary)
            return (struct sl_send){.kind = SL_SEND_WHOLE, .n = turn->n_tokens, .at_ns = last_ns};
        if (turn->fault == SL_FAULT_EMPTY && !turn->empty_sent)
            return (struct sl_send){.kind = SL_SEND_EMPTY,
                                    .at_ns = turn->previous_ns +
                                             (turn->token_ns[turn->n_sent] - turn->previous_ns) / 2};
        return (struct sl_send){SL_SEND_TOKENS, turn->n_sent, left < per ? left : per,
                                turn->token_ns[turn->n_sent]};
    case STEP_FINISH:
    case STEP_FINISH_AGAIN:
        return (struct sl_send){.kind = turn->unary ? SL_SEND_WHOLE : SL_SEND_FINISH,
                                .n = turn->unary ? turn->n_tokens : 0,
                                .at_ns = turn->previous_ns};
    case STEP_EXTRA:
        return (struct sl_send){.kind = SL_SEND_EXTRA, .at_ns = turn->previous_ns};
    case STEP_CLOSE:
        return (struct sl_send){.kind = SL_SEND_CLOSE, .at_ns = turn->previous_ns};
    case STEP_DROP:
        return (struct sl_send){.kind = SL_SEND_DROP, .at_ns = turn->previous_ns};
    case STEP_OVER:
        break;
    }
    return (struct sl_send){.kind = SL_SEND_CLOSE, .at_ns = SL_NOT_DUE};
}

bool sl_turn_send(struct sl_turn *turn, uint64_t now_ns, struct sl_send *send)
{
    *send = next_send(turn);
    return send->at_ns <= now_ns && send->at_ns != SL_NOT_DUE;
}

static enum step after_tokens(const struct sl_turn *turn)
{
    if (turn->n_sent < turn->n_tokens)
        return STEP_TOKENS;
    return turn->fault == SL_FAULT_DROP ? STEP_DROP : turn->fault == SL_FAULT_HALF ? STEP_CLOSE : STEP_FINISH;
}

void sl_turn_sent(struct sl_turn *turn, const struct sl_send *send, uint64_t now_ns)
{
    bool twice = turn->fault == SL_FAULT_TWICE;
    turn->previous_ns = send->at_ns;
    turn->late_ns = now_ns - send->at_ns > turn->late_ns ? now_ns - send->at_ns : turn->late_ns;
    turn->empty_sent = send->kind == SL_SEND_EMPTY;
    switch (send->kind) {
    case SL_SEND_TOKENS:
    case SL_SEND_WHOLE:
        for (uint32_t k = 0; turn->n_sent < turn->n_tokens && k < send->n; k++)
            turn->token_ns[turn->n_sent++] = now_ns;
        if (!turn->first_ns)
            turn->first_ns = now_ns;
        turn->step = send->kind == SL_SEND_TOKENS         ? after_tokens(turn)
                     : twice && turn->step == STEP_TOKENS ? STEP_FINISH_AGAIN
                                                          : STEP_CLOSE;
        break;
    case SL_SEND_FINISH:
        turn->step = twice && turn->step == STEP_FINISH ? STEP_EXTRA : STEP_CLOSE;
        break;
    case SL_SEND_EXTRA:
        turn->step = STEP_FINISH_AGAIN;
        break;
    case SL_SEND_GARBAGE:
        turn->step = STEP_CLOSE;
        break;
    case SL_SEND_EMPTY:
        break;
    case SL_SEND_CLOSE:
    case SL_SEND_DROP:
        turn->step = STEP_OVER;
        break;
    }
}
