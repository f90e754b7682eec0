/* Counts of counts.h: added one by one, packed from sorted ids, and checked number by number as they are read. */
#include "pipeline/record/counts.h"
#include <assert.h>

void sl_counts_add(struct sl_counts *c, uint32_t id)
{
    uint32_t i = 0;
    while (i < c->n && c->ids[i] != id)
        i++;
    if (i == c->n) {
        assert(c->n < c->room);
        c->ids[c->n] = id;
        c->counts[c->n++] = 0;
    }
    c->counts[i]++;
}

/* Two bytes a distinct id; one more for each distance of 128 and each count of 128 at least, of which there are not more than
 * vocab / 128 and n_ids / 128, and again for each of 128 * 128, ... */
size_t sl_counts_max_bytes(uint32_t n_ids, uint32_t vocab)
{
    size_t distinct = n_ids < vocab ? n_ids : vocab;
    return 2 * distinct + vocab / 127 + n_ids / 127 + 8;
}

static uint8_t *put(uint8_t *out, uint32_t value)
{
    for (; value >= 128; value >>= 7)
        *out++ = (uint8_t)(value | 128);
    *out++ = (uint8_t)value;
    return out;
}

size_t sl_counts_pack(uint8_t *out, const uint32_t *ids, uint32_t n, uint32_t vocab)
{
    const uint8_t *begin = out;
    uint32_t next = 0; /* the lowest id that may follow */
    for (uint32_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && ids[end] == ids[i];)
            end++;
        assert(ids[i] >= next && ids[i] < vocab);
        out = put(put(out, ids[i] - next), end - i);
        next = ids[i] + 1;
    }
    return (size_t)(out - begin);
}

/* false: it does not end in time, or is longer than it need be. */
static bool get(const uint8_t **at, const uint8_t *end, uint32_t *value)
{
    uint64_t sum = 0;
    for (uint32_t shift = 0; *at < end && shift < 35; shift += 7) {
        uint8_t byte = *(*at)++;
        sum |= (uint64_t)(byte & 127) << shift;
        if (byte & 128)
            continue;
        *value = (uint32_t)sum;
        return sum <= UINT32_MAX && (byte != 0 || shift == 0);
    }
    return false;
}

const char *sl_counts_read(struct sl_counts *c, const uint8_t *bytes, size_t n_bytes, uint32_t vocab,
                           uint32_t *n_ids)
{
    const uint8_t *at = bytes, *end = bytes + n_bytes;
    uint64_t next = 0, sum = 0;
    while (at < end) {
        uint32_t distance, count;
        if (!get(&at, end, &distance) || !get(&at, end, &count))
            return "counts: a number of it is malformed";
        next += distance;
        sum += count;
        if (next >= vocab || count == 0 || sum > UINT32_MAX)
            return "counts: an id or a count of it is out of range";
        if (c) {
            if (c->n == c->room)
                return "counts: it has more ids than there is room for";
            c->ids[c->n] = (uint32_t)next;
            c->counts[c->n++] = count;
        }
        next++;
    }
    *n_ids = (uint32_t)sum;
    return NULL;
}
