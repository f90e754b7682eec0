/* The ring of busy.h. A stage runs one record at a time, in the order of the log, and so are the spans of a request: who is whose
 * is found by walking both once. */
#include "pipeline/record/busy.h"

size_t sl_busy_bytes(uint32_t n_stages, uint32_t room)
{
    return sl_arena_round((size_t)room * n_stages * sizeof(struct sl_busy_time));
}

sl_status sl_busy_init(struct sl_busy *busy, struct sl_arena *arena, uint32_t n_stages, uint32_t room)
{
    *busy = (struct sl_busy){.n_stages = n_stages, .room = room};
    busy->times = sl_arena_take(arena, (size_t)room * n_stages * sizeof *busy->times);
    return busy->times ? SL_OK : SL_E_NOMEM;
}

static struct sl_busy_time *at(const struct sl_busy *busy, uint64_t record, uint32_t stage)
{
    return &busy->times[record % busy->room * busy->n_stages + stage];
}

void sl_busy_add(struct sl_busy *busy, const struct sl_trace *traces, const int64_t *ahead_us)
{
    for (uint32_t k = 0; k < busy->n_stages; k++)
        *at(busy, busy->n, k) = (struct sl_busy_time){sl_span_time(traces[k].begin_us, ahead_us[k]),
                                                      sl_span_time(traces[k].end_us, ahead_us[k])};
    busy->n++;
}

const struct sl_busy_time *sl_busy_last(const struct sl_busy *busy, uint32_t stage)
{
    return at(busy, busy->n - 1, stage);
}

/* The first span of the stage from number i on; n_spans: there is none. */
static uint32_t next_span(const struct sl_timeline *t, uint32_t stage, uint32_t i)
{
    while (i < t->n_spans && t->spans[i].stage != stage)
        i++;
    return i;
}

static uint32_t foreign_of(const struct sl_busy *busy, const struct sl_timeline *t, uint32_t stage,
                           uint64_t until_us, struct sl_foreign *out)
{
    uint64_t grain = (until_us - t->submit_us) / SL_FOREIGN_GRAIN + 1;
    uint32_t n = 0, own = next_span(t, stage, 0);
    for (uint64_t i = busy->n > busy->room ? busy->n - busy->room : 0; i < busy->n; i++) {
        struct sl_busy_time time = *at(busy, i, stage);
        while (own < t->n_spans && t->spans[own].begin_us < time.begin_us)
            own = next_span(t, stage, own + 1);
        if (own < t->n_spans && t->spans[own].begin_us == time.begin_us)
            continue;
        time.begin_us = time.begin_us > t->submit_us ? time.begin_us : t->submit_us;
        time.end_us = time.end_us < until_us ? time.end_us : until_us;
        if (time.begin_us >= time.end_us)
            continue;
        bool joins = n > 0 && time.begin_us < out[n - 1].end_us + grain;
        if (joins && time.end_us > out[n - 1].end_us)
            out[n - 1].end_us = time.end_us;
        if (!joins && n < SL_FOREIGN_MAX) /* clocks that jump may want more */
            out[n++] = (struct sl_foreign){(uint16_t)stage, time.begin_us, time.end_us};
    }
    return n;
}

uint32_t sl_busy_foreign(const struct sl_busy *busy, const struct sl_timeline *timeline,
                         struct sl_foreign *out)
{
    uint64_t until_us = timeline->first_token_us ? timeline->first_token_us : timeline->done_us;
    uint32_t n = 0;
    for (uint32_t k = 0; k < busy->n_stages && until_us > timeline->submit_us; k++)
        n += foreign_of(busy, timeline, k, until_us, out + n);
    return n;
}
