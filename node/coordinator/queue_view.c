/* The queue of the decider and what it wrote last, for whoever looks at the node: the question goes to the coordinator's thread as a
 * call, the answer lies where it is as long-lived as the coordinator, so who gave up waiting leaves nothing behind. */
#include "node/coordinator/coordinator_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* On the coordinator's thread, as is the next one. */
static void take_view(void *user)
{
    struct sl_coordinator *c = user;
    pthread_mutex_lock(&c->view_lock); /* of readers, who only copy */
    sl_core_view(c->core, sl_coordinator_now_us(), c->view);
    c->n_views++;
    pthread_cond_broadcast(&c->view_taken);
    pthread_mutex_unlock(&c->view_lock);
}

static void copy_tail(struct sl_tail *to, const struct sl_tail *from)
{
    memcpy(to->words, from->words, SL_TAIL_WORDS * sizeof *to->words);
    to->begin = from->begin;
    to->end = from->end;
}

static void take_tail(void *user)
{
    struct sl_coordinator *c = user;
    pthread_mutex_lock(&c->view_lock);
    copy_tail(&c->seen_tail, &c->tail);
    c->n_tails++;
    pthread_cond_broadcast(&c->view_taken);
    pthread_mutex_unlock(&c->view_lock);
}

/* With the lock held. */
static sl_status ask(struct sl_coordinator *c, void (*take)(void *user), const uint64_t *n_taken,
                     uint32_t timeout_ms)
{
    struct timespec until = sl_clock_in_ms(timeout_ms);
    uint64_t before = *n_taken;
    /* a call of somebody who has given up may still come: any view from now on is new enough */
    sl_status status = sl_coordinator_call(c, take, c);
    while (status == SL_OK && *n_taken == before)
        if (pthread_cond_timedwait(&c->view_taken, &c->view_lock, &until) == ETIMEDOUT)
            status = SL_E_DEADLINE;
    return status;
}

sl_status sl_coordinator_view(struct sl_coordinator *c, struct sl_core_view *view, uint32_t timeout_ms)
{
    pthread_mutex_lock(&c->view_lock);
    if (!c->view)
        c->view = calloc(1, sizeof *c->view);
    sl_status status = c->view ? ask(c, take_view, &c->n_views, timeout_ms) : SL_E_NOMEM;
    if (status == SL_OK)
        *view = *c->view;
    pthread_mutex_unlock(&c->view_lock);
    return status;
}

sl_status sl_coordinator_records(struct sl_coordinator *c, struct sl_tail *tail, uint32_t timeout_ms)
{
    pthread_mutex_lock(&c->view_lock);
    if (!c->seen_tail.words)
        c->seen_tail.words = calloc(SL_TAIL_WORDS, sizeof *c->seen_tail.words);
    sl_status status = c->seen_tail.words ? ask(c, take_tail, &c->n_tails, timeout_ms) : SL_E_NOMEM;
    if (status == SL_OK)
        copy_tail(tail, &c->seen_tail);
    pthread_mutex_unlock(&c->view_lock);
    return status;
}
