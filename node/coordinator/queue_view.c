/* The queue of the decider, for whoever looks at the node: the question goes to the coordinator's thread as a call, the answer
 * lies in a view that is as long-lived as the coordinator, so who gave up waiting leaves nothing behind. */
#include "node/coordinator/coordinator_impl.h"
#include <errno.h>
#include <stdlib.h>

/* On the coordinator's thread. */
static void take_view(void *user)
{
    struct sl_coordinator *c = user;
    pthread_mutex_lock(&c->view_lock); /* of readers, who only copy */
    sl_core_view(c->core, sl_coordinator_now_us(), c->view);
    c->n_views++;
    pthread_cond_broadcast(&c->view_taken);
    pthread_mutex_unlock(&c->view_lock);
}

sl_status sl_coordinator_view(struct sl_coordinator *c, struct sl_core_view *view, uint32_t timeout_ms)
{
    struct timespec until = sl_clock_in_ms(timeout_ms);
    pthread_mutex_lock(&c->view_lock);
    if (!c->view && !(c->view = calloc(1, sizeof *c->view))) {
        pthread_mutex_unlock(&c->view_lock);
        return SL_E_NOMEM;
    }
    uint64_t before = c->n_views;
    /* a call of somebody who has given up may still come: any view from now on is new enough */
    sl_status status = sl_coordinator_call(c, take_view, c);
    while (status == SL_OK && c->n_views == before)
        if (pthread_cond_timedwait(&c->view_taken, &c->view_lock, &until) == ETIMEDOUT)
            status = SL_E_DEADLINE;
    if (status == SL_OK)
        *view = *c->view;
    pthread_mutex_unlock(&c->view_lock);
    return status;
}
