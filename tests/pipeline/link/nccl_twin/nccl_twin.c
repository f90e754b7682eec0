/* NCCL's functions that a link uses, over sockets and host memory, with the manners of the real one: a stream is a queue that a thread
 * works off, later and in order; a call may say that it is in progress, and then nothing is on the stream and no other call allowed until
 * that has been asked for often enough; a peer that is gone is silence; sizes that differ hang (and are counted); an abort ends what
 * runs, and what has not begun never does. nccl_twin.h has its faults and what it has of CUDA. */
#include "tests/pipeline/link/nccl_twin/nccl_twin.h"

#include "pipeline/link/transport_nccl_api.h"

#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
enum { ITEMS = 1024, NAP_US = 1000, IN_PROGRESS_POLLS = 2 };

enum fault {
    NONE,
    STALL,
    CORRUPT,
    ASYNC_ERROR,
    DIE_SEND,
    SHORT,
    INIT_FAIL,
    INIT_HANG,
    DIE_INIT,
    ABORT_HANG,
    DIE_ABORT,
    ID_FAIL
};
static const char *const fault_names[] = {"none",     "stall",      "corrupt",   "async_error",
                                          "die_send", "short",      "init_fail", "init_hang",
                                          "die_init", "abort_hang", "die_abort", "id_fail"};
enum { FAULTS = sizeof fault_names / sizeof *fault_names };
static _Atomic int fault_kind, fault_after, fault_times, n_occasions, n_struck, n_mismatches, n_comms,
    n_transfers;

struct twin_event {
    _Atomic int asked, passed; /* records, and those that have run */
    _Atomic int n_refs;
};

enum item_kind { ITEM_SEND, ITEM_RECEIVE, ITEM_RECORD, ITEM_AWAIT };
struct twin_item {
    enum item_kind kind;
    struct sl_nccl_comm *comm;
    uint8_t *buffer;
    size_t bytes;
    struct twin_event *event;
};

struct twin_stream {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct twin_item items[ITEMS];
    uint32_t head, tail;
    bool closed;
};

struct sl_nccl_comm {
    int rank, fd, listener;
    struct sockaddr_un at;
    socklen_t at_bytes;
    pthread_t thread; /* which meets the other end */
    _Atomic int state;
    _Atomic bool abort;
    _Atomic int n_refs;      /* itself, and items on streams */
    pthread_mutex_t running; /* held while an operation is */
    int polls_left;          /* the caller's: until a call that is in progress is over */
    void *begun_on;
    struct twin_stream
        *worker; /* for transfers in the streams of a twin of a GPU: what goes on outside of it */
    struct twin_item begun;
    uint32_t n_calls;
};

/* ---- Faults ---- */

API bool nccl_twin_fault(const char *name, int after, int times)
{
    for (int i = 0; i < FAULTS; i++)
        if (strcmp(name, fault_names[i]) == 0) {
            fault_kind = NONE;
            fault_after = after;
            fault_times = times;
            n_occasions = n_struck = n_mismatches = n_transfers = 0;
            fault_kind = i;
            return true;
        }
    return false;
}

static bool struck(enum fault kind)
{
    if (fault_kind != (int)kind)
        return false;
    int n = n_occasions++ - fault_after;
    bool now = n >= 0 && (fault_times < 0 || n < fault_times);
    n_struck += now;
    if (now && (kind == DIE_SEND || kind == DIE_INIT || kind == DIE_ABORT))
        kill(getpid(), SIGKILL);
    return now;
}

__attribute__((constructor)) static void from_environment(void)
{
    char name[32] = "";
    int after = 0, times = -1;
    const char *text = getenv("NCCL_TWIN_FAULT"); /* stall:3:1 */
    if (text && sscanf(text, "%31[^:]:%d:%d", name, &after, &times) >= 1 &&
        !nccl_twin_fault(name, after, times))
        fprintf(stderr, "NCCL_TWIN_FAULT names no fault: %s\n", text);
}

API int nccl_twin_struck(void)
{
    return n_struck;
}
API int nccl_twin_mismatches(void)
{
    return n_mismatches;
}
API int nccl_twin_comms(void)
{
    return n_comms;
}
API int nccl_twin_transfers(void)
{
    return n_transfers;
}

/* ---- Buffers in use ---- */

enum { USES = 4096 };
static struct twin_use {
    const struct sl_nccl_comm *comm; /* NULL: free */
    const uint8_t *buffer;
    size_t bytes;
} in_use[USES];
static pthread_mutex_t in_use_mutex = PTHREAD_MUTEX_INITIALIZER;

static void use(const struct sl_nccl_comm *comm, const uint8_t *buffer, size_t bytes)
{
    int i = 0;
    pthread_mutex_lock(&in_use_mutex);
    while (i < USES && in_use[i].comm)
        i++;
    if (i == USES)
        abort();
    in_use[i] = (struct twin_use){comm, buffer, bytes};
    pthread_mutex_unlock(&in_use_mutex);
}

/* Of one transfer, or (NULL) of all of a communicator. */
static void use_ended(const struct sl_nccl_comm *comm, const uint8_t *buffer)
{
    pthread_mutex_lock(&in_use_mutex);
    for (int i = 0; i < USES; i++)
        if (in_use[i].comm == comm && (!buffer || in_use[i].buffer == buffer)) {
            in_use[i].comm = NULL;
            if (buffer)
                break;
        }
    pthread_mutex_unlock(&in_use_mutex);
}

API bool nccl_twin_uses(const void *buffer)
{
    const uint8_t *at = buffer;
    bool uses = false;
    pthread_mutex_lock(&in_use_mutex);
    for (int i = 0; i < USES; i++)
        uses |= in_use[i].comm && at >= in_use[i].buffer && at < in_use[i].buffer + in_use[i].bytes;
    pthread_mutex_unlock(&in_use_mutex);
    return uses;
}

/* ---- Transfers ---- */

API void nccl_twin_stream_close(struct twin_stream *s);

static void comm_unref(struct sl_nccl_comm *c)
{
    if (atomic_fetch_sub(&c->n_refs, 1) != 1)
        return;
    if (c->fd >= 0)
        close(c->fd);
    if (c->listener >= 0)
        close(c->listener);
    if (c->worker)
        nccl_twin_stream_close(c->worker);
    pthread_mutex_destroy(&c->running);
    free(c);
}

static void sleep_until_aborted(struct sl_nccl_comm *c)
{
    while (!c->abort)
        usleep(NAP_US);
}

/* Everything, or as much as there is before an abort. A peer that is gone is as one that is slow. */
static bool carry(struct sl_nccl_comm *c, bool out, void *buffer, size_t bytes)
{
    uint8_t *at = buffer;
    while (bytes > 0 && !c->abort) {
        struct pollfd fd = {.fd = c->fd, .events = out ? POLLOUT : POLLIN};
        if (poll(&fd, 1, 5) <= 0)
            continue;
        ssize_t n = out ? send(c->fd, at, bytes, MSG_NOSIGNAL) : read(c->fd, at, bytes);
        if (n <= 0) {
            usleep(NAP_US);
            continue;
        }
        at += n;
        bytes -= (size_t)n;
    }
    return bytes == 0;
}

static void carry_out(struct sl_nccl_comm *c, const struct twin_item *item)
{
    uint64_t bytes = item->bytes;
    uint8_t turned = item->buffer[item->bytes / 2];
    if (struck(SHORT)) /* whoever counts wrongly */
        bytes--;
    if (!carry(c, true, &bytes, sizeof bytes))
        return;
    turned ^= struck(CORRUPT);
    size_t half = item->bytes / 2;
    if (carry(c, true, item->buffer, half) && carry(c, true, &turned, 1))
        carry(c, true, item->buffer + half + 1, item->bytes - half - 1);
}

static void take_in(struct sl_nccl_comm *c, const struct twin_item *item)
{
    uint64_t theirs = 0;
    if (!carry(c, false, &theirs, sizeof theirs))
        return;
    if (theirs != item->bytes) {
        n_mismatches++;
        sleep_until_aborted(c);
        return;
    }
    carry(c, false, item->buffer, item->bytes);
}

static void transfer(const struct twin_item *item)
{
    struct sl_nccl_comm *c = item->comm;
    pthread_mutex_lock(&c->running);
    if (!c->abort) {
        n_transfers++;
        struck(DIE_SEND);
        if (struck(STALL)) {
            sleep_until_aborted(c);
            usleep(100 * NAP_US); /* the device takes its time to see it */
        } else if (struck(ASYNC_ERROR)) {
            c->state = SL_NCCL_REMOTE_ERROR;
            sleep_until_aborted(c);
        } else if (item->kind == ITEM_SEND) {
            carry_out(c, item);
        } else {
            take_in(c, item);
        }
    }
    use_ended(c, item->buffer);
    pthread_mutex_unlock(&c->running);
    comm_unref(c);
}

/* ---- Streams and events ---- */

static void event_unref(struct twin_event *event)
{
    if (atomic_fetch_sub(&event->n_refs, 1) == 1)
        free(event);
}

static void run_item(struct twin_stream *s, const struct twin_item *item)
{
    if (item->kind == ITEM_SEND || item->kind == ITEM_RECEIVE) {
        transfer(item);
        return;
    }
    if (item->kind == ITEM_RECORD)
        item->event->passed++;
    while (item->kind == ITEM_AWAIT && item->event->passed == 0) {
        pthread_mutex_lock(&s->mutex);
        bool closed = s->closed;
        pthread_mutex_unlock(&s->mutex);
        if (closed)
            break;
        usleep(NAP_US);
    }
    event_unref(item->event);
}

static void *stream_main(void *argument)
{
    struct twin_stream *s = argument;
    pthread_setname_np(pthread_self(), "nccl-stream");
    for (;;) {
        pthread_mutex_lock(&s->mutex);
        while (s->head == s->tail && !s->closed)
            pthread_cond_wait(&s->wake, &s->mutex);
        bool more = s->head != s->tail;
        struct twin_item item = s->items[s->head % ITEMS];
        s->head += more;
        pthread_mutex_unlock(&s->mutex);
        if (!more)
            break;
        run_item(s, &item);
    }
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->wake);
    free(s);
    return NULL;
}

static void push(struct twin_stream *s, struct twin_item item)
{
    pthread_mutex_lock(&s->mutex);
    if (s->tail - s->head == ITEMS)
        abort();
    s->items[s->tail++ % ITEMS] = item;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
}

API struct twin_stream *nccl_twin_stream_open(void)
{
    struct twin_stream *s = calloc(1, sizeof *s);
    pthread_t thread;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->wake, NULL);
    if (pthread_create(&thread, NULL, stream_main, s) != 0)
        abort();
    pthread_detach(thread);
    return s;
}

API void nccl_twin_stream_close(struct twin_stream *s)
{
    pthread_mutex_lock(&s->mutex);
    s->closed = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
}

API struct twin_event *nccl_twin_event_open(void)
{
    struct twin_event *event = calloc(1, sizeof *event);
    event->n_refs = 1;
    return event;
}

API void nccl_twin_event_close(struct twin_event *event)
{
    event_unref(event);
}

API void nccl_twin_event_fire(struct twin_event *event)
{
    event->passed++;
}

API void nccl_twin_record(struct twin_stream *s, struct twin_event *event)
{
    event->asked++;
    event->n_refs++;
    push(s, (struct twin_item){.kind = ITEM_RECORD, .event = event});
}

API void nccl_twin_await(struct twin_stream *s, struct twin_event *event)
{
    event->n_refs++;
    push(s, (struct twin_item){.kind = ITEM_AWAIT, .event = event});
}

API bool nccl_twin_passed(struct twin_event *event)
{
    return event->passed == event->asked;
}

/* ---- Transfers in a stream of the twin of a GPU ---- */

/* Its memory is shut but for what its streams do, so bytes go by way of a buffer, as they do in NCCL: out of the device's memory when it
 * is the transfer's turn, and into it when they have come. */
struct device_transfer {
    struct twin_item item; /* with the buffer of the host's */
    uint8_t *on_device;
    bool begun;
    struct twin_event *over;
};

static void end_device_transfer(struct device_transfer *t)
{
    comm_unref(t->item.comm);
    nccl_twin_event_close(t->over);
    free(t->item.buffer);
    free(t);
}

static void copy_unless_aborted(struct sl_nccl_comm *c, bool wanted, void *to, const void *from, size_t bytes)
{
    pthread_mutex_lock(&c->running);
    if (wanted && !c->abort)
        memcpy(to, from, bytes);
    pthread_mutex_unlock(&c->running);
}

static bool device_step(void *argument)
{
    struct device_transfer *t = argument;
    struct sl_nccl_comm *c = t->item.comm;
    if (!t->begun) {
        t->begun = true;
        copy_unless_aborted(c, t->item.kind == ITEM_SEND, t->item.buffer, t->on_device, t->item.bytes);
        push(c->worker, t->item);
        nccl_twin_record(c->worker, t->over);
    }
    if (!nccl_twin_passed(t->over))
        return false;
    copy_unless_aborted(c, t->item.kind == ITEM_RECEIVE, t->on_device, t->item.buffer, t->item.bytes);
    use_ended(c, t->on_device);
    end_device_transfer(t);
    return true;
}

/* Where the real one finds the driver. */
static bool give_device(void *stream, const struct twin_item *item)
{
    bool (*give)(void *stream, bool (*step)(void *arg), void *arg) = NULL;
    void *found = dlsym(RTLD_DEFAULT, "sl_cu_twin_give");
    if (!found)
        return false;
    memcpy(&give, &found, sizeof give);
    struct device_transfer *t = calloc(1, sizeof *t);
    *t = (struct device_transfer){.item = *item, .on_device = item->buffer};
    t->item.buffer = malloc(item->bytes);
    t->over = nccl_twin_event_open();
    if (!item->comm->worker)
        item->comm->worker = nccl_twin_stream_open();
    item->comm->n_refs++; /* for the bytes' way through the device, beside that of the transfer */
    if (give(stream, device_step, t))
        return true;
    end_device_transfer(t);
    return false;
}

static void put(void *stream, const struct twin_item *item)
{
    if (!give_device(stream, item))
        push(stream, *item);
}

/* ---- Communicators ---- */

static void *meet_main(void *argument)
{
    struct sl_nccl_comm *c = argument;
    pthread_setname_np(pthread_self(), "nccl-meet");
    struck(DIE_INIT);
    if (struck(INIT_HANG))
        sleep_until_aborted(c);
    if (struck(INIT_FAIL)) {
        c->state = SL_NCCL_SYSTEM_ERROR;
        return NULL;
    }
    while (!c->abort && c->fd < 0) {
        if (c->rank == 0) {
            c->fd = accept4(c->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        } else {
            int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
            bool there = connect(fd, (struct sockaddr *)&c->at, c->at_bytes) == 0;
            if (there)
                c->fd = fd;
            else
                close(fd);
        }
        if (c->fd < 0)
            usleep(NAP_US);
    }
    uint8_t word = 1; /* both are there, and not one's listener alone */
    if (c->fd >= 0 && carry(c, true, &word, 1) && carry(c, false, &word, 1))
        c->state = SL_NCCL_SUCCESS;
    return NULL;
}

API int ncclGetVersion(int *version)
{
    const char *named = getenv("NCCL_TWIN_VERSION");
    *version = named ? atoi(named) : 22809;
    return SL_NCCL_SUCCESS;
}

API const char *ncclGetErrorString(int result)
{
    return result == SL_NCCL_SUCCESS        ? "no error"
           : result == SL_NCCL_IN_PROGRESS  ? "in progress"
           : result == SL_NCCL_REMOTE_ERROR ? "remote process exited or there was a network error"
           : result == SL_NCCL_SYSTEM_ERROR ? "unhandled system error"
                                            : "invalid usage";
}

API int ncclGetUniqueId(struct sl_nccl_id *id)
{
    static _Atomic int n;
    memset(id, 0, sizeof *id);
    if (struck(ID_FAIL))
        return SL_NCCL_SYSTEM_ERROR;
    snprintf(id->bytes, sizeof id->bytes, "nccl_twin.%d.%d", (int)getpid(), n++);
    return SL_NCCL_SUCCESS;
}

API int ncclCommInitRankConfig(struct sl_nccl_comm **out, int n_ranks, struct sl_nccl_id id, int rank,
                               struct sl_nccl_config *config)
{
    if (n_ranks != 2 || rank < 0 || rank > 1 || !config || config->magic != SL_NCCL_CONFIG_MAGIC ||
        config->size < sizeof *config || config->blocking != 0)
        return SL_NCCL_INVALID_ARGUMENT; /* a link never waits, and has two ends */
    struct sl_nccl_comm *c = calloc(1, sizeof *c);
    c->rank = rank;
    c->fd = c->listener = -1;
    c->n_refs = 1;
    c->state = SL_NCCL_IN_PROGRESS;
    c->at.sun_family = AF_UNIX; /* an abstract name: nothing is left behind */
    memcpy(c->at.sun_path + 1, id.bytes, sizeof c->at.sun_path - 2);
    c->at_bytes = (socklen_t)(sizeof c->at.sun_family + 1 + strlen(c->at.sun_path + 1));
    pthread_mutex_init(&c->running, NULL);
    if (rank == 0) {
        c->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (bind(c->listener, (struct sockaddr *)&c->at, c->at_bytes) != 0 || listen(c->listener, 1) != 0)
            c->state = SL_NCCL_SYSTEM_ERROR;
    }
    n_comms++;
    *out = c;
    if (pthread_create(&c->thread, NULL, meet_main, c) != 0)
        abort();
    return SL_NCCL_IN_PROGRESS;
}

API int ncclCommGetAsyncError(struct sl_nccl_comm *c, int *result)
{
    *result = c->state;
    if (*result != SL_NCCL_SUCCESS || !c->begun_on)
        return SL_NCCL_SUCCESS;
    if (--c->polls_left > 0) {
        *result = SL_NCCL_IN_PROGRESS;
        return SL_NCCL_SUCCESS;
    }
    put(c->begun_on, &c->begun);
    c->begun_on = NULL;
    return SL_NCCL_SUCCESS;
}

/* Every third call is over when it returns, the others are in progress for a while. */
static int begin(struct sl_nccl_comm *c, enum item_kind kind, void *buffer, size_t bytes, int type, int peer,
                 void *stream)
{
    if (c->state != SL_NCCL_SUCCESS || c->begun_on || c->abort) {
        n_mismatches++;
        return SL_NCCL_INVALID_USAGE;
    }
    if (type != SL_NCCL_UINT8 || peer != 1 - c->rank || !stream || bytes == 0)
        return SL_NCCL_INVALID_ARGUMENT;
    c->n_refs++;
    use(c, buffer, bytes);
    struct twin_item item = {.kind = kind, .comm = c, .buffer = buffer, .bytes = bytes};
    if (c->n_calls++ % 3 == 0) {
        put(stream, &item);
        return SL_NCCL_SUCCESS;
    }
    c->begun_on = stream;
    c->begun = item;
    c->polls_left = IN_PROGRESS_POLLS;
    return SL_NCCL_IN_PROGRESS;
}

API int ncclSend(const void *buffer, size_t bytes, int type, int peer, struct sl_nccl_comm *c, void *stream)
{
    return begin(c, ITEM_SEND, (void *)(uintptr_t)buffer, bytes, type, peer, stream);
}

API int ncclRecv(void *buffer, size_t bytes, int type, int peer, struct sl_nccl_comm *c, void *stream)
{
    return begin(c, ITEM_RECEIVE, buffer, bytes, type, peer, stream);
}

API int ncclCommAbort(struct sl_nccl_comm *c)
{
    struck(DIE_ABORT);
    while (struck(ABORT_HANG))
        pause();
    c->abort = true;
    pthread_join(c->thread, NULL);
    pthread_mutex_lock(&c->running); /* nothing runs any more, or ever will */
    pthread_mutex_unlock(&c->running);
    use_ended(c, NULL);
    if (c->begun_on)
        comm_unref(c);
    n_comms--;
    comm_unref(c);
    return SL_NCCL_SUCCESS;
}
