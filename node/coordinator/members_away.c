/* Members whose Join stream broke (members_impl.h): a connection that was reset, a proxy that was restarted, a cable that was
 * pulled out. The process may be as well as ever, so it is waited for, --lost-after long, as for one that is silent: the pipeline is not
 * ready, nothing new is begun, and what is under way goes on, as far as it has room, over links that know nothing of it. Whose data port refuses
 * connections meanwhile is gone, and is not waited for. While all are here a beat goes over each stream now and then: it is how a
 * member learns that its stream stands, and it keeps proxies from closing it.
 *
 * Time that this thread was not run (a stopped process) is not held against anybody: what they sent meanwhile was not read. */
#include "base/clock.h"
#include "node/coordinator/members_impl.h"
#include "node/rpc/pb_impl.h"
#include "sluice.pb-c.h"
#include <stdio.h>

enum { LOOK_MS = 50, PROBE_MIN_MS = 50, PROBE_MAX_MS = 1000, NOT_RUN_MS = 1000 };

bool sl_joined_is_needed(const struct joined_member *m)
{
    uint32_t d = sl_plan_decoder_of(&m->all->plan, m->node);
    return d == SL_NO_DECODER || d < m->all->plan.n_decoders;
}

void sl_joined_tell_silence(struct joined_member *m)
{
    struct sl_members *c = m->all;
    bool silent = m->away || m->hears_not;
    if (silent == m->told_silent || c->life != SL_LIFE_READY)
        return;
    m->told_silent = silent;
    sl_coordinator_set_silent(c->coordinator, m->node, silent);
}

void sl_joined_went_away(struct joined_member *m)
{
    char name[24];
    m->away = true;
    m->away_ms = m->probed_ms = m->probe_again_ms = 0;
    sl_log_warn("the Join stream of %s broke; waiting %.3g s for it to be taken up again",
                sl_plan_node_name(&m->all->plan, m->node, name), m->all->config.lost_after_ms * 1e-3);
    sl_joined_tell_silence(m);
    pthread_cond_broadcast(&m->all->changed);
}

void sl_joined_came_back(struct joined_member *m)
{
    m->away = false;
    sl_port_probe_end(&m->probe);
    sl_joined_tell_silence(m);
}

void sl_joined_beat(struct joined_member *m)
{
    Sluice__V1__Beat beat = SLUICE__V1__BEAT__INIT;
    Sluice__V1__JoinEvent event = SLUICE__V1__JOIN_EVENT__INIT;
    event.event_case = SLUICE__V1__JOIN_EVENT__EVENT_BEAT;
    event.beat = &beat;
    sl_pb_write(m->call, &event.base); /* one that finds no room is one of many */
}

void sl_joined_tell_decoder(struct joined_member *stage, const struct joined_member *decoder)
{
    Sluice__V1__Decoder d = SLUICE__V1__DECODER__INIT;
    Sluice__V1__JoinEvent event = SLUICE__V1__JOIN_EVENT__INIT;
    if (!stage->call || !stage->planned)
        return;
    d.place = sl_plan_decoder_of(&stage->all->plan, decoder->node);
    d.part = sl_plan_part_of(&stage->all->plan, decoder->node);
    d.gone = !decoder->planned;
    d.life = decoder->life;
    if (d.gone) /* whoever had it last */
        d.life = (d.life + SL_DECODER_LIVES - 1) % SL_DECODER_LIVES;
    d.data = (ProtobufCBinaryData){decoder->data.n, (uint8_t *)(uintptr_t)decoder->data.bytes};
    event.event_case = SLUICE__V1__JOIN_EVENT__EVENT_DECODER;
    event.decoder = &d;
    sl_pb_write(stage->call, &event.base);
}

void sl_joined_foretell(struct joined_member *stage, uint64_t seq, uint64_t number)
{
    Sluice__V1__Cancelled cancelled = SLUICE__V1__CANCELLED__INIT;
    Sluice__V1__JoinEvent event = SLUICE__V1__JOIN_EVENT__INIT;
    if (!stage->call || !stage->ready)
        return;
    cancelled.seq = seq;
    cancelled.record = number;
    event.event_case = SLUICE__V1__JOIN_EVENT__EVENT_CANCELLED;
    event.cancelled = &cancelled;
    sl_pb_write(stage->call, &event.base); /* one that finds no room is computed in vain */
}

void sl_joined_send_stop(struct joined_member *m, const char *reason)
{
    Sluice__V1__Stop stop = SLUICE__V1__STOP__INIT;
    Sluice__V1__JoinEvent event = SLUICE__V1__JOIN_EVENT__INIT;
    stop.reason = (char *)(uintptr_t)reason;
    event.event_case = SLUICE__V1__JOIN_EVENT__EVENT_STOP;
    event.stop = &stop;
    sl_pb_write(m->call, &event.base);
    sl_rpc_finish(m->call, SL_OK, NULL);
}

/* It will not come back. */
static void lose(struct joined_member *m, bool refused)
{
    struct sl_members *c = m->all;
    char name[24], why[160], sentence[300];
    /* the pipeline goes on without a decode worker, once it has begun to */
    bool decode = m->node > c->plan.n_stages &&
                  (!sl_joined_is_needed(m) || sl_coordinator_life(c->coordinator) != SL_LIFE_FORMING);
    m->away = false;
    sl_port_probe_end(&m->probe);
    if (c->life != SL_LIFE_READY) /* the first loss is the cause of those that follow */
        return;
    if (!decode)
        sl_life_step(&c->life, SL_LIFE_LOSE);
    if (refused)
        snprintf(why, sizeof why, "its data port %s:%u refuses connections, so its process has ended",
                 m->address, m->port);
    else
        snprintf(why, sizeof why, "it did not take it up again within %.3g s",
                 c->config.lost_after_ms * 1e-3);
    snprintf(sentence, sizeof sentence, "%s is gone: its Join stream broke, and %s%s",
             sl_plan_node_name(&c->plan, m->node, name), why,
             decode ? "" : "; the request was not finished, send it again");
    if (decode)
        sl_coordinator_decoder_lost(c->coordinator, sl_plan_decoder_of(&c->plan, m->node), m->life, sentence);
    else
        sl_coordinator_mourn(c->coordinator, sentence);
}

/* A process that ends closes its ports one after the other: it is asked again and again, the less often the longer it lasts. */
static bool is_refused(struct joined_member *m)
{
    if (sl_port_probe_refused(&m->probe))
        return true;
    if (m->away_ms < m->probed_ms + m->probe_again_ms)
        return false;
    m->probed_ms = m->away_ms;
    m->probe_again_ms = m->probe_again_ms == 0                 ? PROBE_MIN_MS
                        : 2 * m->probe_again_ms < PROBE_MAX_MS ? 2 * m->probe_again_ms
                                                               : PROBE_MAX_MS;
    return sl_port_probe_begin(&m->probe, m->address, m->port);
}

static bool any_away(const struct sl_members *c)
{
    bool any = false;
    for (uint32_t i = 0; i < c->n_members; i++)
        any = any || c->members[i].away;
    return any;
}

static void look_at_all(struct sl_members *c, uint32_t ms)
{
    for (uint32_t i = 0; i < c->n_members; i++) {
        struct joined_member *m = &c->members[i];
        if (!m->away)
            continue;
        m->away_ms += ms;
        bool refused = is_refused(m);
        if (refused || m->away_ms >= c->config.lost_after_ms)
            lose(m, refused);
    }
}

static void *watch(void *arg)
{
    struct sl_members *c = arg;
    uint32_t beat_ms = sl_members_beat_ms(c->config.lost_after_ms);
    uint64_t looked_ns = sl_clock_ns(), beat_ns = looked_ns;
    pthread_mutex_lock(&c->lock);
    while (!c->over) {
        uint32_t wait_ms = any_away(c) && LOOK_MS < beat_ms ? LOOK_MS : beat_ms;
        struct timespec until = sl_clock_in_ms(wait_ms);
        pthread_cond_timedwait(&c->changed, &c->lock, &until);
        uint64_t now_ns = sl_clock_ns(), ms = (now_ns - looked_ns) / 1000000u;
        if (ms == 0)
            continue;
        looked_ns += ms * 1000000u;
        look_at_all(c, ms > wait_ms + NOT_RUN_MS ? wait_ms : (uint32_t)ms);
        if (now_ns - beat_ns < beat_ms * UINT64_C(1000000))
            continue;
        beat_ns = now_ns;
        for (uint32_t i = 0; i < c->n_members; i++)
            if (c->members[i].call)
                sl_joined_beat(&c->members[i]);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

sl_status sl_members_watch(struct sl_members *c)
{
    c->watched = pthread_create(&c->watch, NULL, watch, c) == 0;
    return c->watched ? SL_OK : SL_E_NOMEM;
}

void sl_members_unwatch(struct sl_members *c)
{
    if (!c->watched)
        return;
    pthread_mutex_lock(&c->lock);
    c->over = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->watch, NULL);
    for (uint32_t i = 0; i < c->n_members; i++)
        sl_port_probe_end(&c->members[i].probe);
}
