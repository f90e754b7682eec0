/* The binary heap of moments.h: a parent is never later than its two children. */
#include "bench/serve/moments.h"
#include <assert.h>
#include <stdlib.h>

static void swap(struct sl_moment *a, struct sl_moment *b)
{
    struct sl_moment other = *a;
    *a = *b;
    *b = other;
}

bool sl_moments_add(struct sl_moment_heap *m, struct sl_moment moment)
{
    if (m->n == m->room) {
        uint32_t more = m->room ? 2 * m->room : 256;
        struct sl_moment *grown = realloc(m->heap, more * sizeof *grown);
        if (!grown)
            return false;
        m->heap = grown;
        m->room = more;
    }
    uint32_t i = m->n++;
    m->heap[i] = moment;
    for (; i > 0 && m->heap[i].at_ns < m->heap[(i - 1) / 2].at_ns; i = (i - 1) / 2)
        swap(&m->heap[i], &m->heap[(i - 1) / 2]);
    return true;
}

uint64_t sl_moments_next(const struct sl_moment_heap *m)
{
    return m->n ? m->heap[0].at_ns : UINT64_MAX;
}

struct sl_moment sl_moments_take(struct sl_moment_heap *m)
{
    assert(m->n > 0);
    struct sl_moment first = m->heap[0];
    m->heap[0] = m->heap[--m->n];
    for (uint32_t i = 0;;) {
        uint32_t least = i;
        for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < m->n; child++)
            if (m->heap[child].at_ns < m->heap[least].at_ns)
                least = child;
        if (least == i)
            return first;
        swap(&m->heap[i], &m->heap[least]);
        i = least;
    }
}

void sl_moments_free(struct sl_moment_heap *m)
{
    free(m->heap);
    *m = (struct sl_moment_heap){0};
}
