/* Whether the other side is still there: dialing and trying again, heartbeat, goodbye, the end. All timers are here.
 *
 * Heartbeat: the side that dialed pings, the other answers; any frame counts as a sign of life. A peer that gives none is silent
 * after silent_ms, which the owner is told, and lost after lost_ms: it may have been stopped, and a line that still stands
 * carries on where it was. After half of lost_ms the line itself is doubted, for packets may vanish on it without a word, and is
 * broken, so that another is there in time. Leaving: GOODBYE names how
 * many frames were sent; the peer delivers those, answers GOODBYE, and the line is closed by the one who left. A link that
 * dials and is not up yet tries again, after 100 ms to 2 s. One that was up and lost its line does so until lost_ms after it heard
 * the peer last, and its peer waits for it; then it is over. So it is when line after line breaks before a frame gets through. Who
 * ends a link tells the peer, which would wait for another line in vain. Time in which this thread did not run counts nowhere
 * here: only sl_hub_step, which knows it, judges by the time that a peer was not heard.
 *
 * Clocks: PING carries the dialer's us, PONG brings it back with the answerer's. Somewhere in the round trip the answer was
 * made; taken to be in its middle it is off by at most half of it, and by the length of a round of the two I/O threads, whose
 * stamps are of its begin. The fastest of the last SL_CLOCK_SAMPLES pings is the estimate: older ones are dropped because
 * clocks drift (50 ppm over 16 pings of 200 ms: 160 us). */
#include "pipeline/link/link_impl.h"

#include "base/bytes.h"
#include "base/mutate.h"

#include <assert.h>
#include <stdlib.h>

void sl_conn_on_goodbye(struct sl_conn *conn, uint64_t peer_sent)
{
    conn->heard_goodbye = true;
    conn->peer_sent = peer_sent;
    conn->goodbye_by_ms = conn->hub->now_ms + SL_LEAVE_MS;
    sl_link_return_waiting(conn->hub, conn->link, SL_E_PEER_LOST);
}

/* ---- The life of a link ---- */

/* Told to the owner as what is, not as what happened: a link that falls silent and is heard again may never be noticed. */
void sl_link_set_silent(struct sl_hub *hub, struct sl_link *link, bool silent)
{
    if (atomic_load_explicit(&link->silent, memory_order_relaxed) == silent)
        return;
    atomic_store_explicit(&link->silent, silent, memory_order_relaxed);
    atomic_store_explicit(&hub->silence_changed, true, memory_order_release);
    sl_bell_ring(&hub->owner);
}

void sl_link_over(struct sl_hub *hub, struct sl_link *link, sl_status status, const char *reason)
{
    if (link->state == SL_LINK_UP)
        atomic_fetch_sub_explicit(&hub->links_up, 1, memory_order_relaxed);
    sl_link_set_silent(hub, link, false); /* it is worse than that */
    if (link->cancelled) {
        status = SL_E_CANCELLED;
        reason = "dropped by its owner";
    }
    sl_link_return_unconfirmed(hub, link, status);
    sl_link_return_waiting(hub, link, status);
    link->state = SL_LINK_OVER;
    struct sl_note n = {.kind = SL_NOTE_DOWN, .status = status, .link = link, .reason = reason};
    sl_hub_note(hub, &n);
}

static void link_leave(struct sl_link *link, uint64_t now_ms)
{
    if (!link->leaving) {
        link->leaving = true;
        link->leave_by_ms = now_ms + SL_LEAVE_MS;
    }
}

void sl_link_cancel(struct sl_hub *hub, struct sl_link *link)
{
    if (link->state == SL_LINK_OVER)
        return;
    link->cancelled = true;
    sl_link_return_waiting(hub, link, SL_E_CANCELLED);
    link_leave(link, hub->now_ms);
}

static void link_retry_later(struct sl_hub *hub, struct sl_link *link)
{
    uint32_t jitter = (uint32_t)(sl_rng_next(&hub->jitter) % (link->retry_ms / 4));
    link->retry_at_ms = hub->now_ms + link->retry_ms + jitter;
    link->retry_ms = link->retry_ms * 2 > SL_RETRY_MAX_MS ? SL_RETRY_MAX_MS : link->retry_ms * 2;
}

static void link_dial(struct sl_hub *hub, struct sl_link *link)
{
    sl_status status = sl_link_dial(hub, link);
    if (status == SL_E_INVALID)
        sl_link_over(hub, link, status, "the peer's address is not one of this transport");
    else if (status == SL_E_REFUSED && link->broken) /* no owner any more: a shielded port says nothing */
        sl_link_over(hub, link, SL_E_PEER_LOST,
                     "its data port refuses connections, so its process has ended");
    else if (status == SL_AGAIN)
        link->retry_at_ms = hub->now_ms + SL_DIAL_AGAIN_MS;
    else if (status != SL_OK)
        link_retry_later(hub, link);
}

/* Doubted at half of it, unless it is then not even silent. */
static uint64_t doubted_at_ms(const struct sl_conn *conn)
{
    const struct sl_io_config *config = &conn->hub->config;
    uint32_t half_ms = config->lost_ms / 2;
    return conn->heard_ms + sl_conn_excuse_ms(conn) +
           (half_ms > config->silent_ms ? half_ms : config->lost_ms) + 1;
}

static uint64_t lost_at_ms(const struct sl_conn *conn)
{
    uint64_t excused_ms = conn->fault ? conn->excused_ms : sl_conn_excuse_ms(conn);
    return conn->heard_ms + excused_ms + conn->hub->config.lost_ms + 1;
}

/* The line broke under a link that was up, by no word of the peer and by no fault that another line would mend not: the bytes
 * that it has not confirmed are still here. */
static bool may_carry_on(const struct sl_conn *conn)
{
    const struct sl_hub *hub = conn->hub;
    /* a transport cancels what it had under way when a line ends */
    bool line_broke = conn->fault == SL_E_PEER_LOST || conn->fault == SL_E_CANCELLED;
    return conn->link->state == SL_LINK_UP && !conn->link->leaving && !conn->heard_goodbye && line_broke &&
           !conn->for_good && hub->config.lost_ms > 0;
}

/* A frame that breaks every line which it is sent over would do so for ever: each new line is a sign of life. */
static bool makes_no_headway(struct sl_link *link)
{
    uint64_t headway = link->confirmed + link->delivered;
    bool under_way = link->unconfirmed != NULL;
    for (uint32_t i = 0; i < SL_SLOTS_MAX; i++)
        under_way |= link->window[i] != NULL;
    if (headway != link->headway)
        link->n_breaks = 0;
    link->headway = headway;
    link->n_breaks += under_way;
    return link->n_breaks >= SL_BREAKS_MAX;
}

static void hang_up(struct sl_hub *hub, struct sl_conn *conn)
{
    enum sl_hangup how = SL_HANGUP_END;
    if (conn->state == SL_CONN_OPEN) {
        bool again = may_carry_on(conn) && hub->now_ms < lost_at_ms(conn);
        if (again && makes_no_headway(conn->link)) {
            again = false;
            conn->reason =
                "its line broke again and again before a frame got through; look for what breaks it in the logs "
                "of both nodes";
        }
        conn->for_good = !again;
        how = again ? SL_HANGUP_BROKEN : SL_HANGUP_OVER;
    }
    conn->hung_up = true;
    if (hub->ops->inner)
        hub->ops->leave(conn);
    (hub->ops->inner ? hub->ops->inner : hub->ops)->hangup(conn->line, how);
}

static void wait_for_another_line(struct sl_hub *hub, struct sl_link *link, const struct sl_conn *conn)
{
    atomic_fetch_sub_explicit(&hub->links_up, 1, memory_order_relaxed);
    link->state = SL_LINK_WAITING;
    sl_link_break(link, conn->reason);
    link->lost_at_ms = lost_at_ms(conn);
    link->retry_ms = SL_RETRY_MIN_MS;
    link->retry_at_ms = hub->now_ms;
    sl_link_set_silent(hub, link, true);
}

void sl_conn_closed(struct sl_conn *conn)
{
    struct sl_hub *hub = conn->hub;
    if (hub->ops->inner)
        hub->ops->closed(hub->transport, conn);
    else
        sl_hub_closed(conn);
}

void sl_hub_closed(struct sl_conn *conn)
{
    struct sl_hub *hub = conn->hub;
    assert(conn->n_sends == 0 && conn->n_landings == 0);
    struct sl_conn **at = &hub->conns;
    while (*at != conn)
        at = &(*at)->next;
    *at = conn->next;
    struct sl_link *link = conn->link;
    if (link) {
        link->conn = NULL;
        if (may_carry_on(conn)) /* whether there is time for it was seen when it was hung up */
            wait_for_another_line(hub, link, conn);
        else if (link->state == SL_LINK_UP || link->leaving || (link->broken && conn->for_good))
            sl_link_over(hub, link, conn->fault, conn->reason);
        else
            link_retry_later(hub, link);
    }
    sl_conn_forget_keys(conn);
    free(conn);
}

/* ---- Time ---- */

static void due(int *wait_ms, uint64_t now_ms, uint64_t at_ms)
{
    uint64_t left = at_ms > now_ms ? at_ms - now_ms : 0;
    if (left < (uint64_t)*wait_ms)
        *wait_ms = (int)left;
}

/* Later than any clock: 285 years. Differences of two such, and sums of hundreds of these, do not overflow. */
#define CLOCK_END_US (UINT64_C(1) << 53)
#define CLOCK_RTT_MAX_US UINT64_C(1000000) /* an answer that took longer tells nothing of use */

static void conn_ping(struct sl_conn *conn)
{
    uint8_t body[SL_CONTROL_BYTES] = {0};
    sl_put64(body, conn->hub->now_us);
    sl_conn_control(conn, SL_WIRE_PING, conn->hub->now_ms, body);
}

void sl_conn_on_ping(struct sl_conn *conn, uint64_t number, const uint8_t *ping)
{
    uint8_t body[SL_CONTROL_BYTES] = {0};
    memcpy(body, ping, 8);
    sl_put64(body + 8, conn->hub->now_us);
    if (!atomic_load(&conn->hub->fault_mute))
        sl_conn_control(conn, SL_WIRE_PONG, number, body);
}

void sl_link_set_clock(struct sl_link *link, int64_t offset_us, uint64_t rtt_us)
{
    atomic_store_explicit(&link->clock_offset_us, offset_us, memory_order_relaxed);
    atomic_store_explicit(&link->clock_rtt_us, rtt_us, memory_order_relaxed);
    atomic_store_explicit(&link->clock_known, true, memory_order_release);
}

/* What makes no sense is no sample. A peer that lies about its clock shifts its own bars in a drawing, and nothing else. */
void sl_conn_on_pong(struct sl_conn *conn, const uint8_t *body)
{
    uint64_t sent_us = sl_get64(body), peer_us = sl_get64(body + 8), now_us = conn->hub->now_us;
    if (!conn->link->dials || sent_us == 0 || sent_us > now_us || now_us - sent_us > CLOCK_RTT_MAX_US ||
        now_us >= CLOCK_END_US || peer_us == 0 || peer_us >= CLOCK_END_US)
        return;
    uint64_t rtt_us = now_us - sent_us;
    conn->clock_samples[conn->n_clock_samples++ % SL_CLOCK_SAMPLES] =
        (struct sl_clock_sample){(int64_t)peer_us - (int64_t)(sent_us + rtt_us / 2), rtt_us};
    uint32_t n = conn->n_clock_samples < SL_CLOCK_SAMPLES ? conn->n_clock_samples : SL_CLOCK_SAMPLES;
    struct sl_clock_sample best = conn->clock_samples[0];
    for (uint32_t i = 1; i < n; i++)
        if (conn->clock_samples[i].rtt_us < best.rtt_us)
            best = conn->clock_samples[i];
    /* Nodes of one machine share a clock: where no difference can be told, there is none. */
    int64_t half_us = (int64_t)(best.rtt_us + 1) / 2;
    bool same = best.offset_us >= -half_us && best.offset_us <= half_us;
    sl_link_set_clock(conn->link, same ? 0 : best.offset_us, best.rtt_us);
}

static void conn_heartbeat(struct sl_hub *hub, struct sl_conn *conn, uint64_t now_ms, int *wait_ms)
{
    uint64_t silent_at_ms = conn->heard_ms + sl_conn_excuse_ms(conn) + hub->config.silent_ms + 1;
    if (now_ms >= doubted_at_ms(conn)) {
        sl_conn_fail(conn, SL_E_PEER_LOST, "no heartbeat");
        return;
    }
    sl_link_set_silent(hub, conn->link, now_ms >= silent_at_ms);
    due(wait_ms, now_ms, now_ms >= silent_at_ms ? doubted_at_ms(conn) : silent_at_ms);
    if (!conn->link->dials)
        return;
    if (now_ms >= conn->ping_at_ms) {
        conn->ping_at_ms = now_ms + hub->config.heartbeat_ms;
        if (!atomic_load(&hub->fault_mute))
            conn_ping(conn);
    }
    due(wait_ms, now_ms, conn->ping_at_ms);
}

/* One side or the other says goodbye: flush, tell how much was sent, wait for the answer, hang up.
 */
static void conn_goodbyes(struct sl_conn *conn, uint64_t now_ms, int *wait_ms)
{
    struct sl_link *link = conn->link;
    if (!link->leaving && !conn->heard_goodbye)
        return;
    uint64_t by_ms = link->leaving ? link->leave_by_ms : conn->goodbye_by_ms;
    bool late = now_ms >= by_ms;
    bool got_all = !conn->heard_goodbye || link->delivered == conn->peer_sent;
    bool sent_all = !link->waiting && !link->unconfirmed;
    if (!conn->said_goodbye && (late || (sent_all && got_all))) {
        conn->said_goodbye = true;
        sl_conn_control(conn, SL_WIRE_GOODBYE, link->sent, NULL);
    }
    if (late || (link->leaving && conn->said_goodbye && conn->heard_goodbye && got_all))
        sl_conn_fail(conn, SL_E_PEER_LOST,
                     conn->heard_goodbye ? "the peer said goodbye" : "left without an answer");
    due(wait_ms, now_ms, by_ms);
}

static void conn_step(struct sl_hub *hub, struct sl_conn *conn, uint64_t now_ms, int *wait_ms)
{
    if (!conn->fault) {
        uint64_t handshake_by_ms =
            conn->opened_ms + hub->config.handshake_ms + (conn->joins ? hub->config.join_ms : 0);
        if (conn->state != SL_CONN_OPEN && now_ms >= handshake_by_ms)
            sl_conn_refuse(conn, conn->state == SL_CONN_JOINING
                                     ? "the way for rows beside the link did not come up in time"
                                     : "the handshake took too long");
        else if (conn->state != SL_CONN_OPEN && conn->link && conn->link->leaving)
            sl_conn_fail(conn, SL_E_CANCELLED, "the link was given up");
        else if (conn->state != SL_CONN_OPEN)
            due(wait_ms, now_ms, handshake_by_ms);
        else {
            conn_goodbyes(conn, now_ms, wait_ms);
            if (hub->ops->silent_loss)
                conn_heartbeat(hub, conn, now_ms, wait_ms);
        }
    }
    if (conn->fault && !conn->hung_up)
        hang_up(hub, conn);
    if (conn->hung_up) /* the end of a closing line does not always wake the thread */
        due(wait_ms, now_ms, now_ms + 1);
}

/* A thread that was not run for a while (a stopped process, a busy machine) has not listened either: that time is not held
 * against the peers, those whose line it talks over and those of whom it awaits another. */
static void forgive_own_absence(struct sl_hub *hub)
{
    uint64_t now_ms = hub->now_ms;
    uint64_t late_ms = hub->due_ms && now_ms > hub->due_ms ? now_ms - hub->due_ms : 0;
    if (late_ms <= hub->config.silent_ms / 4) /* it sleeps for as long at most: both are not silence yet */
        return;
    for (struct sl_conn *conn = hub->conns; conn; conn = conn->next) {
        conn->heard_ms = now_ms;
        conn->opened_ms += conn->state == SL_CONN_OPEN ? 0 : late_ms;
    }
    for (uint32_t i = 0; i < hub->n_entries; i++)
        if (hub->links[i] && hub->links[i]->broken && !SL_MUTATED(OWN_ABSENCE))
            hub->links[i]->lost_at_ms += late_ms;
}

/* Some transports end frames, or are ready for them, without a word on their fd: they are asked. */
static bool must_be_asked(const struct sl_hub *hub)
{
    if (hub->ops->poll_ms == 0)
        return false;
    if (hub->ops->fd(hub->transport) < 0)
        return true;
    for (const struct sl_conn *conn = hub->conns; conn; conn = conn->next)
        if (conn->n_sends + conn->n_landings > 0 || (conn->beside && conn->state != SL_CONN_OPEN))
            return true;
    return false;
}

/* For tests: every line breaks, as when a switch is restarted. */
static void cut_lines(struct sl_hub *hub)
{
    if (!atomic_exchange(&hub->fault_cut, false))
        return;
    for (struct sl_conn *conn = hub->conns; conn; conn = conn->next)
        if (conn->state == SL_CONN_OPEN)
            sl_conn_fail(conn, SL_E_PEER_LOST, "cut by a test");
}

/* The transport is told who may come: the peers of links that are not up, and of those that are silent, because a line that broke
 * may have been noticed at the other end only. Who leaves awaits nobody. */
static void admit(struct sl_hub *hub)
{
    const struct sl_io_address *peers[SL_LINKS_MAX];
    uint64_t awaited = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < SL_LINKS_MAX && hub->ops->admit; i++) {
        const struct sl_link *link = hub->links[i];
        bool silent = link && atomic_load_explicit(&link->silent, memory_order_relaxed);
        if (!link || link->leaving ||
            (link->state != SL_LINK_WAITING && !(link->state == SL_LINK_UP && silent)))
            continue;
        awaited |= UINT64_C(1) << i;
        peers[n++] = &link->peer;
    }
    if (hub->ops->admit && (awaited != hub->admitted || hub->admit_stale))
        hub->ops->admit(hub->transport, peers, n);
    hub->admitted = awaited;
    hub->admit_stale = false;
}

int sl_hub_step(struct sl_hub *hub)
{
    uint64_t now_ms = hub->now_ms;
    int wait_ms = 1000; /* even with nothing due: some event fds have been seen to miss a wake-up */
    forgive_own_absence(hub);
    cut_lines(hub);
    admit(hub);
    for (uint32_t i = 0; i < hub->n_entries; i++) {
        struct sl_link *link = hub->links[i];
        if (!link || link->state != SL_LINK_WAITING || link->conn)
            continue;
        if (link->leaving)
            sl_link_over(hub, link, SL_E_CANCELLED, "the link was given up");
        else if (link->broken && now_ms >= link->lost_at_ms)
            sl_link_over(hub, link, SL_E_PEER_LOST, link->broken_reason);
        else if (link->dials && now_ms >= link->retry_at_ms)
            link_dial(hub, link);
        if (link->dials && link->state == SL_LINK_WAITING && !link->conn)
            due(&wait_ms, now_ms, link->retry_at_ms);
        if (link->broken && link->state == SL_LINK_WAITING)
            due(&wait_ms, now_ms, link->lost_at_ms);
    }
    for (struct sl_conn *conn = hub->conns, *next; conn; conn = next) {
        next = conn->next;
        conn_step(hub, conn, now_ms, &wait_ms);
    }
    if (hub->ops->silent_loss && hub->conns && wait_ms > (int)hub->config.silent_ms / 4)
        wait_ms = (int)hub->config.silent_ms / 4;
    if (must_be_asked(hub) && wait_ms > (int)hub->ops->poll_ms)
        wait_ms = (int)hub->ops->poll_ms;
    hub->due_ms = now_ms + (uint64_t)wait_ms;
    return wait_ms;
}

void sl_hub_leave(struct sl_hub *hub)
{
    hub->closing = true;
    for (uint32_t i = 0; i < SL_LINKS_MAX; i++)
        if (hub->links[i] && hub->links[i]->state != SL_LINK_OVER)
            link_leave(hub->links[i], hub->now_ms);
    for (struct sl_conn *conn = hub->conns; conn; conn = conn->next)
        if (!conn->link)
            sl_conn_fail(conn, SL_E_CANCELLED, "this node is leaving");
}

void sl_hub_abort(struct sl_hub *hub)
{
    for (struct sl_conn *conn = hub->conns; conn; conn = conn->next)
        sl_conn_fail(conn, SL_E_CANCELLED, "this node has left");
}

bool sl_hub_idle(const struct sl_hub *hub)
{
    return hub->conns == NULL;
}
