/* Little-endian integers at any alignment: wire headers and records are read and written with these, never
 * by copying a struct. Plus a bounded reader/writer pair for records of several fields. */
#ifndef SL_BASE_BYTES_H
#define SL_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void sl_put16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}
static inline void sl_put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}
static inline void sl_put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}
static inline uint16_t sl_get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static inline uint32_t sl_get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static inline uint64_t sl_get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "sluice runs on little-endian machines");

/* A cursor over a byte range. Reading or writing past the end sets `bad` and yields zeros: check once. */
struct sl_cursor {
    uint8_t *at, *end;
    bool bad;
};
static inline struct sl_cursor sl_cursor_over(void *data, size_t bytes)
{
    return (struct sl_cursor){data, (uint8_t *)data + bytes, false};
}
static inline void *sl_cursor_skip(struct sl_cursor *c, size_t bytes) /* NULL past the end */
{
    if (c->bad || (size_t)(c->end - c->at) < bytes) {
        c->bad = true;
        return NULL;
    }
    void *p = c->at;
    c->at += bytes;
    return p;
}
static inline void sl_cursor_put(struct sl_cursor *c, const void *data, size_t bytes)
{
    void *p = sl_cursor_skip(c, bytes);
    if (p && bytes)
        memcpy(p, data, bytes);
}
static inline void sl_cursor_get(struct sl_cursor *c, void *data, size_t bytes)
{
    const void *p = sl_cursor_skip(c, bytes);
    if (p && bytes)
        memcpy(data, p, bytes);
    else
        memset(data, 0, bytes);
}
#define SL_CURSOR_INT(bits)                                                                                  \
    static inline void sl_cursor_put##bits(struct sl_cursor *c, uint##bits##_t v)                            \
    {                                                                                                        \
        sl_cursor_put(c, &v, sizeof v);                                                                      \
    }                                                                                                        \
    static inline uint##bits##_t sl_cursor_get##bits(struct sl_cursor *c)                                    \
    {                                                                                                        \
        uint##bits##_t v;                                                                                    \
        sl_cursor_get(c, &v, sizeof v);                                                                      \
        return v;                                                                                            \
    }
SL_CURSOR_INT(8)
SL_CURSOR_INT(16)
SL_CURSOR_INT(32)
SL_CURSOR_INT(64)

#endif
