/* Events in the order of their time, and links: frames take random time, arrive in order, and wait for a free slot. */
#include "pipeline/sim/sim_impl.h"
#include <assert.h>
#include <stdlib.h>

static bool earlier(const struct sl_sim_event *a, const struct sl_sim_event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->number < b->number;
}

void sl_sim_at(struct sl_sim *s, uint64_t at_us, enum sl_sim_event_kind kind, uint32_t which,
               struct sl_sim_frame *frame)
{
    if (s->n_events == s->room_events) {
        s->room_events = s->room_events ? 2 * s->room_events : 256;
        s->heap = realloc(s->heap, s->room_events * sizeof *s->heap);
        assert(s->heap);
    }
    struct sl_sim_event event = {at_us, s->n_events_made++, kind, which, frame};
    uint32_t i = s->n_events++;
    for (; i > 0 && earlier(&event, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = event;
}

bool sl_sim_next(struct sl_sim *s, struct sl_sim_event *event)
{
    if (s->n_events == 0)
        return false;
    *event = s->heap[0];
    struct sl_sim_event last = s->heap[--s->n_events];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < s->n_events; i = child) {
        if (child + 1 < s->n_events && earlier(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!earlier(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = last;
    s->now_us = event->at_us;
    return true;
}

struct sl_sim_frame *sl_sim_frame(struct sl_sim *s, uint32_t from, uint32_t to, size_t bytes)
{
    struct sl_sim_frame *frame = calloc(1, sizeof *frame);
    uint32_t link = 0;
    /* a link carries frames both ways, with slots of its own each way; here the way back has the number behind all links */
    while (link < s->n_links && (s->links[link].plan.from != from || s->links[link].plan.to != to))
        link++;
    assert(frame && link < s->n_links);
    frame->bytes = malloc(bytes ? bytes : 1);
    assert(frame->bytes);
    frame->kind = s->links[link].plan.kind;
    frame->link = link;
    if (s->links[link].plan.decoder != SL_NO_DECODER)
        frame->life = s->decoders[s->links[link].plan.decoder].life;
    frame->from = from;
    frame->n = bytes;
    return frame;
}

static void set_off(struct sl_sim *s, struct sl_sim_link *link, struct sl_sim_frame *frame)
{
    uint64_t delay = s->config.max_delay_us ? sl_rng_next(&s->rng) % s->config.max_delay_us : 0,
             at = s->now_us + delay;
    if (frame->kind == SL_LINK_KV && s->config.max_push_us)
        at += sl_rng_next(&s->rng) % s->config.max_push_us;
    link->last_us = at > link->last_us ? at : link->last_us;
    link->under_way++;
    sl_sim_at(s, link->last_us, SL_SIM_DELIVER, link->plan.to, frame);
}

void sl_sim_send(struct sl_sim *s, struct sl_sim_frame *frame)
{
    struct sl_sim_link *link = &s->links[frame->link];
    if (!link->waiting && link->under_way < link->plan.to_slots) {
        set_off(s, link, frame);
        return;
    }
    frame->next = NULL;
    *link->end = frame;
    link->end = &frame->next;
}

static void frame_free(struct sl_sim_frame *frame)
{
    free(frame->bytes);
    free(frame->rows);
    free(frame);
}

void sl_sim_release(struct sl_sim *s, struct sl_sim_frame *frame)
{
    struct sl_sim_link *link = &s->links[frame->link];
    frame_free(frame);
    assert(link->under_way > 0);
    link->under_way--;
    struct sl_sim_frame *next = link->waiting;
    if (!next)
        return;
    link->waiting = next->next;
    if (!link->waiting)
        link->end = &link->waiting;
    set_off(s, link, next);
}

void sl_sim_drop_frames(struct sl_sim *s)
{
    struct sl_sim_event event;
    while (sl_sim_next(s, &event))
        if (event.frame)
            frame_free(event.frame);
    for (uint32_t i = 0; i < s->n_links; i++)
        for (struct sl_sim_frame *f = s->links[i].waiting, *next; f; f = next) {
            next = f->next;
            frame_free(f);
        }
    free(s->heap);
}
