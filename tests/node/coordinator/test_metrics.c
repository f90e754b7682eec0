/* node/coordinator/metrics.c: what is counted of requests, without a pipeline. */
#include "node/coordinator/coordinator_impl.h"
#include "pipeline/decide/admit.h"
#include "tests/check.h"
#include <stdlib.h>

/* A request of n_ids tokens that was told `predicted_us` and has its first token after `real_us`. */
static void first_token(struct sl_coordinator *c, uint32_t n_ids, uint64_t predicted_us, uint64_t real_us)
{
    struct sl_call *call = calloc(1, sizeof *call);
    call->ask.n_ids = n_ids;
    call->submit_us = 1000;
    call->admit_us = 1000;
    call->predicted_us = predicted_us;
    call->texts[0].n_out = 1;
    sl_meter_token(c, call, &call->texts[0], 1000 + real_us);
    sl_meter_token(c, call, &call->texts[0], 1000 + 2 * real_us); /* is no first one */
    free(call);
}

SL_TEST(a_prediction_is_compared_once_with_what_came_by_length_of_the_prompt)
{
    struct sl_coordinator *c = calloc(1, sizeof *c);
    const struct sl_ratios *error = c->now.meter.ttft_error;
    first_token(c, SL_SHORT_TOKENS, 0, 100000); /* nothing was predicted */
    CHECK_INT(error[0].count + error[1].count, 0);
    first_token(c, SL_SHORT_TOKENS, 81000, 100000);      /* 19 % too early */
    first_token(c, SL_SHORT_TOKENS, 119000, 100000);     /* as much too late */
    first_token(c, SL_SHORT_TOKENS + 1, 900000, 100000); /* eight times too late */
    CHECK_INT(error[0].count, 2);
    CHECK_INT(error[1].count, 1);
    CHECK(error[0].sum > 0.379 && error[0].sum < 0.381);
    CHECK_INT(error[0].buckets[5], 0); /* at most 15 % */
    CHECK_INT(error[0].buckets[6], 2); /* 20 % */
    CHECK_INT(error[0].buckets[SL_RATIO_BUCKETS - 1], 2);
    CHECK_INT(error[1].buckets[SL_RATIO_BUCKETS - 1], 0);
    free(c);
}

SL_TEST(a_target_is_met_or_missed_once_by_the_first_token_or_the_end_without_one)
{
    struct sl_coordinator *c = calloc(1, sizeof *c);
    const uint64_t *targets = c->now.meter.targets;
    struct sl_call *call = calloc(1, sizeof *call);
    struct sl_action a = {.kind = SL_ACTION_END};
    call->seq = 1;
    call->submit_us = call->admit_us = 1000;
    call->texts[0].n_out = 1;
    sl_meter_token(c, call, &call->texts[0], 2000); /* it named none */
    call->first_us = 0;
    call->ask.target_us = 5000;
    sl_meter_token(c, call, &call->texts[0], 5000);
    sl_meter_token(c, call, &call->texts[0], 6000); /* a later one */
    sl_meter_ended(c, call, &a, 7000);
    CHECK_INT(targets[true], 1);
    CHECK_INT(targets[false], 0);
    call->first_us = 0;
    sl_meter_token(c, call, &call->texts[0], 5001);
    sl_meter_ended(c, call, &a, 7000);
    CHECK_INT(targets[false], 1);
    call->first_us = 0;
    call->failed = true;
    a.end.finish = SL_FINISH_STOP;
    sl_meter_ended(c, call, &a, 7000); /* without any */
    CHECK_INT(targets[false], 2);
    call->failed = false;
    a.end.finish = SL_FINISH_ABORT;
    sl_meter_ended(c, call, &a, 7000); /* nobody waits for it */
    call->seq = 0;
    sl_meter_ended(c, call, &a, 7000); /* it was refused */
    CHECK_INT(targets[false], 2);
    CHECK_INT(targets[true], 1);
    free(call);
    free(c);
}

SL_TEST(a_request_that_was_not_queued_is_counted_by_what_kept_it_out)
{
    static const struct {
        sl_status status;
        enum sl_refusal refusal;
        enum sl_refused counted;
    } cases[] = {
        {SL_E_EXHAUSTED, SL_REFUSAL_BY_STATUS, SL_REFUSED_QUEUE},
        {SL_E_EXHAUSTED, SL_REFUSAL_TIME, SL_REFUSED_TIME},
        {SL_E_EXHAUSTED, SL_REFUSAL_PROMISE, SL_REFUSED_PROMISE},
        {SL_E_EXHAUSTED, SL_REFUSAL_SHARE, SL_REFUSED_SHARE},
        {SL_E_DEADLINE, SL_REFUSAL_BY_STATUS, SL_REFUSED_DEADLINE},
        {SL_E_UNAVAILABLE, SL_REFUSAL_BY_STATUS, SL_REFUSED_NOT_READY},
        {SL_E_INVALID, SL_REFUSAL_BY_STATUS, SL_REFUSED_REQUEST},
        {SL_E_EXISTS, SL_REFUSAL_BY_STATUS, SL_REFUSED_REQUEST},
    };
    struct sl_coordinator *c = calloc(1, sizeof *c);
    struct sl_call *call = calloc(1, sizeof *call);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sl_action a = {.kind = SL_ACTION_END};
        uint64_t before = c->now.meter.refused[cases[i].counted], all = 0;
        a.end.status = cases[i].status;
        a.end.refusal = cases[i].refusal;
        call->failed = true;
        sl_meter_ended(c, call, &a, 2000);
        CHECK_INT(c->now.meter.refused[cases[i].counted], before + 1);
        for (int k = 0; k < SL_REFUSED_KINDS; k++)
            all += c->now.meter.refused[k];
        CHECK_INT(all, i + 1);
    }
    CHECK_INT(c->now.meter.failed, 0); /* of those that were queued */
    free(call);
    free(c);
}
