/* How an output token is asked for (sl_sampling) and what comes back of it (sl_token_out), and both as bytes: they are
 * parts of the order log's records and of the messages beside it. */
#ifndef SL_PIPELINE_RECORD_TOKEN_H
#define SL_PIPELINE_RECORD_TOKEN_H

#include "base/bytes.h"
#include "base/status.h"

enum { SL_MAX_LOGPROBS = 20, SL_TOKEN_MAX_BYTES = 12 + 8 * SL_MAX_LOGPROBS };

struct sl_sampling {
    float temperature; /* 0: greedy */
    uint32_t top_k;    /* 0: off */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    uint64_t seed;
    int32_t n_logprobs; /* -1: none wanted; 0: of the chosen token; k: and of the k best */
    /* of ids that were seen; sample.h has the formula */
    float presence_penalty, frequency_penalty; /* -2 to 2; 0: off */
    float repetition_penalty;                  /* above 0; 0 and 1: off */
};

static inline bool sl_sampling_repeats(const struct sl_sampling *s) /* the ids of the prompt count */
{
    return s->repetition_penalty != 0 && s->repetition_penalty != 1;
}
static inline bool sl_sampling_counts(const struct sl_sampling *s) /* its own tokens count */
{
    return sl_sampling_repeats(s) || s->presence_penalty != 0 || s->frequency_penalty != 0;
}

struct sl_token_out {
    uint32_t id;
    float logprob;
    uint32_t n_top;
    uint32_t top_ids[SL_MAX_LOGPROBS];
    float top_logprobs[SL_MAX_LOGPROBS];
};

/* SL_E_INVALID with the field's name: NaN, negative temperature, top_p outside (0, 1], min_p outside [0, 1], a penalty outside
 * OpenAI's range, ... */
sl_status sl_sampling_check(const struct sl_sampling *sampling, struct sl_err *err);

/* As bytes. Readers set c->bad past the end; sl_token_get also when a count makes no sense, and returns false. */
void sl_sampling_put(struct sl_cursor *c, const struct sl_sampling *s);
void sl_sampling_get(struct sl_cursor *c, struct sl_sampling *s);
void sl_token_put(struct sl_cursor *c, const struct sl_token_out *token);
bool sl_token_get(struct sl_cursor *c, struct sl_token_out *token);

#endif
