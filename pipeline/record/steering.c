/* Steering as bytes (steering.h). There is one way to write each, so that what was read can be compared and sizes are bounded. */
#include "pipeline/record/steering.h"
#include <assert.h>
#include <math.h>

enum { HEAD_BYTES = 12, BIAS_BYTES = 8 };

static uint32_t bitmap_bytes(uint32_t vocab)
{
    return (vocab + 31) / 32 * 4;
}

/* Side by side, in pairs, fours and bytes. (The compiler's own is a call where the processor may lack it, and who decides calls
 * nothing that is not looked at.) */
static uint32_t bits_of(uint32_t x)
{
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0fu;
    return x * 0x01010101u >> 24;
}

static bool wants_bitmap(uint32_t n_ids, uint32_t vocab)
{
    return n_ids >= (vocab + 31) / 32;
}

static uint32_t ids_bytes(uint32_t n_ids, uint32_t vocab)
{
    return wants_bitmap(n_ids, vocab) ? bitmap_bytes(vocab) : 4 * n_ids;
}

uint32_t sl_steering_max_bytes(uint32_t vocab)
{
    return HEAD_BYTES + SL_MAX_LOGIT_BIAS * BIAS_BYTES + bitmap_bytes(vocab);
}

uint32_t sl_steering_bytes(uint32_t n_bias, uint32_t n_ids, uint32_t vocab)
{
    if (n_bias == 0 && n_ids == 0)
        return 0;
    return HEAD_BYTES + n_bias * BIAS_BYTES + (n_ids ? ids_bytes(n_ids, vocab) : 0);
}

void sl_steering_pack(uint8_t *out, const struct sl_bias *bias, uint32_t n_bias, const uint64_t *seen,
                      uint32_t n_ids, uint32_t vocab)
{
    uint32_t bytes = sl_steering_bytes(n_bias, n_ids, vocab);
    struct sl_cursor c = sl_cursor_over(out, bytes);
    bool bitmap = n_ids && wants_bitmap(n_ids, vocab);
    if (bytes == 0)
        return;
    sl_cursor_put32(&c, n_bias);
    sl_cursor_put32(&c, n_ids);
    sl_cursor_put32(&c, bitmap);
    for (uint32_t i = 0; i < n_bias; i++) {
        sl_cursor_put32(&c, bias[i].id);
        sl_cursor_put(&c, &bias[i].value, 4);
    }
    for (uint32_t w = 0; bitmap && w < bitmap_bytes(vocab) / 4; w++)
        sl_cursor_put32(&c, (uint32_t)(seen[w / 2] >> (w % 2 * 32)));
    for (uint32_t w = 0; n_ids && !bitmap && w < sl_id_words(vocab); w++)
        for (uint64_t left = seen[w]; left; left &= left - 1)
            sl_cursor_put32(&c, w * 64 + (uint32_t)__builtin_ctzll(left));
    assert(!c.bad && c.at == c.end);
}

static const char *check_bias(const struct sl_steering *s, uint32_t vocab)
{
    for (uint32_t i = 0; i < s->n_bias; i++) {
        struct sl_bias b = sl_steering_bias(s, i);
        if (b.id >= vocab || (i > 0 && b.id <= sl_steering_bias(s, i - 1).id))
            return "ids of a logit bias";
        if (!(fabsf(b.value) <= SL_LOGIT_BIAS_LIMIT))
            return "value of a logit bias";
    }
    return NULL;
}

static const char *check_ids(const struct sl_steering *s, uint32_t vocab)
{
    uint32_t n_set = 0;
    for (uint32_t w = 0; s->is_bitmap && w < bitmap_bytes(vocab) / 4; w++) {
        uint32_t word = sl_get32(s->ids + 4 * (size_t)w);
        n_set += bits_of(word);
        if (w == vocab / 32 && word >> vocab % 32)
            return "ids of a prompt";
    }
    for (uint32_t i = 0; !s->is_bitmap && i < s->n_ids; i++) {
        uint32_t id = sl_get32(s->ids + 4 * (size_t)i);
        if (id >= vocab || (i > 0 && id <= sl_get32(s->ids + 4 * (size_t)(i - 1))))
            return "ids of a prompt";
    }
    return s->is_bitmap && n_set != s->n_ids ? "number of ids of a prompt" : NULL;
}

const char *sl_steering_read(struct sl_steering *s, const uint8_t *bytes, uint32_t n_bytes, uint32_t vocab)
{
    *s = (struct sl_steering){0};
    if (n_bytes == 0)
        return NULL;
    struct sl_cursor c = sl_cursor_over((uint8_t *)(uintptr_t)bytes, n_bytes);
    uint32_t n_bias = sl_cursor_get32(&c), n_ids = sl_cursor_get32(&c), is_bitmap = sl_cursor_get32(&c);
    if (c.bad || n_bias > SL_MAX_LOGIT_BIAS || n_ids > vocab ||
        is_bitmap != (n_ids && wants_bitmap(n_ids, vocab)) ||
        n_bytes != sl_steering_bytes(n_bias, n_ids, vocab))
        return "size of a steering";
    s->n_bias = n_bias;
    s->n_ids = n_ids;
    s->is_bitmap = is_bitmap;
    s->bias = bytes + HEAD_BYTES;
    s->ids = s->bias + n_bias * BIAS_BYTES;
    const char *bad = check_bias(s, vocab);
    return bad ? bad : check_ids(s, vocab);
}

struct sl_bias sl_steering_bias(const struct sl_steering *s, uint32_t i)
{
    struct sl_bias bias = {.id = sl_get32(s->bias + (size_t)i * BIAS_BYTES)};
    uint32_t bits = sl_get32(s->bias + (size_t)i * BIAS_BYTES + 4);
    memcpy(&bias.value, &bits, sizeof bits);
    return bias;
}

static bool mark(uint64_t *seen, uint32_t id)
{
    bool is_new = !sl_id_is_in(seen, id);
    seen[id / 64] |= 1ull << id % 64;
    return is_new;
}

uint32_t sl_ids_mark(uint64_t *seen, const uint32_t *ids, uint32_t n)
{
    uint32_t n_new = 0;
    for (uint32_t i = 0; i < n; i++)
        n_new += mark(seen, ids[i]);
    return n_new;
}

void sl_steering_mark(const struct sl_steering *s, uint64_t *seen)
{
    for (uint32_t i = 0; !s->is_bitmap && i < s->n_ids; i++)
        mark(seen, sl_get32(s->ids + 4 * (size_t)i));
    /* as many words as there are bits for the last id that is set, which check_ids has bounded */
    for (uint32_t w = 0, left = s->n_ids; s->is_bitmap && left > 0; w++) {
        uint32_t word = sl_get32(s->ids + 4 * (size_t)w);
        seen[w / 2] |= (uint64_t)word << (w % 2 * 32);
        left -= bits_of(word);
    }
}
