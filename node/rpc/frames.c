/* See frames.h. Two walks over frames: head by head, payloads passed through in whatever pieces they come. */
#include "node/rpc/frames.h"
#include "base/clock.h"
#include "base/rng.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { DATA = 0, HEADERS = 1, PRIORITY = 2, RESET = 3, SETTINGS = 4, PING = 6, WINDOW = 8, CONTINUATION = 9 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8 };
enum { VALUE_BYTES = 32, MAX_SETTINGS_BYTES = 256 };

const char *const sl_frames_ends[SL_FRAMES_ENDS] = {
    [SL_FRAMES_GO_ON] = "",
    [SL_FRAMES_GARBAGE] = "garbage",
    [SL_FRAMES_TOO_MANY_STREAMS] = "streams",
    [SL_FRAMES_TOO_MANY_RESETS] = "resets",
    [SL_FRAMES_TOO_MANY_CONTROLS] = "control_frames",
    [SL_FRAMES_TOO_MUCH_HEADER] = "headers",
    [SL_FRAMES_TOO_SMALL_FRAMES] = "small_frames",
    [SL_FRAMES_NO_MEMORY] = "memory",
};

static const uint8_t hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/* ---- the field ---- */

static char field[SL_FRAMES_NAME_BYTES];
static pthread_once_t field_once = PTHREAD_ONCE_INIT;

static void make_field(void)
{
    uint64_t random;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random)
        random = sl_rng_at(sl_clock_ns(), (uintptr_t)&random);
    snprintf(field, sizeof field, "sl-door-%08x", (unsigned)random);
}

const char *sl_frames_field(void)
{
    pthread_once(&field_once, make_field);
    return field;
}

bool sl_frames_read_ticket(const uint8_t *value, size_t bytes, struct sl_frames_ticket *ticket)
{
    uint64_t numbers[2] = {0, 0};
    if (bytes != VALUE_BYTES)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        uint8_t c = value[i];
        unsigned digit = c >= '0' && c <= '9' ? c - 48u : c >= 'a' && c <= 'f' ? c - 87u : 16u;
        if (digit == 16)
            return false;
        numbers[i / 16] = numbers[i / 16] << 4 | digit;
    }
    *ticket = (struct sl_frames_ticket){
        .secret = numbers[0], .connection = (uint32_t)(numbers[1] >> 32), .stream = (uint32_t)numbers[1]};
    return true;
}

/* ---- pieces ---- */

static void emit(struct sl_frames_out *out, const void *data, size_t bytes)
{
    memcpy(out->data + out->bytes, data, bytes);
    out->bytes += bytes;
}

static void put_head(uint8_t *head, size_t length, int type, int flags, uint32_t stream)
{
    head[0] = (uint8_t)(length >> 16), head[1] = (uint8_t)(length >> 8), head[2] = (uint8_t)length;
    head[3] = (uint8_t)type, head[4] = (uint8_t)flags;
    head[5] = (uint8_t)(stream >> 24), head[6] = (uint8_t)(stream >> 16);
    head[7] = (uint8_t)(stream >> 8), head[8] = (uint8_t)stream;
}

static void emit_field(struct sl_frames *f, struct sl_frames_out *out, uint32_t stream)
{
    uint8_t frame[9 + 3 + SL_FRAMES_NAME_BYTES + VALUE_BYTES];
    const char *name = sl_frames_field();
    size_t name_bytes = strlen(name), n = 9;
    char number[9];
    frame[n++] = 0; /* a literal without indexing, with a new name */
    frame[n++] = (uint8_t)name_bytes;
    memcpy(frame + n, name, name_bytes);
    n += name_bytes;
    frame[n++] = VALUE_BYTES;
    memcpy(frame + n, f->ticket, sizeof f->ticket);
    snprintf(number, sizeof number, "%08x", stream);
    memcpy(frame + n + sizeof f->ticket, number, 8);
    n += VALUE_BYTES;
    put_head(frame, n - 9, CONTINUATION, END_HEADERS, stream);
    emit(out, frame, n);
}

/* A leaky bucket: `emptied` is when it will have run out, and it is full when that is capacity / rate ahead. */
static bool one_more(uint64_t *emptied_ms, uint64_t now_ms, uint32_t capacity, uint32_t a_second)
{
    uint64_t now = now_ms * 1000, cost = 1000000u / a_second; /* in microseconds */
    if (*emptied_ms < now)
        *emptied_ms = now;
    *emptied_ms += cost;
    return *emptied_ms <= now + (uint64_t)capacity * cost;
}

static enum sl_frames_end count_reset(struct sl_frames *f, uint64_t now_ms)
{
    return one_more(&f->resets_ms, now_ms, f->acknowledged ? SL_FRAMES_RESETS : SL_FRAMES_EARLY_STREAMS,
                    SL_FRAMES_RESETS_A_SECOND)
               ? SL_FRAMES_GO_ON
               : SL_FRAMES_TOO_MANY_RESETS;
}

static enum sl_frames_end count_control(struct sl_frames *f, uint64_t now_ms)
{
    return one_more(&f->controls_ms, now_ms, SL_FRAMES_CONTROLS, SL_FRAMES_CONTROLS_A_SECOND)
               ? SL_FRAMES_GO_ON
               : SL_FRAMES_TOO_MANY_CONTROLS;
}

/* ---- streams ---- */

static uint32_t place_of(const struct sl_frames *f, uint32_t id)
{
    uint32_t at = f->n_streams; /* the newest is asked for most */
    while (at > 0 && f->streams[at - 1].id != id)
        at--;
    return at ? at - 1 : UINT32_MAX;
}

struct sl_frames_stream *sl_frames_find(const struct sl_frames *f, uint32_t id)
{
    uint32_t at = place_of(f, id);
    return at == UINT32_MAX ? NULL : &f->streams[at];
}

static enum sl_frames_end add_stream(struct sl_frames *f, uint32_t id, uint64_t now_ms)
{
    if (f->n_streams >= (f->acknowledged ? SL_FRAMES_MAX_STREAMS : SL_FRAMES_EARLY_STREAMS))
        return SL_FRAMES_TOO_MANY_STREAMS;
    if (f->n_streams == f->room) {
        uint32_t room = f->room ? f->room * 2 : 8;
        struct sl_frames_stream *more = realloc(f->streams, room * sizeof *more);
        if (!more)
            return SL_FRAMES_NO_MEMORY;
        f->streams = more;
        f->room = room;
    }
    f->streams[f->n_streams++] = (struct sl_frames_stream){.id = id, .begun_ms = now_ms, .data_ms = now_ms};
    f->n_unfinished++;
    f->last_id = id;
    return SL_FRAMES_GO_ON;
}

static void remove_stream(struct sl_frames *f, uint32_t id, const struct sl_frames_events *events)
{
    uint32_t at = place_of(f, id);
    if (at == UINT32_MAX)
        return;
    struct sl_frames_stream *stream = &f->streams[at];
    events->gone(events->context, stream);
    if (!stream->whole && !stream->many)
        f->n_unfinished--;
    uint32_t last = --f->n_streams;
    f->streams[at] = f->streams[last];
    if (f->data_at == at) /* the DATA frame that is being read belongs to nobody now */
        f->data_at = UINT32_MAX;
    else if (f->data_at == last)
        f->data_at = at;
    if (f->n_streams == 0) { /* an idle connection is cheap */
        free(f->streams);
        f->streams = NULL;
        f->room = 0;
    }
}

static void be_whole(struct sl_frames *f, struct sl_frames_stream *stream)
{
    if (!stream->whole && !stream->many)
        f->n_unfinished--;
    stream->whole = true;
}

void sl_frames_be_many(struct sl_frames *f, struct sl_frames_stream *stream)
{
    if (!stream->whole && !stream->many)
        f->n_unfinished--;
    stream->many = true;
}

static void know(struct sl_frames_stream *stream, uint32_t length, const struct sl_frames_events *events)
{
    if (length > stream->longest)
        stream->longest = length;
    if (stream->known && !stream->many)
        return;
    stream->length = length;
    stream->known = true;
    events->known(events->context, stream);
}

/* Bytes of messages: five that say a length, then so many. All are walked: whether a method takes more than one is not known
 * before its call is here. */
static void walk_message(struct sl_frames *f, struct sl_frames_stream *stream, const uint8_t *in,
                         size_t bytes, const struct sl_frames_events *events)
{
    while (bytes) {
        if (stream->prefix_have < 5) {
            if (stream->prefix_have)
                stream->next = stream->next << 8 | *in;
            in++, bytes--;
            if (++stream->prefix_have < 5)
                continue;
            stream->left = stream->next;
            know(stream, stream->left, events);
        } else {
            size_t n = bytes < stream->left ? bytes : stream->left;
            in += n, bytes -= n;
            stream->left -= (uint32_t)n;
        }
        if (stream->prefix_have == 5 && stream->left == 0) {
            be_whole(f, stream);
            stream->prefix_have = 0;
            if (stream->many)
                stream->small = 0;
        }
    }
}

/* The client's last word on a stream: what is missing of a message will not come, and the core may say so. */
static void end_of_client(struct sl_frames *f, uint32_t id, const struct sl_frames_events *events)
{
    struct sl_frames_stream *stream = sl_frames_find(f, id);
    if (!stream || stream->whole)
        return;
    be_whole(f, stream);
    if (!stream->known)
        know(stream, 0, events);
}

/* ---- from the client ---- */

static enum sl_frames_end headers_begin(struct sl_frames *f, struct sl_frames_walk *w, uint64_t now_ms)
{
    f->header_new = w->stream > f->last_id;
    if (w->stream % 2 == 0 || w->left > SL_FRAMES_HEADER_BYTES)
        return SL_FRAMES_GARBAGE;
    if (f->header_new) {
        enum sl_frames_end end = add_stream(f, w->stream, now_ms);
        if (end)
            return end;
    }
    f->header_stream = w->stream;
    f->header_bytes = w->left;
    f->continuations = 0;
    return SL_FRAMES_GO_ON;
}

static enum sl_frames_end data_begin(struct sl_frames *f, struct sl_frames_walk *w, uint64_t now_ms)
{
    f->data_at = place_of(f, w->stream);
    f->pad_known = !(w->flags & PADDED);
    f->pad = 0;
    if (w->stream == 0 || (!f->pad_known && w->left == 0))
        return SL_FRAMES_GARBAGE;
    /* A stream that we ended may have a window of frames on their way, no more. */
    if (f->data_at == UINT32_MAX || (w->left == 0 && !(w->flags & END_STREAM)))
        return count_control(f, now_ms);
    struct sl_frames_stream *stream = &f->streams[f->data_at];
    stream->data_ms = now_ms;
    if (w->left < SL_FRAMES_SMALL_BYTES && ++stream->small > SL_FRAMES_SMALL)
        return SL_FRAMES_TOO_SMALL_FRAMES;
    return SL_FRAMES_GO_ON;
}

/* A frame's head is here whole: what it means, whether it may be, and whether it goes on. */
static enum sl_frames_end up_head(struct sl_frames *f, uint64_t now_ms, const struct sl_frames_events *events)
{
    struct sl_frames_walk *w = &f->up;
    enum sl_frames_end end = SL_FRAMES_GO_ON;
    if (f->header_stream && (w->type != CONTINUATION || w->stream != f->header_stream))
        return SL_FRAMES_GARBAGE;
    switch (w->type) {
    case DATA:
        return data_begin(f, w, now_ms);
    case HEADERS:
        end = headers_begin(f, w, now_ms);
        break;
    case CONTINUATION:
        if (!f->header_stream)
            return SL_FRAMES_GARBAGE;
        f->header_bytes += w->left;
        if (f->header_bytes > SL_FRAMES_HEADER_BYTES || ++f->continuations > SL_FRAMES_CONTINUATIONS)
            return SL_FRAMES_TOO_MUCH_HEADER;
        break;
    case RESET:
        if (w->left != 4 || w->stream == 0)
            return SL_FRAMES_GARBAGE;
        remove_stream(f, w->stream, events);
        return count_reset(f, now_ms);
    case SETTINGS:
        if (w->flags & ACK && f->swallow_ack) {
            f->swallow_ack = false;
            f->acknowledged = f->may_acknowledge;
            w->swallow = true;
        }
        return count_control(f, now_ms);
    case WINDOW:
        return SL_FRAMES_GO_ON;
    case PING:
        if (f->pings_paid) {
            f->pings_paid--;
            return SL_FRAMES_GO_ON;
        }
        return count_control(f, now_ms);
    default:
        return count_control(f, now_ms);
    }
    if (end == SL_FRAMES_GO_ON && w->flags & END_HEADERS && f->header_new) {
        w->head[4] &= (uint8_t)~END_HEADERS; /* the field follows in a frame of its own */
        f->inject = true;
    }
    return end;
}

static void data_bytes(struct sl_frames *f, const uint8_t *in, size_t bytes,
                       const struct sl_frames_events *events)
{
    struct sl_frames_walk *w = &f->up;
    if (!f->pad_known && bytes) {
        f->pad = *in++;
        f->pad_known = true;
        bytes--;
        w->left--;
    }
    size_t data = w->left > f->pad ? w->left - f->pad : 0;
    size_t n = bytes < data ? bytes : data;
    w->left -= (uint32_t)bytes;
    if (f->data_at < f->n_streams)
        walk_message(f, &f->streams[f->data_at], in, n, events);
}

static void up_end(struct sl_frames *f, const struct sl_frames_events *events, struct sl_frames_out *out)
{
    struct sl_frames_walk *w = &f->up;
    if (f->inject)
        emit_field(f, out, w->stream);
    f->inject = false;
    if ((w->type == HEADERS || w->type == CONTINUATION) && w->flags & END_HEADERS)
        f->header_stream = 0;
    if ((w->type == HEADERS || w->type == DATA) && w->flags & END_STREAM)
        end_of_client(f, w->stream, events);
}

/* True once a head is whole. */
static bool take_head(struct sl_frames_walk *w, const uint8_t **in, size_t *bytes)
{
    size_t n = sizeof w->head - w->have;
    n = n < *bytes ? n : *bytes;
    memcpy(w->head + w->have, *in, n);
    w->have = (uint8_t)(w->have + n);
    *in += n, *bytes -= n;
    if (w->have < sizeof w->head)
        return false;
    const uint8_t *h = w->head;
    w->left = (uint32_t)h[0] << 16 | (uint32_t)h[1] << 8 | h[2];
    w->type = h[3], w->flags = h[4];
    w->stream = ((uint32_t)h[5] << 24 | (uint32_t)h[6] << 16 | (uint32_t)h[7] << 8 | h[8]) & 0x7fffffffu;
    w->swallow = false;
    w->taken = 0;
    return true;
}

/* ---- before there is a core ---- */

/* Whether the door can answer or keep a frame by itself. */
static bool is_ours(const struct sl_frames *f, const struct sl_frames_walk *w)
{
    bool fits = f->replay_bytes + 9u + w->left <= SL_FRAMES_REPLAY_BYTES;
    switch (w->type) {
    case SETTINGS:
        return fits && w->stream == 0 && w->left % 6 == 0 && w->left <= MAX_SETTINGS_BYTES &&
               (!(w->flags & ACK) || w->left == 0) && f->core_acks < UINT8_MAX;
    case PING:
        return fits && w->stream == 0 && w->left == 8;
    case WINDOW:
        return fits && w->stream == 0 && w->left == 4;
    default:
        return false;
    }
}

static void greet(struct sl_frames *f, struct sl_frames_out *answer)
{
    uint8_t frame[9 + 6] = {[10] = 3, [13] = SL_FRAMES_STREAMS >> 8, [14] = SL_FRAMES_STREAMS & 255};
    put_head(frame, 6, SETTINGS, 0, 0); /* 3: MAX_CONCURRENT_STREAMS */
    emit(answer, frame, sizeof frame);
    f->swallow_ack = true;
    f->settled = true;
}

/* A frame of ours lies whole at the end of the replay. */
static void answer_ours(struct sl_frames *f, struct sl_frames_out *answer)
{
    struct sl_frames_walk *w = &f->up;
    uint8_t head[9];
    bool keep = false;
    if (w->type == SETTINGS && !(w->flags & ACK)) {
        if (!f->settled)
            greet(f, answer);
        put_head(head, 0, SETTINGS, ACK, 0);
        emit(answer, head, sizeof head);
        f->core_acks++;
        keep = true;
    } else if (w->type == SETTINGS) {
        f->swallow_ack = false;
        f->acknowledged = f->may_acknowledge;
    } else if (w->type == PING && !(w->flags & ACK)) {
        put_head(head, 8, PING, ACK, 0);
        emit(answer, head, sizeof head);
        emit(answer, f->replay + f->replay_bytes - 8, 8);
    } else if (w->type == WINDOW) {
        keep = true;
    }
    if (!keep)
        f->replay_bytes = (uint16_t)(f->replay_bytes - 9 - w->taken);
}

static void keep_bytes(struct sl_frames *f, const void *in, size_t bytes)
{
    memcpy(f->replay + f->replay_bytes, in, bytes);
    f->replay_bytes = (uint16_t)(f->replay_bytes + bytes);
}

/* Consumes bytes until they are gone or the core is wanted; then the head that wanted it is unread in up.head. */
static enum sl_frames_end walk_alone(struct sl_frames *f, const uint8_t **in, size_t *bytes, uint64_t now_ms,
                                     struct sl_frames_out *answer)
{
    struct sl_frames_walk *w = &f->up;
    while (*bytes && !f->live) {
        if (w->have < sizeof w->head) {
            if (!take_head(w, in, bytes))
                return SL_FRAMES_GO_ON;
            if (!f->settled && (w->type != SETTINGS || w->flags & ACK || !is_ours(f, w)))
                return SL_FRAMES_GARBAGE; /* the first frame is SETTINGS, and not a book */
            if (!is_ours(f, w)) {
                f->live = true;
                return SL_FRAMES_GO_ON;
            }
            if (w->type != WINDOW && count_control(f, now_ms))
                return SL_FRAMES_TOO_MANY_CONTROLS;
            keep_bytes(f, w->head, sizeof w->head);
        }
        size_t n = *bytes < w->left ? *bytes : w->left;
        keep_bytes(f, *in, n);
        *in += n, *bytes -= n;
        w->left -= (uint32_t)n;
        w->taken += (uint32_t)n;
        if (w->left == 0) {
            answer_ours(f, answer);
            w->have = 0;
        }
    }
    return SL_FRAMES_GO_ON;
}

/* ---- the whole ---- */

static void up_payload(struct sl_frames *f, const uint8_t *in, size_t bytes,
                       const struct sl_frames_events *events, struct sl_frames_out *out)
{
    struct sl_frames_walk *w = &f->up;
    if (!w->swallow)
        emit(out, in, bytes);
    if (w->type == DATA)
        data_bytes(f, in, bytes, events);
    else
        w->left -= (uint32_t)bytes;
}

enum sl_frames_end sl_frames_up(struct sl_frames *f, const uint8_t *in, size_t bytes, uint64_t now_ms,
                                const struct sl_frames_events *events, struct sl_frames_out *to_core,
                                struct sl_frames_out *answer)
{
    struct sl_frames_walk *w = &f->up;
    bool unread = false;
    f->may_acknowledge = f->settled;
    if (!f->live) {
        enum sl_frames_end end = walk_alone(f, &in, &bytes, now_ms, answer);
        if (end || !f->live)
            return end;
        unread = true; /* walk_alone took the head and found that it is the core's */
    }
    while (bytes || unread) {
        if (w->have < sizeof w->head || unread) {
            if (!unread && !take_head(w, &in, &bytes))
                return SL_FRAMES_GO_ON;
            unread = false;
            enum sl_frames_end end = up_head(f, now_ms, events);
            if (end)
                return end;
            if (!w->swallow)
                emit(to_core, w->head, sizeof w->head);
        }
        size_t n = bytes < w->left ? bytes : w->left;
        if (n)
            up_payload(f, in, n, events, to_core);
        in += n, bytes -= n;
        if (w->left == 0) {
            up_end(f, events, to_core);
            w->have = 0;
        }
    }
    return SL_FRAMES_GO_ON;
}

static enum sl_frames_end down_end(struct sl_frames *f, uint64_t now_ms,
                                   const struct sl_frames_events *events, const uint8_t code[4])
{
    struct sl_frames_walk *w = &f->down;
    bool ends = (w->type == DATA || w->type == HEADERS) && w->flags & END_STREAM;
    if (w->type == RESET || ends)
        remove_stream(f, w->stream, events);
    /* A client can make the core reset its streams by breaking their rules: that counts as if it had. */
    if (w->type == RESET && (code[0] | code[1] | code[2] | code[3]) != 0)
        return count_reset(f, now_ms);
    return SL_FRAMES_GO_ON;
}

static void answer_moves(struct sl_frames *f, uint32_t id, uint64_t now_ms)
{
    f->pings_paid += f->pings_paid < SL_FRAMES_PINGS_PAID;
    struct sl_frames_stream *stream = sl_frames_find(f, id);
    if (stream)
        stream->answer_ms = now_ms;
}

enum sl_frames_end sl_frames_down(struct sl_frames *f, const uint8_t *in, size_t bytes, uint64_t now_ms,
                                  const struct sl_frames_events *events, struct sl_frames_out *to_client)
{
    struct sl_frames_walk *w = &f->down;
    while (bytes) {
        if (w->have < sizeof w->head) {
            if (!take_head(w, &in, &bytes))
                return SL_FRAMES_GO_ON;
            if (w->type == SETTINGS && w->flags & ACK && f->core_acks) {
                f->core_acks--;
                w->swallow = true;
            }
            if (w->type == DATA && w->left)
                answer_moves(f, w->stream, now_ms);
            if (!w->swallow)
                emit(to_client, w->head, sizeof w->head);
        }
        size_t n = bytes < w->left ? bytes : w->left;
        if (n && !w->swallow)
            emit(to_client, in, n);
        if (w->type == RESET) /* its head is out: the room now keeps the code */
            for (size_t i = 0; i < n && w->taken + i < 4; i++)
                w->head[w->taken + i] = in[i];
        in += n, bytes -= n;
        w->left -= (uint32_t)n;
        w->taken += (uint32_t)n;
        if (w->left == 0) {
            w->have = 0;
            enum sl_frames_end end = down_end(f, now_ms, events, w->head);
            if (end)
                return end;
        }
    }
    return SL_FRAMES_GO_ON;
}

void sl_frames_init(struct sl_frames *f, uint32_t connection, uint64_t secret)
{
    char text[25];
    memset(f, 0, sizeof *f);
    snprintf(text, sizeof text, "%016llx%08x", (unsigned long long)secret, connection);
    memcpy(f->ticket, text, sizeof f->ticket);
    f->data_at = UINT32_MAX;
}

void sl_frames_fini(struct sl_frames *f)
{
    free(f->streams);
    f->streams = NULL;
    f->n_streams = f->room = 0;
}

bool sl_frames_hello(const uint8_t *in, size_t bytes)
{
    size_t n = bytes < SL_FRAMES_PREFACE_BYTES ? bytes : SL_FRAMES_PREFACE_BYTES;
    if (memcmp(in, hello, n) != 0)
        return false;
    return bytes <= SL_FRAMES_PREFACE_BYTES + 3 || in[SL_FRAMES_PREFACE_BYTES + 3] == SETTINGS;
}

size_t sl_frames_goaway(uint8_t *out, size_t room, uint32_t last_id, uint32_t code, const char *why)
{
    size_t n = strlen(why);
    if (room < 17 + n)
        n = room - 17;
    put_head(out, 8 + n, 7, 0, 0);
    for (int i = 0; i < 4; i++) {
        out[9 + i] = (uint8_t)(last_id >> (24 - 8 * i));
        out[13 + i] = (uint8_t)(code >> (24 - 8 * i));
    }
    memcpy(out + 17, why, n);
    return 17 + n;
}
