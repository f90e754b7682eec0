/* Samplings and tokens as bytes, and what a sampling may be (token.h). */
#include "pipeline/record/token.h"
#include <math.h>

static sl_status check_penalty(const char *field, float value, struct sl_err *err)
{
    if (!(fabsf(value) <= 2))
        return sl_fail(err, SL_E_INVALID, "%s is %g: give a number from -2 to 2; 0 is off", field,
                       (double)value);
    return SL_OK;
}

sl_status sl_sampling_check(const struct sl_sampling *sampling, struct sl_err *err)
{
    if (!isfinite(sampling->temperature) || sampling->temperature < 0)
        return sl_fail(err, SL_E_INVALID, "temperature is %g: give 0 (greedy) or a positive number",
                       (double)sampling->temperature);
    if (!(sampling->top_p > 0 && sampling->top_p <= 1))
        return sl_fail(err, SL_E_INVALID, "top_p is %g: give a number above 0 and up to 1 (off)",
                       (double)sampling->top_p);
    if (!(sampling->min_p >= 0 && sampling->min_p <= 1))
        return sl_fail(err, SL_E_INVALID, "min_p is %g: give a number from 0 (off) to 1",
                       (double)sampling->min_p);
    if (sampling->n_logprobs < -1 || sampling->n_logprobs > SL_MAX_LOGPROBS)
        return sl_fail(err, SL_E_INVALID, "logprobs is %d: give a number from 0 to %d, or leave it out",
                       sampling->n_logprobs, SL_MAX_LOGPROBS);
    SL_TRY(check_penalty("presence_penalty", sampling->presence_penalty, err));
    SL_TRY(check_penalty("frequency_penalty", sampling->frequency_penalty, err));
    if (!isfinite(sampling->repetition_penalty) || sampling->repetition_penalty < 0)
        return sl_fail(err, SL_E_INVALID, "repetition_penalty is %g: give a number above 0; 1 is off",
                       (double)sampling->repetition_penalty);
    return SL_OK;
}

void sl_sampling_put(struct sl_cursor *c, const struct sl_sampling *s)
{
    sl_cursor_put(c, &s->temperature, 4);
    sl_cursor_put32(c, s->top_k);
    sl_cursor_put(c, &s->top_p, 4);
    sl_cursor_put(c, &s->min_p, 4);
    sl_cursor_put64(c, s->seed);
    sl_cursor_put32(c, (uint32_t)s->n_logprobs);
    sl_cursor_put(c, &s->presence_penalty, 4);
    sl_cursor_put(c, &s->frequency_penalty, 4);
    sl_cursor_put(c, &s->repetition_penalty, 4);
}

void sl_sampling_get(struct sl_cursor *c, struct sl_sampling *s)
{
    sl_cursor_get(c, &s->temperature, 4);
    s->top_k = sl_cursor_get32(c);
    sl_cursor_get(c, &s->top_p, 4);
    sl_cursor_get(c, &s->min_p, 4);
    s->seed = sl_cursor_get64(c);
    s->n_logprobs = (int32_t)sl_cursor_get32(c);
    sl_cursor_get(c, &s->presence_penalty, 4);
    sl_cursor_get(c, &s->frequency_penalty, 4);
    sl_cursor_get(c, &s->repetition_penalty, 4);
}

void sl_token_put(struct sl_cursor *c, const struct sl_token_out *token)
{
    sl_cursor_put32(c, token->id);
    sl_cursor_put(c, &token->logprob, 4);
    sl_cursor_put32(c, token->n_top);
    for (uint32_t i = 0; i < token->n_top; i++) {
        sl_cursor_put32(c, token->top_ids[i]);
        sl_cursor_put(c, &token->top_logprobs[i], 4);
    }
}

bool sl_token_get(struct sl_cursor *c, struct sl_token_out *token)
{
    token->id = sl_cursor_get32(c);
    sl_cursor_get(c, &token->logprob, 4);
    token->n_top = sl_cursor_get32(c);
    if (token->n_top > SL_MAX_LOGPROBS) {
        token->n_top = 0;
        c->bad = true;
    }
    for (uint32_t i = 0; i < token->n_top; i++) {
        token->top_ids[i] = sl_cursor_get32(c);
        sl_cursor_get(c, &token->top_logprobs[i], 4);
    }
    return !c->bad;
}
