/* Room for messages: who may send how much, who waits, and who is late (door.h). */
#include "node/rpc/door_impl.h"

static const uint32_t pool_bytes[SL_DOOR_POOLS] = SL_DOOR_POOL_BYTES;
static const uint32_t connection_bytes[SL_DOOR_POOLS] = SL_DOOR_CONNECTION_BYTES;

static int pool_of(uint32_t length)
{
    return length > SL_DOOR_SMALL_MESSAGE;
}

static bool connection_has_room(const struct sl_door_connection *c, uint32_t length)
{
    int pool = pool_of(length);
    return c->reserved[pool] + length <= connection_bytes[pool];
}

static bool node_has_room(const struct sl_door *door, uint32_t length)
{
    int pool = pool_of(length);
    return door->reserved[pool] + length <= pool_bytes[pool];
}

static void reserve(struct sl_door *door, struct sl_door_connection *c, struct sl_frames_stream *stream)
{
    stream->reserved = stream->length;
    door->reserved[pool_of(stream->length)] += stream->length;
    c->reserved[pool_of(stream->length)] += stream->length;
}

static void release(struct sl_door *door, struct sl_door_connection *c, struct sl_frames_stream *stream)
{
    if (!stream->reserved)
        return;
    door->reserved[pool_of(stream->reserved)] -= stream->reserved;
    c->reserved[pool_of(stream->reserved)] -= stream->reserved;
    stream->reserved = 0;
}

static void stop_waiting(struct sl_door *door, struct sl_frames_stream *stream)
{
    if (stream->waiting)
        door->n_waiting[pool_of(stream->length)]--;
    stream->waiting = false;
}

/* The call and the length are known. */
static enum sl_door_verdict decide(struct sl_door *door, struct sl_frames_stream *stream)
{
    uint32_t most = stream->many ? SL_FRAMES_WINDOW - 5 : door->config.max_message_bytes;
    if (stream->told || (stream->granted && !stream->many))
        return SL_DOOR_WAIT;
    if ((stream->many ? stream->longest : stream->length) > most) {
        stream->told = true;
        door->n_messages_long++;
        return SL_DOOR_TOO_LONG;
    }
    if (stream->length > SL_FRAMES_WINDOW - 5) {
        stream->waiting = true;
        stream->begun_ms = door->now_ms;
        door->n_waiting[pool_of(stream->length)]++;
        sl_door_make_room(door); /* perhaps at once: then it is told */
        return SL_DOOR_WAIT;
    }
    stream->granted = true;
    stream->begun_ms = door->now_ms;
    return SL_DOOR_GRANTED;
}

static void tell(struct sl_door *door, struct sl_frames_stream *stream, enum sl_door_verdict verdict)
{
    if (verdict != SL_DOOR_WAIT)
        door->config.verdict(door->config.context, stream->call, verdict, stream->length);
}

void sl_door_on_known(void *context, struct sl_frames_stream *stream)
{
    struct sl_door_scene *scene = context;
    if (!stream->call)
        return;
    if (stream->many && stream->longest <= SL_FRAMES_WINDOW - 5)
        return; /* it receives without being told */
    tell(scene->door, stream, decide(scene->door, stream));
}

void sl_door_on_gone(void *context, struct sl_frames_stream *stream)
{
    struct sl_door_scene *scene = context;
    stop_waiting(scene->door, stream);
    release(scene->door, scene->connection, stream);
}

void sl_door_count_unfinished(struct sl_door *door, struct sl_door_connection *c)
{
    uint32_t now = c->state >= SL_DOOR_LEAVING ? 0 : c->frames.n_unfinished;
    if (now && !c->unfinished)
        c->unfinished_ms = door->now_ms;
    door->n_unfinished += now - c->unfinished;
    c->unfinished = now;
}

static bool is_better(int pool, const struct sl_door_connection *c, const struct sl_frames_stream *stream,
                      const struct sl_door_connection *than, const struct sl_frames_stream *other)
{
    if (c->reserved[pool] != than->reserved[pool])
        return c->reserved[pool] < than->reserved[pool];
    if (stream->length != other->length)
        return stream->length < other->length;
    return stream->begun_ms < other->begun_ms;
}

/* Of those that wait for a pool, the one whose connection holds least; of these the shortest, then the one that waits longest. */
static struct sl_frames_stream *best_waiting(struct sl_door *door, int pool, struct sl_door_connection **of)
{
    struct sl_frames_stream *best = NULL;
    for (uint32_t i = 0; i < door->top; i++) {
        struct sl_door_connection *c = door->connections[i];
        for (uint32_t k = 0; c && k < c->frames.n_streams; k++) {
            struct sl_frames_stream *stream = &c->frames.streams[k];
            if (!stream->waiting || pool_of(stream->length) != pool ||
                !connection_has_room(c, stream->length))
                continue;
            if (!best || is_better(pool, c, stream, *of, best)) {
                best = stream;
                *of = c;
            }
        }
    }
    return best;
}

/* Room is kept for the best, however large it is: smaller ones that came later would keep it away for ever. */
void sl_door_make_room(struct sl_door *door)
{
    for (int pool = 0; pool < SL_DOOR_POOLS; pool++)
        while (door->n_waiting[pool]) {
            struct sl_door_connection *c = NULL;
            struct sl_frames_stream *best = best_waiting(door, pool, &c);
            if (!best || !node_has_room(door, best->length))
                break;
            stop_waiting(door, best);
            reserve(door, c, best);
            best->granted = true;
            best->begun_ms = best->data_ms = door->now_ms;
            tell(door, best, SL_DOOR_GRANTED);
        }
}

static bool is_late(const struct sl_door *door, const struct sl_frames_stream *stream)
{
    uint64_t age = door->now_ms - stream->begun_ms, silence = door->now_ms - stream->data_ms;
    uint64_t length = stream->known ? stream->length : 0, have = length - stream->left;
    if (silence > SL_DOOR_STALL_MS || age > SL_DOOR_MESSAGE_MS + length * 1000 / SL_DOOR_BYTES_A_SECOND)
        return true;
    return stream->reserved && door->n_waiting[pool_of(stream->reserved)] && age > SL_DOOR_HURRY_MS &&
           (silence > SL_DOOR_HURRY_MS ||
            have < (age - SL_DOOR_HURRY_MS) * SL_DOOR_HURRY_BYTES_A_SECOND / 1000);
}

bool sl_door_look_for_late(struct sl_door *door, struct sl_door_connection *c)
{
    for (uint32_t i = 0; c->frames.n_unfinished && i < c->frames.n_streams; i++) {
        struct sl_frames_stream *stream = &c->frames.streams[i];
        if (stream->whole || stream->many || stream->told)
            continue;
        if (!stream->call) {
            if (door->now_ms - stream->begun_ms > SL_DOOR_MESSAGE_MS)
                return false;
            continue;
        }
        bool busy = stream->waiting && door->now_ms - stream->begun_ms > SL_DOOR_ROOM_MS;
        if (!busy && (stream->waiting || !is_late(door, stream)))
            continue;
        stream->told = true;
        stop_waiting(door, stream);
        *(busy ? &door->n_messages_busy : &door->n_messages_late) += 1;
        tell(door, stream, busy ? SL_DOOR_BUSY : SL_DOOR_LATE);
    }
    return true;
}

/* A client that takes nothing of an answer would keep the call's place for ever: its window is its own affair, so the core waits. */
void sl_door_look_for_unread(struct sl_door *door, struct sl_door_connection *c)
{
    for (uint32_t i = 0; i < c->frames.n_streams; i++) {
        struct sl_frames_stream *stream = &c->frames.streams[i];
        if (!stream->call || stream->unread ||
            door->config.patient(door->config.context, stream->call, stream->answer_ms, door->now_ms))
            continue;
        stream->unread = true;
        door->n_unread++;
        tell(door, stream, SL_DOOR_UNREAD);
    }
}

/* ---- for the calls, on any thread ---- */

static struct sl_frames_stream *find(struct sl_door *door, const struct sl_frames_ticket *ticket,
                                     struct sl_door_connection **of)
{
    struct sl_door_connection *c =
        ticket->connection < door->most ? door->connections[ticket->connection] : NULL;
    if (!c || c->secret != ticket->secret || c->state >= SL_DOOR_LEAVING)
        return NULL;
    *of = c;
    return sl_frames_find(&c->frames, ticket->stream);
}

enum sl_door_verdict sl_door_claim(struct sl_door *door, const struct sl_frames_ticket *ticket, void *call,
                                   bool many, uint32_t *length)
{
    struct sl_door_connection *c;
    enum sl_door_verdict verdict = SL_DOOR_GONE;
    pthread_mutex_lock(&door->lock);
    struct sl_frames_stream *stream = find(door, ticket, &c);
    if (stream && !stream->call) { /* a stream is one call's: who names another's is not it */
        stream->call = call;
        if (many) {
            sl_frames_be_many(&c->frames, stream);
            sl_door_count_unfinished(door, c);
        }
        verdict = many || stream->known ? decide(door, stream) : SL_DOOR_WAIT;
        *length = stream->length;
    }
    pthread_mutex_unlock(&door->lock);
    return verdict;
}

bool sl_door_caller(struct sl_door *door, const struct sl_frames_ticket *ticket, struct sl_caller *caller)
{
    struct sl_door_connection *c;
    pthread_mutex_lock(&door->lock);
    bool there = find(door, ticket, &c) != NULL;
    if (there)
        *caller = c->caller;
    pthread_mutex_unlock(&door->lock);
    return there;
}

void sl_door_delivered(struct sl_door *door, const struct sl_frames_ticket *ticket)
{
    struct sl_door_connection *c;
    pthread_mutex_lock(&door->lock);
    struct sl_frames_stream *stream = find(door, ticket, &c);
    if (stream && stream->reserved) {
        release(door, c, stream);
        sl_door_make_room(door);
    }
    pthread_mutex_unlock(&door->lock);
}

void sl_door_forget(struct sl_door *door, const struct sl_frames_ticket *ticket)
{
    struct sl_door_connection *c;
    pthread_mutex_lock(&door->lock);
    struct sl_frames_stream *stream = find(door, ticket, &c);
    if (stream) {
        stream->call = NULL;
        stop_waiting(door, stream);
        release(door, c, stream);
        sl_door_make_room(door);
    }
    pthread_mutex_unlock(&door->lock);
}
