/* The threads around the scene (play.h).
 *
 * The timer sleeps in epoll on a timerfd with an absolute time, beside the sockets whose other end is watched; who arrives sets
 * the timer earlier without waking anybody. A cue is worth one wake of its turn's own worker, which then sends whatever is due by
 * then: under load wakes are fewer than messages, and nothing is late for want of one. The truth is printed by a thread of its own,
 * since a line with a thousand times takes longer than a token may be late. */
#include "bench/serve/selftest/play.h"
#include "base/clock.h"
#include "base/log.h"
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { EVENTS = 64, MAX_UNWRITTEN = 65536 };

struct sl_play {
    pthread_mutex_t lock; /* the scene, and all below up to the truth */
    struct sl_scene scene;
    uint64_t armed_ns, began_ns;
    bool closed, ended;
    int epoll, timer;
    pthread_t timer_thread;

    pthread_mutex_t truth_lock; /* the list */
    pthread_cond_t truth_there;
    struct sl_turn *unwritten, **unwritten_end;
    uint32_t n_unwritten, n_lost;
    bool truth_ended;
    FILE *truth; /* the writer's */
    const char *truth_path;
    pthread_t truth_thread;
};

/* ---- the truth ---- */

/* Ids come from strangers. */
static void write_id(FILE *to, const char *id)
{
    for (; *id; id++) {
        if (*id == '"' || *id == '\\')
            fputc('\\', to);
        fputc(*id >= ' ' && *id < 0x7f ? *id : '?', to);
    }
}

static void write_time(FILE *to, const char *name, uint64_t ns)
{
    if (ns)
        fprintf(to, ",\"%s\":%llu", name, (unsigned long long)ns);
    else
        fprintf(to, ",\"%s\":null", name);
}

static void write_turn(FILE *to, const struct sl_turn *turn)
{
    fputs("{\"id\":\"", to);
    write_id(to, turn->id);
    fprintf(to, "\",\"number\":%u,\"protocol\":\"%s\",\"stream\":%s,\"fault\":\"%s\"", turn->number,
            turn->http ? "http" : "grpc", turn->unary ? "false" : "true", sl_fault_names[turn->fault]);
    write_time(to, "arrival_ns", turn->arrival_ns);
    write_time(to, "begin_ns", turn->begin_ns);
    write_time(to, "first_ns", turn->first_ns);
    fputs(",\"token_ns\":[", to);
    for (uint32_t k = 0; k < turn->n_sent; k++)
        fprintf(to, "%s%llu", k ? "," : "", (unsigned long long)turn->token_ns[k]);
    fputs("]", to);
    write_time(to, "end_ns", turn->end_ns);
    fprintf(
        to,
        ",\"prompt_tokens\":%u,\"max_tokens\":%u,\"output_tokens\":%u,\"late_ns\":%llu,\"ending\":\"%s\"}\n",
        turn->prompt_tokens, turn->max_tokens, turn->n_sent, (unsigned long long)turn->late_ns, turn->ending);
}

static void *write_truth(void *argument)
{
    struct sl_play *play = argument;
    for (bool more = true; more;) {
        pthread_mutex_lock(&play->truth_lock);
        while (!play->unwritten && !play->truth_ended)
            pthread_cond_wait(&play->truth_there, &play->truth_lock);
        struct sl_turn *turn = play->unwritten;
        play->unwritten = NULL;
        play->unwritten_end = &play->unwritten;
        play->n_unwritten = 0;
        more = turn != NULL;
        pthread_mutex_unlock(&play->truth_lock);
        while (turn) {
            struct sl_turn *next = turn->next;
            if (play->truth)
                write_turn(play->truth, turn);
            sl_turn_fini(turn);
            free(turn);
            turn = next;
        }
        if (play->truth)
            fflush(play->truth); /* who waits for the line of a request sees it; an error stays for the end */
    }
    return NULL;
}

static void give_to_truth(struct sl_play *play, struct sl_turn *turn)
{
    pthread_mutex_lock(&play->truth_lock);
    bool full = play->n_unwritten == MAX_UNWRITTEN;
    if (!full) {
        turn->next = NULL;
        *play->unwritten_end = turn;
        play->unwritten_end = &turn->next;
        play->n_unwritten++;
        pthread_cond_signal(&play->truth_there);
    }
    play->n_lost += full;
    pthread_mutex_unlock(&play->truth_lock);
    if (full) {
        sl_turn_fini(turn);
        free(turn);
    }
}

/* ---- the timer ---- */

/* With the lock. */
static void arm(struct sl_play *play, bool later)
{
    uint64_t next_ns = sl_scene_next(&play->scene);
    if (next_ns == play->armed_ns || (next_ns > play->armed_ns && !later))
        return;
    play->armed_ns = next_ns;
    struct itimerspec at = {{0, 0}, {0, 0}};
    if (next_ns != SL_NOT_DUE)
        at.it_value = (struct timespec){(time_t)(next_ns / 1000000000u), (long)(next_ns % 1000000000u)};
    timerfd_settime(play->timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static uint64_t key_of(const struct sl_turn *turn)
{
    return (uint64_t)turn->number << 32 | (turn->slot + 1);
}

/* With the lock. */
static void say_gone(struct sl_turn *turn)
{
    atomic_store(&turn->gone, true);
    turn->on_wake(turn);
}

/* With the lock. The turn may have ended since the event was seen, and its slot may be another's. */
static void on_hang_up(struct sl_play *play, uint64_t key)
{
    struct sl_turn *turn = play->scene.turns[(uint32_t)key - 1];
    if (turn && key_of(turn) == key)
        say_gone(turn);
}

static void *run_timer(void *argument)
{
    struct sl_play *play = argument;
    struct epoll_event events[EVENTS];
    for (;;) {
        int n = epoll_wait(play->epoll, events, EVENTS, -1);
        pthread_mutex_lock(&play->lock);
        for (int i = 0; i < n; i++) {
            uint64_t expirations;
            if (events[i].data.u64)
                on_hang_up(play, events[i].data.u64);
            else if (read(play->timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                sl_log_warn("the timer cannot be read: %s", strerror(errno));
        }
        for (struct sl_turn *turn; (turn = sl_scene_due(&play->scene, sl_clock_ns()));)
            turn->on_wake(turn);
        arm(play, true);
        bool ended = play->ended;
        pthread_mutex_unlock(&play->lock);
        if (ended)
            return NULL;
    }
}

/* ---- what others call ---- */

sl_status sl_play_arrive(struct sl_play *play, struct sl_turn *turn, struct sl_err *err)
{
    pthread_mutex_lock(&play->lock);
    sl_status status = sl_scene_arrive(&play->scene, turn, sl_clock_ns(), err);
    if (status == SL_OK) {
        atomic_store(&turn->gone, play->closed);
        arm(play, false);
    }
    pthread_mutex_unlock(&play->lock);
    return status;
}

bool sl_play_send(struct sl_play *play, struct sl_turn *turn, struct sl_send *send)
{
    if (!atomic_load(&turn->begun)) /* the scene wakes it when it is */
        return false;
    if (sl_turn_send(turn, sl_clock_ns(), send))
        return true;
    if (send->at_ns != SL_NOT_DUE)
        sl_play_wake_at(play, turn, send->at_ns);
    return false;
}

void sl_play_wake_at(struct sl_play *play, struct sl_turn *turn, uint64_t at_ns)
{
    pthread_mutex_lock(&play->lock);
    sl_scene_wake_at(&play->scene, turn, at_ns);
    arm(play, false);
    pthread_mutex_unlock(&play->lock);
}

void sl_play_end(struct sl_play *play, struct sl_turn *turn, const char *ending)
{
    pthread_mutex_lock(&play->lock);
    turn->end_ns = sl_clock_ns();
    turn->ending = ending;
    sl_scene_leave(&play->scene, turn, turn->end_ns);
    arm(play, false);
    pthread_mutex_unlock(&play->lock);
    give_to_truth(play, turn);
}

void sl_play_watch(struct sl_play *play, struct sl_turn *turn, int fd)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = key_of(turn)};
    if (epoll_ctl(play->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        sl_log_warn("a connection cannot be watched: %s", strerror(errno));
}

void sl_play_unwatch(struct sl_play *play, int fd)
{
    epoll_ctl(play->epoll, EPOLL_CTL_DEL, fd, NULL); /* it may not be there */
}

void sl_play_abort(struct sl_play *play, const char *id)
{
    pthread_mutex_lock(&play->lock);
    for (uint32_t i = 0; i < SL_SCENE_TURNS && play->scene.n_turns; i++)
        if (play->scene.turns[i] && strcmp(play->scene.turns[i]->id, id) == 0)
            say_gone(play->scene.turns[i]);
    pthread_mutex_unlock(&play->lock);
}

void sl_play_close(struct sl_play *play)
{
    pthread_mutex_lock(&play->lock);
    play->closed = true;
    for (uint32_t i = 0; i < SL_SCENE_TURNS; i++)
        if (play->scene.turns[i])
            say_gone(play->scene.turns[i]);
    pthread_mutex_unlock(&play->lock);
}

bool sl_play_is_closed(struct sl_play *play)
{
    pthread_mutex_lock(&play->lock);
    bool closed = play->closed;
    pthread_mutex_unlock(&play->lock);
    return closed;
}

void sl_play_load(struct sl_play *play, struct sl_play_load *load)
{
    pthread_mutex_lock(&play->lock);
    load->n_waiting = play->scene.n_waiting;
    load->n_served = play->scene.n_turns - play->scene.n_waiting;
    load->n_arrived = play->scene.n_arrived;
    load->up_ns = sl_clock_ns() - play->began_ns;
    pthread_mutex_unlock(&play->lock);
}

/* ---- life ---- */

static void free_play(struct sl_play *play)
{
    sl_scene_fini(&play->scene);
    if (play->epoll >= 0)
        close(play->epoll);
    if (play->timer >= 0)
        close(play->timer);
    if (play->truth)
        fclose(play->truth);
    pthread_mutex_destroy(&play->lock);
    pthread_mutex_destroy(&play->truth_lock);
    pthread_cond_destroy(&play->truth_there);
    free(play);
}

static sl_status open_files(struct sl_play *play, struct sl_err *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
    play->epoll = epoll_create1(EPOLL_CLOEXEC);
    play->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (play->epoll < 0 || play->timer < 0 || epoll_ctl(play->epoll, EPOLL_CTL_ADD, play->timer, &event) < 0)
        return sl_fail(err, SL_E_UNAVAILABLE, "no timer: %s; raise the limit on files", strerror(errno));
    if (play->truth_path && !(play->truth = fopen(play->truth_path, "we")))
        return sl_fail(err, SL_E_IO, "--truth %s cannot be written: %s", play->truth_path, strerror(errno));
    return SL_OK;
}

static sl_status start_threads(struct sl_play *play, struct sl_err *err)
{
    if (pthread_create(&play->truth_thread, NULL, write_truth, play) != 0)
        return sl_fail(err, SL_E_NOMEM, "cannot start a thread for the truth: raise the limit on threads");
    pthread_setname_np(play->truth_thread, "sl-truth");
    if (pthread_create(&play->timer_thread, NULL, run_timer, play) == 0) {
        pthread_setname_np(play->timer_thread, "sl-play");
        return SL_OK;
    }
    pthread_mutex_lock(&play->truth_lock);
    play->truth_ended = true;
    pthread_cond_signal(&play->truth_there);
    pthread_mutex_unlock(&play->truth_lock);
    pthread_join(play->truth_thread, NULL);
    return sl_fail(err, SL_E_NOMEM, "cannot start a thread for the timer: raise the limit on threads");
}

sl_status sl_play_start(struct sl_play **out, const struct sl_play_config *config, struct sl_err *err)
{
    struct sl_play *play = calloc(1, sizeof *play);
    if (!play)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the scripted server");
    play->epoll = play->timer = -1;
    play->armed_ns = SL_NOT_DUE;
    play->began_ns = sl_clock_ns();
    play->unwritten_end = &play->unwritten;
    play->truth_path = config->truth;
    pthread_mutex_init(&play->lock, NULL);
    pthread_mutex_init(&play->truth_lock, NULL);
    sl_clock_cond_init(&play->truth_there);
    sl_status status = sl_scene_init(&play->scene, config->script, config->n_servers, err);
    if (status == SL_OK)
        status = open_files(play, err);
    if (status == SL_OK)
        status = start_threads(play, err);
    if (status != SL_OK) {
        free_play(play);
        return status;
    }
    *out = play;
    return SL_OK;
}

sl_status sl_play_stop(struct sl_play *play, struct sl_err *err)
{
    sl_status status = SL_OK;
    struct itimerspec now = {{0, 0}, {0, 1}};
    pthread_mutex_lock(&play->lock);
    play->ended = true;
    timerfd_settime(play->timer, 0, &now, NULL);
    pthread_mutex_unlock(&play->lock);
    pthread_join(play->timer_thread, NULL);
    pthread_mutex_lock(&play->truth_lock);
    play->truth_ended = true;
    pthread_cond_signal(&play->truth_there);
    pthread_mutex_unlock(&play->truth_lock);
    pthread_join(play->truth_thread, NULL);
    bool torn = play->truth && (ferror(play->truth) || fflush(play->truth) != 0);
    if (play->n_lost || torn)
        status =
            sl_fail(err, SL_E_IO, "not all of --truth %s could be written (%u requests came too fast): %s",
                    play->truth_path, play->n_lost, torn ? "the disk may be full" : "use a faster disk");
    free_play(play);
    return status;
}
