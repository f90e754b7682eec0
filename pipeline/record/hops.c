/* Sums up hops (hops.h): whatever the clocks of others say, a sum never goes back, and no single hop can spoil it. */
#include "pipeline/record/hops.h"

void sl_hops_add(struct sl_hops *hops, const struct sl_trace *traces, const int64_t *ahead_us,
                 uint32_t n_stages, uint64_t at_us)
{
    for (uint32_t k = 1; k <= n_stages; k++) {
        const struct sl_trace *from = &traces[k - 1];
        uint64_t left_us = sl_span_time(from->end_us, ahead_us[k - 1]);
        uint64_t here_us = k < n_stages ? sl_span_time(traces[k].recv_us, ahead_us[k]) : at_us;
        if (from->begin_us == SL_GIVEN_UP || left_us == 0 || here_us == 0)
            continue;
        uint64_t us = here_us > left_us ? here_us - left_us : 0;
        if (us > SL_HOP_MOST_US)
            continue;
        hops->to[k].us += us;
        hops->to[k].n++;
    }
}
