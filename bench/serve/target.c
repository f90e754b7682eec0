/* What both kinds of target share (target_impl.h). */
#include "base/clock.h"
#include "bench/serve/target_impl.h"
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

sl_status sl_target_ready(struct sl_target *target, uint32_t timeout_ms, struct sl_err *err)
{
    return target->ways->ready(target, sl_clock_ns() + (uint64_t)timeout_ms * 1000000, err);
}

const char *sl_target_model(const struct sl_target *target)
{
    return target->model;
}

uint32_t sl_target_vocabulary(const struct sl_target *target)
{
    return target->vocabulary;
}

uint32_t sl_target_context(const struct sl_target *target)
{
    return target->context;
}

bool sl_target_is_ours(const struct sl_target *target)
{
    return target->is_ours;
}

void sl_target_send(struct sl_target *target, uint32_t call, const struct sl_call_ask *ask)
{
    target->ways->send(target, call, ask);
}

void sl_target_cancel(struct sl_target *target, uint32_t call)
{
    target->ways->cancel(target, call);
}

void sl_target_poll(struct sl_target *target, uint64_t until_ns)
{
    target->ways->poll(target, until_ns);
}

void sl_target_close(struct sl_target *target)
{
    if (target)
        target->ways->close(target);
}

void sl_target_fail(struct sl_target *target, uint32_t call, uint64_t at_ns, const char *format, ...)
{
    char sentence[256];
    va_list list;
    va_start(list, format);
    vsnprintf(sentence, sizeof sentence, format, list);
    va_end(list);
    target->config.on_end(target->config.user, call, at_ns,
                          &(struct sl_call_end){.ending = SL_ENDING_FAILED, .sentence = sentence});
}

void sl_target_nap(uint64_t until_ns)
{
    struct timespec time = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}
