/* Where the time to the first token went (outcome.h), from the spans of a request. The last stage is the one that the first
 * token waits for: before it begins the pipeline fills, then it works or waits for the stages before it.
 *
 * Everything is a difference of the coordinator's times, except the whole, which is ours; what the two disagree about is the wire. Times of
 * other nodes are right to half a round trip (span.h), so each bound is put between its neighbours, and the parts add up exactly. */
#include "bench/serve/drive.h"

static uint64_t between(uint64_t low, uint64_t value, uint64_t high)
{
    return value < low ? low : value > high ? high : value;
}

struct extent {
    uint64_t begin_us, end_us, busy_us, kv_us;
    bool found;
};

static struct extent extent_of(const struct sl_timeline *timeline, uint32_t stage)
{
    struct extent e = {.begin_us = UINT64_MAX};
    for (uint32_t i = 0; i < timeline->n_spans; i++) {
        const struct sl_span *span = &timeline->spans[i];
        e.kv_us = span->kv_acked_us > e.kv_us ? span->kv_acked_us : e.kv_us;
        if (span->stage != stage || span->end_us < span->begin_us)
            continue;
        e.found = true;
        e.begin_us = span->begin_us < e.begin_us ? span->begin_us : e.begin_us;
        e.end_us = span->end_us > e.end_us ? span->end_us : e.end_us;
        e.busy_us += span->end_us - span->begin_us;
    }
    return e;
}

static uint32_t part(uint64_t us)
{
    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

bool sl_split(const struct sl_timeline *timeline, uint64_t sent_ns, uint64_t first_ns,
              uint32_t parts_us[SL_PARTS])
{
    if (timeline->n_stages == 0 || timeline->first_token_us < timeline->submit_us || first_ns < sent_ns)
        return false;
    struct extent first = extent_of(timeline, 0), last = extent_of(timeline, timeline->n_stages - 1);
    if (!first.found || !last.found)
        return false;
    uint64_t whole = (first_ns - sent_ns) / 1000, token = timeline->first_token_us,
             submit = timeline->submit_us;
    if (token - submit > whole) /* clocks of two resolutions: the wire took nothing */
        submit = token - whole;
    uint64_t begins = between(submit, first.begin_us, token), fills = between(begins, last.begin_us, token);
    uint64_t ends = between(fills, last.end_us, token), busy = between(0, last.busy_us, ends - fills);
    parts_us[SL_PART_WIRE] = part(whole - (token - submit));
    parts_us[SL_PART_QUEUE] = part(begins - submit);
    parts_us[SL_PART_FILL] = part(fills - begins);
    parts_us[SL_PART_BUSY] = part(busy);
    parts_us[SL_PART_STALL] = part(ends - fills - busy);
    parts_us[SL_PART_DRAIN] = part(token - ends);
    parts_us[SL_PART_KV] = part(last.kv_us > token ? last.kv_us - token : 0);
    return true;
}
