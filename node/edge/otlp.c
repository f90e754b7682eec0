/* Writes OTLP (otlp.h): protobuf by hand, for it is two dozen fields. The length of a message stands before it, and is not known
 * yet when it begins: four bytes are kept for it, which is a longer way to write a small number, and a legal one. */
#include "node/edge/otlp.h"
#include "base/rng.h"
#include <stdlib.h>
#include <string.h>

enum { KIND_INTERNAL = 1, KIND_SERVER = 2, STATUS_ERROR = 2, LENGTH_BYTES = 4 };
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2 };
enum {
    ROOT,
    QUEUE,
    PREFILL,
    KV_TAIL,
    DECODE,
    CHUNKS
}; /* numbers of the ids; the chunks' are those from CHUNKS on */

static void put(struct sl_otlp_bytes *out, const void *bytes, size_t n)
{
    if (out->failed)
        return;
    if (n > out->room - out->used) {
        size_t room = 2 * out->room > out->used + n ? 2 * out->room : out->used + n + 1024;
        uint8_t *data = realloc(out->data, room);
        if (!data) {
            out->failed = true;
            return;
        }
        out->data = data;
        out->room = room;
    }
    if (n)
        memcpy(out->data + out->used, bytes, n);
    out->used += n;
}

static void put_varint(struct sl_otlp_bytes *out, uint64_t value)
{
    uint8_t bytes[10];
    size_t n = 0;
    for (; value >= 0x80; value >>= 7)
        bytes[n++] = (uint8_t)(value | 0x80);
    bytes[n++] = (uint8_t)value;
    put(out, bytes, n);
}

static void put_tag(struct sl_otlp_bytes *out, uint32_t field, uint32_t wire)
{
    put_varint(out, field << 3 | wire);
}

static size_t begin(struct sl_otlp_bytes *out, uint32_t field)
{
    static const uint8_t none[LENGTH_BYTES];
    put_tag(out, field, WIRE_BYTES);
    put(out, none, sizeof none);
    return out->used;
}

static void end(struct sl_otlp_bytes *out, size_t begun)
{
    if (out->failed)
        return;
    size_t n = out->used - begun;
    out->failed = n >= (size_t)1 << (7 * LENGTH_BYTES);
    for (int i = 0; i < LENGTH_BYTES; i++)
        out->data[begun - LENGTH_BYTES + (size_t)i] =
            (uint8_t)((n >> (7 * i) & 0x7f) | (i + 1 < LENGTH_BYTES ? 0x80 : 0));
}

static void put_bytes(struct sl_otlp_bytes *out, uint32_t field, const void *bytes, size_t n)
{
    put_tag(out, field, WIRE_BYTES);
    put_varint(out, n);
    put(out, bytes, n);
}

static void put_text(struct sl_otlp_bytes *out, uint32_t field, const char *text)
{
    put_bytes(out, field, text, strlen(text));
}

static void put_fixed64(struct sl_otlp_bytes *out, uint32_t field, uint64_t value)
{
    put_tag(out, field, WIRE_FIXED64);
    put(out, &value, sizeof value); /* little-endian, as this machine */
}

/* KeyValue: key 1, AnyValue 2 with a string 1 or a number 3 */
static void put_attribute_text(struct sl_otlp_bytes *out, uint32_t field, const char *key, const char *text)
{
    size_t pair = begin(out, field);
    put_text(out, 1, key);
    size_t value = begin(out, 2);
    put_text(out, 1, text);
    end(out, value);
    end(out, pair);
}

static void put_attribute(struct sl_otlp_bytes *out, const char *key, uint64_t number)
{
    size_t pair = begin(out, 9);
    put_text(out, 1, key);
    size_t value = begin(out, 2);
    put_tag(out, 3, WIRE_VARINT);
    put_varint(out, number);
    end(out, value);
    end(out, pair);
}

static void put_id(struct sl_otlp_bytes *out, uint32_t field, const struct sl_otlp_request *r,
                   uint32_t number)
{
    uint64_t id = sl_rng_at(r->seed, number);
    id = id ? id : 1; /* of zeros is no id */
    put_bytes(out, field, &id, sizeof id);
}

struct interval {
    uint64_t from_us, to_us;
};

static uint64_t within(uint64_t at_us, struct interval all)
{
    return at_us < all.from_us ? all.from_us : at_us > all.to_us ? all.to_us : at_us;
}

static struct interval cut(uint64_t from_us, uint64_t to_us, struct interval all)
{
    uint64_t from = within(from_us, all), to = within(to_us, all);
    return (struct interval){from, to > from ? to : from};
}

/* All of a span but its attributes and its end. */
static size_t begin_span(struct sl_otlp_bytes *out, const struct sl_otlp_request *r, uint32_t number,
                         const char *name, uint32_t kind, struct interval when)
{
    size_t span = begin(out, 2);
    put_bytes(out, 1, r->context.trace_id, sizeof r->context.trace_id);
    put_id(out, 2, r, number);
    put_text(out, 5, name);
    put_tag(out, 6, WIRE_VARINT);
    put_varint(out, kind);
    put_fixed64(out, 7, (when.from_us + r->unix_us) * 1000u);
    put_fixed64(out, 8, (when.to_us + r->unix_us) * 1000u);
    return span;
}

static void put_part(struct sl_otlp_bytes *out, const struct sl_otlp_request *r, uint32_t number,
                     const char *name, struct interval when)
{
    size_t span = begin_span(out, r, number, name, KIND_INTERNAL, when);
    put_id(out, 4, r, ROOT);
    end(out, span);
}

static void put_root(struct sl_otlp_bytes *out, const struct sl_otlp_request *r, struct interval all)
{
    static const uint8_t none[sizeof r->context.parent_id];
    size_t span = begin_span(out, r, ROOT, "generate", KIND_SERVER, all);
    if (memcmp(r->context.parent_id, none, sizeof none) != 0)
        put_bytes(out, 4, r->context.parent_id, sizeof r->context.parent_id);
    put_attribute_text(out, 9, "sluice.request.id", r->id);
    put_attribute(out, "gen_ai.usage.input_tokens", r->prompt_tokens);
    put_attribute(out, "gen_ai.usage.output_tokens", r->output_tokens);
    put_attribute(out, "sluice.cached_tokens", r->cached_tokens);
    put_attribute(out, "sluice.stages", r->n_stages);
    if (r->n_left_out)
        put_attribute(out, "sluice.spans_left_out", r->n_left_out);
    put_attribute_text(out, 9, "sluice.finish", r->finish);
    if (r->status) {
        size_t status = begin(out, 15);
        put_text(out, 2, r->status);
        put_tag(out, 3, WIRE_VARINT);
        put_varint(out, STATUS_ERROR);
        end(out, status);
    }
    end(out, span);
}

/* What was computed again behind the first token, of an answer that was set back, is no part of its prefill. */
static void put_chunk(struct sl_otlp_bytes *out, const struct sl_otlp_request *r, uint32_t i,
                      struct interval all, struct interval prefill)
{
    const struct sl_span *s = &r->spans[i];
    bool first = prefill.to_us > prefill.from_us && s->begin_us < prefill.to_us;
    size_t span = begin_span(out, r, CHUNKS + i, "chunk", KIND_INTERNAL,
                             cut(s->recv_us, s->end_us, first ? prefill : all));
    put_id(out, 4, r, first ? PREFILL : ROOT);
    put_attribute(out, "sluice.stage", s->stage);
    put_attribute(out, "sluice.chunk", s->chunk);
    put_attribute(out, "sluice.position", s->pos);
    put_attribute(out, "sluice.tokens", s->tokens);
    put_attribute(out, "sluice.wait_us", s->begin_us > s->recv_us ? s->begin_us - s->recv_us : 0);
    if (s->predicted_us)
        put_attribute(out, "sluice.predicted_us", s->predicted_us);
    end(out, span);
}

/* When the last pages were whole at the decode worker, and when the last chunk before the first token had been run. */
static struct interval kv_tail(const struct sl_otlp_request *r)
{
    struct interval tail = {0, 0};
    for (uint32_t i = 0; i < r->n_spans; i++) {
        const struct sl_span *s = &r->spans[i];
        if (s->kv_acked_us > tail.to_us)
            tail.to_us = s->kv_acked_us;
        if (s->end_us > tail.from_us && (!r->first_us || s->begin_us < r->first_us))
            tail.from_us = s->end_us;
    }
    return tail;
}

static bool has_tail(const struct sl_otlp_request *r)
{
    struct interval tail = kv_tail(r);
    return tail.to_us > tail.from_us;
}

uint32_t sl_otlp_count(const struct sl_otlp_request *r)
{
    return 2u + (r->admit_us > 0) + (r->first_us > 0) + has_tail(r) + r->n_spans;
}

static void put_request(struct sl_otlp_bytes *out, const struct sl_otlp_request *r)
{
    struct interval all = {r->submit_us, r->done_us > r->submit_us ? r->done_us : r->submit_us};
    struct interval prefill = {0, 0}, tail = kv_tail(r);
    put_root(out, r, all);
    put_part(out, r, QUEUE, "queue", cut(r->submit_us, r->admit_us ? r->admit_us : r->done_us, all));
    if (r->admit_us) {
        prefill = cut(r->admit_us, r->first_us ? r->first_us : r->done_us, all);
        put_part(out, r, PREFILL, "prefill", prefill);
    }
    for (uint32_t i = 0; i < r->n_spans; i++)
        put_chunk(out, r, i, all, prefill);
    if (has_tail(r))
        put_part(out, r, KV_TAIL, "kv tail", cut(tail.from_us, tail.to_us, all));
    if (r->first_us)
        put_part(out, r, DECODE, "decode", cut(r->first_us, r->done_us, all));
}

uint32_t sl_otlp_pack(struct sl_otlp_bytes *out, const struct sl_otlp_resource *resource,
                      const struct sl_otlp_request *requests)
{
    uint32_t n = 0;
    size_t of_resource = begin(out, 1), about = begin(out, 1);
    put_attribute_text(out, 1, "service.name", "sluice");
    put_attribute_text(out, 1, "service.version", resource->version);
    put_attribute_text(out, 1, "service.instance.id", resource->instance);
    put_attribute_text(out, 1, "gen_ai.request.model", resource->model);
    end(out, about);
    size_t of_scope = begin(out, 2), scope = begin(out, 1);
    put_text(out, 1, "sluice");
    put_text(out, 2, resource->version);
    end(out, scope);
    for (const struct sl_otlp_request *r = requests; r; r = r->next) {
        put_request(out, r);
        n += sl_otlp_count(r);
    }
    end(out, of_scope);
    end(out, of_resource);
    return n;
}
