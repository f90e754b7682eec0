/* The window of growth.h: sorted as it goes, since it is asked more often than it changes. */
#include "pipeline/decide/growth.h"
#include <string.h>

/* The first place whose length is not below. */
static uint32_t place_of(const struct sl_growth *g, uint32_t n, uint32_t length)
{
    uint32_t from = 0, to = n;
    while (from < to) {
        uint32_t middle = (from + to) / 2;
        if (g->sorted[middle] < length)
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

void sl_growth_add(struct sl_growth *g, uint32_t length)
{
    if (g->n == SL_GROWTH_WINDOW) {
        uint32_t old = place_of(g, g->n, g->lengths[g->next]);
        memmove(&g->sorted[old], &g->sorted[old + 1], (--g->n - old) * sizeof *g->sorted);
    }
    uint32_t at = place_of(g, g->n, length);
    memmove(&g->sorted[at + 1], &g->sorted[at], (g->n++ - at) * sizeof *g->sorted);
    g->sorted[at] = length;
    g->lengths[g->next] = length;
    g->next = (g->next + 1) % SL_GROWTH_WINDOW;
}

uint32_t sl_growth_expect(const struct sl_growth *g, uint32_t n, uint32_t most)
{
    uint32_t guess = g->guess ? g->guess : SL_GROWTH_GUESS;
    uint64_t usual = g->n < SL_GROWTH_LEAST ? guess : g->sorted[g->n * 3 / 4], more = (uint64_t)n + n / 4,
             expected = usual > more ? usual : more;
    if (expected > most)
        expected = most;
    return expected > n ? (uint32_t)expected : n;
}
