/* Times of other nodes on the coordinator's clock.
 *
 * The order log runs in a loop, coordinator -> stage 0 -> ... -> last stage -> coordinator, so the offsets of all links add up to
 * zero but for what they are wrong by. That much is shared out evenly among them, as a surveyor closes a traverse: each is wrong
 * by chance, by half a round trip at most, and the last stage would have the errors of all links before it. A sum that is no
 * error of measurement (an offset not yet known, which is 0; a node that was held up, or that lies) would only spoil the good
 * ones, and is left alone. */
#include "pipeline/record/span.h"

enum { CLOSING_MAX_US = 10000 }; /* more than the half round trips of a loop add up to */

/* Sums wrap around, as unsigned numbers do: honest ones are small. */
static int64_t plus(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

void sl_span_offsets(int64_t offsets_us[SL_MAX_STAGES], const struct sl_trace *traces, uint32_t n_stages,
                     int64_t first_offset_us)
{
    int64_t sum = first_offset_us;
    for (uint32_t k = 0; k < n_stages; k++) {
        offsets_us[k] = sum;
        sum = plus(sum, traces[k].next_offset_us);
    }
    if (sum < -CLOSING_MAX_US || sum > CLOSING_MAX_US)
        return;
    for (uint32_t k = 0; k < n_stages; k++) /* k + 1 of the n + 1 links lead to stage k */
        offsets_us[k] = plus(offsets_us[k], -sum * (int64_t)(k + 1) / (int64_t)(n_stages + 1));
}

uint64_t sl_span_time(uint64_t at_us, int64_t offset_us)
{
    if (at_us == 0)
        return 0;
    uint64_t here_us = at_us - (uint64_t)offset_us;
    return here_us <= INT64_MAX ? here_us : 0;
}
